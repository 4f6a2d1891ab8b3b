// Kernels of args/slstm.zig for every size and option; launches: cuda/slstm.zig. Equations: the
// headers, kernels.md §7. Equals cpu/slstm.zig, reference/slstm.zig.
#include "slstm_backward.cuh"
#include "slstm_forward.cuh"

KERNEL(512, slstm_forward_one_f32, SlstmForwardPlan) { slstm::forward<float, 1>(a); }
KERNEL(512, slstm_forward_one_bf16, SlstmForwardPlan) { slstm::forward<bf16, 1>(a); }
KERNEL(512, slstm_forward_four_f32, SlstmForwardPlan) { slstm::forward<float, 4>(a); }
KERNEL(512, slstm_forward_four_bf16, SlstmForwardPlan) { slstm::forward<bf16, 4>(a); }

KERNEL(256, slstm_step_raw_f32, SlstmStepPlan) { slstm::step_raw<float>(a); }
KERNEL(256, slstm_step_raw_bf16, SlstmStepPlan) { slstm::step_raw<bf16>(a); }
KERNEL(256, slstm_step_units_f32, SlstmStepPlan) { slstm::step_units<float>(a); }
KERNEL(256, slstm_step_units_bf16, SlstmStepPlan) { slstm::step_units<bf16>(a); }

KERNEL(256, slstm_turn, SlstmBackwardPlan) { slstm::turn(a); }
KERNEL(512, slstm_backward_one_f32, SlstmBackwardPlan) { slstm::backward<float, 1>(a); }
KERNEL(512, slstm_backward_one_bf16, SlstmBackwardPlan) { slstm::backward<bf16, 1>(a); }
KERNEL(512, slstm_backward_four_f32, SlstmBackwardPlan) { slstm::backward<float, 4>(a); }
KERNEL(512, slstm_backward_four_bf16, SlstmBackwardPlan) { slstm::backward<bf16, 4>(a); }
KERNEL(256, slstm_weights, SlstmBackwardPlan) { slstm::weights(a); }
KERNEL(256, slstm_add_ranges, SlstmSumPlan) { slstm::add_ranges(a); }
