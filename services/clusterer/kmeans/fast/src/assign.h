// The nearest centroid of every row, proven: bounds from the sketches decide, and where they cannot, the data do.
//
// With z, w the centred and rotated row and centroid, and zq, wq their sketches,
//     |z - w|^2 / 2 = |z|^2 / 2 + h,  h = |w|^2 / 2 - z.w,  |z.w - zq.wq| <= |z - zq| |wq| + |z| |w - wq|.
// So every centroid's h lies in an interval, and only those whose lower end is below the least upper end can be nearest.
#pragma once
#include <vector>

#include "product.h"
#include "project.h"
#include "sketch.h"

namespace shoal {

struct Centroids {
  const float* exact;      // (k, d)
  const uint8_t* bytes;    // (k, dims) sketches + kOffset
  const uint8_t* packed;   // the same in blocks
  const float* scale;      // the rest (blocks * kBlock): steps of the sketch,
  const float* norm;       // at least |wq| and |w|,
  const float* error;      // at least |w - wq|,
  const float* rest;       // length of what a short sketch leaves out,
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
  int64_t dense = 0;      // rows whose full sketches were multiplied with all centroids
  int64_t singles = 0;    // products of full sketches, one at a time
  int64_t rechecked = 0;  // rows whose data were looked at
  int64_t distances = 0;  // distances from the data in float32,
  int64_t doubles = 0;    // and again in float64
  void operator+=(const Counts& o) {
    dense += o.dense, singles += o.singles, rechecked += o.rechecked, distances += o.distances, doubles += o.doubles;
  }
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

// Adds to `found` the centroids of some blocks, from `first` on, that may be nearest to one row by the products `dots`,
// and returns the least upper end so far, which was `least` before. `lows` is scratch.
inline float collect(const Centroids& c, const int32_t* dots, int first, int blocks, const RowStats& row, float least,
                     float* lows, std::vector<Candidate>& found) {
  const int64_t at = int64_t(first) * kBlock, count = int64_t(blocks) * kBlock;
  const float shift = float(kOffset) * float(row.sum);
  vfloat leasts = vfloat{} + least;
  for (int64_t j = 0; j < count; j += kFloats) {
    const int64_t a = at + j;
    const vfloat product = (load(dots + j) - shift) * (load(c.scale + a) * row.scale);
    const vfloat slack = load(c.norm + a) * row.error + load(c.error + a) * row.norm + load(c.rest + a) * row.rest;
    store(lows + j, load(c.low + a) - product - slack);
    leasts = lesser(leasts, load(c.high + a) - product + slack);
  }
  for (int i = 0; i < kFloats; ++i) least = std::min(least, leasts[i]);
  for (int64_t j = 0; j < count; j += kBlock)
    for (uint32_t below = at_most(lows + j, least); below; below &= below - 1) {
      const int i = __builtin_ctz(below);
      found.push_back({lows[j + i], int32_t(at + j + i)});
    }
  return least;
}

template <class T>
struct Rows {
  const T* x;                  // (n, d)
  const int8_t* q;             // their sketches
  const RowStats* stats;
  const int8_t* brief_q;       // and short ones, or null
  const RowStats* brief_stats;
};

// What one thread needs to assign panel after panel. `brief` holds the centroids' short sketches, or is null.
class Assigner {
 public:
  Assigner(const Centroids& full, const Centroids* brief)
      : full_(full), brief_(brief), panel_(kPanel * full.dims), dots_(kPanel * kChunk * kBlock), lows_(kChunk * kBlock),
        found_(kPanel) {}

  // Labels the rows order[0 .. count), at most kPanel.
  template <class T>
  void panel(const Rows<T>& rows, const int32_t* order, int count, int32_t* labels, Counts& counts) {
    if (brief_) search(*brief_, rows.brief_q, rows.brief_stats, order, count);
    if (!brief_ || !refine(rows.q, rows.stats, order, count, counts)) {
      search(full_, rows.q, rows.stats, order, count);
      counts.dense += count;
    }
    for (int r = 0; r < count; ++r) {
      auto& found = found_[r];
      found.erase(std::remove_if(found.begin(), found.end(), [&](auto a) { return a.low > least_[r]; }), found.end());
      if (found.size() == 1) {
        labels[order[r]] = found[0].id;
        continue;
      }
      counts.rechecked += 1;
      labels[order[r]] =
          nearest_exactly(rows.x + order[r] * full_.d, rows.stats[order[r]].squares, found, full_, counts);
    }
  }

 private:
  static constexpr int kChunk = 32;  // blocks of centroids whose products are looked at while they are in the cache

  // Finds the candidates of each row by products with all centroids.
  void search(const Centroids& c, const int8_t* q, const RowStats* stats, const int32_t* order, int count) {
    pack_panel(q, order, count, c.dims, panel_.data());
    for (int r = 0; r < count; ++r) least_[r] = INFINITY, found_[r].clear();
    for (int first = 0; first < c.blocks(); first += kChunk) {
      const int blocks = std::min(kChunk, c.blocks() - first);
      multiply(panel_.data(), c.packed + first * block_bytes(c.dims), c.dims, blocks, dots_.data());
      for (int r = 0; r < count; ++r)
        least_[r] = collect(c, dots_.data() + int64_t(r) * blocks * kBlock, first, blocks, stats[order[r]], least_[r],
                            lows_.data(), found_[r]);
    }
  }

  // Narrows the candidates that short sketches left by the full ones, one product a time; false when there are so many
  // that products with all centroids are cheaper.
  bool refine(const int8_t* q, const RowStats* stats, const int32_t* order, int count, Counts& counts) {
    int64_t pairs = 0;
    for (int r = 0; r < count; ++r) pairs += int64_t(found_[r].size());
    if (double(pairs) * kSingleCost > double(full_.k) * count) return false;
    for (int r = 0; r < count; ++r) {
      auto& found = found_[r];
      // The likeliest first: its interval rules out most others without a product.
      std::swap(*std::min_element(found.begin(), found.end(), [](auto a, auto b) { return a.low < b.low; }), found[0]);
      size_t kept = 0;
      for (const Candidate& a : found)
        if (a.low <= least_[r])
          found[kept++] = {interval(q + order[r] * full_.dims, stats[order[r]], a.id, least_[r]), a.id};
      found.resize(kept);
      counts.singles += int64_t(kept);
    }
    return true;
  }

  // Lower end for one centroid; the upper end goes into `least`.
  float interval(const int8_t* q, const RowStats& row, int32_t id, float& least) const {
    const int32_t shift = kOffset * row.sum;
    const float product = float(dot(full_.bytes + id * full_.dims, q, full_.dims) - shift) * (full_.scale[id] * row.scale);
    const float slack = full_.norm[id] * row.error + full_.error[id] * row.norm;
    least = std::min(least, full_.high[id] - product + slack);
    return full_.low[id] - product - slack;
  }

  const Centroids full_;
  const Centroids* const brief_;
  std::vector<int8_t> panel_;
  std::vector<int32_t> dots_;
  std::vector<float> lows_;
  std::vector<std::vector<Candidate>> found_;
  float least_[kPanel];  // of each row, the upper end of the lowest interval so far
};

}  // namespace shoal
