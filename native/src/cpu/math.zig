//! Vector transcendentals. In f32: own minimax polynomials after an exact range reduction, tested
//! against float64 over the full range. In f64, which only serves references and gradient checks:
//! libm, lane by lane.
//!
//! Every function takes a vector or a scalar of f32 or f64, gives NaN for NaN and the limit at
//! ±Inf. The coefficients are printed by `tools/minimax.zig`, highest power first, where the form
//! of each approximation is given.

const std = @import("std");
const simd = @import("simd.zig");

fn Child(comptime V: type) type {
    return switch (@typeInfo(V)) {
        .vector => |v| v.child,
        else => V,
    };
}

fn count(comptime V: type) comptime_int {
    return switch (@typeInfo(V)) {
        .vector => |v| v.len,
        else => 1,
    };
}

/// V with another element type.
fn Like(comptime V: type, comptime T: type) type {
    return if (@typeInfo(V) == .vector) @Vector(count(V), T) else T;
}

/// A constant of V's own type.
pub inline fn constant(comptime V: type, x: comptime_float) V {
    return if (@typeInfo(V) == .vector) @splat(x) else x;
}

inline fn c(comptime V: type, x: f32) V {
    return if (@typeInfo(V) == .vector) @splat(x) else x;
}

inline fn ic(comptime V: type, x: i32) Like(V, i32) {
    return if (@typeInfo(V) == .vector) @splat(x) else x;
}

inline fn shift(comptime V: type, bits: u5) Like(V, u5) {
    return if (@typeInfo(V) == .vector) @splat(bits) else bits;
}

/// condition ? a : b, lane by lane.
pub inline fn pick(comptime V: type, condition: anytype, a: V, b: V) V {
    if (@typeInfo(V) == .vector) return @select(Child(V), condition, a, b);
    return if (condition) a else b;
}

inline fn fma(comptime V: type, a: V, b: V, d: V) V {
    return simd.fma(V, a, b, d);
}

/// Horner's rule, highest power first.
inline fn polynomial(comptime V: type, x: V, comptime coefficients: []const f32) V {
    // Inlined into its callers, whose own unrolling shares the quota.
    @setEvalBranchQuota(20_000);
    var y = c(V, coefficients[0]);
    inline for (coefficients[1..]) |coefficient| y = fma(V, y, x, c(V, coefficient));
    return y;
}

/// Applies a scalar f64 function lane by lane; f32 lanes are rounded once.
inline fn lanewise(comptime V: type, x: V, comptime f: fn (f64) f64) V {
    if (@typeInfo(V) != .vector) return @floatCast(f(x));
    var out: [count(V)]Child(V) = x;
    for (&out) |*lane| lane.* = @floatCast(f(lane.*));
    return out;
}

const libm = struct {
    extern "c" fn erf(x: f64) f64;
    extern "c" fn erfc(x: f64) f64;
    extern "c" fn expm1(x: f64) f64;
    extern "c" fn log1p(x: f64) f64;
    extern "c" fn tanh(x: f64) f64;
    extern "c" fn pow(x: f64, y: f64) f64;
};

/// Scalar functions with Zig's calling convention, for `lanewise`.
const scalar = struct {
    fn exp64(x: f64) f64 {
        return @exp(x);
    }
    fn log64(x: f64) f64 {
        return @log(x);
    }
    fn sin64(x: f64) f64 {
        return @sin(x);
    }
    fn cos64(x: f64) f64 {
        return @cos(x);
    }
    fn expm164(x: f64) f64 {
        return libm.expm1(x);
    }
    fn log1p64(x: f64) f64 {
        return libm.log1p(x);
    }
    fn tanh64(x: f64) f64 {
        return libm.tanh(x);
    }
    fn erf64(x: f64) f64 {
        return libm.erf(x);
    }
    fn normalTail64(a: f64) f64 {
        return 0.5 * libm.erfc(a * std.math.sqrt1_2);
    }
};

/// x kept within [low, high]; NaN stays. `@min` and `@max` would replace a NaN by the bound, which
/// costs three instructions where this takes one.
inline fn clamp(comptime V: type, x: V, low: f32, high: f32) V {
    const above = pick(V, c(V, low) > x, c(V, low), x);
    return pick(V, c(V, high) < above, c(V, high), above);
}

