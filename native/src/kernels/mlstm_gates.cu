// Around the sweeps: the vectors that drive them, from the gates; gradients of the gates, from the
// row and column products that they leave. kernels.md §2.3, §2.4, §3.4.
//
//   b_t = Σ_{u≤t} lf_u in a chunk   w = li - b   P_t = max(m_before, w_1..w_t)   m = b + P
//   u = b - m + log s    alpha = s·e^(b + m_before - m)    beta = e^(b_L + w - m_after)
//   gamma = e^(b_L + m_before - m_after); backward: u - log(N + eps), alpha/(N + eps)
//
//   di_t = c_t (·σ(-i))      df_t = σ(-f_t)·(T + Σ_{u≥t} (r_u - c_u)) to the document's end
//
// Floor: 8 bytes read and 1.6 KB/64 (backward 3.1 KB/64) written per token and head.
// Equals: cpu/mlstm_gates.zig, cpu/mlstm_gate_gradient.zig (frozen denominator).
#include "mlstm_gates.cuh"

// A block: one chunk of one batch row, a warp per head.
template <typename Body>
DEVICE void heads_of_chunk(const MlstmGateSizes& z, const Body& body) {
  const uint64_t row = blockIdx.x / z.chunks;
  const uint32_t chunk = blockIdx.x % z.chunks;
  for (uint64_t head = threadIdx.x / warp_size; head < z.heads; head += blockDim.x / warp_size)
    body(row, head, chunk);
}

struct Summarise {
  const MlstmGates& a;
  DEVICE void operator()(uint64_t row, uint64_t head, uint32_t chunk) const {
    ChunkGates g;
    g.read(a, row, head, chunk);
    double* to = a.summaries + ((row * a.sizes.heads + head) * a.sizes.chunks + chunk) * 2;
    const double floor = g.floor();
    if (g.lane() == 0) {
      to[0] = g.decay();
      to[1] = floor;
    }
  }
};

KERNEL(256, mlstm_gates_summaries, MlstmGates) { heads_of_chunk(a.sizes, Summarise{a}); }

// x as a float and the bf16 bits of what it lost.
struct Split {
  float high;
  uint32_t low;
  DEVICE explicit Split(double x) {
    high = x < -1e30 ? -1e30f : (float)x;
    low = x < -1e30 ? 0 : from_float<bf16>((float)(x - high)).bits;
  }
};

struct Vectors {
  const MlstmGates& a;

  DEVICE void operator()(uint64_t row, uint64_t head, uint32_t chunk) const {
    const MlstmGateSizes& z = a.sizes;
    const uint64_t unit = row * z.heads + head;
    ChunkGates g;
    g.read(a, row, head, chunk);
    const double before = z.sigmoid ? 0 : m_before(a, unit, chunk);
    double after = z.sigmoid ? 0 : fmax(g.decay() + before, g.floor());
    const bool last = (int)chunk == (g.tokens + CHUNK - 1) / CHUNK - 1;
    const float m_last = (float)(after * ln_2);
    // C and n of the last state match the m that its tensor can hold.
    if (last) after = z.sigmoid ? 0 : m_last * log2_e;
    if (a.m_last && g.lane() == 0) {
      if (last) a.m_last[unit] = m_last;
      if (g.tokens == 0 && chunk == 0) a.m_last[unit] = a.m0 && !z.sigmoid ? a.m0[unit] : 0;
    }
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const int t = g.token(e);
      const double reached = g.sees_state(t) ? fmax(before, g.highest[e]) : g.highest[e];
      const double m = z.sigmoid ? 0 : g.b[e] + reached;
      rows(row, head, chunk, t, g.valid, (float)(m * ln_2));
      if (g.valid > 0) vectors(g, unit, chunk, e, m, before, after, row, head);
    }
    if (g.lane() < 4 && g.valid > 0) {
      const float gamma = g.lane() == 0 && !g.borders ? exp2_of(g.total + before - after) : 0;
      write(unit, chunk, Record::gamma + g.lane(), gamma, gamma);
    }
  }

  // What leaves by token.
  DEVICE void rows(
      uint64_t row, uint64_t head, uint32_t chunk, int t, int valid, float m) const {
    const MlstmGateSizes& z = a.sizes;
    const uint64_t token = (uint64_t)chunk * CHUNK + t;
    if (token >= z.length) return;
    const uint64_t at = (row * z.length + token) * z.heads + head;
    if (a.m) a.m[at] = t < valid ? m : 0.f;
    if (a.sigma_out && (t >= valid || !z.normalize)) a.sigma_out[at] = 0;
  }

  DEVICE void vectors(const ChunkGates& g, uint64_t unit, uint32_t chunk, int e, double m,
                      double before, double after, uint64_t row, uint64_t head) const {
    const MlstmGateSizes& z = a.sizes;
    const int t = g.token(e);
    const bool exists = t < g.valid;
    const float m_float = (float)(m * ln_2);
    const float floor = exists && !z.sigmoid ? expf(fminf(-m_float, 80.f)) : 1.f;
    double u = g.b[e] - m + log2(a.scale);
    float alpha = g.sees_state(t) ? (float)(a.scale * exp2_of(g.b[e] + before - m)) : 0.f;
    const float beta = g.reaches_end(t) ? exp2_of(g.total + g.w[e] - after) : 0.f;
    if (exists && a.sigma) {
      const uint64_t token = (uint64_t)chunk * CHUNK + t;
      const float sigma = a.sigma[(row * z.length + token) * z.heads + head];
      const double denominator = fmaxf(fabsf(sigma), floor) + (float)a.eps;
      u -= log2(denominator);
      alpha /= (float)denominator;
    }
    const Split us(exists ? u : lowest), ws(g.w[e]);
    write(unit, chunk, Record::u + t, us.high, ws.high);
    write(unit, chunk, Record::w + t, ws.high, us.high);
    write(unit, chunk, Record::low + t, __uint_as_float(us.low << 16 | ws.low),
          __uint_as_float(ws.low << 16 | us.low));
    alpha = exists ? alpha : 0.f;
    const float kept = exists ? beta : 0.f;
    write(unit, chunk, Record::alpha + t, alpha, kept);
    write(unit, chunk, Record::beta + t, kept, alpha);
    write(unit, chunk, Record::edge + t, __int_as_float(exists ? g.first_visible(t) : t),
          __int_as_float(exists ? g.last_visible(t) : t));
    if (!a.reversed && z.normalize) write(unit, chunk, Record::floor + t, floor, floor);
  }

  DEVICE void write(uint64_t unit, uint32_t chunk, int at, float forward, float reverse) const {
    const bool norm = !a.reversed && a.sizes.normalize;
    const int size = norm ? Record::size_norm : Record::size;
    const uint64_t from = (unit * a.sizes.chunks + chunk) * size + at;
    a.records[from] = forward;
    if (a.reversed) a.reversed[from] = reverse;
  }
};

