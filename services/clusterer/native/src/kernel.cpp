// The C interface that ../../kmeans/fast/kernel.py, ../../neighbours/kernel.py, ../../map/kernel.py and
// ../../data/pca.py load. Arrays are C-contiguous; sizes are in elements. What can fail returns an Outcome.
#include <mutex>

#include "assign.h"
#include "join.h"
#include "map.h"
#include "moments.h"
#include "pairs.h"
#include "parallel.h"
#include "search.h"
#include "sums.h"

using namespace shoal;

namespace {

template <class T>
void sketch(const T* x, int64_t n, int64_t d, const float* mean, const float* signs, int64_t dims, int8_t* q,
            RowStats* stats, int threads) {
  parallel_for(n, 256, threads, [=](int64_t first, int64_t last) {
    std::vector<float> z(dims);
    for (int64_t i = first; i < last; ++i)
      stats[i] = sketch_row(x + i * d, d, mean, signs, dims, z.data(), q + i * dims);
  });
}

// Panels that a thread takes at a time: 16, or fewer if each thread would get too few.
int64_t panels_at_once(int64_t n, int threads) {
  return std::clamp<int64_t>(n / (int64_t(4) * threads * kPanel), 1, 16);
}

template <int kDepth, class T>
void assign(const Rows<T>& rows, int64_t n, const Centroids& full, const Centroids* brief, int32_t* labels,
            Counts* total, int threads) {
  std::mutex adding;
  parallel_for(n, panels_at_once(n, threads) * kPanel, threads, [&](int64_t first, int64_t last) {
    TileScope tiles;
    Assigner<kDepth> assigner(full, brief);
    Counts counts;
    for (int64_t i = first; i < last; i += kPanel)
      assigner.panel(rows.from(i, full, brief), int(std::min<int64_t>(kPanel, last - i)), labels + i * kDepth, counts);
    const std::lock_guard<std::mutex> lock(adding);
    *total += counts;
  });
}

template <class T>
void distances(const T* x, int64_t n, int64_t d, const float* centroids, const int32_t* labels, float* squared,
               int threads) {
  parallel_for(n, 256, threads, [=](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) squared[i] = squared_distance(x + i * d, centroids + labels[i] * d, d);
  });
}

template <class T>
void accumulate(const T* x, int64_t n, int64_t d, const int32_t* from, const int32_t* to, double unit, int64_t* sums,
                int threads) {
  // Each thread keeps to its own columns of the sums: no two write the same ones.
  const int64_t columns = std::max<int64_t>(64, (d + threads - 1) / threads);
  parallel_for(d, columns, threads, [=](int64_t first, int64_t last) {
    for (int64_t i = 0; i < n; ++i) {
      if (from[i] == to[i]) continue;
      if (from[i] >= 0) add_row(x + i * d + first, last - first, unit, -1, sums + from[i] * d + first);
      if (to[i] >= 0) add_row(x + i * d + first, last - first, unit, 1, sums + to[i] * d + first);
    }
  });
}

// How a function ended, for ../library.py: exceptions must not reach the caller, which is not C++.
enum Outcome : int { kDone = 0, kNoMemory = 1, kFailed = 2 };

template <class Work>
int outcome_of(Work work) {
  try {
    work();
    return kDone;
  } catch (const std::bad_alloc&) {
    return kNoMemory;
  } catch (...) {
    return kFailed;
  }
}

}  // namespace

