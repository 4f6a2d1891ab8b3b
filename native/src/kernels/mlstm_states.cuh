// States of the mLSTM before every chunk, and their gradients behind every chunk. kernels.md §2.3,
// §3.3. Per unit, in order, and in reverse with dh' = dh/(N + eps):
//   C ← γ C + Σ_j β_j k_j v_jᵀ         n ← γ n + Σ_j β_j k_j
//   dC ← γ dC + Σ_t α_t q_t dh'_tᵀ     dn ← γ dn + Σ_t α_t y_t q_t
// A block owns 64 x 64 elements of one unit's C [DQK, DV] for all chunks; blocks of the first
// columns own n too. Per token and unit 2·DQK·DV FLOPs, 4·DQK·DV/64 bytes written.
// Equals cpu/mlstm_state.zig.
#pragma once
#include "mlstm_problem.cuh"

namespace mlstm {

/// One 64 x 64 part of a unit's state.
struct Part {
  uint64_t row, column;    // first
  uint64_t rows, columns;  // from there on
};

DEVICE void load_part(const MlstmProblem& a, const Part& p, const float* from, Accumulator& acc) {
  clear(acc);
  if (!from) return;
  for (int r = 0; r < 4; r++)
    for (int c = 0; c < 4; c++) {
      const uint64_t row = tile_row() + r, column = tile_column() + c;
      if (row < p.rows && column < p.columns)
        acc.at[r][c] = from[(p.row + row) * a.width_v + p.column + column];
    }
}

DEVICE void store_part(const MlstmProblem& a, const Part& p, const Accumulator& acc, float* to) {
  for (int r = 0; r < 4; r++)
    for (int c = 0; c < 4; c++) {
      const uint64_t row = tile_row() + r, column = tile_column() + c;
      if (row < p.rows && column < p.columns)
        to[(p.row + row) * a.width_v + p.column + column] = acc.at[r][c];
    }
}

/// What a chunk adds: rows of x times `x_scale`, columns of z times `z_scale`, n_weight for n.
template <typename S> struct Addition {
  View<S> x, z;
  const float *x_scale, *z_scale, *n_weight;
};

template <typename S>
DEVICE void add_chunk(const Part& p, Accumulator& acc, float& n, const Addition<S>& from,
                      int tokens, float* shared) {
  float* const x = shared;
  float* const z = shared + depth * pitch;
  for (int first = 0; first < tokens; first += depth) {
    __syncthreads();
    load_straight(x, moved(from.x, first, p.row), tokens - first, p.rows, from.x_scale + first);
    load_straight(z, moved(from.z, first, p.column), tokens - first, p.columns,
                  from.z_scale ? from.z_scale + first : nullptr);
    __syncthreads();
    multiply(acc, x, z, depth);
    if (threadIdx.x >= chunk) continue;
    const int some = tokens - first < depth ? tokens - first : depth;
    for (int j = 0; j < some; j++) {
      const float weight = from.n_weight ? from.n_weight[first + j] : 1.f;
      n = fmaf(weight, x[j * pitch + threadIdx.x], n);
    }
  }
}

DEVICE void decay_part(Accumulator& acc, float& n, float gamma) {
#pragma unroll
  for (int r = 0; r < 4; r++)
#pragma unroll
    for (int c = 0; c < 4; c++) acc.at[r][c] *= gamma;
  n *= gamma;
}

struct Where {
  Unit u;
  Part part;
  bool has_n;  // this thread owns one component of n
};

DEVICE Where where(const MlstmProblem& a) {
  const uint64_t across = (a.width_v + chunk - 1) / chunk;
  const uint64_t parts = across * ((a.width_qk + chunk - 1) / chunk);
  Where w;
  w.u = unit_of(a, a.first_unit + blockIdx.x / parts);
  const uint64_t index = blockIdx.x % parts;
  w.part.row = index / across * chunk;
  w.part.column = index % across * chunk;
  w.part.rows = a.width_qk - w.part.row;
  w.part.columns = a.width_v - w.part.column;
  w.has_n = w.part.column == 0 && threadIdx.x < chunk && threadIdx.x < w.part.rows;
  return w;
}

DEVICE void store_state(const MlstmProblem& a, const Where& w, const Accumulator& acc, float n,
                        float* to) {
  store_part(a, w.part, acc, to);
  if (w.has_n) to[a.width_qk * a.width_v + w.part.row + threadIdx.x] = n;
}

template <typename S> DEVICE void states(const MlstmProblem& a) {
  SHARED(float, shared);
  const Where w = where(a);
  const Unit& u = w.u;
  const size_t size = a.width_qk * a.width_v;
  const size_t n_at = u.index * a.width_qk + w.part.row + threadIdx.x;
  Accumulator acc;
  load_part(a, w.part, a.c0 ? a.c0 + u.index * size : nullptr, acc);
  float n = w.has_n && a.n0 ? a.n0[n_at] : 0;
  const bool wants_end = a.c_last || a.n_last || a.dm_last;
  for (int c = 0; c < u.chunks; c++) {
    if (c > 0 || has_initial(a)) store_state(a, w, acc, n, state_at(a, a.states, u, c));
    if (c + 1 == u.chunks && !wants_end) break;
    const int first = c * chunk, left = u.tokens - first;
    const Gates g = gates_of(a, u, first);
    Addition<S> from = {};
    from.x = view_of<S>(a.k, a.k_strides, u, first);
    from.z = view_of<S>(a.v, a.v_strides, u, first);
    from.x_scale = g.beta;
    decay_part(acc, n, a.gamma[u.index * a.chunks + c]);
    add_chunk(w.part, acc, n, from, left < chunk ? left : chunk, shared);
  }
  if (a.dm_last) store_state(a, w, acc, n, state_at(a, a.states, u, u.chunks));
  if (a.c_last) store_part(a, w.part, acc, a.c_last + u.index * size);
  if (a.n_last && w.has_n) a.n_last[n_at] = a.normalize ? n : 0;
}

template <typename S> DEVICE void state_gradients(const MlstmProblem& a) {
  SHARED(float, shared);
  const Where w = where(a);
  const Unit& u = w.u;
  const size_t size = a.width_qk * a.width_v;
  const size_t n_at = u.index * a.width_qk + w.part.row + threadIdx.x;
  Accumulator acc;
  load_part(a, w.part, a.dc_last ? a.dc_last + u.index * size : nullptr, acc);
  float n = w.has_n && a.dn_last ? a.dn_last[n_at] : 0;
  for (int c = u.chunks - 1; c >= 0; c--) {
    store_state(a, w, acc, n, state_at(a, a.dstates, u, c + 1));
    const int first = c * chunk, left = u.tokens - first;
    const Gates g = gates_of(a, u, first);
    const size_t at = vector_at(a, u, first);
    Addition<S> from = {};
    from.x = view_of<S>(a.q, a.q_strides, u, first);
    from.z = view_of<S>(a, a.dh, a.width_v, u, first);
    from.x_scale = g.alpha;
    from.z_scale = a.inverse + at;
    from.n_weight = a.y + at;
    decay_part(acc, n, a.gamma[u.index * a.chunks + c]);
    add_chunk(w.part, acc, n, from, left < chunk ? left : chunk, shared);
  }
  store_state(a, w, acc, n, state_at(a, a.dstates, u, 0));
  if (a.dc0) store_part(a, w.part, acc, a.dc0 + u.index * size);
  if (a.dn0 && w.has_n) a.dn0[n_at] = a.normalize ? n : 0;
}

}  // namespace mlstm