const log2_e = 1.44269504;
// ln 2 in two parts: the first has 10 bits, so n·ln2_high is exact for every exponent n.
const ln2_high = 0.693359375;
const ln2_low = -2.12194440e-4;

/// Adding 1.5·2²³ rounds a float below 2²² to an integer, which then sits in the low bits.
const rounder = 12582912.0;

const Reduced = struct {
    /// x = n·ln 2 + r, |r| ≤ ln2/2. Returns n as integers and e^r − 1 − r as r²·P(r).
    fn of(comptime V: type) type {
        return struct { n: Like(V, i32), r: V, rest: V };
    }
};

inline fn reduceExp(comptime V: type, x: V) Reduced.of(V) {
    const shifted = fma(V, x, c(V, log2_e), c(V, rounder));
    const whole = shifted - c(V, rounder);
    const n = @as(Like(V, i32), @bitCast(shifted)) -% ic(V, @bitCast(@as(f32, rounder)));
    const r = fma(V, whole, c(V, -ln2_low), fma(V, whole, c(V, -ln2_high), x));
    const p = polynomial(V, r, &.{
        1.3821356e-3, 8.368669e-3, 4.166826e-2, 1.6666521e-1, 4.9999994e-1,
    });
    return .{ .n = n, .r = r, .rest = p * r * r };
}

/// 2^n for −126 ≤ n ≤ 127.
inline fn powerOfTwo(comptime V: type, n: Like(V, i32)) V {
    return @bitCast((n +% ic(V, 127)) << shift(V, 23));
}

/// e^x, gradual underflow included.
pub inline fn exp(comptime V: type, x: V) V {
    if (Child(V) == f64) return lanewise(V, x, scalar.exp64);
    const part = reduceExp(V, clamp(V, x, -104.5, 89));
    const y = (part.rest + part.r) + c(V, 1);
    // 2^n in two factors: neither leaves the exponent field, and the last product rounds once into
    // the denormals, to 0 at the lower bound and to infinity at the upper one.
    const half = part.n >> shift(V, 1);
    return y * powerOfTwo(V, half) * powerOfTwo(V, part.n -% half);
}

/// e^x − 1, accurate near 0.
pub inline fn expm1(comptime V: type, x: V) V {
    if (Child(V) == f64) return lanewise(V, x, scalar.expm164);
    const high = 88.02969;
    const part = reduceExp(V, clamp(V, x, -30, high));
    const power = powerOfTwo(V, part.n);
    const out = fma(V, part.rest + part.r, power, power - c(V, 1));
    // Between 127·ln2 and the overflow border e^x − 1 is e^x.
    return pick(V, x > c(V, high), exp(V, x), out);
}

/// ln x for x > 0; −Inf at 0, NaN below.
pub inline fn log(comptime V: type, x: V) V {
    if (Child(V) == f64) return lanewise(V, x, scalar.log64);
    // Denormals are scaled up by 2^23 first.
    const tiny = x < c(V, 1.17549435e-38);
    const scaled = pick(V, tiny, x * c(V, 8388608.0), x);
    const bits: Like(V, i32) = @bitCast(scaled);
    var e: V = @floatFromInt((bits >> shift(V, 23)) -% ic(V, 126));
    e = pick(V, tiny, e - c(V, 23), e);
    // Mantissa in [0.5, 1), moved to [√½, √2), then minus 1.
    var m: V = @bitCast((bits & ic(V, 0x007fffff)) | ic(V, 0x3f000000));
    const small = m < c(V, 0.707106781186547524);
    e = pick(V, small, e - c(V, 1), e);
    m = pick(V, small, m + m, m) - c(V, 1);
    const z = m * m;
    const p = polynomial(V, m, &.{
        6.751017e-2,   -1.16715185e-1, 1.1883582e-1, -1.24060266e-1, 1.4220326e-1,
        -1.6667996e-1, 2.0002073e-1,   -2.500001e-1, 3.3333313e-1,
    });
    var y = p * m * z;
    y = fma(V, e, c(V, ln2_low), y);
    y = fma(V, z, c(V, -0.5), y);
    var out = fma(V, e, c(V, ln2_high), m + y);
    const infinity = c(V, std.math.inf(f32));
    out = pick(V, x == infinity, infinity, out);
    out = pick(V, x == c(V, 0), -infinity, out);
    out = pick(V, x < c(V, 0), c(V, std.math.nan(f32)), out);
    return pick(V, x != x, x, out);
}

