// Forward pass of an ensemble of perceptrons with Mish activations, hidden layers in bfloat16, for processors with AMX.
//
// A few rows at a time go through all layers of one member, so that weights and activations stay in the second-level cache, and
// the activations of one block are computed while the tile unit multiplies the next. Activations lie in the order in which tile
// registers read them: tiles of 16 rows and 32 columns, row tile by row tile. Widths are padded with zeros to multiples of 32,
// which changes nothing: a padded unit has no weights and mish(0) = 0.

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>

namespace {

constexpr int64_t TILE = 16;        // rows of a tile register; it has 16 float or 32 bfloat16 columns
constexpr int64_t BLOCK = 32;       // rows and columns that are multiplied at once, and columns of a bfloat16 tile
constexpr int64_t ROWS = 128;       // rows that go through the layers together
constexpr int64_t STRIDE = 64;      // bytes of a row of a tile, and of a cache line

constexpr int64_t LANES = 16;       // floats of a vector register

// Width of the output layer's weights as they are kept.
int64_t head_stride(int64_t outputs) { return outputs == 1 ? 1 : (outputs + LANES - 1) / LANES * LANES; }

int64_t padded(int64_t n) { return (n + BLOCK - 1) / BLOCK * BLOCK; }

// Where an activation lies; width is a multiple of 32.
int64_t place(int64_t row, int64_t column, int64_t width) {
  return row / TILE * TILE * width + column / BLOCK * TILE * BLOCK + row % TILE * BLOCK + column % BLOCK;
}

uint32_t bits(float value) {
  uint32_t out;
  std::memcpy(&out, &value, sizeof out);
  return out;
}

float from_bits(uint32_t value) {
  float out;
  std::memcpy(&out, &value, sizeof out);
  return out;
}

// bfloat16 is the upper half of the result.
uint32_t rounded(float value) { return bits(value) + 0x8000; }

// Mish to a relative error of 4e-6. With n = e^x it is x (n^2 + 2n) / (n^2 + 2n + 2). Of x log2(e) the integer part becomes the
// exponent of n, 2 to the rest is a polynomial (least largest relative error on [-1/2, 1/2]).
inline float mish(float x) {
  const float y = std::max(std::min(x * 1.44269504f, 20.0f), -125.0f);  // beyond, mish(x) is x or 0 in float32
  const float shifted = y + 12582912.0f;  // 1.5 * 2^23: what is left of y is rounded to an integer
  const float rest = y - (shifted - 12582912.0f);
  float power = 9.570101968e-03f;
  power = power * rest + 5.591786076e-02f;
  power = power * rest + 2.402474483e-01f;
  power = power * rest + 6.931218147e-01f;
  power = power * rest + 9.999992614e-01f;
  const float n = from_bits(bits(power) + (bits(shifted) << 23));
  const float sum = n * n + (n + n);
  return x * (sum / (sum + 2.0f));
}

// Memory that begins with a cache line; not initialised.
template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t size) : memory_(new T[size + STRIDE / sizeof(T)]) {}
  T* data() const {
    const auto address = reinterpret_cast<uintptr_t>(memory_.get());
    return reinterpret_cast<T*>((address + STRIDE - 1) / STRIDE * STRIDE);
  }

 private:
  std::unique_ptr<T[]> memory_;
};

// The output layer, in float32: of one output, or of several.
inline float dot(const float* activated, const float* weight) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t c = 0; c < BLOCK; c++) sum += activated[c] * weight[c];
  return sum;
}

inline void add_products(const float* activated, const float* weight, int64_t num_outputs, float* outputs) {
  const int64_t stride = head_stride(num_outputs);
  for (int64_t o = 0; o < num_outputs; o += LANES) {
    __m512 sums[4] = {};  // that do not wait for each other
    for (int64_t c = 0; c < BLOCK; c += 4)
      for (int64_t i = 0; i < 4; i++)
        sums[i] = _mm512_fmadd_ps(_mm512_set1_ps(activated[c + i]), _mm512_load_ps(weight + (c + i) * stride + o), sums[i]);
    const __m512 sum = _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]));
    const __mmask16 given = num_outputs - o < LANES ? (1 << (num_outputs - o)) - 1 : 0xffff;
    _mm512_mask_storeu_ps(outputs + o, given, _mm512_add_ps(_mm512_maskz_loadu_ps(given, outputs + o), sum));
  }
}

