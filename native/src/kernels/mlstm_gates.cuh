// One chunk's gates, by a warp: two neighbouring tokens per lane. Exponents of 2, in f64. A block
// has the chunk for eight heads: it moves whole sectors of [batch][length][heads].
#pragma once
#include "common.cuh"
#include "mlstm_gates.h"
#include "mlstm_record.cuh"

constexpr double log2_e = 1.4426950408889634, ln_2 = 0.6931471805599453;
constexpr double lowest = -1e300;  // of a token that does not exist
// Without the detours of fmax around NaN: where one comes in, it also comes out of b and w.
DEVICE double greater(double x, double y) { return x > y ? x : y; }

constexpr int block_heads = 8;  // a warp each

// A chunk's record, and, with a normaliser, its columns for the backward pass.
struct RecordParts {
  static constexpr int factors = Record<false>::row_factor - Record<false>::column;
  float *row, *floor, *column, *column_back, *u, *low, *w, *edge;
  DEVICE RecordParts(const MlstmGates& a, uint64_t unit, uint32_t chunk) {
    const MlstmGateSizes& z = a.sizes;
    const RecordArrays all(a.records, z.batch * z.heads * z.chunks, z.normalize);
    const uint64_t index = unit * z.chunks + chunk;
    const bool norm = z.normalize;
    row = all.forward + index * all.pitch;
    floor = row + Record<true>::floor;
    column = row + (norm ? Record<true>::column : Record<false>::column);
    column_back = all.backward + index * Record<false>::pitch + Record<false>::column;
    float* const exponents = all.exponents + index * all.exponent_pitch;
    u = exponents + (norm ? Exponents<true>::u : Exponents<false>::u);
    low = exponents + (norm ? Exponents<true>::low : Exponents<false>::low);
    w = exponents + (norm ? Exponents<true>::w : Exponents<false>::w);
    edge = exponents + (norm ? Exponents<true>::edge : Exponents<false>::edge);
  }
  // By one thread.
  DEVICE void rest(float row_factor, float column_factor, float gamma, bool plain) const {
    const float four[4] = {row_factor, column_factor, gamma, __int_as_float(plain)};
    store_pack(column + factors, four);
    if (column_back != column) store_pack(column_back + factors, four);
  }
};

// Does f32 hold the factors of a record, whose exponents these are?
DEVICE bool holds(float row_factor, float column_factor) {
  return fabsf(row_factor) <= 125 && fabsf(column_factor) <= 125;
}
// Are the powers of u and w such that f32 holds them, and those of u over a denominator that is at
// least 2^floor and, where that is small, at most some 2^36?
DEVICE bool holds(float u, float w, float floor, bool normalize) {
  const float most = normalize ? 84 : 120;
  return fabsf(w) <= 120 && fabsf(u) <= most && (!normalize || fabsf(u - floor) <= 120);
}

DEVICE float exp2_of(double x) { return exp2f((float)x); }

// x as a float and the bf16 bits of what it lost.
struct Split {
  float high;
  uint32_t low;
  DEVICE explicit Split(double x) {
    high = x < -1e30 ? -1e30f : (float)x;
    low = x < -1e30 ? 0 : from_float<bf16>((float)(x - high)).bits;
  }
};

// The state before and after a chunk: its m; the powers of 2 that it is kept times of (Record), all
// exponents of 2. Each chunk of a group passes on the decays of those before it, until the last
// one, or too much of them, ends it.
struct KeptState {
  static constexpr uint32_t group = 8;  // chunks
  const bool sigmoid;
  double before, after, frame_before = 0, frame_after = 0;
  float m_last = 0, gamma = 1;

  // m: before the first chunk of a group, 0 with the sigmoid gate.
  DEVICE KeptState(bool is_sigmoid, double m) : sigmoid(is_sigmoid), before(m), after(m) {}

