//! Tests of the index kernels against the definitions in args/index.zig.

const std = @import("std");
const args = @import("args/index.zig");
const dtype = @import("dtype.zig");
const simd = @import("cpu/simd.zig");
const index = @import("cpu/index.zig");
const h = @import("reference/buffers.zig");
const Parallel = @import("parallel.zig").Parallel;
const Pool = @import("runtime/pool.zig").Pool;
const gpa = h.gpa;

fn indices(random: std.Random, count: usize, below: usize) ![]i32 {
    const out = try gpa.alloc(i32, count);
    for (out) |*slot| slot.* = @intCast(random.uintLessThan(usize, below));
    return out;
}

test "indexSelect and indexAdd over odd shapes, every storage type" {
    const seed = 11;
    errdefer h.printSeed(seed);
    var prng = std.Random.DefaultPrng.init(seed);
    const shapes = [_][4]usize{ // outer, count, selected, inner
        .{ 1, 1, 1, 1 }, .{ 1, 50, 700, 67 }, .{ 3, 7, 5, 1 }, .{ 5, 33, 90, 130 }, .{ 2, 9, 0, 4 },
    };
    inline for (.{ f32, f64, u16 }) |S| for (shapes) |shape| {
        try checkSelect(S, prng.random(), shape);
    };
}

fn checkSelect(comptime S: type, random: std.Random, shape: [4]usize) !void {
    const A = simd.Arithmetic(S);
    const outer, const count, const selected, const inner = shape;
    const x = try h.normal(S, random, outer * count * inner, 1);
    defer gpa.free(x);
    const ids = try indices(random, selected, count);
    defer gpa.free(ids);
    const dy = try h.normal(S, random, outer * selected * inner, 1);
    defer gpa.free(dy);
    const start = try h.normal(A, random, outer * count * inner, 1);
    defer gpa.free(start);
    const want = try gpa.dupe(A, start);
    defer gpa.free(want);
    for (0..outer) |o| for (ids, 0..) |id, s| for (0..inner) |i| {
        const from = (o * selected + s) * inner + i;
        want[(o * count + @as(usize, @intCast(id))) * inner + i] += simd.get(S, dy.ptr, from);
    };
    for ([_]u32{ 1, 2, 3 }) |threads| {
        var pool: Pool = undefined;
        try pool.start(gpa, threads);
        defer pool.deinit();
        const y = try h.poisoned(S, outer * selected * inner);
        defer gpa.free(y);
        try index.indexSelect(S, pool.parallel(), &.{
            .x = x.ptr,
            .indices = ids.ptr,
            .y = y.ptr,
            .outer = outer,
            .count = count,
            .selected = selected,
            .inner = inner,
        });
        for (0..outer) |o| for (ids, 0..) |id, s| {
            const from = (o * count + @as(usize, @intCast(id))) * inner;
            const to = (o * selected + s) * inner;
            try h.expectBits(S, x[from..][0..inner], y[to..][0..inner], "indexSelect");
        };
        const dx = try gpa.dupe(A, start);
        defer gpa.free(dx);
        try index.indexAdd(S, pool.parallel(), &.{
            .dy = dy.ptr,
            .indices = ids.ptr,
            .dx = dx.ptr,
            .outer = outer,
            .count = count,
            .selected = selected,
            .inner = inner,
        });
        // The order of additions is that of the indices, so even the bits agree.
        try h.expectBits(A, want, dx, "indexAdd");
    }
}

test "embedding and row kernels equal indexSelect and indexAdd with one outer row" {
    const seed = 12;
    errdefer h.printSeed(seed);
    var prng = std.Random.DefaultPrng.init(seed);
    inline for (.{ f32, f64, u16 }) |S| {
        try h.forThreads(prng.random(), struct {
            fn body(random: std.Random, parallel: *const Parallel, threads: u32) !void {
                _ = threads;
                try checkEmbedding(S, random, parallel);
            }
        }.body);
    }
}

