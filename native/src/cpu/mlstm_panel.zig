//! Panel matrices: the operands of the small products inside the mLSTM kernels.
//!
//! A matrix [rows, columns] lies as [ceil(columns/16)][rows][16], columns beyond the last are
//! zeros. So any operand serves as right factor (a vector of 16 columns per step), as left factor,
//! and as transposed left factor, without being copied again.
//!
//! acc[r, 0..16] += Σ_k a[r, k]·b[k, 0..16], k in order: every element has the same bits for any
//! tile height and register width (with fused multiply-add).

const std = @import("std");
const builtin = @import("builtin");
const simd = @import("simd.zig");
const Wide = simd.Wide;

pub const width = simd.reduce_lanes;

const registers = if (builtin.cpu.has(.x86, .avx512f)) 32 else 16;

/// Rows of a register tile: its sums fill the register file but for the operands.
pub fn tileRows(comptime A: type) comptime_int {
    const vectors = width / simd.lanes(A);
    return @max(1, @min(12, (registers - 4) / vectors));
}

pub fn count(columns: usize) usize {
    return (columns + width - 1) / width;
}

/// Elements of a panel matrix.
pub fn size(rows: usize, columns: usize) usize {
    return count(columns) * rows * width;
}

/// How the left factor is read.
pub const Side = enum {
    /// a[r, k]: row r of the tile lies r·16 elements on, every 16 steps lie in the next panel.
    rows,
    /// aᵀ: row r of the tile is column r of one panel.
    columns,
};

/// acc += a·b over `depth` steps. `a` points at the tile's first row (or column, at the first
/// step); `span` is the distance of the left factor's panels; `b` points at one panel's first step.
pub inline fn multiply(
    comptime A: type,
    comptime side: Side,
    comptime rows: comptime_int,
    acc: *[rows]Wide(A),
    a: [*]const A,
    span: usize,
    b: [*]const A,
    depth: usize,
) void {
    var sums = acc.*;
    if (side == .columns) {
        for (0..depth) |k| step(A, rows, 1, &sums, a + k * width, b + k * width);
    } else {
        var from = a;
        var right = b;
        const whole = depth / width;
        for (0..whole) |_| {
            for (0..width) |k| step(A, rows, width, &sums, from + k, right + k * width);
            from += span;
            right += width * width;
        }
        for (0..depth - whole * width) |k| {
            step(A, rows, width, &sums, from + k, right + k * width);
        }
    }
    acc.* = sums;
}

inline fn step(
    comptime A: type,
    comptime rows: comptime_int,
    comptime distance: comptime_int,
    sums: *[rows]Wide(A),
    a: [*]const A,
    b: [*]const A,
) void {
    const right = simd.loadN(A, width, b);
    inline for (0..rows) |r| {
        const factor: Wide(A) = @splat(a[r * distance]);
        sums[r] = simd.fma(Wide(A), factor, right, sums[r]);
    }
}

/// Calls `context.tile(rows, first)` for register tiles that cover rows from `first` to `end`.
pub inline fn tiles(comptime A: type, first: usize, end: usize, context: anytype) void {
    @setEvalBranchQuota(20_000);
    const highest = tileRows(A);
    var at = first;
    while (at + highest <= end) : (at += highest) context.tile(highest, at);
    inline for (1..highest) |rows| if (end - at == rows) context.tile(rows, at);
}

/// The same where rows of the tile are columns of panels, which a tile must not cross; `first` is a
/// multiple of 16.
pub inline fn columnTiles(comptime A: type, first: usize, end: usize, context: anytype) void {
    var at = first;
    while (at < end) : (at += width) tiles(A, at, @min(end, at + width), context);
}

/// Where rows (or columns, for `.columns`) of the left factor begin.
pub inline fn left(
    comptime A: type,
    comptime side: Side,
    a: [*]const A,
    rows: usize,
    first: usize,
) [*]const A {
    if (side == .rows) return a + first * width;
    return a + first / width * rows * width + first % width;
}

/// Copies [rows, columns] with the given row distance into panels; row r is multiplied by scale[r].
pub fn pack(
    comptime S: type,
    from: [*]const S,
    distance: usize,
    rows: usize,
    columns: usize,
    scale: ?[*]const simd.Arithmetic(S),
    to: [*]simd.Arithmetic(S),
) void {
    const A = simd.Arithmetic(S);
    var out = to;
    for (0..count(columns)) |panel| {
        const left_over = columns - panel * width;
        for (0..rows) |r| {
            const p = from + r * distance + panel * width;
            var x = if (left_over >= width) simd.loadN(S, width, p) else loadPart(S, p, left_over);
            if (scale) |factors| x *= @as(Wide(A), @splat(factors[r]));
            simd.storeN(A, width, out, x);
            out += width;
        }
    }
}

