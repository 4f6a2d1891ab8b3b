//! Element-wise operations, copies, reductions: checks, broadcasting, and the call of the kernel.

const std = @import("std");
const Context = @import("../runtime/context.zig").Context;
const tensors = @import("../runtime/tensor.zig");
const Tensor = tensors.Tensor;
const scratch = @import("../abi/scratch.zig");
const args = @import("../args.zig");
const kinds = @import("../args/elementwise.zig");
const view = @import("view.zig");
const op = @import("call.zig");
const Call = op.Call;
const Error = op.Error;

/// Strides or sizes as the argument structs hold them.
pub fn wide(values: [tensors.max_rank]usize) kinds.Dims {
    var out: kinds.Dims = undefined;
    for (values, &out) |value, *to| to.* = value;
    return out;
}

pub fn fillCopy(a: *args.Args("copy"), from: Tensor, to: Tensor) void {
    a.* = .{
        .from = from.data(),
        .to = to.data(),
        .shape = wide(to.shape),
        .from_strides = wide(from.strides),
        .to_strides = wide(to.strides),
        .rank = to.rank,
        .from_dtype = from.dtype,
        .to_dtype = to.dtype,
    };
}

pub fn fillFill(a: *args.Args("fill"), y: Tensor, value: f64) void {
    a.* = .{ .y = y.data(), .count = y.count(), .value = value, .dtype = y.dtype };
}

pub fn fillArange(a: *args.Args("arange"), y: Tensor, start: f64, step: f64) void {
    a.* = .{ .y = y.data(), .count = y.count(), .start = start, .step = step, .dtype = y.dtype };
}

fn kind(call: *Call, comptime E: type, raw: i32) Error!E {
    if (raw >= 0) if (std.enums.fromInt(E, @as(u32, @intCast(raw)))) |found| return found;
    return call.invalid("operation code {d} does not exist", .{raw});
}

pub fn unary(context: *Context, handle: i32, code: i32, parameter: f64) Error!void {
    var call = Call.begin(context, "unary");
    defer call.end();
    const which = try kind(&call, kinds.Unary, code);
    call.name = @tagName(which);
    const x = try call.view("x", handle);
    try call.expectFloat("x", x);
    const y = try call.outputLike(x);
    if (x.count() > 0) try call.run("unary", x.dtype, .{
        .x = x.data(),
        .y = y.data(),
        .shape = wide(x.shape),
        .x_strides = wide(x.strides),
        .rank = x.rank,
        .parameter = parameter,
        .op = which,
    });
    try call.commit();
}

/// `saved` is x, y or 0, by `Unary.saved`.
pub fn unaryBackward(
    context: *Context,
    dy_: i32,
    saved_: i32,
    code: i32,
    parameter: f64,
) Error!void {
    var call = Call.begin(context, "unaryBackward");
    defer call.end();
    const which = try kind(&call, kinds.Unary, code);
    const dy = try call.input("dy", dy_);
    try call.expectFloat("dy", dy);
    const saved = try call.optionalAs("saved", saved_, dy.dtype);
    if (which.saved() != .nothing) {
        const kept = saved orelse return call.invalid("{t} needs its saved tensor", .{which});
        try call.expectShape("saved", kept, dy.dims());
    }
    const dx = try call.outputLike(dy);
    if (dy.count() > 0) try call.run("unaryBackward", dy.dtype, .{
        .dy = dy.data(),
        .saved = op.pointer(saved),
        .dx = dx.data(),
        .count = dy.count(),
        .parameter = parameter,
        .op = which,
    });
    try call.commit();
}

