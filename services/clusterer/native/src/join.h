// Pairs of rows whose similarity may reach a floor: upper bounds from 8-bit products, of blocks of rows with blocks.
//
// Rows u of length 1 are centred about m: z = u - m. The cosine of two is u.v = z.w + u.m + v.m - m.m. With their sketches
// zq and wq, |z - zq| <= e and |w - wq| <= f,
//     |z.w - zq.wq| = |(z - zq).w + zq.(w - wq)| <= e |w| + (|z| + e) f.
// Short sketches (project.h) give zq.wq <= (B'zq).(B'wq) + rest * rest', and their errors include e and f.
#pragma once
#include <atomic>
#include <limits>
#include <mutex>
#include <vector>

#include "parallel.h"
#include "product.h"

namespace shoal {

// Sketches of rows.
struct Side {
  const int8_t* q;       // (n, dims)
  const int32_t* sum;    // (n,) of q; the rest too is of each row:
  const float* scale;    // step of the sketch,
  const float* norm;     // at least |z|,
  const float* error;    // at least |z - zq|, of a short sketch with that of its own rounding,
  const float* rest;     // length of the residual of a short sketch, else 0,
  const float* base;     // u.m - m.m / 2
  int64_t dims;
};

// Rounding of the bounds in float32, of the rows to length 1 and of a similarity to float32: all of them are of sums below 8.
constexpr float kPairRounding = 1e-5f;
constexpr int kColumns = 64;      // columns of a group: a bit of a mask each
constexpr int kRowsAtOnce = 192;  // rows of a group: whole panels of each kind
constexpr int kColumnBlocks = kColumns / kBlock;

inline uint32_t reach(vfloat a, vfloat b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ);
#else
  return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ)));
#endif
}

// Four bytes of a sketch with kOffset added to each; no byte carries into another.
inline uint32_t offset_word(const int8_t* q) {
  uint32_t word;
  std::memcpy(&word, q, 4);
  constexpr uint32_t offset = uint32_t(kOffset) * 0x01010101u;
  return ((word & 0x7f7f7f7fu) + (offset & 0x7f7f7f7fu)) ^ ((word ^ offset) & 0x80808080u);
}

// The columns of a block of rows, packed for the product and padded to whole groups.
class Columns {
 public:
  Columns(const Side& side, int64_t n, int threads) : dims(side.dims) {
    const int64_t groups = (n + kColumns - 1) / kColumns, width = groups * kColumns;
    packed_.resize(width * dims + 64);
    for (auto* each : {&scale, &norm, &error, &rest, &base}) each->assign(width, 0);
    const float* from[] = {side.scale, side.norm, side.error, side.rest, side.base};
    std::vector<float>* to[] = {&scale, &norm, &error, &rest, &base};
    for (int i = 0; i < 5; ++i) std::copy(from[i], from[i] + n, to[i]->begin());
    uint8_t* start = aligned();
    parallel_for(groups * kColumnBlocks, 4, threads, [=, &side](int64_t first, int64_t last) {
      for (int64_t b = first; b < last; ++b) {
        uint8_t* out = start + b * block_bytes(dims);
        for (int64_t p = 0; p < dims; p += 4)
          for (int64_t c = b * kBlock; c < (b + 1) * kBlock; ++c, out += 4) {
            const uint32_t word = c < n ? offset_word(side.q + c * dims + p) : uint32_t(kOffset) * 0x01010101u;
            std::memcpy(out, &word, 4);
          }
      }
    });
  }

  const uint8_t* group(int64_t g) const {
    return const_cast<Columns*>(this)->aligned() + g * kColumnBlocks * block_bytes(dims);
  }

  const int64_t dims;
  std::vector<float> scale, norm, error, rest, base;

 private:
  uint8_t* aligned() { return (uint8_t*)((uintptr_t(packed_.data()) + 63) / 64 * 64); }
  std::vector<uint8_t> packed_;
};

// What bounds the similarities of one row with a group of columns.
struct RowTerms {
  float scale, outer, error, rest, base;
  int32_t shift;
  RowTerms(const Side& s, int64_t i)
      : scale(s.scale[i]),
        outer(s.norm[i] + s.error[i]),
        error(s.error[i]),
        rest(s.rest[i]),
        base(s.base[i] + kPairRounding),
        shift(kOffset * s.sum[i]) {}
  vfloat middle(const int32_t* dots, const Columns& c, int64_t j) const {
    return load_less(dots, shift) * (load(&c.scale[j]) * scale);
  }
  vfloat slack(const Columns& c, int64_t j) const {
    return load(&c.error[j]) * outer + load(&c.norm[j]) * error + load(&c.rest[j]) * rest;
  }
};

// Bits of those columns of a group, from column j, that may reach the lesser of the floors of the row and their own.
inline uint64_t may_reach(const int32_t* dots, const RowTerms& row, float floor, const Columns& c, const float* floors,
                          int64_t j) {
  const vfloat floor_of_row = vfloat{} + floor, base = vfloat{} + row.base;
  uint64_t found = 0;
  for (int v = 0; v < kColumns; v += kFloats) {
    const vfloat high =
        row.middle(dots + v, c, j + v) + (row.slack(c, j + v) + (load(&c.base[j + v]) + base));
    found |= uint64_t(reach(high, lesser(floor_of_row, load(floors + j + v)))) << v;
  }
  return found;
}

