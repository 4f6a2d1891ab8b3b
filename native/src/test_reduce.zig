//! Reductions against `reference/elementwise.zig`: every operation over random sets of dims of
//! random views, long sums, the layouts with fast paths, and the sums of squares of many tensors.

const std = @import("std");
const args = @import("args/elementwise.zig");
const cpu = @import("cpu/elementwise.zig");
const h = @import("reference/kernel_test.zig");
const reference = @import("reference/elementwise.zig");
const simd = @import("cpu/simd.zig");

/// A view's dims split into kept and reduced ones; bit d of `mask` reduces dim d.
fn split(view: anytype, mask: u8) args.Reduce {
    var a: args.Reduce = .{
        .x = view.data.ptr,
        .y = undefined,
        .kept_shape = @splat(1),
        .kept_strides = @splat(0),
        .reduced_shape = @splat(1),
        .reduced_strides = @splat(0),
        .kept_rank = 0,
        .reduced_rank = 0,
        .op = .sum,
        .wide = 0,
    };
    for (0..view.rank) |dim| {
        if (mask >> @intCast(dim) & 1 == 1) {
            a.reduced_shape[a.reduced_rank] = view.shape[dim];
            a.reduced_strides[a.reduced_rank] = view.strides[dim];
            a.reduced_rank += 1;
        } else {
            a.kept_shape[a.kept_rank] = view.shape[dim];
            a.kept_strides[a.kept_rank] = view.strides[dim];
            a.kept_rank += 1;
        }
    }
    return a;
}

fn product(shape: []const u64) usize {
    var n: usize = 1;
    for (shape) |size| n *= size;
    return n;
}

/// Runs every operation with narrow and wide results and compares each output.
fn reduceCase(comptime S: type, view: anytype, mask: u8) !void {
    var a = split(view, mask);
    const outputs = product(a.kept_shape[0..a.kept_rank]);
    const terms = try h.gpa.alloc(f64, product(a.reduced_shape[0..a.reduced_rank]));
    defer h.gpa.free(terms);
    for (std.enums.values(args.Reduction)) |op| {
        a.op = op;
        inline for (.{ S, simd.Arithmetic(S) }, 0..) |Y, wide| {
            const y = try h.poisoned(Y, outputs);
            defer h.gpa.free(y);
            a.y = y.ptr;
            a.wide = wide;
            try h.run(cpu.reduce, S, &a, &.{h.bytes(Y, y)});
            for (y, 0..) |got, output| {
                errdefer std.debug.print("{t}, {s}, mask {b}, shape {any}\n", .{
                    op, @typeName(S), mask, view.shape[0..view.rank],
                });
                try compare(Y, view, &a, terms, output, h.toF64(Y, got));
            }
        }
    }
}

fn compare(
    comptime Y: type,
    view: anytype,
    a: *const args.Reduce,
    terms: []f64,
    output: usize,
    got: f64,
) !void {
    const T = @TypeOf(view.data[0]);
    const base = h.offsetOf(a.kept_rank, &a.kept_shape, &a.kept_strides, output);
    var size: f64 = 0;
    for (terms, 0..) |*term, i| {
        const at = base + h.offsetOf(a.reduced_rank, &a.reduced_shape, &a.reduced_strides, i);
        term.* = h.toF64(T, view.data[at]);
        size += @abs(term.*);
    }
    if (a.op == .mean) size /= @floatFromInt(@max(1, terms.len));
    // A sum's error is relative to the sum of sizes: at most 32 additions in a lane before it goes
    // over to f64, each rounded by at most 6e-8 of it.
    const absolute = switch (Y) {
        f64 => 1e-14,
        else => 1e-6,
    } * @min(size, 1e6);
    const limited = if (a.op == .max or a.op == .min) 0 else absolute;
    try h.expectNear(reference.reduce(a.op, terms), got, h.bar(Y, 1e-6), limited);
}

const shapes = [_][]const u64{
    &.{},          &.{1},      &.{13},     &.{100},      &.{ 3, 5 },          &.{ 4, 1, 9 },
    &.{ 2, 3, 4 }, &.{ 0, 4 }, &.{ 3, 0 }, &.{ 40, 33 }, &.{ 2, 3, 2, 5, 4 }, &.{ 7, 520 },
};

test "every operation over random sets of dims of random views" {
    var seeded: h.Seeded = .init();
    errdefer seeded.report();
    const random = seeded.prng.random();
    inline for (h.storages) |S| for (shapes) |shape| for (0..3) |_| {
        const layout = random.enumValue(h.View(S).Layout);
        const view = try h.View(S).init(random, shape, layout, -2, 3);
        defer view.deinit();
        const masks = @as(usize, 1) << @intCast(shape.len);
        try reduceCase(S, &view, @intCast(random.uintLessThan(usize, masks)));
        try reduceCase(S, &view, @intCast(masks - 1));
    };
}

test "several blocks: rows, columns, all, strided" {
    var seeded: h.Seeded = .init();
    errdefer seeded.report();
    const random = seeded.prng.random();
    inline for (.{ f32, u16 }) |S| {
        const long = try h.View(S).init(random, &.{ 3, 9001 }, .row_major, -1, 2);
        defer long.deinit();
        for ([_]u8{ 0b00, 0b01, 0b10, 0b11 }) |mask| try reduceCase(S, &long, mask);
        const tall = try h.View(S).init(random, &.{ 1300, 2, 21 }, .row_major, -1, 2);
        defer tall.deinit();
        for ([_]u8{ 0b001, 0b011, 0b100, 0b101, 0b111 }) |mask| try reduceCase(S, &tall, mask);
        const mixed = try h.View(S).init(random, &.{ 90, 11, 13 }, .random, -1, 2);
        defer mixed.deinit();
        for ([_]u8{ 0b001, 0b010, 0b100, 0b110, 0b111 }) |mask| try reduceCase(S, &mixed, mask);
    }
}