pub fn binary(context: *Context, a_: i32, b_: i32, code: i32) Error!void {
    var call = Call.begin(context, "binary");
    defer call.end();
    const which = try kind(&call, kinds.Binary, code);
    call.name = @tagName(which);
    var a = try call.view("a", a_);
    var b = try call.view("b", b_);
    try call.expectFloat("a", a);
    try call.expectFloat("b", b);
    if (a.dtype != b.dtype) return call.invalid(
        "a is {t} and b is {t}; cast one of them",
        .{ a.dtype, b.dtype },
    );
    var shape: [tensors.max_rank]usize = undefined;
    const rank = try broadcastShape(&call, a, b, &shape);
    a = view.broadcast(a, shape[0..rank]).?;
    b = view.broadcast(b, shape[0..rank]).?;
    const y = try call.output(a.dtype, shape[0..rank]);
    if (y.count() > 0) try call.run("binary", a.dtype, .{
        .a = a.data(),
        .b = b.data(),
        .y = y.data(),
        .shape = wide(y.shape),
        .a_strides = wide(a.strides),
        .b_strides = wide(b.strides),
        .rank = rank,
        .op = which,
    });
    try call.commit();
}

fn broadcastShape(call: *Call, a: Tensor, b: Tensor, shape: *[tensors.max_rank]usize) Error!usize {
    const rank = @max(a.rank, b.rank);
    for (0..rank) |i| {
        const x = if (i < a.rank) a.back(i) else 1;
        const y = if (i < b.rank) b.back(i) else 1;
        if (x != y and x != 1 and y != 1) return call.invalid(
            "shapes {f} and {f} do not broadcast: dims {d} and {d} differ",
            .{ op.show(a.dims()), op.show(b.dims()), x, y },
        );
        shape[rank - 1 - i] = if (x == 1) y else x;
    }
    return rank;
}

/// mask ≠ 0 ? a : b, all broadcast to one shape.
pub fn where(context: *Context, mask_: i32, a_: i32, b_: i32) Error!void {
    var call = Call.begin(context, "where");
    defer call.end();
    const mask = try call.view("mask", mask_);
    const a = try call.view("a", a_);
    const b = try call.view("b", b_);
    try call.expectDType("mask", mask, .u8);
    try call.expectFloat("a", a);
    try call.expectDType("b", b, a.dtype);
    var shape: [tensors.max_rank]usize = undefined;
    var rank = try broadcastShape(&call, a, b, &shape);
    var joined = a;
    joined.rank = rank;
    @memcpy(joined.shape[0..rank], shape[0..rank]);
    rank = try broadcastShape(&call, joined, mask, &shape);
    const full = shape[0..rank];
    const y = try call.output(a.dtype, full);
    if (y.count() > 0) try call.run("where", a.dtype, .{
        .mask = mask.data(),
        .a = a.data(),
        .b = b.data(),
        .y = y.data(),
        .shape = wide(y.shape),
        .mask_strides = wide(view.broadcast(mask, full).?.strides),
        .a_strides = wide(view.broadcast(a, full).?.strides),
        .b_strides = wide(view.broadcast(b, full).?.strides),
        .rank = rank,
    });
    try call.commit();
}

/// Over `count` dims listed in scratch ints (0: all of them). `keep` leaves them with size 1.
pub fn reduce(context: *Context, handle: i32, code: i32, count: i32, keep: i32) Error!void {
    var call = Call.begin(context, "reduce");
    defer call.end();
    const which = try kind(&call, kinds.Reduction, code);
    call.name = @tagName(which);
    const x = try call.view("x", handle);
    try call.expectFloat("x", x);
    var over: [tensors.max_rank]bool = @splat(count == 0);
    if (count < 0 or count > x.rank) return call.invalid(
        "{d} dims of shape {f}",
        .{ count, op.show(x.dims()) },
    );
    for (scratch.block.ints[0..@intCast(count)]) |raw| over[
        try op.resolveDim(
            &call,
            raw,
            x.rank,
        )
    ] = true;
    const y = try call.output(x.dtype, reducedShape(x, over, keep != 0).slice());
    try reduceInto(&call, x, over, which, y);
    try call.commit();
}

