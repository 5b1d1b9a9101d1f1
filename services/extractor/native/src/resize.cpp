// Resizes rows of 8-bit RGB pixels to Pillow's own bits, and computes only the pixels that a crop keeps.
//
// Pillow resizes in two passes, first across, then down. Each output value is a weighted sum of input values: weights
// are computed in float64, divided by their sum and rounded to 22 bits after the point; the sum is rounded to the
// nearest integer and cut to 0..255. All of it is repeated here to the last bit, the order of the float64 operations
// included, so the compiler may not contract them (-ffp-contract=off).
//
// Between the passes, a pixel takes 4 bytes, the last one without meaning, and rows are padded to whole vectors.
//
// Reference: https://pillow.readthedocs.io/en/stable/handbook/concepts.html#filters

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

namespace {

enum Outcome : int { DONE = 0, NO_MEMORY = 1, WRONG = 2 };
enum Filter : int { BILINEAR = 0, BICUBIC = 1, LANCZOS = 2 };

constexpr int BITS = 22;                     // After the point of a weight.
constexpr int32_t HALF = 1 << (BITS - 1);    // Makes the shift of a sum a rounding.
constexpr int LOW_BITS = 12;                 // A weight is a high and a low part, 16 bits each.
constexpr int64_t PADDING = 64;              // Bytes that a vector may read past a row's end.

double sinc(double x) {
  if (x == 0.0) return 1.0;
  x *= M_PI;
  return std::sin(x) / x;
}

double weight_at(int filter, double x) {
  if (filter == LANCZOS) return -3.0 <= x && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0;
  x = std::fabs(x);
  if (filter == BILINEAR) return x < 1.0 ? 1.0 - x : 0.0;
  constexpr double slope = -0.5;
  if (x < 1.0) return ((slope + 2.0) * x - (slope + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * slope;
  return 0.0;
}

// The inputs of one output, and where its weights begin.
struct Window {
  int64_t first, count, weights;
};

struct Weights {
  std::vector<Window> windows;
  std::vector<int32_t> values;  // Each window's are followed by zeros up to a multiple of 4.
};

// The weights of the outputs [start, start + kept) when `in` values become `out`.
Weights weights_of(int filter, int64_t in, int64_t out, int64_t start, int64_t kept) {
  const double scale = double(float(in)) / double(out);
  const double widened = std::max(scale, 1.0);
  const double reach = (filter == BILINEAR ? 1.0 : filter == BICUBIC ? 2.0 : 3.0) * widened;
  const double narrow = 1.0 / widened;
  Weights made;
  made.windows.reserve(kept);
  std::vector<double> exact;
  for (int64_t at = start; at < start + kept; ++at) {
    const double centre = (at + 0.5) * scale;
    const int64_t first = std::max<int64_t>(int64_t(centre - reach + 0.5), 0);
    const int64_t count = std::min<int64_t>(int64_t(centre + reach + 0.5), in) - first;
    exact.resize(std::max<int64_t>(count, 0));
    double total = 0.0;
    for (int64_t i = 0; i < count; ++i) total += exact[i] = weight_at(filter, (i + first - centre + 0.5) * narrow);
    made.windows.push_back({first, count, int64_t(made.values.size())});
    for (double weight : exact) {
      if (total != 0.0) weight /= total;
      made.values.push_back(int32_t((weight < 0 ? -0.5 : 0.5) + weight * (1 << BITS)));
    }
    made.values.resize((made.values.size() + 3) / 4 * 4);
  }
  return made;
}

uint8_t rounded(int32_t sum) { return uint8_t(std::clamp(sum >> BITS, 0, 255)); }

// ---- Across: one row of packed RGB to one of padded pixels.

void across_plain(const uint8_t* row, const Weights& weights, uint8_t* out) {
  for (const Window& window : weights.windows) {
    const uint8_t* pixel = row + 3 * window.first;
    const int32_t* weight = weights.values.data() + window.weights;
    uint32_t sums[3] = {HALF, HALF, HALF};
    for (int64_t i = 0; i < window.count; ++i, pixel += 3)
      for (int c = 0; c < 3; ++c) sums[c] += uint32_t(pixel[c] * weight[i]);
    for (int c = 0; c < 3; ++c) out[c] = rounded(int32_t(sums[c]));
    out[3] = 0;
    out += 4;
  }
}

#define WIDE __attribute__((target("avx2")))

// Weights as pairs of 16 bits, for products of pairs: of each 4 the low parts, then the high ones.
std::vector<int32_t> paired(const Weights& weights) {
  std::vector<int32_t> pairs(weights.values.size());
  const auto pair = [](int32_t a, int32_t b) { return int32_t((uint32_t(a) & 0xffff) | (uint32_t(b) << 16)); };
  for (size_t at = 0; at < pairs.size(); at += 4)
    for (size_t half = 0; half < 2; ++half) {
      const int32_t a = weights.values[at + 2 * half], b = weights.values[at + 2 * half + 1];
      constexpr int32_t low = (1 << LOW_BITS) - 1;
      pairs[at + 2 * half] = pair(a & low, b & low);
      pairs[at + 2 * half + 1] = pair(a >> LOW_BITS, b >> LOW_BITS);
    }
  return pairs;
}

// Two rows at once, one in each half of the vectors. Both must be readable `PADDING` bytes past their end.
WIDE void across_wide(const uint8_t* a, const uint8_t* b, const Weights& weights, const int32_t* pairs, uint8_t* out_a,
                      uint8_t* out_b) {
  // Of four pixels the first two, and the last two: each channel of the one beside that of the other, in 16 bits.
  const __m256i early = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1));
  const __m256i late = _mm256_broadcastsi128_si256(_mm_setr_epi8(6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1));
  const __m256i half = _mm256_set1_epi32(HALF);
  for (const Window& window : weights.windows) {
    const int32_t* weight = pairs + window.weights;
    const int64_t begin = 3 * window.first;
    __m256i low = half, high = _mm256_setzero_si256();
    for (int64_t i = 0; i < window.count; i += 4, weight += 4) {
      const __m256i pixels = _mm256_inserti128_si256(
          _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(a + begin + 3 * i))),
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(b + begin + 3 * i)), 1);
      const __m256i first = _mm256_shuffle_epi8(pixels, early), second = _mm256_shuffle_epi8(pixels, late);
      low = _mm256_add_epi32(low, _mm256_madd_epi16(first, _mm256_set1_epi32(weight[0])));
      high = _mm256_add_epi32(high, _mm256_madd_epi16(first, _mm256_set1_epi32(weight[1])));
      low = _mm256_add_epi32(low, _mm256_madd_epi16(second, _mm256_set1_epi32(weight[2])));
      high = _mm256_add_epi32(high, _mm256_madd_epi16(second, _mm256_set1_epi32(weight[3])));
    }
    __m256i sum = _mm256_srai_epi32(_mm256_add_epi32(low, _mm256_slli_epi32(high, LOW_BITS)), BITS);
    sum = _mm256_packs_epi32(sum, sum);
    sum = _mm256_packus_epi16(sum, sum);
    const int32_t pixel_a = _mm256_extract_epi32(sum, 0), pixel_b = _mm256_extract_epi32(sum, 4);
    std::memcpy(out_a, &pixel_a, 4);
    std::memcpy(out_b, &pixel_b, 4);
    out_a += 4, out_b += 4;
  }
}

