//! Tests of the cross entropy over logits against reference/loss.zig, whose gradient is checked by
//! central differences.

const std = @import("std");
const simd = @import("cpu/simd.zig");
const loss = @import("cpu/loss.zig");
const reference = @import("reference/loss.zig");
const h = @import("reference/buffers.zig");
const Parallel = @import("parallel.zig").Parallel;
const Pool = @import("runtime/pool.zig").Pool;
const gpa = h.gpa;

const Options = reference.Options;

const options = [_]Options{
    .{},
    .{ .soft_cap = 3 },
    .{ .label_smoothing = 0.1 },
    .{ .z_loss = 1e-2 },
    .{ .soft_cap = 30, .label_smoothing = 0.2, .z_loss = 1e-3 },
};

test "the reference gradient equals central differences" {
    const seed = 41;
    errdefer h.printSeed(seed);
    var prng = std.Random.DefaultPrng.init(seed);
    for (options) |o| for ([_]usize{ 1, 2, 7, 31 }) |vocab| {
        const r = try h.normal(f64, prng.random(), vocab, 2);
        defer gpa.free(r);
        const target = prng.random().uintLessThan(usize, vocab);
        for (0..vocab) |j| {
            const step = 1e-5;
            const middle = r[j];
            r[j] = middle + step;
            const above = reference.row(r, target, o);
            r[j] = middle - step;
            const below = reference.row(r, target, o);
            r[j] = middle;
            const numeric = (above - below) / (2 * step);
            try std.testing.expectApproxEqAbs(numeric, reference.slope(r, target, j, o), 1e-8);
        }
    };
}

const Shape = struct { rows: usize, vocab: usize };

/// Random logits, targets (nonsense where masked), mask and weights.
fn Case(comptime S: type) type {
    const A = simd.Arithmetic(S);
    return struct {
        shape: Shape,
        o: Options,
        logits: []S,
        targets: []i32,
        mask: []u8,
        weights: []A,
        wide: []f64,

        fn init(random: std.Random, shape: Shape, o: Options) !@This() {
            const logits = try h.normal(S, random, shape.rows * shape.vocab, 2);
            const targets = try gpa.alloc(i32, shape.rows);
            const mask = try gpa.alloc(u8, shape.rows);
            const weights = try gpa.alloc(A, shape.rows);
            for (targets, mask, weights, 0..) |*t, *m, *w, i| {
                t.* = @intCast(random.uintLessThan(usize, shape.vocab));
                m.* = if (i % 5 == 2) 0 else 1;
                w.* = if (i % 7 == 3) 0 else @floatCast(0.5 + random.float(f64));
                // An index far outside crashes whoever reads it.
                if (m.* == 0 or w.* == 0) t.* = std.math.minInt(i32);
            }
            return .{
                .shape = shape,
                .o = o,
                .logits = logits,
                .targets = targets,
                .mask = mask,
                .weights = weights,
                .wide = try h.wide(S, logits),
            };
        }

        fn deinit(case: @This()) void {
            gpa.free(case.logits);
            gpa.free(case.targets);
            gpa.free(case.mask);
            gpa.free(case.weights);
            gpa.free(case.wide);
        }

        fn weight(case: @This(), i: usize) f64 {
            return if (case.mask[i] == 0) 0 else case.weights[i];
        }

        fn row(case: @This(), i: usize) []const f64 {
            return case.wide[i * case.shape.vocab ..][0..case.shape.vocab];
        }
    };
}