const Sizes = struct {
    list: [tensors.max_rank]usize = undefined,
    len: usize = 0,

    fn push(sizes: *Sizes, size: usize) void {
        sizes.list[sizes.len] = size;
        sizes.len += 1;
    }

    fn slice(sizes: *const Sizes) []const usize {
        return sizes.list[0..sizes.len];
    }
};

fn reducedShape(x: Tensor, over: [tensors.max_rank]bool, keep: bool) Sizes {
    var sizes: Sizes = .{};
    for (x.dims(), over[0..x.rank]) |size, gone| {
        if (!gone) sizes.push(size) else if (keep) sizes.push(1);
    }
    return sizes;
}

fn reduceInto(
    call: *Call,
    x: Tensor,
    over: [tensors.max_rank]bool,
    which: kinds.Reduction,
    y: Tensor,
) Error!void {
    if (y.count() == 0) return;
    var a: args.Args("reduce") = .{
        .x = x.data(),
        .y = y.data(),
        .kept_shape = @splat(1),
        .kept_strides = @splat(0),
        .reduced_shape = @splat(1),
        .reduced_strides = @splat(0),
        .kept_rank = 0,
        .reduced_rank = 0,
        .op = which,
        .wide = 0,
    };
    for (x.dims(), x.steps(), over[0..x.rank]) |size, stride, gone| {
        if (gone) {
            a.reduced_shape[a.reduced_rank] = size;
            a.reduced_strides[a.reduced_rank] = stride;
            a.reduced_rank += 1;
        } else {
            a.kept_shape[a.kept_rank] = size;
            a.kept_strides[a.kept_rank] = stride;
            a.kept_rank += 1;
        }
    }
    try call.run("reduce", x.dtype, a);
}

/// Sum over the dims that broadcasting added or repeated; target shape in scratch ints.
pub fn sumTo(context: *Context, handle: i32, rank: i32) Error!void {
    var call = Call.begin(context, "sumTo");
    defer call.end();
    const shape = try op.scratchShape(&call, rank, 0);
    const x = try call.view("x", handle);
    try call.expectFloat("x", x);
    if (shape.len > x.rank) return call.invalid(
        "shape {f} has more dims than {f}",
        .{ op.show(shape), op.show(x.dims()) },
    );
    var over: [tensors.max_rank]bool = @splat(false);
    const lead = x.rank - shape.len;
    for (x.dims(), 0..) |size, i| {
        if (i < lead) {
            over[i] = true;
            continue;
        }
        const wanted = shape[i - lead];
        if (wanted != size and wanted != 1) return call.invalid(
            "shape {f} was not broadcast to {f}",
            .{ op.show(shape), op.show(x.dims()) },
        );
        over[i] = wanted == 1 and size != 1;
    }
    const y = try call.output(x.dtype, shape);
    try reduceInto(&call, x, over, .sum, y);
    try call.commit();
}

/// act(gate) ⊙ up; rows may lie apart, so halves of one matrix need no copy.
pub fn gatedActivation(context: *Context, gate_: i32, up_: i32, code: i32) Error!void {
    var call = Call.begin(context, "gatedActivation");
    defer call.end();
    const which = try kind(&call, kinds.Unary, code);
    const gate = try rowsOf(&call, try call.view("gate", gate_));
    const up = try rowsOf(&call, try call.view("up", up_));
    try call.expectFloat("gate", gate.tensor);
    try call.expectDType("up", up.tensor, gate.tensor.dtype);
    try call.expectShape("up", up.tensor, gate.tensor.dims());
    const y = try call.outputLike(gate.tensor);
    if (y.count() > 0) try call.run("gatedActivationForward", y.dtype, .{
        .gate = gate.tensor.data(),
        .up = up.tensor.data(),
        .y = y.data(),
        .rows = gate.rows,
        .width = gate.width,
        .gate_stride = gate.stride,
        .up_stride = up.stride,
        .op = which,
    });
    try call.commit();
}

