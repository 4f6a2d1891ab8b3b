// Norms, head norm with output gate, softmax, log-softmax: kernels of args/norm.zig.
//
//     x̂ = (x − mean)·rstd, y = x̂·g + b (∘σ(o));  statistics in two passes
//     a = dy·g (∘σ(o)), dx = rstd·(a − mean(a) − x̂·mean(a∘x̂)) (+ dsum), dg = Σ dy∘x̂, db = Σ dy
//     y = e^(x − max)/Σ, dx = y∘(dy − Σ dy∘y);  y = x − max − ln Σ, dx = dy − e^y·Σ dy
//
// Lines [rows, groups, width] of f32 or bf16, arithmetic in f32. Floor, in elements of S moved per
// element: forward 2 (4 with a residual, 3 with a gate), backward 3 (4 with dsum, 5 with a gate),
// softmax 2 and 3. Whole packs of lines up to 8192 stream through shared memory (norm_stream.cuh):
// 1.10 to 1.15 times the floor is expected of 65,536 x 4096, and some 8 us more per call: the first
// lines of every block, and the sum of partials. Other lines are read again in every pass, from
// cache as a rule.
// Sums: a thread adds its columns in order, then a butterfly, then warps in order; rows as in
// norm_backward.cuh and norm_stream_backward.cuh.
// Equals cpu/norm.zig, cpu/norm_gate.zig, cpu/norm_softmax.zig and reference/norm.zig.
#include "norm_backward.cuh"
#include "norm_softmax.cuh"
#include "norm_stream_backward.cuh"
#include "norm_stream_forward.cuh"

using norms::block_threads;

KERNEL(block_threads, norm_forward_f32, NormForward) { norms::forward<float>(a); }
KERNEL(block_threads, norm_forward_bf16, NormForward) { norms::forward<bf16>(a); }
KERNEL(block_threads, head_norm_gate_forward_f32, HeadNormGateForward) {
  norms::forward<float>(a);
}
KERNEL(block_threads, head_norm_gate_forward_bf16, HeadNormGateForward) {
  norms::forward<bf16>(a);
}
KERNEL(block_threads, norm_backward_f32, NormBackwardPlan) { norms::backward<float>(a); }
KERNEL(block_threads, norm_backward_bf16, NormBackwardPlan) { norms::backward<bf16>(a); }
KERNEL(block_threads, head_norm_gate_backward_f32, HeadNormGateBackwardPlan) {
  norms::backward<float>(a);
}
KERNEL(block_threads, head_norm_gate_backward_bf16, HeadNormGateBackwardPlan) {
  norms::backward<bf16>(a);
}

