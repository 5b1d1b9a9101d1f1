// AMX tiles: permission from Linux, their shape, and (for tests on processors without them) an emulation.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(SHOAL_AMX)
#include <immintrin.h>
#if defined(SHOAL_AMX_EMULATED)

namespace shoal {
alignas(64) inline thread_local uint8_t g_tiles[8][16][64];
inline bool request_tiles() { return true; }
struct TileScope {};
}  // namespace shoal
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbsud
#define _tile_zero(t) ((void)std::memset(shoal::g_tiles[t], 0, 1024))
#define _tile_loadd(t, p, stride) \
  for (int i_ = 0; i_ < 16; ++i_) std::memcpy(shoal::g_tiles[t][i_], (const char*)(p) + i_ * (stride), 64)
#define _tile_stored(t, p, stride)                                                                        \
  ([&] {                                                                                                  \
    for (int i_ = 0; i_ < 16; ++i_) std::memcpy((char*)(p) + i_ * (stride), shoal::g_tiles[t][i_], 64);   \
  }())
#define _tile_dpbsud(t, a, b)                                                                             \
  for (int m_ = 0; m_ < 16; ++m_)                                                                         \
    for (int n_ = 0; n_ < 16; ++n_) {                                                                     \
      int32_t s_;                                                                                         \
      std::memcpy(&s_, shoal::g_tiles[t][m_] + 4 * n_, 4);                                                \
      for (int k_ = 0; k_ < 64; ++k_)                                                                     \
        s_ += int32_t(int8_t(shoal::g_tiles[a][m_][k_])) * shoal::g_tiles[b][k_ / 4][4 * n_ + k_ % 4];    \
      std::memcpy(shoal::g_tiles[t][m_] + 4 * n_, &s_, 4);                                                \
    }

#else

#include <sys/syscall.h>
#include <unistd.h>

namespace shoal {

// Linux grants the 8 KB of tile state only to processes that request it (ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA).
inline bool request_tiles() { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }

// Configures this thread's eight tiles as 16 rows of 64 bytes.
struct TileScope {
  TileScope() {
    alignas(64) struct {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    static_assert(sizeof(config) == 64);
    asm volatile("" ::"r"(&config) : "memory");  // the intrinsic does not tell the compiler that it reads all of it
    _tile_loadconfig(&config);
  }
  ~TileScope() { _tile_release(); }
};

}  // namespace shoal
#endif

#else

namespace shoal {
inline bool request_tiles() { return true; }
struct TileScope {
  TileScope() {}
};
}  // namespace shoal

#endif
