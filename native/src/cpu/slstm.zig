//! sLSTM and LSTM cells on the CPU. Equations: `args/slstm.zig`.

pub const slstmForward = @import("slstm_forward.zig").slstmForward;
pub const slstmBackward = @import("slstm_backward.zig").slstmBackward;
pub const slstmStep = @import("slstm_step.zig").slstmStep;

test {
    _ = @import("slstm_gates.zig");
    _ = @import("slstm_test.zig");
    _ = @import("slstm_pieces_test.zig");
}
