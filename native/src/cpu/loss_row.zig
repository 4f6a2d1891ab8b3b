//! One row of the cross entropy: statistics of the softmax and the gradient. args/loss.zig.
//!
//!     z = c·tanh(r/c);  m = max z;  Σ = Σⱼ e^(zⱼ−m);  lse = m + ln Σ
//!     dr = k·( p·(1 + 2λ·lse) − q )·(1 − (z/c)²),  p = e^(z−shift)·factor,  q = (1−ε)[j = y] + ε/V
//! r [V] in S. Σ is made in f64 over each of a few equal parts of the vocabulary, and over those in
//! A in a balanced tree, as ranks that have parts of it add (mesh.md §15). Everything per row is in
//! f64. Equals reference/loss.zig.

const std = @import("std");
const math = @import("math.zig");
const order = @import("index_order.zig");
const simd = @import("simd.zig");

const n = simd.reduce_lanes;
/// As the product of the logits' gradients and the head's weight.
const parts = @import("../args/matmul.zig").most_parts;

pub const Options = struct {
    soft_cap: f64,
    label_smoothing: f64,
    z_loss: f64,

    pub fn of(a: anytype) Options {
        return .{
            .soft_cap = a.soft_cap,
            .label_smoothing = a.label_smoothing,
            .z_loss = a.z_loss,
        };
    }
};

pub const Row = struct {
    loss: f64, // without the weight
    lse: f64,
    top: f64, // m
    sum: f64, // Σ
    correct: bool,
};

/// Statistics of the row whose target is `target` (< vocab).
pub fn forward(comptime S: type, r: [*]const S, vocab: usize, target: usize, o: Options) Row {
    return if (o.soft_cap > 0)
        statistics(S, true, r, vocab, target, o)
    else
        statistics(S, false, r, vocab, target, o);
}

fn statistics(
    comptime S: type,
    comptime caps: bool,
    r: [*]const S,
    vocab: usize,
    target: usize,
    o: Options,
) Row {
    const A = simd.Arithmetic(S);
    const cap: Cap(A, caps) = .init(o.soft_cap);
    // The cap is monotone: the largest capped logit is the largest logit, capped.
    const largest = order.maximum(S, r, vocab);
    const top = cap.of(A, largest);
    const made = sumsOfParts(S, caps, r, vocab, top, parts, cap, o.label_smoothing != 0);
    const sum: f64 = made.powers;
    const total = made.total;
    const lse = @as(f64, top) + @log(sum);
    const chosen: f64 = cap.of(A, simd.get(S, r, target));
    const share = o.label_smoothing / @as(f64, @floatFromInt(vocab));
    var loss = lse - chosen;
    if (o.label_smoothing != 0) loss = lse - (1 - o.label_smoothing) * chosen - share * total;
    if (o.z_loss != 0) loss += o.z_loss * lse * lse;
    const correct = simd.get(S, r, target) == largest and order.largest(S, r, vocab) == target;
    return .{ .loss = loss, .lse = lse, .top = top, .sum = sum, .correct = correct };
}

/// Sums over a row, or over the columns of it that a rank has.
pub fn Sums(comptime A: type) type {
    return struct {
        powers: A, // Σ e^(z−top)
        total: f64, // Σ z, where it is wanted
    };
}

/// `count` of the equal parts are in r: all, or those of a rank.
pub fn sums(
    comptime S: type,
    r: [*]const S,
    vocab: usize,
    top: simd.Arithmetic(S),
    count: usize,
    o: struct { soft_cap: f64, wants_total: bool },
) Sums(simd.Arithmetic(S)) {
    const A = simd.Arithmetic(S);
    if (o.soft_cap > 0) {
        const cap: Cap(A, true) = .init(o.soft_cap);
        return sumsOfParts(S, true, r, vocab, top, count, cap, o.wants_total);
    }
    return sumsOfParts(S, false, r, vocab, top, count, .init(0), o.wants_total);
}

fn sumsOfParts(
    comptime S: type,
    comptime caps: bool,
    r: [*]const S,
    vocab: usize,
    top: simd.Arithmetic(S),
    count: usize,
    cap: Cap(simd.Arithmetic(S), caps),
    wants_total: bool,
) Sums(simd.Arithmetic(S)) {
    var powers: [parts]simd.Arithmetic(S) = undefined;
    var total: f64 = 0;
    for (powers[0..count], 0..) |*sum, part| {
        const first = part * vocab / count;
        const columns = (part + 1) * vocab / count - first;
        const own = sumsOf(S, caps, r + first, columns, top, cap, wants_total);
        sum.* = @floatCast(own[0]);
        total += own[1];
    }
    var width = count;
    while (width > 1) : (width /= 2) {
        for (0..width / 2) |i| powers[i] = powers[2 * i] + powers[2 * i + 1];
    }
    return .{ .powers = powers[0], .total = total };
}