extern "C" {

// Version of this interface; 0 when the processor's tiles were refused.
int shoal_open() { return request_tiles() ? 5 : 0; }

// Columns and rows of the room for the second moments of d columns.
int64_t shoal_moments_width(int64_t d) { return moments_width(d); }

// Adds n rows to the moments. See moments.h.
int shoal_moments_add(const void* x, int half, int64_t n, const Moments* moments, int threads) {
  return outcome_of([&] {
    half ? add_moments((const uint16_t*)x, n, *moments, threads) : add_moments((const float*)x, n, *moments, threads);
  });
}

// Largest magnitude of a quantised coordinate.
int shoal_fast_largest() { return kMax; }

// Cost of one product of sketches alone, in products of a panel.
double shoal_fast_single_cost() { return kSingleCost; }

// Sketches rows; half says whether x is float16. See sketch.h.
int shoal_fast_sketch(const void* x, int half, int64_t n, int64_t d, const float* mean, const float* signs,
                      int64_t dims, int8_t* q, RowStats* stats, int threads) {
  return outcome_of([&] {
    half ? sketch((const uint16_t*)x, n, d, mean, signs, dims, q, stats, threads)
         : sketch((const float*)x, n, d, mean, signs, dims, q, stats, threads);
  });
}

// Packs k sketches of `dims` bytes for the product: `bytes` (k, dims) and `packed` (k rounded up to 16, dims).
int shoal_fast_pack(const int8_t* q, int64_t k, int64_t dims, uint8_t* bytes, uint8_t* packed) {
  return outcome_of([&] {
    for (int64_t i = 0; i < k * dims; ++i) bytes[i] = uint8_t(q[i] + kOffset);
    for (int64_t i = 0; i < k; i += kBlock)
      pack_block(q + i * dims, int(std::min<int64_t>(kBlock, k - i)), dims, packed + i * dims);
  });
}

// Centres and rotates rows as sketching does, without rounding them to bytes: z is (n, dims).
int shoal_fast_rotate(const float* x, int64_t n, int64_t d, const float* mean, const float* signs, int64_t dims,
                      float* z) {
  return outcome_of([&] {
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < dims; ++j) z[i * dims + j] = j < d ? x[i * d + j] - mean[j] : 0;
      rotate(z + i * dims, dims, signs);
    }
  });
}

// Short sketches from full ones. See project.h.
int shoal_fast_project(const int8_t* q, const RowStats* stats, int64_t n, const Projection* projection,
                       int8_t* short_q, RowStats* short_stats, int threads) {
  return outcome_of([&] {
    parallel_for(n, panels_at_once(n, threads) * kPanel, threads, [=](int64_t first, int64_t last) {
      TileScope tiles;
      Projector projector(*projection);
      for (int64_t i = first; i < last; i += kPanel)
        projector.panel(q + i * projection->dims, stats + i, int(std::min<int64_t>(kPanel, last - i)),
                        short_q + i * projection->p, short_stats + i);
    });
  });
}

// Labels n rows; labels holds those of the last time, or -1. Adds to counts how they were decided. The short sketches
// may be null.
int shoal_fast_assign(const void* x, int half, const int8_t* q, const RowStats* stats, const Centroids* full,
                      const int8_t* brief_q, const RowStats* brief_stats, const Centroids* brief, int64_t n,
                      int32_t* labels, Counts* counts, int threads) {
  return outcome_of([&] {
    half ? assign<1, uint16_t>({(const uint16_t*)x, q, stats, brief_q, brief_stats}, n, *full, brief, labels, counts,
                               threads)
         : assign<1, float>({(const float*)x, q, stats, brief_q, brief_stats}, n, *full, brief, labels, counts, threads);
  });
}

// The two nearest of at least two centroids, for float32 rows: labels (n, 2).
int shoal_fast_two_nearest(const float* x, const int8_t* q, const RowStats* stats, const Centroids* full, int64_t n,
                           int32_t* labels, Counts* counts, int threads) {
  return outcome_of([&] {
    assign<2, float>({x, q, stats, nullptr, nullptr}, n, *full, nullptr, labels, counts, threads);
  });
}

// Bounds (n,) of the cosines of n sketched rows to a vector. See search.h.
int shoal_fast_cosines(const int8_t* q, const RowStats* stats, int64_t n, int64_t dims, const Sought* sought, float* low,
                       float* high, int threads) {
  return outcome_of([&] {
    parallel_for(n, 4096, threads, [=](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) cosine_bounds(q + i * dims, stats[i], dims, *sought, low[i], high[i]);
    });
  });
}

