//! `cpu/math.zig` in f32 against libm in f64, over the full range of f32: every 2311th bit pattern
//! (1.9 million values, denormals, infinities and NaNs among them) and all exact borders.

const std = @import("std");
const math = @import("cpu/math.zig");
const simd = @import("cpu/simd.zig");

extern "c" fn erf(x: f64) f64;
extern "c" fn erfc(x: f64) f64;
extern "c" fn log1p(x: f64) f64;
extern "c" fn expm1(x: f64) f64;
extern "c" fn tanh(x: f64) f64;

const V = simd.Vec(f32);
const n = simd.lanes(f32);
const stride = 2311; // Prime, so that no lane or mantissa pattern repeats.

/// Distance in units of the last place of the wanted value (denormals: of the smallest denormal).
fn ulps(want: f64, got: f32) f64 {
    if (want != want) return if (got != got) 0 else std.math.inf(f64);
    const nearest: f32 = @floatCast(want);
    if (nearest == got) return 0;
    if (std.math.isInf(nearest) or std.math.isInf(got)) {
        // Rounding across the overflow border counts as one unit.
        const top = std.math.floatMax(f32) * (1 - 1e-6);
        return if (@abs(want) > top and @abs(got) > top) 1 else std.math.inf(f64);
    }
    const exponent = if (nearest == 0) -149 else @max(std.math.ilogb(@abs(nearest)) - 23, -149);
    return @abs(want - @as(f64, got)) / std.math.ldexp(@as(f64, 1), exponent);
}

/// Fails when the largest error in ulps exceeds the bar.
fn sweep(
    comptime f: fn (comptime type, V) callconv(.@"inline") V,
    want: *const fn (f64) f64,
    bar: f64,
) !void {
    var worst: f64 = 0;
    var at: f32 = 0;
    var x: [n]f32 = @splat(0);
    var used: usize = 0;
    var raw: u64 = 0;
    const borders = [_]u32{
        0,
        1,
        0x007fffff,
        0x00800000,
        0x3f800000,
        0x7f7fffff,
        0x7f800000,
        0x7fc00000,
    };
    var border: usize = 0;
    while (true) {
        const bits: u32 = if (border < 2 * borders.len) blk: {
            defer border += 1;
            break :blk borders[border / 2] | @as(u32, if (border % 2 == 1) 1 << 31 else 0);
        } else if (raw < 1 << 32) blk: {
            defer raw += stride;
            break :blk @intCast(raw);
        } else break;
        const value: f32 = @bitCast(bits);
        x[used] = value;
        used += 1;
        if (used < n) continue;
        used = 0;
        const y: [n]f32 = f(V, x);
        for (x, y) |xi, yi| {
            const wrong = ulps(want(xi), yi);
            if (wrong > worst) {
                worst = wrong;
                at = xi;
            }
        }
    }
    if (worst > bar) {
        std.debug.print("{d:.2} ulp at {e}, allowed {d}\n", .{ worst, at, bar });
        return error.TooFar;
    }
}

// The bars are the measured worst cases of the three levels, rounded up to half an ulp.

test "exp over the full range, denormal results included" {
    try sweep(math.exp, struct {
        fn want(x: f64) f64 {
            return @exp(x);
        }
    }.want, 1.5);
}

test "expm1" {
    try sweep(math.expm1, struct {
        fn want(x: f64) f64 {
            return expm1(x);
        }
    }.want, 2);
}

test "log over the full range, denormal arguments included" {
    try sweep(math.log, struct {
        fn want(x: f64) f64 {
            return if (x == 0) -std.math.inf(f64) else if (x < 0) std.math.nan(f64) else @log(x);
        }
    }.want, 1.5);
}

test "log1p" {
    try sweep(math.log1p, struct {
        fn want(x: f64) f64 {
            return log1p(x);
        }
    }.want, 2);
}

test "sigmoid, softplus, logSigmoid keep relative accuracy in the tails" {
    try sweep(math.sigmoid, struct {
        fn want(x: f64) f64 {
            return if (x < 0) @exp(x) / (1 + @exp(x)) else 1 / (1 + @exp(-x));
        }
    }.want, 2.5);
    try sweep(math.softplus, softplus64, 2.5);
    try sweep(math.logSigmoid, struct {
        fn want(x: f64) f64 {
            return -softplus64(-x);
        }
    }.want, 2.5);
}

fn softplus64(x: f64) f64 {
    if (x != x) return x;
    return @max(x, 0) + log1p(@exp(-@abs(x)));
}

test "tanh" {
    try sweep(math.tanh, struct {
        fn want(x: f64) f64 {
            return tanh(x);
        }
    }.want, 2);
}

test "erf, and the normal distribution with its negative tail" {
    try sweep(math.erfOf, struct {
        fn want(x: f64) f64 {
            return erf(x);
        }
    }.want, 3);
    try sweep(cdf, struct {
        fn want(x: f64) f64 {
            return 0.5 * erfc(-x / @sqrt(@as(f64, 2)));
        }
    }.want, 8);
    try sweep(density, struct {
        fn want(x: f64) f64 {
            return @exp(-0.5 * x * x) / @sqrt(2.0 * @as(f64, std.math.pi));
        }
    }.want, 3);
}

inline fn cdf(comptime T: type, x: T) T {
    return math.normal(T, x).cdf;
}

inline fn density(comptime T: type, x: T) T {
    return math.normal(T, x).density;
}

test "sin and cos: relative accuracy up to ten thousand turns, libm beyond a million" {
    try sweep(math.sin, struct {
        fn want(x: f64) f64 {
            return @sin(x);
        }
    }.want, 2);
    try sweep(math.cos, struct {
        fn want(x: f64) f64 {
            return @cos(x);
        }
    }.want, 2);
}

test "a lane does not depend on its neighbours, and scalars equal vectors" {
    const x: [n]f32 = @splat(-0.73);
    inline for (.{ math.exp, math.log1p, math.sigmoid, math.tanh, math.erfOf, math.sin }) |f| {
        const y: [n]f32 = f(V, x);
        for (y) |lane| try std.testing.expectEqual(f(f32, x[0]), lane);
    }
}

test "f64 goes through libm" {
    const x: @Vector(4, f64) = .{ -3, -0.1, 0.1, 3 };
    const y: [4]f64 = math.tanh(@Vector(4, f64), x);
    try std.testing.expectEqual(tanh(0.1), y[2]);
    const g: [4]f64 = math.normal(@Vector(4, f64), x).cdf;
    try std.testing.expectApproxEqRel(0.5 * erfc(3 / @sqrt(@as(f64, 2))), g[0], 1e-14);
}
