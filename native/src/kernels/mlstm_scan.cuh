// Gate vectors of the mLSTM. kernels.md §2.3, §2.4. Per chunk, with b_t = Σ_{u≤t} lf_u,
// w_j = li_j − b_j, P_t the running maximum of μ_{c−1} and w, m_t = b_t + P_t:
//   s·D_tj = e^(u_t + w_j), u_t = b_t − m_t + log s     α_t = s·e^(b_t + μ_{c−1} − m_t)
//   β_j = e^(b_L + w_j − μ_c)                           γ_c = e^(b_L + μ_{c−1} − μ_c)
// Sums and exponents are float64; u and w leave as pairs of f32. A block of 64 threads is one unit,
// a thread one token of the chunk. Bytes per token: 8 read, 36 written; equals cpu/mlstm_gates.zig.
#pragma once
#include "mlstm_problem.cuh"

namespace mlstm {

DEVICE double log_sigmoid_wide(double x) { return fmin(x, 0.0) - log1p(exp(-fabs(x))); }

/// A stretch of tokens: its highest w (or the floor of its last border), who attains it, where the
/// last border lies.
struct Stretch {
  double top;
  int winner, start;  // start < 0: no border inside
};

/// The later stretch wins only where it is higher: of equals the earlier token is the winner.
DEVICE Stretch joined(const Stretch& before, const Stretch& after) {
  if (after.start >= 0) return after;
  const bool higher = after.top > before.top;
  return {higher ? after.top : before.top, higher ? after.winner : before.winner, before.start};
}

/// Inclusive sum over the block's 64 threads, by doubling.
DEVICE double scan_sum(double x, double* shared) {
  const int t = threadIdx.x;
  shared[t] = x;
  __syncthreads();
  for (int step = 1; step < chunk; step *= 2) {
    const double other = t >= step ? shared[t - step] : 0;
    __syncthreads();
    shared[t] += other;
    __syncthreads();
  }
  return shared[t];
}

DEVICE Stretch scan_stretch(Stretch mine, Stretch* shared) {
  const int t = threadIdx.x;
  shared[t] = mine;
  __syncthreads();
  for (int step = 1; step < chunk; step *= 2) {
    if (t >= step) mine = joined(shared[t - step], mine);
    __syncthreads();
    shared[t] = mine;
    __syncthreads();
  }
  return mine;
}

/// x as a sum of two f32. An infinite x (a closed input gate) has no low part.
DEVICE void split(double x, float* high, float* low) {
  *high = (float)x;
  *low = isfinite(*high) ? (float)(x - (double)*high) : 0.f;
}

/// lf and li of one token; a token that is not there neither decays nor adds.
DEVICE void logarithms(const MlstmProblem& a, const Unit& u, int t, double* forget,
                       double* input) {
  *forget = 0;
  *input = -INFINITY;
  if (t >= u.tokens) return;
  const size_t token = token_of(a, u, t);
  const bool soft = a.soft_reset && is_border(a, u, t);
  *forget = log_sigmoid_wide(soft ? a.reset_value : a.f[token]);
  *input = a.sigmoid ? log_sigmoid_wide(a.i[token]) : a.i[token];
}

/// m and the position that attains it, carried from chunk to chunk; every thread has them.
struct Carry {
  double m;
  int winner;
};

/// What the scans tell a thread about its token and chunk.
struct Sums {
  double b, w, total, m;
  Stretch seen;    // from the chunk's first token, or the last border, to this token
  int last_start;  // of the chunk's last token
};

DEVICE Sums chunk_sums(const MlstmProblem& a, const Unit& u, int at, const Carry& carry,
                       double* sums, Stretch* stretches) {
  const int t = threadIdx.x;
  Sums x;
  double forget, input;
  logarithms(a, u, at, &forget, &input);
  x.b = scan_sum(forget, sums);
  x.w = input - x.b;
  x.total = sums[chunk - 1];
  Stretch mine = {x.w, at + 1, -1};
  if (a.exact_reset && at < u.tokens && is_border(a, u, at)) {
    const double floor = t > 0 ? -sums[t - 1] : 0;
    const bool higher = x.w > floor;
    mine = {higher ? x.w : floor, higher ? at + 1 : winner_none, t};
  }
  x.seen = scan_stretch(mine, stretches);
  x.last_start = stretches[chunk - 1].start;
  // The state before the chunk takes part until a border hides it.
  if (x.seen.start < 0 && !(x.seen.top > carry.m)) {
    x.seen.top = carry.m;
    x.seen.winner = carry.winner;
  }
  x.m = a.sigmoid ? 0 : x.b + x.seen.top;
  return x;
}

/// From the float64 sums to the vectors in f32. `before` is μ_{c−1}, `after` μ_c.
DEVICE void write_vectors(const MlstmProblem& a, const Unit& u, int at, const Sums& x,
                          double before, double after) {
  const size_t to = vector_at(a, u, at);
  const bool inside = at < u.tokens, hidden = x.seen.start >= 0;
  split(x.b - x.m + log(a.scale), a.u_high + to, a.u_low + to);
  split(x.w, a.w_high + to, a.w_low + to);
  a.alpha[to] = inside && !hidden ? (float)(a.scale * exp(x.b + before - x.m)) : 0;
  const bool kept = inside && (int)threadIdx.x >= x.last_start;
  a.beta[to] = kept ? (float)exp(x.total - after + x.w) : 0;
  a.floor[to] = a.sigmoid ? 1 : expf(fminf(-(float)x.m, 80.f));
  a.start[to] = hidden ? x.seen.start : 0;
  a.winner[to] = x.seen.winner;
  if (a.m && inside) a.m[token_of(a, u, at)] = (float)x.m;
}

DEVICE void scan(const MlstmProblem& a) {
  __shared__ double sums[chunk];
  __shared__ Stretch stretches[chunk];
  __shared__ double last_m;
  __shared__ int last_winner;
  const Unit u = unit_of(a, blockIdx.x);
  const int t = threadIdx.x;
  Carry carry = {a.m0 ? a.m0[u.index] : 0, winner_initial};
  for (int c = 0; c < u.chunks; c++) {
    const Sums x = chunk_sums(a, u, c * chunk + t, carry, sums, stretches);
    if (t == chunk - 1) {
      last_m = x.m;
      last_winner = x.seen.winner;
    }
    __syncthreads();
    // The last state's m is what its tensor can hold: C and n are made to match.
    const double after = c + 1 == u.chunks ? (float)last_m : last_m;
    write_vectors(a, u, c * chunk + t, x, carry.m, after);
    const bool closed = x.last_start >= 0;
    if (t == 0)
      a.gamma[u.index * a.chunks + c] = closed ? 0 : (float)exp(x.total + carry.m - after);
    carry = {after, last_winner};
    __syncthreads();
  }
  if (t == 0 && a.m_last) a.m_last[u.index] = (float)carry.m;
  if (t == 0 && a.last_winner) a.last_winner[u.index] = carry.winner;
  if (!a.m) return;
  for (int padded = u.tokens + t; padded < (int)a.length; padded += chunk)
    a.m[token_of(a, u, padded)] = 0;
}

}  // namespace mlstm