// One search of a block of rows for the rows of another, or of itself.
struct Join {
  const Side *left, *brief_left, *right, *brief_right;  // the short ones may be null
  int64_t n_left, n_right;
  const float *left_floors, *right_floors;  // right_floors are padded to whole groups
  const uint8_t* skip;                      // (row groups, column groups): 1 where no pair can reach a floor; or null
  int64_t same;                             // whether both are the same block: then only pairs i < j
  int64_t capacity;                         // pairs that fit
};

struct Hits {
  std::vector<int32_t> i, j;
  void add(int64_t row, int64_t column, uint64_t bits) {
    for (; bits; bits &= bits - 1) i.push_back(int32_t(row)), j.push_back(int32_t(column + __builtin_ctzll(bits)));
  }
};

// How often short sketches were tried, and how often they left so much that all full ones were multiplied.
struct Luck {
  std::atomic<int64_t> tried{0}, dense{0};
};

// Work of one thread.
class Joiner {
 public:
  Joiner(const Join& join, const Columns& full, const Columns* brief, Luck& luck)
      : join_(join),
        full_(full),
        brief_(brief),
        panels_(kRowsAtOnce * full.dims),
        brief_panels_(brief ? kRowsAtOnce * brief->dims : 0),
        bytes_(kRowsAtOnce * full.dims),
        dots_(kPanel * kColumns),
        luck_(luck) {}

  // Rows first to last, at most kRowsAtOnce.
  void rows(int64_t first, int64_t last, Hits& hits) {
    const Side& left = *join_.left;
    for (int64_t i = first; i < last; i += kPanel) {
      const int count = int(std::min<int64_t>(kPanel, last - i));
      pack_panel(left.q + i * left.dims, count, left.dims, &panels_[(i - first) * left.dims]);
      if (brief_)
        pack_panel(join_.brief_left->q + i * brief_->dims, count, brief_->dims, &brief_panels_[(i - first) * brief_->dims]);
    }
    for (int64_t k = 0; k < (last - first) * left.dims; k += 4) {
      const uint32_t word = offset_word(left.q + first * left.dims + k);
      std::memcpy(&bytes_[k], &word, 4);
    }
    const int64_t groups = (join_.n_right + kColumns - 1) / kColumns;
    const uint8_t* skip = join_.skip ? join_.skip + first / kRowsAtOnce * groups : nullptr;
    for (int64_t g = join_.same ? first / kColumns : 0; g < groups; ++g) {
      if (skip && skip[g]) continue;
      for (int64_t i = first; i < last; i += kPanel)
        panel(first, i, int(std::min<int64_t>(kPanel, last - i)), g * kColumns, hits);
    }
  }

 private:
  // Bits of the columns from j that row i is compared with.
  uint64_t wanted(int64_t i, int64_t j) const {
    uint64_t bits = join_.n_right - j >= kColumns ? ~uint64_t(0) : (uint64_t(1) << (join_.n_right - j)) - 1;
    if (join_.same && i >= j) bits = i - j >= kColumns - 1 ? 0 : bits & (~uint64_t(0) << (i - j + 1));
    return bits;
  }

  void panel(int64_t first, int64_t i, int count, int64_t j, Hits& hits) {
    const int64_t g = j / kColumns;
    if (!brief_ || unhelpful()) {
      dense(first, i, count, j, hits);
      return;
    }
    multiply(&brief_panels_[(i - first) * brief_->dims], brief_->group(g), brief_->dims, kColumnBlocks, dots_.data());
    uint64_t left[kPanel];
    int64_t total = 0;
    for (int r = 0; r < count; ++r) {
      left[r] = may_reach(&dots_[r * kColumns], RowTerms(*join_.brief_left, i + r), join_.left_floors[i + r], *brief_,
                          join_.right_floors, j) & wanted(i + r, j);
      total += __builtin_popcountll(left[r]);
    }
    luck_.tried.fetch_add(1, std::memory_order_relaxed);
    if (!total) return;
    if (total * kSingleCost > count * kColumns) {
      luck_.dense.fetch_add(1, std::memory_order_relaxed);
      dense(first, i, count, j, hits);
      return;
    }
    for (int r = 0; r < count; ++r)
      if (left[r]) singles(first, i + r, j, left[r], hits);
  }

  // Whether short sketches leave too much; some panels still try them.
  bool unhelpful() {
    const int64_t tried = luck_.tried.load(std::memory_order_relaxed);
    return tried >= 64 && luck_.dense.load(std::memory_order_relaxed) * 10 > tried * 8 && (++passed_ % 32);
  }

  void dense(int64_t first, int64_t i, int count, int64_t j, Hits& hits) {
    multiply(&panels_[(i - first) * full_.dims], full_.group(j / kColumns), full_.dims, kColumnBlocks, dots_.data());
    for (int r = 0; r < count; ++r)
      hits.add(i + r, j, may_reach(&dots_[r * kColumns], RowTerms(*join_.left, i + r), join_.left_floors[i + r], full_,
                                   join_.right_floors, j) & wanted(i + r, j));
  }

