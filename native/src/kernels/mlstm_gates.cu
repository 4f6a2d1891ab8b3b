// Around the sweeps: the vectors that drive them, from the gates; gradients of the gates, from the
// row and column products that they leave. kernels.md §2.3, §2.4, §3.4.
//
//   b_t = Σ_{u≤t} lf_u in a chunk   w = li - b   P_t = max(m_before, w_1..w_t)   m = b + P
//   u = b - m + log s    alpha = s·e^(b + m_before - m)    beta = e^(b_L + w - m_after)
//   gamma = e^(b_L + m_before - m_after); the backward pass: Record
//   where f32 holds them, e^(u - b_L/2) and e^(w + b_L/2), and alpha and beta as factors of these
//
//   di_t = c_t (·σ(-i))      df_t = σ(-f_t)·(T + Σ_{u≥t} (r_u - c_u)) to the document's end
//
// Floor: 8 bytes read and 0.5 to 0.8 KB/64 written per token and head.
// Equals: cpu/mlstm_gates.zig, cpu/mlstm_gate_gradient.zig (frozen denominator).
#include "mlstm_gates.cuh"
#include "mlstm_gates_plain.cuh"

KERNEL(256, mlstm_gates_summaries, MlstmGates) {
  __shared__ HeadTile f, i;
  const GatePlace place(a.sizes);
  place.load(f, a.f);
  place.load(i, a.i);
  __syncthreads();
  if (!place.exists()) return;
  ChunkGates g;
  g.read(a, place, f[place.warp()], i[place.warp()]);
  const double floor = a.sizes.sigmoid ? 0 : g.floor();
  if (place.lane() != 0) return;
  double* to = a.summaries + (place.unit() * a.sizes.chunks + place.chunk) * 2;
  to[0] = g.decay();
  to[1] = floor;
}

struct Vectors {
  const MlstmGates& a;
  const GatePlace& place;
  RecordParts record;

  DEVICE Vectors(const MlstmGates& args, const GatePlace& p)
      : a(args), place(p), record(args, p.unit(), p.chunk) {}

  // m: becomes what leaves by token.
  DEVICE void make(const ChunkGates& g, float* m) const {
    const bool sigmoid = a.sizes.sigmoid;
    const uint64_t unit = place.unit();
    const uint32_t last = (uint32_t)((g.tokens + CHUNK - 1) / CHUNK - 1);
    const uint32_t first = place.chunk / KeptState::group * KeptState::group;
    KeptState state(sigmoid, sigmoid ? 0 : m_before(a, unit, first));
    const double* summaries = a.summaries + (unit * a.sizes.chunks + first) * 2;
    for (uint32_t c = 0; c <= place.chunk - first; c++)
      state.pass(summaries[2 * c], summaries[2 * c + 1], c, last - first);
    if (a.m_last && g.lane() == 0) {
      if (place.chunk == last) a.m_last[unit] = state.m_last;
      if (g.tokens == 0 && place.chunk == 0) a.m_last[unit] = a.m0 && !sigmoid ? a.m0[unit] : 0;
    }
    double of_token[2];
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const int t = g.token(e);
      of_token[e] = sigmoid ? 0 : g.b[e] + g.reached(e, state.before);
      m[t] = t < g.valid ? (float)(of_token[e] * ln_2) : 0.f;
    }
    if (g.valid > 0) fill(g, of_token, state);
  }

  DEVICE void fill(const ChunkGates& g, const double (&m)[2], const KeptState& state) const {
    const float log_scale = log2f((float)a.scale);
    const double middle = g.total / 2;  // the powers of u and w lie around 1
    double us[2];
    const float row_factor = (float)(middle + state.out());
    const float column_factor = (float)(middle - state.into());
    float u[2], w[2], floor[2];
    bool small = holds(row_factor, column_factor);
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const int t = g.token(e);
      const bool exists = t < g.valid;
      floor[e] = exists && !a.sizes.sigmoid ? expf(fminf(-(float)(m[e] * ln_2), 80.f)) : 1.f;
      us[e] = exists ? g.b[e] - m[e] + log_scale : lowest;
      u[e] = (float)(us[e] - middle);
      w[e] = (float)(g.w[e] + middle);
      small = small && (!exists || holds(u[e], w[e], log2f(floor[e]), a.sizes.normalize));
    }
    if (a.sizes.normalize) pair(record.floor, floor);
    const bool plain = __ballot_sync(full_mask, small) == full_mask && !g.borders;
    if (plain) {
      turn(record.row, exp2f(u[0]), exp2f(u[1]));
      columns(exp2f(w[0]), exp2f(w[1]));
    } else {
      exponents(g, us, state);
    }
    if (g.lane() != 0) return;
    const float factors[2] = {exp2f(row_factor), exp2f(column_factor)};
    record.rest(plain ? factors[0] : 1, plain ? factors[1] : 1, state.gamma, plain);
  }
  DEVICE void exponents(const ChunkGates& g, const double (&us)[2], const KeptState& state) const {
    const Split u[2] = {Split(us[0]), Split(us[1])}, w[2] = {Split(g.w[0]), Split(g.w[1])};
    float alpha[2], beta[2], low[2], edge[2];
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const int t = g.token(e);
      const bool exists = t < g.valid;
      alpha[e] = exists && g.sees_state(t) ? exp2_of(us[e] + state.out()) : 0.f;
      beta[e] = exists && g.reaches_end(t) ? exp2_of(g.total + g.w[e] - state.into()) : 0.f;
      low[e] = __uint_as_float(u[e].low << 16 | w[e].low);
      edge[e] = __int_as_float(
          exists ? g.first[e] + CHUNK * g.last_visible(t) : t * (CHUNK + 1));
    }
    turn(record.row, alpha[0], alpha[1]);
    columns(beta[0], beta[1]);
    turn(record.u, u[0].high, u[1].high);
    turn(record.w, w[0].high, w[1].high);
    turn(record.low, low[0], low[1]);
    pair(record.edge, edge);
  }
  DEVICE void columns(float x, float y) const {
    turn(record.column, x, y);
    if (record.column_back != record.column) turn(record.column_back, x, y);
  }
  DEVICE void turn(float* to, float x, float y) const {
    const float both[2] = {x, y};
    store_pack(to + turned(2 * place.lane()), both);
  }
  DEVICE void pair(float* to, const float (&x)[2]) const { store_pack(to + 2 * place.lane(), x); }
};

