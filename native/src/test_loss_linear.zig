//! Tests of the fused head against logits and gradients of the whole batch in float64.

const std = @import("std");
const dtype = @import("dtype.zig");
const simd = @import("cpu/simd.zig");
const loss = @import("cpu/loss.zig");
const products = @import("cpu/loss_product.zig");
const chunkRows = @import("cpu/loss_linear.zig").chunkRows;
const reference = @import("reference/loss.zig");
const h = @import("reference/buffers.zig");
const Parallel = @import("parallel.zig").Parallel;
const Pool = @import("runtime/pool.zig").Pool;
const gpa = h.gpa;

const Options = reference.Options;
const Shape = struct { rows: usize, width: usize, vocab: usize };

/// Inputs; W is the storage type of the weight. With `ragged`, some rows are not valid and hold
/// NaN.
fn Case(comptime S: type, comptime W: type) type {
    return struct {
        shape: Shape,
        o: Options,
        hidden: []S,
        weight: []W,
        targets: []i32,
        mask: []u8,
        scale: f64 = 0.25,

        fn init(random: std.Random, shape: Shape, o: Options, ragged: bool) !@This() {
            const width: f64 = @floatFromInt(shape.width);
            const case: @This() = .{
                .shape = shape,
                .o = o,
                .hidden = try h.normal(S, random, shape.rows * shape.width, 1),
                .weight = try h.normal(W, random, shape.vocab * shape.width, 2 / @sqrt(width)),
                .targets = try gpa.alloc(i32, shape.rows),
                .mask = try gpa.alloc(u8, shape.rows),
            };
            for (case.targets, case.mask, 0..) |*t, *m, i| {
                m.* = if (ragged and random.uintLessThan(u32, 3) == 0) 0 else 1;
                t.* = @intCast(random.uintLessThan(usize, shape.vocab));
                if (m.* == 1) continue;
                t.* = -1;
                const nan = std.math.nan(simd.Arithmetic(S));
                const row = case.hidden.ptr + i * shape.width;
                for (0..shape.width) |j| simd.put(S, row, j, nan);
            }
            return case;
        }

        fn deinit(case: @This()) void {
            gpa.free(case.hidden);
            gpa.free(case.weight);
            gpa.free(case.targets);
            gpa.free(case.mask);
        }
    };
}

fn Result(comptime S: type) type {
    const A = simd.Arithmetic(S);
    return struct {
        loss: A = std.math.nan(A),
        count: i32 = -1,
        correct: i32 = -1,
        rows: []A,
        lse: []A,
        dhidden: []S,
        dweight: []A,

        /// `start`: null overwrites a poisoned dweight, a number is added to.
        fn compute(parallel: *const Parallel, case: anytype, start: ?A, gradients: bool) !@This() {
            const W = std.meta.Child(@TypeOf(case.weight));
            const shape = case.shape;
            var result: @This() = .{
                .rows = try h.poisoned(A, shape.rows),
                .lse = try h.poisoned(A, shape.rows),
                .dhidden = try h.poisoned(S, shape.rows * shape.width),
                .dweight = try h.poisoned(A, shape.vocab * shape.width),
            };
            if (start) |value| @memset(result.dweight, value);
            const code: dtype.DType = if (W == f64) .f64 else if (W == f32) .f32 else .bf16;
            try loss.linearCrossEntropy(S, parallel, &.{
                .hidden = case.hidden.ptr,
                .weight = case.weight.ptr,
                .targets = case.targets.ptr,
                .mask = case.mask.ptr,
                .weights = null,
                .loss = &result.loss,
                .count = &result.count,
                .weight_sum = null,
                .correct = &result.correct,
                .loss_rows = result.rows.ptr,
                .lse = result.lse.ptr,
                .dhidden = if (gradients) result.dhidden.ptr else null,
                .dweight = if (gradients) result.dweight.ptr else null,
                .rows = shape.rows,
                .width = shape.width,
                .vocab = shape.vocab,
                .soft_cap = case.o.soft_cap,
                .label_smoothing = case.o.label_smoothing,
                .z_loss = case.o.z_loss,
                .grad_scale = case.scale,
                .accumulate_dweight = @intFromBool(start != null),
                .weight_dtype = @backingInt(code),
            });
            return result;
        }

        fn deinit(result: @This()) void {
            gpa.free(result.rows);
            gpa.free(result.lse);
            gpa.free(result.dhidden);
            gpa.free(result.dweight);
        }
    };
}