fn checkEmbedding(comptime S: type, random: std.Random, parallel: *const Parallel) !void {
    const A = simd.Arithmetic(S);
    const vocab, const rows, const width = .{ 37, 211, 77 };
    const ids = try indices(random, rows, vocab);
    defer gpa.free(ids);
    const table = try h.normal(A, random, vocab * width, 1);
    defer gpa.free(table);
    const y = try h.poisoned(S, rows * width);
    defer gpa.free(y);
    const code: dtype.DType = if (S == f64) .f64 else .f32;
    try index.embeddingForward(S, parallel, &.{
        .table = table.ptr,
        .ids = ids.ptr,
        .y = y.ptr,
        .rows = rows,
        .vocab = vocab,
        .width = width,
        .table_dtype = @backingInt(code),
    });
    const again = try h.poisoned(S, rows * width);
    defer gpa.free(again);
    for (ids, 0..) |id, r| for (0..width) |i| {
        simd.put(S, again.ptr, r * width + i, table[@as(usize, @intCast(id)) * width + i]);
    };
    try h.expectBits(S, again, y, "embeddingForward");

    const gathered = try h.poisoned(S, rows * width);
    defer gpa.free(gathered);
    try index.gatherRows(S, parallel, &.{
        .x = y.ptr,
        .indices = ids.ptr,
        .y = gathered.ptr,
        .count = rows,
        .rows = rows,
        .width = width,
    });
    for (ids, 0..) |id, r| {
        const from = @as(usize, @intCast(id)) * width;
        try h.expectBits(S, y[from..][0..width], gathered[r * width ..][0..width], "gatherRows");
    }
    try checkScatter(S, parallel, y, ids, vocab, width);
}

fn checkScatter(
    comptime S: type,
    parallel: *const Parallel,
    dy: []const S,
    ids: []const i32,
    vocab: usize,
    width: usize,
) !void {
    const A = simd.Arithmetic(S);
    var sums: [3][]A = undefined;
    for (&sums) |*sum| sum.* = try gpa.alloc(A, vocab * width);
    defer for (sums) |sum| gpa.free(sum);
    for (sums) |sum| @memset(sum, 0.5);
    for (ids, 0..) |id, r| for (0..width) |i| {
        sums[0][@as(usize, @intCast(id)) * width + i] += simd.get(S, dy.ptr, r * width + i);
    };
    try index.embeddingBackward(S, parallel, &.{
        .dy = dy.ptr,
        .ids = ids.ptr,
        .dtable = sums[1].ptr,
        .rows = ids.len,
        .vocab = vocab,
        .width = width,
    });
    try index.scatterAddRows(S, parallel, &.{
        .x = dy.ptr,
        .indices = ids.ptr,
        .y = sums[2].ptr,
        .count = vocab,
        .rows = ids.len,
        .width = width,
    });
    try h.expectBits(A, sums[0], sums[1], "embeddingBackward");
    try h.expectBits(A, sums[0], sums[2], "scatterAddRows");
}

test "takeAlong and its gradient" {
    const seed = 13;
    errdefer h.printSeed(seed);
    var prng = std.Random.DefaultPrng.init(seed);
    inline for (.{ f32, f64, u16 }) |S| {
        for ([_][3]usize{ .{ 1, 1, 1 }, .{ 301, 19, 70 }, .{ 40, 700, 3 }, .{ 4, 5, 0 } }) |shape| {
            try checkTake(S, prng.random(), shape);
        }
    }
}

fn checkTake(comptime S: type, random: std.Random, shape: [3]usize) !void {
    const A = simd.Arithmetic(S);
    const rows, const width, const picks = shape;
    const x = try h.normal(S, random, rows * width, 1);
    defer gpa.free(x);
    const ids = try indices(random, rows * picks, width);
    defer gpa.free(ids);
    const want = try gpa.alloc(A, rows * width);
    defer gpa.free(want);
    var pool: Pool = undefined;
    try pool.start(gpa, 2);
    defer pool.deinit();
    const y = try h.poisoned(S, rows * picks);
    defer gpa.free(y);
    try index.takeAlong(S, pool.parallel(), &.{
        .x = x.ptr,
        .indices = ids.ptr,
        .y = y.ptr,
        .rows = rows,
        .width = width,
        .picks = picks,
    });
    @memset(want, 0);
    for (0..rows) |r| for (0..picks) |j| {
        const from = r * width + @as(usize, @intCast(ids[r * picks + j]));
        try h.expectBits(S, x[from..][0..1], y[r * picks + j ..][0..1], "takeAlong");
        want[from] += simd.get(S, y.ptr, r * picks + j);
    };
    const dx = try h.poisoned(A, rows * width);
    defer gpa.free(dx);
    try index.takeAlongBackward(S, pool.parallel(), &.{
        .dy = y.ptr,
        .indices = ids.ptr,
        .dx = dx.ptr,
        .rows = rows,
        .width = width,
        .picks = picks,
    });
    try h.expectBits(A, want, dx, "takeAlongBackward");
}

