//! CUDA launches of args/norm.zig, and the sum of partials that other subjects use too.

const std = @import("std");
const args = @import("../args/norm.zig");
const norm_stream = @import("norm_stream.zig");
const status = @import("../abi/status.zig");
const DType = @import("../dtype.zig").DType;
const device_file = @import("device.zig");
const Device = device_file.Device;
const Call = norm_stream.Call;
const Stream = norm_stream.Stream;
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
    try device.launch("partial_sum", .{ .x = divCeil(columns, 32), .threads = 1024 }, PartialSum{
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
    const pointers = [_]?*const anyopaque{ a.x, a.residual, a.scale, a.bias, a.y, a.sum };
    try forward(device, "norm_forward", a, .{
        .dtype = dtype,
        .inputs = 2,
        .rows = a.rows,
        .groups = a.groups,
        .width = a.width,
        .strides = &.{},
        .pointers = &pointers,
    });
}

pub fn headNormGateForward(
    device: *Device,
    dtype: DType,
    a: *const args.HeadNormGateForward,
) Error!void {
    const pointers = [_]?*const anyopaque{ a.h, a.o, a.scale, a.bias, a.y };
    try forward(device, "head_norm_gate_forward", a, .{
        .dtype = dtype,
        .inputs = 2,
        .rows = a.rows,
        .groups = a.groups,
        .width = a.width,
        .strides = &.{a.o_stride},
        .pointers = &pointers,
    });
}

fn forward(device: *Device, comptime name: []const u8, a: anytype, call: Call) Error!void {
    const stream = Stream.of(device, call) orelse {
        const shape = linesShape(device, a.rows * a.groups, a.width);
        return device.launchFor(name, call.dtype, shape, a.*);
    };
    const shape = stream.forwardShape(device, a.rows);
    switch (stream.values) {
        8 => try device.launchFor(name ++ "8", call.dtype, shape, a.*),
        else => try device.launchFor(name ++ "16", call.dtype, shape, a.*),
    }
}

pub fn normBackward(device: *Device, dtype: DType, a: *const args.NormBackward) Error!void {
    const pointers = [_]?*const anyopaque{ a.dy, a.x, a.scale, a.dsum, a.dx };
    try backward(device, "norm_backward", NormBackwardPlan, a, .{
        .dtype = dtype,
        .inputs = 3,
        .rows = a.rows,
        .groups = a.groups,
        .width = a.width,
        .strides = &.{},
        .pointers = &pointers,
    });
}

pub fn headNormGateBackward(
    device: *Device,
    dtype: DType,
    a: *const args.HeadNormGateBackward,
) Error!void {
    const pointers = [_]?*const anyopaque{ a.dy, a.h, a.o, a.scale, a.bias, a.dh, a.do };
    try backward(device, "head_norm_gate_backward", HeadNormGateBackwardPlan, a, .{
        .dtype = dtype,
        .inputs = 3,
        .rows = a.rows,
        .groups = a.groups,
        .width = a.width,
        .strides = &.{ a.o_stride, a.do_stride },
        .pointers = &pointers,
    });
}

fn backward(
    device: *Device,
    comptime name: []const u8,
    comptime Plan: type,
    a: anytype,
    call: Call,
) Error!void {
    const columns = a.groups * a.width;
    const chosen = Stream.of(device, call);
    const per_block =
        if (chosen) |stream| stream.rowsPerBlock(a.rows) else rowsPerBlock(a.rows, columns);
    const blocks = divCeil(a.rows, per_block);
    const plan: Plan = .{
        .call = a.*,
        .scale_partial = try partials(device, a.dscale, blocks, columns),
        .bias_partial = try partials(device, a.dbias, blocks, columns),
        .per_block = per_block,
    };
    if (blocks > 0) {
        if (chosen) |stream| {
            var shape = stream.shape;
            shape.x = blocks * stream.chunks;
            switch (stream.values) {
                8 => try device.launchFor(name ++ "8", call.dtype, shape, plan),
                else => try device.launchFor(name ++ "16", call.dtype, shape, plan),
            }
        } else try device.launchFor(name, call.dtype, .{ .x = blocks * a.groups }, plan);
    }
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
