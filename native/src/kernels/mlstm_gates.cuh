// One chunk's gates, by a warp: lane and lane + 32 are its tokens. Exponents of 2, in f64.
#pragma once
#include "common.cuh"
#include "mlstm_gates.h"
#include "mlstm_record.cuh"

constexpr double log2_e = 1.4426950408889634, ln_2 = 0.6931471805599453;
constexpr double lowest = -1e300;  // of a token that does not exist

DEVICE double exp2_of(double x) { return exp2f((float)x); }

struct ChunkGates {
  double lf[2], b[2], w[2];
  double highest[2];  // max of w, and of the fresh state's 0, over the tokens since the last border
  double total;       // b of the chunk's end
  uint64_t borders;   // exact resets, bit per token
  int tokens, valid;  // of the batch row; of this chunk

  DEVICE static int lane() { return threadIdx.x % warp_size; }
  DEVICE static int token(int e) { return lane() + e * warp_size; }

  DEVICE static uint64_t up_to(int t) { return ~0ull >> (63 - t); }
  DEVICE bool sees_state(int t) const { return (borders & up_to(t)) == 0; }
  DEVICE bool reaches_end(int t) const { return t == 63 || (borders & ~up_to(t)) == 0; }
  DEVICE int first_visible(int t) const {
    const uint64_t before = borders & up_to(t);
    return before ? 63 - __clzll((long long)before) : 0;
  }
  DEVICE int last_visible(int t) const {
    const uint64_t after = borders & ~up_to(t);
    return after ? __ffsll((long long)after) - 2 : 63;
  }

  DEVICE void read(const MlstmGates& a, uint64_t row, uint64_t head, uint32_t chunk) {
    const MlstmGateSizes& z = a.sizes;
    tokens = a.lengths ? a.lengths[row] : (int)z.length;
    const int left = tokens - (int)chunk * CHUNK;
    valid = left < 0 ? 0 : left < CHUNK ? left : CHUNK;
    uint32_t marks[2];
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const bool exists = token(e) < valid;
      const uint64_t t = row * z.length + (uint64_t)chunk * CHUNK + token(e);
      const bool border = exists && a.borders && a.borders[t];
      float f = exists ? a.f[t * z.heads + head] : 0.f;
      if (border && z.reset == reset_soft) f = (float)a.reset_value;
      const float i = exists ? a.i[t * z.heads + head] : 0.f;
      lf[e] = exists ? log_sigmoid(f) * log2_e : 0;
      w[e] = exists ? (z.sigmoid ? log_sigmoid(i) : i) * log2_e : lowest;
      marks[e] = __ballot_sync(full_mask, border && z.reset == reset_exact);
    }
    borders = marks[0] | (uint64_t)marks[1] << 32;
    sum();
    maximum();
  }

  DEVICE void sum() {
#pragma unroll
    for (int e = 0; e < 2; e++) {
      b[e] = lf[e];
      for (int step = 1; step < warp_size; step *= 2) {
        const double before = __shfl_up_sync(full_mask, b[e], step);
        if (lane() >= step) b[e] += before;
      }
    }
    b[1] += __shfl_sync(full_mask, b[0], warp_size - 1);
    total = __shfl_sync(full_mask, b[1], warp_size - 1);
#pragma unroll
    for (int e = 0; e < 2; e++) {
      if (token(e) < valid) w[e] -= b[e];
    }
  }

  DEVICE void maximum() {
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const int t = token(e), start = first_visible(t);
      const bool border = borders >> t & 1;
      highest[e] = border ? fmax(lf[e] - b[e], w[e]) : w[e];
      for (int step = 1; step < warp_size; step *= 2) {
        const double before = __shfl_up_sync(full_mask, highest[e], step);
        if (lane() >= step && t - step >= start) highest[e] = fmax(highest[e], before);
      }
    }
    const double half = __shfl_sync(full_mask, highest[0], warp_size - 1);
    if (first_visible(token(1)) < warp_size) highest[1] = fmax(highest[1], half);
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
    floor = fmax(floor + summaries[2 * c], summaries[2 * c + 1]);
    decay += summaries[2 * c];
  }
  for (int step = 1; step < warp_size; step *= 2) {
    const double earlier_decay = __shfl_up_sync(full_mask, decay, step);
    const double earlier_floor = __shfl_up_sync(full_mask, floor, step);
    if (lane >= (uint32_t)step) {
      floor = fmax(earlier_floor + decay, floor);
      decay += earlier_decay;
    }
  }
  const double initial = a.m0 ? a.m0[unit] * log2_e : 0;
  decay = __shfl_sync(full_mask, decay, warp_size - 1);
  floor = __shfl_sync(full_mask, floor, warp_size - 1);
  return fmax(decay + initial, floor);
}