/// Rows of a row-major matrix from panels.
pub fn unpack(
    comptime A: type,
    from: [*]const A,
    rows: usize,
    columns: usize,
    to: [*]A,
) void {
    for (0..count(columns)) |panel| for (0..rows) |r| {
        const x = simd.loadN(A, width, from + (panel * rows + r) * width);
        storePart(A, to + r * columns + panel * width, columns - panel * width, x);
    };
}

/// Transposes [rows, columns] into panels of `to_rows` rows: to[c, r] = from[r, c]. Rows that fill
/// up the last panel become zeros.
pub fn transpose(
    comptime S: type,
    from: [*]const S,
    distance: usize,
    rows: usize,
    columns: usize,
    to: [*]simd.Arithmetic(S),
    to_rows: usize,
) void {
    const A = simd.Arithmetic(S);
    const n = simd.lanes(A);
    var r: usize = 0;
    while (r < rows) : (r += n) {
        const out = to + r / width * to_rows * width + r % width;
        var c: usize = 0;
        if (r + n <= rows) while (c + n <= columns) : (c += n) {
            var block: [n]@Vector(n, A) = undefined;
            inline for (0..n) |i| block[i] = simd.loadN(S, n, from + (r + i) * distance + c);
            transposeBlock(A, n, &block);
            inline for (0..n) |i| simd.storeN(A, n, out + (c + i) * width, block[i]);
        };
        while (c < columns) : (c += 1) for (0..@min(n, rows - r)) |i| {
            out[c * width + i] = simd.get(S, from + (r + i) * distance, c);
        };
    }
    const filled = rows % width;
    if (filled == 0) return;
    const last = to + rows / width * to_rows * width;
    for (0..columns) |c| @memset(last[c * width + filled .. (c + 1) * width], 0);
}

/// Transposes a square of registers: at each stage blocks of half the size change places.
inline fn transposeBlock(comptime A: type, comptime n: comptime_int, x: *[n]@Vector(n, A)) void {
    comptime var half = n / 2;
    inline while (half >= 1) : (half /= 2) {
        comptime var low: [n]i32 = undefined;
        comptime var high: [n]i32 = undefined;
        comptime for (0..n) |lane| {
            const moved = lane & half != 0;
            low[lane] = if (moved) ~@as(i32, lane - half) else lane;
            high[lane] = if (moved) ~@as(i32, lane) else lane + half;
        };
        inline for (0..n) |i| if (i & half == 0) {
            const upper = x[i];
            const lower = x[i + half];
            x[i] = @shuffle(A, upper, lower, low);
            x[i + half] = @shuffle(A, upper, lower, high);
        };
    }
}

/// The first `left_over` < 16 elements; the rest reads 0.
pub inline fn loadPart(comptime S: type, p: [*]const S, left_over: usize) Wide(simd.Arithmetic(S)) {
    var out: [width]simd.Arithmetic(S) = @splat(0);
    for (0..left_over) |lane| out[lane] = simd.get(S, p, lane);
    return out;
}

/// Stores the first `left_over` elements, at most 16.
pub inline fn storePart(
    comptime S: type,
    p: [*]S,
    left_over: usize,
    x: Wide(simd.Arithmetic(S)),
) void {
    if (left_over >= width) return simd.storeN(S, width, p, x);
    const values: [width]simd.Arithmetic(S) = x;
    for (0..left_over) |lane| simd.put(S, p, lane, values[lane]);
}

/// Σ x·y of `length` elements, a multiple of 16, in a fixed order.
pub fn dot(comptime A: type, x: [*]const A, y: [*]const A, length: usize) A {
    var sums: Wide(A) = @splat(0);
    var i: usize = 0;
    while (i < length) : (i += width) {
        const right = simd.loadN(A, width, y + i);
        sums = simd.fma(Wide(A), simd.loadN(A, width, x + i), right, sums);
    }
    return simd.sum(width, A, sums);
}

test "packing, unpacking and transposing any shape" {
    var from: [40 * 37]f32 = undefined;
    for (&from, 0..) |*x, i| x.* = @floatFromInt(i + 1);
    var panels: [48 * 48]f32 = undefined;
    var back: [40 * 37]f32 = undefined;
    for ([_]usize{ 1, 7, 8, 16, 17, 33, 37 }) |columns| for ([_]usize{ 1, 8, 13, 16, 40 }) |rows| {
        @memset(&panels, std.math.nan(f32));
        pack(f32, &from, 37, rows, columns, null, &panels);
        unpack(f32, &panels, rows, columns, &back);
        for (0..rows) |r| for (0..columns) |c| {
            try std.testing.expectEqual(from[r * 37 + c], back[r * columns + c]);
        };
        @memset(&panels, std.math.nan(f32));
        transpose(f32, &from, 37, rows, columns, &panels, columns);
        for (0..columns) |c| for (0..count(rows) * width) |r| {
            const got = panels[(r / width * columns + c) * width + r % width];
            try std.testing.expectEqual(if (r < rows) from[r * 37 + c] else 0, got);
        };
    };
}
