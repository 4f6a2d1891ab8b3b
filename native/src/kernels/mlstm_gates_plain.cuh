// The gates of whole chunks without borders and lengths, as training has them; mlstm_gates.cu does
// all others. A warp has one chunk of eight heads, a block chunks that follow each other, and a
// lane 16 tokens of a head, so that sums and maxima along the chunk are steps of a lane, and of
// four lanes at the end.
//
// Sums of natural logarithms: in f32 along a lane, whose start is known in f64. Where f32 holds
// the powers of u and w, which is where gates are not extreme, alpha and beta are these powers
// times factors of the chunk: with u = b - m + log s - b_L/2 and w = li - b + b_L/2
//
//   alpha = e^u · e^(b_L/2 + m_before + frame)    beta = e^w · e^(b_L/2 - m_after - next frame)
//
// Otherwise the chunk is made again, from memory, token by token.
//
// Floor as in mlstm_gates.cu: 0.006 ms for records of a million tokens and heads, and 0.004 for a
// launch. Measured, H100, 65,536 tokens of 16 heads: 0.015 ms sig, 0.026 exp, gradients 0.022.
// Slower: two tokens a lane (0.022, 0.038, gradients 0.037), the library's log1p and exp, which
// branch, so that tokens of a lane do not overlap (0.024, 0.038), sums in f64 (0.025, 0.037,
// 0.025), summaries by chunk (exp 0.035), sums of chunks left by the sweeps (gradients 0.027 to
// 0.044).
#pragma once
#include "mlstm_gates.cuh"

DEVICE float quick_sigmoid(float x) { return quick_inverse(1 + quick_power(-x * (float)log2_e)); }

// Of e = e^-|x|, log(1 + e) = 2 artanh(e/(2 + e)), whose argument is 1/3 at most.
DEVICE float plain_log_sigmoid(float x) {
  const float e = quick_power(-fabsf(x) * (float)log2_e), s = e * quick_inverse(2 + e), y = s * s;
  float sum = 1 / 13.f;
  sum = fmaf(sum, y, 1 / 11.f);
  sum = fmaf(sum, y, 1 / 9.f);
  sum = fmaf(sum, y, 1 / 7.f);
  sum = fmaf(sum, y, 1 / 5.f);
  sum = fmaf(sum, y, 1 / 3.f);
  sum = fmaf(sum, y, 1.f);
  return fmaf(-2 * s, sum, fminf(x, 0.f));
}

struct PlainPlace {
  static constexpr int parts = warp_size / block_heads, count = CHUNK / parts;
  const MlstmGateSizes& sizes;
  uint32_t row, chunk, head;
  bool exists;

  DEVICE explicit PlainPlace(const MlstmGateSizes& z) : sizes(z) {
    const uint32_t groups = ((uint32_t)z.heads + block_heads - 1) / block_heads;
    const uint32_t warps = blockDim.x / warp_size, in_row = (z.chunks + warps - 1) / warps;
    const uint32_t index = blockIdx.x / groups;
    row = index / in_row;
    chunk = (index - row * in_row) * warps + threadIdx.x / warp_size;
    head = (blockIdx.x - index * groups) * block_heads + lane() % block_heads;
    exists = row < z.batch && chunk < z.chunks && head < z.heads;
  }
  DEVICE static int lane() { return threadIdx.x % warp_size; }
  DEVICE static int part() { return lane() / block_heads; }
  DEVICE uint64_t unit() const { return row * sizes.heads + head; }
  // In [batch][length][heads], of the lane's first token.
  DEVICE uint64_t from() const {
    return (row * sizes.length + (chunk * CHUNK + part() * count)) * sizes.heads + head;
  }
  DEVICE void load(float (&to)[count], const float* x) const {
    const float* at = x + from();
#pragma unroll
    for (int t = 0; t < count; t++) to[t] = exists ? at[t * sizes.heads] : 0.f;
  }
  DEVICE void store(float* x, const float (&from_)[count]) const {
    float* at = x + from();
#pragma unroll
    for (int t = 0; t < count; t++)
      if (exists) at[t * sizes.heads] = from_[t];
  }

