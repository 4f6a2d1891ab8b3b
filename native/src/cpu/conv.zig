//! Causal depthwise convolution and head-wise linear maps on the CPU. Equations: `args/conv.zig`.

pub const convForward = @import("conv_forward.zig").convForward;
pub const convBackward = @import("conv_backward.zig").convBackward;
pub const convStep = @import("conv_step.zig").convStep;
pub const headwiseForward = @import("conv_headwise.zig").headwiseForward;
pub const headwiseBackward = @import("conv_headwise.zig").headwiseBackward;

test {
    _ = @import("conv_test.zig");
    _ = @import("conv_headwise_test.zig");
}
