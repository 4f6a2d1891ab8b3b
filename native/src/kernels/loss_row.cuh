// One row of the cross entropy, shared by a block. cpu/loss_row.zig
//
//     z = c·tanh(r/c);  m = max z;  Σ = Σⱼ e^(zⱼ−m);  lse = m + ln Σ
//     dr = k·( p·(1 + 2λ·lse) − q )·(1 − (z/c)²),  p = e^(z−shift)·factor,  q = (1−ε)[j = y] + ε/V
//
// Maximum and sum in one pass over r: a thread rescales its sum when a pack of 16 bytes exceeds its
// maximum; the pairs of the threads meet in a fixed tree. What is left per row is in f64. A thread
// has `depth` packs under way. `plain` is the common case, no cap and no smoothing: 6 instructions
// a logit, which is what lets the pass run at the speed of memory.
//
// With gradients the row stays in shared memory (`held`), where it fits twice into a
// multiprocessor: one block writes while the other one reads. A thread reads back its own packs.
#pragma once
#include "common.cuh"

namespace losses {

constexpr int most_threads = 512;
constexpr int depth = 4, write_depth = 2;

/// z = c·tanh(r/c) and dz/dr = 1 − (z/c)²; the identity without a cap.
struct Cap {
  float cap, inverse;

  DEVICE explicit Cap(double c) : cap((float)c), inverse(c > 0 ? (float)(1 / c) : 0.f) {}
  DEVICE float of(float r) const { return cap > 0 ? cap * tanhf(r * inverse) : r; }
  DEVICE float slope(float z) const { return 1.f - (z * inverse) * (z * inverse); }
};

/// A shift for exponents; 0 while nothing but −Inf was seen, which would make e^(−Inf + Inf).
DEVICE float shift_of(float top) { return top == -INFINITY ? 0.f : top; }

constexpr float log2_e = 1.44269504f;

/// e^(z − shift). Logits of bf16 are known to 8 bits: a fused multiply-add and the processor's own
/// 2^x (2 units in the last place, 0 below 2^−126) stay far below that. f32 takes the library's.
template <typename S> struct Power {
  float shift;
  DEVICE explicit Power(float s) : shift(s) {}
  DEVICE float of(float z) const { return expf(z - shift); }
};

template <> struct Power<bf16> {
  float offset;
  DEVICE explicit Power(float shift) : offset(-shift * log2_e) {}
  DEVICE float of(float z) const { return quick_power(fmaf(z, log2_e, offset)); }
};

/// Σ e^(z − top) over the z seen so far.
struct Soft {
  float top, sum;
};

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
  float total;  // Σ z; 0 where plain
  bool beaten;  // by a larger logit than the target's, or an equal one of a lower id
};

struct Seen {
  unsigned target;
  float chosen;  // the target's logit, before the cap
};

template <int N> DEVICE float largest(const float (&x)[N]) {
  float top = x[0];
#pragma unroll
  for (int i = 1; i < N; i++) top = fmaxf(top, x[i]);
  return top;
}

template <int N> DEVICE bool beats(const Seen& seen, unsigned first, const float (&r)[N]) {
  bool beaten = false;
#pragma unroll
  for (int i = 0; i < N; i++)
    beaten |= first + i < seen.target ? r[i] >= seen.chosen : r[i] > seen.chosen;
  return beaten;
}

/// Logits from column `first` on.
template <bool plain, typename S, int N>
DEVICE void gather(Part& part, Power<S>& power, const Cap& cap, const Seen& seen, unsigned first,
                   const float (&r)[N]) {
  float z[N];
#pragma unroll
  for (int i = 0; i < N; i++) z[i] = plain ? r[i] : cap.of(r[i]);
  const float peak = largest(z);
  if (!part.beaten && (plain ? peak : largest(r)) >= seen.chosen)
    part.beaten = beats(seen, first, r);
  if (peak > part.soft.top) {
    power = Power<S>(peak);
    part.soft.sum *= power.of(part.soft.top);
    part.soft.top = peak;
  }
  float sum = 0;
#pragma unroll
  for (int i = 0; i < N; i++) {
    sum += power.of(z[i]);
    if (!plain) part.total += z[i];
  }
  part.soft.sum += sum;
}

/// Packs of 16 bytes in a row of `vocab`: none where its address does not allow them.
template <typename S> DEVICE unsigned packs_of(const S* r, uint64_t vocab) {
  return is_aligned(r) ? (unsigned)(vocab / pack_width<S>) : 0;
}

/// 16 bytes as they come: unpacked early they would fill the registers.
template <typename S> using Raw = Pack<S, pack_width<S>>;

template <typename S> DEVICE Raw<S> raw_at(const S* r, unsigned pack) {
  return reinterpret_cast<const Raw<S>*>(r)[pack];
}

