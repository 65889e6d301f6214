// Products of bfloat16 blocks by the vector units (AVX-512 BF16); the interface of amx.h.

#pragma once

#include "layouts.h"

namespace edp {

inline bool enable_products() { return true; }
inline void begin_products() {}
inline void end_products() {}

// As in amx.h; nothing runs beside the products here, but `work` finds its rows in the cache.
template <typename Work>
inline void multiply(const uint16_t* tiles, const uint16_t* panel, int64_t k, float* products, const Work& work) {
  constexpr int64_t GROUP = 8;  // rows whose sums fit into registers
  for (int64_t first = 0; first < BLOCK; first += GROUP) {
    Row sums[GROUP];
    for (int64_t r = 0; r < GROUP; r++) sums[r] = broadcast(0.0f);
    const uint16_t* rows = tiles + in_tiles(first, 0, k);
    for (int64_t i = 0; i < k; i += BLOCK, rows += TILE * BLOCK)
      for (int64_t pair = 0; pair < BLOCK; pair += 2) {
        const uint16_t* columns = panel + (i + pair) * BLOCK;
        const auto left = (__m512bh)_mm512_loadu_si512(columns), right = (__m512bh)_mm512_loadu_si512(columns + BLOCK);
        for (int64_t r = 0; r < GROUP; r++) {
          int32_t both;
          std::memcpy(&both, rows + r * BLOCK + pair, sizeof both);
          const auto row = (__m512bh)_mm512_set1_epi32(both);
          sums[r] = {_mm512_dpbf16_ps(sums[r].left, row, left), _mm512_dpbf16_ps(sums[r].right, row, right)};
        }
      }
    for (int64_t r = 0; r < GROUP; r++) sums[r].store(products + (first + r) * BLOCK);
    work(first, first + GROUP);
  }
}

}  // namespace edp
