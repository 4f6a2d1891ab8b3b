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

const Term = args.matmul.Term;
const most_parts = args.matmul.most_parts;
/// Layers on one input.
const most_layers = 12;
/// Rows that a product streams its weight for: cpu/matmul_vector.zig.
const few_rows = 4;

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

/// The left operand of a sum in parts: its steps are contiguous.
fn stepwise(call: *Call, left: Matrix) Error!Matrix {
    if (left.column_stride == 1) return left;
    return rowsMatrix(call, try call.contiguous(left.tensor), false);
}

/// Steps [first, first + count) of a product.
fn termOf(left: Matrix, right: Matrix, first: usize, count: usize) Term {
    const size = left.tensor.dtype.size();
    return .{
        .a = at(left.tensor, first * size),
        .b = at(right.tensor, first * right.row_stride * size),
        .k = count,
        .a_row_stride = left.row_stride,
        .b_row_stride = right.row_stride,
        .b_column_stride = right.column_stride,
    };
}

/// Whether a sum is added in parts: not on GPUs nor by a BLAS, and with one dtype alone. A product
/// of few rows streams its weight instead.
fn inParts(call: *Call, parts: i32, left: Matrix, right: Matrix, dtype: DType) Error!bool {
    if (parts < 0 or parts > most_parts or (parts > 0 and !std.math.isPowerOfTwo(parts)))
        return call.invalid("{d} parts, expected a power of two up to {d}", .{ parts, most_parts });
    const context = call.context;
    if (parts == 0 or context.device != .cpu or context.blas != null) return false;
    if (left.rows <= few_rows) return false;
    const same = left.tensor.dtype == dtype and right.tensor.dtype == dtype;
    return same and (dtype == .f32 or dtype == .f64);
}

fn at(tensor: Tensor, bytes: usize) *const anyopaque {
    return @as([*]const u8, @ptrCast(tensor.data())) + bytes;
}

/// x Wᵀ (+ bias): x [.., K], weight [N, K]. The sum over K is made in `parts` runs whose order
/// ranks can share (args/matmul.zig `MatmulParts`); 0, and wherever that cannot be: as in `matmul`.
/// K is made of `count` segments, of which ranks have equal parts; scratch ints hold their widths.
pub fn linearInParts(
    context: *Context,
    x_: i32,
    weight_: i32,
    bias_: i32,
    parts: i32,
    count: i32,
) Error!void {
    var call = Call.begin(context, "linear");
    defer call.end();
    if (count < 1 or count > most_layers)
        return call.invalid("{d} segments, expected 1 to {d}", .{ count, most_layers });
    const widths = scratch.block.ints[0..most_layers].*;
    const x = try call.view("x", x_);
    const weight = try call.view("weight", weight_);
    const A = op.arithmetic(x.dtype);
    const left = try rowsMatrix(&call, x, false);
    const right = try matrixOf(&call, weight, &.{}, true);
    if (left.columns != right.rows) return call.invalid(
        "x has shape {f} and weight {f}: their last dims must agree",
        .{ op.show(x.dims()), op.show(weight.dims()) },
    );
    const bias = try call.optionalAs("bias", bias_, A);
    if (bias) |t| try call.expectShape("bias", t, &.{right.columns});
    var shape = x.shape;
    shape[x.rank - 1] = right.columns;
    const y = try call.output(x.dtype, shape[0..x.rank]);
    if (try inParts(&call, parts, left, right, x.dtype)) {
        const steps = try stepwise(&call, left);
        var terms: [most_layers]Term = undefined;
        const used = terms[0..@intCast(count)];
        var first: usize = 0;
        for (used, widths[0..used.len]) |*term, width| {
            const end = first + (std.math.cast(usize, width) orelse 0);
            term.* = termOf(steps, right, first, end - first);
            first = end;
        }
        if (first != left.columns) return call.invalid(
            "segments of {d} columns together, x has {d}",
            .{ first, left.columns },
        );
        try sumInParts(&call, used, left.rows, right.columns, y, bias, parts);
    } else {
        _ = try arithmeticOf(&call, x, weight, x.dtype);
        try call.run("matmul", A, product(left, right, y.data(), y.dtype, bias, false));
    }
    try call.commit();
}

fn sumInParts(
    call: *Call,
    terms: []const Term,
    rows: usize,
    columns: usize,
    y: Tensor,
    bias: ?Tensor,
    parts: i32,
) Error!void {
    try call.run("matmulParts", y.dtype, .{
        .terms = terms.ptr,
        .c = y.data(),
        .bias = op.pointer(bias),
        .count = terms.len,
        .m = rows,
        .n = columns,
        .parts = @intCast(parts),
    });
}

/// dx = Σ dyᵢ·Wᵢ for `count` pairs (dyᵢ [.., Nᵢ], Wᵢ [Nᵢ, K]) whose handles are in scratch ints; in
/// the dtype and shape of x. `parts`: as in `linearInParts`, of the sum over all Nᵢ.
pub fn linearInputGradient(context: *Context, count: i32, x_: i32, parts: i32) Error!void {
    var call = Call.begin(context, "linear");
    defer call.end();
    if (count < 1 or count > most_layers)
        return call.invalid("{d} layers, expected 1 to {d}", .{ count, most_layers });
    const n: usize = @intCast(count);
    const pairs = scratch.block.ints[0 .. 2 * most_layers].*;
    const x = try call.view("x", x_);
    const A = op.arithmetic(x.dtype);
    const dx = try call.output(x.dtype, x.dims());
    // Sums of bf16 gradients are made in f32 and rounded once.
    const sum = if (x.dtype == A or n == 1) dx else try call.temporary(A, x.dims());
    var lefts: [most_layers]Matrix = undefined;
    var rights: [most_layers]Matrix = undefined;
    var together = parts > 0;
    for (lefts[0..n], rights[0..n], 0..) |*left, *right, i| {
        left.* = try rowsMatrix(&call, try call.view("dy", pairs[2 * i]), false);
        right.* = try matrixOf(&call, try call.view("weight", pairs[2 * i + 1]), &.{}, false);
        together = try inParts(&call, parts, left.*, right.*, x.dtype) and together;
    }
    if (together) {
        var terms: [most_layers]Term = undefined;
        for (terms[0..n], lefts[0..n], rights[0..n]) |*term, left, right| {
            term.* = termOf(try stepwise(&call, left), right, 0, left.columns);
        }
        try sumInParts(&call, terms[0..n], lefts[0].rows, rights[0].columns, dx, null, parts);
        return call.commit();
    }
    for (lefts[0..n], rights[0..n], 0..) |left, right, i| {
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
