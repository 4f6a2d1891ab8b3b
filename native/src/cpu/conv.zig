//! Causal depthwise convolution over time (kernels.md §8) and head-wise linear maps (models.md §2.4).
//! The parts live in files of their own; this is the list that the level table reads.

pub const convForward = @import("conv_forward.zig").convForward;
pub const convStep = @import("conv_forward.zig").convStep;
pub const convBackward = @import("conv_backward.zig").convBackward;
pub const headwiseForward = @import("headwise.zig").headwiseForward;
pub const headwiseBackward = @import("headwise.zig").headwiseBackward;
