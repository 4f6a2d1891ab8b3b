//! The element-wise functions and their derivatives, on vectors. `args.Unary` lists the formulas.

const std = @import("std");
const args = @import("../args/elementwise.zig");
const math = @import("math.zig");
const simd = @import("simd.zig");

const Unary = args.Unary;
const Binary = args.Binary;

pub const selu_scale = 1.0507009873554805;
pub const selu_alpha = 1.6732632423543772;

fn Child(comptime V: type) type {
    return @typeInfo(V).vector.child;
}

inline fn c(comptime V: type, x: comptime_float) V {
    return math.constant(V, x);
}

inline fn pick(comptime V: type, condition: anytype, a: V, b: V) V {
    return math.pick(V, condition, a, b);
}

/// f(x); `p` is the parameter of the operations that have one.
pub inline fn value(comptime op: Unary, comptime V: type, x: V, p: Child(V)) V {
    const zero = c(V, 0);
    const parameter: V = @splat(p);
    return switch (op) {
        .neg => -x,
        .abs => @abs(x),
        .exp => math.exp(V, x),
        .log => math.log(V, x),
        .sqrt => @sqrt(x),
        .rsqrt => c(V, 1) / @sqrt(x),
        .square => x * x,
        .reciprocal => c(V, 1) / x,
        .sigmoid => math.sigmoid(V, x),
        .tanh => math.tanh(V, x),
        .silu => x * math.sigmoid(V, x),
        .gelu_erf => x * math.normal(V, x).cdf,
        .gelu_tanh => x * math.sigmoid(V, c(V, 2) * geluInner(V, x)),
        .relu => pick(V, x <= zero, zero, x),
        .relu2 => pick(V, x <= zero, zero, x * x),
        .selu => c(V, selu_scale) *
            pick(V, x > zero, x, c(V, selu_alpha) * math.expm1(V, x)),
        .softplus => math.softplus(V, x),
        .log_sigmoid => math.logSigmoid(V, x),
        .sin => math.sin(V, x),
        .cos => math.cos(V, x),
        .soft_cap => parameter * math.tanh(V, x / parameter),
        .scale => x * parameter,
        .add_scalar => x + parameter,
        .pow_scalar => math.pow(V, x, p),
        .clamp_min => pick(V, x < parameter, parameter, x),
        .clamp_max => pick(V, x > parameter, parameter, x),
    };
}

/// f'(x) from what `Unary.saved` names: x, y or nothing.
pub inline fn derivative(comptime op: Unary, comptime V: type, s: V, p: Child(V)) V {
    const zero = c(V, 0);
    const one = c(V, 1);
    const parameter: V = @splat(p);
    return switch (op) {
        .neg => c(V, -1),
        .abs => pick(V, s == zero, zero, pick(V, s < zero, c(V, -1), one)),
        .exp => s,
        .log => one / s,
        .sqrt => c(V, 0.5) / s,
        .rsqrt => c(V, -0.5) * s * s * s,
        .square => c(V, 2) * s,
        .reciprocal => -s * s,
        .sigmoid => math.sigmoid(V, s) * math.sigmoid(V, -s),
        .tanh => squaredSech(V, s),
        .silu => blk: {
            const y = math.sigmoid(V, s);
            break :blk y * (one + s * math.sigmoid(V, -s));
        },
        .gelu_erf => blk: {
            const normal = math.normal(V, s);
            break :blk simd.fma(V, s, normal.density, normal.cdf);
        },
        .gelu_tanh => blk: {
            // y = x·σ(2u): y' = σ(2u)·(1 + 2x·u'·σ(−2u)).
            const twice = c(V, 2) * geluInner(V, s);
            const slope = c(V, gelu_scale) * simd.fma(V, c(V, 3 * 0.044715) * s, s, one);
            const near = math.sigmoid(V, twice);
            break :blk near * (one + c(V, 2) * s * slope * math.sigmoid(V, -twice));
        },
        .relu => pick(V, s > zero, one, zero),
        .relu2 => pick(V, s > zero, c(V, 2) * s, zero),
        .selu => c(V, selu_scale) *
            pick(V, s > zero, one, c(V, selu_alpha) * math.exp(V, s)),
        .softplus => math.sigmoid(V, s),
        .log_sigmoid => math.sigmoid(V, -s),
        .sin => math.cos(V, s),
        .cos => -math.sin(V, s),
        .soft_cap => squaredSech(V, s / parameter),
        .scale => parameter,
        .add_scalar => one,
        .pow_scalar => if (p == 0) zero else parameter * math.pow(V, s, @as(f64, p) - 1),
        .clamp_min => pick(V, s >= parameter, one, zero),
        .clamp_max => pick(V, s <= parameter, one, zero),
    };
}

const gelu_scale = 0.7978845608028654; // √(2/π)

/// u = √(2/π)·(x + 0.044715·x³); 0.5(1 + tanh u) = σ(2u), which keeps the negative tail.
inline fn geluInner(comptime V: type, x: V) V {
    return c(V, gelu_scale) * x * simd.fma(V, c(V, 0.044715) * x, x, c(V, 1));
}

/// 1 − tanh² without cancellation: 4e/(1 + e)², e = e^(−2|x|).
inline fn squaredSech(comptime V: type, x: V) V {
    const e = math.exp(V, c(V, -2) * @abs(x));
    const denominator = c(V, 1) + e;
    return c(V, 4) * e / (denominator * denominator);
}

pub inline fn combine(comptime op: Binary, comptime V: type, a: V, b: V) V {
    const zero = c(V, 0);
    const one = c(V, 1);
    return switch (op) {
        .add => a + b,
        .sub => a - b,
        .mul => a * b,
        .div => a / b,
        // Where a is NaN both comparisons fail and a + b is NaN.
        .maximum => pick(V, a > b, a, pick(V, b >= a, b, a + b)),
        .minimum => pick(V, a < b, a, pick(V, b <= a, b, a + b)),
        .eq => pick(V, a == b, one, zero),
        .lt => pick(V, a < b, one, zero),
        .le => pick(V, a <= b, one, zero),
        .gt => pick(V, a > b, one, zero),
        .ge => pick(V, a >= b, one, zero),
    };
}
