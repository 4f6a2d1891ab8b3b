//! Products with up to four rows on the left (decoding): B is streamed once, nothing is packed.
//!
//! B as [n, k] (weights [out, in]): every element of C is one dot product. B as [k, n]: blocks of
//! columns add a[k]·b[k, ·] in ascending k. Parallel over blocks of n.

const std = @import("std");
const simd = @import("simd.zig");
const dtype = @import("../dtype.zig");
const args = @import("../args/matmul.zig");
const pack = @import("matmul_pack.zig");
const Parallel = @import("../parallel.zig").Parallel;

pub const rows_max = 4;
const dot_block = 32;
const column_block = 128;

/// Whether the layout is one of the two; A's rows must be contiguous in the arithmetic type.
pub fn fits(comptime A: type, a: *const args.Matmul) bool {
    const left = a.a_column_stride == 1 and pack.same(A, a.a_dtype);
    return left and (a.b_row_stride == 1 or a.b_column_stride == 1) and a.k > 0;
}

pub fn run(
    comptime A: type,
    parallel: *const Parallel,
    a: *const args.Matmul,
) error{OutOfMemory}!void {
    if (pack.same(A, a.b_dtype)) return typed(A, A, parallel, a);
    if (A == f32) return typed(u16, A, parallel, a);
    unreachable;
}

fn typed(
    comptime S: type,
    comptime A: type,
    parallel: *const Parallel,
    a: *const args.Matmul,
) void {
    const dots = a.b_row_stride == 1;
    const block: usize = if (dots) dot_block else column_block;
    const blocks = std.math.divCeil(usize, a.n, block) catch unreachable;
    if (dots)
        parallel.each(a.batch * blocks, a, byDots(S, A))
    else
        parallel.each(a.batch * blocks, a, byColumns(S, A));
}

fn byDots(comptime S: type, comptime A: type) fn (*const args.Matmul, usize) void {
    return struct {
        fn body(a: *const args.Matmul, index: usize) void {
            const blocks = std.math.divCeil(usize, a.n, dot_block) catch unreachable;
            const entry = index / blocks;
            const first = index % blocks * dot_block;
            const left: [*]const A = @ptrCast(@alignCast(a.a));
            const right: [*]const S = @ptrCast(@alignCast(a.b));
            for (first..@min(first + dot_block, a.n)) |j| {
                const b = right + entry * a.b_batch_stride + j * a.b_column_stride;
                for (0..a.m) |i| {
                    const x = left + entry * a.a_batch_stride + i * a.a_row_stride;
                    finish(A, a, entry, i, j, mixedDot(S, A, x, b, a.k));
                }
            }
        }
    }.body;
}

/// Four chains of vectors hide the latency of the fused multiply-add; the order is fixed.
fn mixedDot(comptime S: type, comptime A: type, x: [*]const A, b: [*]const S, k: usize) A {
    const n = simd.reduce_lanes;
    const W = simd.Wide(A);
    var acc: [2]W = @splat(@splat(0));
    var i: usize = 0;
    while (i + 2 * n <= k) : (i += 2 * n) inline for (0..2) |c| {
        const at = i + c * n;
        acc[c] = simd.fma(W, simd.loadN(A, n, x + at), simd.loadN(S, n, b + at), acc[c]);
    };
    var total = simd.sum(n, A, acc[0] + acc[1]);
    while (i < k) : (i += 1) total = simd.fma(A, x[i], simd.get(S, b, i), total);
    return total;
}

fn byColumns(comptime S: type, comptime A: type) fn (*const args.Matmul, usize) void {
    return struct {
        fn body(a: *const args.Matmul, index: usize) void {
            const blocks = std.math.divCeil(usize, a.n, column_block) catch unreachable;
            const entry = index / blocks;
            const first = index % blocks * column_block;
            const count = @min(column_block, a.n - first);
            const left: [*]const A = @ptrCast(@alignCast(a.a));
            const right: [*]const S = @ptrCast(@alignCast(a.b));
            for (0..a.m) |i| {
                var sums: [column_block]A = @splat(0);
                const x = left + entry * a.a_batch_stride + i * a.a_row_stride;
                for (0..a.k) |k| {
                    const b = right + entry * a.b_batch_stride + k * a.b_row_stride + first;
                    simd.axpy(S, A, x[k], b, &sums, count);
                }
                for (sums[0..count], first..) |sum, j| finish(A, a, entry, i, j, sum);
            }
        }
    }.body;
}

inline fn finish(
    comptime A: type,
    a: *const args.Matmul,
    entry: usize,
    i: usize,
    j: usize,
    sum: A,
) void {
    const at = entry * a.c_batch_stride + i * a.c_row_stride + j;
    const c: [*]A = @ptrCast(@alignCast(a.c));
    const bias: ?[*]const A = @ptrCast(@alignCast(a.bias));
    const residual: ?[*]const A = @ptrCast(@alignCast(a.residual));
    var x = if (a.alpha == 1) sum else sum * @as(A, @floatCast(a.alpha));
    if (a.accumulate != 0) x = c[at] + x;
    if (bias) |values| x += values[j];
    if (residual) |values| x += values[at];
    c[at] = x;
}
