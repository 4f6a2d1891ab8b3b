// Rows of logits of which a rank has some columns (mesh.md §9). A block per row.
//
//     sums:   Σⱼ e^(zⱼ−top), the column's logit, Σⱼ zⱼ            one load per logit
//     slopes: r ← ( e^(z−top)·scale − rest − own·[j = y] )·dz/dr  one load and one store, in place
//
// top, scale, rest and own come by row: what the ranks have added up. Equals cpu/loss_split.zig.
#pragma once
#include "loss_row.cuh"

namespace losses {

struct SplitSum {
  float powers, total;
};

template <bool plain, typename S>
DEVICE void add_pack(SplitSum& sum, const Power<S>& power, const Cap& cap, const Raw<S>& raw) {
#pragma unroll
  for (int i = 0; i < pack_width<S>; i++) {
    const float r = to_float(raw.at[i]), z = plain ? r : cap.of(r);
    sum.powers += power.of(z);
    if (!plain) sum.total += z;
  }
}

/// A thread's part of a row.
template <bool plain, typename S>
DEVICE SplitSum split_sum(const S* r, uint64_t vocab, const Cap& cap, float top) {
  const unsigned packs = packs_of(r, vocab), threads = blockDim.x;
  const Power<S> power(shift_of(top));
  SplitSum sum = {0, 0};
  each_pack<depth>(r, packs, [&](unsigned, const Raw<S>& raw) {
    add_pack<plain>(sum, power, cap, raw);
  });
  for (unsigned i = packs * pack_width<S> + threadIdx.x; i < vocab; i += threads) {
    const float z = cap.of(to_float(r[i]));
    sum.powers += power.of(z);
    sum.total += z;
  }
  return sum;
}

template <typename S> DEVICE void split_sums(const SplitSoftmaxSums& a) {
  __shared__ float scratch[2 * warp_size];
  const uint64_t row = blockIdx.x;
  const S* r = (const S*)a.logits + row * a.vocab;
  const float top = ((const float*)a.top)[row];
  const Cap cap(a.soft_cap);
  SplitSum sum = a.soft_cap == 0 && !a.wants_total ? split_sum<true>(r, a.vocab, cap, top)
                                                   : split_sum<false>(r, a.vocab, cap, top);
  sum.powers = block_sum(sum.powers, scratch);
  if (a.wants_total) sum.total = block_sum(sum.total, scratch + warp_size);
  if (threadIdx.x != 0) return;
  float* sums = (float*)a.sums + row;
  sums[0] = sum.powers;
  sums[a.rows] = to_float(r[((const int*)a.columns)[row]]);
  if (a.wants_total) sums[2 * a.rows] = sum.total;
}

template <typename S> DEVICE void split_slopes(const SplitSoftmaxSlopes& a) {
  const uint64_t row = blockIdx.x;
  S* r = (S*)a.logits + row * a.vocab;
  const auto of_row = [row](const void* numbers) { return ((const float*)numbers)[row]; };
  const Slope slope = {shift_of(of_row(a.top)), of_row(a.scale), of_row(a.rest), of_row(a.own)};
  if (slope.scale == 0 && slope.rest == 0 && slope.own == 0) return fill_row(r, a.vocab, 0.f);
  const unsigned column = (unsigned)((const int*)a.columns)[row];
  const Cap cap(a.soft_cap);
  if (a.soft_cap == 0 && slope.rest == 0)
    write_slopes<true>(r, r, r, a.vocab, column, cap, slope);
  else
    write_slopes<false>(r, r, r, a.vocab, column, cap, slope);
}

}  // namespace losses