  // Chunk c of the group: m becomes max(decay + m, floor). `last` is the row's last one.
  DEVICE void pass(double decay, double floor, uint32_t c, uint32_t last) {
    before = after;
    frame_before = frame_after;
    if (!sigmoid) after = greater(before + decay, floor);
    m_last = (float)(after * ln_2);
    // C and n of the last state match the m that its tensor can hold.
    if (!sigmoid && c == last) after = m_last * log2_e;
    frame_after += decay + before - after;
    const bool ends = c == last || c == group - 1 || !(frame_after >= -64);
    gamma = ends ? exp2_of(frame_after) : 1.f;
    if (ends) frame_after = 0;
  }
  // m of the state as it is kept, before and after the chunk.
  DEVICE double out() const { return before + frame_before; }
  DEVICE double into() const { return after + frame_after; }
};

// By head and token; the pitch keeps the four tokens that a warp copies apart in the banks.
typedef float HeadTile[block_heads][CHUNK + 4];

// What a block has: 64 tokens of 8 heads; and a warp: one of these heads.
struct GatePlace {
  uint32_t row, first_head, chunk;
  const MlstmGateSizes& sizes;

  DEVICE explicit GatePlace(const MlstmGateSizes& z) : sizes(z) {
    const uint32_t groups = ((uint32_t)z.heads + block_heads - 1) / block_heads;
    const uint32_t index = blockIdx.x / groups;
    row = index / z.chunks;
    first_head = (blockIdx.x - index * groups) * block_heads;
    chunk = index - row * z.chunks;
  }
  DEVICE static int warp() { return threadIdx.x / warp_size; }
  DEVICE static int lane() { return threadIdx.x % warp_size; }
  DEVICE uint32_t head() const { return first_head + warp(); }
  DEVICE uint64_t unit() const { return row * sizes.heads + head(); }
  DEVICE bool exists() const { return head() < sizes.heads; }

  // A thread moves one head of two tokens of the tile, 32 apart.
  DEVICE static int moved_head() { return threadIdx.x % block_heads; }
  DEVICE static int moved_token(int e) { return threadIdx.x / block_heads + e * warp_size; }
  DEVICE bool moves(int e) const {
    return chunk * CHUNK + moved_token(e) < sizes.length && first_head + moved_head() < sizes.heads;
  }
  // In [batch][length][heads].
  DEVICE uint64_t from(int e) const {
    const uint64_t token = row * sizes.length + (chunk * CHUNK + moved_token(0));
    return token * sizes.heads + (first_head + moved_head()) + e * warp_size * sizes.heads;
  }
  DEVICE void load(HeadTile& tile, const float* x) const {
#pragma unroll
    for (int e = 0; e < 2; e++)
      tile[moved_head()][moved_token(e)] = moves(e) ? x[from(e)] : 0.f;
  }
  DEVICE void store(float* x, const HeadTile& tile) const {
#pragma unroll
    for (int e = 0; e < 2; e++)
      if (moves(e)) x[from(e)] = tile[moved_head()][moved_token(e)];
  }
};

struct ChunkGates {
  double lf[2], b[2], w[2];
  // Exp gate: max of w, and of the fresh state's 0, over the tokens since the last border.
  double highest[2];
  double total;       // b of the chunk's end
  uint64_t borders;   // exact resets, bit per token
  int first[2];       // visible token
  int tokens, valid;  // of the batch row; of this chunk

  DEVICE static int lane() { return threadIdx.x % warp_size; }
  DEVICE static int token(int e) { return 2 * lane() + e; }

  DEVICE static uint64_t up_to(int t) { return ~0ull >> (63 - t); }
  DEVICE bool sees_state(int t) const { return !borders || (borders & up_to(t)) == 0; }
  DEVICE bool reaches_end(int t) const { return !borders || (borders & ~up_to(t)) == 0; }
  DEVICE int last_visible(int t) const {
    const uint64_t after = borders & ~up_to(t);
    return after ? __ffsll((long long)after) - 2 : 63;
  }

