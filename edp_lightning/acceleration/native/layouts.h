// How bfloat16 matrices lie in memory to be multiplied.
//
// Left factors lie in "tiles": 16 rows and 32 columns, row tile by row tile, as AMX's tile registers read them. Right factors
// lie in "panels" of 32 columns, in which two rows lie side by side, as the processor takes them. Both are padded with zeros to
// multiples of 32.

#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>

namespace edp {

constexpr int64_t TILE = 16;   // rows of a tile register, and floats of a vector register
constexpr int64_t BLOCK = 32;  // rows and columns that are multiplied at once, and columns of a bfloat16 tile
constexpr int64_t LINE = 64;   // bytes of a row of a tile, and of a cache line

inline int64_t padded(int64_t n) { return (n + BLOCK - 1) / BLOCK * BLOCK; }

// Where an element of tiles lies; width is the padded number of columns.
inline int64_t in_tiles(int64_t row, int64_t column, int64_t width) {
  return row / TILE * TILE * width + column / BLOCK * TILE * BLOCK + row % TILE * BLOCK + column % BLOCK;
}

// Memory that begins with a cache line; not initialised.
template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t size) : memory_(new T[size + LINE / sizeof(T)]) {}
  T* data() const {
    const auto address = reinterpret_cast<uintptr_t>(memory_.get());
    return reinterpret_cast<T*>((address + LINE - 1) / LINE * LINE);
  }

 private:
  std::unique_ptr<T[]> memory_;
};

// The first `count` lanes; none, all or some.
inline __mmask16 lanes(int64_t count) { return count >= TILE ? 0xffff : count <= 0 ? 0 : (1 << count) - 1; }

// A row of 32 floats of a block.
struct Row {
  __m512 left, right;

  static Row load(const float* from) { return {_mm512_loadu_ps(from), _mm512_loadu_ps(from + TILE)}; }
  static Row load(const float* from, int64_t count) {
    return {_mm512_maskz_loadu_ps(lanes(count), from), _mm512_maskz_loadu_ps(lanes(count - TILE), from + TILE)};
  }
  static Row load(const uint16_t* from) {
    const auto wide = [](const uint16_t* half) {
      const __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(half)));
      return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
    };
    return {wide(from), wide(from + TILE)};
  }

  void store(float* to) const {
    _mm512_storeu_ps(to, left);
    _mm512_storeu_ps(to + TILE, right);
  }
  void store(float* to, int64_t count) const {
    _mm512_mask_storeu_ps(to, lanes(count), left);
    _mm512_mask_storeu_ps(to + TILE, lanes(count - TILE), right);
  }
  void store(uint16_t* to) const { _mm512_storeu_si512(to, rounded(left, right)); }

  // bfloat16 numbers, to the nearest.
  static __m512i rounded(__m512 first, __m512 second) { return (__m512i)_mm512_cvtne2ps_pbh(second, first); }
  float sum() const { return _mm512_reduce_add_ps(left + right); }

  Row operator+(const Row& other) const { return {left + other.left, right + other.right}; }
  Row operator*(const Row& other) const { return {left * other.left, right * other.right}; }
};

inline Row broadcast(float value) { return {_mm512_set1_ps(value), _mm512_set1_ps(value)}; }

// Two rows of a panel: 32 pairs.
struct Pairs {
  __m512i left, right;

  static Pairs of(const Row& upper, const Row& lower) {
    return {merge(upper.left, lower.left), merge(upper.right, lower.right)};
  }
  void store(uint16_t* to) const {
    _mm512_storeu_si512(to, left);
    _mm512_storeu_si512(to + BLOCK, right);
  }

 private:
  static __m512i merge(__m512 upper, __m512 lower) {
    alignas(LINE) static constexpr uint16_t ORDER[BLOCK] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                            8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    return _mm512_permutexvar_epi16(_mm512_load_si512(ORDER), Row::rounded(upper, lower));
  }
};