  // Of the lanes before, or behind, that have the same head.
  DEVICE static double sum_before(double x, double* all) {
    double sum = x;
#pragma unroll
    for (int step = 1; step < parts; step *= 2) {
      const double other = __shfl_up_sync(full_mask, sum, step * block_heads);
      if (part() >= step) sum += other;
    }
    *all = __shfl_sync(full_mask, sum, (parts - 1) * block_heads + lane() % block_heads);
    const double before = __shfl_up_sync(full_mask, sum, block_heads);
    return part() > 0 ? before : 0;
  }
  DEVICE static double sum_behind(double x) {
    double sum = x;
#pragma unroll
    for (int step = 1; step < parts; step *= 2) {
      const double other = __shfl_down_sync(full_mask, sum, step * block_heads);
      if (part() + step < parts) sum += other;
    }
    const double behind = __shfl_down_sync(full_mask, sum, block_heads);
    return part() < parts - 1 ? behind : 0;
  }
  DEVICE static double maximum_before(double x, double* all) {
    double most = x;
#pragma unroll
    for (int step = 1; step < parts; step *= 2) {
      const double other = __shfl_up_sync(full_mask, most, step * block_heads);
      if (part() >= step) most = greater(other, most);
    }
    *all = __shfl_sync(full_mask, most, (parts - 1) * block_heads + lane() % block_heads);
    const double before = __shfl_up_sync(full_mask, most, block_heads);
    return part() > 0 ? before : -INFINITY;
  }
};

// Of a lane's tokens, in natural logarithms.
template <bool sigmoid> struct PlainGates {
  static constexpr int count = PlainPlace::count;
  float f[count], i[count];  // log forget gate, log input gate
  double before, total;      // b before the lane's first token, and of the chunk
  double highest, most;      // exp gate: max of li - b before it, and of the chunk

  DEVICE PlainGates(const MlstmGates& a, const PlainPlace& p) {
    p.load(f, a.f);
    p.load(i, a.i);
    float sum = 0, own = -INFINITY;
#pragma unroll
    for (int t = 0; t < count; t++) {
      f[t] = plain_log_sigmoid(f[t]);
      if (sigmoid) i[t] = plain_log_sigmoid(i[t]);
      sum += f[t];
      if (!sigmoid) own = fmaxf(own, i[t] - sum);
    }
    before = PlainPlace::sum_before(sum, &total);
    highest = most = -INFINITY;
    if (!sigmoid) highest = PlainPlace::maximum_before(own - before, &most);
  }
};

// What the chunks of a block do to the state's m: max(decay + m, floor), exponents of 2.
struct PlainGroup {
  static constexpr uint32_t size = KeptState::group;
  double decay[size][block_heads], floor[size][block_heads];

  // By all threads of the block.
  template <bool sigmoid> DEVICE void gather(const PlainPlace& p, const PlainGates<sigmoid>& g) {
    const int own = threadIdx.x / warp_size, head = p.lane() % block_heads;
    if (p.part() == 0) {
      decay[own][head] = g.total * log2_e;
      floor[own][head] = (g.total + g.most) * log2_e;
    }
    __syncthreads();
  }
};

KERNEL(256, mlstm_gates_summaries_plain, MlstmGates) {
  __shared__ PlainGroup group;
  const PlainPlace place(a.sizes);
  group.gather(place, PlainGates<false>(a, place));
  if (threadIdx.x >= block_heads || !place.exists) return;
  double decay = 0, floor = -INFINITY;
  for (uint32_t c = 0; c < PlainGroup::size; c++) {
    floor = greater(floor + group.decay[c][threadIdx.x], group.floor[c][threadIdx.x]);
    decay += group.decay[c][threadIdx.x];
  }
  const uint32_t groups = (a.sizes.chunks + PlainGroup::size - 1) / PlainGroup::size;
  double* to = a.summaries + (place.unit() * groups + place.chunk / PlainGroup::size) * 2;
  to[0] = decay;
  to[1] = floor;
}

