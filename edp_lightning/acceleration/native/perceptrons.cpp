// Values and gradients of an ensemble of perceptrons, hidden layers in bfloat16, for processors with AMX or AVX-512 BF16.
//
// A few rows at a time go through all layers of one member, so that weights and activations stay in the second-level cache.

#include "perceptrons.h"

#include "gradients.h"

namespace {

using namespace edp;

constexpr int64_t ROWS = 128;  // that go through the layers together

// Width of the output layer's weights as they are kept: of one output side by side, of several in rows of whole vectors.
int64_t head_stride(int64_t outputs) { return outputs == 1 ? 1 : (outputs + TILE - 1) / TILE * TILE; }

// Adds activations (32,) times weights (32, outputs), in float32.
inline void add_outputs(const Row& activated, const float* weight, int64_t outputs, float* sums) {
  if (outputs == 1) {
    *sums += (activated * Row::load(weight)).sum();
    return;
  }
  alignas(LINE) float values[BLOCK];
  activated.store(values);
  const int64_t stride = head_stride(outputs);
  for (int64_t o = 0; o < outputs; o += TILE) {
    __m512 chains[4] = {};  // that do not wait for each other
    for (int64_t c = 0; c < BLOCK; c += 4)
      for (int64_t i = 0; i < 4; i++)
        chains[i] = _mm512_fmadd_ps(_mm512_set1_ps(values[c + i]), _mm512_load_ps(weight + (c + i) * stride + o), chains[i]);
    const __m512 sum = (chains[0] + chains[1]) + (chains[2] + chains[3]);
    const __mmask16 given = lanes(outputs - o);
    _mm512_mask_storeu_ps(sums + o, given, _mm512_maskz_loadu_ps(given, sums + o) + sum);
  }
}

// One member's parameters, and activations, of one thread.
class Worker {
 public:
  explicit Worker(const Network& net)
      : net_(net),
        panels_(net.panels(net.layers)),
        head_(padded(net.last()) * head_stride(net.out())),
        first_(ROWS * net.widest()),
        second_(ROWS * net.widest()) {}

  void take(int64_t member) {
    member_ = member;
    net_.write_hidden(member, panels_.data());
    const int64_t stride = head_stride(net_.out());
    std::fill_n(head_.data(), padded(net_.last()) * stride, 0.0f);
    for (int64_t i = 0; i < net_.last(); i++)
      std::copy_n(net_.weight(net_.layers, member) + i * net_.out(), net_.out(), head_.data() + i * stride);
  }

  // `inputs` are tiles of which `count` rows exist, at most ROWS.
  void run(const uint16_t* inputs, int64_t count, float* outputs) {
    const int64_t num_outputs = net_.out(), rows = padded(count);
    for (int64_t r = 0; r < count; r++) std::copy_n(net_.bias(net_.layers, member_), num_outputs, outputs + r * num_outputs);
    uint16_t *out = first_.data(), *other = second_.data();
    for (int64_t l = 0; l < net_.layers; l++) {
      const int64_t k = padded(net_.widths[l]), width = net_.widths[l + 1], n = padded(width);
      const float* bias = net_.bias(l, member_);
      const bool last = l + 1 == net_.layers;
      multiply_all(inputs, rows, panels_.data() + net_.panels(l), n, k,
                   [=](int64_t i, int64_t j, const float* products, int64_t from, int64_t to) {
                     const Row shift = Row::load(bias + j, width - j);
                     for (int64_t r = from; r < (last ? std::min(to, count - i) : to); r++) {
                       const Row x = Row::load(products + r * BLOCK) + shift;
                       const Row activated{mish(x.left), mish(x.right)};
                       if (last)
                         add_outputs(activated, head_.data() + j * head_stride(num_outputs), num_outputs,
                                     outputs + (i + r) * num_outputs);
                       else
                         activated.store(out + in_tiles(i + r, j, n));
                     }
                   });
      inputs = out;
      std::swap(out, other);
    }
  }

 private:
  const Network& net_;
  Buffer<uint16_t> panels_;
  Buffer<float> head_;
  Buffer<uint16_t> first_, second_;
  int64_t member_ = 0;
};

}  // namespace

extern "C" {

// Must be called before anything else. Returns whether the processor and the system allow the rest.
int edp_enable() { return enable_products(); }

// inputs: (rows, in). outputs: (members, rows, out).
void edp_forward(const float* inputs, int64_t rows, int64_t members, int64_t layers, const int64_t* widths,
                 const float* const* weights, const float* const* biases, int64_t threads, float* outputs) {
  const Network net{members, layers, widths, weights, biases};
  const int64_t width = padded(net.in());
  Buffer<uint16_t> tiles(padded(rows) * width);
  write_tiles(inputs, rows, net.in(), tiles.data());
  for_all(net, rows, equal_shares(members, threads), threads, [&] {
    return [&, worker = std::make_shared<Worker>(net)](int64_t member, int64_t begin, int64_t end) {
      worker->take(member);
      for (int64_t r = begin; r < end; r += ROWS)
        worker->run(tiles.data() + r * width, std::min(ROWS, end - r), outputs + (member * rows + r) * net.out());
    };
  });
}
// inputs: (rows, in). values: (members, rows). With targets (members, rows) the gradients of scale / 2 (value - target)^2,
// summed over rows, by all parameters; else those of the values by the last action_dim inputs, (members, rows, action_dim).
void edp_gradients(const float* inputs, int64_t rows, int64_t members, int64_t layers, const int64_t* widths,
                   const float* const* weights, const float* const* biases, int64_t threads, const float* targets, float scale,
                   float* const* weight_gradients, float* const* bias_gradients, int64_t action_dim, float* action_gradients,
                   float* values) {
  const Network net{members, layers, widths, weights, biases};
  const Wanted wanted{targets, scale, weight_gradients, bias_gradients, action_dim, action_gradients, values};
  const int64_t in = net.in(), width = padded(in);
  Buffer<uint16_t> tiles(padded(rows) * width), transposed(padded(rows) * width);
  write_tiles(inputs, rows, in, tiles.data());
  for (int64_t r = 0; wanted.parameters() && r < rows; r += GRADIENT_ROWS) {
    const int64_t count = std::min(GRADIENT_ROWS, rows - r);
    write_transposed_tiles(inputs + r * in, count, in, in, transposed.data() + r * width, padded(count));
  }
  const int64_t shares = wanted.parameters() ? 1 : equal_shares(members, threads);  // gradients are sums over rows
  for_all(net, rows, shares, threads, [&] {
    return [&, worker = std::make_shared<GradientWorker>(net, wanted, rows)](int64_t member, int64_t begin, int64_t end) {
      worker->take(member);
      for (int64_t r = begin; r < end; r += GRADIENT_ROWS)
        worker->run(tiles.data() + r * width, transposed.data() + r * width, r, std::min(GRADIENT_ROWS, end - r));
    };
  });
}
}