/// Rows with many ties, infinities and NaN.
fn spiky(comptime S: type, random: std.Random, rows: usize, width: usize) ![]S {
    const A = simd.Arithmetic(S);
    const x = try gpa.alloc(S, rows * width);
    for (0..rows) |r| for (0..width) |i| {
        const few: A = @floatFromInt(random.uintLessThan(u32, 5));
        simd.put(S, x.ptr, r * width + i, switch (if (r == 0) 0 else random.uintLessThan(u32, 12)) {
            0 => std.math.nan(A),
            1 => -std.math.inf(A),
            2 => if (r % 3 == 0) std.math.inf(A) else few,
            else => few,
        });
    };
    return x;
}

fn firstOf(comptime S: type, row: []const S, i: i32, j: i32) bool {
    const x = simd.get(S, row.ptr, @intCast(i));
    const y = simd.get(S, row.ptr, @intCast(j));
    if (x != x or y != y) return if (x == x or y == y) x == x else i < j;
    return if (x == y) i < j else x > y;
}

test "topK and argmax order: ties, infinities, NaN, every k" {
    const seed = 14;
    errdefer h.printSeed(seed);
    var prng = std.Random.DefaultPrng.init(seed);
    inline for (.{ f32, f64, u16 }) |S| {
        for ([_][3]usize{
            .{ 4, 1, 1 }, .{ 9, 35, 35 }, .{ 9, 35, 1 }, .{ 60, 300, 7 }, .{ 5, 1000, 64 },
        }) |shape| try checkTopK(S, prng.random(), shape);
    }
}

fn checkTopK(comptime S: type, random: std.Random, shape: [3]usize) !void {
    const rows, const width, const k = shape;
    const x = try spiky(S, random, rows, width);
    defer gpa.free(x);
    var pool: Pool = undefined;
    try pool.start(gpa, 2);
    defer pool.deinit();
    const values = try h.poisoned(S, rows * k);
    defer gpa.free(values);
    const ids = try h.poisoned(i32, rows * k);
    defer gpa.free(ids);
    try index.topK(S, pool.parallel(), &.{
        .x = x.ptr,
        .values = values.ptr,
        .indices = ids.ptr,
        .rows = rows,
        .width = width,
        .k = k,
    });
    const first = try h.poisoned(i32, rows);
    defer gpa.free(first);
    const top = try h.poisoned(S, rows);
    defer gpa.free(top);
    try index.argmax(S, pool.parallel(), &.{
        .x = x.ptr,
        .indices = first.ptr,
        .values = top.ptr,
        .rows = rows,
        .width = width,
    });
    const order = try gpa.alloc(i32, width);
    defer gpa.free(order);
    for (0..rows) |r| {
        const row = x[r * width ..][0..width];
        for (order, 0..) |*slot, i| slot.* = @intCast(i);
        std.mem.sort(i32, order, row, struct {
            fn before(context: []const S, i: i32, j: i32) bool {
                return firstOf(S, context, i, j);
            }
        }.before);
        try std.testing.expectEqualSlices(i32, order[0..k], ids[r * k ..][0..k]);
        try std.testing.expectEqual(order[0], first[r]);
        for (order[0..k], values[r * k ..][0..k]) |from, got| {
            try h.expectBits(S, row[@intCast(from)..][0..1], &.{got}, "topK values");
        }
        try h.expectBits(S, values[r * k ..][0..1], top[r..][0..1], "argmax value");
    }
}

test "rangeCheck sees valid ids only" {
    var pool: Pool = undefined;
    try pool.start(gpa, 1);
    defer pool.deinit();
    const ids = [_]i32{ -100, 5, 70000, 3, 9 };
    const mask = [_]u8{ 0, 1, 1, 1, 1 };
    const weights = [_]f32{ 1, 1, 0, 0.5, 1 };
    var low: i32 = undefined;
    var high: i32 = undefined;
    var a: args.RangeCheck = .{
        .ids = &ids,
        .mask = &mask,
        .weights = &weights,
        .low = &low,
        .high = &high,
        .count = ids.len,
    };
    try index.rangeCheck(f32, pool.parallel(), &a);
    try std.testing.expectEqual([2]i32{ 3, 9 }, [2]i32{ low, high });
    a.weights = null;
    try index.rangeCheck(f32, pool.parallel(), &a);
    try std.testing.expectEqual([2]i32{ 3, 70000 }, [2]i32{ low, high });
    a.mask = null;
    try index.rangeCheck(f32, pool.parallel(), &a);
    try std.testing.expectEqual([2]i32{ -100, 70000 }, [2]i32{ low, high });
    a.mask = &@as([5]u8, @splat(0));
    try index.rangeCheck(f32, pool.parallel(), &a);
    try std.testing.expectEqual([2]i32{ 0, -1 }, [2]i32{ low, high });
}
