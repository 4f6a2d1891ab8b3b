//! Reading and adding rows by index, arg-max, top-k: checks and the call of the kernel.

const Context = @import("../runtime/context.zig").Context;
const Tensor = @import("../runtime/tensor.zig").Tensor;
const cuda = @import("../cuda/index.zig");
const create = @import("create.zig");
const op = @import("call.zig");
const Call = op.Call;
const Error = op.Error;

/// i32 indices, all within [0, limit).
pub fn indices(call: *Call, comptime what: []const u8, handle: i32, limit: usize) Error!Tensor {
    const ids = try call.input(what, handle);
    try call.expectDType(what, ids, .i32);
    try checkRange(call, what, ids, null, null, limit);
    return ids;
}

/// `indices` of rows that a kernel writes to. On a GPU, which reports late, −1 stands for those
/// outside.
pub fn guarded(call: *Call, comptime what: []const u8, handle: i32, limit: usize) Error!Tensor {
    if (call.context.device == .cpu) return indices(call, what, handle, limit);
    const ids = try call.input(what, handle);
    try call.expectDType(what, ids, .i32);
    if (ids.count() == 0) return ids;
    const kept = try call.temporary(.i32, ids.dims());
    var unused: i32 = 0;
    cuda.guard(call.context.gpu.?, &.{
        .ids = ids.data(),
        .mask = null,
        .weights = null,
        .low = &unused,
        .high = &unused,
        .count = ids.count(),
        .limit = limit,
    }, kept.data()) catch |err| return call.context.explained(err, call.name);
    return kept;
}

/// `indices` that the forward pass has checked: a GPU, where that takes launches of its own, does
/// not look again. For kernels that leave out what lies outside.
fn seen(call: *Call, comptime what: []const u8, handle: i32, limit: usize) Error!Tensor {
    if (call.context.device == .cpu) return indices(call, what, handle, limit);
    const ids = try call.input(what, handle);
    try call.expectDType(what, ids, .i32);
    return ids;
}

/// Throws when a valid id lies outside [0, limit).
pub fn checkRange(
    call: *Call,
    comptime what: []const u8,
    ids: Tensor,
    mask: ?Tensor,
    weights: ?Tensor,
    limit: usize,
) Error!void {
    if (ids.count() == 0) return;
    var low: i32 = 0;
    var high: i32 = -1;
    try call.run("rangeCheck", if (weights) |w| w.dtype else .f32, .{
        .ids = ids.data(),
        .mask = op.pointer(mask),
        .weights = op.pointer(weights),
        .low = &low,
        .high = &high,
        .count = ids.count(),
        .limit = limit,
    });
    if (low < 0) return call.invalid(
        what ++ " contains {d}, expected 0 to {d}",
        .{ low, limit -| 1 },
    );
    if (high >= limit) return call.invalid(
        what ++ " contains {d}, expected 0 to {d}",
        .{ high, limit -| 1 },
    );
}

/// table [V, D], ids i32 [..] → [.., D] in `dtype`.
pub fn embedding(context: *Context, table_: i32, ids_: i32, dtype_raw: i32) Error!void {
    var call = Call.begin(context, "embedding");
    defer call.end();
    const table = try call.input("table", table_);
    try call.expectRank("table", table, 2);
    try call.expectFloat("table", table);
    const dtype = try create.dtypeOf(&call, dtype_raw);
    if (dtype != table.dtype and op.arithmetic(dtype) != table.dtype)
        return call.invalid("a {t} table cannot give {t} rows", .{ table.dtype, dtype });
    const ids = try indices(&call, "ids", ids_, table.shape[0]);
    if (ids.rank > 7) return call.invalid("ids have {d} dims, at most 7", .{ids.rank});
    var shape = ids.shape;
    shape[ids.rank] = table.shape[1];
    const y = try call.output(dtype, shape[0 .. ids.rank + 1]);
    if (y.count() > 0) try call.run("embeddingForward", dtype, .{
        .table = table.data(),
        .ids = ids.data(),
        .y = y.data(),
        .rows = ids.count(),
        .vocab = table.shape[0],
        .width = table.shape[1],
        .table_dtype = @backingInt(table.dtype),
    });
    try call.commit();
}

