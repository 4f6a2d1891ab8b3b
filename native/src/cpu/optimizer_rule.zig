//! Update rules of the optimisers, element by element. training.md §5.2.
//!
//!     m ← β₁m + (1−β₁)g;  v ← β₂v + (1−β₂)g²;  m̂ = m/(1−β₁ᵗ);  v̂ = v/(1−β₂ᵗ);  p ← p − η·u
//!     sgd        u = g                                        momentum   m ← g + β₁m; u = m
//!     nesterov   m ← g + β₁m; u = g + β₁m                     adam       u = m̂/(√v̂ + eps)
//!     nadam      u = (β₁m/(1−β₁ᵗ⁺¹) + (1−β₁)g/(1−β₁ᵗ))/(√v̂ + eps)
//!     adamax     a ← max(|g| + eps, β₂a); u = m̂/a
//!     radam      u = r·m̂/(√v̂ + eps) where ρ ≥ 5, else m̂
//!     lamb       w as adam, norm ratio applied by the caller
//!     ademamix   m₂ ← β₃m₂ + (1−β₃)g; u = (m̂ + α·m₂)/(√v̂ + eps)
//! and u ← u + λp for every rule. Bias corrections are made in f64 once per call.

const std = @import("std");
const args = @import("../args/optimizer.zig");
const simd = @import("simd.zig");
const Rule = args.Rule;

pub fn Moments(comptime V: type) type {
    return struct { first: V, second: V, third: V };
}

/// Everything that is constant over a tensor, computed in f64 and rounded once to A.
pub fn Coefficients(comptime A: type) type {
    return struct {
        rate: A,
        beta1: A,
        beta2: A,
        beta3: A,
        rest1: A, // 1 − β₁
        rest2: A,
        rest3: A,
        correction1: A, // 1/(1 − β₁ᵗ)
        correction2: A, // 1/(1 − β₂ᵗ)
        ahead: A, // β₁/(1 − β₁ᵗ⁺¹), nadam
        now: A, // (1 − β₁)/(1 − β₁ᵗ), nadam
        rectifier: A, // r of radam; 0 where ρ < 5
        alpha: A,
        eps: A,
        decay: A,
        scale: A,
        limit: A, // +Inf without a value clip

        pub fn init(a: *const args.OptimizerStep) @This() {
            const t: f64 = @floatFromInt(a.step);
            const left1 = 1 - std.math.pow(f64, a.beta1, t);
            const left2 = 1 - std.math.pow(f64, a.beta2, t);
            const next1 = 1 - std.math.pow(f64, a.beta1, t + 1);
            const factor: f64 = if (a.factor) |p| @as(*const f64, @ptrCast(@alignCast(p))).* else 1;
            return .{
                .rate = @floatCast(a.learning_rate),
                .beta1 = @floatCast(a.beta1),
                .beta2 = @floatCast(a.beta2),
                .beta3 = @floatCast(a.beta3),
                .rest1 = @floatCast(1 - a.beta1),
                .rest2 = @floatCast(1 - a.beta2),
                .rest3 = @floatCast(1 - a.beta3),
                .correction1 = @floatCast(1 / left1),
                .correction2 = @floatCast(1 / left2),
                .ahead = @floatCast(a.beta1 / next1),
                .now = @floatCast((1 - a.beta1) / left1),
                .rectifier = @floatCast(rectification(a.beta2, t)),
                .alpha = @floatCast(a.alpha),
                .eps = @floatCast(a.eps),
                .decay = @floatCast(a.weight_decay),
                .scale = @floatCast(a.gradient_scale * factor),
                .limit = @floatCast(if (a.clip_value > 0) a.clip_value else std.math.inf(f64)),
            };
        }
    };
}

