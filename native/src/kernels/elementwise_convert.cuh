// Conversion between the six storage types: one rounding, to nearest even; floats to integers
// towards zero, out of range to the end of the range, NaN to 0. Equal to
// cpu/elementwise_convert.zig.
#pragma once
#include "elementwise_functions.cuh"

/// IEEE binary16 storage.
struct f16 {
  uint16_t bits;
};

union DoubleBits {
  double value;
  uint64_t bits;
};

DEVICE uint64_t bits_of(double x) {
  DoubleBits both;
  both.value = x;
  return both.bits;
}

DEVICE float half_to_float(f16 x) {
  const uint32_t sign = (uint32_t)(x.bits & 0x8000) << 16, rest = x.bits & 0x7fff;
  if (rest >= 0x7c00) return __uint_as_float(sign | 0x7f800000 | (rest & 0x3ff) << 13);
  // The exponent's bias is exchanged by a product, which also normalises the small ones.
  const float magnitude = __uint_as_float(rest << 13) * 5.192296858534828e33f;  // 2¹¹²
  return __uint_as_float(sign | __float_as_uint(magnitude));
}

OUTLINED f16 half_from_double(double x) {
  const uint64_t bits = bits_of(x), rest = bits & 0x7fffffffffffffffull;
  const uint16_t sign = (uint16_t)(bits >> 48) & 0x8000;
  if (x != x) return {(uint16_t)(sign | 0x7e00)};
  const double magnitude = fabs(x);
  if (magnitude >= 65520.0) return {(uint16_t)(sign | 0x7c00)};
  // Below 2⁻¹⁴ the spacing is constant, 2⁻²⁴: the scaled number is exact and rounds once.
  if (magnitude < 6.103515625e-5)
    return {(uint16_t)(sign | (uint16_t)rint(magnitude * 16777216.0))};
  const uint64_t rounded = rest + 0x1ffffffffffull + ((rest >> 42) & 1);
  return {(uint16_t)(sign | (uint16_t)((rounded >> 42) - ((1023 - 15) << 10)))};
}

/// f64 to f32 rounded to odd: a second rounding to a shorter format is then the same as one.
OUTLINED float odd_float(double x) {
  const float near = (float)x;
  const double back = near;
  if (back == x || x != x) return near;
  const uint32_t bits = __float_as_uint(near);
  return __uint_as_float((fabs(back) > fabs(x) ? bits - 1 : bits) | 1);
}

DEVICE double to_double(float x) { return x; }
DEVICE double to_double(bf16 x) { return to_float(x); }
DEVICE double to_double(f16 x) { return half_to_float(x); }
DEVICE double to_double(double x) { return x; }
DEVICE double to_double(int32_t x) { return x; }
DEVICE double to_double(uint8_t x) { return x; }

DEVICE double clamped(double x, double low, double high) {
  if (x != x) return 0.0;
  return x < low ? low : x > high ? high : x;
}

template <typename T> DEVICE T from_double(double x);
template <> DEVICE float from_double<float>(double x) { return (float)x; }
template <> DEVICE bf16 from_double<bf16>(double x) { return from_float<bf16>(odd_float(x)); }
template <> DEVICE f16 from_double<f16>(double x) { return half_from_double(x); }
template <> DEVICE double from_double<double>(double x) { return x; }
template <> DEVICE int32_t from_double<int32_t>(double x) {
  return (int32_t)clamped(x, -2147483648.0, 2147483647.0);
}
template <> DEVICE uint8_t from_double<uint8_t>(double x) {
  return (uint8_t)(int32_t)clamped(x, 0.0, 255.0);
}

/// Every storage type is exact in f64; the common pair spares the way through it.
template <typename To, typename From> struct Convert {
  static DEVICE To of(From x) { return from_double<To>(to_double(x)); }
};
template <typename T> struct Convert<T, T> {
  static DEVICE T of(T x) { return x; }
};
template <> struct Convert<bf16, float> {
  static DEVICE bf16 of(float x) { return from_float<bf16>(x); }
};
template <> struct Convert<float, bf16> {
  static DEVICE float of(bf16 x) { return to_float(x); }
};
template <> struct Convert<float, f16> {
  static DEVICE float of(f16 x) { return half_to_float(x); }
};