test "a long f32 sum keeps six digits, even of equal terms whose roundings all go one way" {
    const n = 3_000_000;
    const x = try h.gpa.alloc(f32, n);
    defer h.gpa.free(x);
    @memset(x, 0.1);
    var y: [1]f32 = .{std.math.nan(f32)};
    const view: h.View(f32) = .{
        .data = x,
        .rank = 1,
        .shape = .{ n, 1, 1, 1, 1, 1, 1, 1 },
        .strides = @splat(1),
    };
    var a = split(&view, 1);
    a.y = &y;
    try h.run(cpu.reduce, f32, &a, &.{h.bytes(f32, &y)});
    const want = @as(f64, x[0]) * n;
    try h.expectNear(want, y[0], 1e-6, 0);
}

test "NaN and infinities win where they should" {
    const inf = std.math.inf(f32);
    const nan = std.math.nan(f32);
    const Row = struct { op: args.Reduction, at_5: f32, at_20: f32, want: f32 };
    const rows = [_]Row{
        .{ .op = .max, .at_5 = nan, .at_20 = 9, .want = nan },
        .{ .op = .min, .at_5 = 9, .at_20 = nan, .want = nan },
        .{ .op = .max, .at_5 = inf, .at_20 = 9, .want = inf },
        .{ .op = .logsumexp, .at_5 = inf, .at_20 = 0, .want = inf },
        .{ .op = .logsumexp, .at_5 = nan, .at_20 = 0, .want = nan },
        .{ .op = .sum, .at_5 = inf, .at_20 = -inf, .want = nan },
    };
    // As rows of 24, and as columns of 24 next to each other.
    for (rows) |row| for ([_]bool{ false, true }) |down| {
        var x: [24 * 16]f32 = @splat(-inf);
        if (row.op == .sum) @memset(&x, 0);
        for (0..16) |column| {
            x[if (down) 5 * 16 + column else column * 24 + 5] = row.at_5;
            x[if (down) 20 * 16 + column else column * 24 + 20] = row.at_20;
        }
        var y: [16]f32 = @splat(7);
        const view: h.View(f32) = .{
            .data = &x,
            .rank = 2,
            .shape = if (down) .{ 24, 16, 1, 1, 1, 1, 1, 1 } else .{ 16, 24, 1, 1, 1, 1, 1, 1 },
            .strides = if (down) .{ 16, 1, 0, 0, 0, 0, 0, 0 } else .{ 24, 1, 0, 0, 0, 0, 0, 0 },
        };
        var a = split(&view, if (down) 1 else 2);
        a.op = row.op;
        a.y = &y;
        try h.run(cpu.reduce, f32, &a, &.{h.bytes(f32, &y)});
        for (y) |got| try h.expectNear(row.want, got, 0, 0);
    };
}

test "sums of squares and non-finite elements of many tensors" {
    var seeded: h.Seeded = .init();
    errdefer seeded.report();
    const random = seeded.prng.random();
    const counts = [_]u64{ 1, 0, 5000, 4096, 17, 0, 40_001 };
    inline for (h.storages) |S| {
        var tensors: [counts.len][]S = undefined;
        var data: [counts.len]*const anyopaque = undefined;
        for (&tensors, &data, counts) |*tensor, *pointer, n| {
            tensor.* = try h.draw(S, random, n, -1, 1);
            pointer.* = tensor.ptr;
        }
        defer for (tensors) |tensor| h.gpa.free(tensor);
        var out: [counts.len + 1][2]f64 = @splat(@splat(std.math.nan(f64)));
        const a: args.GlobalSumSquares = .{
            .data = &data,
            .counts = &counts,
            .out = &out,
            .tensors = counts.len,
        };
        try h.run(cpu.globalSumSquares, S, &a, &.{std.mem.sliceAsBytes(&out)});
        var total: f64 = 0;
        for (tensors, out[0..counts.len]) |tensor, row| {
            var want: f64 = 0;
            for (tensor) |x| want += h.toF64(S, x) * h.toF64(S, x);
            total += want;
            try h.expectNear(want, row[0], 1e-13, 0);
            try std.testing.expectEqual(0, row[1]);
        }
        try h.expectNear(total, out[counts.len][0], 1e-13, 0);
        tensors[2][4999] = h.fromF64(S, std.math.nan(f64));
        tensors[6][0] = h.fromF64(S, std.math.inf(f64));
        tensors[6][33_333] = h.fromF64(S, -std.math.inf(f64));
        try h.run(cpu.globalSumSquares, S, &a, &.{std.mem.sliceAsBytes(&out)});
        try std.testing.expectEqual(1, out[2][1]);
        try std.testing.expectEqual(0, out[3][1]);
        try std.testing.expectEqual(2, out[6][1]);
        try std.testing.expectEqual(3, out[counts.len][1]);
        try std.testing.expect(std.math.isNan(out[2][0]));
    }
}
