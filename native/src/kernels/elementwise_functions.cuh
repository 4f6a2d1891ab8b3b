// The element-wise functions and their derivatives: the formulas of args/elementwise.zig in the
// forms of cpu/elementwise_functions.zig, which keep relative accuracy in the tails.
#pragma once
#include "walk.cuh"

struct Normal {
  float cdf;      // Φ(x)
  float density;  // φ(x)
};

/// Φ(−a) = e^(−a²/2)·t·P(t), t = 1/(1 + a/4): relative accuracy where erf would cancel. The
/// rounding error of a² would grow by a² in the exponential: it is put back, first order.
DEVICE Normal normal(float x) {
  const float a = fabsf(x), square = a * a;
  const float lost = fmaf(a, a, -square);
  const float bell = expf(-0.5f * square) * (square < 1e30f ? 1.f - 0.5f * lost : 1.f);
  const float t = 1.f / fmaf(a, 0.25f, 1.f);
  const float coefficients[] = {1.689391e-2f,  -6.454533e-2f, 5.5898648e-2f, 2.2585357e-2f,
                                1.775596e-2f,  8.3839804e-2f, 7.301677e-2f,  9.5287e-2f,
                                9.952156e-2f,  9.9746324e-2f};
  float p = coefficients[0];
#pragma unroll
  for (int i = 1; i < 10; i++) p = fmaf(p, t, coefficients[i]);
  const float tail = bell * (t * p);
  return {x <= 0.f ? tail : 1.f - tail, bell * 0.3989422804014327f};
}

constexpr float selu_scale = 1.0507009873554805f;
constexpr float selu_alpha = 1.6732632423543772f;
constexpr float gelu_scale = 0.7978845608028654f;  // √(2/π)

/// u = √(2/π)·(x + 0.044715·x³); 0.5(1 + tanh u) = σ(2u), which keeps the negative tail.
DEVICE float gelu_inner(float x) { return gelu_scale * x * fmaf(0.044715f * x, x, 1.f); }

/// 1 − tanh² without cancellation: 4e/(1 + e)², e = e^(−2|x|).
DEVICE float squared_sech(float x) {
  const float e = expf(-2.f * fabsf(x)), below = 1.f + e;
  return 4.f * e / (below * below);
}

/// Powers go through f64, as on the CPU: p·ln x would lose eight bits in f32.
OUTLINED float power(float x, double p) { return (float)pow((double)x, p); }

/// With the reduction of huge arguments behind them.
OUTLINED float sine(float x) { return sinf(x); }
OUTLINED float cosine(float x) { return cosf(x); }

/// f(x); p is the parameter of the operations that have one.
template <Unary op> DEVICE float value(float x, double wide) {
  const float p = (float)wide;
  switch (op) {
    case Unary_neg: return -x;
    case Unary_abs: return fabsf(x);
    case Unary_exp: return expf(x);
    case Unary_log: return logf(x);
    case Unary_sqrt: return sqrtf(x);
    case Unary_rsqrt: return 1.f / sqrtf(x);
    case Unary_square: return x * x;
    case Unary_reciprocal: return 1.f / x;
    case Unary_sigmoid: return sigmoid(x);
    case Unary_tanh: return tanhf(x);
    case Unary_silu: return x * sigmoid(x);
    case Unary_gelu_erf: return x * normal(x).cdf;
    case Unary_gelu_tanh: return x * sigmoid(2.f * gelu_inner(x));
    case Unary_relu: return x <= 0.f ? 0.f : x;
    case Unary_relu2: return x <= 0.f ? 0.f : x * x;
    case Unary_selu: return selu_scale * (x > 0.f ? x : selu_alpha * expm1f(x));
    // fmaxf would drop the NaN, the logarithm keeps it.
    case Unary_softplus: return softplus(x);
    case Unary_log_sigmoid: return log_sigmoid(x);
    case Unary_sin: return sine(x);
    case Unary_cos: return cosine(x);
    case Unary_soft_cap: return p * tanhf(x / p);
    case Unary_scale: return x * p;
    case Unary_add_scalar: return x + p;
    case Unary_pow_scalar: return power(x, (double)p);
    case Unary_clamp_min: return x < p ? p : x;
    case Unary_clamp_max: return x > p ? p : x;
  }
  return 0.f;
}

