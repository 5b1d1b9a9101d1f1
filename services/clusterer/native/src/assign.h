// The nearest centroid of every row, proven: bounds from the sketches decide, or else the data.
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
  const float* rest;       // length of the residual of a short sketch,
  const float* low;        // |w|^2 / 2, rounded down: infinite for the padding of the last block,
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

constexpr double kTiny = 1e-30;  // below it squares lose bits in float32

struct Candidate {
  float low;
  int32_t id;
};

struct Counts {
  int64_t dense = 0;      // rows whose full sketches were multiplied with all centroids
  int64_t singles = 0;    // products of full sketches, one at a time
  int64_t rechecked = 0;  // rows whose data were read
  int64_t distances = 0;  // distances from the data in float32,
  int64_t doubles = 0;    // and again in float64
  void operator+=(const Counts& o) {
    dense += o.dense, singles += o.singles, rechecked += o.rechecked, distances += o.distances, doubles += o.doubles;
  }
};

// Writes the kDepth nearest of the candidates (at least as many) by the data themselves to `nearest`; of equals the first
// come first. `squares` is |z|^2.
template <int kDepth, class T>
void nearest_exactly(const T* x, double squares, std::vector<Candidate>& candidates, const Centroids& c, int32_t* nearest,
                     Counts& counts) {
  std::sort(candidates.begin(), candidates.end(), [](auto a, auto b) { return a.low < b.low; });
  const double error = distance_error(c.d);
  struct Found {
    double squared;
    int32_t id;
    bool operator<(const Found& o) const { return squared < o.squared || (squared == o.squared && id < o.id); }
  };
  std::vector<Found> found;
  double limit = INFINITY;  // no value above it can be among the nearest
  for (const Candidate& a : candidates) {
    if (2.0 * a.low + squares * (1 - 4 * kRounding) > limit) break;
    found.push_back({squared_distance(x, c.exact + a.id * c.d, c.d), a.id});
    if (found.size() < kDepth) continue;
    std::nth_element(found.begin(), found.begin() + kDepth - 1, found.end());
    limit = std::max(found[kDepth - 1].squared * (1 + 3 * error), kTiny);
  }
  counts.distances += int64_t(found.size());
  std::sort(found.begin(), found.end());
  // Only near ties are computed again in float64.
  bool certain = found[0].squared > kTiny;
  for (int i = 0; i < kDepth && i + 1 < int(found.size()); ++i)
    certain &= found[i + 1].squared > found[i].squared * (1 + 3 * error);
  if (!certain) {
    const auto end = std::partition(found.begin(), found.end(), [=](auto f) { return f.squared <= limit; });
    for (auto f = found.begin(); f != end; ++f) f->squared = squared_distance64(x, c.exact + f->id * c.d, c.d);
    counts.doubles += end - found.begin();
    std::sort(found.begin(), end);
  }
  for (int i = 0; i < kDepth; ++i) nearest[i] = found[i].id;
}

// The least values so far; `limit` is the kDepth-th.
template <int kDepth>
struct Least {
  float values[kDepth];
  Least() { std::fill(values, values + kDepth, INFINITY); }
  float limit() const { return values[kDepth - 1]; }
  void add(float value) {
    for (float& v : values)
      if (value < v) std::swap(v, value);
  }
};

// Adds to `found` the centroids of some blocks, from `first` on, that may be among the nearest to one row by the products
// `dots` of full sketches, and to `least` the upper ends of their intervals. `lows` is scratch.
template <int kDepth>
void collect(const Centroids& c, const int32_t* dots, int first, int blocks, const RowStats& row, float* lows,
             Least<kDepth>& least, std::vector<Candidate>& found) {
  const int64_t at = int64_t(first) * kBlock, count = int64_t(blocks) * kBlock;
  const int32_t shift = kOffset * row.sum;
  vfloat leasts[kDepth];  // of each lane
  for (vfloat& l : leasts) l = vfloat{} + INFINITY;
  for (int64_t j = 0; j < count; j += kFloats) {
    const int64_t a = at + j;
    const vfloat product = load_less(dots + j, shift) * (load(c.scale + a) * row.scale);
    const vfloat slack = load(c.norm + a) * row.error + load(c.error + a) * row.norm;
    store(lows + j, load(c.low + a) - product - slack);
    vfloat high = load(c.high + a) - product + slack;
    for (vfloat& l : leasts) {
      const vfloat lower = lesser(l, high);
      high = greater(l, high);
      l = lower;
    }
  }
  for (const vfloat& l : leasts)
    for (int i = 0; i < kFloats; ++i) least.add(l[i]);
  const float limit = least.limit();
  for (int64_t j = 0; j < count; j += kBlock)
    for (uint32_t below = at_most(lows + j, limit); below; below &= below - 1) {
      const int i = __builtin_ctz(below);
      found.push_back({lows[j + i], int32_t(at + j + i)});
    }
}