// Transposes 16 rows of 16 elements of 32 bits.
inline void transpose(__m512i (&rows)[TILE]) {
  __m512i next[TILE];
  for (int i = 0; i < 16; i += 2) {
    next[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    next[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    rows[i] = _mm512_unpacklo_epi64(next[i], next[i + 2]);
    rows[i + 1] = _mm512_unpackhi_epi64(next[i], next[i + 2]);
    rows[i + 2] = _mm512_unpacklo_epi64(next[i + 1], next[i + 3]);
    rows[i + 3] = _mm512_unpackhi_epi64(next[i + 1], next[i + 3]);
  }
  for (int i = 0; i < 4; i++) {
    next[i] = _mm512_shuffle_i32x4(rows[i], rows[4 + i], 0x88);
    next[4 + i] = _mm512_shuffle_i32x4(rows[i], rows[4 + i], 0xdd);
    next[8 + i] = _mm512_shuffle_i32x4(rows[8 + i], rows[12 + i], 0x88);
    next[12 + i] = _mm512_shuffle_i32x4(rows[8 + i], rows[12 + i], 0xdd);
  }
  for (int i = 0; i < 4; i++) {
    rows[i] = _mm512_shuffle_i32x4(next[i], next[8 + i], 0x88);
    rows[8 + i] = _mm512_shuffle_i32x4(next[i], next[8 + i], 0xdd);
    rows[4 + i] = _mm512_shuffle_i32x4(next[4 + i], next[12 + i], 0x88);
    rows[12 + i] = _mm512_shuffle_i32x4(next[4 + i], next[12 + i], 0xdd);
  }
}

// Writes a matrix (rows, columns) of floats as tiles, padded.
inline void write_tiles(const float* matrix, int64_t rows, int64_t columns, uint16_t* tiles) {
  for (int64_t r = 0; r < padded(rows); r++)
    for (int64_t j = 0; j < columns; j += BLOCK)
      Row::load(matrix + r * columns + j, r < rows ? columns - j : 0).store(tiles + in_tiles(r, j, padded(columns)));
}

// Writes a matrix (rows, columns) of floats as panels, padded.
inline void write_panels(const float* matrix, int64_t rows, int64_t columns, uint16_t* panels) {
  for (int64_t j = 0; j < columns; j += BLOCK)
    for (int64_t i = 0; i < padded(rows); i += 2, panels += 2 * BLOCK) {
      const float* from = matrix + i * columns + j;
      const Row upper = Row::load(from, i < rows ? columns - j : 0);
      Pairs::of(upper, Row::load(from + columns, i + 1 < rows ? columns - j : 0)).store(panels);
    }
}

// Writes a matrix (rows, columns) of floats, transposed, as tiles that are `width` columns wide: padded(columns) rows of
// padded(rows) columns. Row r begins at matrix + r * stride.
inline void write_transposed_tiles(const float* matrix, int64_t rows, int64_t columns, int64_t stride, uint16_t* tiles,
                                   int64_t width) {
  for (int64_t r = 0; r < rows; r += BLOCK)
    for (int64_t j = 0; j < columns; j += BLOCK) {
      __m512i left[TILE], right[TILE];
      for (int64_t i = 0; i < TILE; i++) {
        const int64_t row = r + 2 * i;
        const float* from = matrix + row * stride + j;
        const Row upper = Row::load(from, row < rows ? columns - j : 0);
        const Pairs pairs = Pairs::of(upper, Row::load(from + stride, row + 1 < rows ? columns - j : 0));
        left[i] = pairs.left;
        right[i] = pairs.right;
      }
      transpose(left);
      transpose(right);
      for (int64_t i = 0; i < TILE; i++) {
        _mm512_storeu_si512(tiles + in_tiles(j + i, r, width), left[i]);
        _mm512_storeu_si512(tiles + in_tiles(j + TILE + i, r, width), right[i]);
      }
    }
}

// Writes a matrix (rows, columns) of floats, transposed, as panels: padded(columns) rows of padded(rows) columns.
inline void write_transposed_panels(const float* matrix, int64_t rows, int64_t columns, uint16_t* panels) {
  for (int64_t r = 0; r < rows; r += BLOCK)
    for (int64_t j = 0; j < columns; j += BLOCK) {
      uint16_t* to = panels + r * padded(columns) + j * BLOCK;
      for (int64_t half = 0; half < 2; half++) {
        __m512i pairs[TILE];
        for (int64_t i = 0; i < TILE; i++) {
          const int64_t row = r + half * TILE + i;
          const Row found = Row::load(matrix + row * columns + j, row < rows ? columns - j : 0);
          pairs[i] = Row::rounded(found.left, found.right);
        }
        transpose(pairs);
        for (int64_t i = 0; i < TILE; i++) _mm512_storeu_si512(to + i * 2 * BLOCK + half * BLOCK, pairs[i]);
      }
    }
}

}  // namespace edp
