//! Slow and obvious float64 counterparts of the element-wise kernels and reductions: one element at
//! a time, formulas as written in `args/elementwise.zig`. For tests only.

const std = @import("std");
const args = @import("../args/elementwise.zig");

extern "c" fn erfc(x: f64) f64;
extern "c" fn expm1(x: f64) f64;
extern "c" fn log1p(x: f64) f64;
extern "c" fn tanh(x: f64) f64;

/// f(x).
pub fn unary(op: args.Unary, x: f64, p: f64) f64 {
    const pi: f64 = std.math.pi;
    return switch (op) {
        .neg => -x,
        .abs => @abs(x),
        .exp => @exp(x),
        .log => @log(x),
        .sqrt => @sqrt(x),
        .rsqrt => 1 / @sqrt(x),
        .square => x * x,
        .reciprocal => 1 / x,
        .sigmoid => 1 / (1 + @exp(-x)),
        .tanh => tanh(x),
        .silu => x / (1 + @exp(-x)),
        .gelu_erf => x * 0.5 * erfc(-x / @sqrt(@as(f64, 2))),
        .gelu_tanh => 0.5 * x * (1 + tanh(@sqrt(2 / pi) * (x + 0.044715 * x * x * x))),
        .relu => @max(x, 0),
        .relu2 => @max(x, 0) * @max(x, 0),
        .selu => 1.0507009873554805 * (if (x > 0) x else 1.6732632423543772 * expm1(x)),
        .softplus => log1p(@exp(x)),
        .log_sigmoid => -log1p(@exp(-x)),
        .sin => @sin(x),
        .cos => @cos(x),
        .soft_cap => p * tanh(x / p),
        .scale => x * p,
        .add_scalar => x + p,
        .pow_scalar => std.math.pow(f64, x, p),
        .clamp_min => @max(x, p),
        .clamp_max => @min(x, p),
    };
}

/// f'(x) by central differences: about 1e-9 accurate away from kinks.
pub fn slope(op: args.Unary, x: f64, p: f64) f64 {
    const h = 1e-5 * @max(1, @abs(x));
    return (unary(op, x + h, p) - unary(op, x - h, p)) / (2 * h);
}

pub fn binary(op: args.Binary, a: f64, b: f64) f64 {
    const nan = std.math.nan(f64);
    return switch (op) {
        .add => a + b,
        .sub => a - b,
        .mul => a * b,
        .div => a / b,
        .maximum => if (a != a or b != b) nan else @max(a, b),
        .minimum => if (a != a or b != b) nan else @min(a, b),
        .eq => @floatFromInt(@intFromBool(a == b)),
        .lt => @floatFromInt(@intFromBool(a < b)),
        .le => @floatFromInt(@intFromBool(a <= b)),
        .gt => @floatFromInt(@intFromBool(a > b)),
        .ge => @floatFromInt(@intFromBool(a >= b)),
    };
}

/// The reduction of a list of terms.
pub fn reduce(op: args.Reduction, terms: []const f64) f64 {
    const infinity = std.math.inf(f64);
    var total: f64 = 0;
    var most = -infinity;
    var least = infinity;
    var broken = false;
    for (terms) |x| {
        broken = broken or x != x;
        most = @max(most, x);
        least = @min(least, x);
        total += if (op == .sum_squares) x * x else x;
    }
    if (broken) return std.math.nan(f64);
    return switch (op) {
        .sum, .sum_squares => total,
        .mean => total / @as(f64, @floatFromInt(terms.len)),
        .max => most,
        .min => least,
        .logsumexp => blk: {
            if (std.math.isInf(most)) break :blk most;
            var shifted: f64 = 0;
            for (terms) |x| shifted += @exp(x - most);
            break :blk most + @log(shifted);
        },
    };
}
