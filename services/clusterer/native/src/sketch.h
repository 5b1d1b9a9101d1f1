// The sketch of a row: centred, rotated, and rounded to 8 bits, with a proven bound on the rounding error.
#pragma once
#include <algorithm>
#include <cmath>

#include "simd.h"

namespace shoal {

// Of one row x of n: its centred and rotated form is z = scale * q + r with |r| <= error and |z| <= norm.
struct RowStats {
  float scale, error, norm;
  float rest;       // of a short sketch: length of its residual (project.h); otherwise 0
  int32_t sum;      // of q
  float peak;       // largest |x|
  double squares;   // |x - mean|^2
};

// Relative rounding of centring, rotation and the norms in float32: 24 butterfly levels of two windows, 2^-24 each, and
// a margin; all bounds below are inflated by it.
constexpr float kRounding = 4e-6f;

// Walsh-Hadamard transform, scaled to be orthogonal, of a power of two of coordinates (at least kFloats).
inline void hadamard(float* z, int64_t size) {
  typedef int32_t vindex __attribute__((vector_size(4 * kFloats)));
  vindex lane;
  for (int i = 0; i < kFloats; ++i) lane[i] = i;
  const float scale = 1.0f / std::sqrt(float(size));
  for (int64_t j = 0; j < size; j += kFloats) {
    vfloat v = load(z + j) * scale;
    for (int h = 1; h < kFloats; h *= 2) {
      const vindex high = (lane & h) != 0;  // -1 where the lane is the lower half of a butterfly
      const vfloat sign = __builtin_convertvector(2 * high + 1, vfloat);
      v = __builtin_shuffle(v, lane ^ h) + sign * v;
    }
    store(z + j, v);
  }
  for (int64_t h = kFloats; h < size; h *= 2)
    for (int64_t i = 0; i < size; i += 2 * h)
      for (int64_t j = i; j < i + h; j += kFloats) {
        const vfloat a = load(z + j), b = load(z + j + h);
        store(z + j, a + b);
        store(z + j + h, a - b);
      }
}

// Spreads the length of z evenly over its coordinates, whatever the data, so that one step size fits them all: random
// signs, then Hadamard over the first and the last 2^m of them. Lengths and inner products are preserved.
inline void rotate(float* z, int64_t dims, const float* signs) {
  int64_t window = 64;
  while (2 * window <= dims) window *= 2;
  for (int64_t j = 0; j < dims; j += kFloats) store(z + j, load(z + j) * load(signs + j));
  hadamard(z, window);
  if (window < dims) hadamard(z + dims - window, window);
}

// Rounds z (dims floats) to q; fills all of the row but peak and squares, given its norm.
inline void quantise(float* z, int64_t dims, int8_t* q, RowStats& row) {
  vfloat peaks = {};
  for (int64_t j = 0; j < dims; j += kFloats) {
    const vfloat v = load(z + j);
    peaks = greater(peaks, greater(v, -v));
  }
  float peak = 0;
  for (int i = 0; i < kFloats; ++i) peak = std::max(peak, peaks[i]);
  const float step = peak / kMax, inverse = step > 1e-30f ? 1 / step : 0;
  row.scale = inverse > 0 ? step : 0;
  vfloat residue = {};
  for (int64_t j = 0; j < dims; j += kFloats) {
    constexpr float integers = 12582912.0f;  // 1.5 * 2^23: adding it leaves no room for a fraction
    const vfloat v = load(z + j), rounded = (v * inverse + integers) - integers, rest = v - rounded * row.scale;
    store(z + j, rounded);
    residue += rest * rest;
  }
  row.sum = 0;
  for (int64_t j = 0; j < dims; ++j) {
    const int32_t value = int32_t(z[j]);
    q[j] = int8_t(value);
    row.sum += value;
  }
  row.error = std::sqrt(sum(residue)) * (1 + 1e-3f) + row.norm * kRounding;
  row.rest = 0;
}

// Sketches x (d values) into q (dims >= d bytes, a multiple of 64); z is scratch of dims floats.
template <class T>
RowStats sketch_row(const T* x, int64_t d, const float* mean, const float* signs, int64_t dims, float* z, int8_t* q) {
  typedef double vwide __attribute__((vector_size(8 * kFloats)));
  RowStats row{};
  vfloat peaks = {};
  vwide squares = {};
  int64_t j = 0;
  for (; j + kFloats <= d; j += kFloats) {
    const vfloat raw = load(x + j), middle = load(mean + j);
    peaks = greater(peaks, greater(raw, -raw));
    store(z + j, raw - middle);
    const vwide exact = __builtin_convertvector(raw, vwide) - __builtin_convertvector(middle, vwide);
    squares += exact * exact;
  }
  for (int i = 0; i < kFloats; ++i) row.peak = std::max(row.peak, peaks[i]), row.squares += squares[i];
  for (; j < d; ++j) {
    const float raw = scalar(x + j);
    const double exact = double(raw) - mean[j];
    row.peak = std::max(row.peak, std::fabs(raw));
    row.squares += exact * exact;
    z[j] = raw - mean[j];
  }
  for (; j < dims; ++j) z[j] = 0;
  rotate(z, dims, signs);
  row.norm = float(std::sqrt(row.squares)) * (1 + kRounding);
  quantise(z, dims, q, row);
  return row;
}

}  // namespace shoal
