// Gradients of one chunk of one unit per block. kernels.md §3.3, §3.4 (chunk-local form). With
// dh' = dh/(N + eps), y = ŷ/(N + eps), E = e^(u + w) where visible (0 elsewhere), C, n the state
// before the chunk and dC, dn the gradient of the one after it:
//   R = q kᵀ    G = dh' vᵀ    P = (G + y) ∘ E    Z = P ∘ R
//   dq = P k + α ∘ (dh' Cᵀ + y nᵀ)      r' = rows of q ∘ the second term
//   dk = Pᵀ q + β ∘ (v dCᵀ + dnᵀ)       c' = rows of k ∘ the second term
//   dv = (R ∘ E)ᵀ dh' + β ∘ (k dC)
//   dlf_t = X + Σ_{u≥t} r'_u + Σ_{j<t} c'_j + Σ_{u≥t>j} Z_uj,  X = γ (⟨C, dC⟩ + ⟨n, dn⟩)
//   c_j = c'_j + Σ_t Z_tj
// Per token and unit 6·DQK·DV + 2·64·(3·DQK + 2·DV) FLOPs. Equals cpu/mlstm_gradient.zig.
#pragma once
#include "mlstm_output.cuh"

namespace mlstm {

constexpr int gradient_floats = 2 * depth * pitch + 3 * chunk * pitch + 4 * chunk + 2 * 32;

struct Gradient {
  Span s;
  Gates g;
  const float *inverse, *y;     // of the chunk's tokens
  const float *c, *n, *dc, *dn; // null: zeros
  // Shared memory: operands of a product; P and R ∘ E by rows, P by columns.
  float *left, *right, *p, *p_turned, *r;
  float *z_rows, *z_columns, *queries, *keys;  // [64]
  double* scratch;                             // [32]
};

DEVICE Gradient gradient_of(const MlstmProblem& a, float* shared) {
  Gradient x;
  x.s = span_of(a);
  x.g = gates_of(a, x.s.u, x.s.first);
  const size_t at = vector_at(a, x.s.u, x.s.first), size = a.width_qk * a.width_v;
  x.inverse = a.inverse + at;
  x.y = a.y + at;
  const bool before = x.s.index > 0 || has_initial(a);
  const bool after = x.s.index + 1 < x.s.u.chunks || has_final_gradient(a);
  x.c = before ? state_at(a, a.states, x.s.u, x.s.index) : nullptr;
  x.n = before && a.normalize ? x.c + size : nullptr;
  x.dc = after ? state_at(a, a.dstates, x.s.u, x.s.index + 1) : nullptr;
  x.dn = after && a.normalize ? x.dc + size : nullptr;
  x.scratch = (double*)shared;
  x.left = shared + 2 * 32;
  x.right = x.left + depth * pitch;
  x.p = x.right + depth * pitch;
  x.p_turned = x.p + chunk * pitch;
  x.r = x.p_turned + chunk * pitch;
  x.z_rows = x.r + chunk * pitch;
  x.z_columns = x.z_rows + chunk;
  x.queries = x.z_columns + chunk;
  x.keys = x.queries + chunk;
  return x;
}

/// Sums over the 16 threads of a tile's row (or column) in their order, into to[64]. `across` is
/// the thread's place among the 16, `first` the first of its four rows.
DEVICE void reduce(const float (&part)[4], int first, int across, float* buffer, float* to) {
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 4; i++) buffer[(first + i) * 17 + across] = part[i];
  __syncthreads();
  if (threadIdx.x < chunk) {
    float sum = 0;
    for (int i = 0; i < 16; i++) sum += buffer[threadIdx.x * 17 + i];
    to[threadIdx.x] = sum;
  }
  __syncthreads();
}