/// Σ e^(z−top), and Σ z for label smoothing.
inline fn sumsOf(
    comptime S: type,
    comptime caps: bool,
    r: [*]const S,
    count: usize,
    top: simd.Arithmetic(S),
    cap: Cap(simd.Arithmetic(S), caps),
    wants_total: bool,
) [2]f64 {
    const A = simd.Arithmetic(S);
    const V = simd.Wide(A);
    var powers: simd.Wide(f64) = @splat(0);
    var logits: simd.Wide(f64) = @splat(0);
    var i: usize = 0;
    while (i + n <= count) : (i += n) {
        const z = cap.of(V, simd.loadN(S, n, r + i));
        powers += @as(simd.Wide(f64), math.exp(V, z - @as(V, @splat(top))));
        if (wants_total) logits += @as(simd.Wide(f64), z);
    }
    var sum: f64 = simd.sum(n, f64, powers);
    var total: f64 = simd.sum(n, f64, logits);
    while (i < count) : (i += 1) {
        const z = cap.of(A, simd.get(S, r, i));
        sum += math.exp(A, z - top);
        total += z;
    }
    return .{ sum, total };
}

/// Everything the gradient of a row depends on.
pub const Slope = struct {
    scale: f64, // k: upstream gradient · grad_scale · weight
    lse: f64,
    shift: f64, // p = e^(z − shift)·factor: lse and 1, or m and 1/Σ
    factor: f64,
};

/// Writes dr, which may be r itself.
pub fn backward(
    comptime S: type,
    r: [*]const S,
    dr: [*]S,
    vocab: usize,
    target: usize,
    slope: Slope,
    o: Options,
) void {
    const share = o.label_smoothing / @as(f64, @floatFromInt(vocab));
    slopes(S, r, dr, vocab, target, .{
        .shift = @floatCast(slope.shift),
        .scale = @floatCast(slope.scale * slope.factor * (1 + 2 * o.z_loss * slope.lse)),
        .rest = @floatCast(slope.scale * share),
        .own = @floatCast(slope.scale * (1 - o.label_smoothing)),
    }, o.soft_cap);
}

/// Writes dr, which may be r itself, of a row or of the columns of it that a rank has.
pub fn slopes(
    comptime S: type,
    r: [*]const S,
    dr: [*]S,
    vocab: usize,
    target: usize,
    k: Factors(simd.Arithmetic(S)),
    soft_cap: f64,
) void {
    const A = simd.Arithmetic(S);
    if (soft_cap > 0) {
        gradient(S, true, r, dr, vocab, target, k, .init(soft_cap));
    } else gradient(S, false, r, dr, vocab, target, k, Cap(A, false).init(0));
}

fn gradient(
    comptime S: type,
    comptime caps: bool,
    r: [*]const S,
    dr: [*]S,
    vocab: usize,
    target: usize,
    k: Factors(simd.Arithmetic(S)),
    cap: Cap(simd.Arithmetic(S), caps),
) void {
    const A = simd.Arithmetic(S);
    const V = simd.Wide(A);
    const chosen = simd.get(S, r, target);
    var i: usize = 0;
    while (i + n <= vocab) : (i += n) {
        simd.storeN(S, n, dr + i, k.slope(V, cap, simd.loadN(S, n, r + i)));
    }
    while (i < vocab) : (i += 1) simd.put(S, dr, i, k.slope(A, cap, simd.get(S, r, i)));
    // The target's own term is added before the rounding to S.
    const own = k.own * cap.derivative(A, cap.of(A, chosen));
    simd.put(S, dr, target, k.slope(A, cap, chosen) - own);
}

/// ( e^(z−shift)·scale − rest − own·[j = y] )·dz/dr
pub fn Factors(comptime A: type) type {
    return struct {
        shift: A,
        scale: A,
        rest: A,
        own: A,

        inline fn slope(k: @This(), comptime V: type, cap: anytype, r: V) V {
            const z = cap.of(V, r);
            const p = math.exp(V, z - fill(V, k.shift)) * fill(V, k.scale) - fill(V, k.rest);
            return p * cap.derivative(V, z);
        }
    };
}

/// z = c·tanh(r/c) and dz/dr = 1 − (z/c)²; the identity without a cap.
fn Cap(comptime A: type, comptime caps: bool) type {
    return struct {
        cap: A,
        inverse: A,

        fn init(cap: f64) @This() {
            return .{ .cap = @floatCast(cap), .inverse = if (caps) @floatCast(1 / cap) else 0 };
        }

        inline fn of(c: @This(), comptime V: type, r: V) V {
            if (!caps) return r;
            return fill(V, c.cap) * math.tanh(V, r * fill(V, c.inverse));
        }

        inline fn derivative(c: @This(), comptime V: type, z: V) V {
            if (!caps) return fill(V, 1);
            const t = z * fill(V, c.inverse);
            return fill(V, 1) - t * t;
        }
    };
}

inline fn fill(comptime V: type, x: anytype) V {
    return if (@typeInfo(V) == .vector) @splat(x) else x;
}
