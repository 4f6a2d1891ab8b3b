//! Elementary functions of random numbers, in float64 with additions, multiplications, divisions
//! and square roots only: IEEE operations, so the bits are the same on every processor, at every
//! instruction-set level, in a vector or alone. No libm, no fused multiply-add: `simd.fma` and
//! `@mulAdd` must not appear here. Errors are a few units in the last place.

const std = @import("std");

/// Lanes of one call.
pub const width = @import("random_philox.zig").width;
pub const V = @Vector(width, f64);
const Bits = @Vector(width, u64);

/// 1.5·2⁵²: x + magic has the integer nearest to x (ties to even) in its low bits, |x| < 2⁵¹.
const magic = 6755399441055744.0;
/// ln 2 in two parts; the first has 21 trailing zero bits, so that e·high is exact.
const ln2_high = 6.93147180369123816490e-01;
const ln2_low = 1.90821492927058770002e-10;

/// ln x for normal x > 0: x = 2ᵉ·m, √½ ≤ m < √2, ln m = 2·artanh(s), s = (m−1)/(m+1).
pub inline fn ln(x: V) V {
    const bits: Bits = @bitCast(x);
    const one_half: Bits = @splat(0x3fe0000000000000);
    const mantissa: V = @bitCast((bits & @as(Bits, @splat(0x000fffffffffffff))) | one_half);
    const small = mantissa < c(0.70710678118654752440);
    const m = @select(f64, small, mantissa + mantissa, mantissa);
    const exponent = fromInteger((bits >> @splat(52)) -% @as(Bits, @splat(1022)));
    const e = exponent - @select(f64, small, c(1), c(0));
    const s = (m - c(1)) / (m + c(1));
    const z = s * s;
    // Σ z^k/(2k+1); z ≤ 0.0295, so the first term left out is below 2⁻⁶⁰.
    var p = c(1.0 / 21.0);
    inline for (.{ 19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0 }) |odd|
        p = p * z + c(1.0 / odd);
    const fraction = (s + s) + (s + s) * (z * p);
    return e * c(ln2_high) + (fraction + e * c(ln2_low));
}

/// e^x for x ≤ 0; 0 below −708 and for NaN.
pub inline fn exp(x: V) V {
    const inside = x >= c(-708);
    const y = @select(f64, inside, x, c(0));
    const shifted = y * c(1.44269504088896340736) + c(magic);
    const n = shifted - c(magic);
    const r = (y - n * c(ln2_high)) - n * c(ln2_low);
    // Taylor series; |r| ≤ ½·ln 2, so the first term left out is below 2⁻⁵⁷.
    var p = c(1.0 / factorial(13));
    inline for (.{ 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2 }) |k| p = p * r + c(1.0 / factorial(k));
    const value = c(1) + (r + r * r * p);
    const exponent = @as(Bits, @bitCast(shifted)) -% @as(Bits, @splat(@bitCast(@as(f64, magic))));
    const power: V = @bitCast((exponent +% @as(Bits, @splat(1023))) << @splat(52));
    return @select(f64, inside, value * power, c(0));
}

/// cos 2πu and sin 2πu for 0 ≤ u ≤ 1. The reduction to an eighth of a turn is exact.
pub inline fn cosSinTurns(u: V) [2]V {
    const shifted = u * c(4) + c(magic);
    const quarter = shifted - c(magic);
    const angle = (u - quarter * c(0.25)) * c(6.28318530717958647693);
    const z = angle * angle;
    // Taylor series; |angle| ≤ π/4, so the first terms left out are below 2⁻⁵⁶.
    var s = c(1.0 / factorial(17));
    inline for (.{ 15, 13, 11, 9, 7, 5, 3 }) |k| s = s * z + c(sign(k) / factorial(k));
    s = angle + angle * (z * s);
    var q = c(-1.0 / factorial(18));
    inline for (.{ 16, 14, 12, 10, 8, 6, 4, 2 }) |k| q = q * z + c(sign(k) / factorial(k));
    q = c(1) + z * q;
    const turn: Bits = @bitCast(shifted);
    const odd = (turn & @as(Bits, @splat(1))) != @as(Bits, @splat(0));
    const sine_negative = (turn & @as(Bits, @splat(2))) != @as(Bits, @splat(0));
    const cosine_turn = turn +% @as(Bits, @splat(1));
    const cosine_negative = (cosine_turn & @as(Bits, @splat(2))) != @as(Bits, @splat(0));
    const cosine = @select(f64, odd, s, q);
    const sine = @select(f64, odd, q, s);
    return .{
        @select(f64, cosine_negative, -cosine, cosine),
        @select(f64, sine_negative, -sine, sine),
    };
}

/// Φ⁻¹(½ + q) where it lies within ±2: q·P(w), w = −ln(1 − 4q²) ≤ 2.42, in which it is smooth. P is
/// the polynomial of degree 15 in t = w/1.25 − 1 through the Chebyshev points of [−1, 1], computed
/// with 60 digits from the power series of Φ; its relative error is 10⁻¹⁷.
pub inline fn inverseNormal(q: V) V {
    const t = c(-0.8) * ln(c(1) - c(4) * (q * q)) - c(1);
    return q * polynomial(t, .{
        1.4337927459979629e-11,  -4.129006421217155e-11, -3.738308316179121e-10,
        2.0120738174974884e-09,  6.395663328366796e-09,  -7.168090311872133e-08,
        -2.6210641520283023e-08, 2.150664573406281e-06,  -4.216022290519783e-06,
        -5.44357166051166e-05,   0.00026892756413090743, 0.0009915424366169626,
        -0.012450485486434503,   0.011100185320537649,   0.8821851238182351,
        3.364588231335167,
    });
}

fn factorial(comptime n: comptime_int) comptime_float {
    return if (n <= 1) 1.0 else n * factorial(n - 1);
}

/// Sign of x^k in the series of sine and cosine.
fn sign(comptime k: comptime_int) comptime_float {
    return if (k / 2 % 2 == 0) 1.0 else -1.0;
}

/// Horner's rule, highest power first.
inline fn polynomial(x: V, comptime coefficients: anytype) V {
    var p = c(coefficients[0]);
    inline for (1..coefficients.len) |i| p = p * x + c(coefficients[i]);
    return p;
}

/// Small signed integers held in 64-bit words, exactly.
inline fn fromInteger(x: Bits) V {
    const base: Bits = @splat(@bitCast(@as(f64, magic)));
    const shifted: V = @bitCast(base +% x);
    return shifted - c(magic);
}

inline fn c(x: f64) V {
    return @splat(x);
}
