// Mish (arXiv 1908.08681) to a relative error of 4e-6. With n = e^x it is x (n^2 + 2n) / (n^2 + 2n + 2).

#pragma once

#include <immintrin.h>

namespace edp {

struct MishParts {
  __m512 n;    // e^x within bounds beyond which, in float32, mish(x) is x or 0
  __m512 sum;  // n^2 + 2n
};

inline MishParts mish_parts(__m512 x) {
  const auto all = [](float value) { return _mm512_set1_ps(value); };
  const __m512 y = _mm512_max_ps(_mm512_min_ps(x * all(1.44269504f), all(20.0f)), all(-125.0f));
  // The integer part of y becomes the exponent of n; 2 to the rest is a polynomial with least relative error on [-1/2, 1/2].
  const __m512 shifted = y + all(12582912.0f);  // 1.5 * 2^23: what is left of y is rounded to an integer
  const __m512 rest = y - (shifted - all(12582912.0f));
  __m512 power = all(9.570101968e-03f);
  power = _mm512_fmadd_ps(power, rest, all(5.591786076e-02f));
  power = _mm512_fmadd_ps(power, rest, all(2.402474483e-01f));
  power = _mm512_fmadd_ps(power, rest, all(6.931218147e-01f));
  power = _mm512_fmadd_ps(power, rest, all(9.999992614e-01f));
  const __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
  const __m512 n = _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(power), exponent));
  return {n, _mm512_fmadd_ps(n, n, n + n)};
}

inline __m512 mish(__m512 x) {
  const MishParts p = mish_parts(x);
  return x * (p.sum / (p.sum + _mm512_set1_ps(2.0f)));
}

// Also gives the derivative, gate + 4 x n (n + 1) / (n^2 + 2n + 2)^2 with mish(x) = x gate.
inline __m512 mish(__m512 x, __m512& derivative) {
  const MishParts p = mish_parts(x);
  const __m512 inverse = _mm512_set1_ps(1.0f) / (p.sum + _mm512_set1_ps(2.0f));
  const __m512 gate = p.sum * inverse, part = p.n * inverse;
  derivative = _mm512_fmadd_ps(_mm512_set1_ps(4.0f) * x, part * (part + inverse), gate);
  return x * gate;
}

}  // namespace edp
