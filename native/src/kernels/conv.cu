// Causal depthwise convolution and head-wise linear maps: kernels of args/conv.zig.
//
//     u_t = b + Σ_j w_j·x_e[t + j], y = u or u·σ(u);  du = dy·silu'(u)
//     dx_e[t + j] += w_j·du_t, dw_j = Σ du_t·x_e[t + j], db = Σ du          (conv_window.cuh)
//     y[r, h, :] = W_h·x[r, h, :] (+ b_h); dx = Wᵀ·dy, dW = Σ_r dy·xᵀ       (headwise.cuh)
//
// x [B, T, C], w [C, K]; x [rows, n, a], W [n, b, a]; f32 or bf16, arithmetic in f32. Floor per
// element: a load and a store forward, two loads and a store backward; 2·K FLOPs and three times
// that. Expected of 65,536 x 4096 with K = 4: 1.15 times the floor forward, 1.2 backward (3 of 131
// tokens are read twice, 8 rounds of blocks end 3 % late). Taps are added in the order 0 … K − 1;
// parameters' gradients per block of tokens, then in the order of the blocks (partial_sum in
// norm.cu).
// Equals cpu/conv*.zig and reference/conv.zig.
#include "conv_any.cuh"
#include "conv_window.cuh"
#include "headwise.cuh"

using conv::block_threads;

// The name says how many channels a thread moves at once.
RESIDENT_KERNEL(block_threads, 3, conv_forward4_f32, ConvForwardPlan) {
  conv::forward<float, 4>(a);
}
RESIDENT_KERNEL(block_threads, 3, conv_forward4_bf16, ConvForwardPlan) {
  conv::forward<bf16, 4>(a);
}
KERNEL(block_threads, conv_forward1_f32, ConvForwardPlan) { conv::forward<float, 1>(a); }
KERNEL(block_threads, conv_forward1_bf16, ConvForwardPlan) { conv::forward<bf16, 1>(a); }
RESIDENT_KERNEL(block_threads, 2, conv_backward4_f32, ConvBackwardPlan) {
  conv::backward<float, 4>(a);
}
RESIDENT_KERNEL(block_threads, 2, conv_backward4_bf16, ConvBackwardPlan) {
  conv::backward<bf16, 4>(a);
}
KERNEL(block_threads, conv_backward1_f32, ConvBackwardPlan) { conv::backward<float, 1>(a); }
KERNEL(block_threads, conv_backward1_bf16, ConvBackwardPlan) { conv::backward<bf16, 1>(a); }

KERNEL(block_threads, conv_any_forward_f32, ConvForward) { conv::any_forward<float>(a); }
KERNEL(block_threads, conv_any_forward_bf16, ConvForward) { conv::any_forward<bf16>(a); }
KERNEL(block_threads, conv_last_f32, ConvForward) { conv::last_inputs<float>(a); }
KERNEL(block_threads, conv_last_bf16, ConvForward) { conv::last_inputs<bf16>(a); }
KERNEL(block_threads, conv_any_slopes_f32, ConvBackwardPlan) { conv::any_slopes<float>(a); }
KERNEL(block_threads, conv_any_slopes_bf16, ConvBackwardPlan) { conv::any_slopes<bf16>(a); }
KERNEL(block_threads, conv_any_inputs_f32, ConvBackwardPlan) { conv::any_inputs<float>(a); }
KERNEL(block_threads, conv_any_inputs_bf16, ConvBackwardPlan) { conv::any_inputs<bf16>(a); }
KERNEL(block_threads, conv_any_weights_f32, ConvBackwardPlan) { conv::any_weights<float>(a); }
KERNEL(block_threads, conv_any_weights_bf16, ConvBackwardPlan) { conv::any_weights<bf16>(a); }
KERNEL(block_threads, conv_step_f32, ConvStep) { conv::step<float>(a); }
KERNEL(block_threads, conv_step_bf16, ConvStep) { conv::step<bf16>(a); }

KERNEL(block_threads, headwise_small_forward_f32, HeadwiseForwardPlan) {
  headwise::small_forward_of<float>(a);
}
KERNEL(block_threads, headwise_small_forward_bf16, HeadwiseForwardPlan) {
  headwise::small_forward_of<bf16>(a);
}
KERNEL(block_threads, headwise_small_backward_f32, HeadwiseBackwardPlan) {
  headwise::small_backward_of<float>(a);
}
KERNEL(block_threads, headwise_small_backward_bf16, HeadwiseBackwardPlan) {
  headwise::small_backward_of<bf16>(a);
}
/// Activations by weights.
KERNEL(block_threads, headwise_product_f32, HeadwiseProduct) {
  headwise::product<float, float, float>(a);
}
KERNEL(block_threads, headwise_product_bf16, HeadwiseProduct) {
  headwise::product<bf16, float, bf16>(a);
}
/// Activations by activations: partials of the weights' gradient.
KERNEL(block_threads, headwise_outer_f32, HeadwiseProduct) {
  headwise::product<float, float, float>(a);
}
KERNEL(block_threads, headwise_outer_bf16, HeadwiseProduct) {
  headwise::product<bf16, bf16, float>(a);
}