WIDE void all_across(const uint8_t* rows, int64_t count, int64_t width, const Weights& weights, uint8_t* out,
                     int64_t out_stride) {
  const std::vector<int32_t> pairs = paired(weights);
  const int64_t stride = 3 * width, size = count * stride;
  std::vector<uint8_t> copies(2 * (stride + PADDING));
  for (int64_t y = 0; y < count; y += 2) {
    const int64_t other = std::min(y + 1, count - 1);
    const uint8_t *a = rows + y * stride, *b = rows + other * stride;
    if ((other + 1) * stride + PADDING > size) {  // The last rows: nothing may be read behind them.
      std::memcpy(copies.data(), a, stride);
      std::memcpy(copies.data() + stride + PADDING, b, stride);
      a = copies.data(), b = a + stride + PADDING;
    }
    across_wide(a, b, weights, pairs.data(), out + y * out_stride, out + other * out_stride);
  }
}

// ---- Down: one output row of packed RGB from rows of padded pixels.

void down_plain(const uint8_t* first, int64_t stride, const int32_t* weight, int64_t count, int64_t width, uint8_t* out) {
  for (int64_t x = 0; x < width; ++x, out += 3)
    for (int c = 0; c < 3; ++c) {
      uint32_t sum = HALF;
      for (int64_t i = 0; i < count; ++i) sum += uint32_t(first[i * stride + 4 * x + c] * weight[i]);
      out[c] = rounded(int32_t(sum));
    }
}