// Squared distances of n rows to the centroid that each is labelled with.
int shoal_fast_distances(const void* x, int half, int64_t n, int64_t d, const float* centroids, const int32_t* labels,
                         float* squared, int threads) {
  return outcome_of([&] {
    half ? distances((const uint16_t*)x, n, d, centroids, labels, squared, threads)
         : distances((const float*)x, n, d, centroids, labels, squared, threads);
  });
}

// Moves the rows whose label changed from one sum to another; a label of -1 is no cluster.
int shoal_fast_accumulate(const void* x, int half, int64_t n, int64_t d, const int32_t* from, const int32_t* to,
                          double unit, int64_t* sums, int threads) {
  return outcome_of([&] {
    half ? accumulate((const uint16_t*)x, n, d, from, to, unit, sums, threads)
         : accumulate((const float*)x, n, d, from, to, unit, sums, threads);
  });
}

// Pairs of rows of two blocks that may reach the lesser of their floors, in any order. See join.h.
int shoal_join_blocks(const Join* join, int32_t* i, int32_t* j, int64_t* count, int threads) {
  return outcome_of([&] { *count = join_blocks(*join, i, j, threads); });
}

// What k other rows of a block reach, for each of its n rows. See join.h.
int shoal_join_floors(const Side* side, int64_t n, int64_t k, float* floors, int threads) {
  return outcome_of([&] { block_floors(*side, n, k, floors, threads); });
}

// Similarities of m pairs of rows of x and y, by their places. See pairs.h.
int shoal_join_compare(const float* x, const float* y, int64_t d, const double* x_lengths, const double* y_lengths,
                       const int32_t* i, const int32_t* j, int64_t m, float* found, int threads) {
  return outcome_of([&] {
    parallel_for(m, 256, threads, [=](int64_t first, int64_t last) {
      for (int64_t p = first; p < last; ++p) {
        if (p + 8 < last) fetch(y + j[p + 8] * d, 4 * d);
        found[p] = similarity(lane_product(x + i[p] * d, y + j[p] * d, d), x_lengths[i[p]], y_lengths[j[p]]);
      }
    });
  });
}

// Lengths of n rows. See pairs.h.
int shoal_join_lengths(const float* x, int64_t n, int64_t d, double* lengths, int threads) {
  return outcome_of([&] {
    parallel_for(n, 256, threads, [=](int64_t first, int64_t last) {
      for (int64_t p = first; p < last; ++p) lengths[p] = std::sqrt(lane_product(x + p * d, x + p * d, d));
    });
  });
}

// Scales n rows, given their lengths, to length 1; rows of zeros stay zeros.
int shoal_join_units(const float* x, int64_t n, int64_t d, const double* lengths, float* units, int threads) {
  return outcome_of([&] {
    parallel_for(n, 256, threads, [=](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const double factor = lengths[i] > 0 ? 1 / lengths[i] : 0;
        for (int64_t j = 0; j < d; ++j) units[i * d + j] = float(x[i * d + j] * factor);
      }
    });
  });
}

// Adds m rows, each to the k nearest of its place. See pairs.h.
int shoal_join_add(int64_t* ids, float* similarities, int64_t k, const int64_t* places, const int64_t* rows,
                   const float* found, int64_t m) {
  return outcome_of([&] {
    for (int64_t p = 0; p < m; ++p) add_best(ids + places[p] * k, similarities + places[p] * k, k, rows[p], found[p]);
  });
}

// Forces between n points in the plane. See map.h.
int shoal_map_forces(const Points* points, float* attraction, float* repulsion, double* sums, int threads) {
  return outcome_of([&] { forces(*points, attraction, repulsion, sums, threads); });
}

// The landmarks nearest to rows. See map.h.
int shoal_map_nearest(const Searched* sought, const Landmarks* landmarks, int32_t* numbers, float* squared, int threads) {
  return outcome_of([&] { nearest_landmarks(*sought, *landmarks, numbers, squared, threads); });
}

}  // extern "C"