// A block of products of one layer, before bias and activation.
struct Block {
  alignas(STRIDE) float products[BLOCK * BLOCK];
  const float* bias = nullptr;   // of its columns
  uint16_t* out = nullptr;       // its first tile among the activations, unless it belongs to the last hidden layer
  int64_t below = 0;             // from there to the tile below
  const float* head = nullptr;   // else: weights of its columns in the output layer, (32, num_outputs padded to LANES)
  float* outputs = nullptr;      // its rows of the result
  int64_t num_outputs = 0;
  int64_t rows = 0;              // of them that exist

  void clear() { out = nullptr, head = nullptr; }

  // Works off some of its rows; nothing if it is clear.
  void finish(int64_t from, int64_t to) const {
    if (out) {
      for (int64_t r = from; r < to; r++) {
        const float* x = products + r * BLOCK;
        uint16_t* tile = out + r / TILE * below + r % TILE * BLOCK;
        for (int64_t c = 0; c < BLOCK; c++) tile[c] = rounded(mish(x[c] + bias[c])) >> 16;
      }
    } else if (head) {
      for (int64_t r = from; r < std::min(to, rows); r++) {
        const float* x = products + r * BLOCK;
        float activated[BLOCK];
        for (int64_t c = 0; c < BLOCK; c++) activated[c] = mish(x[c] + bias[c]);
        if (num_outputs == 1)
          outputs[r] += dot(activated, head);
        else
          add_products(activated, head, num_outputs, outputs + r * num_outputs);
      }
    }
  }
};

// Fills a block with products of 32 rows of activations and 32 columns of weights, and finishes the block before it meanwhile.
inline void multiply(const uint16_t* rows, const uint16_t* columns, int64_t k, float* products, const Block& before) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  const int64_t steps = k / BLOCK;
  for (int64_t step = 0; step < steps; step++) {
    _tile_loadd(4, rows + step * TILE * BLOCK, STRIDE);
    _tile_loadd(5, rows + (k + step * BLOCK) * TILE, STRIDE);
    _tile_loadd(6, columns + step * BLOCK * BLOCK, 2 * STRIDE);
    _tile_loadd(7, columns + step * BLOCK * BLOCK + BLOCK, 2 * STRIDE);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    before.finish(BLOCK * step / steps, BLOCK * (step + 1) / steps);
  }
  _tile_stored(0, products, 2 * STRIDE);
  _tile_stored(1, products + TILE, 2 * STRIDE);
  _tile_stored(2, products + TILE * BLOCK, 2 * STRIDE);
  _tile_stored(3, products + TILE * BLOCK + TILE, 2 * STRIDE);
}

// Rounds weights (k, n) to bfloat16 in panels of 32 columns; two rows lie side by side, as the tile unit takes them.
void pack(const float* weight, int64_t k, int64_t n, uint32_t* out) {
  for (int64_t j = 0; j < n; j += BLOCK) {
    const int64_t width = std::min(BLOCK, n - j);
    for (int64_t i = 0; i < padded(k); i += 2, out += BLOCK) {
      const float* upper = weight + i * n + j;
      const float* lower = upper + n;
      if (width == BLOCK && i + 1 < k) {
        for (int64_t c = 0; c < BLOCK; c++) out[c] = rounded(upper[c]) >> 16 | (rounded(lower[c]) & 0xffff0000);
      } else {
        for (int64_t c = 0; c < BLOCK; c++) {
          out[c] = c < width && i < k ? rounded(upper[c]) >> 16 : 0;
          if (c < width && i + 1 < k) out[c] |= rounded(lower[c]) & 0xffff0000;
        }
      }
    }
  }
}

void configure_tiles() {
  struct {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  } config;
  for (int tile = 0; tile < 8; tile++) {
    config.row_bytes[tile] = STRIDE;
    config.rows[tile] = TILE;
  }
  _tile_loadconfig(&config);
}

struct Network {
  int64_t members, layers;       // hidden layers
  const int64_t* widths;         // input, hidden layers, output
  const float* const* weights;   // (members, in, out) of each layer
  const float* const* biases;    // (members, out)
  int64_t inputs() const { return widths[0]; }
  int64_t last() const { return widths[layers]; }
  int64_t outputs() const { return widths[layers + 1]; }
  int64_t widest() const { return padded(*std::max_element(widths, widths + layers + 1)); }
  int64_t packed() const {
    int64_t size = 0;
    for (int64_t l = 0; l < layers; l++) size += padded(widths[l]) * padded(widths[l + 1]);
    return size;
  }
  int64_t units() const {
    int64_t size = 0;
    for (int64_t l = 0; l < layers; l++) size += padded(widths[l + 1]);
    return size;
  }
};

// One member's parameters as the passes want them, and activations of one thread.
class Worker {
 public:
  explicit Worker(const Network& net)
      : net_(net), weights_(net.packed()), biases_(net.units()), head_(padded(net.last()) * head_stride(net.outputs())),
        first_(ROWS * net.widest()), second_(ROWS * net.widest()) {}