/// √[(ρ−4)(ρ−2)ρ∞ / ((ρ∞−4)(ρ∞−2)ρ)], ρ = ρ∞ − 2tβ₂ᵗ/(1−β₂ᵗ), ρ∞ = 2/(1−β₂) − 1; 0 where ρ < 5.
fn rectification(beta2: f64, t: f64) f64 {
    const power = std.math.pow(f64, beta2, t);
    const most = 2 / (1 - beta2) - 1;
    const rho = most - 2 * t * power / (1 - power);
    if (!(rho >= 5)) return 0;
    return @sqrt((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho));
}

/// The gradient the rule sees. NaN stays NaN: a plain min/max pair would turn it into the limit.
pub inline fn clipped(comptime V: type, k: anytype, gradient: V) V {
    const g = gradient * fill(V, k.scale);
    const limit = fill(V, k.limit);
    const low = pick(V, g < -limit, -limit, g);
    return pick(V, g > limit, limit, low);
}

/// u of the rule, weight decay included; the moments are updated.
pub inline fn direction(
    comptime V: type,
    comptime rule: Rule,
    k: anytype,
    p: V,
    g: V,
    m: *Moments(V),
) V {
    switch (rule) {
        .sgd => return decayed(V, k, p, g),
        .momentum, .nesterov => {
            m.first = simd.fma(V, fill(V, k.beta1), m.first, g);
            const u = if (rule == .momentum) m.first else simd.fma(V, fill(V, k.beta1), m.first, g);
            return decayed(V, k, p, u);
        },
        .adamax => {
            average(V, k.beta1, k.rest1, &m.first, g);
            m.second = @max(@abs(g) + fill(V, k.eps), fill(V, k.beta2) * m.second);
            return decayed(V, k, p, m.first * fill(V, k.correction1) / m.second);
        },
        .adam, .lamb, .nadam, .radam, .ademamix => {
            average(V, k.beta1, k.rest1, &m.first, g);
            average(V, k.beta2, k.rest2, &m.second, g * g);
        },
    }
    const corrected = m.first * fill(V, k.correction1);
    switch (rule) {
        .nadam => {
            const mixed = simd.fma(V, m.first, fill(V, k.ahead), g * fill(V, k.now));
            return decayed(V, k, p, mixed / root(V, k, m.second));
        },
        .radam => {
            if (k.rectifier == 0) return decayed(V, k, p, corrected);
            return decayed(V, k, p, fill(V, k.rectifier) * corrected / root(V, k, m.second));
        },
        .ademamix => {
            average(V, k.beta3, k.rest3, &m.third, g);
            const mixed = simd.fma(V, fill(V, k.alpha), m.third, corrected);
            return decayed(V, k, p, mixed / root(V, k, m.second));
        },
        else => return adamDirection(V, k, p, m.*),
    }
}

/// m̂/(√v̂ + eps) + λp from moments that are up to date.
pub inline fn adamDirection(comptime V: type, k: anytype, p: V, m: Moments(V)) V {
    return decayed(V, k, p, m.first * fill(V, k.correction1) / root(V, k, m.second));
}

/// p − η·u.
pub inline fn applied(comptime V: type, k: anytype, p: V, u: V) V {
    return simd.fma(V, fill(V, -k.rate), u, p);
}

/// m ← β·m + (1 − β)·x.
inline fn average(comptime V: type, beta: anytype, rest: anytype, m: *V, x: V) void {
    m.* = simd.fma(V, fill(V, beta), m.*, fill(V, rest) * x);
}

/// √v̂ + eps.
inline fn root(comptime V: type, k: anytype, v: V) V {
    return @sqrt(v * fill(V, k.correction2)) + fill(V, k.eps);
}

inline fn decayed(comptime V: type, k: anytype, p: V, u: V) V {
    return simd.fma(V, fill(V, k.decay), p, u);
}

inline fn fill(comptime V: type, x: anytype) V {
    return if (@typeInfo(V) == .vector) @splat(x) else x;
}

inline fn pick(comptime V: type, condition: anytype, a: V, b: V) V {
    if (@typeInfo(V) != .vector) return if (condition) a else b;
    return @select(@typeInfo(V).vector.child, condition, a, b);
}
