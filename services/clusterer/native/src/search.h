// Bounds of the cosines of sketched rows to one vector, from 8-bit products.
#pragma once
#include <algorithm>
#include <cmath>

#include "simd.h"
#include "sketch.h"

namespace shoal {

// A vector of length 1, rotated as the rows are: coarse_step * coarse + fine_step * fine + r with |r| <= error. The
// bytes have kOffset added. Two digits cost no more than one: the rows come from memory, and these do not.
struct Sought {
  const uint8_t *coarse, *fine;
  double coarse_step, fine_step, error;
};

// Lengths between which float32 neither overflows nor loses digits in the sketch of a row. For others the bounds are
// those of any cosine.
constexpr double kShortest = 1e-15, kLongest = 1e15;
// Rounding of this computation and of its results to float32.
constexpr double kCosineRounding = 1e-6;

// The cosine of a row lies between low and high. Its sketch is centred about 0.
inline void cosine_bounds(const int8_t* q, const RowStats& row, int64_t dims, const Sought& y, float& low,
                          float& high) {
  low = -1, high = 1;
  const double norm = std::sqrt(row.squares);
  if (!(norm >= kShortest && norm <= kLongest)) return;
  const double offset = double(kOffset) * row.sum;
  const double coarse = y.coarse_step * (dot(y.coarse, q, dims) - offset);
  const double fine = y.fine_step * (dot(y.fine, q, dims) - offset);
  const double middle = row.scale * (coarse + fine) / norm;
  // z = s q + r and y = s' q' + r': the products left out are r y and s q r', and |s q| <= |z| + |r|.
  const double rest = row.error / norm, slack = rest + (1 + rest) * y.error + kCosineRounding;
  low = float(std::max(-1.0, middle - slack));
  high = float(std::min(1.0, middle + slack));
}

}  // namespace shoal
