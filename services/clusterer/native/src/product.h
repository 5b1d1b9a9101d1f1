// The product of quantised rows with quantised centroids, in exact 32-bit integers: nearly all of the work.
//
// Centroids are packed in blocks of 16: for each group of four dimensions, 16 x 4 bytes side by side, the layout of
// both a vector dot4 and an AMX tile. A panel of rows is packed too, so that the inner loops only stream.
#pragma once
#include "amx.h"
#include "simd.h"

namespace shoal {

constexpr int kBlock = 16;  // centroids packed together

inline int64_t block_bytes(int64_t dims) { return dims * kBlock; }

inline void pack_block(const int8_t* q, int count, int64_t dims, uint8_t* packed) {
  for (int64_t p = 0; p < dims; p += 4)
    for (int c = 0; c < kBlock; ++c)
      for (int b = 0; b < 4; ++b) *packed++ = uint8_t((c < count ? q[c * dims + p + b] : 0) + kOffset);
}

#if defined(SHOAL_AMX)

constexpr int kPanel = 64;
constexpr double kSingleCost = 20;  // of one product alone, in products of a panel

// Tiles of 16 rows x 64 bytes, dimension by dimension; missing rows are zeros.
inline void pack_panel(const int8_t* q, int rows, int64_t dims, int8_t* panel) {
  for (int tile = 0; tile < kPanel / 16; ++tile)
    for (int64_t p = 0; p < dims; p += 64)
      for (int r = tile * 16; r < tile * 16 + 16; ++r, panel += 64)
        r < rows ? std::memcpy(panel, q + r * dims + p, 64) : std::memset(panel, 0, 64);
}

// out (kPanel, blocks * 16) = rows . (centroids + kOffset). Two by two tiles: each loaded tile is used twice.
inline void multiply(const int8_t* panel, const uint8_t* packed, int64_t dims, int blocks, int32_t* out) {
  const int64_t width = int64_t(blocks) * kBlock, tile_rows = dims * 16;
  asm volatile("" ::: "memory");  // the compiler does not know that the tile loads read memory
  for (int b = 0; b < blocks; b += 2) {
    const bool pair = b + 1 < blocks;
    const uint8_t* c0 = packed + b * block_bytes(dims);
    const uint8_t* c1 = pair ? c0 + block_bytes(dims) : c0;
    for (int r = 0; r < kPanel; r += 32) {
      const int8_t *x0 = panel + (r / 16) * tile_rows, *x1 = x0 + tile_rows;
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
      for (int64_t p = 0; p < dims * 16; p += 1024) {
        _tile_loadd(4, x0 + p, 64);
        _tile_loadd(6, c0 + p, 64);
        _tile_dpbsud(0, 4, 6);
        _tile_loadd(5, x1 + p, 64);
        _tile_dpbsud(2, 5, 6);
        _tile_loadd(7, c1 + p, 64);
        _tile_dpbsud(1, 4, 7);
        _tile_dpbsud(3, 5, 7);
      }
      int32_t* o = out + r * width + b * kBlock;
      _tile_stored(0, o, width * 4);
      _tile_stored(2, o + 16 * width, width * 4);
      if (!pair) continue;
      _tile_stored(1, o + kBlock, width * 4);
      _tile_stored(3, o + 16 * width + kBlock, width * 4);
    }
  }
}

#else

// Two vectors of centroids by kStep rows fill the registers with sums: 24 of 32, or 12 of 16.
constexpr int kStep = kLanes == 16 ? 12 : 6;
constexpr int kPanel = 4 * kStep;
constexpr double kSingleCost = 5;  // of one product alone, in products of a panel

// For each group of kStep rows, words of four dimensions with the rows side by side; missing rows are zeros.
inline void pack_panel(const int8_t* q, int rows, int64_t dims, int8_t* panel) {
  for (int first = 0; first < kPanel; first += kStep)
    for (int64_t p = 0; p < dims; p += 4)
      for (int r = first; r < first + kStep; ++r, panel += 4)
        r < rows ? std::memcpy(panel, q + r * dims + p, 4) : std::memset(panel, 0, 4);
}

// A step: sums[r][v] = rows r of the group . vector v of the centroids.
inline void multiply_step(const int8_t* x, const uint8_t* c0, const uint8_t* c1, int64_t dims, int32_t* out0,
                          int32_t* out1, int64_t width) {
  vint sums[kStep][2];
  for (auto& s : sums) s[0] = s[1] = zero();
  for (int64_t p = 0; p < dims / 4; ++p) {
    const vint u0 = load_bytes(c0 + p * 4 * kBlock), u1 = load_bytes(c1 + p * 4 * kBlock);
#pragma GCC unroll 12
    for (int r = 0; r < kStep; ++r, x += 4) {
      int32_t word;
      std::memcpy(&word, x, 4);
      const vint s = broadcast(word);
      sums[r][0] = dot4(sums[r][0], u0, s);
      sums[r][1] = dot4(sums[r][1], u1, s);
    }
  }
  for (int r = 0; r < kStep; ++r) store(out0 + r * width, sums[r][0]), store(out1 + r * width, sums[r][1]);
}

// out (kPanel, blocks * 16) = rows . (centroids + kOffset).
inline void multiply(const int8_t* panel, const uint8_t* packed, int64_t dims, int blocks, int32_t* out) {
  const int64_t width = int64_t(blocks) * kBlock;
  constexpr int per_step = 2 * kLanes / kBlock;  // blocks
  for (int b = 0; b < blocks; b += per_step) {
    const uint8_t* c0 = packed + b * block_bytes(dims);
    // With 16 lanes the second vector is the next block (of an odd number, the last one again); with 8, the other half.
    const int second = kLanes == 16 ? (b + 1 < blocks ? kBlock : 0) : kLanes;
    const uint8_t* c1 = kLanes == 16 ? c0 + (second ? block_bytes(dims) : 0) : c0 + 4 * kLanes;
    for (int r = 0; r < kPanel; r += kStep) {
      int32_t* o = out + r * width + b * kBlock;
      multiply_step(panel + r * dims, c0, c1, dims, o, o + second, width);
    }
  }
}

#endif

}  // namespace shoal
