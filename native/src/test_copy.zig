//! Copies, casts, fill and arange against the plain rule of one element: all 36 pairs of dtypes,
//! random views on both sides, transposes with odd sizes, borders of every range.

const std = @import("std");
const args = @import("args/elementwise.zig");
const cpu = @import("cpu/elementwise.zig");
const dtypes = @import("dtype.zig");
const h = @import("reference/kernel_test.zig");

const DType = dtypes.DType;

/// Exact value to T: towards zero and saturating for integers, nearest even for floats.
fn rounded(comptime T: type, x: f64) T {
    switch (T) {
        i32, u8 => {
            if (x != x) return 0;
            if (x <= std.math.minInt(T)) return std.math.minInt(T);
            if (x >= std.math.maxInt(T)) return std.math.maxInt(T);
            return @intFromFloat(x);
        },
        u16 => return nearestBf16(x),
        else => return @floatCast(x),
    }
}

/// By comparing with both neighbours, so that nothing is rounded twice.
fn nearestBf16(x: f64) u16 {
    if (x != x) return dtypes.toBf16(std.math.nan(f32));
    const single: f32 = @floatCast(x);
    const middle: u16 = @truncate(@as(u32, @bitCast(single)) >> 16);
    var best = middle;
    for ([_]u16{ middle -| 1, middle, middle +| 1 }) |candidate| {
        const value: f64 = beyond(candidate);
        const so_far: f64 = beyond(best);
        const nearer = @abs(value - x) < @abs(so_far - x);
        const tie = @abs(value - x) == @abs(so_far - x) and candidate % 2 == 0;
        if (nearer or tie) best = candidate;
    }
    return best;
}

/// The value of a bf16; infinity stands for the next power of two, where rounding to it begins.
fn beyond(x: u16) f64 {
    const value: f64 = dtypes.fromBf16(x);
    if (std.math.isPositiveInf(value)) return 0x1p128;
    return if (std.math.isNegativeInf(value)) -0x1p128 else value;
}

fn same(comptime T: type, a: T, b: T) bool {
    const x = h.toF64(T, a);
    return if (x != x) h.toF64(T, b) != h.toF64(T, b) else std.mem.eql(
        u8,
        std.mem.asBytes(&a),
        std.mem.asBytes(&b),
    );
}

fn copyCase(
    comptime from: DType,
    comptime to: DType,
    random: std.Random,
    shape: []const u64,
) !void {
    const From = dtypes.Storage(from);
    const To = dtypes.Storage(to);
    const low: f64 = if (From == u8) 0 else -400;
    const high: f64 = if (From == u8) 255 else 400;
    const x = try h.View(From).init(
        random,
        shape,
        random.enumValue(h.View(From).Layout),
        low,
        high,
    );
    defer x.deinit();
    const layout: h.View(To).Layout = if (random.boolean()) .random else .row_major;
    const y = try h.View(To).init(random, shape, layout, 0, 1);
    defer y.deinit();
    h.poison(To, y.data);
    const untouched = try h.gpa.dupe(To, y.data);
    defer h.gpa.free(untouched);
    const arguments: args.Copy = .{
        .from = x.data.ptr,
        .to = y.data.ptr,
        .shape = x.shape,
        .from_strides = x.strides,
        .to_strides = y.strides,
        .rank = x.rank,
        .from_dtype = from,
        .to_dtype = to,
    };
    try h.run(cpu.copy, f32, &arguments, &.{h.bytes(To, y.data)});
    const expected = untouched;
    for (0..x.count()) |i| expected[y.offset(i)] = rounded(To, x.at(i));
    // Also what lies between the elements: it must stay as it was.
    for (expected, y.data) |want, got| {
        if (same(To, want, got)) continue;
        std.debug.print(
            "{t} to {t} of shape {any}: got {any}, expected {any}\n",
            .{ from, to, shape, got, want },
        );
        return error.Different;
    }
}

const shapes = [_][]const u64{
    &.{}, &.{1}, &.{5}, &.{16}, &.{33}, &.{ 3, 5 }, &.{ 2, 3, 4 }, &.{ 0, 4 }, &.{ 37, 70 },
    &.{
        2,
        19,
        3,
        18,
    },
};

test "copies between random views of every pair of dtypes" {
    var seeded: h.Seeded = .init();
    errdefer seeded.report();
    const random = seeded.prng.random();
    inline for (comptime std.enums.values(
        DType,
    )) |from| inline for (comptime std.enums.values(DType)) |to| {
        for (shapes) |shape| try copyCase(from, to, random, shape);
    };
    for (0..20) |_| try copyCase(.f32, .f32, random, &.{ 130, 150 });
    for (0..20) |_| try copyCase(.f32, .bf16, random, &.{ 3, 70, 90 });
}

fn transposeCase(comptime T: type, random: std.Random, outer: u64, rows: u64, columns: u64) !void {
    const n = outer * rows * columns;
    const x = try h.draw(T, random, n, -1, 1);
    defer h.gpa.free(x);
    const y = try h.poisoned(T, n);
    defer h.gpa.free(y);
    const tag: DType = if (T == u16) .bf16 else if (T == f64) .f64 else .f32;
    const arguments: args.Copy = .{
        .from = x.ptr,
        .to = y.ptr,
        .shape = .{ outer, rows, columns, 1, 1, 1, 1, 1 },
        .from_strides = .{ rows * columns, 1, rows, 0, 0, 0, 0, 0 },
        .to_strides = .{ rows * columns, columns, 1, 0, 0, 0, 0, 0 },
        .rank = 3,
        .from_dtype = tag,
        .to_dtype = tag,
    };
    try h.run(cpu.copy, f32, &arguments, &.{h.bytes(T, y)});
    for (0..outer) |o| for (0..rows) |i| for (0..columns) |j| {
        const want = x[(o * columns + j) * rows + i];
        try std.testing.expectEqual(want, y[(o * rows + i) * columns + j]);
    };
}

