//! Sums, maxima and minima over ranks, element by element. A sum is the balanced binary tree over
//! the ranks in group order (the left subtree holds the largest power of two below their number),
//! so every rank and every run gets the same bits. bf16 and f16 are added in f32 and rounded once.

const std = @import("std");
const dtypes = @import("../dtype.zig");
const DType = dtypes.DType;
const Reduction = @import("operation.zig").Reduction;

/// Ranks of one group that reduce on the CPU.
pub const most_ranks = 512;
const levels = 10; // of a tree over `most_ranks`

/// `count` elements from each source into `to`, which may be one of the sources. Any alignment.
pub fn combine(
    reduction: Reduction,
    dtype: DType,
    sources: []const [*]const u8,
    to: [*]u8,
    count: usize,
) void {
    switch (reduction) {
        inline else => |chosen| switch (dtype) {
            .f32 => walk(f32, f32, chosen, sources, to, count),
            .f64 => walk(f64, f64, chosen, sources, to, count),
            .bf16 => walk(u16, f32, chosen, sources, to, count),
            .f16 => walk(f16, f32, chosen, sources, to, count),
            .i32 => walk(i32, i32, chosen, sources, to, count),
            .u8 => walk(u8, u8, chosen, sources, to, count),
        },
    }
}

fn walk(
    comptime S: type,
    comptime A: type,
    comptime reduction: Reduction,
    sources: []const [*]const u8,
    to: [*]u8,
    count: usize,
) void {
    const wide = 64 / @sizeOf(A);
    var i: usize = 0;
    while (i + wide <= count) : (i += wide)
        store(S, A, wide, to, i, tree(S, A, wide, reduction, sources, i));
    while (i < count) : (i += 1) store(S, A, 1, to, i, tree(S, A, 1, reduction, sources, i));
}

/// A binary counter: a partial result per level, carried upwards as in an addition of one.
fn tree(
    comptime S: type,
    comptime A: type,
    comptime lanes: usize,
    comptime reduction: Reduction,
    sources: []const [*]const u8,
    at: usize,
) @Vector(lanes, A) {
    var partial: [levels]@Vector(lanes, A) = undefined;
    var depth: usize = 0;
    for (sources, 1..) |source, number| {
        var value = load(S, A, lanes, source, at);
        var carry = number;
        while (carry & 1 == 0) : (carry >>= 1) {
            depth -= 1;
            value = merge(A, lanes, reduction, partial[depth], value);
        }
        partial[depth] = value;
        depth += 1;
    }
    while (depth > 1) : (depth -= 1)
        partial[depth - 2] = merge(A, lanes, reduction, partial[depth - 2], partial[depth - 1]);
    return partial[0];
}

/// Maxima and minima keep a NaN: one rank's broken value must not vanish.
fn merge(
    comptime A: type,
    comptime lanes: usize,
    comptime reduction: Reduction,
    a: @Vector(lanes, A),
    b: @Vector(lanes, A),
) @Vector(lanes, A) {
    const is_float = @typeInfo(A) == .float;
    if (reduction == .sum) return if (is_float) a + b else a +% b;
    const chosen = if (reduction == .max) @max(a, b) else @min(a, b);
    if (!is_float) return chosen;
    return @select(A, a != a, a, @select(A, b != b, b, chosen));
}

fn load(
    comptime S: type,
    comptime A: type,
    comptime lanes: usize,
    source: [*]const u8,
    at: usize,
) @Vector(lanes, A) {
    const raw: *align(1) const [lanes]S = @ptrCast(source + at * @sizeOf(S));
    const stored: @Vector(lanes, S) = raw.*;
    if (S == A) return stored;
    if (S == f16) return @floatCast(stored);
    const widened: @Vector(lanes, u32) = stored;
    return @bitCast(widened << @splat(16));
}

