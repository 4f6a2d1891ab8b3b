//! Derives the polynomial coefficients of `cpu/math.zig`: run it with `zig run -lc` and compare.
//!
//! Each function is first reduced by hand to f(x) = leading terms + factor(x)·P(t(x)); this program
//! finds the minimax P, the one whose largest weighted error over the interval is smallest, by
//! Lawson's algorithm: least squares on Chebyshev points whose weights are multiplied by the error
//! until the error is level. Coefficients are rounded to f32 one by one from the lowest, and the
//! others are fitted again after each rounding, so that rounding costs almost nothing. Targets are
//! power series without cancellation, or libm in f64; the linear algebra runs in f128 because the
//! monomial basis is ill-conditioned.

const std = @import("std");

const points = 300;
const rounds = 60;
const most = 12;

/// `target(t)`: what P(t) shall be; `weight(t)`: what an error of P is multiplied with to become
/// a relative error of the whole function.
const Fit = struct {
    name: []const u8,
    low: f64,
    high: f64,
    degree: usize,
    target: *const fn (f64) f64,
    weight: *const fn (f64) f64,
};

const fits = [_]Fit{
    // e^r = 1 + r + r²·P(r)
    .{
        .name = "exp",
        .low = -0.34658,
        .high = 0.34658,
        .degree = 4,
        .target = expTarget,
        .weight = expWeight,
    },
    // ln(1 + f) = f − f²/2 + f³·P(f)
    .{
        .name = "log",
        .low = -0.2929,
        .high = 0.41422,
        .degree = 8,
        .target = logTarget,
        .weight = logWeight,
    },
    // ln(1 + e) = 2·artanh(s) = 2s + s·z·P(z), s = e/(2 + e), z = s²
    .{
        .name = "artanh",
        .low = 0,
        .high = 0.1111112,
        .degree = 3,
        .target = artanhTarget,
        .weight = artanhWeight,
    },
    // tanh x = x + x·z·P(z), z = x²
    .{
        .name = "tanh",
        .low = 0,
        .high = 0.390625,
        .degree = 4,
        .target = tanhTarget,
        .weight = tanhWeight,
    },
    // sin r = r + r·z·P(z), cos r = 1 − z/2 + z²·P(z), z = r²
    .{
        .name = "sin",
        .low = 0,
        .high = 0.617,
        .degree = 2,
        .target = sinTarget,
        .weight = sinWeight,
    },
    .{
        .name = "cos",
        .low = 0,
        .high = 0.617,
        .degree = 2,
        .target = cosTarget,
        .weight = cosWeight,
    },
    // erf x = x·P(z), z = x²
    .{
        .name = "erf",
        .low = 0,
        .high = 1,
        .degree = 7,
        .target = erfTarget,
        .weight = erfWeight,
    },
    // Φ(−a) = e^(−a²/2)·t·P(t), t = 1/(1 + a·mills_scale)
    .{
        .name = "mills",
        .low = 0.2162,
        .high = 1,
        .degree = 9,
        .target = millsTarget,
        .weight = millsWeight,
    },
};

const mills_scale = 0.25; // Exact in f32; the best of the sixteenths tried up to 0.5625.

pub fn main() void {
    for (fits) |fit| {
        var coefficients: [most]f64 = undefined;
        var fixed: usize = 0;
        while (fixed <= fit.degree) : (fixed += 1) {
            lawson(fit, &coefficients, fixed);
            coefficients[fixed] = @as(f32, @floatCast(coefficients[fixed]));
        }
        std.debug.print("{s}: weighted error {e:.3}\n", .{ fit.name, worst(fit, &coefficients) });
        var i = fit.degree + 1;
        while (i > 0) {
            i -= 1;
            std.debug.print("    {e}\n", .{@as(f32, @floatCast(coefficients[i]))});
        }
    }
}

/// Minimax over the coefficients from `fixed` up; those below stay.
fn lawson(fit: Fit, coefficients: *[most]f64, fixed: usize) void {
    const free = fit.degree + 1 - fixed;
    var lawson_weights: [points]f64 = @splat(1.0 / @as(f64, points));
    for (0..rounds) |_| {
        var matrix: [most][most + 1]f128 = @splat(@splat(0));
        for (&lawson_weights, 0..) |weight, k| {
            const t = point(fit, k);
            const w = fit.weight(t);
            const rest = fit.target(t) - evaluate(coefficients[0..fixed], t);
            var row: [most + 1]f128 = undefined;
            var power: f128 = std.math.pow(f64, t, @floatFromInt(fixed));
            for (0..free) |j| {
                row[j] = power;
                power *= t;
            }
            row[free] = rest;
            for (0..free) |i| for (0..free + 1) |j| {
                matrix[i][j] += @as(f128, weight * w * w) * row[i] * row[j];
            };
        }
        solve(&matrix, free);
        for (0..free) |j| coefficients[fixed + j] = @floatCast(matrix[j][free]);
        var total: f64 = 0;
        for (&lawson_weights, 0..) |*weight, k| {
            weight.* = weight.* * errorAt(fit, coefficients, point(fit, k)) + 1e-300;
            total += weight.*;
        }
        for (&lawson_weights) |*weight| weight.* /= total;
    }
}

