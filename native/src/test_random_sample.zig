//! Tests of dropout and of token sampling against reference/random.zig.

const std = @import("std");
const args = @import("args/random.zig");
const simd = @import("cpu/simd.zig");
const kernels = @import("cpu/random.zig");
const reference = @import("reference/random.zig");
const h = @import("reference/buffers.zig");
const Parallel = @import("parallel.zig").Parallel;
const Pool = @import("runtime/pool.zig").Pool;
const gpa = h.gpa;

const key = [2]u32{ 0x2468ace0, 0x13579bdf };

test "dropout: mask by place, scale, in place, any split of the tensor" {
    const seed = 32;
    errdefer h.printSeed(seed);
    var prng = std.Random.DefaultPrng.init(seed);
    inline for (.{ f32, f64, u16 }) |S| {
        for ([_][3]usize{ .{ 2, 3, 1 }, .{ 3, 5, 70 }, .{ 2, 40, 256 }, .{ 1, 2, 33 } }) |shape| {
            for ([_]f64{ 0, 0.3, 0.9, 1 }) |keep| {
                for ([_]u64{ 0, 5, 64 }) |first| {
                    try checkDropout(S, prng.random(), shape, keep, first);
                }
            }
        }
    }
}

fn checkDropout(
    comptime S: type,
    random: std.Random,
    shape: [3]usize,
    keep: f64,
    first: u64,
) !void {
    const A = simd.Arithmetic(S);
    const samples, const positions, const features = shape;
    const x = try h.normal(S, random, samples * positions * features, 1);
    defer gpa.free(x);
    const want = try h.poisoned(S, x.len);
    defer gpa.free(want);
    const scale: A = @floatCast(1 / keep);
    for (0..x.len) |i| {
        const feature = first + i % features;
        const position: u32 = @intCast(7 + i / features % positions);
        const row: u32 = @intCast(11 + i / features / positions);
        const kept = reference.kept(row, position, feature, keep, key);
        simd.put(S, want.ptr, i, if (kept) simd.get(S, x.ptr, i) * scale else 0);
    }
    for ([_]u32{ 1, 2, 3 }) |threads| {
        var pool: Pool = undefined;
        try pool.start(gpa, threads);
        defer pool.deinit();
        const y = try gpa.dupe(S, x);
        defer gpa.free(y);
        try kernels.dropoutForward(S, pool.parallel(), &.{
            .x = y.ptr,
            .y = y.ptr,
            .samples = samples,
            .positions = positions,
            .features = features,
            .first_sample = 11,
            .first_position = 7,
            .first_feature = first,
            .keep = keep,
            .key_low = key[0],
            .key_high = key[1],
        });
        try h.expectBits(S, want, y, "dropout");
    }
}

test "dropout keeps the share it is asked for" {
    var pool: Pool = undefined;
    try pool.start(gpa, 2);
    defer pool.deinit();
    const y = try gpa.alloc(f32, 8 * 64 * 512);
    defer gpa.free(y);
    @memset(y, 1);
    try kernels.dropoutForward(f32, pool.parallel(), &.{
        .x = y.ptr,
        .y = y.ptr,
        .samples = 8,
        .positions = 64,
        .features = 512,
        .first_sample = 0,
        .first_position = 0,
        .first_feature = 0,
        .keep = 0.8,
        .key_low = key[0],
        .key_high = key[1],
    });
    var kept: f64 = 0;
    for (y) |x| kept += if (x != 0) 1 else 0;
    // 262,144 trials: standard error 0.0008.
    try std.testing.expectApproxEqAbs(0.8, kept / @as(f64, @floatFromInt(y.len)), 0.004);
}

fn draw(
    comptime S: type,
    parallel: *const Parallel,
    logits: []const S,
    settings: []const args.SampleSettings,
    draws: []const args.SampleDraw,
) ![]i32 {
    const tokens = try h.poisoned(i32, settings.len);
    try kernels.categoricalSample(S, parallel, &.{
        .logits = logits.ptr,
        .settings = settings.ptr,
        .draws = draws.ptr,
        .tokens = tokens.ptr,
        .rows = settings.len,
        .vocab = logits.len / settings.len,
    });
    return tokens;
}

fn setting(random: std.Random, vocab: usize) args.SampleSettings {
    const few: f64 = @floatFromInt(random.uintAtMost(usize, @min(vocab + 2, 40)));
    return .{
        .temperature = if (random.uintLessThan(u32, 6) == 0) 0 else 0.2 + 2 * random.float(f64),
        .top_p = if (random.boolean()) 1 else 0.02 + 0.97 * random.float(f64),
        .min_p = if (random.boolean()) 0 else 0.2 * random.float(f64),
        .top_k = if (random.boolean()) 0 else few,
    };
}

