//! y[r, h, o] = Σ_i w[h, o, i]·x[r, h, i] (+ b): block-diagonal linear maps. models.md §2.4.
//!
//! Blocks of 4 × 4 (the paper layer's q, k, v) are vectors over outputs: each lane takes input i of
//! its own block by a shuffle. Other sizes are batches of matrix products, one per block.

const std = @import("std");
const simd = @import("simd.zig");
const dtype = @import("../dtype.zig");
const args = @import("../args/conv.zig");
const Product = @import("../args/matmul.zig").Matmul;
const matmul = @import("matmul.zig").matmul;
const Parallel = @import("../parallel.zig").Parallel;

const Failure = error{OutOfMemory};
const row_block = 64;
const small = 4;

fn code(comptime S: type) i32 {
    return @backingInt(switch (S) {
        f32 => dtype.DType.f32,
        f64 => dtype.DType.f64,
        u16 => dtype.DType.bf16,
        else => @compileError("no dtype"),
    });
}

fn isSmall(inputs: u64, outputs: u64, blocks: u64) bool {
    return inputs == small and outputs == small and blocks % 4 == 0;
}

/// w[h, o, i] → table[i][h·4 + o], or with `back` table[o][h·4 + i].
fn table(comptime A: type, parallel: *const Parallel, weight: [*]const A, blocks: usize, back: bool) Failure![*]const A {
    const width = blocks * small;
    const out = try parallel.alloc(A, small * width);
    for (0..blocks) |h| for (0..small) |o| for (0..small) |i| {
        const w = weight[(h * small + o) * small + i];
        if (back) out[o * width + h * small + i] = w else out[i * width + h * small + o] = w;
    };
    return out.ptr;
}

/// Lane l takes element `pick` of its own group of four.
inline fn spread(comptime n: comptime_int, comptime A: type, comptime pick: comptime_int, v: @Vector(n, A)) @Vector(n, A) {
    comptime var mask: [n]i32 = undefined;
    inline for (0..n) |lane| mask[lane] = lane / small * small + pick;
    return @shuffle(A, v, undefined, mask);
}

/// Vectors of at least one block.
fn vectorWidth(comptime A: type) comptime_int {
    return @max(simd.lanes(A), small);
}

fn Map(comptime S: type) type {
    const A = simd.Arithmetic(S);
    return struct {
        x: [*]const S,
        y: [*]S,
        weights: [*]const A, // [4, width]
        bias: ?[*]const A,
        rows: usize,
        width: usize,
        x_stride: usize,
        y_stride: usize,

        fn body(m: @This(), index: usize) void {
            const n = vectorWidth(A);
            const V = @Vector(n, A);
            for (index * row_block..@min((index + 1) * row_block, m.rows)) |r| {
                const x = m.x + r * m.x_stride;
                const y = m.y + r * m.y_stride;
                var c: usize = 0;
                while (c < m.width) : (c += n) {
                    const v = simd.loadN(S, n, x + c);
                    var sum: V = if (m.bias) |b| simd.loadN(A, n, b + c) else @splat(0);
                    inline for (0..small) |i| {
                        const w = simd.loadN(A, n, m.weights + i * m.width + c);
                        sum = simd.fma(V, w, spread(n, A, i, v), sum);
                    }
                    simd.storeN(S, n, y + c, sum);
                }
            }
        }

        fn run(m: @This(), parallel: *const Parallel) void {
            parallel.each(std.math.divCeil(usize, m.rows, row_block) catch unreachable, m, body);
        }
    };
}

pub fn headwiseForward(comptime S: type, parallel: *const Parallel, a: *const args.HeadwiseForward) Failure!void {
    const A = simd.Arithmetic(S);
    const weight: [*]const A = @ptrCast(@alignCast(a.weight));
    const bias: ?[*]const A = @ptrCast(@alignCast(a.bias));
    if (isSmall(a.inputs, a.outputs, a.blocks)) {
        const map: Map(S) = .{
            .x = @ptrCast(@alignCast(a.x)),
            .y = @ptrCast(@alignCast(a.y)),
            .weights = try table(A, parallel, weight, a.blocks, false),
            .bias = bias,
            .rows = a.rows,
            .width = a.blocks * small,
            .x_stride = a.x_stride,
            .y_stride = a.y_stride,
        };
        return map.run(parallel);
    }
    // Without a bias the blocks are one batch; each block has a bias of its own otherwise.
    const batch = if (bias == null) a.blocks else 1;
    for (0..a.blocks / batch) |h| {
        const x: [*]const S = @ptrCast(@alignCast(a.x));
        const y: [*]S = @ptrCast(@alignCast(a.y));
        try product(S, parallel, .{
            .a = x + h * a.inputs,
            .b = weight + h * a.inputs * a.outputs,
            .c = y + h * a.outputs,
            .bias = if (bias) |b| b + h * a.outputs else null,
            .batch = batch,
            .m = a.rows,
            .n = a.outputs,
            .k = a.inputs,
            .a_strides = .{ a.inputs, a.x_stride, 1 },
            .b_strides = .{ a.inputs * a.outputs, 1, a.inputs },
            .c_strides = .{ a.outputs, a.y_stride },
            .a_dtype = code(S),
            .b_dtype = code(A),
            .c_dtype = code(S),
        });
    }
}

const Spec = struct {
    a: *const anyopaque,
    b: *const anyopaque,
    c: *anyopaque,
    bias: ?*const anyopaque,
    batch: usize,
    m: usize,
    n: usize,
    k: usize,
    a_strides: [3]usize, // batch, row, column
    b_strides: [3]usize,
    c_strides: [2]usize, // batch, row
    a_dtype: i32,
    b_dtype: i32,
    c_dtype: i32,
};

