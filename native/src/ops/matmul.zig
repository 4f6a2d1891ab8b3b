//! Matrix products: broadcasting of batch dims, views by strides, and the call of the kernel.

const std = @import("std");
const Context = @import("../runtime/context.zig").Context;
const tensors = @import("../runtime/tensor.zig");
const Tensor = tensors.Tensor;
const DType = @import("../dtype.zig").DType;
const args = @import("../args.zig");
const scratch = @import("../abi/scratch.zig");
const create = @import("create.zig");
const view = @import("view.zig");
const op = @import("call.zig");
const Call = op.Call;
const Error = op.Error;

/// One operand as [batch, rows, columns].
const Matrix = struct {
    tensor: Tensor,
    batch: usize,
    rows: usize,
    columns: usize,
    batch_stride: usize,
    row_stride: usize,
    column_stride: usize,
};

/// The last two dims, exchanged when asked; leading dims must lie at one distance (else a copy).
fn matrixOf(call: *Call, given: Tensor, lead: []const usize, transpose: bool) Error!Matrix {
    var shape: [tensors.max_rank]usize = undefined;
    @memcpy(shape[0..lead.len], lead);
    shape[lead.len] = given.back(1);
    shape[lead.len + 1] = given.back(0);
    var x = view.broadcast(given, shape[0 .. lead.len + 2]) orelse return call.invalid(
        "shape {f} does not broadcast to batch dims {f}",
        .{ op.show(given.dims()), op.show(lead) },
    );
    var stride: usize = 0;
    if (!uniform(x, lead.len, &stride)) {
        x = try call.contiguous(given);
        x = view.broadcast(x, shape[0 .. lead.len + 2]).?;
        if (!uniform(x, lead.len, &stride)) {
            const copy = try call.temporary(given.dtype, shape[0 .. lead.len + 2]);
            try op.copyInto(call.context, x, copy);
            x = copy;
            stride = x.back(1) * x.back(0);
        }
    }
    const r = x.rank - 2;
    const c = x.rank - 1;
    const i = if (transpose) c else r;
    const j = if (transpose) r else c;
    return .{
        .tensor = x,
        .batch = tensors.countOf(lead),
        .rows = x.shape[i],
        .columns = x.shape[j],
        .batch_stride = stride,
        .row_stride = x.strides[i],
        .column_stride = x.strides[j],
    };
}

/// Whether the leading dims, taken together, step by one stride.
fn uniform(x: Tensor, lead: usize, stride: *usize) bool {
    var expected: ?usize = null;
    stride.* = 0;
    var i = lead;
    while (i > 0) {
        i -= 1;
        if (x.shape[i] == 1) continue;
        if (expected) |e| {
            if (x.strides[i] != e) return false;
        } else stride.* = x.strides[i];
        expected = x.strides[i] * x.shape[i];
    }
    return true;
}

fn expectOperand(call: *Call, comptime what: []const u8, x: Tensor) Error!void {
    try call.expectFloat(what, x);
    if (x.rank < 2) return call.invalid(
        what ++ " has shape {f}, expected at least two dims",
        .{op.show(x.dims())},
    );
}

/// a [.., M, K]·b [.., K, N] (+ bias [N]), each optionally transposed; a of one dim count more rows
/// than batches is fine: batch dims broadcast. `dtype_raw` is the result's dtype, −1 the wider one.
pub fn matmul(
    context: *Context,
    a_: i32,
    b_: i32,
    transpose_a: i32,
    transpose_b: i32,
    bias_: i32,
    dtype_raw: i32,
) Error!void {
    var call = Call.begin(context, "matmul");
    defer call.end();
    var a = try call.view("a", a_);
    const b = try call.view("b", b_);
    if (a.rank == 1 and b.rank == 2) a = asRow(a);
    try expectOperand(&call, "a", a);
    try expectOperand(&call, "b", b);
    const narrow = if (a.dtype == .f32) a.dtype else b.dtype;
    const wider = if (a.dtype == .f64 or b.dtype == .f64) DType.f64 else narrow;
    const dtype = if (dtype_raw < 0) wider else try create.dtypeOf(&call, dtype_raw);
    const A = try arithmeticOf(&call, a, b, dtype);
    // Rows of a contiguous-enough left operand join the batch when the right one is a plain matrix.
    const folded = if (b.rank == 2 and transpose_a == 0) foldRows(a) else null;
    var lead: [tensors.max_rank]usize = undefined;
    const batches = if (folded != null) 0 else try batchDims(&call, a, b, &lead);
    const left = try matrixOf(&call, folded orelse a, lead[0..batches], transpose_a != 0);
    const right = try matrixOf(&call, b, lead[0..batches], transpose_b != 0);
    if (left.columns != right.rows) return call.invalid(
        "shapes {f} and {f} do not multiply: {d} columns against {d} rows",
        .{ op.show(a.dims()), op.show(b.dims()), left.columns, right.rows },
    );
    const bias = try call.optionalAs("bias", bias_, A);
    if (bias) |t| try call.expectShape("bias", t, &.{right.columns});
    var shape: [tensors.max_rank]usize = undefined;
    var rank: usize = 0;
    if (folded != null) {
        const kept = (try call.view("a", a_)).rank - 1;
        @memcpy(shape[0..kept], (try call.view("a", a_)).dims()[0..kept]);
        rank = kept;
    } else {
        @memcpy(shape[0..batches], lead[0..batches]);
        shape[batches] = left.rows;
        rank = batches + 1;
    }
    shape[rank] = right.columns;
    const c = try call.output(dtype, shape[0 .. rank + 1]);
    try call.run("matmul", A, product(left, right, c.data(), dtype, bias, false));
    try call.commit();
}

