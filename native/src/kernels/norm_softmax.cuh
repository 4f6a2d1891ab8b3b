// Softmax and log-softmax over lines of [rows, width], and their gradients.
#pragma once
#include "norm_line.cuh"

namespace norms {

template <typename S, int P, bool logarithm>
DEVICE void softmax_line(const SoftmaxForward& a, const Team& team, uint64_t row, float* scratch) {
  const uint64_t width = row < a.rows ? a.width : 0, step = tile_width<P>(team);
  const bool fits = a.width <= step;
  const S* source = (const S*)a.x + row * a.width;
  S* y = (S*)a.y + row * a.width;
  float x[held<P>], most = -INFINITY, total = 0;
  for (uint64_t first = 0; first < a.width; first += step) {
    load_tile<P>(team, source, first, width, -INFINITY, x);
#pragma unroll
    for (int i = 0; i < held<P>; i++) most = fmaxf(most, x[i]);
  }
  most = team_max(team, most, scratch);
  for (uint64_t first = 0; first < a.width; first += step) {
    if (!fits) load_tile<P>(team, source, first, width, -INFINITY, x);
#pragma unroll
    for (int i = 0; i < held<P>; i++) {
      const float e = expf(x[i] - most);
      // Past the end the exponential is NaN where the whole line is −Inf.
      total += column<P>(team, first, i / P) < width ? e : 0.f;
      x[i] = logarithm ? x[i] - most : e;
    }
  }
  total = team_sum(team, total, scratch);
  const float last = logarithm ? logf(total) : 1.f / total;
  for (uint64_t first = 0; first < a.width; first += step) {
    if (!fits) load_tile<P>(team, source, first, width, -INFINITY, x);
#pragma unroll
    for (int k = 0; k < held<P> / P; k++) {
      const uint64_t c = column<P>(team, first, k);
      if (c >= width) continue;
      float out[P];
#pragma unroll
      for (int i = 0; i < P; i++) {
        const float v = x[k * P + i];
        if (logarithm) {
          out[i] = (fits ? v : v - most) - last;
        } else {
          out[i] = (fits ? v : expf(v - most)) * last;
        }
      }
      store_pack<P>(y + c, out);
    }
  }
}

template <typename S, int P, bool logarithm>
DEVICE void softmax_gradient(const SoftmaxBackward& a, const Team& team, uint64_t row,
                             float* scratch) {
  const uint64_t width = row < a.rows ? a.width : 0, step = tile_width<P>(team);
  const bool fits = a.width <= step;
  const S *dy = (const S*)a.dy + row * a.width, *y = (const S*)a.y + row * a.width;
  S* dx = (S*)a.dx + row * a.width;
  float d[held<P>], v[held<P>], total = 0;
  for (uint64_t first = 0; first < a.width; first += step) {
    load_tile<P>(team, dy, first, width, 0.f, d);
    load_tile<P>(team, y, first, width, 0.f, v);
#pragma unroll
    for (int i = 0; i < held<P>; i++) total = logarithm ? total + d[i] : fmaf(d[i], v[i], total);
  }
  total = team_sum(team, total, scratch);
  for (uint64_t first = 0; first < a.width; first += step) {
    if (!fits) {
      load_tile<P>(team, dy, first, width, 0.f, d);
      load_tile<P>(team, y, first, width, 0.f, v);
    }
#pragma unroll
    for (int k = 0; k < held<P> / P; k++) {
      const uint64_t c = column<P>(team, first, k);
      if (c >= width) continue;
      float out[P];
#pragma unroll
      for (int i = 0; i < P; i++) {
        const float di = d[k * P + i], vi = v[k * P + i];
        out[i] = logarithm ? di - expf(vi) * total : vi * (di - total);
      }
      store_pack<P>(dx + c, out);
    }
  }
}

template <typename S, int P, bool logarithm, typename Args>
DEVICE void softmax_rows(const Args& a, float* scratch) {
  const Team team = team_of<P>(a.width);
  const uint64_t step = (uint64_t)gridDim.x * team.count;
  for (uint64_t base = (uint64_t)blockIdx.x * team.count; base < a.rows; base += step) {
    if constexpr (sizeof(Args) == sizeof(SoftmaxForward)) {
      softmax_line<S, P, logarithm>(a, team, base + team.number, scratch);
    } else {
      softmax_gradient<S, P, logarithm>(a, team, base + team.number, scratch);
    }
  }
}

template <typename S, bool logarithm> DEVICE void softmax_forward(const SoftmaxForward& a) {
  __shared__ float scratch[warp_size];
  constexpr int P = pack_width<S>;
  if (a.width % P == 0 && aligned(a.x) && aligned(a.y)) {
    softmax_rows<S, P, logarithm>(a, scratch);
  } else {
    softmax_rows<S, 1, logarithm>(a, scratch);
  }
}

template <typename S, bool logarithm> DEVICE void softmax_backward(const SoftmaxBackward& a) {
  __shared__ float scratch[warp_size];
  constexpr int P = pack_width<S>;
  if (a.width % P == 0 && aligned(a.dy) && aligned(a.y) && aligned(a.dx)) {
    softmax_rows<S, P, logarithm>(a, scratch);
  } else {
    softmax_rows<S, 1, logarithm>(a, scratch);
  }
}

}  // namespace norms
