//! CUDA launches of args/elementwise.zig but the reductions (reduce.zig).

const std = @import("std");
const args = @import("../args/elementwise.zig");
const view = @import("view.zig");
const DType = @import("../dtype.zig").DType;
const Device = @import("device.zig").Device;
const Shape = @import("device.zig").Shape;
const Error = @import("../abi/status.zig").Error;
const Walk = view.Walk;

const threads = 256;

pub const UnaryPlan = extern struct {
    walk: Walk,
    x: *const anyopaque,
    y: *anyopaque,
    parameter: f64,
    op: args.Unary,
};

pub const UnaryBackwardPlan = extern struct {
    walk: Walk,
    dy: *const anyopaque,
    saved: ?*const anyopaque,
    dx: *anyopaque,
    parameter: f64,
    op: args.Unary,
};

pub const BinaryPlan = extern struct {
    walk: Walk,
    a: *const anyopaque,
    b: *const anyopaque,
    y: *anyopaque,
    op: args.Binary,
};

pub const WherePlan = extern struct {
    walk: Walk,
    mask: *const anyopaque,
    a: *const anyopaque,
    b: *const anyopaque,
    y: *anyopaque,
};

pub const CopyPlan = extern struct { walk: Walk, from: *const anyopaque, to: *anyopaque };

/// `rows` are contiguous in the source, `columns` in the destination; `outer` holds the other dims.
pub const TransposePlan = extern struct {
    outer: Walk,
    from: *const anyopaque,
    to: *anyopaque,
    rows: u64,
    columns: u64,
    from_column_stride: u64,
    to_row_stride: u64,
};

pub const plans = .{
    .{ "Walk", Walk },
    .{ "UnaryPlan", UnaryPlan },
    .{ "UnaryBackwardPlan", UnaryBackwardPlan },
    .{ "BinaryPlan", BinaryPlan },
    .{ "WherePlan", WherePlan },
    .{ "CopyPlan", CopyPlan },
    .{ "TransposePlan", TransposePlan },
};

pub fn unary(device: *Device, dtype: DType, a: *const args.UnaryForward) Error!void {
    const bytes = dtype.size();
    var walk: Walk = .init(a.rank, &a.shape, &.{&a.x_strides});
    walk.widen(view.packWidth(dtype), &.{.{ .address = a.x, .bytes = bytes }}, .{
        .address = a.y,
        .bytes = bytes,
    });
    return device.launchFor("unary", dtype, shapeOf(device, walk.units()), UnaryPlan{
        .walk = walk,
        .x = a.x,
        .y = a.y,
        .parameter = a.parameter,
        .op = a.op,
    });
}

pub fn unaryBackward(device: *Device, dtype: DType, a: *const args.UnaryBackward) Error!void {
    const bytes = dtype.size();
    const size: args.Dims = .{a.count} ++ @as([7]u64, @splat(1));
    const step: args.Dims = .{1} ++ @as([7]u64, @splat(0));
    var walk: Walk = .init(1, &size, &.{ &step, &step });
    walk.widen(view.packWidth(dtype), &.{
        .{ .address = a.dy, .bytes = bytes },
        .{ .address = a.saved orelse a.dy, .bytes = bytes },
    }, .{ .address = a.dx, .bytes = bytes });
    const shape = shapeOf(device, walk.units());
    return device.launchFor("unary_backward", dtype, shape, UnaryBackwardPlan{
        .walk = walk,
        .dy = a.dy,
        .saved = a.saved,
        .dx = a.dx,
        .parameter = a.parameter,
        .op = a.op,
    });
}

pub fn binary(device: *Device, dtype: DType, a: *const args.BinaryForward) Error!void {
    const bytes = dtype.size();
    var walk: Walk = .init(a.rank, &a.shape, &.{ &a.a_strides, &a.b_strides });
    walk.widen(view.packWidth(dtype), &.{
        .{ .address = a.a, .bytes = bytes },
        .{ .address = a.b, .bytes = bytes },
    }, .{ .address = a.y, .bytes = bytes });
    return device.launchFor("binary", dtype, shapeOf(device, walk.units()), BinaryPlan{
        .walk = walk,
        .a = a.a,
        .b = a.b,
        .y = a.y,
        .op = a.op,
    });
}

pub fn where(device: *Device, dtype: DType, a: *const args.Where) Error!void {
    const bytes = dtype.size();
    var walk: Walk = .init(a.rank, &a.shape, &.{ &a.mask_strides, &a.a_strides, &a.b_strides });
    walk.widen(view.packWidth(dtype), &.{
        .{ .address = a.mask, .bytes = 1 },
        .{ .address = a.a, .bytes = bytes },
        .{ .address = a.b, .bytes = bytes },
    }, .{ .address = a.y, .bytes = bytes });
    return device.launchFor("where", dtype, shapeOf(device, walk.units()), WherePlan{
        .walk = walk,
        .mask = a.mask,
        .a = a.a,
        .b = a.b,
        .y = a.y,
    });
}

pub fn gatedActivationForward(
    device: *Device,
    dtype: DType,
    a: *const args.GatedActivationForward,
) Error!void {
    return device.launchFor("gated_forward", dtype, rowsOf(device, dtype, a.rows, a.width), a.*);
}