// The number says how many values of a line a thread holds.
RESIDENT_KERNEL(256, 3, norm_forward8_f32, NormForward) {
  norms::stream_forward<float, 8>(a);
}
RESIDENT_KERNEL(256, 3, norm_forward8_bf16, NormForward) {
  norms::stream_forward<bf16, 8>(a);
}
RESIDENT_KERNEL(256, 3, head_norm_gate_forward8_f32, HeadNormGateForward) {
  norms::stream_forward<float, 8>(a);
}
RESIDENT_KERNEL(256, 3, head_norm_gate_forward8_bf16, HeadNormGateForward) {
  norms::stream_forward<bf16, 8>(a);
}
RESIDENT_KERNEL(256, 3, norm_backward8_f32, NormBackwardPlan) {
  norms::stream_backward<float, 8>(a);
}
RESIDENT_KERNEL(256, 3, norm_backward8_bf16, NormBackwardPlan) {
  norms::stream_backward<bf16, 8>(a);
}
RESIDENT_KERNEL(256, 3, head_norm_gate_backward8_f32, HeadNormGateBackwardPlan) {
  norms::stream_backward<float, 8>(a);
}
RESIDENT_KERNEL(256, 3, head_norm_gate_backward8_bf16, HeadNormGateBackwardPlan) {
  norms::stream_backward<bf16, 8>(a);
}
RESIDENT_KERNEL(512, 1, norm_forward16_f32, NormForward) {
  norms::stream_forward<float, 16>(a);
}
RESIDENT_KERNEL(512, 1, norm_forward16_bf16, NormForward) {
  norms::stream_forward<bf16, 16>(a);
}
RESIDENT_KERNEL(512, 1, head_norm_gate_forward16_f32, HeadNormGateForward) {
  norms::stream_forward<float, 16>(a);
}
RESIDENT_KERNEL(512, 1, head_norm_gate_forward16_bf16, HeadNormGateForward) {
  norms::stream_forward<bf16, 16>(a);
}
RESIDENT_KERNEL(512, 1, norm_backward16_f32, NormBackwardPlan) {
  norms::stream_backward<float, 16>(a);
}
RESIDENT_KERNEL(512, 1, norm_backward16_bf16, NormBackwardPlan) {
  norms::stream_backward<bf16, 16>(a);
}
RESIDENT_KERNEL(512, 1, head_norm_gate_backward16_f32, HeadNormGateBackwardPlan) {
  norms::stream_backward<float, 16>(a);
}
RESIDENT_KERNEL(512, 1, head_norm_gate_backward16_bf16, HeadNormGateBackwardPlan) {
  norms::stream_backward<bf16, 16>(a);
}

KERNEL(block_threads, softmax_forward_f32, SoftmaxForward) {
  norms::softmax_forward<float, false>(a);
}
KERNEL(block_threads, softmax_forward_bf16, SoftmaxForward) {
  norms::softmax_forward<bf16, false>(a);
}
KERNEL(block_threads, softmax_backward_f32, SoftmaxBackward) {
  norms::softmax_backward<float, false>(a);
}
KERNEL(block_threads, softmax_backward_bf16, SoftmaxBackward) {
  norms::softmax_backward<bf16, false>(a);
}
KERNEL(block_threads, log_softmax_forward_f32, SoftmaxForward) {
  norms::softmax_forward<float, true>(a);
}
KERNEL(block_threads, log_softmax_forward_bf16, SoftmaxForward) {
  norms::softmax_forward<bf16, true>(a);
}
KERNEL(block_threads, log_softmax_backward_f32, SoftmaxBackward) {
  norms::softmax_backward<float, true>(a);
}
KERNEL(block_threads, log_softmax_backward_bf16, SoftmaxBackward) {
  norms::softmax_backward<bf16, true>(a);
}

/// out[c] = Σ_i partial[i, c] in f64: 32 columns of a block, each by 32 threads that take an equal
/// share of the rows in order; the shares are added in order. Any subject's partials: they are few,
/// so that the kernel takes as long as the loads that wait for one another.
KERNEL(1024, partial_sum, PartialSum) {
  constexpr int parts = 32, ahead = 8;
  __shared__ double shares[parts * warp_size];
  const int lane = threadIdx.x % warp_size, part = threadIdx.x / warp_size;
  const uint64_t c = (uint64_t)blockIdx.x * warp_size + lane;
  const uint64_t share = (a.rows + parts - 1) / parts, low = part * share;
  const uint64_t high = low + share < a.rows ? low + share : a.rows;
  const float* partial = (const float*)a.partial + c;
  double total = 0;
  for (uint64_t i = low; i < high && c < a.columns; i += ahead) {
    float some[ahead];
#pragma unroll
    for (int j = 0; j < ahead; j++) some[j] = i + j < high ? partial[(i + j) * a.columns] : 0.f;
#pragma unroll
    for (int j = 0; j < ahead; j++) total += some[j];
  }
  shares[threadIdx.x] = total;
  __syncthreads();
  if (part != 0 || c >= a.columns) return;
  for (int i = 1; i < parts; i++) total += shares[i * warp_size + lane];
  ((float*)a.out)[c] = (float)total;
}
