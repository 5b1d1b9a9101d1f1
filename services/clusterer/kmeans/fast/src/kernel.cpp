// The C interface that ../kernel.py loads. Arrays are C-contiguous; sizes are in elements.
#include "assign.h"
#include "parallel.h"
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

template <class T>
void assign(const T* x, const int8_t* q, const RowStats* stats, int64_t n, const Centroids& c, int32_t* labels,
            Counts* total, int threads) {
  std::atomic<int64_t> rechecked{0}, distances{0}, doubles{0};
  parallel_for(n, 16 * kPanel, threads, [&](int64_t first, int64_t last) {
    TileScope tiles;
    Assigner assigner(c);
    Counts counts;
    for (int64_t i = first; i < last; i += kPanel)
      assigner.panel(x + i * c.d, q + i * c.dims, stats + i, int(std::min<int64_t>(kPanel, last - i)), labels + i, counts);
    rechecked += counts.rechecked, distances += counts.distances, doubles += counts.doubles;
  });
  *total = {total->rechecked + rechecked, total->distances + distances, total->doubles + doubles};
}

template <class T>
void accumulate(const T* x, int64_t n, int64_t d, const int32_t* from, const int32_t* to, double unit, int64_t* sums,
                int threads) {
  // Each thread keeps to its own columns of the sums: no two ever write the same ones.
  const int64_t columns = std::max<int64_t>(64, (d + threads - 1) / threads);
  parallel_for(d, columns, threads, [=](int64_t first, int64_t last) {
    for (int64_t i = 0; i < n; ++i) {
      if (from[i] == to[i]) continue;
      if (from[i] >= 0) add_row(x + i * d + first, last - first, unit, -1, sums + from[i] * d + first);
      if (to[i] >= 0) add_row(x + i * d + first, last - first, unit, 1, sums + to[i] * d + first);
    }
  });
}

}  // namespace

extern "C" {

// Version of this interface; 0 when the processor's tiles were refused.
int shoal_fast_open() { return request_tiles() ? 1 : 0; }

// Sketches rows; half says whether x is float16. See sketch.h.
void shoal_fast_sketch(const void* x, int half, int64_t n, int64_t d, const float* mean, const float* signs,
                       int64_t dims, int8_t* q, RowStats* stats, int threads) {
  half ? sketch((const uint16_t*)x, n, d, mean, signs, dims, q, stats, threads)
       : sketch((const float*)x, n, d, mean, signs, dims, q, stats, threads);
}

// Packs the sketches of k centroids for the product.
void shoal_fast_pack(const int8_t* q, int64_t k, int64_t dims, uint8_t* packed) {
  for (int64_t i = 0; i < k; i += kBlock)
    pack_block(q + i * dims, int(std::min<int64_t>(kBlock, k - i)), dims, packed + i * dims);
}

// Labels n rows; adds to counts what had to be decided by the data.
void shoal_fast_assign(const void* x, int half, const int8_t* q, const RowStats* stats, int64_t n,
                       const Centroids* centroids, int32_t* labels, Counts* counts, int threads) {
  half ? assign((const uint16_t*)x, q, stats, n, *centroids, labels, counts, threads)
       : assign((const float*)x, q, stats, n, *centroids, labels, counts, threads);
}

// Moves the rows whose label changed from one sum to another; a label of -1 is no cluster.
void shoal_fast_accumulate(const void* x, int half, int64_t n, int64_t d, const int32_t* from, const int32_t* to,
                           double unit, int64_t* sums, int threads) {
  half ? accumulate((const uint16_t*)x, n, d, from, to, unit, sums, threads)
       : accumulate((const float*)x, n, d, from, to, unit, sums, threads);
}

}  // extern "C"
