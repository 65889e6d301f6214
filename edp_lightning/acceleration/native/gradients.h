// Values and gradients of critics: perceptrons with one output.

#pragma once

#include "perceptrons.h"

namespace edp {

constexpr int64_t GRADIENT_ROWS = 256;  // that go forward and backward together

// What is wanted; arrays begin with the members.
struct Wanted {
  const float* targets;  // (members, rows): gradients of scale / 2 (value - target)^2 by the parameters, or
  float scale;
  float* const* weights;  // like the network's
  float* const* biases;
  int64_t action_dim;  // without targets: of the value by the last inputs
  float* actions;      // (members, rows, action_dim)
  float* values;       // (members, rows)

  bool parameters() const { return targets != nullptr; }
};

// Works on one member after the other.
class GradientWorker {
 public:
  GradientWorker(const Network& net, const Wanted& wanted, int64_t rows)
      : net_(net),
        wanted_(wanted),
        rows_(rows),
        size_(GRADIENT_ROWS * net.widest()),
        panels_(net.panels(net.layers)),
        transposed_(net.panels(net.layers)),
        derivatives_(net.layers * size_),
        inputs_(net.layers * size_),
        activations_{Buffer<uint16_t>(size_), Buffer<uint16_t>(size_)},
        gradient_tiles_{Buffer<uint16_t>(size_), Buffer<uint16_t>(size_)},
        gradient_panels_{Buffer<uint16_t>(size_), Buffer<uint16_t>(size_)},
        head_(padded(net.last())),
        bias_sums_(net.widest()),
        output_gradients_(GRADIENT_ROWS) {}

  void take(int64_t member) {
    member_ = member;
    net_.write_hidden(member, panels_.data());
    for (int64_t l = 1; l < net_.layers; l++)
      write_transposed_panels(net_.weight(l, member), net_.widths[l], net_.widths[l + 1], transposed_.data() + net_.panels(l));
    if (!wanted_.parameters())
      write_transposed_panels(net_.weight(0, member) + (net_.in() - wanted_.action_dim) * net_.widths[1], wanted_.action_dim,
                              net_.widths[1], transposed_.data());
    std::fill_n(head_.data(), padded(net_.last()), 0.0f);
    std::copy_n(net_.weight(net_.layers, member), net_.last(), head_.data());
  }

  // Rows from `begin`, at most GRADIENT_ROWS: as tiles, and transposed as tiles that are padded(count) wide. Parameters'
  // gradients are added up over calls from the first row on.
  void run(const uint16_t* rows, const uint16_t* transposed_rows, int64_t begin, int64_t count) {
    begin_ = begin;
    count_ = count;
    padded_ = padded(count);
    forward(rows);
    differentiate_outputs();
    for (int64_t l = net_.layers - 1; l >= 0; l--) backward(l, l == 0 ? transposed_rows : inputs_.data() + l * size_);
  }

 private:
  float* values() const { return wanted_.values + member_ * rows_ + begin_; }
  uint16_t* derivatives(int64_t layer) const { return derivatives_.data() + layer * size_; }

  // Blocks of 32 x 32 lie one after the other.
  static int64_t in_blocks(int64_t row, int64_t column, int64_t width) {
    return row / BLOCK * BLOCK * width + column * BLOCK + row % BLOCK * BLOCK;
  }

  void forward(const uint16_t* inputs) {
    std::fill_n(values(), count_, *net_.bias(net_.layers, member_));
    for (int64_t l = 0; l < net_.layers; l++) {
      const int64_t width = net_.widths[l + 1], n = padded(width);
      const bool last = l + 1 == net_.layers;
      const float* bias = net_.bias(l, member_);
      uint16_t* out = activations_[l % 2].data();
      alignas(LINE) float block[BLOCK * BLOCK];
      multiply_all(inputs, padded_, panels_.data() + net_.panels(l), n, padded(net_.widths[l]),
                   [&](int64_t i, int64_t j, const float* products, int64_t from, int64_t to) {
                     const Row shift = Row::load(bias + j, width - j), head = last ? Row::load(head_.data() + j) : shift;
                     for (int64_t r = from; r < to; r++) {
                       const Row x = Row::load(products + r * BLOCK) + shift;
                       Row activated, derivative;
                       activated.left = mish(x.left, derivative.left);
                       activated.right = mish(x.right, derivative.right);
                       derivative.store(derivatives(l) + in_blocks(i + r, j, n));
                       if (last) {
                         activated.store(out + in_blocks(i + r, j, n));
                         if (i + r < count_) values()[i + r] += (activated * head).sum();
                       } else {
                         activated.store(out + in_tiles(i + r, j, n));
                         activated.store(block + r * BLOCK);
                       }
                     }
                     if (!last && wanted_.parameters() && to == BLOCK && from < to)
                       write_transposed_tiles(block, BLOCK, BLOCK, BLOCK,
                                              inputs_.data() + (l + 1) * size_ + in_tiles(j, i, padded_), padded_);
                   });
      inputs = out;
    }
  }