/// Calls `each(pack, raw)` for the packs of this thread; `flight` of them are under way at a time,
/// all loaded before the first is used.
template <int flight, typename S, typename F>
DEVICE void each_pack(const S* r, unsigned packs, const F& each) {
  const unsigned threads = blockDim.x;
  for (unsigned first = threadIdx.x; first < packs; first += flight * threads) {
    Raw<S> raw[flight];
#pragma unroll
    for (int d = 0; d < flight; d++)
      if (first + d * threads < packs) raw[d] = raw_at(r, first + d * threads);
#pragma unroll
    for (int d = 0; d < flight; d++) {
      const unsigned at = first + d * threads;
      if (at >= packs) break;
      each(at, raw[d]);
    }
  }
}

/// With `held`, the packs of the row are left there.
template <bool plain, typename S>
DEVICE Part gather_row(const S* r, S* held, uint64_t vocab, const Cap& cap, const Seen& seen) {
  constexpr int P = pack_width<S>;
  const unsigned packs = packs_of(r, vocab), threads = blockDim.x;
  Part part = {{-INFINITY, 0.f}, 0.f, false};
  Power<S> power(0.f);
  each_pack<depth>(r, packs, [&](unsigned at, const Raw<S>& raw) {
    if (held) reinterpret_cast<Raw<S>*>(held)[at] = raw;
    float pack[P];
#pragma unroll
    for (int i = 0; i < P; i++) pack[i] = to_float(raw.at[i]);
    gather<plain>(part, power, cap, seen, at * P, pack);
  });
  for (unsigned i = packs * P + threadIdx.x; i < vocab; i += threads) {
    const float one[1] = {to_float(r[i])};
    gather<plain>(part, power, cap, seen, i, one);
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

/// One pack of gradients; `own` is the place of the target in it, or any other number.
template <bool plain, typename S>
DEVICE void write_pack(S* to, const Raw<S>& raw, unsigned own, const Power<S>& power,
                       const Cap& cap, const Slope& slope) {
  constexpr int P = pack_width<S>;
  float pack[P], z[P];
#pragma unroll
  for (int j = 0; j < P; j++) {
    z[j] = plain ? to_float(raw.at[j]) : cap.of(to_float(raw.at[j]));
    pack[j] = power.of(z[j]) * slope.scale;
    if (!plain) pack[j] -= slope.rest;
  }
  // Before the rounding to S.
  if (own < (unsigned)P) {
#pragma unroll
    for (int j = 0; j < P; j++) pack[j] -= (unsigned)j == own ? slope.own : 0.f;
  }
#pragma unroll
  for (int j = 0; j < P; j++)
    if (!plain) pack[j] *= cap.slope(z[j]);
  store_pack<P>(to, pack);
}

/// `from` is r or where it is held; a thread reads what it gathered, and r beyond the packs. Loads
/// come before the stores: dr may be r, so that the compiler cannot move them.
template <bool plain, typename S>
DEVICE void write_slopes(const S* from, const S* r, S* dr, uint64_t vocab, unsigned target,
                         const Cap& cap, const Slope& slope) {
  constexpr int P = pack_width<S>;
  const unsigned packs = is_aligned(dr) ? packs_of(r, vocab) : 0, threads = blockDim.x;
  const Power<S> power(slope.shift);
  each_pack<write_depth>(from, packs, [&](unsigned pack, const Raw<S>& raw) {
    const unsigned at = pack * P;
    write_pack<plain>(dr + at, raw, target - at, power, cap, slope);
  });
  for (unsigned i = packs * P + threadIdx.x; i < vocab; i += threads) {
    const float z = cap.of(to_float(r[i])), own = i == target ? slope.own : 0.f;
    const float p = power.of(z) * slope.scale;
    dr[i] = from_float<S>((p - slope.rest - own) * cap.slope(z));
  }
}

template <typename S> DEVICE void fill_row(S* dr, uint64_t vocab, float value) {
  constexpr int P = pack_width<S>;
  const unsigned packs = packs_of(dr, vocab);
  float pack[P];
#pragma unroll
  for (int i = 0; i < P; i++) pack[i] = value;
  for (unsigned i = threadIdx.x; i < packs; i += blockDim.x) store_pack<P>(dr + i * P, pack);
  for (unsigned i = packs * P + threadIdx.x; i < vocab; i += blockDim.x)
    dr[i] = from_float<S>(value);
}

/// w of a row; 0 = not valid.
DEVICE float weight_of(const void* mask, const void* weights, uint64_t row) {
  if (mask && ((const uint8_t*)mask)[row] == 0) return 0.f;
  return weights ? ((const float*)weights)[row] : 1.f;
}

}  // namespace losses