  void singles(int64_t first, int64_t i, int64_t j, uint64_t bits, Hits& hits) {
    const RowTerms row(*join_.left, i);
    const Side& right = *join_.right;
    const uint8_t* mine = &bytes_[(i - first) * full_.dims];
    for (; bits; bits &= bits - 1) {
      const int64_t c = j + __builtin_ctzll(bits);
      // The bytes of the left side have the offset here, not those of the right side.
      const int32_t product = dot(mine, right.q + c * full_.dims, full_.dims) - kOffset * right.sum[c];
      const float high = float(product) * (right.scale[c] * row.scale) + right.error[c] * row.outer +
                         right.norm[c] * row.error + (right.base[c] + row.base);
      if (high >= std::min(join_.left_floors[i], join_.right_floors[c]))
        hits.i.push_back(int32_t(i)), hits.j.push_back(int32_t(c));
    }
  }

  const Join& join_;
  const Columns& full_;
  const Columns* brief_;
  std::vector<int8_t> panels_, brief_panels_;
  std::vector<uint8_t> bytes_;
  std::vector<int32_t> dots_;
  Luck& luck_;
  int64_t passed_ = 0;
};

// Writes the pairs to i and j, and returns their number; if they do not fit, some number above the capacity.
inline int64_t join_blocks(const Join& join, int32_t* out_i, int32_t* out_j, int threads) {
  const Columns full(*join.right, join.n_right, threads);
  std::vector<Columns> brief;
  if (join.brief_right) brief.emplace_back(*join.brief_right, join.n_right, threads);
  std::mutex adding;
  Luck luck;
  std::atomic<int64_t> total{0};
  parallel_for(join.n_left, kRowsAtOnce, threads, [&](int64_t first, int64_t last) {
    if (total > join.capacity) return;
    TileScope tiles;
    thread_local Hits hits;
    hits.i.clear(), hits.j.clear();
    Joiner(join, full, brief.empty() ? nullptr : &brief[0], luck).rows(first, last, hits);
    const std::lock_guard<std::mutex> lock(adding);
    const int64_t at = total;
    total = at + int64_t(hits.i.size());
    if (total > join.capacity) return;
    std::copy(hits.i.begin(), hits.i.end(), out_i + at);
    std::copy(hits.j.begin(), hits.j.end(), out_j + at);
  });
  return total;
}

constexpr float kNothing = -std::numeric_limits<float>::infinity();
constexpr int64_t kNearColumns = 2048;

// For each row of a block what at least k others near it in the block reach; -infinity where there are fewer.
inline void block_floors(const Side& side, int64_t n, int64_t k, float* floors, int threads) {
  const Columns columns(side, n, threads);
  const int64_t groups = (n + kColumns - 1) / kColumns;
  // The greatest of each slot of columns: other columns of other slots, so the k-th of them is what k others reach.
  int64_t slots = kColumns;
  while (slots < 8 * k || slots < 512) slots *= 2;
  slots = std::min(slots, std::min(groups * kColumns, kNearColumns));
  parallel_for(n, kPanel, threads, [&, slots](int64_t first, int64_t last) {
    TileScope tiles;
    const int count = int(last - first);
    std::vector<int8_t> panel(kPanel * side.dims);
    std::vector<int32_t> dots(kPanel * kColumns);
    std::vector<float> best(count * slots, kNothing);
    float lows[kColumns];
    pack_panel(side.q + first * side.dims, count, side.dims, panel.data());
    const int64_t middle = first / kColumns, near = kNearColumns / kColumns / 2;
    const int64_t begin = std::max<int64_t>(0, std::min(middle - near, groups - 2 * near));
    for (int64_t g = begin; g < std::min(groups, begin + 2 * near); ++g) {
      multiply(panel.data(), columns.group(g), side.dims, kColumnBlocks, dots.data());
      const int64_t j = g * kColumns, slot = j % slots;
      for (int r = 0; r < count; ++r) {
        const RowTerms row(side, first + r);
        const vfloat base = vfloat{} + (row.base - 2 * kPairRounding);
        for (int v = 0; v < kColumns; v += kFloats)
          store(lows + v, row.middle(&dots[r * kColumns + v], columns, j + v) - row.slack(columns, j + v) +
                              (load(&columns.base[j + v]) + base));
        for (int64_t c = std::max<int64_t>(0, n - j); c < kColumns; ++c) lows[c] = kNothing;
        if (first + r >= j && first + r < j + kColumns) lows[first + r - j] = kNothing;
        float* into = &best[r * slots + slot];
        for (int v = 0; v < kColumns; v += kFloats) store(into + v, greater(load(into + v), load(lows + v)));
      }
    }
    for (int r = 0; r < count; ++r) {
      float* mine = &best[r * slots];
      floors[first + r] = kNothing;
      if (k > slots) continue;
      std::nth_element(mine, mine + k - 1, mine + slots, std::greater<float>());
      floors[first + r] = mine[k - 1];
    }
  });
}

}  // namespace shoal
