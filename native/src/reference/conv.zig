//! Causal depthwise convolution and head-wise linear maps in float64, element by element, with the
//! formulas of kernels.md §8 and models.md §2.4-2.5. Used by tests only.

const std = @import("std");

pub const Shape = struct {
    batch: usize,
    length: usize,
    channels: usize,
    taps: usize,
    silu: bool = false,
};

pub const Inputs = struct {
    x: []const f64, // [B, T, C]
    weight: []const f64, // [C, K]
    bias: ?[]const f64 = null, // [C]
    state: ?[]const f64 = null, // [B, K − 1, C]
    borders: ?[]const u8 = null, // [B, T]
    lengths: ?[]const i32 = null, // [B]

    fn lengthOf(in: Inputs, shape: Shape, b: usize) usize {
        return if (in.lengths) |lengths| @intCast(lengths[b]) else shape.length;
    }

    /// Whether token `t` sees extended position `e` (the state has positions 0..K − 2).
    fn visible(in: Inputs, shape: Shape, b: usize, t: usize, e: usize) bool {
        const borders = in.borders orelse return true;
        for (0..t + 1) |p| {
            if (borders[b * shape.length + p] != 0 and e < p + shape.taps - 1) return false;
        }
        return true;
    }

    fn extended(in: Inputs, shape: Shape, b: usize, e: usize, c: usize) f64 {
        const kept = shape.taps - 1;
        if (e >= kept) return in.x[(b * shape.length + e - kept) * shape.channels + c];
        const state = in.state orelse return 0;
        return state[(b * kept + e) * shape.channels + c];
    }
};

fn convolve(shape: Shape, in: Inputs, b: usize, t: usize, c: usize) f64 {
    var total: f64 = if (in.bias) |bias| bias[c] else 0;
    for (0..shape.taps) |j| {
        if (!in.visible(shape, b, t, t + j)) continue;
        total += in.weight[c * shape.taps + j] * in.extended(shape, b, t + j, c);
    }
    return total;
}

fn sigmoid(x: f64) f64 {
    return 1 / (1 + @exp(-x));
}

/// y [B, T, C] and the state [B, K − 1, C] after the last token.
pub fn forward(shape: Shape, in: Inputs, y: []f64, last: []f64) void {
    @memset(y, 0);
    const kept = shape.taps - 1;
    for (0..shape.batch) |b| for (0..shape.channels) |c| {
        const length = in.lengthOf(shape, b);
        for (0..length) |t| {
            const u = convolve(shape, in, b, t, c);
            y[(b * shape.length + t) * shape.channels + c] = if (shape.silu) u * sigmoid(u) else u;
        }
        for (0..kept) |k| {
            const held = lastHolds(shape, in, b, k);
            const value = if (held) in.extended(shape, b, length + k, c) else 0;
            last[(b * kept + k) * shape.channels + c] = value;
        }
    };
}

/// Whether row k of the last state lies in the last document.
fn lastHolds(shape: Shape, in: Inputs, b: usize, k: usize) bool {
    const length = in.lengthOf(shape, b);
    return length == 0 or in.visible(shape, b, length - 1, length + k);
}

pub const Gradients = struct {
    dx: []f64, // [B, T, C]
    dweight: []f64, // [C, K]
    dbias: []f64, // [C]
    dstate: []f64, // [B, K − 1, C]
};

pub fn backward(
    shape: Shape,
    in: Inputs,
    dy: []const f64,
    dlast: ?[]const f64,
    out: Gradients,
) void {
    @memset(out.dx, 0);
    @memset(out.dweight, 0);
    @memset(out.dbias, 0);
    @memset(out.dstate, 0);
    const kept = shape.taps - 1;
    for (0..shape.batch) |b| for (0..shape.channels) |c| {
        const length = in.lengthOf(shape, b);
        for (0..length) |t| {
            var du = dy[(b * shape.length + t) * shape.channels + c];
            if (shape.silu) {
                const u = convolve(shape, in, b, t, c);
                du *= sigmoid(u) * (1 + u * (1 - sigmoid(u)));
            }
            out.dbias[c] += du;
            for (0..shape.taps) |j| {
                if (!in.visible(shape, b, t, t + j)) continue;
                out.dweight[c * shape.taps + j] += du * in.extended(shape, b, t + j, c);
                gradientAt(shape, out, b, t + j, c).* += du * in.weight[c * shape.taps + j];
            }
        }
        if (dlast) |given| for (0..kept) |k| {
            if (!lastHolds(shape, in, b, k)) continue;
            const value = given[(b * kept + k) * shape.channels + c];
            gradientAt(shape, out, b, length + k, c).* += value;
        };
    };
}

fn gradientAt(shape: Shape, out: Gradients, b: usize, e: usize, c: usize) *f64 {
    const kept = shape.taps - 1;
    if (e >= kept) return &out.dx[(b * shape.length + e - kept) * shape.channels + c];
    return &out.dstate[(b * kept + e) * shape.channels + c];
}

pub const Headwise = struct { rows: usize, blocks: usize, inputs: usize, outputs: usize };

/// y[r, h, o] = Σ_i w[h, o, i]·x[r, h, i] (+ bias[h, o]), all contiguous.
pub fn headwise(
    s: Headwise,
    x: []const f64,
    weight: []const f64,
    bias: ?[]const f64,
    y: []f64,
) void {
    for (0..s.rows) |r| for (0..s.blocks) |h| for (0..s.outputs) |o| {
        var total: f64 = if (bias) |given| given[h * s.outputs + o] else 0;
        for (0..s.inputs) |i| {
            const w = weight[(h * s.outputs + o) * s.inputs + i];
            total += w * x[(r * s.blocks + h) * s.inputs + i];
        }
        y[(r * s.blocks + h) * s.outputs + o] = total;
    };
}

pub fn headwiseBackward(
    s: Headwise,
    dy: []const f64,
    x: []const f64,
    weight: []const f64,
    dx: []f64,
    dweight: []f64,
    dbias: []f64,
) void {
    @memset(dx, 0);
    @memset(dweight, 0);
    @memset(dbias, 0);
    for (0..s.rows) |r| for (0..s.blocks) |h| for (0..s.outputs) |o| {
        const g = dy[(r * s.blocks + h) * s.outputs + o];
        dbias[h * s.outputs + o] += g;
        for (0..s.inputs) |i| {
            dx[(r * s.blocks + h) * s.inputs + i] += weight[(h * s.outputs + o) * s.inputs + i] * g;
            dweight[(h * s.outputs + o) * s.inputs + i] += g * x[(r * s.blocks + h) * s.inputs + i];
        }
    };
}
