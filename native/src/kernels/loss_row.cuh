// One row of the cross entropy, shared by a block. cpu/loss_row.zig
//
//     z = c·tanh(r/c);  m = max z;  Σ = Σⱼ e^(zⱼ−m);  lse = m + ln Σ
//     dr = k·( p·(1 + 2λ·lse) − q )·(1 − (z/c)²),  p = e^(z−shift)·factor,  q = (1−ε)[j = y] + ε/V
//
// Maximum and sum in one pass over r: a thread rescales its sum when its maximum grows; the pairs
// of the threads meet in a fixed tree. What is left per row is in f64.
#pragma once
#include "common.cuh"

namespace losses {

constexpr int most_threads = 512;

/// z = c·tanh(r/c) and dz/dr = 1 − (z/c)²; the identity without a cap.
struct Cap {
  float cap, inverse;

  DEVICE explicit Cap(double c) : cap((float)c), inverse(c > 0 ? (float)(1 / c) : 0.f) {}
  DEVICE float of(float r) const { return cap > 0 ? cap * tanhf(r * inverse) : r; }
  DEVICE float slope(float z) const { return 1.f - (z * inverse) * (z * inverse); }
};

/// Σ e^(z − top) over the z seen so far.
struct Soft {
  float top, sum;
};

/// A shift for exponents; 0 while nothing but −Inf was seen, which would make e^(−Inf + Inf).
DEVICE float shift_of(float top) { return top == -INFINITY ? 0.f : top; }

DEVICE Soft join(Soft a, Soft b) {
  const float top = fmaxf(a.top, b.top), shift = shift_of(top);
  return {top, a.sum * expf(a.top - shift) + b.sum * expf(b.top - shift)};
}

/// Lane 0 gets the whole warp's: lanes pair up over ever smaller distances.
DEVICE Soft warp_join(Soft soft) {
  for (int step = warp_size / 2; step > 0; step /= 2) {
    const float top = __shfl_xor_sync(full_mask, soft.top, step);
    const float sum = __shfl_xor_sync(full_mask, soft.sum, step);
    soft = join(soft, {top, sum});
  }
  return soft;
}

/// What a thread gathers of its part of a row.
struct Part {
  Soft soft;
  float total;  // Σ z
  bool beaten;  // by a larger logit than the target's, or an equal one of a lower id
};

struct Seen {
  uint64_t target;
  float chosen;  // the target's logit, before the cap
};

template <int P>
DEVICE void gather(Part& part, const Cap& cap, const Seen& seen, uint64_t first, float (&r)[P]) {
  float z[P], top = part.soft.top;
#pragma unroll
  for (int i = 0; i < P; i++) {
    const bool lower = first + i < seen.target;
    part.beaten = part.beaten || (lower ? r[i] >= seen.chosen : r[i] > seen.chosen);
    z[i] = cap.of(r[i]);
    part.total += z[i];
    top = fmaxf(top, z[i]);
  }
  const float shift = shift_of(top);
  float sum = part.soft.sum;
  if (top > part.soft.top) sum *= expf(part.soft.top - shift);
#pragma unroll
  for (int i = 0; i < P; i++) sum += expf(z[i] - shift);
  part.soft = {top, sum};
}

/// Packs of 16 bytes in a row of `vocab`: none where its address does not allow them.
template <typename S> DEVICE uint64_t packs_of(const S* r, uint64_t vocab) {
  return is_aligned(r) ? vocab / pack_width<S> : 0;
}

template <typename S>
DEVICE Part gather_row(const S* r, uint64_t vocab, const Cap& cap, const Seen& seen) {
  constexpr int P = pack_width<S>;
  const uint64_t packs = packs_of(r, vocab);
  Part part = {{-INFINITY, 0.f}, 0.f, false};
  for (uint64_t i = threadIdx.x; i < packs; i += blockDim.x) {
    float pack[P];
    load_pack<P>(r + i * P, pack);
    gather<P>(part, cap, seen, i * P, pack);
  }
  for (uint64_t i = packs * P + threadIdx.x; i < vocab; i += blockDim.x) {
    float one[1] = {to_float(r[i])};
    gather<1>(part, cap, seen, i, one);
  }
  return part;
}

/// The parts of a block's threads, joined.
struct Shared {
  float top[warp_size], sum[warp_size], total[warp_size];
  int beaten[warp_size];
  float shift, scale, rest, own;  // of the gradient
};

/// Thread 0 gets the row's.
DEVICE Part join_parts(Part part, Shared& shared) {
  const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  const int warps = blockDim.x / warp_size;
  part.soft = warp_join(part.soft);
  part.total = warp_sum(part.total);
  part.beaten = __any_sync(full_mask, part.beaten);
  if (lane == 0) {
    shared.top[warp] = part.soft.top;
    shared.sum[warp] = part.soft.sum;
    shared.total[warp] = part.total;
    shared.beaten[warp] = part.beaten;
  }
  __syncthreads();
  if (warp != 0) return part;
  const bool is_mine = lane < warps;
  part.soft = warp_join({is_mine ? shared.top[lane] : -INFINITY, is_mine ? shared.sum[lane] : 0.f});
  part.total = warp_sum(is_mine ? shared.total[lane] : 0.f);
  part.beaten = __any_sync(full_mask, is_mine && shared.beaten[lane]);
  return part;
}

/// e^(z − shift)·scale − rest, times dz/dr; the target's own term is `own`.
struct Slope {
  float shift, scale, rest, own;
};

template <typename S>
DEVICE void write_slopes(const S* r, S* dr, uint64_t vocab, uint64_t target, const Cap& cap,
                         const Slope& slope) {
  constexpr int P = pack_width<S>;
  const uint64_t packs = is_aligned(dr) ? packs_of(r, vocab) : 0;
  for (uint64_t i = threadIdx.x; i < packs; i += blockDim.x) {
    float pack[P];
    load_pack<P>(r + i * P, pack);
#pragma unroll
    for (int j = 0; j < P; j++) {
      const float z = cap.of(pack[j]), own = i * P + j == target ? slope.own : 0.f;
      // The target's own term is added before the rounding to S.
      pack[j] = (expf(z - slope.shift) * slope.scale - slope.rest - own) * cap.slope(z);
    }
    store_pack<P>(dr + i * P, pack);
  }
  for (uint64_t i = packs * P + threadIdx.x; i < vocab; i += blockDim.x) {
    const float z = cap.of(to_float(r[i])), own = i == target ? slope.own : 0.f;
    const float p = expf(z - slope.shift) * slope.scale;
    dr[i] = from_float<S>((p - slope.rest - own) * cap.slope(z));
  }
}

template <typename S> DEVICE void fill_row(S* dr, uint64_t vocab, float value) {
  constexpr int P = pack_width<S>;
  const uint64_t packs = packs_of(dr, vocab);
  float pack[P];
#pragma unroll
  for (int i = 0; i < P; i++) pack[i] = value;
  for (uint64_t i = threadIdx.x; i < packs; i += blockDim.x) store_pack<P>(dr + i * P, pack);
  for (uint64_t i = packs * P + threadIdx.x; i < vocab; i += blockDim.x)
    dr[i] = from_float<S>(value);
}

/// w of a row; 0 = not valid.
DEVICE float weight_of(const void* mask, const void* weights, uint64_t row) {
  if (mask && ((const uint8_t*)mask)[row] == 0) return 0.f;
  return weights ? ((const float*)weights)[row] : 1.f;
}

}  // namespace losses