/// R, G, then P, R ∘ E and Z's sums.
template <typename S> DEVICE void squares(const MlstmProblem& a, const Gradient& x) {
  const Span& s = x.s;
  const View<S> d = view_of<S>(a, a.dh, a.width_v, s.u, s.first);
  const View<S> v = view_of<S>(a.v, a.v_strides, s.u, s.first);
  Accumulator r, p;
  scores<S>(a, s, nullptr, r, x.left, x.right);
  clear(p);
  for (uint64_t e = 0; e < a.width_v; e += depth) {
    __syncthreads();
    load_turned(x.left, moved(d, 0, e), s.tokens, a.width_v - e, x.inverse);
    load_turned(x.right, moved(v, 0, e), s.tokens, a.width_v - e);
    __syncthreads();
    multiply(p, x.left, x.right, depth);
  }
  float rows[4] = {}, columns[4] = {};
  for (int m = 0; m < 4; m++) {
    for (int c = 0; c < 4; c++) {
      const int i = tile_row() + m, j = tile_column() + c;
      const bool visible = i < s.tokens && sees(x.g, i, j);
      const float e = visible ? decay(x.g, i, j) : 0;
      const float weight = visible ? (p.at[m][c] + x.y[i]) * e : 0;
      const float z = visible ? weight * r.at[m][c] : 0;
      rows[m] += z;
      columns[c] += z;
      x.p[i * pitch + j] = weight;
      x.p_turned[j * pitch + i] = weight;
      x.r[i * pitch + j] = visible ? r.at[m][c] * e : 0;
    }
  }
  reduce(rows, tile_row(), threadIdx.x % 16, x.left, x.z_rows);
  reduce(columns, tile_column(), threadIdx.x / 16, x.left, x.z_columns);
}

/// sums += rows of acc ∘ tokens.
template <typename S>
DEVICE void add_dots(float (&sums)[4], const Accumulator& acc, View<S> tokens, int count,
                     uint64_t columns) {
  for (int r = 0; r < 4; r++)
    for (int c = 0; c < 4; c++) {
      const int row = tile_row() + r, column = tile_column() + c;
      if (row < count && (uint64_t)column < columns)
        sums[r] = fmaf(acc.at[r][c], to_float(tokens.base[row * tokens.step + column]), sums[r]);
    }
}

/// acc += row_scale_i·vector_j; no row scale: 1.
DEVICE void add_outer(Accumulator& acc, const float* row_scale, const float* vector, int count,
                      uint64_t columns) {
  for (int r = 0; r < 4; r++)
    for (int c = 0; c < 4; c++) {
      const int row = tile_row() + r, column = tile_column() + c;
      if (row < count && (uint64_t)column < columns)
        acc.at[r][c] = fmaf(row_scale ? row_scale[row] : 1.f, vector[column], acc.at[r][c]);
    }
}

/// One 64-column tile of tokens·stateᵀ: what reaches q through C, and k through dC.
template <typename S>
DEVICE void multiply_state(const MlstmProblem& a, const Gradient& x, Accumulator& acc,
                           View<S> tokens, const float* scale, const float* state, uint64_t d) {
  for (uint64_t e = 0; e < a.width_v; e += depth) {
    const View<float> from = {state + d * a.width_v + e, a.width_v};
    __syncthreads();
    load_turned(x.left, moved(tokens, 0, e), x.s.tokens, a.width_v - e, scale);
    load_turned(x.right, from, a.width_qk - d, a.width_v - e);
    __syncthreads();
    multiply(acc, x.left, x.right, depth);
  }
}

template <typename S> DEVICE void query_gradient(const MlstmProblem& a, const Gradient& x) {
  const Span& s = x.s;
  const View<S> d = view_of<S>(a, a.dh, a.width_v, s.u, s.first);
  const View<S> q = view_of<S>(a.q, a.q_strides, s.u, s.first);
  const View<S> k = view_of<S>(a.k, a.k_strides, s.u, s.first);
  const View<S> to = view_of<S>(a, a.dq, a.width_qk, s.u, s.first);
  float sums[4] = {};
  for (uint64_t at = 0; at < a.width_qk; at += chunk) {
    const uint64_t columns = a.width_qk - at;
    Accumulator acc;
    clear(acc);
    if (x.c) {
      multiply_state(a, x, acc, d, x.inverse, x.c, at);
      if (x.n) add_outer(acc, x.y, x.n + at, s.tokens, columns);
      scale_rows(acc, x.g.alpha);
      add_dots(sums, acc, moved(q, 0, at), s.tokens, columns);
    }
    multiply_tokens(acc, x.p_turned, x.right, moved(k, 0, at), s.tokens, columns);
    store_rows(acc, moved(to, 0, at), s.tokens, s.room, columns);
  }
  reduce(sums, tile_row(), threadIdx.x % 16, x.left, x.queries);
}