KERNEL(256, mlstm_gates_records, MlstmGates) {
  __shared__ HeadTile f, i;
  const GatePlace place(a.sizes);
  place.load(f, a.f);
  place.load(i, a.i);
  __syncthreads();
  const int warp = place.warp();
  ChunkGates g;
  if (place.exists()) {
    g.read(a, place, f[warp], i[warp]);
    __syncwarp();  // m takes the place of f
    Vectors(a, place).make(g, f[warp]);
  }
  __syncthreads();
  if (a.m) place.store(a.m, f);
  if (!a.sigma_out) return;
  const int tokens = a.lengths ? a.lengths[place.row] : (int)a.sizes.length;
  for (int e = 0; e < 2; e++) {
    const int token = place.chunk * CHUNK + place.moved_token(e);
    const bool written = a.sizes.normalize && token < tokens;
    if (!written && place.moves(e)) a.sigma_out[place.from(e)] = 0;
  }
}

// ---- Gradients.

// A sum to the end of its document: `closed` when that end has been reached.
struct Tail {
  double sum;
  int closed;
  DEVICE void append(double later, int later_closed) {
    sum = closed ? sum : sum + later;
    closed |= later_closed;
  }
};

// Tail of every lane: its own and those of the lanes after it.
DEVICE void warp_tails(Tail& x) {
  const int lane = threadIdx.x % warp_size;
  for (int step = 1; step < warp_size; step *= 2) {
    const double sum = __shfl_down_sync(full_mask, x.sum, step);
    const int closed = __shfl_down_sync(full_mask, x.closed, step);
    if (lane + step < warp_size) x.append(sum, closed);
  }
}