pub fn gatedActivationBackward(
    device: *Device,
    dtype: DType,
    a: *const args.GatedActivationBackward,
) Error!void {
    return device.launchFor("gated_backward", dtype, rowsOf(device, dtype, a.rows, a.width), a.*);
}

/// `dtype` is ignored: both types are in the arguments.
pub fn copy(device: *Device, dtype: DType, a: *const args.Copy) Error!void {
    _ = dtype;
    const bytes = .{ a.from_dtype.size(), a.to_dtype.size() };
    var walk = inOrderOfDestination(a);
    if (transposedDim(&walk)) |dim| if (try transpose(device, a, &walk, dim)) return;
    walk.widen(16 / @max(bytes[0], bytes[1]), &.{
        .{ .address = a.from, .bytes = bytes[0] },
        .{ .address = a.to, .bytes = bytes[1] },
    }, null);
    const shape = shapeOf(device, walk.units());
    const plan: CopyPlan = .{ .walk = walk, .from = a.from, .to = a.to };
    switch (a.from_dtype) {
        inline else => |from| switch (a.to_dtype) {
            inline else => |to| return device.launch(
                "copy_" ++ @tagName(from) ++ "_" ++ @tagName(to),
                shape,
                plan,
            ),
        },
    }
}

/// The destination's largest stride first; where it repeats nothing that is its memory order.
fn inOrderOfDestination(a: *const args.Copy) Walk {
    var order: [args.max_rank]usize = .{ 0, 1, 2, 3, 4, 5, 6, 7 };
    std.sort.insertion(usize, order[0..a.rank], a, struct {
        fn before(arguments: *const args.Copy, x: usize, y: usize) bool {
            return arguments.to_strides[x] > arguments.to_strides[y];
        }
    }.before);
    var shape: args.Dims = @splat(1);
    var from: args.Dims = @splat(0);
    var to: args.Dims = @splat(0);
    for (order[0..a.rank], 0..) |dim, i| {
        shape[i] = a.shape[dim];
        from[i] = a.from_strides[dim];
        to[i] = a.to_strides[dim];
    }
    return .init(a.rank, &shape, &.{ &from, &to });
}

/// The dim along which the source is contiguous while the destination's last dim is not it.
fn transposedDim(walk: *const Walk) ?usize {
    const last = walk.rank - 1;
    if (walk.stride(1, last) != 1 or walk.stride(0, last) <= 1) return null;
    for (0..last) |dim| {
        if (walk.stride(0, dim) == 1 and walk.shape[dim] >= 8) return dim;
    }
    return null;
}

/// By tiles; false where no such kernel exists for the two types.
fn transpose(device: *Device, a: *const args.Copy, walk: *const Walk, dim: usize) Error!bool {
    const last = walk.rank - 1;
    var shape: args.Dims = @splat(1);
    var from: args.Dims = @splat(0);
    var to: args.Dims = @splat(0);
    for (0..last) |i| if (i != dim) {
        shape[i] = walk.shape[i];
        from[i] = walk.stride(0, i);
        to[i] = walk.stride(1, i);
    };
    const plan: TransposePlan = .{
        .outer = .init(last, &shape, &.{ &from, &to }),
        .from = a.from,
        .to = a.to,
        .rows = walk.shape[dim],
        .columns = walk.inner(),
        .from_column_stride = walk.stride(0, last),
        .to_row_stride = walk.stride(1, dim),
    };
    const tiles = plan.outer.count * ((plan.rows + 31) / 32) * ((plan.columns + 31) / 32);
    const grid: Shape = .{ .x = device.blocks(tiles, 1), .threads = threads };
    if (a.from_dtype == a.to_dtype) switch (a.from_dtype.size()) {
        1 => try device.launch("transpose_1", grid, plan),
        2 => try device.launch("transpose_2", grid, plan),
        4 => try device.launch("transpose_4", grid, plan),
        else => try device.launch("transpose_8", grid, plan),
    } else if (a.from_dtype == .f32 and a.to_dtype == .bf16) {
        try device.launch("transpose_f32_bf16", grid, plan);
    } else if (a.from_dtype == .bf16 and a.to_dtype == .f32) {
        try device.launch("transpose_bf16_f32", grid, plan);
    } else return false;
    return true;
}

pub fn fill(device: *Device, dtype: DType, a: *const args.Fill) Error!void {
    _ = dtype;
    const shape = shapeOf(device, a.count / view.packWidth(a.dtype) + 1);
    switch (a.dtype) {
        inline else => |to| return device.launch("fill_" ++ @tagName(to), shape, a.*),
    }
}

pub fn arange(device: *Device, dtype: DType, a: *const args.Arange) Error!void {
    _ = dtype;
    const shape = shapeOf(device, a.count / view.packWidth(a.dtype) + 1);
    switch (a.dtype) {
        inline else => |to| return device.launch("arange_" ++ @tagName(to), shape, a.*),
    }
}

fn shapeOf(device: *const Device, units: u64) Shape {
    return .{ .x = device.blocks(units, threads), .threads = threads };
}

fn rowsOf(device: *const Device, dtype: DType, rows: u64, width: u64) Shape {
    return shapeOf(device, rows * width / view.packWidth(dtype) + 1);
}
