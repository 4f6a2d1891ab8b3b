// Outputs of the mLSTM, one chunk of one unit per block. kernels.md §2.3. C, n: before the chunk.
//   W = (q kᵀ) ∘ e^(u + w), 0 where hidden      σ = W 1 + α ∘ (q n)
//   h = (W v + α ∘ (q C)) / (max(|σ|, e^(−m)) + eps)      1 as the denominator without a normaliser
// Per token and unit 2·64·(DQK + DV) + 2·DQK·DV FLOPs. Equals cpu/mlstm_output.zig,
// reference/mlstm.zig.
#pragma once
#include "mlstm_problem.cuh"

namespace mlstm {

constexpr int output_floats = 2 * depth * pitch + chunk * pitch + chunk;

struct Span {
  Unit u;
  int index, first;
  int tokens;  // of the chunk; 0 beyond the row's length
  int room;    // the chunk's tokens that exist in the tensors
};

DEVICE Span span_of(const MlstmProblem& a) {
  Span s;
  s.u = unit_of(a, a.first_unit + blockIdx.x / a.chunks);
  s.index = (int)(blockIdx.x % a.chunks);
  s.first = s.index * chunk;
  const int left = s.u.tokens - s.first;
  s.tokens = left < 0 ? 0 : left < chunk ? left : chunk;
  s.room = least(a.length - s.first, chunk);
  return s;
}

/// q kᵀ; threads below 64 return q·n of their row.
template <typename S>
DEVICE float scores(const MlstmProblem& a, const Span& s, const float* n, Accumulator& acc,
                    float* left, float* right) {
  const View<S> q = view_of<S>(a.q, a.q_strides, s.u, s.first);
  const View<S> k = view_of<S>(a.k, a.k_strides, s.u, s.first);
  float sum = 0;
  clear(acc);
  for (uint64_t d = 0; d < a.width_qk; d += depth) {
    __syncthreads();
    load_turned(left, moved(q, 0, d), s.tokens, a.width_qk - d);
    load_turned(right, moved(k, 0, d), s.tokens, a.width_qk - d);
    __syncthreads();
    multiply(acc, left, right, depth);
    if (!n || threadIdx.x >= chunk) continue;
    for (int p = 0; p < least(a.width_qk - d, depth); p++)
      sum = fmaf(left[p * pitch + threadIdx.x], n[d + p], sum);
  }
  return sum;
}

/// W, turned: a row holds one column.
DEVICE void weigh(const Span& s, const Gates& g, const Accumulator& acc, float* weights) {
  for (int c = 0; c < 4; c++) {
    const int j = tile_column() + c;
    float column[4];
#pragma unroll
    for (int r = 0; r < 4; r++) {
      const int i = tile_row() + r;
      column[r] = i < s.tokens && sees(g, i, j) ? acc.at[r][c] * decay(g, i, j) : 0;
    }
    store_pack<4>(weights + j * pitch + tile_row(), column);
  }
}

/// σ of a row and 1/(N + eps).
DEVICE float finish_row(const MlstmProblem& a, const Span& s, const Gates& g, float from_state,
                        const float* weights) {
  const int i = threadIdx.x;
  float sum = 0;
  if (a.normalize) {
    for (int j = 0; j < chunk; j++) sum += weights[j * pitch + i];
    if (i < s.tokens && g.alpha[i] != 0) sum += g.alpha[i] * from_state;
  }
  if (i >= s.room) return 0;
  if (a.sigma) a.sigma[token_of(a, s.u, s.first + i)] = i < s.tokens ? sum : 0;
  if (i >= s.tokens) return 0;
  return a.normalize ? 1 / (fmaxf(fabsf(sum), g.floor[i]) + a.eps) : 1;
}

template <typename S> DEVICE void output(const MlstmProblem& a) {
  SHARED(float, shared);
  float* const left = shared;
  float* const right = left + depth * pitch;
  float* const weights = right + depth * pitch;
  float* const inverse = weights + chunk * pitch;
  const Span s = span_of(a);
  const View<S> h = view_of<S>(a, a.h, a.width_v, s.u, s.first);
  if (s.tokens == 0) {
    clear_rows(h, s.room, a.width_v);
    if (a.sigma && (int)threadIdx.x < s.room)
      a.sigma[token_of(a, s.u, s.first + threadIdx.x)] = 0;
    return;
  }
  const bool known = s.index > 0 || has_initial(a);
  const float* const c = state_at(a, a.states, s.u, s.index);
  const size_t size = a.width_qk * a.width_v;
  const Gates g = gates_of(a, s.u, s.first);
  Accumulator acc;
  const float sum = scores<S>(a, s, known && a.normalize ? c + size : nullptr, acc, left, right);
  weigh(s, g, acc, weights);
  __syncthreads();
  if (threadIdx.x < chunk) inverse[threadIdx.x] = finish_row(a, s, g, sum, weights);
  const View<S> q = view_of<S>(a.q, a.q_strides, s.u, s.first);
  const View<S> v = view_of<S>(a.v, a.v_strides, s.u, s.first);
  for (uint64_t e = 0; e < a.width_v; e += chunk) {
    clear(acc);
    for (uint64_t d = 0; known && d < a.width_qk; d += depth) {
      const View<float> from = {c + d * a.width_v + e, a.width_v};
      __syncthreads();
      load_turned(left, moved(q, 0, d), s.tokens, a.width_qk - d);
      load_straight(right, from, least(a.width_qk - d, depth), a.width_v - e);
      __syncthreads();
      multiply(acc, left, right, depth);
    }
    if (known) scale_rows(acc, g.alpha);
    multiply_tokens(acc, weights, right, moved(v, 0, e), s.tokens, a.width_v - e);
    __syncthreads();  // The denominators are there, also where nothing was multiplied.
    scale_rows(acc, inverse);
    store_rows(acc, moved(h, 0, e), s.tokens, s.room, a.width_v - e);
  }
}

}  // namespace mlstm