/// ln(1 + x) for x > −1, accurate near 0.
pub inline fn log1p(comptime V: type, x: V) V {
    if (Child(V) == f64) return lanewise(V, x, scalar.log1p64);
    // u = 1 + x rounds; what was lost, divided by u, is the first-order correction.
    const u = x + c(V, 1);
    const rest = pick(V, @abs(x) < c(V, 1), x - (u - c(V, 1)), c(V, 1) - (u - x));
    const out = log(V, u) + rest / u;
    const same = (u == c(V, 1));
    const limit = pick(V, x == c(V, -1), c(V, -std.math.inf(f32)), out);
    return pick(V, same, x, pick(V, x == c(V, std.math.inf(f32)), x, limit));
}

/// 1 / (1 + e^−x), relative accuracy in both tails.
pub inline fn sigmoid(comptime V: type, x: V) V {
    const one = constant(V, 1);
    const e = exp(V, -@abs(x));
    return pick(V, x < constant(V, 0), e, one) / (one + e);
}

/// ln(1 + e^x) without overflow: max(x, 0) + ln(1 + e), e = e^−|x|. In f32 that logarithm is
/// 2·artanh(s), s = e/(2 + e) ≤ 1/3: an odd polynomial, accurate in the tail.
pub inline fn softplus(comptime V: type, x: V) V {
    const zero = constant(V, 0);
    const e = exp(V, -@abs(x));
    const positive = pick(V, zero > x, zero, x);
    if (Child(V) == f64) return positive + log1p(V, e);
    const s = e / (c(V, 2) + e);
    const z = s * s;
    const p = polynomial(V, z, &.{ 2.8006372e-1, 2.8003097e-1, 4.0021434e-1, 6.666642e-1 });
    return positive + fma(V, p * z, s, s + s);
}

/// ln σ(x) = −softplus(−x).
pub inline fn logSigmoid(comptime V: type, x: V) V {
    return -softplus(V, -x);
}

pub inline fn tanh(comptime V: type, x: V) V {
    if (Child(V) == f64) return lanewise(V, x, scalar.tanh64);
    // Polynomial below 0.625; 1 − 2/(e^2|x| + 1) with the sign of x above.
    const a = @abs(x);
    const z = x * x;
    const p = polynomial(V, z, &.{
        -5.695813e-3, 2.0630825e-2, -5.373714e-2, 1.333141e-1, -3.333328e-1,
    });
    const near = fma(V, p * z, x, x);
    const e = exp(V, clamp(V, a + a, 0, 80));
    const far = c(V, 1) - c(V, 2) / (e + c(V, 1));
    const signed = pick(V, x < c(V, 0), -far, far);
    return pick(V, a < c(V, 0.625), near, signed);
}

/// a² minus its rounded value, exact. Without fused multiply-add: by halves of 12 bits each.
inline fn squareError(comptime V: type, a: V, square: V) V {
    if (simd.has_fma) return fma(V, a, a, -square);
    const high: V = @bitCast(@as(Like(V, i32), @bitCast(a)) & ic(V, -4096));
    const low = a - high;
    return ((high * high - square) + c(V, 2) * high * low) + low * low;
}

pub fn Tail(comptime V: type) type {
    return struct {
        tail: V, // Φ(−a)
        bell: V, // e^(−a²/2)
    };
}

/// For a ≥ 0: the normal distribution's tail Φ(−a), with relative accuracy, and e^(−a²/2).
pub inline fn normalTail(comptime V: type, a: V) Tail(V) {
    if (Child(V) == f64) return .{
        .tail = lanewise(V, a, scalar.normalTail64),
        .bell = exp(V, constant(V, -0.5) * a * a),
    };
    // The rounding error of a² would be multiplied by a² in the tail: it is put back, first order.
    const square = a * a;
    const lost = squareError(V, a, square);
    const finite = square < c(V, 1e30);
    const correction = pick(V, finite, c(V, 1) - c(V, 0.5) * lost, c(V, 1));
    const bell = exp(V, c(V, -0.5) * square) * correction;
    const t = c(V, 1) / fma(V, a, c(V, 0.25), c(V, 1));
    const p = polynomial(V, t, &.{
        1.689391e-2,  -6.454533e-2, 5.5898648e-2, 2.2585357e-2, 1.775596e-2,
        8.3839804e-2, 7.301677e-2,  9.5287e-2,    9.952156e-2,  9.9746324e-2,
    });
    return .{ .tail = bell * (t * p), .bell = bell };
}

