// Products of bfloat16 matrices. One thread, one processor core.

#pragma once

#ifdef __AMX_BF16__
#include "amx.h"
#else
#include "avx512.h"
#endif

namespace edp {

// Multiplies tiles (rows, k) and panels (k, columns) block by block; rows and columns are padded. `finish` is called with the
// first row and column of a block, its products, and ranges of its rows.
template <typename Finish>
inline void multiply_all(const uint16_t* tiles, int64_t rows, const uint16_t* panels, int64_t columns, int64_t k,
                         const Finish& finish) {
  alignas(LINE) float products[2][BLOCK * BLOCK];
  int64_t row = -1, column = 0, turn = 0;
  const auto finish_last = [&](int64_t from, int64_t to) {
    if (row >= 0) finish(row, column, products[1 - turn], from, to);
  };
  for (int64_t j = 0; j < columns; j += BLOCK)
    for (int64_t i = 0; i < rows; i += BLOCK, turn = 1 - turn) {
      multiply(tiles + i * k, panels + j * k, k, products[turn], finish_last);
      row = i;
      column = j;
    }
  finish_last(0, BLOCK);
}

}  // namespace edp
