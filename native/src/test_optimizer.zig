//! Tests of the optimiser kernels against reference/optimizer.zig.

const std = @import("std");
const args = @import("args/optimizer.zig");
const dtype = @import("dtype.zig");
const simd = @import("cpu/simd.zig");
const optimizer = @import("cpu/optimizer.zig");
const reference = @import("reference/optimizer.zig");
const h = @import("reference/buffers.zig");
const Parallel = @import("parallel.zig").Parallel;
const Pool = @import("runtime/pool.zig").Pool;
const gpa = h.gpa;

const Options = reference.Options;

/// The state of one tensor under the kernel (in A) or the reference (in f64).
fn State(comptime A: type) type {
    return struct {
        p: []A,
        moments: [3][]A,

        fn init(start: []const f64) !@This() {
            var state: @This() = .{ .p = try gpa.alloc(A, start.len), .moments = undefined };
            for (state.p, start) |*to, from| to.* = @floatCast(from);
            for (&state.moments) |*m| {
                m.* = try gpa.alloc(A, start.len);
                @memset(m.*, 0);
            }
            return state;
        }

        fn deinit(state: @This()) void {
            gpa.free(state.p);
            for (state.moments) |m| gpa.free(m);
        }
    };
}

fn callArgs(
    comptime A: type,
    o: Options,
    state: State(A),
    gradient: *const anyopaque,
) args.OptimizerStep {
    const kept = o.rule.moments();
    return .{
        .parameter = state.p.ptr,
        .gradient = gradient,
        .first = if (kept > 0) state.moments[0].ptr else null,
        .second = if (kept > 1) state.moments[1].ptr else null,
        .third = if (kept > 2) state.moments[2].ptr else null,
        .shadow = null,
        .factor = null,
        .norms = null,
        .count = state.p.len,
        .step = o.step,
        .learning_rate = o.learning_rate,
        .beta1 = o.beta1,
        .beta2 = o.beta2,
        .beta3 = o.beta3,
        .alpha = o.alpha,
        .eps = o.eps,
        .weight_decay = o.weight_decay,
        .gradient_scale = o.gradient_scale,
        .clip_value = o.clip_value,
        .rule = @backingInt(o.rule),
        .phase = @backingInt(args.Phase.whole),
    };
}

const rules = [_]args.Rule{
    .sgd, .momentum, .nesterov, .adam, .nadam, .adamax, .radam, .lamb, .ademamix,
};

test "twelve steps of every rule, decay, scale and value clip, odd sizes" {
    const seed = 21;
    errdefer h.printSeed(seed);
    var prng = std.Random.DefaultPrng.init(seed);
    inline for (.{ f32, f64, u16 }) |S| {
        for ([_]usize{ 1, 19, 4096, 9001 }) |count| {
            for (rules) |rule| try checkRule(S, prng.random(), rule, count);
        }
    }
}

fn checkRule(comptime S: type, random: std.Random, rule: args.Rule, count: usize) !void {
    errdefer std.debug.print("rule {s}\n", .{@tagName(rule)});
    const A = simd.Arithmetic(S);
    const start = try h.normal(f64, random, count, 1);
    defer gpa.free(start);
    for (start) |*x| x.* = @as(f32, @floatCast(x.*));
    const state: State(A) = try .init(start);
    defer state.deinit();
    const want: State(f64) = try .init(start);
    defer want.deinit();
    var pool: Pool = undefined;
    try pool.start(gpa, 2);
    defer pool.deinit();
    for (1..13) |t| {
        const gradient = try h.normal(S, random, count, 3);
        defer gpa.free(gradient);
        const g = try h.wide(S, gradient);
        defer gpa.free(g);
        const o: Options = .{
            .rule = rule,
            .step = t,
            .learning_rate = 0.01,
            .beta2 = 0.95,
            .weight_decay = 0.1,
            .gradient_scale = 0.25,
            .clip_value = if (t % 2 == 0) 0.6 else 0,
        };
        reference.step(o, want.p, g, want.moments[0], want.moments[1], want.moments[2]);
        try optimizer.optimizerStep(S, pool.parallel(), &callArgs(A, o, state, gradient.ptr));
        pool.resetScratch();
        // The project's bar for f32 optimisers is 2e-5; a moment of one element may nearly cancel.
        try h.expectNear(A, want.p, state.p, if (A == f64) 1e-12 else 5e-6, "parameter");
        for (want.moments[0..rule.moments()], state.moments[0..rule.moments()]) |w, m| {
            try h.expectNear(A, w, m, if (A == f64) 1e-11 else 2e-5, "moment");
        }
    }
}

test "threads 1 = 2 = 3 bit for bit; the shadow is the rounded parameter" {
    const seed = 22;
    errdefer h.printSeed(seed);
    var prng = std.Random.DefaultPrng.init(seed);
    const count = 13001;
    const start = try h.normal(f64, prng.random(), count, 1);
    defer gpa.free(start);
    const gradient = try h.normal(u16, prng.random(), count, 1);
    defer gpa.free(gradient);
    for (rules) |rule| {
        var first: ?State(f32) = null;
        defer if (first) |state| state.deinit();
        for ([_]u32{ 1, 2, 3 }) |threads| {
            var pool: Pool = undefined;
            try pool.start(gpa, threads);
            defer pool.deinit();
            const state: State(f32) = try .init(start);
            const shadow = try h.poisoned(u16, count);
            defer gpa.free(shadow);
            var o: Options = .{ .rule = rule, .step = 1, .learning_rate = 0.1 };
            o.weight_decay = 0.01;
            var a = callArgs(f32, o, state, gradient.ptr);
            a.shadow = shadow.ptr;
            try optimizer.optimizerStep(u16, pool.parallel(), &a);
            for (state.p, shadow) |p, s| try std.testing.expectEqual(dtype.toBf16(p), s);
            if (first) |one| {
                defer state.deinit();
                try h.expectBits(f32, one.p, state.p, @tagName(rule));
            } else first = state;
        }
    }
}