  // The output layer's gradients, and by the last hidden layer's sums.
  void differentiate_outputs() {
    const int64_t last = net_.layers - 1, width = net_.last(), n = padded(width);
    float* by_value = output_gradients_.data();
    std::fill_n(by_value, padded_, 0.0f);
    const float* targets = wanted_.parameters() ? wanted_.targets + member_ * rows_ + begin_ : nullptr;
    for (int64_t r = 0; r < count_; r++) by_value[r] = targets ? (values()[r] - targets[r]) * wanted_.scale : 1.0f;
    if (targets) {
      const uint16_t* activated = activations_[last % 2].data();
      for (int64_t j = 0; j < n; j += BLOCK) {
        Row sum = broadcast(0.0f);
        for (int64_t r = 0; r < padded_; r++) sum = sum + Row::load(activated + in_blocks(r, j, n)) * broadcast(by_value[r]);
        add(sum, wanted_.weights[net_.layers] + member_ * width + j, width - j);
      }
      const float total = std::accumulate(by_value, by_value + count_, 0.0f);
      float& bias = wanted_.biases[net_.layers][member_];
      bias = begin_ == 0 ? total : bias + total;
    }
    start_sums(n);
    for (int64_t j = 0; j < n; j += BLOCK) {
      const Row head = Row::load(head_.data() + j);
      for (int64_t r = 0; r < padded_; r += 2) {
        const uint16_t* derivative = derivatives(last) + in_blocks(r, j, n);
        put(last, r, j, broadcast(by_value[r]) * head * Row::load(derivative),
            broadcast(by_value[r + 1]) * head * Row::load(derivative + BLOCK));
      }
    }
    add_sums(last);
  }

  // From the gradients by a layer's sums to those by its parameters and by the sums of the layer before, or by the actions.
  void backward(int64_t layer, const uint16_t* transposed_inputs) {
    const int64_t k = net_.widths[layer], width = net_.widths[layer + 1], n = padded(width);
    const uint16_t *tiles = gradient_tiles_[layer % 2].data(), *panels = gradient_panels_[layer % 2].data();
    if (wanted_.parameters()) {
      float* gradient = wanted_.weights[layer] + member_ * k * width;
      multiply_all(transposed_inputs, padded(k), panels, n, padded_,
                   [&](int64_t i, int64_t j, const float* products, int64_t from, int64_t to) {
                     for (int64_t r = from; r < std::min(to, k - i); r++)
                       add(Row::load(products + r * BLOCK), gradient + (i + r) * width + j, width - j);
                   });
    }
    if (layer > 0) {
      start_sums(padded(k));
      multiply_all(tiles, padded_, transposed_.data() + net_.panels(layer), padded(k), n,
                   [&](int64_t i, int64_t j, const float* products, int64_t from, int64_t to) {
                     for (int64_t r = from; r < to; r += 2) {
                       const uint16_t* derivative = derivatives(layer - 1) + in_blocks(i + r, j, padded(k));
                       put(layer - 1, i + r, j, Row::load(products + r * BLOCK) * Row::load(derivative),
                           Row::load(products + (r + 1) * BLOCK) * Row::load(derivative + BLOCK));
                     }
                   });
      add_sums(layer - 1);
    } else if (!wanted_.parameters()) {
      float* actions = wanted_.actions + (member_ * rows_ + begin_) * wanted_.action_dim;
      multiply_all(
          tiles, padded_, transposed_.data(), padded(wanted_.action_dim), n,
          [&](int64_t i, int64_t j, const float* products, int64_t from, int64_t to) {
            for (int64_t r = from; r < std::min(to, count_ - i); r++)
              Row::load(products + r * BLOCK).store(actions + (i + r) * wanted_.action_dim + j, wanted_.action_dim - j);
          });
    }
  }

  // Keeps the gradients by a layer's sums of rows `row` and `row + 1` for the products to come.
  void put(int64_t layer, int64_t row, int64_t column, const Row& upper, const Row& lower) {
    const int64_t n = padded(net_.widths[layer + 1]);
    if (layer > 0 || !wanted_.parameters()) {
      upper.store(gradient_tiles_[layer % 2].data() + in_tiles(row, column, n));
      lower.store(gradient_tiles_[layer % 2].data() + in_tiles(row + 1, column, n));
    }
    if (wanted_.parameters()) {
      Pairs::of(upper, lower).store(gradient_panels_[layer % 2].data() + column * padded_ + row * BLOCK);
      float* sums = bias_sums_.data() + column;
      (Row::load(sums) + upper + lower).store(sums);
    }
  }

  void start_sums(int64_t n) { std::fill_n(bias_sums_.data(), n, 0.0f); }

  void add_sums(int64_t layer) {
    if (!wanted_.parameters()) return;
    const int64_t width = net_.widths[layer + 1];
    for (int64_t j = 0; j < width; j += BLOCK)
      add(Row::load(bias_sums_.data() + j), wanted_.biases[layer] + member_ * width + j, width - j);
  }

  // Writes up to 32 numbers of a parameter's gradient, or adds them to those of earlier rows.
  void add(const Row& sum, float* to, int64_t count) const {
    (begin_ == 0 ? sum : sum + Row::load(to, count)).store(to, count);
  }

  const Network& net_;
  const Wanted& wanted_;
  const int64_t rows_, size_;
  Buffer<uint16_t> panels_, transposed_, derivatives_;
  Buffer<uint16_t> inputs_;  // of each layer but the first, transposed, as tiles
  Buffer<uint16_t> activations_[2], gradient_tiles_[2], gradient_panels_[2];
  Buffer<float> head_, bias_sums_, output_gradients_;
  int64_t member_ = 0, begin_ = 0, count_ = 0, padded_ = 0;
};

}  // namespace edp
