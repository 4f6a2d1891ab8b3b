//! Tests of the random kernels: known answers, reference/random.zig, ranges, statistics, sampling.

const std = @import("std");
const args = @import("args/random.zig");
const dtype = @import("dtype.zig");
const simd = @import("cpu/simd.zig");
const philox = @import("cpu/random_philox.zig");
const random_math = @import("cpu/random_math.zig");
const kernels = @import("cpu/random.zig");
const reference = @import("reference/random.zig");
const h = @import("reference/buffers.zig");
const Parallel = @import("parallel.zig").Parallel;
const Pool = @import("runtime/pool.zig").Pool;
const gpa = h.gpa;

const key = [2]u32{ 0x12345678, 0x9abcdef0 };

test "Philox4x32-10 known answers" {
    const cases = [_]struct { counter: [4]u32, key: [2]u32, words: [4]u32 }{
        .{
            .counter = .{ 0, 0, 0, 0 },
            .key = .{ 0, 0 },
            .words = .{ 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 },
        },
        .{
            .counter = @splat(0xffffffff),
            .key = @splat(0xffffffff),
            .words = .{ 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd },
        },
        .{
            .counter = .{ 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 },
            .key = .{ 0xa4093822, 0x299f31d0 },
            .words = .{ 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 },
        },
    };
    for (cases) |case| {
        try std.testing.expectEqual(case.words, philox.one(case.counter, case.key));
        try std.testing.expectEqual(case.words, reference.philox(case.counter, case.key));
    }
}

test "elementary functions against libm" {
    const seed = 31;
    errdefer h.printSeed(seed);
    var prng = std.Random.DefaultPrng.init(seed);
    for (0..20_000) |_| {
        var u: [8]f64 = undefined;
        for (&u) |*x| x.* = (@as(f64, @floatFromInt(prng.random().int(u32))) + 0.5) * 0x1p-32;
        const logs: [8]f64 = random_math.ln(u);
        const low: random_math.V = @splat(-700);
        const powers: [8]f64 = random_math.exp(@as(random_math.V, u) * low);
        const turned = random_math.cosSinTurns(u);
        const cosines: [8]f64 = turned[0];
        const sines: [8]f64 = turned[1];
        for (u, logs, powers, cosines, sines) |x, l, p, co, si| {
            try std.testing.expectApproxEqRel(@log(x), l, 1e-15);
            try std.testing.expectApproxEqRel(@exp(x * -700), p, 1e-15);
            // libm sees the angle rounded: its error grows with 2π.
            try std.testing.expectApproxEqAbs(@cos(2 * std.math.pi * x), co, 1.5e-15);
            try std.testing.expectApproxEqAbs(@sin(2 * std.math.pi * x), si, 1.5e-15);
        }
    }
    const nan = std.math.nan(f64);
    const inf = std.math.inf(f64);
    const edges: [8]f64 = random_math.exp(.{ 0, -708, -709, -inf, nan, -1, -0.0, -1e300 });
    try std.testing.expectEqual([2]f64{ 1, 1 }, [2]f64{ edges[0], edges[6] });
    try std.testing.expectApproxEqRel(@exp(@as(f64, -708)), edges[1], 1e-15);
    inline for (.{ 2, 3, 4, 7 }) |i| try std.testing.expectEqual(0, edges[i]);
}

test "the inverse normal distribution inverts erfc within two standard deviations" {
    for (0..25_000) |i| {
        var q: [8]f64 = undefined;
        for (&q, 0..) |*x, lane| {
            const unit = (@as(f64, @floatFromInt(8 * i + lane)) + 0.5) / 200_000;
            x.* = (unit - 0.5) * 0.9545;
        }
        const z: [8]f64 = random_math.inverseNormal(q);
        for (q, z) |x, y| {
            try std.testing.expectApproxEqAbs(0.5 + x, reference.cumulativeNormal(y), 4e-16);
        }
    }
}

const Kind = enum { bits, uniform, normal, truncated };

fn fill(comptime T: type, kind: Kind, parallel: *const Parallel, y: []T, first: u64) !void {
    const S = if (T == u32) f32 else T;
    switch (kind) {
        .bits => try kernels.randomBits(S, parallel, &.{
            .y = y.ptr,
            .first = first,
            .count = y.len,
            .key_low = key[0],
            .key_high = key[1],
        }),
        .uniform => try kernels.randomUniform(S, parallel, &.{
            .y = y.ptr,
            .first = first,
            .count = y.len,
            .key_low = key[0],
            .key_high = key[1],
            .low = -0.5,
            .high = 0.75,
        }),
        inline .normal, .truncated => |known| {
            const cut = known == .truncated;
            const kernel = if (cut) kernels.randomTruncatedNormal else kernels.randomNormal;
            try kernel(S, parallel, &.{
                .y = y.ptr,
                .first = first,
                .count = y.len,
                .key_low = key[0],
                .key_high = key[1],
                .mean = 0.25,
                .std = 0.02,
            });
        },
    }
}