pub fn gatedActivationBackward(
    context: *Context,
    dy_: i32,
    gate_: i32,
    up_: i32,
    code: i32,
) Error!void {
    var call = Call.begin(context, "gatedActivationBackward");
    defer call.end();
    const which = try kind(&call, kinds.Unary, code);
    const gate = try rowsOf(&call, try call.view("gate", gate_));
    const up = try rowsOf(&call, try call.view("up", up_));
    try call.expectFloat("gate", gate.tensor);
    const dy = try call.inputAs("dy", dy_, gate.tensor.dtype);
    try call.expectShape("up", up.tensor, gate.tensor.dims());
    try call.expectShape("dy", dy, gate.tensor.dims());
    const dgate = try call.outputLike(gate.tensor);
    const dup = try call.outputLike(gate.tensor);
    if (dy.count() > 0) try call.run("gatedActivationBackward", dy.dtype, .{
        .dy = dy.data(),
        .gate = gate.tensor.data(),
        .up = up.tensor.data(),
        .dgate = dgate.data(),
        .dup = dup.data(),
        .rows = gate.rows,
        .width = gate.width,
        .gate_stride = gate.stride,
        .up_stride = up.stride,
        .dgate_stride = gate.width,
        .dup_stride = gate.width,
        .op = which,
    });
    try call.commit();
}

pub const Rows = struct { tensor: Tensor, rows: usize, width: usize, stride: usize };

/// The tensor as rows of its last dim at one distance; copied when it cannot be seen that way.
pub fn rowsOf(call: *Call, given: Tensor) Error!Rows {
    const tensor = if (evenRows(given)) given else try call.contiguous(given);
    const width = if (tensor.rank == 0) 1 else tensor.back(0);
    var stride = width;
    var i = tensor.rank -| 1;
    while (i > 0) : (i -= 1) if (tensor.shape[i - 1] > 1) {
        stride = tensor.strides[i - 1];
        break;
    };
    return .{
        .tensor = tensor,
        .rows = if (width == 0) 0 else tensor.count() / width,
        .width = width,
        .stride = stride,
    };
}

fn evenRows(tensor: Tensor) bool {
    if (tensor.rank == 0) return true;
    const last = tensor.rank - 1;
    if (tensor.shape[last] > 1 and tensor.strides[last] != 1) return false;
    var expected: ?usize = null;
    var i = last;
    while (i > 0) : (i -= 1) {
        const size = tensor.shape[i - 1];
        if (size == 1) continue;
        if (expected) |step| if (tensor.strides[i - 1] != step) return false;
        expected = (expected orelse tensor.strides[i - 1]) * size;
    }
    return true;
}

/// Sums of squares of `count` tensors whose handles are in scratch ints: an f64 tensor [count + 1,
/// 2]
/// of (Σx², non-finite elements) per tensor, and the totals in the last row.
pub fn globalSumSquares(context: *Context, count: i32) Error!void {
    var call = Call.begin(context, "globalSumSquares");
    defer call.end();
    if (count < 1 or count > scratch.block.ints.len)
        return call.invalid("{d} tensors, expected 1 to {d}", .{ count, scratch.block.ints.len });
    const n: usize = @intCast(count);
    var addresses: [scratch.block.ints.len]*const anyopaque = undefined;
    var counts: [scratch.block.ints.len]u64 = undefined;
    const first = try call.view("a tensor", scratch.block.ints[0]);
    for (scratch.block.ints[0..n], 0..) |handle, i| {
        const x = try call.view("a tensor", handle);
        try call.expectDType("a tensor", x, first.dtype);
        if (!x.isContiguous()) return call.invalid(
            "tensor {d} is a strided view; copy it first",
            .{i},
        );
        addresses[i] = x.data();
        counts[i] = x.count();
    }
    const out = try call.output(.f64, &.{ n + 1, 2 });
    try call.run("globalSumSquares", first.dtype, .{
        .data = &addresses,
        .counts = &counts,
        .out = out.data(),
        .tensors = n,
    });
    try call.commit();
}
