//! What the norm and softmax kernels share: 16 lanes along a row with a padded tail, statistics of
//! a row, and parameter gradients that are collected per fixed block of rows.
//!
//! All of these kernels work in registers of 16 lanes, since nearly every loop also reduces.

const std = @import("std");
const simd = @import("simd.zig");
const Parallel = @import("../parallel.zig").Parallel;

pub const lanes = simd.reduce_lanes;

/// Elements i … i + 15 of a row of n; zeros past its end.
pub inline fn load(
    comptime S: type,
    x: [*]const S,
    i: usize,
    n: usize,
) simd.Wide(simd.Arithmetic(S)) {
    if (i + lanes <= n) return simd.loadN(S, lanes, x + i);
    var padded: [lanes]S = @splat(0);
    @memcpy(padded[0 .. n - i], x[i..n]);
    return simd.loadN(S, lanes, &padded);
}

pub inline fn store(
    comptime S: type,
    y: [*]S,
    i: usize,
    n: usize,
    v: simd.Wide(simd.Arithmetic(S)),
) void {
    if (i + lanes <= n) return simd.storeN(S, lanes, y + i, v);
    var padded: [lanes]S = undefined;
    simd.storeN(S, lanes, &padded, v);
    @memcpy(y[i..n], padded[0 .. n - i]);
}

/// v with zeros past the end of the row.
pub inline fn masked(comptime A: type, v: simd.Wide(A), i: usize, n: usize) simd.Wide(A) {
    if (i + lanes <= n) return v;
    const index = std.simd.iota(u32, lanes);
    const inside = index < @as(@Vector(lanes, u32), @splat(@intCast(n - i)));
    return @select(A, inside, v, @as(simd.Wide(A), @splat(0)));
}

pub fn Statistics(comptime A: type) type {
    return struct { mean: A, rstd: A };
}

/// Two passes: the mean (0 without `center`), then the biased variance around it.
pub fn statistics(
    comptime S: type,
    x: [*]const S,
    n: usize,
    eps: f64,
    center: bool,
) Statistics(simd.Arithmetic(S)) {
    const A = simd.Arithmetic(S);
    const W = simd.Wide(A);
    const width: A = @floatFromInt(n);
    var mean: A = 0;
    var i: usize = 0;
    if (center) {
        var total: W = @splat(0);
        while (i < n) : (i += lanes) total += load(S, x, i, n);
        mean = simd.sum(lanes, A, total) / width;
    }
    var squares: W = @splat(0);
    i = 0;
    while (i < n) : (i += lanes) {
        const d = masked(A, load(S, x, i, n) - @as(W, @splat(mean)), i, n);
        squares = simd.fma(W, d, d, squares);
    }
    const variance = simd.sum(lanes, A, squares) / width;
    return .{ .mean = mean, .rstd = 1 / @sqrt(variance + @as(A, @floatCast(eps))) };
}

/// g = scale + offset, or 1.
pub inline fn gain(
    comptime A: type,
    scale: ?[*]const A,
    i: usize,
    n: usize,
    offset: f64,
) simd.Wide(A) {
    const W = simd.Wide(A);
    const s = scale orelse return @splat(1);
    return load(A, s, i, n) + @as(W, @splat(@as(A, @floatCast(offset))));
}

pub inline fn many(comptime T: type, pointer: *const anyopaque) [*]const T {
    return @ptrCast(@alignCast(pointer));
}

pub inline fn manyMut(comptime T: type, pointer: *anyopaque) [*]T {
    return @ptrCast(@alignCast(pointer));
}

pub inline fn maybe(comptime T: type, pointer: ?*const anyopaque, at: usize) ?[*]const T {
    return if (pointer) |p| many(T, p) + at else null;
}

pub inline fn maybeMut(comptime T: type, pointer: ?*anyopaque, at: usize) ?[*]T {
    return if (pointer) |p| manyMut(T, p) + at else null;
}

/// Rows of one task, from the shape only: about 16 K elements, at most 64 tasks.
pub fn rowsPerBlock(rows: usize, row_elements: usize) usize {
    return @max(1, @divCeil(16 * 1024, @max(1, row_elements)), @divCeil(rows, 64));
}

/// Rows of one task of a kernel that collects nothing: about 16 K elements.
pub fn rowsPerTask(row_elements: usize) usize {
    return @max(1, 16 * 1024 / @max(1, row_elements));
}

/// Sums over rows in f64: first inside each block of rows, then over the blocks in order. They may
/// nearly cancel, as the gradient of a scale does that few elements share.
pub fn Collected(comptime A: type) type {
    return struct {
        const Self = @This();
        partial: [*]f64, // [blocks, columns]
        blocks: usize,
        columns: usize,
        out: [*]A,

        /// Null when the sum is not wanted.
        pub fn init(
            parallel: *const Parallel,
            out: ?*anyopaque,
            blocks: usize,
            columns: usize,
        ) error{OutOfMemory}!?Self {
            const target = out orelse return null;
            const partial = try parallel.alloc(f64, blocks * columns);
            return .{
                .partial = partial.ptr,
                .blocks = blocks,
                .columns = columns,
                .out = manyMut(A, target),
            };
        }

        /// The block's sums, set to zero.
        pub fn begin(self: *const Self, block: usize) [*]f64 {
            const sums = self.partial + block * self.columns;
            @memset(sums[0..self.columns], 0);
            return sums;
        }

        const strip = 512;

        pub fn finish(self: *const Self, parallel: *const Parallel) void {
            parallel.each(@divCeil(self.columns, strip), self, finishStrip);
        }

        fn finishStrip(self: *const Self, index: usize) void {
            const D = simd.Wide(f64);
            const high = @min(self.columns, (index + 1) * strip);
            var i = index * strip;
            while (i < high) : (i += lanes) {
                var total: D = @splat(0);
                for (0..self.blocks) |block| {
                    total += load(f64, self.partial + block * self.columns, i, high);
                }
                const rounded: simd.Wide(A) = @floatCast(total);
                store(A, self.out, i, high, rounded);
            }
        }
    };
}

/// sums[i …] += v.
pub inline fn collect(comptime A: type, sums: [*]f64, i: usize, n: usize, v: simd.Wide(A)) void {
    const term: simd.Wide(f64) = v;
    store(f64, sums, i, n, load(f64, sums, i, n) + term);
}
