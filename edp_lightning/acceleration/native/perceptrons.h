// An ensemble of perceptrons: hidden layers with Mish, then a linear output layer.

#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "mish.h"
#include "products.h"

namespace edp {

struct Network {
  int64_t members, layers;      // hidden layers, one or more
  const int64_t* widths;        // input, hidden layers, output
  const float* const* weights;  // (members, in, out) of each layer
  const float* const* biases;   // (members, out)

  int64_t in() const { return widths[0]; }
  int64_t last() const { return widths[layers]; }
  int64_t out() const { return widths[layers + 1]; }
  int64_t widest() const { return padded(*std::max_element(widths, widths + layers + 1)); }
  const float* weight(int64_t layer, int64_t member) const {
    return weights[layer] + member * widths[layer] * widths[layer + 1];
  }
  const float* bias(int64_t layer, int64_t member) const { return biases[layer] + member * widths[layer + 1]; }

  // Where a layer's panels begin, and after the last layer how large all are.
  int64_t panels(int64_t layer) const {
    int64_t size = 0;
    for (int64_t l = 0; l < layer; l++) size += padded(widths[l]) * padded(widths[l + 1]);
    return size;
  }

  // Writes the panels of a member's hidden layers.
  void write_hidden(int64_t member, uint16_t* to) const {
    for (int64_t l = 0; l < layers; l++) write_panels(weight(l, member), widths[l], widths[l + 1], to + panels(l));
  }
};

// How many parts each member's rows are cut into, so that all threads have the same to do.
inline int64_t equal_shares(int64_t members, int64_t threads) {
  return members >= 4 * threads ? 1 : threads / std::gcd(members, threads);
}

// Calls work(member, first row, end of rows) for each member and share of its rows; every thread has a `work` of its own.
template <typename Make>
void for_all(const Network& net, int64_t rows, int64_t shares, int64_t threads, const Make& make) {
  const int64_t share = padded((rows + shares - 1) / shares);
#pragma omp parallel num_threads(threads)
  {
    begin_products();
    auto work = make();
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < net.members * shares; task++) {
      const int64_t begin = task % shares * share, end = std::min(rows, begin + share);
      if (begin < end) work(task / shares, begin, end);
    }
    end_products();
  }
}

}  // namespace edp