test "transposes of odd and even sizes" {
    var seeded: h.Seeded = .init();
    errdefer seeded.report();
    const random = seeded.prng.random();
    inline for (h.storages) |T| {
        for ([_][3]u64{
            .{ 1, 16, 16 },
            .{ 2, 17, 33 },
            .{ 3, 4, 100 },
            .{ 1, 129, 65 },
            .{ 2, 64, 64 },
        }) |s| {
            try transposeCase(T, random, s[0], s[1], s[2]);
        }
    }
}

fn convertOne(
    comptime From: type,
    comptime To: type,
    comptime from: DType,
    comptime to: DType,
    x: From,
) !To {
    // 17 elements: the vector path and the tail must agree.
    const source: [17]From = @splat(x);
    var target: [17]To = undefined;
    h.poison(To, &target);
    var arguments: args.Copy = .{
        .from = &source,
        .to = &target,
        .shape = @splat(1),
        .from_strides = @splat(1),
        .to_strides = @splat(1),
        .rank = 1,
        .from_dtype = from,
        .to_dtype = to,
    };
    arguments.shape[0] = 17;
    try h.run(cpu.copy, f32, &arguments, &.{h.bytes(To, &target)});
    for (target) |element| try std.testing.expect(same(To, target[0], element));
    return target[0];
}

test "borders: saturation, NaN, ties, double rounding" {
    const expectEqual = std.testing.expectEqual;
    const inf = std.math.inf(f32);
    try expectEqual(std.math.maxInt(i32), try convertOne(f32, i32, .f32, .i32, 3e9));
    try expectEqual(std.math.minInt(i32), try convertOne(f32, i32, .f32, .i32, -inf));
    try expectEqual(0, try convertOne(f32, i32, .f32, .i32, std.math.nan(f32)));
    try expectEqual(-2, try convertOne(f64, i32, .f64, .i32, -2.9));
    try expectEqual(255, try convertOne(f32, u8, .f32, .u8, 255.7));
    try expectEqual(0, try convertOne(i32, u8, .i32, .u8, -7));
    try expectEqual(255, try convertOne(i32, u8, .i32, .u8, 1000));
    try expectEqual(0x7f80, try convertOne(f32, u16, .f32, .bf16, inf));
    try expectEqual(0x7f80, try convertOne(f64, u16, .f64, .bf16, 1e300));
    // 1 + 2⁻⁸ + 2⁻⁴⁰ lies above the tie; rounded to f32 first it would fall on it and go to even.
    try expectEqual(0x3f81, try convertOne(f64, u16, .f64, .bf16, 1.0 + 0x1p-8 + 0x1p-40));
    try expectEqual(0x3f80, try convertOne(f64, u16, .f64, .bf16, 1.0 + 0x1p-8));
    // 16842753 = 2²⁴ + 2¹⁶ + 1: the same for an integer that f32 cannot hold.
    try expectEqual(0x4b81, try convertOne(i32, u16, .i32, .bf16, 16842753));
    const nan = try convertOne(f64, u16, .f64, .bf16, std.math.nan(f64));
    try std.testing.expect(std.math.isNan(dtypes.fromBf16(nan)));
}

test "f64 to bf16 on random bit patterns" {
    var seeded: h.Seeded = .init();
    errdefer seeded.report();
    const random = seeded.prng.random();
    for (0..3000) |_| {
        const scale = std.math.ldexp(@as(f64, 1), random.intRangeAtMost(i32, -140, 130));
        const x = (random.float(f64) - 0.5) * scale;
        const got = try convertOne(f64, u16, .f64, .bf16, x);
        if (got & 0x7fff == 0 and nearestBf16(x) & 0x7fff == 0) continue;
        try std.testing.expectEqual(nearestBf16(x), got);
    }
}

test "fill and arange in every dtype" {
    inline for (comptime std.enums.values(DType)) |tag| {
        const T = dtypes.Storage(tag);
        for ([_]usize{ 0, 1, 19, 40_000 }) |n| {
            const y = try h.poisoned(T, n);
            defer h.gpa.free(y);
            const filled: args.Fill = .{ .y = y.ptr, .count = n, .value = 3.25, .dtype = tag };
            try h.run(cpu.fill, f32, &filled, &.{h.bytes(T, y)});
            for (y) |x| try std.testing.expectEqual(rounded(T, 3.25), x);
            h.poison(T, y);
            const counted: args.Arange = .{
                .y = y.ptr,
                .count = n,
                .start = 2,
                .step = 0.5,
                .dtype = tag,
            };
            try h.run(cpu.arange, f32, &counted, &.{h.bytes(T, y)});
            for (y, 0..) |x, i| {
                const want = rounded(T, 2 + 0.5 * @as(f64, @floatFromInt(i)));
                try std.testing.expectEqual(want, x);
            }
        }
    }
}