// The state's m before the block's first chunk, by the four lanes of a head.
DEVICE double plain_m_before(const MlstmGates& a, const PlainPlace& p) {
  const uint32_t groups = (a.sizes.chunks + PlainGroup::size - 1) / PlainGroup::size;
  const uint32_t behind = p.exists ? p.chunk / PlainGroup::size : 0;
  const double* summaries = a.summaries + p.unit() * groups * 2;
  const uint32_t share = (behind + PlainPlace::parts - 1) / PlainPlace::parts;
  const uint32_t first = p.part() * share;
  const uint32_t end = first + share < behind ? first + share : behind;
  double decay = 0, floor = -INFINITY;
#pragma unroll 4
  for (uint32_t c = first; c < end; c++) {
    const double of_group = summaries[2 * c];
    floor = greater(floor + of_group, summaries[2 * c + 1]);
    decay += of_group;
  }
#pragma unroll
  for (int step = 1; step < PlainPlace::parts; step *= 2) {
    const double earlier_decay = __shfl_up_sync(full_mask, decay, step * block_heads);
    const double earlier_floor = __shfl_up_sync(full_mask, floor, step * block_heads);
    if (p.part() >= step) {
      floor = greater(earlier_floor + decay, floor);
      decay += earlier_decay;
    }
  }
  const int last = (PlainPlace::parts - 1) * block_heads + p.lane() % block_heads;
  const double initial = a.m0 && p.exists ? a.m0[p.unit()] * log2_e : 0;
  decay = __shfl_sync(full_mask, decay, last);
  floor = __shfl_sync(full_mask, floor, last);
  return greater(decay + initial, floor);
}