// Eight pixels at once, up to the row's padding: `out` must be writable 16 bytes past its end.
WIDE void down_wide(const uint8_t* first, int64_t stride, const int32_t* weight, int64_t count, uint8_t* out) {
  const __m256i half = _mm256_set1_epi32(HALF);
  const __m128i packed = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
  for (int64_t at = 0; at < stride; at += 32, out += 24) {
    __m256i sums[4] = {half, half, half, half};
    const uint8_t* row = first + at;
    for (int64_t i = 0; i < count; ++i, row += stride) {
      const __m256i factor = _mm256_set1_epi32(weight[i]);
      for (int part = 0; part < 4; ++part) {
        const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(row + 8 * part));
        sums[part] = _mm256_add_epi32(sums[part], _mm256_mullo_epi32(_mm256_cvtepu8_epi32(eight), factor));
      }
    }
    for (__m256i& sum : sums) sum = _mm256_srai_epi32(sum, BITS);
    for (int part = 0; part < 2; ++part) {
      // Packing keeps to the halves of vectors, so that the pixels come out as 0 2 1 3.
      const __m256i wide = _mm256_packs_epi32(sums[2 * part], sums[2 * part + 1]);
      const __m128i four = _mm_packus_epi16(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
      const __m128i ordered = _mm_shuffle_epi32(four, _MM_SHUFFLE(3, 1, 2, 0));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 12 * part), _mm_shuffle_epi8(ordered, packed));
    }
  }
}

WIDE void all_down(const uint8_t* rows, int64_t first, int64_t stride, const Weights& weights, int64_t width,
                   uint8_t* out) {
  std::vector<uint8_t> row(stride / 4 * 3 + PADDING);
  for (const Window& window : weights.windows) {
    const int32_t* weight = weights.values.data() + window.weights;
    down_wide(rows + (window.first - first) * stride, stride, weight, window.count, row.data());
    std::memcpy(out, row.data(), 3 * width);
    out += 3 * width;
  }
}

template <typename Work>
int outcome_of(Work work) {
  try {
    work();
  } catch (const std::bad_alloc&) {
    return NO_MEMORY;
  } catch (...) {
    return WRONG;
  }
  return DONE;
}

}  // namespace

extern "C" {

// Whether the processor has AVX2.
int shoal_resize_wide() { return __builtin_cpu_supports("avx2") ? 1 : 0; }

// The first of the `in` rows that the output rows [start, start + kept) of `out` need, and how many.
int shoal_resize_needed(int filter, int64_t in, int64_t out, int64_t start, int64_t kept, int64_t* needed) {
  return outcome_of([&] {
    const Weights weights = weights_of(filter, in, out, start, kept);
    const Window& last = weights.windows.back();
    needed[0] = weights.windows.front().first;
    needed[1] = last.first + last.count - needed[0];
  });
}

// `rows`: (count, width, 3), to the columns [start, start + kept) of `out` columns: (count, stride / 4, 4).
int shoal_resize_across(int wide, int filter, const uint8_t* rows, int64_t count, int64_t width, int64_t out,
                        int64_t start, int64_t kept, uint8_t* result, int64_t stride) {
  return outcome_of([&] {
    const Weights weights = weights_of(filter, width, out, start, kept);
    if (wide) return all_across(rows, count, width, weights, result, stride);
    for (int64_t y = 0; y < count; ++y) across_plain(rows + y * 3 * width, weights, result + y * stride);
  });
}

// `rows`: what `shoal_resize_across` made of the needed ones of `in` rows, from the row `first` on, to the rows
// [start, start + kept) of `out` rows: (kept, width, 3). `stride` is a multiple of 32.
int shoal_resize_down(int wide, int filter, const uint8_t* rows, int64_t first, int64_t stride, int64_t width, int64_t in,
                      int64_t out, int64_t start, int64_t kept, uint8_t* result) {
  return outcome_of([&] {
    const Weights weights = weights_of(filter, in, out, start, kept);
    if (wide) return all_down(rows, first, stride, weights, width, result);
    for (const Window& window : weights.windows) {
      const int32_t* weight = weights.values.data() + window.weights;
      down_plain(rows + (window.first - first) * stride, stride, weight, window.count, width, result);
      result += 3 * width;
    }
  });
}

}  // extern "C"