fn product(comptime S: type, parallel: *const Parallel, s: Spec) Failure!void {
    const p: Product = .{
        .a = s.a,
        .b = s.b,
        .c = s.c,
        .bias = s.bias,
        .residual = null,
        .batch = s.batch,
        .m = s.m,
        .n = s.n,
        .k = s.k,
        .a_batch_stride = s.a_strides[0],
        .a_row_stride = s.a_strides[1],
        .a_column_stride = s.a_strides[2],
        .b_batch_stride = s.b_strides[0],
        .b_row_stride = s.b_strides[1],
        .b_column_stride = s.b_strides[2],
        .c_batch_stride = s.c_strides[0],
        .c_row_stride = s.c_strides[1],
        .alpha = 1,
        .a_dtype = s.a_dtype,
        .b_dtype = s.b_dtype,
        .c_dtype = s.c_dtype,
        .accumulate = 0,
    };
    return matmul(simd.Arithmetic(S), parallel, &p);
}

pub fn headwiseBackward(comptime S: type, parallel: *const Parallel, a: *const args.HeadwiseBackward) Failure!void {
    const A = simd.Arithmetic(S);
    const weight: [*]const A = @ptrCast(@alignCast(a.weight));
    if (a.dbias) |dbias| biasGradient(S, a, @ptrCast(@alignCast(dbias)));
    if (isSmall(a.inputs, a.outputs, a.blocks)) {
        if (a.dx) |dx| {
            const map: Map(S) = .{
                .x = @ptrCast(@alignCast(a.dy)),
                .y = @ptrCast(@alignCast(dx)),
                .weights = try table(A, parallel, weight, a.blocks, true),
                .bias = null,
                .rows = a.rows,
                .width = a.blocks * small,
                .x_stride = a.y_stride,
                .y_stride = a.dx_stride,
            };
            map.run(parallel);
        }
        return weightGradient(S, parallel, a);
    }
    if (a.dx) |dx| try product(S, parallel, .{
        .a = a.dy,
        .b = a.weight,
        .c = dx,
        .bias = null,
        .batch = a.blocks,
        .m = a.rows,
        .n = a.inputs,
        .k = a.outputs,
        .a_strides = .{ a.outputs, a.y_stride, 1 },
        .b_strides = .{ a.inputs * a.outputs, a.inputs, 1 },
        .c_strides = .{ a.inputs, a.dx_stride },
        .a_dtype = code(S),
        .b_dtype = code(A),
        .c_dtype = code(S),
    });
    try product(S, parallel, .{
        .a = a.dy,
        .b = a.x,
        .c = a.dweight,
        .bias = null,
        .batch = a.blocks,
        .m = a.outputs,
        .n = a.inputs,
        .k = a.rows,
        .a_strides = .{ a.outputs, 1, a.y_stride },
        .b_strides = .{ a.inputs, a.x_stride, 1 },
        .c_strides = .{ a.inputs * a.outputs, a.inputs },
        .a_dtype = code(S),
        .b_dtype = code(S),
        .c_dtype = code(A),
    });
}

fn biasGradient(comptime S: type, a: *const args.HeadwiseBackward, dbias: [*]simd.Arithmetic(S)) void {
    const A = simd.Arithmetic(S);
    const dy: [*]const S = @ptrCast(@alignCast(a.dy));
    const count = a.blocks * a.outputs;
    @memset(dbias[0..count], 0);
    for (0..a.rows) |r| simd.axpy(S, A, 1, dy + r * a.y_stride, dbias, count);
}

/// Small blocks: dw[h, o, i] over blocks of rows, added in block order.
fn weightGradient(comptime S: type, parallel: *const Parallel, a: *const args.HeadwiseBackward) Failure!void {
    const A = simd.Arithmetic(S);
    const total = a.blocks * small;
    const parts = std.math.divCeil(usize, a.rows, row_block) catch unreachable;
    const Job = struct { a: *const args.HeadwiseBackward, partial: [*]A };
    const partial = try parallel.alloc(A, @max(parts, 1) * small * total);
    @memset(partial[0 .. small * total], 0);
    parallel.each(parts, Job{ .a = a, .partial = partial.ptr }, struct {
        fn body(j: Job, index: usize) void {
            const n = vectorWidth(A);
            const V = @Vector(n, A);
            const all = j.a.blocks * small;
            const x: [*]const S = @ptrCast(@alignCast(j.a.x));
            const dy: [*]const S = @ptrCast(@alignCast(j.a.dy));
            const out = j.partial + index * small * all;
            var c: usize = 0;
            while (c < all) : (c += n) {
                var sums: [small]V = @splat(@splat(0));
                for (index * row_block..@min((index + 1) * row_block, j.a.rows)) |r| {
                    const v = simd.loadN(S, n, x + r * j.a.x_stride + c);
                    const g = simd.loadN(S, n, dy + r * j.a.y_stride + c);
                    inline for (0..small) |i| sums[i] = simd.fma(V, g, spread(n, A, i, v), sums[i]);
                }
                inline for (0..small) |i| simd.storeN(A, n, out + i * all + c, sums[i]);
            }
        }
    }.body);
    for (1..@max(parts, 1)) |part| simd.axpy(A, A, 1, partial.ptr + part * small * total, partial.ptr, small * total);
    const dweight: [*]A = @ptrCast(@alignCast(a.dweight));
    for (0..a.blocks) |h| for (0..small) |o| for (0..small) |i| {
        dweight[(h * small + o) * small + i] = partial[i * total + h * small + o];
    };
}