template <bool sigmoid, bool norm> struct PlainVectors {
  static constexpr int count = PlainPlace::count;
  const MlstmGates& a;
  const PlainPlace& place;
  const KeptState state;
  const double middle;     // b_L/2, an exponent of 2
  const double out, into;  // m of the state as it is kept
  RecordParts record;

  DEVICE PlainVectors(const MlstmGates& args, const PlainPlace& p, const PlainGates<sigmoid>& g,
                      const KeptState& s)
      : a(args), place(p), state(s), middle(g.total * (log2_e / 2)),
        out(s.out()), into(s.into()),
        record(args, p.unit(), p.chunk) {
    const bool last = p.chunk == a.sizes.chunks - 1;
    if (last && a.m_last && p.exists && p.part() == 0) a.m_last[p.unit()] = s.m_last;
  }

  // As they come, or `turned`: a lane's 16 tokens lie side by side.
  DEVICE void straight(float* to, const float (&x)[count]) const {
#pragma unroll
    for (int q = 0; q < count; q += 4) {
      const float four[4] = {x[q], x[q + 1], x[q + 2], x[q + 3]};
      if (place.exists) store_pack(to + place.part() * count + q, four);
    }
  }
  DEVICE void turn(float* to, const float (&x)[count]) const {
#pragma unroll
    for (int q = 0; q < 4; q++) {
      const float four[4] = {x[2 * q], x[2 * q + 1], x[2 * q + 8], x[2 * q + 9]};
      if (place.exists) store_pack(to + turned(place.part() * count + 2 * q), four);
    }
  }

  DEVICE void make(const PlainGates<sigmoid>& g) const {
    const float scale = (float)a.scale, log_scale = log2f(scale);
    const float row_factor = (float)(middle + out), column_factor = (float)(middle - into);
    float u[count], w[count], floor[count], own_m[count];
    // b and the highest li - b so far, from b before the lane's first token.
    float b = 0, highest = (float)(greater(g.highest, state.before * ln_2) + g.before);
    const float start = (float)(g.before * log2_e - middle);
    bool small = holds(row_factor, column_factor);
#pragma unroll
    for (int t = 0; t < count; t++) {
      b += g.f[t];
      const float li = g.i[t] - b;
      highest = fmaxf(highest, li);
      own_m[t] = sigmoid ? 0 : b + highest;
      u[t] = start + (sigmoid ? b : -highest) * (float)log2_e + log_scale;
      w[t] = li * (float)log2_e - start;
      const float log_floor = sigmoid ? 0.f : fminf(-own_m[t], 80.f) * (float)log2_e;
      floor[t] = sigmoid ? 1.f : quick_power(log_floor);
      small = small && holds(u[t], w[t], log_floor, norm);
    }
    if (a.m) place.store(a.m, own_m);
    if (norm) straight(record.floor, floor);
    const uint32_t heads = __ballot_sync(full_mask, small) >> place.lane() % block_heads;
    constexpr uint32_t lanes_of_head = 0x01010101;
    const bool plain = (heads & lanes_of_head) == lanes_of_head;
    if (place.exists && place.part() == 0) {
      record.rest(plain ? quick_power(row_factor) : 1, plain ? quick_power(column_factor) : 1,
                  state.gamma, plain);
    }
    if (!plain) return exponents(g);
#pragma unroll
    for (int t = 0; t < count; t++) {
      u[t] = quick_power(u[t]);
      w[t] = quick_power(w[t]);
    }
    turn(record.row, u);
    turn(record.column, w);
    if (norm) turn(record.column_back, w);
  }

  // Of a head whose exponents f32 does not hold.
  DEVICE void exponents(const PlainGates<sigmoid>& g) const {
    if (!place.exists) return;
    const float scale = (float)a.scale, log_scale = log2f(scale);
    double b = g.before, highest = greater(g.highest, state.before * ln_2);
#pragma unroll 1
    for (int t = 0; t < count; t++) {
      const uint64_t at = place.from() + t * a.sizes.heads;
      const int token = place.part() * count + t, to = turned(token);
      b += plain_log_sigmoid(a.f[at]);
      const double li = (sigmoid ? plain_log_sigmoid(a.i[at]) : a.i[at]) - b;
      if (!sigmoid) highest = greater(highest, li);
      const double m = sigmoid ? 0 : b + highest, left = (b - m) * log2_e;
      const Split u(left + log_scale), w(li * log2_e);
      record.row[to] = scale * exp2_of(left + out);
      const float beta = exp2_of(2 * middle + li * log2_e - into);
      record.column[to] = beta;
      if (norm) record.column_back[to] = beta;
      record.u[to] = u.high;
      record.w[to] = w.high;
      record.low[to] = __uint_as_float(u.low << 16 | w.low);
      record.edge[token] = __int_as_float(CHUNK * (CHUNK - 1));
    }
  }
};

template <bool sigmoid, bool norm>
DEVICE void plain_records(const MlstmGates& a, const PlainPlace& place) {
  __shared__ PlainGroup group;
  const PlainGates<sigmoid> g(a, place);
  double m = 0;
  if (!sigmoid) {
    follow();  // the summaries
    m = plain_m_before(a, place);
  }
  group.gather(place, g);
  const uint32_t own = threadIdx.x / warp_size, head = place.lane() % block_heads;
  const uint32_t last = a.sizes.chunks - 1 - (place.chunk - own);  // counted from the block's first
  KeptState state(sigmoid, m);
  for (uint32_t c = 0; c <= own; c++)
    state.pass(group.decay[c][head], group.floor[c][head], c, last);
  PlainVectors<sigmoid, norm>(a, place, g, state).make(g);
}

KERNEL_AHEAD(256, mlstm_gates_records_plain_exp, MlstmGates) {
  plain_records<false, true>(a, PlainPlace(a.sizes));
}
KERNEL(256, mlstm_gates_records_plain_sig, MlstmGates) {
  const PlainPlace place(a.sizes);
  if (a.sizes.normalize) return plain_records<true, true>(a, place);
  plain_records<true, false>(a, place);
  const float none[PlainPlace::count] = {};
  if (a.sigma_out) place.store(a.sigma_out, none);
}

