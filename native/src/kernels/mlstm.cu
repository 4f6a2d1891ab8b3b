// Kernels of args/mlstm.zig for every size and option; the order of their launches is that of
// cuda/mlstm.zig. Equations: the headers, kernels.md §2-6. Floor per token and unit, DQK = d,
// DV = e: 4·d·e FLOPs forward, 12·d·e backward, and 4·d·e/64 bytes for every state kept.
// Equals cpu/mlstm.zig, reference/mlstm.zig.
#include "mlstm_gate_gradient.cuh"
#include "mlstm_gradient.cuh"
#include "mlstm_output.cuh"
#include "mlstm_scan.cuh"
#include "mlstm_states.cuh"
#include "mlstm_step.cuh"

KERNEL(64, mlstm_scan, MlstmProblem) { mlstm::scan(a); }

KERNEL(256, mlstm_states_f32, MlstmProblem) { mlstm::states<float>(a); }
KERNEL(256, mlstm_states_bf16, MlstmProblem) { mlstm::states<bf16>(a); }

KERNEL(256, mlstm_output_f32, MlstmProblem) { mlstm::output<float>(a); }
KERNEL(256, mlstm_output_bf16, MlstmProblem) { mlstm::output<bf16>(a); }

KERNEL(256, mlstm_rows_f32, MlstmProblem) { mlstm::rows<float>(a); }
KERNEL(256, mlstm_rows_bf16, MlstmProblem) { mlstm::rows<bf16>(a); }

KERNEL(256, mlstm_state_gradients_f32, MlstmProblem) { mlstm::state_gradients<float>(a); }
KERNEL(256, mlstm_state_gradients_bf16, MlstmProblem) { mlstm::state_gradients<bf16>(a); }

KERNEL(256, mlstm_gradient_f32, MlstmProblem) { mlstm::gradient<float>(a); }
KERNEL(256, mlstm_gradient_bf16, MlstmProblem) { mlstm::gradient<bf16>(a); }

KERNEL(256, mlstm_products, MlstmProblem) { mlstm::products(a); }
KERNEL(64, mlstm_gate_gradient, MlstmProblem) { mlstm::gate_gradient(a); }

KERNEL(128, mlstm_step_gates_f32, MlstmStepPlan) { mlstm::step_gates<float>(a); }
KERNEL(128, mlstm_step_gates_bf16, MlstmStepPlan) { mlstm::step_gates<bf16>(a); }

KERNEL_AHEAD(256, mlstm_step_f32, MlstmStepPlan) { mlstm::step<float, 4>(a); }
KERNEL_AHEAD(256, mlstm_step_bf16, MlstmStepPlan) { mlstm::step<bf16, 4>(a); }
KERNEL_AHEAD(256, mlstm_step_few_f32, MlstmStepPlan) { mlstm::step<float, 1>(a); }
KERNEL_AHEAD(256, mlstm_step_few_bf16, MlstmStepPlan) { mlstm::step<bf16, 1>(a); }
