//! Element-wise kernels, copies, reductions. One file per concept; this one lists the entry points
//! of `args/elementwise.zig`.

const unary_kernels = @import("elementwise_unary.zig");
const binary_kernels = @import("elementwise_binary.zig");
const copy_kernels = @import("elementwise_copy.zig");
const reduce_kernels = @import("reduce.zig");
const squares_kernels = @import("reduce_squares.zig");

pub const unary = unary_kernels.unary;
pub const unaryBackward = unary_kernels.unaryBackward;
pub const gatedActivationForward = unary_kernels.gatedActivationForward;
pub const gatedActivationBackward = unary_kernels.gatedActivationBackward;
pub const binary = binary_kernels.binary;
pub const where = binary_kernels.where;
pub const copy = copy_kernels.copy;
pub const fill = copy_kernels.fill;
pub const arange = copy_kernels.arange;
pub const reduce = reduce_kernels.reduce;
pub const globalSumSquares = squares_kernels.globalSumSquares;
