// The differences between processors: vector width and the 8-bit dot product. The rest is plain C++ over these.
//
// The library is built once per instruction set (../build.py) and Python loads the best one that the processor runs:
// no dispatch here, and no function of one build can be linked into another.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace shoal {

#if defined(__AVX512F__)
constexpr int kFloats = 16;
using vfloat = __m512;
inline vfloat load(const float* p) { return _mm512_loadu_ps(p); }
inline vfloat load(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
inline void store(float* p, vfloat v) { _mm512_storeu_ps(p, v); }
inline float sum(vfloat v) { return _mm512_reduce_add_ps(v); }
// Integers minus `shift`, which is subtracted before they are rounded to floats.
inline vfloat load_less(const int32_t* p, int32_t shift) {
  return _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_loadu_si512(p), _mm512_set1_epi32(shift)));
}
inline vfloat lesser(vfloat a, vfloat b) { return _mm512_min_ps(a, b); }
inline vfloat greater(vfloat a, vfloat b) { return _mm512_max_ps(a, b); }
// Bits of those of 16 values that are at most `limit`.
inline uint32_t at_most(const float* p, float limit) {
  return _mm512_cmp_ps_mask(load(p), _mm512_set1_ps(limit), _CMP_LE_OQ);
}
constexpr int kDoubles = 8;
using vdouble = __m512d;
inline vdouble load_doubles(const double* p) { return _mm512_loadu_pd(p); }
inline vdouble load_doubles(const float* p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }
inline vdouble load_doubles(const uint16_t* p) {
  return _mm512_cvtps_pd(_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)));
}
inline vdouble repeat(const double* p) { return _mm512_set1_pd(*p); }
inline void store(double* p, vdouble v) { _mm512_storeu_pd(p, v); }
#else
constexpr int kFloats = 8;
using vfloat = __m256;
inline vfloat load(const float* p) { return _mm256_loadu_ps(p); }
inline vfloat load(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
inline void store(float* p, vfloat v) { _mm256_storeu_ps(p, v); }
inline float sum(vfloat v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
inline vfloat load_less(const int32_t* p, int32_t shift) {
  return _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_loadu_si256((const __m256i*)p), _mm256_set1_epi32(shift)));
}
inline vfloat lesser(vfloat a, vfloat b) { return _mm256_min_ps(a, b); }
inline vfloat greater(vfloat a, vfloat b) { return _mm256_max_ps(a, b); }
inline uint32_t at_most(const float* p, float limit) {
  const vfloat l = _mm256_set1_ps(limit);
  return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(load(p), l, _CMP_LE_OQ))) |
         uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(load(p + 8), l, _CMP_LE_OQ))) << 8;
}
constexpr int kDoubles = 4;
using vdouble = __m256d;
inline vdouble load_doubles(const double* p) { return _mm256_loadu_pd(p); }
inline vdouble load_doubles(const float* p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }
inline vdouble load_doubles(const uint16_t* p) {
  return _mm256_cvtps_pd(_mm_cvtph_ps(_mm_loadl_epi64((const __m128i*)p)));
}
inline vdouble repeat(const double* p) { return _mm256_broadcast_sd(p); }
inline void store(double* p, vdouble v) { _mm256_storeu_pd(p, v); }
#endif

// Prefetches `bytes` of memory. Rows and centroids lie far apart: without it, each read waits for the previous one.
inline void fetch(const void* p, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char*)p + i);
}

inline float scalar(const float* p) { return *p; }
inline float scalar(const uint16_t* p) { return _cvtsh_ss(*p); }

#if defined(__AVX512VNNI__)
constexpr int kLanes = 16;
using vint = __m512i;
inline vint load_bytes(const void* p) { return _mm512_loadu_si512(p); }
inline vint broadcast(int32_t word) { return _mm512_set1_epi32(word); }
inline vint zero() { return _mm512_setzero_si512(); }
inline void store(int32_t* p, vint v) { _mm512_storeu_si512(p, v); }
inline int32_t sum(vint v) { return _mm512_reduce_add_epi32(v); }
#else
constexpr int kLanes = 8;
using vint = __m256i;
inline vint load_bytes(const void* p) { return _mm256_loadu_si256((const __m256i*)p); }
inline vint broadcast(int32_t word) { return _mm256_set1_epi32(word); }
inline vint zero() { return _mm256_setzero_si256(); }
inline void store(int32_t* p, vint v) { _mm256_storeu_si256((__m256i*)p, v); }
inline int32_t sum(vint v) {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}
#endif

// dot4(acc, u, s): every 32-bit lane of acc gains the dot product of four unsigned bytes of u with four signed ones of s.
// kMax is the largest magnitude of a quantised coordinate with which it never saturates.
#if defined(__AVX512VNNI__)
constexpr int kMax = 127;
inline vint dot4(vint acc, vint u, vint s) { return _mm512_dpbusd_epi32(acc, u, s); }
#elif defined(__AVXVNNI__)
constexpr int kMax = 127;
inline vint dot4(vint acc, vint u, vint s) { return _mm256_dpbusd_avx_epi32(acc, u, s); }
#else
constexpr int kMax = 63;  // vpmaddubsw adds two products into 16 bits
inline vint dot4(vint acc, vint u, vint s) {
  return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(u, s), _mm256_set1_epi16(1)));
}
#endif
constexpr int kOffset = kMax + 1;  // added to a signed byte makes it unsigned

// Dot product of unsigned and signed bytes; dims is a multiple of 64.
inline int32_t dot(const uint8_t* u, const int8_t* s, int64_t dims) {
  vint even = zero(), odd = zero();
  for (int64_t p = 0; p < dims; p += 64) {
#if defined(__AVX512VNNI__)
    (p & 64 ? odd : even) = dot4(p & 64 ? odd : even, load_bytes(u + p), load_bytes(s + p));
#else
    even = dot4(even, load_bytes(u + p), load_bytes(s + p));
    odd = dot4(odd, load_bytes(u + p + 32), load_bytes(s + p + 32));
#endif
  }
  return sum(even) + sum(odd);
}

}  // namespace shoal
