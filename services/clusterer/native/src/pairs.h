// The similarity of two rows by its definition (../../neighbours/similarity.py), and the nearest rows so far.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

namespace shoal {

// Sum of the products of two rows in 32 lanes. A product of two float32 values is exact in float64, so a fused
// multiply-add changes no bit.
inline double lane_product(const float* x, const float* y, int64_t d) {
  constexpr int kLaneSums = 32;
  typedef double vwide __attribute__((vector_size(64)));
  typedef float vnarrow __attribute__((vector_size(32)));
  vwide s[kLaneSums / 8] = {};
  int64_t j = 0;
  for (; j + kLaneSums <= d; j += kLaneSums)
    for (int u = 0; u < kLaneSums / 8; ++u) {
      vnarrow a, b;
      std::memcpy(&a, x + j + 8 * u, 32);
      std::memcpy(&b, y + j + 8 * u, 32);
      s[u] += __builtin_convertvector(a, vwide) * __builtin_convertvector(b, vwide);
    }
  double lanes[kLaneSums];
  std::memcpy(lanes, s, sizeof(lanes));
  for (int l = 0; j < d; ++j, ++l) lanes[l] += double(x[j]) * y[j];
  for (int half = kLaneSums / 2; half; half /= 2)
    for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  return lanes[0];
}

inline float similarity(double product, double x_length, double y_length) {
  const double both = x_length * y_length;
  return both > 0 ? float(std::clamp(product / both, -1.0, 1.0)) : 0.0f;
}

// Adds row `id` to the k best of a row, by descending similarity, then ascending id; a row that is there already stays.
inline void add_best(int64_t* ids, float* similarities, int64_t k, int64_t id, float similarity) {
  int64_t at = k;
  while (at && (similarity > similarities[at - 1] || (similarity == similarities[at - 1] && id < ids[at - 1]))) --at;
  if (at == k || (at && ids[at - 1] == id)) return;
  for (int64_t i = k - 1; i > at; --i) ids[i] = ids[i - 1], similarities[i] = similarities[i - 1];
  ids[at] = id;
  similarities[at] = similarity;
}

}  // namespace shoal