KERNEL(256, mlstm_gates_records, MlstmGates) { heads_of_chunk(a.sizes, Vectors{a}); }

// ---- Gradients.

constexpr int tile_tokens = 256;

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

struct TokenTerms {
  bool exists, border, ends;
  double row, column;
  DEVICE TokenTerms(const MlstmGateGradient& a, uint64_t unit, uint64_t t) {
    const MlstmGateSizes& z = a.sizes;
    const uint64_t batch = unit / z.heads;
    const uint64_t tokens = a.lengths ? (uint64_t)a.lengths[batch] : z.length;
    const uint8_t* borders = a.borders ? a.borders + batch * z.length : nullptr;
    exists = t < tokens;
    border = exists && borders && borders[t];
    ends = t + 1 < tokens && borders && z.reset == reset_exact && borders[t + 1];
    row = exists ? total(a.rows, a.row_parts, z, unit, t) : 0;
    column = exists ? total(a.columns, a.column_parts, z, unit, t) : 0;
  }
  DEVICE static double total(
      const float* parts, uint32_t count, const MlstmGateSizes& z, uint64_t unit, uint64_t t) {
    const uint64_t padded = (uint64_t)z.chunks * CHUNK;
    double sum = 0;
    for (uint32_t p = 0; p < count; p++)
      sum += parts[(p * z.batch * z.heads + unit) * padded + t];
    return sum;
  }
};

// Every thread gets the tail of its token, inside of the block's tile.
DEVICE Tail tile_tail(const TokenTerms& x, Tail* warps) {
  Tail tail{x.row - x.column, x.ends};
  warp_tails(tail);
  const int warp = threadIdx.x / warp_size;
  if (threadIdx.x % warp_size == 0) warps[warp] = tail;
  __syncthreads();
  for (int w = warp + 1; w < tile_tokens / warp_size; w++)
    tail.append(warps[w].sum, warps[w].closed);
  return tail;
}

KERNEL(256, mlstm_gate_sums, MlstmGateGradient) {
  __shared__ Tail warps[tile_tokens / warp_size];
  const uint64_t tiles = (a.sizes.length + tile_tokens - 1) / tile_tokens;
  const uint64_t unit = blockIdx.x / tiles, tile = blockIdx.x % tiles;
  const Tail tail = tile_tail(TokenTerms(a, unit, tile * tile_tokens + threadIdx.x), warps);
  if (threadIdx.x == 0) {
    a.tiles[2 * blockIdx.x] = tail.sum;
    a.tiles[2 * blockIdx.x + 1] = tail.closed;
  }
}

// What the tiles behind a tile add to its open end.
DEVICE double later_tiles(
    const MlstmGateGradient& a, uint64_t unit, uint64_t tile, uint64_t tiles) {
  const double* all = a.tiles + 2 * unit * tiles;
  const uint64_t lane = threadIdx.x % warp_size, left = tiles - tile - 1;
  const uint64_t share = (left + warp_size - 1) / warp_size;
  Tail tail{0, 0};
  for (uint64_t k = lane * share; k < (lane + 1) * share && k < left; k++)
    tail.append(all[2 * (tile + 1 + k)], all[2 * (tile + 1 + k) + 1] != 0);
  warp_tails(tail);
  if (a.tails) tail.append(a.tails[unit], 1);
  return __shfl_sync(full_mask, tail.sum, 0);
}

KERNEL(256, mlstm_gate_gradients, MlstmGateGradient) {
  __shared__ Tail warps[tile_tokens / warp_size];
  const MlstmGateSizes& z = a.sizes;
  const uint64_t tiles = (z.length + tile_tokens - 1) / tile_tokens;
  const uint64_t unit = blockIdx.x / tiles, tile = blockIdx.x % tiles;
  const uint64_t t = tile * tile_tokens + threadIdx.x;
  const TokenTerms x(a, unit, t);
  Tail tail = tile_tail(x, warps);
  tail.append(later_tiles(a, unit, tile, tiles), 1);
  if (t >= z.length) return;
  const uint64_t at = ((unit / z.heads) * z.length + t) * z.heads + unit % z.heads;
  if (!x.exists) {
    a.di[at] = 0;
    a.df[at] = 0;
    return;
  }
  const float di = (float)x.column;
  a.di[at] = z.sigmoid ? di * sigmoid(-a.i[at]) : di;
  // At an exact border f meets the fresh, empty state; a soft one replaces f by a constant.
  const bool constant = x.border && z.reset != reset_none;
  a.df[at] = constant ? 0.f : (float)tail.sum * sigmoid(-a.f[at]);
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
