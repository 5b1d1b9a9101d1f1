// The nearest centroid of every row, proven: bounds from the sketches decide, and where they cannot, the data do.
//
// With z, w the centred and rotated row and centroid, and zq, wq their sketches,
//     |z - w|^2 / 2 = |z|^2 / 2 + h,  h = |w|^2 / 2 - z.w,  |z.w - zq.wq| <= |z - zq| |wq| + |z| |w - wq|.
// So every centroid's h lies in an interval, and only those whose lower end is below the least upper end can be nearest.
#pragma once
#include <vector>

#include "product.h"
#include "sketch.h"

namespace shoal {

struct Centroids {
  const float* exact;      // (k, d)
  const uint8_t* packed;   // blocks of kBlock
  const float* scale;      // the rest (blocks * kBlock): steps of the sketch,
  const float* norm;       // |wq|,
  const float* error;      // |w - wq|,
  const float* low;        // |w|^2 / 2, rounded down: infinite for those that fill up the last block,
  const float* high;       // and up
  int64_t k, d, dims;
  int blocks() const { return int((k + kBlock - 1) / kBlock); }
};

// Squared distance in float32. All terms are positive: its relative error is at most `distance_error(d)`.
template <class T>
float squared_distance(const T* x, const float* c, int64_t d) {
  vfloat s[4] = {};
  int64_t j = 0;
  for (; j + 4 * kFloats <= d; j += 4 * kFloats)
    for (int u = 0; u < 4; ++u) {
      const vfloat v = load(x + j + u * kFloats) - load(c + j + u * kFloats);
      s[u] += v * v;
    }
  float total = sum((s[0] + s[1]) + (s[2] + s[3]));
  for (; j < d; ++j) {
    const float v = scalar(x + j) - c[j];
    total += v * v;
  }
  return total;
}

// One rounding an addition in the longest chain of them, and a few for the differences and the squares.
inline double distance_error(int64_t d) { return (double(d) / (4 * kFloats) + 4 * kFloats + 16) * 6e-8; }

template <class T>
double squared_distance64(const T* x, const float* c, int64_t d) {
  double total = 0;
  for (int64_t j = 0; j < d; ++j) {
    const double v = double(scalar(x + j)) - c[j];
    total += v * v;
  }
  return total;
}

struct Candidate {
  float low;
  int32_t id;
};

struct Counts {
  int64_t rechecked = 0, distances = 0, doubles = 0;
};

// The nearest of the candidates by the data themselves; of equals the first. `squares` is |z|^2.
template <class T>
int32_t nearest_exactly(const T* x, double squares, std::vector<Candidate>& candidates, const Centroids& c,
                        Counts& counts) {
  std::sort(candidates.begin(), candidates.end(), [](auto a, auto b) { return a.low < b.low; });
  const double error = distance_error(c.d);
  double least = INFINITY;
  size_t kept = 0;
  for (const Candidate& a : candidates) {
    if (2.0 * a.low + squares * (1 - 4 * kRounding) > least * (1 + error)) break;
    const float found = squared_distance(x, c.exact + a.id * c.d, c.d);
    least = std::min(least, double(found));
    candidates[kept++] = {found, a.id};
  }
  counts.distances += kept;
  // Outside this range float32 squares overflow or lose bits.
  const bool trust = least > 1e-30 && least < 1e36;
  std::sort(candidates.begin(), candidates.begin() + kept, [](auto a, auto b) { return a.id < b.id; });
  const double limit = least * (1 + 3 * error);
  size_t near = 0;
  for (size_t i = 0; i < kept; ++i)
    if (!trust || candidates[i].low <= limit) candidates[near++] = candidates[i];
  if (near == 1) return candidates[0].id;
  counts.doubles += int64_t(near);
  double least64 = INFINITY;
  int32_t best = candidates[0].id;
  for (size_t i = 0; i < near; ++i) {
    const double found = squared_distance64(x, c.exact + candidates[i].id * c.d, c.d);
    if (found < least64) least64 = found, best = candidates[i].id;
  }
  return best;
}

// What one thread needs to assign panel after panel.
class Assigner {
 public:
  explicit Assigner(const Centroids& c)
      : c_(c), panel_(kPanel * c.dims), dots_(kPanel * kChunk * kBlock), low_(kChunk * kBlock), found_(kPanel) {}

  // Labels up to kPanel rows; x are the rows, q and stats their sketches.
  template <class T>
  void panel(const T* x, const int8_t* q, const RowStats* stats, int rows, int32_t* labels, Counts& counts) {
    pack_panel(q, rows, c_.dims, panel_.data());
    float least[kPanel];  // upper end of the lowest interval so far
    for (int r = 0; r < rows; ++r) least[r] = INFINITY, found_[r].clear();
    for (int first = 0; first < c_.blocks(); first += kChunk) {
      const int blocks = std::min(kChunk, c_.blocks() - first);
      multiply(panel_.data(), c_.packed + first * block_bytes(c_.dims), c_.dims, blocks, dots_.data());
      for (int r = 0; r < rows; ++r)
        least[r] = collect(dots_.data() + int64_t(r) * blocks * kBlock, first, blocks, stats[r], least[r], found_[r]);
    }
    for (int r = 0; r < rows; ++r) {
      auto& found = found_[r];
      found.erase(std::remove_if(found.begin(), found.end(), [&](auto a) { return a.low > least[r]; }), found.end());
      if (found.size() == 1) {
        labels[r] = found[0].id;
        continue;
      }
      counts.rechecked += 1;
      const double norm = stats[r].norm;
      labels[r] = nearest_exactly(x + r * c_.d, norm * norm, found, c_, counts);
    }
  }

 private:
  static constexpr int kChunk = 32;  // blocks of centroids whose products are looked at while they are in the cache

  // Adds to `found` the centroids of some blocks that may be nearest to one row, and returns the least upper end.
  float collect(const int32_t* dots, int first, int blocks, RowStats row, float least, std::vector<Candidate>& found) {
    const int64_t at = int64_t(first) * kBlock, count = int64_t(blocks) * kBlock;
    const float *scale = c_.scale + at, *norm = c_.norm + at, *error = c_.error + at;
    const float *low = c_.low + at, *high = c_.high + at;
    const int32_t shift = kOffset * row.sum;
    float* lows = low_.data();
    float uppers[kBlock];
    for (float& u : uppers) u = least;
    for (int64_t j = 0; j < count; j += kBlock)
      for (int i = 0; i < kBlock; ++i) {
        const int64_t a = j + i;
        const float dot = float(dots[a] - shift) * (scale[a] * row.scale);
        const float slack = norm[a] * row.error + error[a] * row.norm;
        lows[a] = low[a] - dot - slack;
        const float upper = high[a] - dot + slack;
        uppers[i] = upper < uppers[i] ? upper : uppers[i];
      }
    for (float u : uppers) least = std::min(least, u);
    for (int64_t j = 0; j < count; j += kBlock) {
      uint32_t below = 0;
      for (int i = 0; i < kBlock; ++i) below |= uint32_t(lows[j + i] <= least) << i;
      for (; below; below &= below - 1) {
        const int i = __builtin_ctz(below);
        found.push_back({lows[j + i], int32_t(at + j + i)});
      }
    }
    return least;
  }

  const Centroids c_;
  std::vector<int8_t> panel_;
  std::vector<int32_t> dots_;
  std::vector<float> low_;
  std::vector<std::vector<Candidate>> found_;
};

}  // namespace shoal