/// Gaussian elimination with pivoting; the solution takes the place of the right-hand side.
fn solve(matrix: *[most][most + 1]f128, n: usize) void {
    for (0..n) |column| {
        var pivot = column;
        for (column + 1..n) |row| {
            if (@abs(matrix[row][column]) > @abs(matrix[pivot][column])) pivot = row;
        }
        std.mem.swap([most + 1]f128, &matrix[column], &matrix[pivot]);
        for (0..n) |row| if (row != column) {
            const factor = matrix[row][column] / matrix[column][column];
            for (column..n + 1) |j| matrix[row][j] -= factor * matrix[column][j];
        };
    }
    for (0..n) |row| matrix[row][n] /= matrix[row][row];
}

fn point(fit: Fit, k: usize) f64 {
    const angle = std.math.pi * (@as(f64, @floatFromInt(k)) + 0.5) / points;
    return 0.5 * (fit.low + fit.high) - 0.5 * (fit.high - fit.low) * @cos(angle);
}

fn evaluate(coefficients: []const f64, t: f64) f64 {
    var y: f64 = 0;
    var i = coefficients.len;
    while (i > 0) {
        i -= 1;
        y = y * t + coefficients[i];
    }
    return y;
}

fn errorAt(fit: Fit, coefficients: *const [most]f64, t: f64) f64 {
    return @abs(fit.weight(t) * (fit.target(t) - evaluate(coefficients[0 .. fit.degree + 1], t)));
}

fn worst(fit: Fit, coefficients: *const [most]f64) f64 {
    var most_wrong: f64 = 0;
    for (0..10_001) |k| {
        const share = @as(f64, @floatFromInt(k)) / 10_000;
        const t = fit.low + (fit.high - fit.low) * share;
        most_wrong = @max(most_wrong, errorAt(fit, coefficients, t));
    }
    return most_wrong;
}

/// Σ_k term(k)·t^k over the first `terms`.
fn series(t: f64, terms: usize, comptime term: fn (f64) f64) f64 {
    var y: f64 = 0;
    var i = terms;
    while (i > 0) {
        i -= 1;
        y = y * t + term(@floatFromInt(i));
    }
    return y;
}

fn factorial(n: f64) f64 {
    var product: f64 = 1;
    var i: f64 = 2;
    while (i <= n) : (i += 1) product *= i;
    return product;
}

fn sign(k: f64) f64 {
    return if (@mod(k, 2) == 0) 1 else -1;
}

fn expTarget(r: f64) f64 {
    return series(r, 20, struct {
        fn term(k: f64) f64 {
            return 1 / factorial(k + 2);
        }
    }.term);
}
fn expWeight(r: f64) f64 {
    return r * r / @exp(r);
}

fn logTarget(f: f64) f64 {
    return series(f, 60, struct {
        fn term(k: f64) f64 {
            return sign(k) / (k + 3);
        }
    }.term);
}
fn logWeight(f: f64) f64 {
    if (f == 0) return 0;
    return f * f * f / std.math.log1p(f);
}

fn artanhTarget(z: f64) f64 {
    return series(z, 20, struct {
        fn term(k: f64) f64 {
            return 2 / (2 * k + 3);
        }
    }.term);
}
fn artanhWeight(z: f64) f64 {
    const s = @sqrt(z);
    return if (z == 0) 0 else s * z / (2 * std.math.atanh(s));
}

/// (sinh x − x·cosh x)/(x³·cosh x), numerator and denominator as series in z.
fn tanhTarget(z: f64) f64 {
    return series(z, 12, struct {
        fn term(k: f64) f64 {
            return 1 / factorial(2 * k + 3) - 1 / factorial(2 * k + 2);
        }
    }.term) / std.math.cosh(@sqrt(z));
}
fn tanhWeight(z: f64) f64 {
    const x = @sqrt(z);
    return if (z == 0) 0 else x * z / std.math.tanh(x);
}

fn sinTarget(z: f64) f64 {
    return series(z, 12, struct {
        fn term(k: f64) f64 {
            return -sign(k) / factorial(2 * k + 3);
        }
    }.term);
}
fn sinWeight(z: f64) f64 {
    const x = @sqrt(z);
    return if (z == 0) 0 else x * z / @sin(x);
}

fn cosTarget(z: f64) f64 {
    return series(z, 12, struct {
        fn term(k: f64) f64 {
            return sign(k) / factorial(2 * k + 4);
        }
    }.term);
}
fn cosWeight(z: f64) f64 {
    return z * z / @cos(@sqrt(z));
}

fn erfTarget(z: f64) f64 {
    return 2.0 / @sqrt(@as(f64, std.math.pi)) * series(z, 24, struct {
        fn term(k: f64) f64 {
            return sign(k) / (factorial(k) * (2 * k + 1));
        }
    }.term);
}
fn erfWeight(z: f64) f64 {
    return 1 / erfTarget(z);
}

extern "c" fn erfc(x: f64) f64;

fn millsTarget(t: f64) f64 {
    const a = (1 / t - 1) / mills_scale;
    return 0.5 * erfc(a / @sqrt(@as(f64, 2))) * @exp(0.5 * a * a) / t;
}
fn millsWeight(t: f64) f64 {
    return 1 / millsTarget(t);
}