// A lane's two tokens.
struct TokenTerms {
  bool exists[2], border[2], ends[2];
  double row[2] = {0, 0}, column[2] = {0, 0};
  DEVICE TokenTerms(const MlstmGateGradient& a, const GatePlace& p) {
    const MlstmGateSizes& z = a.sizes;
    const uint64_t first = (uint64_t)p.chunk * CHUNK + 2 * p.lane();
    const uint64_t tokens = a.lengths ? (uint64_t)a.lengths[p.row] : z.length;
    const uint8_t* borders = a.borders ? a.borders + p.row * z.length : nullptr;
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const uint64_t t = first + e;
      exists[e] = t < tokens;
      border[e] = exists[e] && borders && borders[t];
      ends[e] = t + 1 < tokens && borders && z.reset == reset_exact && borders[t + 1];
    }
    const uint64_t units = z.batch * z.heads, padded = (uint64_t)z.chunks * CHUNK;
    const uint64_t at = p.unit() * padded + first;
    add(row, a.rows + at, a.row_parts, units * padded);
    add(column, a.columns + at, a.column_parts, units * padded);
  }
  DEVICE void add(double (&sum)[2], const float* parts, uint32_t count, uint64_t part) const {
    for (uint32_t p = 0; p < count; p++) {
      float x[2];
      load_pack(parts + p * part, x);
#pragma unroll
      for (int e = 0; e < 2; e++) sum[e] += exists[e] ? (double)x[e] : 0;
    }
  }
  // From each token to the end of the chunk.
  DEVICE void tails(Tail (&tail)[2]) const {
    Tail both{row[0] - column[0], ends[0]}, one{row[1] - column[1], ends[1]};
    both.append(one.sum, one.closed);
    warp_tails(both);
    const double sum = __shfl_down_sync(full_mask, both.sum, 1);
    const int closed = __shfl_down_sync(full_mask, both.closed, 1);
    if (threadIdx.x % warp_size < warp_size - 1) one.append(sum, closed);
    tail[0] = both;
    tail[1] = one;
  }
};

KERNEL(256, mlstm_gate_sums, MlstmGateGradient) {
  const GatePlace place(a.sizes);
  if (!place.exists()) return;
  Tail tail[2];
  TokenTerms(a, place).tails(tail);
  if (place.lane() != 0) return;
  double* to = a.tiles + 2 * (place.unit() * a.sizes.chunks + place.chunk);
  to[0] = tail[0].sum;
  to[1] = tail[0].closed;
}

// What the chunks behind a chunk add to its open end.
DEVICE double later_chunks(const MlstmGateGradient& a, uint64_t unit, uint32_t chunk) {
  const double* all = a.tiles + 2 * (unit * a.sizes.chunks + chunk + 1);
  const uint32_t lane = threadIdx.x % warp_size, left = a.sizes.chunks - chunk - 1;
  const uint32_t share = (left + warp_size - 1) / warp_size;
  Tail tail{0, 0};
  for (uint32_t k = lane * share; k < (lane + 1) * share && k < left; k++)
    tail.append(all[2 * k], all[2 * k + 1] != 0);
  warp_tails(tail);
  if (a.tails) tail.append(a.tails[unit], 1);
  return __shfl_sync(full_mask, tail.sum, 0);
}

KERNEL(256, mlstm_gate_gradients, MlstmGateGradient) {
  __shared__ HeadTile f, i;
  const MlstmGateSizes& z = a.sizes;
  const GatePlace place(z);
  place.load(f, a.f);
  if (z.sigmoid) place.load(i, a.i);
  __syncthreads();
  if (place.exists()) {
    float* df = f[place.warp()];
    float* di = i[place.warp()];
    const TokenTerms x(a, place);
    Tail tail[2];
    x.tails(tail);
    const double later = later_chunks(a, place.unit(), place.chunk);
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const int t = 2 * place.lane() + e;
      tail[e].append(later, 1);
      const float column = (float)x.column[e], gate = z.sigmoid ? di[t] : 0.f;
      di[t] = !x.exists[e] ? 0.f : z.sigmoid ? column * sigmoid(-gate) : column;
      // At an exact border f meets the fresh, empty state; a soft one replaces f by a constant.
      const bool constant = !x.exists[e] || (x.border[e] && z.reset != reset_none);
      df[t] = constant ? 0.f : (float)tail[e].sum * sigmoid(-df[t]);
    }
  }
  __syncthreads();
  place.store(a.di, i);
  place.store(a.df, f);
}

KERNEL(256, mlstm_gate_tails, MlstmTails) {
  __shared__ double scratch[32];
  const float* state = a.state + blockIdx.x * a.count;
  const float* gradient = a.gradient + blockIdx.x * a.count;
  double sum = 0;
  for (uint64_t i = threadIdx.x; i < a.count; i += blockDim.x)
    sum += (double)state[i] * gradient[i];
  sum = block_sum(sum, scratch);
  if (threadIdx.x == 0) a.tails[blockIdx.x] = sum;
}

KERNEL(256, mlstm_clear_rows, MlstmClearRows) {
  const uint64_t per_row = a.length * a.width;
  const uint64_t row = blockIdx.y, from = row * per_row + a.lengths[row] * a.width;
  for (uint64_t i = from + grid_thread(); i < (row + 1) * per_row; i += grid_threads())
    a.rows[i] = 0;
}