/// f'(x) from what `Unary.saved` names: x, y or nothing.
template <Unary op> DEVICE float derivative(float s, double wide) {
  const float p = (float)wide;
  switch (op) {
    case Unary_neg: return -1.f;
    case Unary_abs: return s == 0.f ? 0.f : s < 0.f ? -1.f : 1.f;
    case Unary_exp: return s;
    case Unary_log: return 1.f / s;
    case Unary_sqrt: return 0.5f / s;
    case Unary_rsqrt: return -0.5f * s * s * s;
    case Unary_square: return 2.f * s;
    case Unary_reciprocal: return -s * s;
    case Unary_sigmoid: return sigmoid(s) * sigmoid(-s);
    case Unary_tanh: return squared_sech(s);
    case Unary_silu: return sigmoid(s) * (1.f + s * sigmoid(-s));
    case Unary_gelu_erf: {
      const Normal n = normal(s);
      return fmaf(s, n.density, n.cdf);
    }
    case Unary_gelu_tanh: {
      // y = x·σ(2u): y' = σ(2u)·(1 + 2x·u'·σ(−2u)).
      const float twice = 2.f * gelu_inner(s);
      const float slope = gelu_scale * fmaf(3.f * 0.044715f * s, s, 1.f);
      return sigmoid(twice) * (1.f + 2.f * s * slope * sigmoid(-twice));
    }
    case Unary_relu: return s > 0.f ? 1.f : 0.f;
    case Unary_relu2: return s > 0.f ? 2.f * s : 0.f;
    case Unary_selu: return selu_scale * (s > 0.f ? 1.f : selu_alpha * expf(s));
    case Unary_softplus: return sigmoid(s);
    case Unary_log_sigmoid: return sigmoid(-s);
    case Unary_sin: return cosine(s);
    case Unary_cos: return -sine(s);
    case Unary_soft_cap: return squared_sech(s / p);
    case Unary_scale: return p;
    case Unary_add_scalar: return 1.f;
    case Unary_pow_scalar: return p == 0.f ? 0.f : p * power(s, (double)p - 1.0);
    case Unary_clamp_min: return s >= p ? 1.f : 0.f;
    case Unary_clamp_max: return s <= p ? 1.f : 0.f;
  }
  return 0.f;
}

template <Binary op> DEVICE float combine(float a, float b) {
  switch (op) {
    case Binary_add: return a + b;
    case Binary_sub: return a - b;
    case Binary_mul: return a * b;
    case Binary_div: return a / b;
    // Where one is NaN both comparisons fail and a + b is NaN.
    case Binary_maximum: return a > b ? a : b >= a ? b : a + b;
    case Binary_minimum: return a < b ? a : b <= a ? b : a + b;
    case Binary_eq: return a == b ? 1.f : 0.f;
    case Binary_lt: return a < b ? 1.f : 0.f;
    case Binary_le: return a <= b ? 1.f : 0.f;
    case Binary_gt: return a > b ? 1.f : 0.f;
    case Binary_ge: return a >= b ? 1.f : 0.f;
  }
  return 0.f;
}

// Every operation, for switches over a code that is known at launch only.
#define GATES(X) X(sigmoid) X(tanh) X(silu) X(gelu_erf) X(gelu_tanh) X(relu) X(relu2) X(selu)
#define UNARY_OPERATIONS(X) \
  GATES(X) X(neg) X(abs) X(exp) X(log) X(sqrt) X(rsqrt) X(square) X(reciprocal) X(softplus) \
  X(log_sigmoid) X(sin) X(cos) X(soft_cap) X(scale) X(add_scalar) X(pow_scalar) X(clamp_min) \
  X(clamp_max)
#define BINARY_OPERATIONS(X) \
  X(add) X(sub) X(mul) X(div) X(maximum) X(minimum) X(eq) X(lt) X(le) X(gt) X(ge)