fn store(
    comptime S: type,
    comptime A: type,
    comptime lanes: usize,
    to: [*]u8,
    at: usize,
    value: @Vector(lanes, A),
) void {
    const raw: *align(1) [lanes]S = @ptrCast(to + at * @sizeOf(S));
    if (S == A) {
        raw.* = value;
    } else if (S == f16) {
        raw.* = @as(@Vector(lanes, f16), @floatCast(value));
    } else raw.* = roundToBf16(lanes, value);
}

/// `dtype.toBf16` on lanes: to nearest even, NaN stays NaN.
fn roundToBf16(comptime lanes: usize, value: @Vector(lanes, f32)) @Vector(lanes, u16) {
    const V = @Vector(lanes, u32);
    const bits: V = @bitCast(value);
    const upper = bits >> @splat(16);
    const half: V = @splat(0x7fff);
    const rounded = (bits +% half +% (upper & @as(V, @splat(1)))) >> @splat(16);
    const quiet = upper | @as(V, @splat(0x0040));
    return @intCast(@select(u32, value != value, quiet, rounded));
}

test "sums follow the stated tree; bf16 rounds once" {
    // ((a + b) + (c + d)) + e, told apart from a running sum by rounding.
    const values = [_]f32{ 1e8, -1e8, 3, 1e-7, 1 };
    var sources: [5][*]const u8 = undefined;
    for (&sources, &values) |*source, *value| source.* = @ptrCast(value);
    var sum: f32 = 0;
    combine(.sum, .f32, &sources, @ptrCast(&sum), 1);
    try std.testing.expectEqual((values[0] + values[1]) + (values[2] + values[3]) + values[4], sum);
    const small = [_]u16{ dtypes.toBf16(256), dtypes.toBf16(1), dtypes.toBf16(1) };
    for (sources[0..3], &small) |*source, *value| source.* = @ptrCast(value);
    var rounded: u16 = 0;
    combine(.sum, .bf16, sources[0..3], @ptrCast(&rounded), 1);
    try std.testing.expectEqual(@as(f32, 258), dtypes.fromBf16(rounded));
}

test "vectors equal single elements, for every dtype and reduction, at any alignment" {
    var prng: std.Random.DefaultPrng = .init(7);
    const count = 70;
    var bytes: [5][count * 8 + 1]u8 = undefined;
    for (std.enums.values(DType)) |dtype| for (std.enums.values(Reduction)) |reduction| {
        for (&bytes) |*each| {
            prng.random().bytes(each);
            for (each) |*byte| byte.* &= 0xbf; // No float is infinite or NaN.
        }
        var sources: [5][*]const u8 = undefined;
        for (&sources, &bytes) |*source, *each| source.* = each[1..];
        var whole: [count * 8]u8 = undefined;
        combine(reduction, dtype, &sources, &whole, count);
        for (0..count) |i| {
            var one: [8]u8 = undefined;
            var moved: [5][*]const u8 = undefined;
            for (&moved, sources) |*to, source| to.* = source + i * dtype.size();
            combine(reduction, dtype, &moved, &one, 1);
            const want = one[0..dtype.size()];
            try std.testing.expectEqualSlices(u8, want, whole[i * dtype.size() ..][0..want.len]);
        }
    };
}

test "maxima and minima keep NaN; integers wrap" {
    const nan = std.math.nan(f32);
    for ([_][2]f32{ .{ nan, 1 }, .{ 1, nan } }) |pair| {
        const sources = [_][*]const u8{ @ptrCast(&pair[0]), @ptrCast(&pair[1]) };
        var out: f32 = 0;
        combine(.max, .f32, &sources, @ptrCast(&out), 1);
        try std.testing.expect(out != out);
        combine(.min, .f32, &sources, @ptrCast(&out), 1);
        try std.testing.expect(out != out);
    }
    const integers = [_]u8{ 200, 100 };
    const sources = [_][*]const u8{ integers[0..1], integers[1..2] };
    var out: [1]u8 = undefined;
    combine(.sum, .u8, &sources, &out, 1);
    try std.testing.expectEqual(@as(u8, 44), out[0]);
}
