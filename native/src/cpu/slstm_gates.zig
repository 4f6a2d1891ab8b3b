//! Gate arithmetic of the sLSTM and LSTM cells on vectors of units. kernels.md §7.1-7.2.
//!
//! Every exponential of the cell has an argument <= 0, which allows an f32 exp of half the usual
//! length; i' and f' share one, because one of them is always 1; σ(raw_f), σ(−raw_f) and
//! logσ(raw_f) share one too. The f64 forms, which serve gradient checks, call libm.

const std = @import("std");
const simd = @import("simd.zig");
const math = @import("math.zig");
const args = @import("../args/slstm.zig");

inline fn is64(comptime V: type) bool {
    return @typeInfo(V).vector.child == f64;
}

inline fn c(comptime V: type, x: comptime_float) V {
    return @splat(x);
}

inline fn infinity(comptime V: type) V {
    return @splat(std.math.inf(@typeInfo(V).vector.child));
}

inline fn pick(comptime V: type, condition: anytype, a: V, b: V) V {
    return @select(@typeInfo(V).vector.child, condition, a, b);
}

/// x = n·ln2 + r with e^x = 2^n·(1 + p), p = e^r − 1 accurate relative to itself.
fn Reduced(comptime V: type) type {
    return struct { p: V, scale: V };
}

const lowest = -87.0; // e^x stays a normal number above it

inline fn reduce(comptime V: type, x: V) Reduced(V) {
    const n_lanes = @typeInfo(V).vector.len;
    // A maximum written as a selection keeps NaN, and is one instruction.
    const clamped = pick(V, x < c(V, lowest), c(V, lowest), x);
    // Adding 1.5·2^23 rounds to an integer and leaves it in the low bits of the mantissa.
    const magic = c(V, 12582912.0);
    const shifted = simd.fma(V, clamped, c(V, 1.44269504), magic);
    const n = shifted - magic;
    var r = simd.fma(V, n, c(V, -0.693359375), clamped);
    r = simd.fma(V, n, c(V, 2.12194440e-4), r);
    var p = simd.fma(V, c(V, 1.9875691500e-4), r, c(V, 1.3981999507e-3));
    p = simd.fma(V, p, r, c(V, 8.3334519073e-3));
    p = simd.fma(V, p, r, c(V, 4.1665795894e-2));
    p = simd.fma(V, p, r, c(V, 1.6666665459e-1));
    p = simd.fma(V, p, r, c(V, 5.0000001201e-1));
    const Bits = @Vector(n_lanes, u32);
    const whole: Bits = @bitCast(shifted);
    const exponent = (whole +% @as(Bits, @splat(127))) << @as(@Vector(n_lanes, u5), @splat(23));
    return .{ .p = simd.fma(V, p * r, r, r), .scale = @bitCast(exponent) };
}

/// e^x for x <= 0 (NaN stays NaN); 0 below −87.
pub inline fn expNonPositive(comptime V: type, x: V) V {
    if (is64(V)) return math.exp(V, x);
    const reduced = reduce(V, x);
    const value = simd.fma(V, reduced.p, reduced.scale, reduced.scale);
    return pick(V, x < c(V, lowest), c(V, 0), value);
}

/// tanh x = −(e^(−2|x|) − 1)/(e^(−2|x|) + 1) with the sign of x; accurate relative to x near 0.
pub inline fn tanh(comptime V: type, x: V) V {
    if (is64(V)) return math.tanh(V, x);
    const a = @abs(x);
    const reduced = reduce(V, c(V, -2) * a);
    const minus_one = simd.fma(V, reduced.p, reduced.scale, reduced.scale - c(V, 1));
    const value = -minus_one / (c(V, 2) + minus_one);
    return pick(V, x < c(V, 0), -value, value);
}

pub fn Pair(comptime V: type) type {
    return struct { plus: V, minus: V };
}

/// σ(x) and σ(−x), both accurate relative to themselves.
pub inline fn sigmoids(comptime V: type, x: V) Pair(V) {
    const e = expNonPositive(V, -@abs(x));
    const large = c(V, 1) / (c(V, 1) + e);
    const small = e * large;
    const negative = x < c(V, 0);
    return .{ .plus = pick(V, negative, small, large), .minus = pick(V, negative, large, small) };
}

