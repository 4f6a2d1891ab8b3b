//! Cross entropy row by row in float64, as args/loss.zig defines it, and its gradient by the
//! formula.

const std = @import("std");

pub const Options = struct {
    soft_cap: f64 = 0,
    label_smoothing: f64 = 0,
    z_loss: f64 = 0,
};

pub fn capped(r: f64, o: Options) f64 {
    return if (o.soft_cap > 0) o.soft_cap * std.math.tanh(r / o.soft_cap) else r;
}

/// ln Σ e^z of one row of logits.
pub fn logSumExp(r: []const f64, o: Options) f64 {
    var top: f64 = -std.math.inf(f64);
    for (r) |x| top = @max(top, capped(x, o));
    var sum: f64 = 0;
    for (r) |x| sum += @exp(capped(x, o) - top);
    return top + @log(sum);
}

/// Loss of one row, without its weight.
pub fn row(r: []const f64, target: usize, o: Options) f64 {
    const lse = logSumExp(r, o);
    var mean: f64 = 0;
    for (r) |x| mean += capped(x, o) / @as(f64, @floatFromInt(r.len));
    const picked = (1 - o.label_smoothing) * capped(r[target], o) + o.label_smoothing * mean;
    return lse - picked + o.z_loss * lse * lse;
}

/// ∂ row / ∂ r[j].
pub fn slope(r: []const f64, target: usize, j: usize, o: Options) f64 {
    return slopeWith(r, target, j, o, logSumExp(r, o));
}

/// The same where the row's log-sum-exp is known.
pub fn slopeWith(r: []const f64, target: usize, j: usize, o: Options, lse: f64) f64 {
    const z = capped(r[j], o);
    const wanted = o.label_smoothing / @as(f64, @floatFromInt(r.len)) +
        (if (j == target) 1 - o.label_smoothing else 0);
    const dz = @exp(z - lse) * (1 + 2 * o.z_loss * lse) - wanted;
    return dz * if (o.soft_cap > 0) 1 - (z / o.soft_cap) * (z / o.soft_cap) else 1;
}

/// First index of the largest logit.
pub fn argmax(r: []const f64) usize {
    var best: usize = 0;
    for (r, 0..) |x, i| if (x > r[best]) {
        best = i;
    };
    return best;
}

/// x [rows, width] times the transpose of w [vocab, width].
pub fn logits(gpa: std.mem.Allocator, x: []const f64, w: []const f64, width: usize) ![]f64 {
    const rows = x.len / width;
    const vocab = w.len / width;
    const out = try gpa.alloc(f64, rows * vocab);
    for (0..rows) |i| for (0..vocab) |j| {
        var sum: f64 = 0;
        for (x[i * width ..][0..width], w[j * width ..][0..width]) |a, b| sum += a * b;
        out[i * vocab + j] = sum;
    };
    return out;
}
