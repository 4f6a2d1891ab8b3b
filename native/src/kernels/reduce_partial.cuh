// What a part of a reduction holds, how terms enter it, how two parts are joined and how the result
// is written: cpu/reduce_partial.zig with sums in f64 per thread.
#pragma once
#include "walk.cuh"

/// logsumexp: Σ e^(x − most), and the maximum `most`.
struct Partial {
  double value, most;
};

/// max(a, b); NaN when one of them is.
template <typename T> DEVICE T larger(T a, T b) { return a > b ? a : b >= a ? b : a + b; }

DEVICE bool is_finite(double x) { return x - x == 0.0; }

template <Reduction op> DEVICE Partial nothing() {
  switch (op) {
    case Reduction_max: return {-INFINITY, 0.0};
    case Reduction_min: return {INFINITY, 0.0};
    case Reduction_logsumexp: return {0.0, -INFINITY};
    default: return {0.0, 0.0};
  }
}

/// Σ e^(x − from) as Σ e^(x − to); 0 where `to` is not finite: it is the result itself then.
OUTLINED double rescaled(double sum, double from, double to) {
  return is_finite(to) && sum != 0.0 ? sum * exp(from - to) : 0.0;
}

DEVICE void raise_to(Partial& sum, double most) {
  if (most != sum.most) sum.value = rescaled(sum.value, sum.most, most);
  sum.most = most;
}

template <Reduction op> DEVICE Partial join(Partial a, Partial b) {
  switch (op) {
    case Reduction_max: return {larger(a.value, b.value), 0.0};
    case Reduction_min: return {-larger(-a.value, -b.value), 0.0};
    case Reduction_logsumexp: {
      const double most = larger(a.most, b.most);
      raise_to(a, most);
      raise_to(b, most);
      return {a.value + b.value, most};
    }
    default: return {a.value + b.value, 0.0};
  }
}

/// Adds n terms: their sum in f32, the sums in f64.
template <Reduction op, int n> DEVICE void take(Partial& sum, const float (&x)[n]) {
  float part = x[0];
  switch (op) {
    case Reduction_max:
    case Reduction_min: {
      const float sign = op == Reduction_max ? 1.f : -1.f;
      part = sign * x[0];
#pragma unroll
      for (int i = 1; i < n; i++) part = larger(part, sign * x[i]);
      sum.value = sign * larger(sign * (float)sum.value, part);
      return;
    }
    case Reduction_logsumexp: {
#pragma unroll
      for (int i = 1; i < n; i++) part = larger(part, x[i]);
      const float most = larger((float)sum.most, part);
      raise_to(sum, most);
      if (!is_finite(most)) return;
      float exponentials = 0.f;
#pragma unroll
      for (int i = 0; i < n; i++) exponentials += expf(x[i] - most);
      sum.value += exponentials;
      return;
    }
    case Reduction_sum_squares: {
      part = x[0] * x[0];
#pragma unroll
      for (int i = 1; i < n; i++) part = fmaf(x[i], x[i], part);
      sum.value += part;
      return;
    }
    default:
#pragma unroll
      for (int i = 1; i < n; i++) part += x[i];
      sum.value += part;
  }
}

/// Every lane gets the joined parts of the warp, in the order of a butterfly.
template <Reduction op> DEVICE Partial join_warp(Partial sum) {
#pragma unroll
  for (int step = warp_size / 2; step > 0; step /= 2) {
    Partial other = {__shfl_xor_sync(full_mask, sum.value, step), 0.0};
    if (op == Reduction_logsumexp) other.most = __shfl_xor_sync(full_mask, sum.most, step);
    // Both sides of an exchange must join in the same order to get the same bits.
    const bool is_upper = (threadIdx.x & step) != 0;
    sum = is_upper ? join<op>(other, sum) : join<op>(sum, other);
  }
  return sum;
}

/// Writes output `at`, converted to S, or to f32 where `wide`.
template <typename S> DEVICE void finish(const ReducePlan& a, uint64_t at, Partial sum) {
  double result = sum.value;
  if (a.op == Reduction_mean) result /= (double)a.terms;
  if (a.op == Reduction_logsumexp)
    result = is_finite(sum.most) ? sum.most + log(sum.value) : sum.most;
  if (a.wide != 0) static_cast<float*>(a.y)[at] = (float)result;
  else static_cast<S*>(a.y)[at] = from_float<S>((float)result);
}
