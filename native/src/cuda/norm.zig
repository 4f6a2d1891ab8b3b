//! CUDA launches of args/norm.zig, and the sum of partials that other subjects use too.

const std = @import("std");
const args = @import("../args/norm.zig");
const status = @import("../abi/status.zig");
const DType = @import("../dtype.zig").DType;
const device_file = @import("device.zig");
const Device = device_file.Device;
const Error = status.Error;

/// Backward pass with its scratch: a block of `per_block` rows fills one row of partials.
pub const NormBackwardPlan = extern struct {
    call: args.NormBackward,
    scale_partial: ?*anyopaque, // f32 [blocks, groups·width]
    bias_partial: ?*anyopaque,
    per_block: u64,
};

pub const HeadNormGateBackwardPlan = extern struct {
    call: args.HeadNormGateBackward,
    scale_partial: ?*anyopaque, // f32 [blocks, groups·width]
    bias_partial: ?*anyopaque,
    per_block: u64,
};

/// out[c] = Σ_i partial[i, c], in f64.
pub const PartialSum = extern struct {
    partial: *const anyopaque, // f32 [rows, columns]
    out: *anyopaque, // f32 [columns]
    rows: u64,
    columns: u64,
};

pub const plans = .{
    .{ "NormBackwardPlan", NormBackwardPlan },
    .{ "HeadNormGateBackwardPlan", HeadNormGateBackwardPlan },
    .{ "PartialSum", PartialSum },
};

/// kernels/norm_line.cuh: wider lines belong to a block.
const warp_width = 1024;
/// Rows of partials at most: about two blocks for each multiprocessor of a large GPU, and a fixed
/// number, so that sums do not depend on the GPU.
const most_blocks = 264;
/// Elements of a block of rows at least: less would write partials as large as the input.
const block_elements = 16 * 1024;

/// Rows per row of partials, from the shape only.
pub fn rowsPerBlock(rows: u64, columns: u64) u64 {
    return @max(1, divCeil(block_elements, @max(1, columns)), divCeil(rows, most_blocks));
}

pub fn divCeil(a: u64, b: u64) u64 {
    return std.math.divCeil(u64, a, b) catch unreachable;
}

/// Scratch for the partials of an output that may not be wanted.
pub fn partials(device: *Device, out: ?*anyopaque, blocks: u64, columns: u64) Error!?*anyopaque {
    if (out == null) return null;
    return try device.temporary(@max(1, blocks * columns) * @sizeOf(f32));
}

/// Adds the partials of an output, in the order of the blocks.
pub fn sumPartials(
    device: *Device,
    partial: ?*anyopaque,
    out: ?*anyopaque,
    blocks: u64,
    columns: u64,
) Error!void {
    if (out == null or columns == 0) return;
    try device.launch("partial_sum", .{ .x = divCeil(columns, 32) }, PartialSum{
        .partial = partial.?,
        .out = out.?,
        .rows = blocks,
        .columns = columns,
    });
}

/// A grid for lines of this width: eight or more narrow ones to a block.
fn linesShape(device: *const Device, lines: u64, width: u64) device_file.Shape {
    const each: u64 = if (width > warp_width) 1 else @max(8, 2048 / width);
    return .{ .x = device.blocks(lines, each) };
}

pub fn normForward(device: *Device, dtype: DType, a: *const args.NormForward) Error!void {
    const shape = linesShape(device, a.rows * a.groups, a.width);
    try device.launchFor("norm_forward", dtype, shape, a.*);
}

pub fn headNormGateForward(
    device: *Device,
    dtype: DType,
    a: *const args.HeadNormGateForward,
) Error!void {
    const shape = linesShape(device, a.rows * a.groups, a.width);
    try device.launchFor("head_norm_gate_forward", dtype, shape, a.*);
}

pub fn normBackward(device: *Device, dtype: DType, a: *const args.NormBackward) Error!void {
    try backward(device, "norm_backward", NormBackwardPlan, dtype, a);
}

pub fn headNormGateBackward(
    device: *Device,
    dtype: DType,
    a: *const args.HeadNormGateBackward,
) Error!void {
    try backward(device, "head_norm_gate_backward", HeadNormGateBackwardPlan, dtype, a);
}

fn backward(
    device: *Device,
    comptime name: []const u8,
    comptime Plan: type,
    dtype: DType,
    a: anytype,
) Error!void {
    const columns = a.groups * a.width;
    const per_block = rowsPerBlock(a.rows, columns);
    const blocks = divCeil(a.rows, per_block);
    const plan: Plan = .{
        .call = a.*,
        .scale_partial = try partials(device, a.dscale, blocks, columns),
        .bias_partial = try partials(device, a.dbias, blocks, columns),
        .per_block = per_block,
    };
    if (blocks > 0) try device.launchFor(name, dtype, .{ .x = blocks * a.groups }, plan);
    try sumPartials(device, plan.scale_partial, a.dscale, blocks, columns);
    try sumPartials(device, plan.bias_partial, a.dbias, blocks, columns);
}

pub fn softmaxForward(device: *Device, dtype: DType, a: *const args.SoftmaxForward) Error!void {
    try device.launchFor("softmax_forward", dtype, linesShape(device, a.rows, a.width), a.*);
}

pub fn softmaxBackward(device: *Device, dtype: DType, a: *const args.SoftmaxBackward) Error!void {
    try device.launchFor("softmax_backward", dtype, linesShape(device, a.rows, a.width), a.*);
}

pub fn logSoftmaxForward(
    device: *Device,
    dtype: DType,
    a: *const args.LogSoftmaxForward,
) Error!void {
    try device.launchFor("log_softmax_forward", dtype, linesShape(device, a.rows, a.width), a.*);
}

pub fn logSoftmaxBackward(
    device: *Device,
    dtype: DType,
    a: *const args.LogSoftmaxBackward,
) Error!void {
    try device.launchFor("log_softmax_backward", dtype, linesShape(device, a.rows, a.width), a.*);
}