  void take(int64_t member) {
    uint16_t* weight = weights_.data();
    float* bias = biases_.data();
    for (int64_t l = 0; l < net_.layers; l++) {
      const int64_t k = net_.widths[l], n = net_.widths[l + 1];
      pack(net_.weights[l] + member * k * n, k, n, reinterpret_cast<uint32_t*>(weight));
      std::fill(std::copy_n(net_.biases[l] + member * n, n, bias), bias + padded(n), 0.0f);
      weight += padded(k) * padded(n);
      bias += padded(n);
    }
    const int64_t last = net_.last(), outputs = net_.outputs(), stride = head_stride(outputs);
    const float* head = net_.weights[net_.layers] + member * last * outputs;
    std::fill_n(head_.data(), padded(last) * stride, 0.0f);
    for (int64_t i = 0; i < last; i++) std::copy_n(head + i * outputs, outputs, head_.data() + i * stride);
    head_bias_ = net_.biases[net_.layers] + member * outputs;
  }

  // `inputs` are tiles, `count` (at most ROWS) of their rows exist.
  void run(const uint16_t* inputs, int64_t count, float* outputs) {
    for (int64_t r = 0; r < count; r++) std::copy_n(head_bias_, net_.outputs(), outputs + r * net_.outputs());
    const uint16_t* weight = weights_.data();
    const float* bias = biases_.data();
    uint16_t *out = first_.data(), *other = second_.data();
    int64_t k = padded(net_.inputs()), turn = 0;
    for (int64_t l = 0; l < net_.layers; l++) {
      const int64_t n = padded(net_.widths[l + 1]);
      blocks_[1 - turn].clear();
      for (int64_t j = 0; j < n; j += BLOCK, weight += BLOCK * k) {
        for (int64_t i = 0; i < count; i += BLOCK, turn = 1 - turn) {
          Block& block = blocks_[turn];
          multiply(inputs + i * k, weight, k, block.products, blocks_[1 - turn]);
          block.bias = bias + j;
          if (l + 1 < net_.layers) {
            block.out = out + place(i, j, n);
            block.below = TILE * n;
          } else {
            block.out = nullptr;
            block.head = head_.data() + j * head_stride(net_.outputs());
            block.outputs = outputs + i * net_.outputs();
            block.num_outputs = net_.outputs();
            block.rows = count - i;
          }
        }
      }
      blocks_[1 - turn].finish(0, BLOCK);
      inputs = out;
      std::swap(out, other);
      bias += n;
      k = n;
    }
  }

 private:
  const Network& net_;
  Buffer<uint16_t> weights_;
  Buffer<float> biases_, head_;
  Buffer<uint16_t> first_, second_;
  const float* head_bias_ = nullptr;
  Block blocks_[2];
};

}  // namespace

extern "C" {

// Asks the system for the tile registers; must be called before anything else. Returns whether they can be used.
int edp_enable() {
  constexpr int REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
  return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

// rows: (num_rows, in). outputs: (members, num_rows, out). There is at least one hidden layer.
void edp_forward(const float* rows, int64_t num_rows, int64_t members, int64_t layers, const int64_t* widths,
                 const float* const* weights, const float* const* biases, int64_t threads, float* outputs) {
  const Network net{members, layers, widths, weights, biases};
  const int64_t in = net.inputs(), width = padded(in);
  Buffer<uint16_t> tiles(padded(num_rows) * width);
  for (int64_t r = 0; r < num_rows; r++) {
    for (int64_t j = 0; j < width; j += BLOCK) {
      uint16_t* tile = tiles.data() + place(r, j, width);
      const int64_t given = std::min(BLOCK, in - j);
      for (int64_t c = 0; c < given; c++) tile[c] = rounded(rows[r * in + j + c]) >> 16;
      std::fill(tile + given, tile + BLOCK, 0);
    }
  }
  // Few members: each one's rows are shared out, so that all threads have the same to do.
  const int64_t shares = members >= 4 * threads ? 1 : threads / std::gcd(members, threads);
  const int64_t share = padded((num_rows + shares - 1) / shares);
#pragma omp parallel num_threads(threads)
  {
    configure_tiles();
    Worker worker(net);
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < members * shares; task++) {
      const int64_t member = task / shares, begin = task % shares * share, end = std::min(num_rows, begin + share);
      if (begin < end) worker.take(member);
      for (int64_t r = begin; r < end; r += ROWS)
        worker.run(tiles.data() + r * width, std::min(ROWS, end - r), outputs + (member * num_rows + r) * net.outputs());
    }
    _tile_release();
  }
}
}