const options = [_]Options{
    .{},
    .{ .soft_cap = 30, .label_smoothing = 0.1, .z_loss = 1e-3 },
};

test "losses and gradients, masks, mixed weights, odd sizes, several chunks" {
    const seed = 45;
    errdefer h.printSeed(seed);
    var prng = std.Random.DefaultPrng.init(seed);
    const shapes = [_]Shape{
        .{ .rows = 1, .width = 1, .vocab = 1 },
        .{ .rows = 70, .width = 19, .vocab = 33 },
        .{ .rows = 300, .width = 40, .vocab = 513 },
    };
    for (shapes) |shape| for (options) |o| for ([_]bool{ false, true }) |ragged| {
        try check(f64, f64, prng.random(), shape, o, ragged);
        try check(f32, f32, prng.random(), shape, o, ragged);
        try check(u16, u16, prng.random(), shape, o, ragged);
        try check(u16, f32, prng.random(), shape, o, ragged);
    };
    // More valid rows than one chunk holds.
    const long: Shape = .{ .rows = 450, .width = 3, .vocab = 9001 };
    try std.testing.expectEqual(256, chunkRows(f32, long.vocab, long.rows));
    try check(f32, f32, prng.random(), long, options[1], true);
}

fn check(
    comptime S: type,
    comptime W: type,
    random: std.Random,
    shape: Shape,
    o: Options,
    ragged: bool,
) !void {
    const A = simd.Arithmetic(S);
    const case: Case(S, W) = try .init(random, shape, o, ragged);
    defer case.deinit();
    var pool: Pool = undefined;
    try pool.start(gpa, 2);
    defer pool.deinit();
    const got: Result(S) = try .compute(pool.parallel(), case, null, true);
    defer got.deinit();
    pool.resetScratch();
    const want: Result(f64) = try expected(S, W, case);
    defer want.deinit();
    // A single logit: p − q cancels and only the z-loss term, 1e-3 of what cancelled, is left.
    // Else the bar of the reference cases in f32: dhidden sums over the whole vocabulary in f32.
    const single: f64 = if (shape.vocab == 1) 1e-4 else 2e-5;
    const exact = if (A == f64) 1e-11 else single;
    try std.testing.expectEqual(want.count, got.count);
    try std.testing.expectEqual(want.correct, got.correct);
    try h.expectNear(A, &.{want.loss}, &.{got.loss}, exact, "loss");
    try h.expectNear(A, want.rows, got.rows, exact, "loss rows");
    try h.expectNear(A, want.lse, got.lse, exact, "lse");
    // Logits and their gradients stay in A: only the store of dhidden rounds to bf16.
    try h.expectNear(S, want.dhidden, got.dhidden, h.bar(S, single, 3e-3), "dhidden");
    try h.expectNear(A, want.dweight, got.dweight, exact, "dweight");

    const added: Result(S) = try .compute(pool.parallel(), case, 0.5, true);
    defer added.deinit();
    pool.resetScratch();
    for (want.dweight) |*x| x.* += 0.5;
    try h.expectNear(A, want.dweight, added.dweight, exact, "dweight added");
    const forward: Result(S) = try .compute(pool.parallel(), case, null, false);
    defer forward.deinit();
    try h.expectBits(A, got.rows, forward.rows, "loss rows without gradients");
}

