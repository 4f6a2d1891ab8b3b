//! e^(u_t + w_j), the weight with which token j counts for token t. kernels.md §2.3, §2.4.
//!
//! Two exponentials per pair of tokens and pass make this the most expensive function of the small
//! mLSTM cells, so it has an exponential of its own: arguments are at most about 0, results below
//! the smallest normal number are 0.

const std = @import("std");
const simd = @import("simd.zig");
const math = @import("math.zig");
const panel = @import("mlstm_panel.zig");
const gates = @import("mlstm_gates.zig");
const Span = @import("mlstm_problem.zig").Span;
const width = panel.width;

/// Row t of the chunk and the 16 positions from `block`·16; 0 where the row does not see them.
pub inline fn decay(
    comptime S: type,
    g: *const gates.Gates(S),
    span: Span,
    t: usize,
    block: usize,
) simd.Wide(simd.Arithmetic(S)) {
    const A = simd.Arithmetic(S);
    const V = simd.Wide(A);
    const Positions = @Vector(width, u32);
    const at = span.first + block * width;
    const row = span.first + t;
    const high = @as(V, @splat(g.u_high[row])) + simd.loadN(A, width, g.w_high + at);
    const low = @as(V, @splat(g.u_low[row])) + simd.loadN(A, width, g.w_low + at);
    const e = exp(V, high + low);
    const start = g.start[row];
    if (block * width >= start and block * width + width <= t + 1) return e;
    const position = std.simd.iota(u32, width) + @as(Positions, @splat(@intCast(block * width)));
    const zero: V = @splat(0);
    const past = @select(A, position <= @as(Positions, @splat(@intCast(t))), e, zero);
    return @select(A, position >= @as(Positions, @splat(start)), past, zero);
}

/// e^x for x ≤ 88; 0 below the logarithm of the smallest normal number, NaN for NaN.
pub inline fn exp(comptime V: type, x: V) V {
    if (@typeInfo(V).vector.child == f64) return math.exp(V, x);
    const I = @Vector(@typeInfo(V).vector.len, i32);
    const U = @Vector(@typeInfo(V).vector.len, u5);
    const lowest: V = @splat(-87.33654);
    const clamped = @select(f32, lowest > x, lowest, x);
    // Adding 1.5·2²³ rounds to an integer n, which then sits in the low bits. ln 2 comes in two
    // parts, the first short enough for n times it to be exact.
    const rounder: V = @splat(12582912.0);
    const shifted = simd.fma(V, clamped, @splat(1.44269504), rounder);
    const whole = shifted - rounder;
    const near = simd.fma(V, whole, @splat(-0.693359375), clamped);
    const r = simd.fma(V, whole, @splat(2.12194440e-4), near);
    // The minimax polynomial of `math.exp`: e^r − 1 − r = r²·P(r).
    var p: V = @splat(1.3821356e-3);
    inline for (.{ 8.368669e-3, 4.166826e-2, 1.6666521e-1, 4.9999994e-1 }) |coefficient| {
        p = simd.fma(V, p, r, @splat(coefficient));
    }
    const y = (p * r * r + r) + @as(V, @splat(1));
    // n enters the exponent field by addition: the result is a normal number.
    const n = @as(I, @bitCast(shifted)) << @as(U, @splat(23));
    const scaled: V = @bitCast(@as(I, @bitCast(y)) +% n);
    return @select(f32, lowest > x, @as(V, @splat(0)), scaled);
}

test "exponential: relative error, underflow, NaN" {
    const V = simd.Wide(f32);
    var prng: std.Random.DefaultPrng = .init(1);
    for (0..100_000) |_| {
        var x: [width]f32 = undefined;
        for (&x) |*value| value.* = (prng.random().float(f32) - 0.98) * 89;
        const y: [width]f32 = exp(V, x);
        for (x, y) |from, got| {
            const want = @exp(@as(f64, from));
            if (from < -87.33654) try std.testing.expectEqual(@as(f32, 0), got);
            if (from >= -87.33654) try std.testing.expectApproxEqRel(want, got, 1.5e-7);
        }
    }
    const infinity = std.math.inf(f32);
    const edges: [width]f32 = exp(V, .{
        0, -infinity, -1e4, -88, -87.3365, 1, 80, std.math.nan(f32), 0, 0, 0, 0, 0, 0, 0, 0,
    });
    try std.testing.expectEqual(@as(f32, 1), edges[0]);
    for (edges[1..4]) |y| try std.testing.expectEqual(@as(f32, 0), y);
    try std.testing.expect(edges[4] > 0);
    try std.testing.expect(edges[7] != edges[7]);
}
