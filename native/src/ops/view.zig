//! Views: another shape over the same memory. Only `reshape` of a strided view copies.

const std = @import("std");
const Context = @import("../runtime/context.zig").Context;
const tensors = @import("../runtime/tensor.zig");
const Tensor = tensors.Tensor;
const scratch = @import("../abi/scratch.zig");
const op = @import("call.zig");
const Call = op.Call;
const Error = op.Error;

/// Shape in scratch ints; the number of elements stays.
pub fn reshape(context: *Context, handle: i32, rank: i32) Error!void {
    var call = Call.begin(context, "reshape");
    defer call.end();
    const shape = try op.scratchShape(&call, rank, 0);
    var x = try call.view("x", handle);
    if (tensors.countOf(shape) != x.count()) return call.invalid(
        "cannot turn shape {f} ({d} elements) into {f} ({d} elements)",
        .{ op.show(x.dims()), x.count(), op.show(shape), tensors.countOf(shape) },
    );
    if (!x.isContiguous()) {
        const moved = try call.output(x.dtype, x.dims());
        try op.copyInto(context, x, moved);
        restride(&call.outputs[0], shape);
    } else {
        restride(&x, shape);
        call.outputView(x);
    }
    try call.commit();
}

fn restride(tensor: *Tensor, shape: []const usize) void {
    tensor.rank = shape.len;
    tensor.shape = @splat(1);
    @memcpy(tensor.shape[0..shape.len], shape);
    tensor.strides = tensors.rowMajor(shape);
}

/// Dim i of the result is dim order[i] of x; the order is in scratch ints.
pub fn permute(context: *Context, handle: i32, rank: i32) Error!void {
    var call = Call.begin(context, "permute");
    defer call.end();
    const x = try call.view("x", handle);
    if (rank != x.rank) return call.invalid(
        "{d} dims in the order for a tensor of shape {f}",
        .{ rank, op.show(x.dims()) },
    );
    var y = x;
    var seen: [tensors.max_rank]bool = @splat(false);
    for (scratch.block.ints[0..x.rank], 0..) |raw, i| {
        const dim = try op.resolveDim(&call, raw, x.rank);
        if (seen[dim]) return call.invalid("dim {d} appears twice in the order", .{dim});
        seen[dim] = true;
        y.shape[i] = x.shape[dim];
        y.strides[i] = x.strides[dim];
    }
    call.outputView(y);
    try call.commit();
}

/// Elements start, start + step, … below end of one dim.
pub fn slice(
    context: *Context,
    handle: i32,
    dim_raw: i32,
    start: i32,
    end: i32,
    step: i32,
) Error!void {
    var call = Call.begin(context, "slice");
    defer call.end();
    var x = try call.view("x", handle);
    const dim = try op.resolveDim(&call, dim_raw, x.rank);
    const size = x.shape[dim];
    if (start < 0 or end < start or end > size or step < 1) return call.invalid(
        "[{d}, {d}) step {d} does not lie in dim {d} of shape {f}",
        .{ start, end, step, dim, op.show(x.dims()) },
    );
    x.offset += @as(usize, @intCast(start)) * x.strides[dim];
    x.shape[dim] = std.math.divCeil(usize, @intCast(end - start), @intCast(step)) catch unreachable;
    x.strides[dim] *= @intCast(step);
    call.outputView(x);
    try call.commit();
}

/// Repeats dims of size 1 (and new leading dims) without copying; target shape in scratch ints.
pub fn expand(context: *Context, handle: i32, rank: i32) Error!void {
    var call = Call.begin(context, "expand");
    defer call.end();
    const shape = try op.scratchShape(&call, rank, 0);
    const x = try call.view("x", handle);
    const y = broadcast(x, shape) orelse return call.invalid(
        "cannot expand shape {f} to {f}: each dim must be equal or 1",
        .{ op.show(x.dims()), op.show(shape) },
    );
    call.outputView(y);
    try call.commit();
}

/// x seen in a larger shape, trailing dims aligned; null when they do not match.
pub fn broadcast(x: Tensor, shape: []const usize) ?Tensor {
    if (shape.len < x.rank) return null;
    var y = x;
    y.rank = shape.len;
    const lead = shape.len - x.rank;
    for (shape, 0..) |size, i| {
        y.shape[i] = size;
        if (i < lead) {
            y.strides[i] = 0;
            continue;
        }
        const own = x.shape[i - lead];
        if (own != size and own != 1) return null;
        y.strides[i] = if (own == size) x.strides[i - lead] else 0;
    }
    return y;
}

/// Concatenation along one dim of `count` tensors whose handles are in scratch ints.
pub fn concat(context: *Context, count: i32, dim_raw: i32) Error!void {
    var call = Call.begin(context, "concat");
    defer call.end();
    if (count < 1 or count > 256) return call.invalid("{d} tensors, expected 1 to 256", .{count});
    const list = scratch.block.ints[0..@intCast(count)];
    const first = try call.view("the first tensor", list[0]);
    const dim = try op.resolveDim(&call, dim_raw, first.rank);
    var shape = first.shape;
    shape[dim] = 0;
    for (list) |handle| {
        const x = try call.view("a tensor", handle);
        try call.expectDType("a tensor", x, first.dtype);
        var expected = x.shape;
        expected[dim] = first.shape[dim];
        const fits = x.rank == first.rank and
            std.mem.eql(usize, expected[0..x.rank], first.dims());
        if (!fits) return call.invalid(
            "shapes {f} and {f} differ outside of dim {d}",
            .{ op.show(first.dims()), op.show(x.dims()), dim },
        );
        shape[dim] += x.shape[dim];
    }
    const y = try call.output(first.dtype, shape[0..first.rank]);
    var part = y;
    for (list) |handle| {
        const x = try call.view("a tensor", handle);
        part.shape[dim] = x.shape[dim];
        if (x.count() > 0) try op.copyInto(context, x, part);
        part.offset += x.shape[dim] * y.strides[dim];
    }
    try call.commit();
}

/// Writes x into the view y in place, converting the dtype. Not recorded for gradients.
pub fn assign(context: *Context, target: i32, source: i32) Error!void {
    var call = Call.begin(context, "assign");
    defer call.end();
    const y = try call.view("target", target);
    const x = try call.view("source", source);
    const seen = broadcast(x, y.dims()) orelse return call.invalid(
        "cannot write shape {f} into shape {f}",
        .{ op.show(x.dims()), op.show(y.dims()) },
    );
    if (y.count() == 0) return;
    try op.copyInto(context, seen, y);
    try context.wrote(y);
}

/// A row-major copy in the given dtype (−1: the same).
pub fn copy(context: *Context, handle: i32, dtype_raw: i32) Error!void {
    var call = Call.begin(context, "copy");
    defer call.end();
    const x = try call.view("x", handle);
    const create = @import("create.zig");
    const dtype = if (dtype_raw < 0) x.dtype else try create.dtypeOf(&call, dtype_raw);
    const y = try call.output(dtype, x.dims());
    if (x.count() > 0) try op.copyInto(context, x, y);
    try call.commit();
}

/// Another handle on the same memory and shape.
pub fn alias(context: *Context, handle: i32) Error!void {
    var call = Call.begin(context, "alias");
    defer call.end();
    call.outputView(try call.view("x", handle));
    try call.commit();
}