/// The same from the whole matrix of logits, in float64.
fn expected(comptime S: type, comptime W: type, case: Case(S, W)) !Result(f64) {
    const shape = case.shape;
    const x = try h.wide(S, case.hidden);
    defer gpa.free(x);
    const w = try h.wide(W, case.weight);
    defer gpa.free(w);
    const r = try reference.logits(gpa, x, w, shape.width);
    defer gpa.free(r);
    var want: Result(f64) = .{
        .loss = 0,
        .count = 0,
        .correct = 0,
        .rows = try gpa.alloc(f64, shape.rows),
        .lse = try gpa.alloc(f64, shape.rows),
        .dhidden = try gpa.alloc(f64, x.len),
        .dweight = try gpa.alloc(f64, w.len),
    };
    for ([_][]f64{ want.rows, want.lse, want.dhidden, want.dweight }) |out| @memset(out, 0);
    for (0..shape.rows) |i| {
        if (case.mask[i] == 0) continue;
        const row = r[i * shape.vocab ..][0..shape.vocab];
        const target: usize = @intCast(case.targets[i]);
        want.rows[i] = reference.row(row, target, case.o);
        want.lse[i] = reference.logSumExp(row, case.o);
        want.loss += want.rows[i];
        want.count += 1;
        want.correct += @intFromBool(reference.argmax(row) == target);
        for (0..shape.vocab) |j| {
            const d = case.scale * reference.slopeWith(row, target, j, case.o, want.lse[i]);
            for (0..shape.width) |k| {
                want.dhidden[i * shape.width + k] += d * w[j * shape.width + k];
                want.dweight[j * shape.width + k] += d * x[i * shape.width + k];
            }
        }
    }
    return want;
}

test "threads 1 = 2 = 3 bit for bit" {
    const seed = 46;
    errdefer h.printSeed(seed);
    var prng = std.Random.DefaultPrng.init(seed);
    const shape: Shape = .{ .rows = 150, .width = 70, .vocab = 1031 };
    inline for (.{ f32, u16 }) |S| for ([_]bool{ false, true }) |ragged| {
        const case: Case(S, f32) = try .init(prng.random(), shape, options[1], ragged);
        defer case.deinit();
        var first: ?Result(S) = null;
        defer if (first) |result| result.deinit();
        for ([_]u32{ 1, 2, 3 }) |threads| {
            var pool: Pool = undefined;
            try pool.start(gpa, threads);
            defer pool.deinit();
            const result: Result(S) = try .compute(pool.parallel(), case, 1, true);
            if (first) |one| {
                defer result.deinit();
                try std.testing.expectEqual(one.loss, result.loss);
                try h.expectBits(S, one.dhidden, result.dhidden, "dhidden");
                try h.expectBits(f32, one.dweight, result.dweight, "dweight");
            } else first = result;
        }
    };
}

test "no valid row: zero loss, zero gradients, dweight left alone when it is added to" {
    var prng = std.Random.DefaultPrng.init(47);
    const shape: Shape = .{ .rows = 5, .width = 8, .vocab = 9 };
    const case: Case(f32, f32) = try .init(prng.random(), shape, .{}, false);
    defer case.deinit();
    @memset(case.mask, 0);
    var pool: Pool = undefined;
    try pool.start(gpa, 2);
    defer pool.deinit();
    for ([_]?f32{ null, 0.5 }) |start| {
        const result: Result(f32) = try .compute(pool.parallel(), case, start, true);
        defer result.deinit();
        try std.testing.expectEqual(0, result.loss);
        try std.testing.expectEqual([2]i32{ 0, 0 }, [2]i32{ result.count, result.correct });
        for (result.rows) |x| try std.testing.expectEqual(0, x);
        for (result.dhidden) |x| try std.testing.expectEqual(0, x);
        for (result.dweight) |x| try std.testing.expectEqual(start orelse 0, x);
    }
}

test "scratch of the products is reused from chunk to chunk" {
    var pool: Pool = undefined;
    try pool.start(gpa, 2);
    defer pool.deinit();
    var scratch: products.Scratch = .init(pool.parallel());
    const inner = scratch.parallel();
    const sizes = [_]usize{ 3 << 20, 1000, 2 << 20 };
    for (0..10) |round| {
        scratch.reset();
        var blocks: [sizes.len][]align(64) u8 = undefined;
        for (&blocks, sizes) |*block, size| block.* = try inner.alloc(u8, size - round);
        for (blocks, 0..) |block, i| @memset(block, @intCast(i));
        // Blocks that are alive at the same time do not overlap.
        for (blocks, 0..) |block, i| {
            for (block) |byte| try std.testing.expectEqual(i, byte);
        }
    }
    // A new block for each of the three sizes and nothing more.
    var total: usize = 0;
    for (pool.scratch.blocks.items) |block| total += block.len;
    try std.testing.expect(total <= 12 << 20);
}