test "sampled tokens equal the reference, row by row, at any batch and thread count" {
    const seed = 33;
    errdefer h.printSeed(seed);
    var prng = std.Random.DefaultPrng.init(seed);
    const random = prng.random();
    for ([_]usize{ 1, 2, 9, 300, 1003 }) |vocab| inline for (.{ f32, f64, u16 }) |S| {
        const rows = 150;
        // bf16 logits and small alphabets give many equal probabilities.
        const logits = try h.normal(S, random, rows * vocab, 3);
        defer gpa.free(logits);
        var settings: [rows]args.SampleSettings = undefined;
        var draws: [rows]args.SampleDraw = undefined;
        for (&settings, &draws, 0..) |*s, *d, r| {
            s.* = setting(random, vocab);
            d.* = .{
                .key_low = key[0],
                .key_high = key[1],
                .position = @intCast(r),
                .choice = 1,
                .prompt = 2,
                .spare = 0,
            };
        }
        var pool: Pool = undefined;
        try pool.start(gpa, 2);
        defer pool.deinit();
        const tokens = try draw(S, pool.parallel(), logits, &settings, &draws);
        defer gpa.free(tokens);
        for (tokens, 0..) |token, r| {
            const z = try h.wide(S, logits[r * vocab ..][0..vocab]);
            defer gpa.free(z);
            const want = try reference.sample(gpa, z, settings[r], draws[r]);
            try std.testing.expectEqual(want, @as(usize, @intCast(token)));
            const one = logits[r * vocab ..][0..vocab];
            const alone = try draw(S, pool.parallel(), one, settings[r..][0..1], draws[r..][0..1]);
            defer gpa.free(alone);
            try std.testing.expectEqual(token, alone[0]);
            pool.resetScratch();
        }
    };
}

test "frequencies follow the distribution; excluded tokens are never drawn" {
    var pool: Pool = undefined;
    try pool.start(gpa, 2);
    defer pool.deinit();
    const rows = 20_000;
    const row = [5]f32{ @log(0.4), @log(0.1), std.math.nan(f32), @log(0.3), @log(0.2) };
    const logits = try gpa.alloc(f32, rows * row.len);
    defer gpa.free(logits);
    const settings = try gpa.alloc(args.SampleSettings, rows);
    defer gpa.free(settings);
    const draws = try gpa.alloc(args.SampleDraw, rows);
    defer gpa.free(draws);
    for (settings, draws, 0..) |*s, *d, r| {
        logits[r * row.len ..][0..row.len].* = row;
        s.* = .{ .temperature = 1, .top_p = 0.75, .min_p = 0, .top_k = 0 };
        d.* = .{
            .key_low = 1,
            .key_high = 2,
            .position = @intCast(r),
            .choice = 0,
            .prompt = 0,
            .spare = 0,
        };
    }
    const tokens = try draw(f32, pool.parallel(), logits, settings, draws);
    defer gpa.free(tokens);
    var counts: [5]f64 = @splat(0);
    for (tokens) |token| counts[@intCast(token)] += 1.0 / @as(f64, rows);
    // 0.4 + 0.3 < 0.75 ≤ 0.4 + 0.3 + 0.2: ids 0, 3 and 4 remain; four standard errors are 0.014.
    for ([5]f64{ 4.0 / 9.0, 0, 0, 3.0 / 9.0, 2.0 / 9.0 }, counts) |want, got| {
        try std.testing.expectApproxEqAbs(want, got, @as(f64, if (want == 0) 0 else 0.014));
    }
}

test "greedy and degenerate rows" {
    var pool: Pool = undefined;
    try pool.start(gpa, 1);
    defer pool.deinit();
    const inf = std.math.inf(f32);
    const nan = std.math.nan(f32);
    const logits = [_]f32{
        1, 3, 3, nan, // greedy: the lowest id of the largest
        -inf, inf, 0, inf, // +Inf takes all
        nan, -inf, -inf, nan, // nothing finite: the largest number
        nan, nan, nan, nan, // nothing at all: the first id
        -inf, -inf, 5, nan, // a single possible token
    };
    const cut: args.SampleSettings = .{ .temperature = 1, .top_p = 0.5, .min_p = 0.5, .top_k = 2 };
    var settings: [5]args.SampleSettings = @splat(cut);
    settings[0].temperature = 0;
    const zero: args.SampleDraw = .{
        .key_low = 0,
        .key_high = 0,
        .position = 0,
        .choice = 0,
        .prompt = 0,
        .spare = 0,
    };
    const draws: [5]args.SampleDraw = @splat(zero);
    const tokens = try draw(f32, pool.parallel(), &logits, &settings, &draws);
    defer gpa.free(tokens);
    try std.testing.expectEqualSlices(i32, &.{ 1, 1, 1, 0, 2 }, tokens);
    // Settings the operation layer rejects give the best token, never a crash.
    for ([_][3]f64{ .{ -1, 1, 0 }, .{ nan, 1, 0 }, .{ 1, -50, 0 }, .{ 1, 1, 7 } }) |odd| {
        settings[4] = .{ .temperature = odd[0], .top_p = odd[1], .min_p = odd[2], .top_k = nan };
        const one = try draw(f32, pool.parallel(), &.{ 0, 1, 5, 4 }, settings[4..], draws[4..]);
        defer gpa.free(one);
        try std.testing.expectEqual(2, one[0]);
    }
}
