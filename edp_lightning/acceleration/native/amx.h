// Products of bfloat16 blocks by the tile unit (AMX).

#pragma once

#include <sys/syscall.h>
#include <unistd.h>

#include "layouts.h"

namespace edp {

// Asks the system for the tile registers. Returns whether they can be used.
inline bool enable_products() {
  constexpr int REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
  return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

// Every thread must call this before it multiplies, and end_products afterwards.
inline void begin_products() {
  struct {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  } config;
  for (int tile = 0; tile < 8; tile++) {
    config.row_bytes[tile] = LINE;
    config.rows[tile] = TILE;
  }
  _tile_loadconfig(&config);
}

inline void end_products() { _tile_release(); }

// Multiplies 32 rows of tiles (32, k) and a panel (k, 32) into products (32, 32). Meanwhile, `work` is called with ranges of
// rows, even numbers that together are 0 to 32: it has the vector units for itself while the tile unit multiplies.
template <typename Work>
inline void multiply(const uint16_t* tiles, const uint16_t* panel, int64_t k, float* products, const Work& work) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  const int64_t steps = k / BLOCK;
  for (int64_t step = 0; step < steps; step++) {
    _tile_loadd(4, tiles + step * TILE * BLOCK, LINE);
    _tile_loadd(5, tiles + (k + step * BLOCK) * TILE, LINE);
    _tile_loadd(6, panel + step * BLOCK * BLOCK, 2 * LINE);
    _tile_loadd(7, panel + step * BLOCK * BLOCK + BLOCK, 2 * LINE);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    work(TILE * step / steps * 2, TILE * (step + 1) / steps * 2);
  }
  _tile_stored(0, products, 2 * LINE);
  _tile_stored(1, products + TILE, 2 * LINE);
  _tile_stored(2, products + TILE * BLOCK, 2 * LINE);
  _tile_stored(3, products + TILE * BLOCK + TILE, 2 * LINE);
}

}  // namespace edp
