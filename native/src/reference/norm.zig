//! Slow and obvious float64 norms and softmax, forward only and one row at a time, formulas as in
//! kernels.md §9. Gradients are checked by central differences of these. For tests only.

const std = @import("std");

pub const Stats = struct { mean: f64, rstd: f64 };

pub fn statistics(x: []const f64, eps: f64, center: bool) Stats {
    const n: f64 = @floatFromInt(x.len);
    var mean: f64 = 0;
    if (center) for (x) |value| {
        mean += value / n;
    };
    var variance: f64 = 0;
    for (x) |value| variance += (value - mean) * (value - mean) / n;
    return .{ .mean = mean, .rstd = 1 / @sqrt(variance + eps) };
}

/// y = x̂·gain + bias.
pub fn norm(
    x: []const f64,
    gain: []const f64,
    bias: []const f64,
    eps: f64,
    center: bool,
    y: []f64,
) void {
    const stats = statistics(x, eps, center);
    for (x, gain, bias, y) |value, g, b, *out| out.* = (value - stats.mean) * stats.rstd * g + b;
}

/// y = σ(o) ∘ (x̂·gain + bias).
pub fn gated(
    x: []const f64,
    o: []const f64,
    gain: []const f64,
    bias: []const f64,
    eps: f64,
    center: bool,
    y: []f64,
) void {
    norm(x, gain, bias, eps, center, y);
    for (o, y) |gate, *out| out.* /= 1 + @exp(-gate);
}

pub fn logSoftmax(x: []const f64, y: []f64) void {
    var most = -std.math.inf(f64);
    for (x) |value| most = @max(most, value);
    var total: f64 = 0;
    for (x) |value| total += @exp(value - most);
    for (x, y) |value, *out| out.* = value - most - @log(total);
}

pub fn softmax(x: []const f64, y: []f64) void {
    logSoftmax(x, y);
    for (y) |*out| out.* = @exp(out.*);
}