/// dtable [vocab, D] in A, zero where no id points.
pub fn embeddingBackward(context: *Context, dy_: i32, ids_: i32, vocab: i32) Error!void {
    var call = Call.begin(context, "embeddingBackward");
    defer call.end();
    const dy = try call.input("dy", dy_);
    try call.expectFloat("dy", dy);
    if (vocab < 1 or dy.rank < 1) return call.invalid("a vocabulary of {d}", .{vocab});
    const ids = try seen(&call, "ids", ids_, @intCast(vocab));
    const width = dy.back(0);
    if (ids.count() * width != dy.count()) return call.invalid(
        "dy has shape {f} for ids of shape {f}",
        .{ op.show(dy.dims()), op.show(ids.dims()) },
    );
    const dtable = try call.output(op.arithmetic(dy.dtype), &.{ @intCast(vocab), width });
    try clearSums(&call, dy, dtable);
    if (dy.count() > 0) try call.run("embeddingBackward", dy.dtype, .{
        .dy = dy.data(),
        .ids = ids.data(),
        .dtable = dtable.data(),
        .rows = ids.count(),
        .vocab = @intCast(vocab),
        .width = width,
    });
    try call.commit();
}

/// Zeros, where the kernel adds to what is there: on a GPU it writes every row.
fn clearSums(call: *Call, dy: Tensor, sums: Tensor) Error!void {
    if (dy.count() > 0 and call.context.device != .cpu) return;
    try create.fillWith(call.context, sums, 0);
}

const Split = struct { outer: usize, count: usize, inner: usize, dim: usize };

fn splitAt(call: *Call, x: Tensor, dim_raw: i32) Error!Split {
    const dim = try op.resolveDim(call, dim_raw, x.rank);
    var s: Split = .{ .outer = 1, .count = x.shape[dim], .inner = 1, .dim = dim };
    for (x.shape[0..dim]) |size| s.outer *= size;
    for (x.shape[dim + 1 .. x.rank]) |size| s.inner *= size;
    return s;
}

/// x at the given positions of one dim.
pub fn indexSelect(context: *Context, x_: i32, ids_: i32, dim: i32) Error!void {
    var call = Call.begin(context, "indexSelect");
    defer call.end();
    const x = try call.input("x", x_);
    const s = try splitAt(&call, x, dim);
    const ids = try indices(&call, "indices", ids_, s.count);
    var shape = x.shape;
    shape[s.dim] = ids.count();
    const y = try call.output(x.dtype, shape[0..x.rank]);
    const column: @TypeOf(x.dtype) = switch (x.dtype) {
        .i32 => .f32,
        .f16 => .bf16,
        .u8 => return call.unsupported("u8 tensors; cast to i32 first", .{}),
        else => x.dtype,
    };
    if (y.count() > 0) try call.run("indexSelect", column, .{
        .x = x.data(),
        .indices = ids.data(),
        .y = y.data(),
        .outer = s.outer,
        .count = s.count,
        .selected = ids.count(),
        .inner = s.inner,
    });
    try call.commit();
}

/// The gradient of `indexSelect`: dim `dim` of the result has `count` positions, in A.
pub fn indexAdd(context: *Context, dy_: i32, ids_: i32, dim: i32, count: i32) Error!void {
    var call = Call.begin(context, "indexAdd");
    defer call.end();
    const dy = try call.input("dy", dy_);
    try call.expectFloat("dy", dy);
    const s = try splitAt(&call, dy, dim);
    if (count < 0) return call.invalid("{d} positions", .{count});
    const ids = try indices(&call, "indices", ids_, @intCast(count));
    if (ids.count() != s.count) return call.invalid(
        "{d} indices for dim {d} of shape {f}",
        .{ ids.count(), s.dim, op.show(dy.dims()) },
    );
    var shape = dy.shape;
    shape[s.dim] = @intCast(count);
    const dx = try call.output(op.arithmetic(dy.dtype), shape[0..dy.rank]);
    try clearSums(&call, dy, dx);
    if (dy.count() > 0) try call.run("indexAdd", dy.dtype, .{
        .dy = dy.data(),
        .indices = ids.data(),
        .dx = dx.data(),
        .outer = s.outer,
        .count = @intCast(count),
        .selected = s.count,
        .inner = s.inner,
    });
    try call.commit();
}