template <typename S> DEVICE void key_gradient(const MlstmProblem& a, const Gradient& x) {
  const Span& s = x.s;
  const View<S> q = view_of<S>(a.q, a.q_strides, s.u, s.first);
  const View<S> k = view_of<S>(a.k, a.k_strides, s.u, s.first);
  const View<S> v = view_of<S>(a.v, a.v_strides, s.u, s.first);
  const View<S> to = view_of<S>(a, a.dk, a.width_qk, s.u, s.first);
  float sums[4] = {};
  for (uint64_t at = 0; at < a.width_qk; at += chunk) {
    const uint64_t columns = a.width_qk - at;
    Accumulator acc;
    clear(acc);
    if (x.dc) {
      multiply_state(a, x, acc, v, (const float*)nullptr, x.dc, at);
      if (x.dn) add_outer(acc, nullptr, x.dn + at, s.tokens, columns);
      scale_rows(acc, x.g.beta);
      add_dots(sums, acc, moved(k, 0, at), s.tokens, columns);
    }
    multiply_tokens(acc, x.p, x.right, moved(q, 0, at), s.tokens, columns);
    store_rows(acc, moved(to, 0, at), s.tokens, s.room, columns);
  }
  reduce(sums, tile_row(), threadIdx.x % 16, x.left, x.keys);
}

template <typename S> DEVICE void value_gradient(const MlstmProblem& a, const Gradient& x) {
  const Span& s = x.s;
  const View<S> d = view_of<S>(a, a.dh, a.width_v, s.u, s.first);
  const View<S> k = view_of<S>(a.k, a.k_strides, s.u, s.first);
  const View<S> to = view_of<S>(a, a.dv, a.width_v, s.u, s.first);
  for (uint64_t e = 0; e < a.width_v; e += chunk) {
    Accumulator acc;
    clear(acc);
    for (uint64_t at = 0; x.dc && at < a.width_qk; at += depth) {
      const View<float> from = {x.dc + at * a.width_v + e, a.width_v};
      __syncthreads();
      load_turned(x.left, moved(k, 0, at), s.tokens, a.width_qk - at);
      load_straight(x.right, from, least(a.width_qk - at, depth), a.width_v - e);
      __syncthreads();
      multiply(acc, x.left, x.right, depth);
    }
    if (x.dc) scale_rows(acc, x.g.beta);
    multiply_tokens(acc, x.r, x.right, moved(d, 0, e), s.tokens, a.width_v - e, x.inverse);
    store_rows(acc, moved(to, 0, e), s.tokens, s.room, a.width_v - e);
  }
}

/// γ (⟨C, dC⟩ + ⟨n, dn⟩); every thread gets it.
DEVICE double closure(const MlstmProblem& a, const Gradient& x) {
  const float gamma = a.gamma[x.s.u.index * a.chunks + x.s.index];
  if (gamma == 0 || !x.c || !x.dc) return 0;
  const size_t size = a.width_qk * a.width_v + (a.normalize ? a.width_qk : 0);
  double sum = 0;
  for (size_t n = threadIdx.x; n < size; n += threads) sum += (double)x.c[n] * x.dc[n];
  return gamma * block_sum(sum, x.scratch);
}

/// dlf and c_j of the chunk's tokens, by one thread each way: 64 terms.
DEVICE void gate_sums(const MlstmProblem& a, const Gradient& x) {
  const double through = closure(a, x);
  double* const before = (double*)x.left;
  const size_t at = vector_at(a, x.s.u, x.s.first);
  __syncthreads();
  if (threadIdx.x == 0) {
    double sum = through;  // + Σ_{j<t} c'_j
    for (int t = 0; t < x.s.tokens; t++) {
      before[t] = sum;
      a.dli[at + t] = (double)x.keys[t] + x.z_columns[t];
      sum += x.keys[t];
    }
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  double after = 0, across = 0;  // Σ_{u≥t} r'_u, and pairs on both sides of t
  for (int t = x.s.tokens - 1; t >= 0; t--) {
    after += x.queries[t];
    across += (double)x.z_rows[t] - x.z_columns[t];
    // No visible pair lies on both sides of a token that sees nothing before it.
    if (x.g.start[t] == t) across = 0;
    a.dlf[at + t] = before[t] + after + across;
  }
}

template <typename S> DEVICE void gradient(const MlstmProblem& a) {
  SHARED(float, shared);
  const Gradient x = gradient_of(a, shared);
  const Span& s = x.s;
  if (s.tokens == 0) {
    clear_rows(view_of<S>(a, a.dq, a.width_qk, s.u, s.first), s.room, a.width_qk);
    clear_rows(view_of<S>(a, a.dk, a.width_qk, s.u, s.first), s.room, a.width_qk);
    clear_rows(view_of<S>(a, a.dv, a.width_v, s.u, s.first), s.room, a.width_v);
    return;
  }
  squares<S>(a, x);
  query_gradient<S>(a, x);
  key_gradient<S>(a, x);
  value_gradient<S>(a, x);
  __syncthreads();
  gate_sums(a, x);
}

}  // namespace mlstm