  DEVICE void read(const MlstmGates& a, const GatePlace& p, const float* f, const float* i) {
    const MlstmGateSizes& z = a.sizes;
    tokens = a.lengths ? a.lengths[p.row] : (int)z.length;
    const int left = tokens - (int)p.chunk * CHUNK;
    valid = left < 0 ? 0 : left < CHUNK ? left : CHUNK;
    bool border[2] = {false, false};
    if (a.borders) {
      const uint8_t* at = a.borders + p.row * z.length + (uint64_t)p.chunk * CHUNK;
      for (int e = 0; e < 2; e++) border[e] = token(e) < valid && at[token(e)];
    }
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const bool here = token(e) < valid;
      const float forget =
          border[e] && z.reset == reset_soft ? (float)a.reset_value : f[token(e)];
      const float input = i[token(e)];
      lf[e] = here ? log_sigmoid(forget) * log2_e : 0;
      w[e] = here ? (z.sigmoid ? log_sigmoid(input) : input) * log2_e : lowest;
    }
    mark(a.borders && z.reset == reset_exact, border);
    sum();
    if (!z.sigmoid) maximum();
  }

  DEVICE void mark(bool some, const bool (&border)[2]) {
    borders = 0;
    first[0] = first[1] = 0;
    if (!some) return;
    const uint32_t even = __ballot_sync(full_mask, border[0]);
    const uint32_t odd = __ballot_sync(full_mask, border[1]);
#pragma unroll 1
    for (int l = 0; l < warp_size; l++)
      borders |= ((uint64_t)(even >> l & 1) | (uint64_t)(odd >> l & 1) << 1) << (2 * l);
    for (int e = 0; e < 2; e++) {
      const uint64_t before = borders & up_to(token(e));
      first[e] = before ? 63 - __clzll((long long)before) : 0;
    }
  }

  DEVICE void sum() {
    double x = lf[0] + lf[1];
#pragma unroll
    for (int step = 1; step < warp_size; step *= 2) {
      const double before = __shfl_up_sync(full_mask, x, step);
      if (lane() >= step) x += before;
    }
    b[1] = x;
    b[0] = x - lf[1];
    total = __shfl_sync(full_mask, x, warp_size - 1);
#pragma unroll
    for (int e = 0; e < 2; e++)
      if (token(e) < valid) w[e] -= b[e];
  }

  DEVICE void maximum() {
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const bool border = borders >> token(e) & 1;
      highest[e] = border ? greater(lf[e] - b[e], w[e]) : w[e];
    }
    if (first[1] <= token(0)) highest[1] = greater(highest[0], highest[1]);
#pragma unroll
    for (int step = 1; step < warp_size; step *= 2) {
      const double before = __shfl_up_sync(full_mask, highest[1], step);
      if (lane() >= step && token(1) - 2 * step >= first[1])
        highest[1] = greater(highest[1], before);
    }
    const double before = __shfl_up_sync(full_mask, highest[1], 1);
    if (lane() >= 1 && token(0) - 1 >= first[0]) highest[0] = greater(highest[0], before);
  }

  // Of the exponents that a token sees, without the decay up to it, the highest.
  DEVICE double reached(int e, double before) const {
    return sees_state(token(e)) ? greater(before, highest[e]) : highest[e];
  }
  // What the chunk does to the state's m: max(decay + m, floor).
  DEVICE double decay() const { return borders ? -INFINITY : total; }
  DEVICE double floor() const {
    return total + __shfl_sync(full_mask, highest[1], warp_size - 1);
  }
};

// The state's m before a chunk, from the summaries of those before it and the initial m.
DEVICE double m_before(const MlstmGates& a, uint64_t unit, uint32_t chunk) {
  const double* summaries = a.summaries + unit * a.sizes.chunks * 2;
  const uint32_t lane = threadIdx.x % warp_size, share = (chunk + warp_size - 1) / warp_size;
  double decay = 0, floor = -INFINITY;
  for (uint32_t c = lane * share; c < (lane + 1) * share && c < chunk; c++) {
    floor = greater(floor + summaries[2 * c], summaries[2 * c + 1]);
    decay += summaries[2 * c];
  }
  for (int step = 1; step < warp_size; step *= 2) {
    const double earlier_decay = __shfl_up_sync(full_mask, decay, step);
    const double earlier_floor = __shfl_up_sync(full_mask, floor, step);
    if (lane >= (uint32_t)step) {
      floor = greater(earlier_floor + decay, floor);
      decay += earlier_decay;
    }
  }
  const double initial = a.m0 ? a.m0[unit] * log2_e : 0;
  decay = __shfl_sync(full_mask, decay, warp_size - 1);
  floor = __shfl_sync(full_mask, floor, warp_size - 1);
  return greater(decay + initial, floor);
}