fn expected(kind: Kind, e: u64) f64 {
    return switch (kind) {
        .bits => unreachable,
        .uniform => -0.5 + 1.25 * reference.uniform(e, key),
        .normal => 0.25 + 0.02 * reference.normal(e, key),
        .truncated => 0.25 + 0.02 * reference.truncatedNormal(e, key),
    };
}

test "every kind against the reference, far inside a tensor as well" {
    var pool: Pool = undefined;
    try pool.start(gpa, 2);
    defer pool.deinit();
    for ([_]u64{ 0, 3, (1 << 34) - 5, (1 << 40) + 1 }) |first| {
        const words = try h.poisoned(u32, 501);
        defer gpa.free(words);
        try fill(u32, .bits, pool.parallel(), words, first);
        for (words, first..) |word, e| {
            try std.testing.expectEqual(reference.group(e, key)[e & 3], word);
        }
        for ([_]Kind{ .uniform, .normal, .truncated }) |kind| {
            const y = try h.poisoned(f64, 501);
            defer gpa.free(y);
            try fill(f64, kind, pool.parallel(), y, first);
            for (y, first..) |value, e| {
                try std.testing.expectApproxEqAbs(expected(kind, e), value, 2e-15);
            }
        }
    }
}

test "any range alone, any thread count, f32 is f64 rounded, bf16 is f32 rounded" {
    const count = 20_011;
    for ([_]Kind{ .uniform, .normal, .truncated }) |kind| {
        const whole = try h.poisoned(f64, count);
        defer gpa.free(whole);
        for ([_]u32{ 1, 2, 3 }) |threads| {
            var pool: Pool = undefined;
            try pool.start(gpa, threads);
            defer pool.deinit();
            try fill(f64, kind, pool.parallel(), whole, 7);
            const single = try h.poisoned(f32, count);
            defer gpa.free(single);
            try fill(f32, kind, pool.parallel(), single, 7);
            for (whole, single) |x, y| try std.testing.expectEqual(@as(f32, @floatCast(x)), y);
            const starts = [_]usize{ 0, 1, 5, 4099, 20_010 };
            for (starts, [_]usize{ 1, 2, 4096, 9000, 1 }) |start, length| {
                const part = try h.poisoned(u16, length);
                defer gpa.free(part);
                try fill(u16, kind, pool.parallel(), part, 7 + start);
                for (part, single[start..][0..length]) |x, y| {
                    try std.testing.expectEqual(dtype.toBf16(y), x);
                }
            }
        }
    }
}

test "the same bits in every build: hashes of 2^18 numbers" {
    var pool: Pool = undefined;
    try pool.start(gpa, 2);
    defer pool.deinit();
    const y = try h.poisoned(f64, 1 << 18);
    defer gpa.free(y);
    const kinds = [_]Kind{ .uniform, .normal, .truncated };
    const hashes = [_]u64{ 0x66676d16b34bf810, 0xe48d143daa8ae3a1, 0x2a5fae45b3bb6c71 };
    for (kinds, hashes) |kind, hash| {
        try fill(f64, kind, pool.parallel(), y, 0);
        try std.testing.expectEqual(hash, std.hash.Wyhash.hash(0, std.mem.sliceAsBytes(y)));
    }
}

test "moments and bounds" {
    var pool: Pool = undefined;
    try pool.start(gpa, 2);
    defer pool.deinit();
    const y = try h.poisoned(f64, 1 << 18);
    defer gpa.free(y);
    const cases = [_]struct { kind: Kind, mean: f64, std: f64, low: f64, high: f64 }{
        .{ .kind = .uniform, .mean = 0.125, .std = 1.25 / @sqrt(12.0), .low = -0.5, .high = 0.75 },
        .{ .kind = .normal, .mean = 0.25, .std = 0.02, .low = 0.25 - 0.14, .high = 0.25 + 0.14 },
        .{ .kind = .truncated, .mean = 0.25, .std = 0.02 * 0.87962566, .low = 0.21, .high = 0.29 },
    };
    const share = 1 / @as(f64, @floatFromInt(y.len));
    for (cases) |case| {
        try fill(f64, case.kind, pool.parallel(), y, 0);
        var mean: f64 = 0;
        var square: f64 = 0;
        for (y) |x| {
            mean += x * share;
            try std.testing.expect(x >= case.low and x <= case.high);
        }
        for (y) |x| square += (x - mean) * (x - mean) * share;
        // Standard error of the mean 0.002·std, of the standard deviation 0.0014·std: five of them.
        try std.testing.expectApproxEqAbs(case.mean, mean, 0.01 * case.std);
        try std.testing.expectApproxEqRel(case.std, @sqrt(square), 0.007);
    }
}