fn asRow(x: Tensor) Tensor {
    var y = x;
    y.rank = 2;
    y.shape[1] = x.shape[0];
    y.strides[1] = x.strides[0];
    y.shape[0] = 1;
    y.strides[0] = 0;
    return y;
}

/// [.., M, K] seen as [.. × M, K], or null when the rows do not lie at one distance.
fn foldRows(a: Tensor) ?Tensor {
    var stride: usize = 0;
    if (!uniform(a, a.rank - 1, &stride)) return null;
    var y = a;
    y.rank = 2;
    y.shape[0] = tensors.countOf(a.dims()[0 .. a.rank - 1]);
    y.strides[0] = stride;
    y.shape[1] = a.back(0);
    y.strides[1] = a.strides[a.rank - 1];
    return y;
}

fn batchDims(call: *Call, a: Tensor, b: Tensor, out: *[tensors.max_rank]usize) Error!usize {
    const n = @max(a.rank, b.rank) - 2;
    for (0..n) |i| {
        const x = if (i + 2 < a.rank) a.back(i + 2) else 1;
        const y = if (i + 2 < b.rank) b.back(i + 2) else 1;
        if (x != y and x != 1 and y != 1) return call.invalid(
            "batch dims of {f} and {f} do not broadcast",
            .{ op.show(a.dims()), op.show(b.dims()) },
        );
        out[n - 1 - i] = if (x == 1) y else x;
    }
    return n;
}

/// f64 goes with f64 only; bf16 and f32 mix and accumulate in f32.
fn arithmeticOf(call: *Call, a: Tensor, b: Tensor, result: DType) Error!DType {
    const wide = [3]bool{ a.dtype == .f64, b.dtype == .f64, result == .f64 };
    if (wide[0] and wide[1] and wide[2]) return .f64;
    if (wide[0] or wide[1] or wide[2]) return call.invalid(
        "f64 multiplies with f64 only; got {t} and {t} for a {t} result",
        .{ a.dtype, b.dtype, result },
    );
    return .f32;
}

fn product(
    a: Matrix,
    b: Matrix,
    c: *anyopaque,
    dtype: DType,
    bias: ?Tensor,
    accumulate: bool,
) args.Args("matmul") {
    return .{
        .a = a.tensor.data(),
        .b = b.tensor.data(),
        .c = c,
        .bias = op.pointer(bias),
        .residual = null,
        .batch = a.batch,
        .m = a.rows,
        .n = b.columns,
        .k = a.columns,
        .a_batch_stride = a.batch_stride,
        .a_row_stride = a.row_stride,
        .a_column_stride = a.column_stride,
        .b_batch_stride = b.batch_stride,
        .b_row_stride = b.row_stride,
        .b_column_stride = b.column_stride,
        .c_batch_stride = a.rows * b.columns,
        .c_row_stride = b.columns,
        .alpha = 1,
        .a_dtype = @backingInt(a.tensor.dtype),
        .b_dtype = @backingInt(b.tensor.dtype),
        .c_dtype = @backingInt(dtype),
        .accumulate = @intFromBool(accumulate),
    };
}

fn rowsMatrix(call: *Call, given: Tensor, transpose: bool) Error!Matrix {
    const flat = foldRows(given) orelse foldRows(try call.contiguous(given)).?;
    return matrixOf(call, flat, &.{}, transpose);
}

/// dx = Σ dyᵢ·Wᵢ for `count` pairs (dyᵢ [.., Nᵢ], Wᵢ [Nᵢ, K]) whose handles are in scratch ints; in
/// the dtype and shape of x.
pub fn linearInputGradient(context: *Context, count: i32, x_: i32) Error!void {
    var call = Call.begin(context, "linear");
    defer call.end();
    if (count < 1 or count > 12) return call.invalid("{d} layers, expected 1 to 12", .{count});
    const n: usize = @intCast(count);
    const pairs = scratch.block.ints[0..24].*;
    const x = try call.view("x", x_);
    const A = op.arithmetic(x.dtype);
    const dx = try call.output(x.dtype, x.dims());
    // Sums of bf16 gradients are made in f32 and rounded once.
    const sum = if (x.dtype == A or n == 1) dx else try call.temporary(A, x.dims());
    for (0..n) |i| {
        const dy = try call.view("dy", pairs[2 * i]);
        const left = try rowsMatrix(&call, dy, false);
        const right = try matrixOf(&call, try call.view("weight", pairs[2 * i + 1]), &.{}, false);
        try call.run("matmul", A, product(left, right, sum.data(), sum.dtype, null, i > 0));
    }
    if (sum.block != dx.block) try op.copyInto(context, sum, dx);
    try call.commit();
}

/// dW [N, K] = Σ_rows dyᵀ·x.
pub fn linearWeightGradient(context: *Context, dy_: i32, x_: i32, dtype_raw: i32) Error!void {
    var call = Call.begin(context, "linear");
    defer call.end();
    const dtype = try create.dtypeOf(&call, dtype_raw);
    const left = try rowsMatrix(&call, try call.view("dy", dy_), true);
    const right = try rowsMatrix(&call, try call.view("x", x_), false);
    if (left.columns != right.rows) return call.invalid(
        "{d} rows of dy for {d} rows of x",
        .{ left.columns, right.rows },
    );
    const dw = try call.output(dtype, &.{ left.rows, right.columns });
    const A: DType = if (dtype == .f64) .f64 else .f32;
    try call.run("matmul", A, product(left, right, dw.data(), dtype, null, false));
    try call.commit();
}
