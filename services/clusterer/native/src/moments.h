// Sums of rows and of their outer products in float64, the input of PCA.
//
// The second is the product of the data with themselves, which BLAS computes for float64 rows in memory. Here rows
// are converted to float64 on the way into the cache, a few at a time, and every core has its own tiles of the result:
// no two add to the same one, and each tile adds the rows in their order, for any number of cores.
#pragma once
#include <algorithm>
#include <cstdlib>
#include <memory>

#include "parallel.h"
#include "simd.h"

namespace shoal {

// A tile of the result is kAcross times three vectors: its sums fill the registers.
constexpr int kAcross = kDoubles == 8 ? 8 : 4;
constexpr int64_t kStrip = 3 * kDoubles;  // columns of the data that are packed side by side
constexpr int64_t kDepth = 256;           // rows multiplied together: a strip of them stays in the first cache
constexpr int64_t kStrips = 8;            // strips of a task: they stay in the second one
constexpr int64_t kPackedStrips = 8;        // strips packed by one thread at once: neighbours share pages of the data

inline int64_t moments_width(int64_t d) { return (d + kStrip - 1) / kStrip * kStrip; }

struct Moments {
  int64_t d;            // columns
  const double* shift;  // (d,), taken from every row first
  double* sums;         // (d,)
  double* second;       // (width, width): [j][i] for i <= j, and some others; width = moments_width(d)
};

// Packs the columns of one strip of `depth` rows, those beyond the last as zeros, and adds them to the sums.
template <class T>
void pack_strip(const T* x, int64_t depth, int64_t first, const Moments& m, double* packed) {
  const int64_t columns = std::min(kStrip, m.d - first);
  double* const sums = m.sums + first;
  const double* const shift = m.shift + first;
  x += first;
  if (columns == kStrip) {
    vdouble less[3], total[3];
    for (int v = 0; v < 3; ++v) {
      less[v] = load_doubles(shift + v * kDoubles);
      total[v] = load_doubles(sums + v * kDoubles);
    }
    for (int64_t r = 0; r < depth; ++r, x += m.d, packed += kStrip)
      for (int v = 0; v < 3; ++v) {
        const vdouble value = load_doubles(x + v * kDoubles) - less[v];
        total[v] += value;
        store(packed + v * kDoubles, value);
      }
    for (int v = 0; v < 3; ++v) store(sums + v * kDoubles, total[v]);
    return;
  }
  for (int64_t r = 0; r < depth; ++r, x += m.d, packed += kStrip)
    for (int64_t c = 0; c < kStrip; ++c) {
      packed[c] = c < columns ? double(scalar(x + c)) - shift[c] : 0.0;
      if (c < columns) sums[c] += packed[c];
    }
}

// out[j][i] += the sum over the rows of columns i of strip `a` times columns j of another, from `b` on.
inline void multiply_tile(const double* a, const double* b, int64_t depth, double* out, int64_t width) {
  vdouble sums[kAcross][3] = {};
  for (int j = 0; j < kAcross; ++j)
    for (int v = 0; v < 3; ++v) __builtin_prefetch(out + j * width + v * kDoubles, 1);
  for (int64_t r = 0; r < depth; ++r, a += kStrip, b += kStrip) {
    const vdouble a0 = load_doubles(a), a1 = load_doubles(a + kDoubles), a2 = load_doubles(a + 2 * kDoubles);
#pragma GCC unroll 8
    for (int j = 0; j < kAcross; ++j) {
      const vdouble factor = repeat(b + j);
      sums[j][0] += a0 * factor;
      sums[j][1] += a1 * factor;
      sums[j][2] += a2 * factor;
    }
  }
  for (int j = 0; j < kAcross; ++j)
    for (int v = 0; v < 3; ++v) {
      double* const o = out + j * width + v * kDoubles;
      store(o, load_doubles(o) + sums[j][v]);
    }
}

template <class T>
void add_moments(const T* x, int64_t n, const Moments& m, int threads) {
  const int64_t width = moments_width(m.d), strips = width / kStrip;
  const std::unique_ptr<double, void (*)(void*)> room(
      (double*)std::aligned_alloc(64, (size_t(width * kDepth) * sizeof(double) + 63) / 64 * 64), std::free);
  if (!room) throw std::bad_alloc();
  double* const packed = room.get();
  for (int64_t row = 0; row < n; row += kDepth) {
    const int64_t depth = std::min(kDepth, n - row), strip_size = depth * kStrip;
    parallel_for(strips, kPackedStrips, threads, [=](int64_t first, int64_t last) {
      for (int64_t s = first; s < last; ++s)
        pack_strip(x + row * m.d, depth, s * kStrip, m, packed + s * strip_size);
    });
    // The largest tasks come first, so that the threads end together.
    parallel_for(strips, kStrips, threads, [=](int64_t first, int64_t last) {
      for (int64_t j = first * kStrip; j < width; j += kAcross)
        for (int64_t s = first; s < last && s * kStrip < j + kAcross; ++s)
          multiply_tile(packed + s * strip_size, packed + j / kStrip * strip_size + j % kStrip, depth,
                        m.second + j * width + s * kStrip, width);
    });
  }
}

}  // namespace shoal