/// ln(1 + e) for e in [0, 1] as 2·atanh(s), s = e/(2 + e) <= 1/3: a short series in s².
inline fn log1pUnit(comptime V: type, e: V, inverse: V) V {
    if (is64(V)) return math.log1p(V, e);
    const s = e * inverse;
    const z = s * s;
    var p = simd.fma(V, c(V, 2.0 / 15.0), z, c(V, 2.0 / 13.0));
    p = simd.fma(V, p, z, c(V, 2.0 / 11.0));
    p = simd.fma(V, p, z, c(V, 2.0 / 9.0));
    p = simd.fma(V, p, z, c(V, 2.0 / 7.0));
    p = simd.fma(V, p, z, c(V, 2.0 / 5.0));
    p = simd.fma(V, p, z, c(V, 2.0 / 3.0));
    p = simd.fma(V, p, z, c(V, 2.0));
    return p * s;
}

/// What one token does to a vector of units; `saved` is in the order of `args.saved_planes`.
pub fn Cell(comptime V: type) type {
    return struct { c: V, n: V, m: V, y: V, saved: [args.saved_planes]V };
}

pub inline fn slstm(comptime V: type, raw: [4]V, c_before: V, n_before: V, m_before: V) Cell(V) {
    const e = expNonPositive(V, -@abs(raw[1]));
    // One division serves 1/(1 + e) and 1/(2 + e).
    const one_plus = c(V, 1) + e;
    const two_plus = c(V, 2) + e;
    const both = c(V, 1) / (one_plus * two_plus);
    const large = both * two_plus;
    const f_minus = pick(V, raw[1] < c(V, 0), large, e * large);
    const below_zero = pick(V, raw[1] < c(V, 0), raw[1], c(V, 0));
    const l = m_before + (below_zero - log1pUnit(V, e, both * one_plus));
    // +Inf makes the input gate win with f' = 0, which is the first-step rule.
    const first = n_before == c(V, 0);
    const lead = pick(V, first, infinity(V), raw[0] - l);
    const wins = lead >= c(V, 0);
    const lesser = expNonPositive(V, -@abs(lead));
    const i = pick(V, wins, c(V, 1), lesser);
    const f = pick(V, wins, lesser, c(V, 1));
    const z = tanh(V, raw[2]);
    const o = sigmoids(V, raw[3]).plus;
    const c_now = simd.fma(V, f, c_before, i * z);
    const n_now = simd.fma(V, f, n_before, i);
    return .{
        .c = c_now,
        .n = n_now,
        .m = pick(V, wins, raw[0], l),
        .y = output(V, 0, c_now, n_now, o),
        .saved = .{ c_now, n_now, pick(V, wins, lesser, -lesser), z, o, f_minus },
    };
}

/// The plain LSTM, whose n and m stay 0.
pub inline fn lstm(comptime V: type, raw: [4]V, c_before: V) Cell(V) {
    const f = sigmoids(V, raw[1]);
    const i = sigmoids(V, raw[0]).plus;
    const z = tanh(V, raw[2]);
    const o = sigmoids(V, raw[3]).plus;
    const c_now = simd.fma(V, f.plus, c_before, i * z);
    const bounded = tanh(V, c_now);
    return .{
        .c = c_now,
        .n = c(V, 0),
        .m = c(V, 0),
        .y = output(V, 1, c_now, bounded, o),
        .saved = .{ c_now, bounded, i, z, o, f.minus },
    };
}

/// One token as its backward pass needs it: what the forward pass saved, and the c and n before.
pub fn Saved(comptime V: type) type {
    return struct { c: V, n: V, i: V, f: V, z: V, o: V, f_minus: V, c_before: V, n_before: V };
}

pub inline fn unpack(
    comptime V: type,
    comptime function: u32,
    planes: [args.saved_planes]V,
    c_before: V,
    n_before: V,
) Saved(V) {
    const Ints = @Vector(@typeInfo(V).vector.len, if (is64(V)) i64 else i32);
    const bits: Ints = @bitCast(planes[2]);
    const input_is_lesser = bits < @as(Ints, @splat(0));
    const lesser = @abs(planes[2]);
    return .{
        .c = planes[0],
        .n = planes[1],
        .i = if (function == 1) planes[2] else pick(V, input_is_lesser, lesser, c(V, 1)),
        .f = if (function == 1) c(V, 1) - planes[5] else pick(V, input_is_lesser, c(V, 1), lesser),
        .z = planes[3],
        .o = planes[4],
        .f_minus = planes[5],
        .c_before = c_before,
        .n_before = n_before,
    };
}

pub fn Draw(comptime V: type) type {
    return struct { raw: [4]V, carry_c: V, carry_n: V };
}

