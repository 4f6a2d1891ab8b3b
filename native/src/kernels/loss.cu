// Cross entropy over the vocabulary: kernels of args/loss.zig.
//
//     lossᵢ = w·( lse − (1−ε)·z_y − (ε/V)·Σⱼ zⱼ + λ·lse² ),  loss = Σᵢ lossᵢ
//     dr = grad_scale·(dloss + dloss_rowsᵢ)·w·∂/∂r                       (loss_row.cuh)
//
// logits [rows, vocab] of f32 or bf16, a block per row, one pass; statistics in f32, per row in
// f64. Floor per logit: one load forward, a load and a store backward; the fused head (loss.zig)
// loads and stores once where a row fits in shared memory (loss_held_*), else it loads twice.
// The sums over rows are those of one block in f64: a thread takes every 512th row in order, then
// a fixed tree.
// What ranks make of a vocabulary that they share: loss_split.cuh.
// Equals cpu/loss.zig, cpu/loss_linear.zig and reference/loss.zig.
#include "loss_row.cuh"
#include "loss_split.cuh"

using losses::most_threads;

/// Blocks have 512 threads; room for 1024 lets two of them run on a multiprocessor.
constexpr int register_bound = 2 * most_threads;

namespace losses {

DEVICE void store_row(const LossRows& a, uint64_t row, double loss, double lse, bool hit) {
  ((double*)a.losses)[row] = loss;
  ((uint8_t*)a.hits)[row] = hit;
  if (a.loss_rows) ((float*)a.loss_rows)[row] = (float)loss;
  if (a.lse) ((float*)a.lse)[row] = (float)lse;
}

/// Thread 0: the row's results, and the factors of its gradient for the block.
DEVICE void finish_row(const LossRows& a, uint64_t row, double w, const Part& part, double chosen,
                       bool is_hit, Shared& shared) {
  const double lse = (double)part.soft.top + log((double)part.soft.sum);
  const double share = a.label_smoothing / (double)a.vocab;
  double loss = lse - chosen;
  if (a.label_smoothing != 0)
    loss = lse - (1 - a.label_smoothing) * chosen - share * (double)part.total;
  if (a.z_loss != 0) loss += a.z_loss * lse * lse;
  store_row(a, row, w * loss, lse, is_hit && !part.beaten);
  const double k = a.grad_scale * w;
  shared.shift = part.soft.top;
  shared.scale = (float)(k / (double)part.soft.sum * (1 + 2 * a.z_loss * lse));
  shared.rest = (float)(k * share);
  shared.own = (float)(k * (1 - a.label_smoothing));
}

/// Loss and, where `dlogits` is given, gradient of a row whose target is valid.
template <bool plain, typename S>
DEVICE void valid_row(const LossRows& a, uint64_t row, float w, unsigned target, S* held,
                      Shared& shared) {
  const S* r = (const S*)a.logits + row * a.stride;
  const Cap cap(a.soft_cap);
  const Seen seen = {target, to_float(r[target])};
  const Part part = join_parts(gather_row<plain>(r, held, a.vocab, cap, seen), shared);
  if (threadIdx.x == 0)
    finish_row(a, row, w, part, cap.of(seen.chosen), seen.chosen == seen.chosen, shared);
  if (!a.dlogits) return;
  __syncthreads();
  const Slope slope = {shared.shift, shared.scale, shared.rest, shared.own};
  S* dr = (S*)a.dlogits + row * a.stride;
  write_slopes<plain>(held ? held : r, r, dr, a.vocab, seen.target, cap, slope);
}

/// One row a block: its loss and, where `dlogits` is given, its gradient.
template <typename S> DEVICE void row(const LossRows& a, S* held, Shared& shared) {
  const uint64_t row = blockIdx.x;
  const float w = weight_of(a.mask, a.weights, row);
  const int target = w == 0 ? 0 : ((const int*)a.targets)[row];
  const bool is_inside = target >= 0 && (uint64_t)target < a.vocab;
  if (w == 0 || !is_inside) {
    const float value = is_inside ? 0.f : NAN;
    if (threadIdx.x == 0) store_row(a, row, value, value, false);
    if (a.dlogits) fill_row((S*)a.dlogits + row * a.stride, a.vocab, value);
    return;
  }
  if (a.soft_cap == 0 && a.label_smoothing == 0)
    valid_row<true>(a, row, w, (unsigned)target, held, shared);
  else
    valid_row<false>(a, row, w, (unsigned)target, held, shared);
}

template <typename S> DEVICE void row_read(const LossRows& a) {
  __shared__ Shared shared;
  row<S>(a, nullptr, shared);
}

/// What the block shares comes first, then the row: cuda/loss.zig, held_head.
template <typename S> DEVICE void row_held(const LossRows& a) {
  SHARED(unsigned char, buffer);
  row<S>(a, (S*)(buffer + 1024), *(Shared*)buffer);
}

/// The gradient of one row from its saved lse.
template <typename S> DEVICE void row_backward(const CrossEntropyBackward& a) {
  const uint64_t row = blockIdx.x;
  const S* r = (const S*)a.logits + row * a.vocab;
  S* dr = (S*)a.dlogits + row * a.vocab;
  const float w = weight_of(a.mask, a.weights, row);
  const int target = w == 0 ? 0 : ((const int*)a.targets)[row];
  const bool is_inside = target >= 0 && (uint64_t)target < a.vocab;
  if (w == 0 || !is_inside) return fill_row(dr, a.vocab, is_inside ? 0.f : NAN);
  const double whole = a.dloss ? *(const float*)a.dloss : (a.dloss_rows ? 0 : 1);
  const double own = a.dloss_rows ? ((const float*)a.dloss_rows)[row] : 0;
  const double lse = ((const float*)a.lse)[row], k = a.grad_scale * (whole + own) * w;
  const double share = a.label_smoothing / (double)a.vocab;
  const Slope slope = {(float)lse, (float)(k * (1 + 2 * a.z_loss * lse)), (float)(k * share),
                       (float)(k * (1 - a.label_smoothing))};
  const Cap cap(a.soft_cap);
  if (a.soft_cap == 0 && a.label_smoothing == 0)
    write_slopes<true>(r, r, dr, a.vocab, (unsigned)target, cap, slope);
  else
    write_slopes<false>(r, r, dr, a.vocab, (unsigned)target, cap, slope);
}

/// Hidden states of the valid rows; zeros in the others, which may hold anything.
template <typename S> DEVICE void keep_row(const KeptRows& a) {
  constexpr int P = pack_width<S>;
  const uint64_t row = blockIdx.x;
  const S* from = (const S*)a.from + row * a.width;
  S* to = (S*)a.to + row * a.width;
  if (weight_of(a.mask, a.weights, row) == 0) return fill_row(to, a.width, 0.f);
  const uint64_t packs = is_aligned(to) ? packs_of(from, a.width) : 0;
  for (uint64_t i = threadIdx.x; i < packs; i += blockDim.x) {
    float pack[P];
    load_pack<P>(from + i * P, pack);
    store_pack<P>(to + i * P, pack);
  }
  for (uint64_t i = packs * P + threadIdx.x; i < a.width; i += blockDim.x) to[i] = from[i];
}

/// Smallest and largest of the block; `scratch` holds 64 integers.
DEVICE void block_bounds(int& low, int& high, int* scratch) {
  const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  for (int step = warp_size / 2; step > 0; step /= 2) {
    const int other_low = __shfl_xor_sync(full_mask, low, step);
    const int other_high = __shfl_xor_sync(full_mask, high, step);
    low = other_low < low ? other_low : low;
    high = other_high > high ? other_high : high;
  }
  if (lane == 0) {
    scratch[warp] = low;
    scratch[warp_size + warp] = high;
  }
  __syncthreads();
  for (int i = 0; i < (int)blockDim.x / warp_size; i++) {
    low = scratch[i] < low ? scratch[i] : low;
    high = scratch[warp_size + i] > high ? scratch[warp_size + i] : high;
  }
}

}  // namespace losses