// ---- Gradients.

struct PlainTerms {
  static constexpr int count = PlainPlace::count;
  float left[count], column[count];  // r - c, c

  DEVICE PlainTerms(const MlstmGateGradient& a, const PlainPlace& p) {
    const MlstmGateSizes& z = a.sizes;
    const uint64_t padded = (uint64_t)z.chunks * CHUNK, size = z.batch * z.heads * padded;
    const uint64_t at = p.unit() * padded + p.chunk * CHUNK + p.part() * count;
#pragma unroll
    for (int t = 0; t < count; t++) left[t] = column[t] = 0;
    if (!p.exists) return;
    for (uint32_t part = 0; part < a.row_parts; part++) add(left, a.rows + at + part * size);
    for (uint32_t part = 0; part < a.column_parts; part++)
      add(column, a.columns + at + part * size);
#pragma unroll
    for (int t = 0; t < count; t++) left[t] -= column[t];
  }
  DEVICE static void add(float (&sum)[count], const float* x) {
#pragma unroll
    for (int t = 0; t < count; t += 4) {
      float four[4];
      load_pack(x + t, four);
#pragma unroll
      for (int e = 0; e < 4; e++) sum[t + e] += four[e];
    }
  }
  DEVICE float sum() const {
    float all = 0;
#pragma unroll
    for (int t = 0; t < count; t++) all += left[t];
    return all;
  }
};

KERNEL(128, mlstm_gate_sums_plain, MlstmGateGradient) {
  const PlainPlace place(a.sizes);
  double all;
  PlainPlace::sum_before(PlainTerms(a, place).sum(), &all);
  if (!place.exists || place.part() != 0) return;
  double* to = a.tiles + 2 * (place.unit() * a.sizes.chunks + place.chunk);
  to[0] = all;
  to[1] = 0;
}

// What the chunks behind a chunk add, by the four lanes of a head.
DEVICE double plain_later_chunks(const MlstmGateGradient& a, const PlainPlace& p) {
  const double* tiles = a.tiles + 2 * (p.unit() * a.sizes.chunks + p.chunk + 1);
  const uint32_t left = p.exists ? a.sizes.chunks - p.chunk - 1 : 0;
  const uint32_t share = (left + PlainPlace::parts - 1) / PlainPlace::parts;
  const uint32_t first = p.part() * share;
  const uint32_t end = first + share < left ? first + share : left;
  double sum = 0, all;
#pragma unroll 4
  for (uint32_t c = first; c < end; c++) sum += tiles[2 * c];
  PlainPlace::sum_before(sum, &all);
  return all + (a.tails && p.exists ? a.tails[p.unit()] : 0);
}

template <bool sigmoid> DEVICE void plain_gradients(const MlstmGateGradient& a) {
  constexpr int count = PlainPlace::count;
  const PlainPlace place(a.sizes);
  float f[count], i[count];
  place.load(f, a.f);
  if (sigmoid) place.load(i, a.i);
  const PlainTerms x(a, place);
  follow();  // the sums of chunks
  float tail = (float)(PlainPlace::sum_behind(x.sum()) + plain_later_chunks(a, place));
#pragma unroll
  for (int t = count - 1; t >= 0; t--) {
    tail += x.left[t];
    i[t] = sigmoid ? x.column[t] * quick_sigmoid(-i[t]) : x.column[t];
    f[t] = tail * quick_sigmoid(-f[t]);
  }
  place.store(a.di, i);
  place.store(a.df, f);
}

KERNEL_AHEAD(128, mlstm_gate_gradients_plain_exp, MlstmGateGradient) { plain_gradients<false>(a); }
KERNEL_AHEAD(128, mlstm_gate_gradients_plain_sig, MlstmGateGradient) { plain_gradients<true>(a); }
