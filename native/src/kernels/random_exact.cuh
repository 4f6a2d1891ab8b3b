// Philox4x32-10 (mesh.md §14) and elementary functions in f64 made of IEEE additions, products,
// divisions and roots that are never fused, in the order of cpu/random_math.zig: the same bits as
// on every processor.
#pragma once
#include "elementwise_convert.cuh"

struct Words {
  uint32_t at[4];
};

DEVICE Words philox(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0, uint32_t k1) {
#pragma unroll
  for (int round = 0; round < 10; round++) {
    const uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
    c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
    c1 = (uint32_t)b;
    c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
    c3 = (uint32_t)a;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

/// A double whose operations round one by one.
struct Real {
  double x;
};

#ifdef XL_EMULATED
DEVICE Real operator+(Real a, Real b) { return {a.x + b.x}; }
DEVICE Real operator-(Real a, Real b) { return {a.x - b.x}; }
DEVICE Real operator*(Real a, Real b) { return {a.x * b.x}; }
#else
DEVICE Real operator+(Real a, Real b) { return {__dadd_rn(a.x, b.x)}; }
DEVICE Real operator-(Real a, Real b) { return {__dsub_rn(a.x, b.x)}; }
DEVICE Real operator*(Real a, Real b) { return {__dmul_rn(a.x, b.x)}; }
#endif
DEVICE Real operator/(Real a, Real b) { return {a.x / b.x}; }
DEVICE Real real(double x) { return {x}; }

DEVICE double double_of(uint64_t bits) {
  DoubleBits both;
  both.bits = bits;
  return both.value;
}

/// Horner's rule, highest power first.
template <int n> DEVICE Real polynomial(Real x, const double (&coefficients)[n]) {
  Real p = real(coefficients[0]);
#pragma unroll
  for (int i = 1; i < n; i++) p = p * x + real(coefficients[i]);
  return p;
}

/// 1.5·2⁵²: x + magic has the integer nearest to x (ties to even) in its low bits, |x| < 2⁵¹.
constexpr double magic = 6755399441055744.0;
/// ln 2 in two parts; the first has 21 trailing zero bits.
constexpr double ln2_high = 6.93147180369123816490e-01;
constexpr double ln2_low = 1.90821492927058770002e-10;

/// ln x for normal x > 0: x = 2ᵉ·m, √½ ≤ m < √2, ln m = 2·artanh(s), s = (m−1)/(m+1).
OUTLINED Real exact_ln(Real x) {
  const uint64_t bits = bits_of(x.x);
  const double mantissa = double_of((bits & 0x000fffffffffffffull) | 0x3fe0000000000000ull);
  const bool is_small = mantissa < 0.70710678118654752440;
  const Real m = is_small ? real(mantissa) + real(mantissa) : real(mantissa);
  const Real e = real((double)((int64_t)(bits >> 52) - 1022 - (is_small ? 1 : 0)));
  const Real s = (m - real(1.0)) / (m + real(1.0)), z = s * s;
  const double odd[] = {1.0 / 21.0, 1.0 / 19.0, 1.0 / 17.0, 1.0 / 15.0, 1.0 / 13.0,
                        1.0 / 11.0, 1.0 / 9.0,  1.0 / 7.0,  1.0 / 5.0,  1.0 / 3.0};
  const Real fraction = (s + s) + (s + s) * (z * polynomial(z, odd));
  return e * real(ln2_high) + (fraction + e * real(ln2_low));
}

/// e^x for x ≤ 0; 0 below −708 and for NaN.
OUTLINED double exact_exp(Real x) {
  if (!(x.x >= -708.0)) return 0.0;
  const Real shifted = x * real(1.44269504088896340736) + real(magic);
  const Real n = shifted - real(magic);
  const Real r = (x - n * real(ln2_high)) - n * real(ln2_low);
  const double taylor[] = {1.0 / 6227020800.0, 1.0 / 479001600.0, 1.0 / 39916800.0,
                           1.0 / 3628800.0,    1.0 / 362880.0,    1.0 / 40320.0,
                           1.0 / 5040.0,       1.0 / 720.0,       1.0 / 120.0,
                           1.0 / 24.0,         1.0 / 6.0,         1.0 / 2.0};
  const Real value = real(1.0) + (r + r * r * polynomial(r, taylor));
  const uint64_t exponent = bits_of(shifted.x) - bits_of(magic);
  return (value * real(double_of((exponent + 1023) << 52))).x;
}

struct Turned {
  Real cosine, sine;
};

/// cos 2πu and sin 2πu for 0 ≤ u ≤ 1. The reduction to an eighth of a turn is exact.
OUTLINED Turned cos_sin_turns(Real u) {
  const Real shifted = u * real(4.0) + real(magic), quarter = shifted - real(magic);
  const Real angle = (u - quarter * real(0.25)) * real(6.28318530717958647693), z = angle * angle;
  const double odd[] = {1.0 / 355687428096000.0, -1.0 / 1307674368000.0, 1.0 / 6227020800.0,
                        -1.0 / 39916800.0,       1.0 / 362880.0,         -1.0 / 5040.0,
                        1.0 / 120.0,             -1.0 / 6.0};
  const double even[] = {-1.0 / 6402373705728000.0, 1.0 / 20922789888000.0, -1.0 / 87178291200.0,
                         1.0 / 479001600.0,         -1.0 / 3628800.0,       1.0 / 40320.0,
                         -1.0 / 720.0,              1.0 / 24.0,             -1.0 / 2.0};
  const Real s = angle + angle * (z * polynomial(z, odd));
  const Real q = real(1.0) + z * polynomial(z, even);
  const uint64_t turn = bits_of(shifted.x);
  const Real cosine = turn & 1 ? s : q, sine = turn & 1 ? q : s;
  return {{(turn + 1) & 2 ? -cosine.x : cosine.x}, {turn & 2 ? -sine.x : sine.x}};
}

/// Φ⁻¹(½ + q) where it lies within ±2: q·P(w), w = −ln(1 − 4q²), P through Chebyshev points.
OUTLINED Real inverse_normal(Real q) {
  const Real t = real(-0.8) * exact_ln(real(1.0) - real(4.0) * (q * q)) - real(1.0);
  const double chebyshev[] = {
      1.4337927459979629e-11,  -4.129006421217155e-11, -3.738308316179121e-10,
      2.0120738174974884e-09,  6.395663328366796e-09,  -7.168090311872133e-08,
      -2.6210641520283023e-08, 2.150664573406281e-06,  -4.216022290519783e-06,
      -5.44357166051166e-05,   0.00026892756413090743, 0.0009915424366169626,
      -0.012450485486434503,   0.011100185320537649,   0.8821851238182351,
      3.364588231335167};
  return q * polynomial(t, chebyshev);
}

/// (x + ½)·2⁻³²: inside (0, 1), exact.
DEVICE Real inside(uint32_t word) {
  return (real((double)word) + real(0.5)) * real(2.3283064365386962890625e-10);
}