test "LAMB in two shards with summed norms equals LAMB on the whole tensor" {
    const seed = 23;
    errdefer h.printSeed(seed);
    var prng = std.Random.DefaultPrng.init(seed);
    const count = 1000;
    const start = try h.normal(f64, prng.random(), count, 1);
    defer gpa.free(start);
    const gradient = try h.normal(f64, prng.random(), count, 1);
    defer gpa.free(gradient);
    const o: Options = .{ .rule = .lamb, .step = 1, .learning_rate = 0.1, .weight_decay = 0.1 };
    var pool: Pool = undefined;
    try pool.start(gpa, 2);
    defer pool.deinit();
    const whole: State(f64) = try .init(start);
    defer whole.deinit();
    try optimizer.optimizerStep(f64, pool.parallel(), &callArgs(f64, o, whole, gradient.ptr));
    const cut = 300;
    const shards = [2]State(f64){ try .init(start[0..cut]), try .init(start[cut..]) };
    defer for (shards) |shard| shard.deinit();
    var total: [2]f64 = @splat(0);
    for (shards, [2]usize{ 0, cut }) |shard, first| {
        var norms: [2]f64 = @splat(std.math.nan(f64));
        var a = callArgs(f64, o, shard, gradient.ptr + first);
        a.norms = &norms;
        a.phase = @backingInt(args.Phase.norms);
        try optimizer.optimizerStep(f64, pool.parallel(), &a);
        // The first phase leaves the parameters alone.
        try h.expectBits(f64, start[first..][0..shard.p.len], shard.p, "parameter");
        for (&total, norms) |*sum, norm| sum.* += norm;
    }
    for (shards, [2]usize{ 0, cut }) |shard, first| {
        var a = callArgs(f64, o, shard, gradient.ptr + first);
        a.norms = &total;
        a.phase = @backingInt(args.Phase.update);
        try optimizer.optimizerStep(f64, pool.parallel(), &a);
        try h.expectNear(f64, whole.p[first..][0..shard.p.len], shard.p, 1e-14, "sharded LAMB");
    }
}

test "LAMB without decay leaves a zero tensor's ratio at 1" {
    const start: [5]f64 = @splat(0);
    const gradient: [5]f64 = .{ 1, -2, 3, -4, 5 };
    const state: State(f64) = try .init(&start);
    defer state.deinit();
    var pool: Pool = undefined;
    try pool.start(gpa, 1);
    defer pool.deinit();
    const o: Options = .{ .rule = .lamb, .step = 1, .learning_rate = 0.5 };
    try optimizer.optimizerStep(f64, pool.parallel(), &callArgs(f64, o, state, &gradient));
    // m̂/√v̂ is the sign of g at the first step.
    for (state.p, gradient) |p, g| {
        try std.testing.expectApproxEqAbs(std.math.copysign(@as(f64, 0.5), -g), p, 1e-7);
    }
}

test "a NaN gradient is not hidden by the value clip" {
    const start: [3]f64 = .{ 1, 1, 1 };
    const gradient: [3]f32 = .{ std.math.nan(f32), std.math.inf(f32), 2 };
    const state: State(f32) = try .init(&start);
    defer state.deinit();
    var pool: Pool = undefined;
    try pool.start(gpa, 1);
    defer pool.deinit();
    const o: Options = .{ .rule = .sgd, .step = 1, .learning_rate = 1, .clip_value = 0.5 };
    try optimizer.optimizerStep(f32, pool.parallel(), &callArgs(f32, o, state, &gradient));
    try std.testing.expect(std.math.isNan(state.p[0]));
    try std.testing.expectEqual([2]f32{ 0.5, 0.5 }, state.p[1..3].*);
}

test "clip factor: below, above, off, not finite; applied as the gradient factor" {
    var pool: Pool = undefined;
    try pool.start(gpa, 1);
    defer pool.deinit();
    const inf = std.math.inf(f64);
    const cases = [_]struct { squares: [2]f64, limit: f64, norm: f64, factor: f64 }{
        .{ .squares = .{ 9, 16 }, .limit = 0.5, .norm = 5, .factor = 0.1 },
        .{ .squares = .{ 0.09, 0.16 }, .limit = 0.5, .norm = 0.5, .factor = 1 },
        .{ .squares = .{ 9, 16 }, .limit = 0, .norm = 5, .factor = 1 },
        .{ .squares = .{ 9, inf }, .limit = 0.5, .norm = inf, .factor = 1 },
    };
    for (cases) |case| {
        var norm: f64 = std.math.nan(f64);
        var factor: f64 = std.math.nan(f64);
        try optimizer.clipFactor(f64, pool.parallel(), &.{
            .squares = &case.squares,
            .norm = &norm,
            .factor = &factor,
            .count = 2,
            .max_norm = case.limit,
        });
        try std.testing.expectEqual(case.norm, norm);
        try std.testing.expectEqual(case.factor, factor);
        const state: State(f64) = try .init(&.{1});
        defer state.deinit();
        const o: Options = .{ .rule = .sgd, .step = 1, .learning_rate = 1, .gradient_scale = 0.5 };
        var a = callArgs(f64, o, state, &@as(f64, 3));
        a.factor = &factor;
        try optimizer.optimizerStep(f64, pool.parallel(), &a);
        try std.testing.expectApproxEqAbs(1 - 1.5 * case.factor, state.p[0], 1e-15);
    }
}