KERNEL(register_bound, loss_rows_f32, LossRows) { losses::row_read<float>(a); }
KERNEL(register_bound, loss_rows_bf16, LossRows) { losses::row_read<bf16>(a); }
KERNEL(register_bound, loss_held_f32, LossRows) { losses::row_held<float>(a); }
KERNEL(register_bound, loss_held_bf16, LossRows) { losses::row_held<bf16>(a); }
KERNEL(register_bound, loss_backward_f32, CrossEntropyBackward) {
  losses::row_backward<float>(a);
}
KERNEL(register_bound, loss_backward_bf16, CrossEntropyBackward) {
  losses::row_backward<bf16>(a);
}
KERNEL(most_threads, loss_split_sums_f32, SplitSoftmaxSums) { losses::split_sums<float>(a); }
KERNEL(most_threads, loss_split_sums_bf16, SplitSoftmaxSums) { losses::split_sums<bf16>(a); }
KERNEL(register_bound, loss_split_slopes_f32, SplitSoftmaxSlopes) {
  losses::split_slopes<float>(a);
}
KERNEL(register_bound, loss_split_slopes_bf16, SplitSoftmaxSlopes) {
  losses::split_slopes<bf16>(a);
}
KERNEL(most_threads, loss_keep_f32, KeptRows) { losses::keep_row<float>(a); }
KERNEL(most_threads, loss_keep_bf16, KeptRows) { losses::keep_row<bf16>(a); }

/// One block: the sums over rows, and the fault of a target outside of the vocabulary. One writer
/// reports it for all rows, so that the report is the same in every run.
KERNEL(most_threads, loss_sums, LossSums) {
  __shared__ double sums[warp_size];
  __shared__ int counts[2 * warp_size];
  double loss = 0, weight_sum = 0;
  int count = 0, correct = 0, low = 0, high = 0;
  for (uint64_t i = threadIdx.x; i < a.rows; i += blockDim.x) {
    const float w = losses::weight_of(a.mask, a.weights, i);
    loss += ((const double*)a.losses)[i];
    weight_sum += w;
    correct += ((const uint8_t*)a.hits)[i];
    if (w == 0) continue;
    count++;
    const int target = ((const int*)a.targets)[i];
    low = target < low ? target : low;
    high = target > high ? target : high;
  }
  loss = block_sum(loss, sums);
  weight_sum = block_sum(weight_sum, sums);
  count = block_sum(count, counts);
  correct = block_sum(correct, counts);
  __syncthreads();
  losses::block_bounds(low, high, counts);
  if (threadIdx.x != 0) return;
  *(float*)a.loss = (float)loss;
  *(int*)a.count = count;
  if (a.weight_sum) *(float*)a.weight_sum = (float)weight_sum;
  if (a.correct) *(int*)a.correct = correct;
  if (low < 0 || (uint64_t)high >= a.vocab)
    *(Fault*)a.fault = {1, (uint32_t)a.vocab, low, high};
}
