//! mLSTM kernels. Contract: `args/mlstm.zig`; equations: kernels.md §2-6.

pub const mlstmForward = @import("mlstm_forward.zig").mlstmForward;
pub const mlstmBackward = @import("mlstm_backward.zig").mlstmBackward;
pub const mlstmStep = @import("mlstm_step.zig").mlstmStep;