/// y[.., j] = x[.., indices[.., j]] along the last dim.
pub fn takeAlong(context: *Context, x_: i32, ids_: i32) Error!void {
    var call = Call.begin(context, "takeAlong");
    defer call.end();
    const x = try call.input("x", x_);
    try call.expectFloat("x", x);
    const width = if (x.rank > 0) x.back(0) else 0;
    const ids = try indices(&call, "indices", ids_, width);
    const picks = if (ids.rank > 0) ids.back(0) else 0;
    if (picks == 0 or width == 0 or x.count() / width != ids.count() / picks) return call.invalid(
        "indices of shape {f} do not go along the last dim of shape {f}",
        .{ op.show(ids.dims()), op.show(x.dims()) },
    );
    const y = try call.output(x.dtype, ids.dims());
    try call.run("takeAlong", x.dtype, .{
        .x = x.data(),
        .indices = ids.data(),
        .y = y.data(),
        .rows = x.count() / width,
        .width = width,
        .picks = picks,
    });
    try call.commit();
}

/// Gradient of `takeAlong` for a last dim of `width`, in A.
pub fn takeAlongBackward(context: *Context, dy_: i32, ids_: i32, width: i32) Error!void {
    var call = Call.begin(context, "takeAlongBackward");
    defer call.end();
    const dy = try call.input("dy", dy_);
    try call.expectFloat("dy", dy);
    if (width < 1 or dy.rank < 1) return call.invalid("a width of {d}", .{width});
    const ids = try indices(&call, "indices", ids_, @intCast(width));
    try call.expectShape("dy", dy, ids.dims());
    var shape = dy.shape;
    shape[dy.rank - 1] = @intCast(width);
    const dx = try call.output(op.arithmetic(dy.dtype), shape[0..dy.rank]);
    if (dx.count() > 0) try call.run("takeAlongBackward", dy.dtype, .{
        .dy = dy.data(),
        .indices = ids.data(),
        .dx = dx.data(),
        .rows = dy.count() / dy.back(0),
        .width = @intCast(width),
        .picks = dy.back(0),
    });
    try call.commit();
}

fn lastDim(call: *Call, x: Tensor) Error!usize {
    try call.expectFloat("x", x);
    if (x.rank < 1 or x.back(0) == 0) return call.invalid(
        "shape {f} has no elements along its last dim",
        .{op.show(x.dims())},
    );
    return x.back(0);
}

/// Outputs: indices i32 and values of the largest element along the last dim.
pub fn argmax(context: *Context, x_: i32) Error!void {
    var call = Call.begin(context, "argmax");
    defer call.end();
    const x = try call.input("x", x_);
    const width = try lastDim(&call, x);
    const shape = x.dims()[0 .. x.rank - 1];
    const ids = try call.output(.i32, shape);
    const values = try call.output(x.dtype, shape);
    if (x.count() > 0) try call.run("argmax", x.dtype, .{
        .x = x.data(),
        .indices = ids.data(),
        .values = values.data(),
        .rows = x.count() / width,
        .width = width,
    });
    try call.commit();
}

/// Outputs: values and indices i32 of the k largest along the last dim, descending.
pub fn topK(context: *Context, x_: i32, k: i32) Error!void {
    var call = Call.begin(context, "topK");
    defer call.end();
    const x = try call.input("x", x_);
    const width = try lastDim(&call, x);
    if (k < 1 or k > width) return call.invalid(
        "k is {d}, expected 1 to {d} for shape {f}",
        .{ k, width, op.show(x.dims()) },
    );
    var shape = x.shape;
    shape[x.rank - 1] = @intCast(k);
    const values = try call.output(x.dtype, shape[0..x.rank]);
    const ids = try call.output(.i32, shape[0..x.rank]);
    if (x.count() > 0) try call.run("topK", x.dtype, .{
        .x = x.data(),
        .values = values.data(),
        .indices = ids.data(),
        .rows = x.count() / width,
        .width = width,
        .k = @intCast(k),
    });
    try call.commit();
}