/// Gradients of the pre-activations from the total gradient of y, and the carries for the token
/// before. `clip` is +Inf when off.
pub inline fn backward(
    comptime V: type,
    comptime function: u32,
    s: Saved(V),
    dy: V,
    carry_c: V,
    carry_n: V,
    clip: V,
) Draw(V) {
    const one = c(V, 1);
    const y = output(V, function, s.c, s.n, s.o);
    const d = pick(V, @abs(y) > clip, c(V, 0), dy);
    if (function == 1) {
        const dc = simd.fma(V, d * s.o, one - s.n * s.n, carry_c);
        const dz = dc * s.i;
        return .{
            .raw = .{
                dz * s.z * (one - s.i),
                dc * s.c_before * s.f * s.f_minus,
                dz * (one - s.z * s.z),
                (one - s.o) * y * d,
            },
            .carry_c = dc * s.f,
            .carry_n = c(V, 0),
        };
    }
    const share = d / s.n;
    const dc = simd.fma(V, share, s.o, carry_c);
    const dn = carry_n - share * y;
    const kept = simd.fma(V, dc, s.c_before, dn * s.n_before);
    return .{
        .raw = .{
            s.i * simd.fma(V, s.z, dc, dn),
            s.f * kept * s.f_minus,
            dc * s.i * (one - s.z * s.z),
            (one - s.o) * y * d,
        },
        .carry_c = s.f * dc,
        .carry_n = s.f * dn,
    };
}

/// y before the clip, from saved quantities: the same bits as in the forward pass.
pub inline fn output(comptime V: type, comptime function: u32, c_now: V, n_now: V, o: V) V {
    return if (function == 1) o * n_now else o * c_now / n_now;
}

/// Clamps to [−bound, bound]; +Inf is no bound, NaN stays NaN.
pub inline fn clamp(comptime V: type, x: V, bound: V) V {
    const above = pick(V, x > bound, bound, x);
    return pick(V, above < -bound, -bound, above);
}

test "f32 functions against float64, relative to the value" {
    const V = @Vector(8, f32);
    var prng = std.Random.DefaultPrng.init(11);
    const random = prng.random();
    var worst: [5]f64 = @splat(0);
    for (0..100_000) |_| {
        var x: [8]f32 = undefined;
        const scale = @exp(random.float(f32) * 12 - 8);
        for (&x) |*lane| lane.* = (random.float(f32) - 0.5) * scale;
        const vx: V = x;
        const e: [8]f32 = expNonPositive(V, -@abs(vx));
        const t: [8]f32 = tanh(V, vx);
        const pair = sigmoids(V, vx);
        const plus: [8]f32 = pair.plus;
        const minus: [8]f32 = pair.minus;
        const ve: V = e;
        const l: [8]f32 = log1pUnit(V, ve, c(V, 1) / (c(V, 2) + ve));
        for (x, e, t, plus, minus, l) |xi, ei, ti, pi, mi, li| {
            const d: f64 = xi;
            const want = [5]f64{
                @exp(-@abs(d)),
                std.math.tanh(d),
                1 / (1 + @exp(-d)),
                1 / (1 + @exp(d)),
                std.math.log1p(@as(f64, ei)),
            };
            const got = [5]f32{ ei, ti, pi, mi, li };
            for (want, got, &worst) |w, g, *bound| if (@abs(w) > 1e-37) {
                bound.* = @max(bound.*, @abs(w - g) / @abs(w));
            };
        }
    }
    for (worst) |error_seen| try std.testing.expect(error_seen < 4e-7);
}

test "special values" {
    const V = @Vector(8, f32);
    const nan = std.math.nan(f32);
    const inf = std.math.inf(f32);
    const x: V = .{ 0, -inf, inf, nan, -1e4, 1e4, -200, 90 };
    const e: [8]f32 = expNonPositive(V, -@abs(x));
    const t: [8]f32 = tanh(V, x);
    try std.testing.expectEqual(@as(f32, 1), e[0]);
    for ([_]usize{ 1, 2, 4, 5, 6, 7 }) |lane| try std.testing.expectEqual(@as(f32, 0), e[lane]);
    try std.testing.expect(e[3] != e[3] and t[3] != t[3]);
    try std.testing.expectEqual(@as(f32, 0), t[0]);
    try std.testing.expectEqual(@as(f32, -1), t[1]);
    try std.testing.expectEqual(@as(f32, 1), t[2]);
}
