//! Optimiser updates one element after the other in float64, as training.md §5.2 writes them.

const std = @import("std");
const args = @import("../args/optimizer.zig");

pub const Options = struct {
    rule: args.Rule,
    step: u64, // t = 1, 2, …
    learning_rate: f64,
    beta1: f64 = 0.9,
    beta2: f64 = 0.999,
    beta3: f64 = 0.9999,
    alpha: f64 = 8,
    eps: f64 = 1e-8,
    weight_decay: f64 = 0,
    gradient_scale: f64 = 1,
    clip_value: f64 = 0,
};

/// One tensor; p, m1, m2, m3 are updated in place.
pub fn step(o: Options, p: []f64, gradient: []const f64, m1: []f64, m2: []f64, m3: []f64) void {
    const t: f64 = @floatFromInt(o.step);
    var p_square: f64 = 0;
    var w_square: f64 = 0;
    const u = std.testing.allocator.alloc(f64, p.len) catch unreachable;
    defer std.testing.allocator.free(u);
    for (p, 0..) |x, i| {
        var g = gradient[i] * o.gradient_scale;
        if (o.clip_value > 0) g = std.math.clamp(g, -o.clip_value, o.clip_value);
        u[i] = direction(o, t, g, &m1[i], &m2[i], &m3[i]) + o.weight_decay * x;
        p_square += x * x;
        w_square += u[i] * u[i];
    }
    const defined = o.rule == .lamb and p_square > 0 and w_square > 0;
    const ratio = if (defined) @sqrt(p_square / w_square) else 1;
    for (p, u) |*x, d| x.* -= o.learning_rate * ratio * d;
}

fn direction(o: Options, t: f64, g: f64, m: *f64, v: *f64, slow: *f64) f64 {
    switch (o.rule) {
        .sgd => return g,
        .momentum => {
            m.* = g + o.beta1 * m.*;
            return m.*;
        },
        .nesterov => {
            m.* = g + o.beta1 * m.*;
            return g + o.beta1 * m.*;
        },
        else => {},
    }
    const one = 1 - std.math.pow(f64, o.beta1, t);
    const two = 1 - std.math.pow(f64, o.beta2, t);
    m.* = o.beta1 * m.* + (1 - o.beta1) * g;
    if (o.rule == .adamax) {
        v.* = @max(@abs(g) + o.eps, o.beta2 * v.*);
        return m.* / one / v.*;
    }
    v.* = o.beta2 * v.* + (1 - o.beta2) * g * g;
    const root = @sqrt(v.* / two) + o.eps;
    switch (o.rule) {
        .nadam => {
            const ahead = o.beta1 * m.* / (1 - std.math.pow(f64, o.beta1, t + 1));
            return (ahead + (1 - o.beta1) * g / one) / root;
        },
        .radam => {
            const most = 2 / (1 - o.beta2) - 1;
            const rho = most - 2 * t * std.math.pow(f64, o.beta2, t) / two;
            if (rho < 5) return m.* / one;
            const square = (rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho);
            return @sqrt(square) * m.* / one / root;
        },
        .ademamix => {
            slow.* = o.beta3 * slow.* + (1 - o.beta3) * g;
            return (m.* / one + o.alpha * slow.*) / root;
        },
        else => return m.* / one / root,
    }
}