// Adds to `found` the centroids of some blocks, from `first` on, whose intervals by the products `dots` of short sketches
// begin below `limit`, but not `known`.
inline void sift(const Centroids& c, const int32_t* dots, int first, int blocks, const RowStats& row, float limit,
                 int32_t known, std::vector<Candidate>& found) {
  const int32_t shift = kOffset * row.sum;
  alignas(64) float lows[kBlock];
  for (int b = 0; b < blocks; ++b) {
    const int64_t at = int64_t(first + b) * kBlock;
    for (int i = 0; i < kBlock; i += kFloats) {
      const int64_t a = at + i;
      const vfloat product = load_less(dots + b * kBlock + i, shift) * (load(c.scale + a) * row.scale);
      const vfloat slack = load(c.norm + a) * row.error + load(c.error + a) * row.norm + load(c.rest + a) * row.rest;
      store(lows + i, load(c.low + a) - product - slack);
    }
    for (uint32_t below = at_most(lows, limit); below; below &= below - 1) {
      const int i = __builtin_ctz(below);
      if (at + i != known) found.push_back({lows[i], int32_t(at + i)});
    }
  }
}

template <class T>
struct Rows {
  const T* x;                  // (n, d)
  const int8_t* q;             // their sketches
  const RowStats* stats;
  const int8_t* brief_q;       // and short ones, or null
  const RowStats* brief_stats;

  // The rows from i on.
  Rows from(int64_t i, const Centroids& full, const Centroids* brief) const {
    return {x + i * full.d, q + i * full.dims, stats + i, brief ? brief_q + i * brief->dims : nullptr,
            brief ? brief_stats + i : nullptr};
  }
};

// What one thread needs to find the kDepth nearest centroids, panel after panel. `brief` holds the centroids' short
// sketches, or is null.
template <int kDepth>
class Assigner {
 public:
  Assigner(const Centroids& full, const Centroids* brief)
      : full_(full), brief_(brief), panel_(kPanel * full.dims), dots_(kPanel * kChunk * kBlock), lows_(kChunk * kBlock),
        found_(kPanel), least_(kPanel) {}

  // Writes kDepth labels a row for the first `count` rows, at most kPanel.
  template <class T>
  void panel(const Rows<T>& rows, int count, int32_t* labels, Counts& counts) {
    bool narrowed = false;
    if constexpr (kDepth == 1) narrowed = brief_ && narrow(rows, count, labels, counts);
    if (!narrowed) search(rows, count, counts);
    int open[kPanel], opened = 0;
    for (int r = 0; r < count; ++r) {
      auto& found = found_[r];
      const float limit = least_[r].limit();
      found.erase(std::remove_if(found.begin(), found.end(), [=](auto a) { return a.low > limit; }), found.end());
      if (kDepth == 1 && found.size() == 1)
        labels[r] = found[0].id;
      else
        open[opened++] = r;
    }
    counts.rechecked += opened;
    if (opened) fetch_data(rows, open[0], found_[open[0]]);
    for (int i = 0; i < opened; ++i) {
      if (i + 1 < opened) fetch_data(rows, open[i + 1], found_[open[i + 1]]);
      const int64_t row = open[i];
      nearest_exactly<kDepth>(rows.x + row * full_.d, rows.stats[row].squares, found_[open[i]], full_,
                              labels + row * kDepth, counts);
    }
  }

 private:
  static constexpr int kChunk = 32;  // blocks of centroids whose products are read while they are in the cache