pub fn Normal(comptime V: type) type {
    return struct {
        cdf: V, // Φ(x)
        density: V, // φ(x) = e^(−x²/2)/√(2π)
    };
}

/// Φ(x), with relative accuracy where it is small, and its derivative.
pub inline fn normal(comptime V: type, x: V) Normal(V) {
    const part = normalTail(V, @abs(x));
    const below = x <= constant(V, 0);
    return .{
        .cdf = pick(V, below, part.tail, constant(V, 1) - part.tail),
        .density = part.bell * constant(V, 0.3989422804014327),
    };
}

/// Error function: odd polynomial below 1, 1 − 2Φ(−√2·|x|) with the sign of x above.
pub inline fn erfOf(comptime V: type, x: V) V {
    if (Child(V) == f64) return lanewise(V, x, scalar.erf64);
    const a = @abs(x);
    const p = polynomial(V, x * x, &.{
        -4.1556358e-4, 1.5484724e-3, -2.8477919e-3, 6.605329e-3,
        -2.7359251e-2, 1.1292216e-1, -3.7613183e-1, 1.1283792,
    });
    const far = fma(V, normalTail(V, a * c(V, std.math.sqrt2)).tail, c(V, -2), c(V, 1));
    return pick(V, a < c(V, 1), x * p, pick(V, x < c(V, 0), -far, far));
}

/// x^p for one exponent, through libm in f64 (rare in models).
pub inline fn pow(comptime V: type, x: V, p: f64) V {
    if (@typeInfo(V) != .vector) return @floatCast(libm.pow(x, p));
    var out: [count(V)]Child(V) = x;
    for (&out) |*lane| lane.* = @floatCast(libm.pow(lane.*, p));
    return out;
}

/// Quarter turns are subtracted in f64 (π/2 as a 33-bit part and a rest: n·part is exact), which
/// keeps |x| up to 10⁶ accurate at every level, with or without fused multiply-add.
inline fn turn(comptime V: type, x: V, comptime quarter: i32) V {
    const D = Like(V, f64);
    const magic: f64 = 6755399441055744.0; // 1.5·2⁵²
    const wide: D = if (@typeInfo(V) == .vector) @floatCast(x) else x;
    const n = wide * constant(D, 2.0 / std.math.pi) + constant(D, magic) - constant(D, magic);
    const r64 = (wide - n * constant(D, 0x1.921fb544p0)) - n * constant(D, 0x1.0b4611a626331p-34);
    const r: V = @floatCast(r64);
    const q = @as(Like(V, i32), @intFromFloat(n)) +% ic(V, quarter);
    const z = r * r;
    const s = fma(V, polynomial(V, z, &.{ -1.9518285e-4, 8.332189e-3, -1.6666655e-1 }) * z, r, r);
    const k = fma(
        V,
        polynomial(V, z, &.{ 2.4432562e-5, -1.3887311e-3, 4.1666646e-2 }) * z,
        z,
        fma(V, z, c(V, -0.5), c(V, 1)),
    );
    const even = (q & ic(V, 1)) == ic(V, 0);
    const y = pick(V, even, s, k);
    return pick(V, (q & ic(V, 2)) == ic(V, 0), y, -y);
}

inline fn fits(comptime V: type, x: V) bool {
    const inside = @abs(x) <= c(V, 1e6);
    return if (@typeInfo(V) == .vector) @reduce(.And, inside) else inside;
}

pub inline fn sin(comptime V: type, x: V) V {
    if (Child(V) == f64 or !fits(V, x)) return lanewise(V, x, scalar.sin64);
    return turn(V, x, 0);
}

pub inline fn cos(comptime V: type, x: V) V {
    if (Child(V) == f64 or !fits(V, x)) return lanewise(V, x, scalar.cos64);
    return turn(V, x, 1);
}
