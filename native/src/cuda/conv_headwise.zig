//! CUDA launches of the head-wise linear maps. args/conv.zig

const args = @import("../args/conv.zig");
const norm = @import("norm.zig");
const status = @import("../abi/status.zig");
const DType = @import("../dtype.zig").DType;
const device_file = @import("device.zig");
const Device = device_file.Device;
const Error = status.Error;

/// Square blocks of 2, 4 or 8 units.
pub const HeadwiseForwardPlan = extern struct {
    call: args.HeadwiseForward,
    per_block: u64, // rows
};

pub const HeadwiseBackwardPlan = extern struct {
    call: args.HeadwiseBackward,
    weight_partial: ?*anyopaque, // f32 [parts, n, b, a]
    bias_partial: ?*anyopaque, // f32 [parts, n, b]
    per_block: u64, // rows of a part
};

/// For every block h and part of k: C[m, n] = Σ_k A[m, k]·B[k, n] (+ bias[h, n]).
pub const HeadwiseProduct = extern struct {
    a: *const anyopaque,
    b: *const anyopaque,
    c: *anyopaque, // rows `c_row` apart
    bias: ?*const anyopaque, // f32 [blocks, n]
    sums: ?*anyopaque, // f32 [parts, blocks, m]: Σ_k A[m, k]
    m: u64,
    n: u64,
    k: u64,
    blocks: u64,
    share: u64, // of k, for a part
    a_block: u64,
    a_row: u64,
    a_depth: u64,
    b_block: u64,
    b_column: u64,
    b_depth: u64,
    c_block: u64,
    c_row: u64,
    c_part: u64,
};

pub const plans = .{
    .{ "HeadwiseForwardPlan", HeadwiseForwardPlan },
    .{ "HeadwiseBackwardPlan", HeadwiseBackwardPlan },
    .{ "HeadwiseProduct", HeadwiseProduct },
};

const lanes = 32;
const tile = 64; // kernels/headwise.cuh
/// Rows that a block passes forward: its weights are loaded once for them.
const forward_rows = 128;

fn divCeil(a: u64, b: u64) u64 {
    return norm.divCeil(a, b);
}

/// Whether a thread can hold a whole block and move its units in packs.
fn isSmall(
    dtype: DType,
    inputs: u64,
    outputs: u64,
    strides: []const u64,
    pointers: []const ?*const anyopaque,
) bool {
    if (inputs != outputs or (inputs != 2 and inputs != 4 and inputs != 8)) return false;
    const pack = @min(inputs, 16 / dtype.size());
    for (strides) |stride| if (stride % pack != 0) return false;
    for (pointers) |pointer| if (@intFromPtr(pointer) % 16 != 0) return false;
    return true;
}

pub fn headwiseForward(device: *Device, dtype: DType, a: *const args.HeadwiseForward) Error!void {
    if (a.rows * a.blocks * a.outputs == 0) return;
    const strides = [_]u64{ a.x_stride, a.y_stride };
    const pointers = [_]?*const anyopaque{ a.x, a.weight, a.bias, a.y };
    if (isSmall(dtype, a.inputs, a.outputs, &strides, &pointers)) {
        const shape: device_file.Shape = .{
            .x = divCeil(a.rows, forward_rows) * divCeil(a.blocks, lanes),
        };
        const plan: HeadwiseForwardPlan = .{ .call = a.*, .per_block = forward_rows };
        return device.launchFor("headwise_small_forward", dtype, shape, plan);
    }
    const plan: HeadwiseProduct = .{
        .a = a.x,
        .b = a.weight,
        .c = a.y,
        .bias = a.bias,
        .sums = null,
        .m = a.rows,
        .n = a.outputs,
        .k = a.inputs,
        .blocks = a.blocks,
        .share = a.inputs,
        .a_block = a.inputs,
        .a_row = a.x_stride,
        .a_depth = 1,
        .b_block = a.outputs * a.inputs,
        .b_column = a.inputs,
        .b_depth = 1,
        .c_block = a.outputs,
        .c_row = a.y_stride,
        .c_part = 0,
    };
    try device.launchFor("headwise_product", dtype, productShape(&plan, 1), plan);
}