  // Calls each(r, first block, blocks, products) for each row and chunk of blocks.
  template <class Each>
  void multiply_all(const Centroids& c, const int8_t* q, int count, Each each) {
    pack_panel(q, count, c.dims, panel_.data());
    for (int first = 0; first < c.blocks(); first += kChunk) {
      const int blocks = std::min(kChunk, c.blocks() - first);
      multiply(panel_.data(), c.packed + first * block_bytes(c.dims), c.dims, blocks, dots_.data());
      for (int r = 0; r < count; ++r) each(r, first, blocks, dots_.data() + int64_t(r) * blocks * kBlock);
    }
  }

  // Finds the candidates of each row among all centroids.
  template <class T>
  void search(const Rows<T>& rows, int count, Counts& counts) {
    for (int r = 0; r < count; ++r) least_[r] = {}, found_[r].clear();
    multiply_all(full_, rows.q, count, [&](int r, int first, int blocks, const int32_t* dots) {
      collect(full_, dots, first, blocks, rows.stats[r], lows_.data(), least_[r], found_[r]);
    });
    counts.dense += count;
  }

  // The same by short sketches, for rows that have labels. The centroid of the label is most often still near: its
  // interval by the full sketches is narrow, and most others lie above it by the short ones already. False when that
  // leaves so many that products with all centroids are cheaper.
  template <class T>
  bool narrow(const Rows<T>& rows, int count, const int32_t* labels, Counts& counts) {
    for (int r = 0; r < count; ++r) {
      const int32_t label = labels[r];
      if (label < 0) return false;
      least_[r] = {};
      found_[r].clear();
      found_[r].push_back(interval(rows, r, label, least_[r]));
    }
    int64_t pairs = 0;
    multiply_all(*brief_, rows.brief_q, count, [&](int r, int first, int blocks, const int32_t* dots) {
      auto& found = found_[r];
      pairs -= int64_t(found.size());
      sift(*brief_, dots, first, blocks, rows.brief_stats[r], least_[r].limit(), labels[r], found);
      pairs += int64_t(found.size());
    });
    if (double(pairs) * kSingleCost > double(full_.k) * count) return false;
    for (int r = 0; r < count; ++r) {
      auto& found = found_[r];
      size_t kept = 1;
      for (size_t i = 1; i < found.size(); ++i) {
        if (i + 1 < found.size()) fetch(full_.bytes + found[i + 1].id * full_.dims, full_.dims);
        if (found[i].low <= least_[r].limit()) found[kept++] = interval(rows, r, found[i].id, least_[r]);
      }
      found.resize(kept);
      counts.singles += int64_t(kept);
    }
    return true;
  }

  // Prefetch for a recheck. (Candidates are not sorted yet, but most often there are only two.)
  template <class T>
  void fetch_data(const Rows<T>& rows, int64_t row, const std::vector<Candidate>& found) const {
    fetch(rows.x + row * full_.d, full_.d * sizeof(T));
    for (size_t i = 0; i < std::min<size_t>(2, found.size()); ++i)
      fetch(full_.exact + found[i].id * full_.d, full_.d * sizeof(float));
  }

  // Lower end of a centroid's interval by the full sketches; the upper end goes into `least`.
  template <class T>
  Candidate interval(const Rows<T>& rows, int64_t i, int32_t id, Least<1>& least) const {
    const RowStats& row = rows.stats[i];
    const int32_t sum = dot(full_.bytes + id * full_.dims, rows.q + i * full_.dims, full_.dims) - kOffset * row.sum;
    const float product = float(sum) * (full_.scale[id] * row.scale);
    const float slack = full_.norm[id] * row.error + full_.error[id] * row.norm;
    least.add(full_.high[id] - product + slack);
    return {full_.low[id] - product - slack, id};
  }

  const Centroids full_;
  const Centroids* const brief_;
  std::vector<int8_t> panel_;
  std::vector<int32_t> dots_;
  std::vector<float> lows_;
  std::vector<std::vector<Candidate>> found_;
  std::vector<Least<kDepth>> least_;  // of each row, the lowest upper ends so far
};

}  // namespace shoal