/// What one call of both kernels gives.
fn Result(comptime S: type) type {
    const A = simd.Arithmetic(S);
    return struct {
        loss: A = std.math.nan(A),
        weight_sum: A = std.math.nan(A),
        count: i32 = -1,
        correct: i32 = -1,
        rows: []A,
        lse: []A,
        dlogits: []S,

        fn compute(parallel: *const Parallel, case: Case(S), upstream: A, scale: f64) !@This() {
            var result: @This() = .{
                .rows = try h.poisoned(A, case.shape.rows),
                .lse = try h.poisoned(A, case.shape.rows),
                .dlogits = try h.poisoned(S, case.logits.len),
            };
            try loss.crossEntropyForward(S, parallel, &.{
                .logits = case.logits.ptr,
                .targets = case.targets.ptr,
                .mask = case.mask.ptr,
                .weights = case.weights.ptr,
                .loss = &result.loss,
                .count = &result.count,
                .weight_sum = &result.weight_sum,
                .correct = &result.correct,
                .loss_rows = result.rows.ptr,
                .lse = result.lse.ptr,
                .rows = case.shape.rows,
                .vocab = case.shape.vocab,
                .soft_cap = case.o.soft_cap,
                .label_smoothing = case.o.label_smoothing,
                .z_loss = case.o.z_loss,
            });
            try loss.crossEntropyBackward(S, parallel, &.{
                .logits = case.logits.ptr,
                .targets = case.targets.ptr,
                .mask = case.mask.ptr,
                .weights = case.weights.ptr,
                .lse = result.lse.ptr,
                .dloss = &upstream,
                .dloss_rows = case.weights.ptr,
                .dlogits = result.dlogits.ptr,
                .rows = case.shape.rows,
                .vocab = case.shape.vocab,
                .soft_cap = case.o.soft_cap,
                .label_smoothing = case.o.label_smoothing,
                .z_loss = case.o.z_loss,
                .grad_scale = scale,
            });
            return result;
        }

        fn deinit(result: @This()) void {
            gpa.free(result.rows);
            gpa.free(result.lse);
            gpa.free(result.dlogits);
        }
    };
}

test "forward and backward against the reference, masks, weights, every option, odd sizes" {
    const seed = 42;
    errdefer h.printSeed(seed);
    var prng = std.Random.DefaultPrng.init(seed);
    const shapes = [_]Shape{
        .{ .rows = 1, .vocab = 1 },
        .{ .rows = 33, .vocab = 5 },
        .{ .rows = 40, .vocab = 257 },
        .{ .rows = 9, .vocab = 9001 },
    };
    inline for (.{ f32, f64, u16 }) |S| for (shapes) |shape| for (options) |o| {
        try check(S, prng.random(), shape, o);
    };
}

fn check(comptime S: type, random: std.Random, shape: Shape, o: Options) !void {
    const A = simd.Arithmetic(S);
    const case: Case(S) = try .init(random, shape, o);
    defer case.deinit();
    var pool: Pool = undefined;
    try pool.start(gpa, 2);
    defer pool.deinit();
    const got: Result(S) = try .compute(pool.parallel(), case, 0.5, 0.125);
    defer got.deinit();
    const rows = try gpa.alloc(f64, shape.rows);
    defer gpa.free(rows);
    const lse = try gpa.alloc(f64, shape.rows);
    defer gpa.free(lse);
    const dlogits = try gpa.alloc(f64, case.logits.len);
    defer gpa.free(dlogits);
    var total: [2]f64 = @splat(0);
    var counts: [2]i32 = @splat(0);
    for (0..shape.rows) |i| {
        const w = case.weight(i);
        rows[i] = 0;
        lse[i] = if (w == 0) 0 else reference.logSumExp(case.row(i), o);
        for (dlogits[i * shape.vocab ..][0..shape.vocab], 0..) |*d, j| {
            d.* = 0;
            if (w == 0) continue;
            const target: usize = @intCast(case.targets[i]);
            const k = 0.125 * (0.5 + @as(f64, case.weights[i])) * w;
            d.* = k * reference.slopeWith(case.row(i), target, j, o, lse[i]);
        }
        if (w == 0) continue;
        const target: usize = @intCast(case.targets[i]);
        rows[i] = w * reference.row(case.row(i), target, o);
        total[0] += rows[i];
        total[1] += w;
        counts[0] += 1;
        counts[1] += @intFromBool(reference.argmax(case.row(i)) == target);
    }
    // f32: a few roundings per element and of exp (2 ulp); bf16 gradients are rounded once to 2⁻⁹.
    const single = 3e-6;
    const exact = if (A == f64) 1e-12 else single;
    try std.testing.expectEqual(counts, [2]i32{ got.count, got.correct });
    try h.expectNear(A, &total, &.{ got.loss, got.weight_sum }, exact, "loss and weights");
    try h.expectNear(A, rows, got.rows, exact, "loss rows");
    try h.expectNear(A, lse, got.lse, exact, "lse");
    // A single logit: p − q cancels and only the z-loss term, 1e-2 of what cancelled, is left.
    const slope: f64 = if (shape.vocab == 1) 1e-4 else single;
    try h.expectNear(S, dlogits, got.dlogits, h.bar(S, slope, 3e-3), "dlogits");
}