fn productShape(plan: *const HeadwiseProduct, parts: u64) device_file.Shape {
    return .{ .x = divCeil(plan.m, tile) * divCeil(plan.n, tile) * plan.blocks * parts };
}

pub fn headwiseBackward(
    device: *Device,
    dtype: DType,
    a: *const args.HeadwiseBackward,
) Error!void {
    const weights = a.blocks * a.outputs * a.inputs;
    const per_block = norm.rowsPerBlock(a.rows, a.blocks * (a.outputs + a.inputs));
    const parts = divCeil(a.rows, per_block);
    const plan: HeadwiseBackwardPlan = .{
        .call = a.*,
        .weight_partial = try norm.partials(device, a.dweight, parts, weights),
        .bias_partial = try norm.partials(device, a.dbias, parts, a.blocks * a.outputs),
        .per_block = per_block,
    };
    const strides = [_]u64{ a.x_stride, a.y_stride, a.dx_stride };
    const pointers = [_]?*const anyopaque{ a.x, a.weight, a.dy, a.dx };
    if (isSmall(dtype, a.inputs, a.outputs, strides[0..if (a.dx != null) 3 else 2], &pointers)) {
        const shape: device_file.Shape = .{ .x = parts * divCeil(a.blocks, lanes) };
        if (parts > 0) try device.launchFor("headwise_small_backward", dtype, shape, plan);
    } else if (parts > 0) {
        if (a.dx) |dx| try inputGradient(device, dtype, a, dx);
        try weightGradient(device, dtype, &plan, parts);
    }
    try norm.sumPartials(device, plan.weight_partial, a.dweight, parts, weights);
    try norm.sumPartials(device, plan.bias_partial, a.dbias, parts, a.blocks * a.outputs);
}

/// dx[r, h, i] = Σ_o dy[r, h, o]·w[h, o, i].
fn inputGradient(
    device: *Device,
    dtype: DType,
    a: *const args.HeadwiseBackward,
    dx: *anyopaque,
) Error!void {
    const plan: HeadwiseProduct = .{
        .a = a.dy,
        .b = a.weight,
        .c = dx,
        .bias = null,
        .sums = null,
        .m = a.rows,
        .n = a.inputs,
        .k = a.outputs,
        .blocks = a.blocks,
        .share = a.outputs,
        .a_block = a.outputs,
        .a_row = a.y_stride,
        .a_depth = 1,
        .b_block = a.outputs * a.inputs,
        .b_column = 1,
        .b_depth = a.inputs,
        .c_block = a.inputs,
        .c_row = a.dx_stride,
        .c_part = 0,
    };
    try device.launchFor("headwise_product", dtype, productShape(&plan, 1), plan);
}

/// Partials of dw[h, o, i] = Σ_r dy[r, h, o]·x[r, h, i] and dbias.
fn weightGradient(
    device: *Device,
    dtype: DType,
    back: *const HeadwiseBackwardPlan,
    parts: u64,
) Error!void {
    const a = &back.call;
    const plan: HeadwiseProduct = .{
        .a = a.dy,
        .b = a.x,
        .c = back.weight_partial.?,
        .bias = null,
        .sums = back.bias_partial,
        .m = a.outputs,
        .n = a.inputs,
        .k = a.rows,
        .blocks = a.blocks,
        .share = back.per_block,
        .a_block = a.outputs,
        .a_row = 1,
        .a_depth = a.y_stride,
        .b_block = a.inputs,
        .b_column = 1,
        .b_depth = a.x_stride,
        .c_block = a.outputs * a.inputs,
        .c_row = a.inputs,
        .c_part = a.blocks * a.outputs * a.inputs,
    };
    try device.launchFor("headwise_outer", dtype, productShape(&plan, parts), plan);
}
