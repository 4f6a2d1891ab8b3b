// What surrounds the chunks of the mLSTM's backward pass. kernels.md §3.2, §3.4-3.6.
// rows: 1/(N + eps), ŷ/(N + eps) and ⟨dh, h⟩ per token, one warp each; 2·DV elements read.
// products: T = ⟨C_S, dC_S⟩ + ⟨n_S, dn_S⟩ and the same of the initial state, one block per unit.
// gate_gradient, one block of 64 threads per unit; with g_t = −eps·⟨dh_t, h_t⟩/(N_t + eps), and at
// the last token also dm_S − T:
//   c_j += Σ_{t: j*(t)=j} g_t      dlf_t += Σ_{u≥t} (g_u − Σ_{t': j*(t')=u} g_t')
//   di = c (exp), c·σ(−i) (sigmoid)      df = dlf·σ(−f)
//   dm_0 = ⟨C_0, dC_0⟩ + ⟨n_0, dn_0⟩ + Σ_{t: j*(t)=0} g_t
// j*(t) is the position whose gates attain m_t; sums end at borders. Equals
// cpu/mlstm_backward_parts.zig and cpu/mlstm_gate_gradient.zig.
#pragma once
#include "mlstm_problem.cuh"

namespace mlstm {

template <typename S> DEVICE void rows(const MlstmProblem& a) {
  const uint64_t warps = threads / warp_size, padded = a.chunks * chunk;
  const uint64_t index = blockIdx.x * warps + threadIdx.x / warp_size;
  if (index >= a.batch * a.heads * padded) return;
  const Unit u = unit_of(a, index / padded);
  const int t = (int)(index % padded), lane = threadIdx.x % warp_size;
  float inner = 0, inverse = 0, y = 0;
  if (t < u.tokens) {
    const size_t token = token_of(a, u, t);
    if (a.exact) {
      const S* const dh = (const S*)a.dh + token * a.width_v;
      const S* const h = (const S*)a.h + token * a.width_v;
      for (uint64_t e = lane; e < a.width_v; e += warp_size)
        inner = fmaf(to_float(dh[e]), to_float(h[e]), inner);
      inner = warp_sum(inner);
    }
    inverse = 1;
    if (a.normalize) {
      const float sigma = a.sigma[token], floor = a.floor[vector_at(a, u, t)];
      inverse = 1 / (fmaxf(fabsf(sigma), floor) + a.eps);
      const bool active = fabsf(sigma) >= floor && sigma != 0;
      if (a.exact && active) y = (sigma < 0 ? inner : -inner) * inverse;
    }
  }
  if (lane != 0) return;
  const size_t at = vector_at(a, u, t);
  a.inner[at] = inner;
  a.inverse[at] = inverse;
  a.y[at] = y;
}

DEVICE double state_product(const MlstmProblem& a, const float* c, const float* n, const float* d,
                            double* scratch) {
  const size_t size = a.width_qk * a.width_v;
  double sum = 0;
  if (c)
    for (size_t at = threadIdx.x; at < size; at += threads) sum += (double)c[at] * d[at];
  if (n)
    for (size_t at = threadIdx.x; at < a.width_qk; at += threads)
      sum += (double)n[at] * d[size + at];
  return block_sum(sum, scratch);
}

DEVICE void products(const MlstmProblem& a) {
  __shared__ double scratch[32];
  const Unit u = unit_of(a, a.first_unit + blockIdx.x);
  const size_t size = a.width_qk * a.width_v;
  double last = 0;
  if (a.dm_last) {
    const float* const c = state_at(a, a.states, u, u.chunks);
    last = state_product(a, c, a.normalize ? c + size : nullptr,
                         state_at(a, a.dstates, u, u.chunks), scratch);
  }
  const float* const n0 = a.n0 && a.normalize ? a.n0 + u.index * a.width_qk : nullptr;
  const double initial = state_product(a, a.c0 ? a.c0 + u.index * size : nullptr, n0,
                                       state_at(a, a.dstates, u, 0), scratch);
  if (threadIdx.x != 0) return;
  a.products[2 * u.index] = last;
  a.products[2 * u.index + 1] = initial;
}

DEVICE double row_term(const MlstmProblem& a, size_t at) {
  return a.eps_term ? -(double)a.eps * a.inner[at] * a.inverse[at] : 0;
}

/// What the tokens whose maximum is position j (from 1, or initial) owe to it: they follow each
/// other, from token `t` on.
DEVICE double credit_of(const MlstmProblem& a, const Unit& u, int t, int position) {
  double sum = 0;
  for (; t < u.tokens && a.winner[vector_at(a, u, t)] == position; t++)
    sum += row_term(a, vector_at(a, u, t));
  return sum;
}

/// Sums of x from each thread to the end of the chunk, or to the next border: tokens before a
/// border receive nothing from behind it. `closed` tells whether one came before the chunk's end.
DEVICE double scan_back(double x, bool border, double* sums, int* borders, bool* closed) {
  const int t = threadIdx.x;
  sums[t] = x;
  if (t > 0) borders[t - 1] = border;
  if (t == chunk - 1) borders[t] = 0;
  __syncthreads();
  for (int step = 1; step < chunk; step *= 2) {
    const bool takes = t + step < chunk && !borders[t];
    const double other = takes ? sums[t + step] : 0;
    const int end = takes ? borders[t + step] : borders[t];
    __syncthreads();
    sums[t] += other;
    borders[t] = end;
    __syncthreads();
  }
  *closed = borders[t] != 0;
  return sums[t];
}

DEVICE void write_gates(const MlstmProblem& a, const Unit& u, int t, double dlf, double dli) {
  const size_t token = token_of(a, u, t);
  const bool soft = a.soft_reset && is_border(a, u, t);
  a.df[token] = soft ? 0 : (float)dlf * sigmoid(-a.f[token]);
  a.di[token] = a.sigmoid ? (float)dli * sigmoid(-a.i[token]) : (float)dli;
}

DEVICE void gate_gradient(const MlstmProblem& a) {
  __shared__ double sums[chunk];
  __shared__ int borders[chunk];
  const Unit u = unit_of(a, a.first_unit + blockIdx.x);
  const int t = threadIdx.x, last = a.last_winner[u.index];
  const bool through_maximum = a.eps_term || a.dm_last;
  const double ending = a.dm_last ? a.dm_last[u.index] - a.products[2 * u.index] : 0;
  double carried = ending;
  for (int c = u.chunks - 1; c >= 0; c--) {
    const int at = c * chunk + t;
    const bool inside = at < u.tokens;
    const size_t vector = vector_at(a, u, at);
    double dlf = inside ? a.dlf[vector] : 0, dli = inside ? a.dli[vector] : 0;
    if (through_maximum) {
      double credit = inside ? credit_of(a, u, at, at + 1) : 0;
      if (inside && last == at + 1) credit += ending;
      bool closed;
      const double mine = inside ? row_term(a, vector) - credit : 0;
      const bool border = inside && a.exact_reset && is_border(a, u, at);
      const double sum = scan_back(mine, border, sums, borders, &closed);
      dlf += closed ? sum : sum + carried;
      dli += credit;
      // The chunk's first token closes what the chunks before it receive.
      const bool first_closed = borders[0] != 0;
      const bool first_border = a.exact_reset && is_border(a, u, c * chunk);
      carried = first_border ? 0 : first_closed ? sums[0] : sums[0] + carried;
      __syncthreads();
    }
    if (inside) write_gates(a, u, at, dlf, dli);
  }
  for (int padded = u.tokens + t; padded < (int)a.length; padded += chunk)
    a.df[token_of(a, u, padded)] = a.di[token_of(a, u, padded)] = 0;
  if (t != 0 || !a.dm0) return;
  double initial = through_maximum ? credit_of(a, u, 0, winner_initial) : 0;
  if (last == winner_initial) initial += ending;
  a.dm0[u.index] = a.sigmoid ? 0 : (float)(a.products[2 * u.index + 1] + initial);
}

}  // namespace mlstm