test "threads 1 = 2 = 3 bit for bit, the gradient in place" {
    const seed = 43;
    errdefer h.printSeed(seed);
    var prng = std.Random.DefaultPrng.init(seed);
    inline for (.{ f32, f64, u16 }) |S| {
        const case: Case(S) = try .init(prng.random(), .{ .rows = 171, .vocab = 613 }, options[4]);
        defer case.deinit();
        var pools: [3]Pool = undefined;
        var results: [3]Result(S) = undefined;
        for (&pools, &results, 1..) |*pool, *result, threads| {
            try pool.start(gpa, @intCast(threads));
            result.* = try .compute(pool.parallel(), case, 1, 1);
        }
        defer for (&pools, results) |*pool, result| {
            pool.deinit();
            result.deinit();
        };
        for (results[1..]) |result| {
            try h.expectBits(S, results[0].dlogits, result.dlogits, "dlogits");
            try h.expectBits(simd.Arithmetic(S), results[0].rows, result.rows, "rows");
            try std.testing.expectEqual(results[0].loss, result.loss);
        }
        try loss.crossEntropyBackward(S, pools[1].parallel(), &.{
            .logits = case.logits.ptr,
            .targets = case.targets.ptr,
            .mask = case.mask.ptr,
            .weights = case.weights.ptr,
            .lse = results[0].lse.ptr,
            .dloss = &@as(simd.Arithmetic(S), 1),
            .dloss_rows = case.weights.ptr,
            .dlogits = case.logits.ptr,
            .rows = case.shape.rows,
            .vocab = case.shape.vocab,
            .soft_cap = case.o.soft_cap,
            .label_smoothing = case.o.label_smoothing,
            .z_loss = case.o.z_loss,
            .grad_scale = 1,
        });
        try h.expectBits(S, results[0].dlogits, case.logits, "dlogits in place");
    }
}

test "large logits stay finite, a NaN logit reaches the loss, no valid row gives 0" {
    var pool: Pool = undefined;
    try pool.start(gpa, 1);
    defer pool.deinit();
    var prng = std.Random.DefaultPrng.init(44);
    var case: Case(f32) = try .init(prng.random(), .{ .rows = 3, .vocab = 4 }, .{});
    defer case.deinit();
    case.logits[0..12].* = .{ 3e38, -3e38, 0, 0, 1e4, 1e4, 1e4, 1e4, 0, 0, 0, 0 };
    case.targets[0..3].* = .{ 0, 1, 2 };
    @memset(case.mask, 1);
    @memset(case.weights, 1);
    const finite: Result(f32) = try .compute(pool.parallel(), case, 1, 1);
    defer finite.deinit();
    try std.testing.expectApproxEqAbs(2 * @log(4.0), finite.loss, 1e-5);
    case.logits[6] = std.math.nan(f32);
    const poisoned: Result(f32) = try .compute(pool.parallel(), case, 1, 1);
    defer poisoned.deinit();
    try std.testing.expect(std.math.isNan(poisoned.loss));
    case.mask[1] = 0;
    const masked: Result(f32) = try .compute(pool.parallel(), case, 1, 1);
    defer masked.deinit();
    try std.testing.expectApproxEqAbs(@log(4.0), masked.loss, 1e-5);
    @memset(case.mask, 0);
    const none: Result(f32) = try .compute(pool.parallel(), case, 1, 1);
    defer none.deinit();
    try std.testing.expectEqual([2]f32{ 0, 0 }, [2]f32{ none.loss, none.weight_sum });
    try std.testing.expectEqual([2]i32{ 0, 0 }, [2]i32{ none.count, none.correct });
    for (none.dlogits) |d| try std.testing.expectEqual(0, d);
}
