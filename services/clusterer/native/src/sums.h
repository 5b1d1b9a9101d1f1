// Sums of the rows of each cluster, as integers: exact, so independent of the order, of the number of threads, and of how
// rows move between clusters.
#pragma once
#include "simd.h"

namespace shoal {

// sums += sign * x * unit, rounded to integers; unit is a power of two.
template <class T>
void add_row(const T* x, int64_t d, double unit, int64_t sign, int64_t* sums) {
  for (int64_t j = 0; j < d; ++j) sums[j] += sign * int64_t(double(scalar(x + j)) * unit);
}

#if defined(__AVX512DQ__)
inline void add_row(const float* x, int64_t d, double unit, int64_t sign, int64_t* sums) {
  const __m256 factor = _mm256_set1_ps(float(unit));
  int64_t j = 0;
  for (; j + 8 <= d; j += 8) {
    const __m512i v = _mm512_cvttps_epi64(_mm256_mul_ps(_mm256_loadu_ps(x + j), factor));
    const __m512i s = _mm512_loadu_si512(sums + j);
    _mm512_storeu_si512(sums + j, sign > 0 ? _mm512_add_epi64(s, v) : _mm512_sub_epi64(s, v));
  }
  for (; j < d; ++j) sums[j] += sign * int64_t(x[j] * float(unit));
}
#endif

}  // namespace shoal
