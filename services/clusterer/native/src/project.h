// Short sketches: rows projected onto the few directions in which the data vary most, with the length of the rest.
//
// Let B (dims, p) be any matrix with |B|_2 <= 1, here one of small integers times a scale. M = I - B B' is positive
// semidefinite, so Cauchy-Schwarz holds in its seminorm: for the sketch zq of a row and a centroid w,
//     |zq.w - (B'zq).(B'w)| = |zq' M w| <= sqrt(|zq|^2 - |B'zq|^2) sqrt(|w|^2 - |B'w|^2),
// and with |(z - zq).w| <= |z - zq| |w| that bounds z.w by products of p numbers. B need not be orthogonal.
#pragma once
#include <vector>

#include "product.h"
#include "sketch.h"

namespace shoal {

struct Projection {
  const uint8_t* packed;  // blocks of columns of B, as product.h packs centroids
  const float* scale;     // (p,)
  const float* zeros;     // (p,)
  const float* signs;     // (p,) of the rotation of the projected rows
  int64_t dims, p;        // multiples of 64
};

// Projects sketches row by row: work for one thread.
class Projector {
 public:
  explicit Projector(const Projection& b)
      : b_(b), panel_(kPanel * b.dims), dots_(kPanel * b.p), y_(b.p), z_(b.p) {}

  // Up to kPanel rows of sketches q to short ones.
  void panel(const int8_t* q, const RowStats* stats, int rows, int8_t* short_q, RowStats* short_stats) {
    pack_panel(q, rows, b_.dims, panel_.data());
    multiply(panel_.data(), b_.packed, b_.dims, int(b_.p / kBlock), dots_.data());
    for (int r = 0; r < rows; ++r) {
      const RowStats& row = stats[r];
      const int32_t shift = kOffset * row.sum;
      for (int64_t j = 0; j < b_.p; ++j) y_[j] = float(dots_[r * b_.p + j] - shift) * (b_.scale[j] * row.scale);
      RowStats s = sketch_row(y_.data(), b_.p, b_.zeros, b_.signs, b_.p, z_.data(), short_q + r * b_.p);
      const double whole = double(row.scale) * row.scale * squares(q + r * b_.dims);
      s.rest = float(std::sqrt(std::max(0.0, whole - s.squares) + kRounding * whole));
      s.error += row.error + s.norm * kRounding;
      short_stats[r] = s;
    }
  }

 private:
  int32_t squares(const int8_t* q) const {
    int32_t total = 0;
    for (int64_t j = 0; j < b_.dims; ++j) total += int32_t(q[j]) * q[j];
    return total;
  }

  const Projection b_;
  std::vector<int8_t> panel_;
  std::vector<int32_t> dots_;
  std::vector<float> y_, z_;
};

}  // namespace shoal
