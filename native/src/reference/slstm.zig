//! sLSTM (and LSTM) in float64, token by token and unit by unit, with the formulas of kernels.md §7
//! in their plainest form. Used by tests only.

const std = @import("std");

pub const Shape = struct {
    batch: usize,
    length: usize,
    heads: usize,
    width: usize,
    function: u32 = 0, // 0 sLSTM, 1 LSTM
    clip: f64 = 0, // of y in the forward pass; 0: off
    recurrent_cut: bool = false,
    recurrent_clip: f64 = 0,

    pub fn outputs(shape: Shape) usize {
        return shape.batch * shape.length * shape.heads * shape.width;
    }
    pub fn states(shape: Shape) usize {
        return shape.batch * 4 * shape.heads * shape.width;
    }
    pub fn weights(shape: Shape) usize {
        return 4 * shape.heads * shape.width * shape.width;
    }
    pub fn biases(shape: Shape) usize {
        return 4 * shape.heads * shape.width;
    }
    fn unit(shape: Shape, b: usize, t: usize, h: usize, d: usize) usize {
        return ((b * shape.length + t) * shape.heads + h) * shape.width + d;
    }
    fn gate(shape: Shape, b: usize, t: usize, g: usize, h: usize, d: usize) usize {
        return (((b * shape.length + t) * 4 + g) * shape.heads + h) * shape.width + d;
    }
    fn state(shape: Shape, b: usize, part: usize, h: usize, d: usize) usize {
        return ((b * 4 + part) * shape.heads + h) * shape.width + d;
    }
    fn recurrent(shape: Shape, g: usize, h: usize, in: usize, out: usize) usize {
        return ((g * shape.heads + h) * shape.width + in) * shape.width + out;
    }
};

pub const Inputs = struct {
    wx: []const f64, // [B, T, 4, NH, DH]
    r: []const f64, // [4, NH, DHin, DHout]
    b: []const f64, // [4, NH, DH]
    initial: ?[]const f64 = null, // [B, 4, NH, DH]
    borders: ?[]const u8 = null, // [B, T]
    lengths: ?[]const i32 = null, // [B]

    fn lengthOf(in: Inputs, shape: Shape, b: usize) usize {
        return if (in.lengths) |lengths| @intCast(lengths[b]) else shape.length;
    }
    fn isBorder(in: Inputs, shape: Shape, b: usize, t: usize) bool {
        return if (in.borders) |borders| borders[b * shape.length + t] != 0 else false;
    }
};

/// What one unit did at one token.
pub const Trace = struct {
    y_before: f64 = 0,
    c_before: f64 = 0,
    n_before: f64 = 0,
    c: f64 = 0,
    n: f64 = 0,
    i: f64 = 0,
    f: f64 = 0,
    z: f64 = 0,
    o: f64 = 0,
    raw_i: f64 = 0,
    raw_f: f64 = 0,
    y: f64 = 0, // before the clip
};

fn sigmoid(x: f64) f64 {
    return 1 / (1 + @exp(-x));
}

fn logSigmoid(x: f64) f64 {
    return -(@max(-x, 0) + std.math.log1p(@exp(-@abs(x))));
}

/// y [B, T, NH, DH] and the state after the last token; `trace` [B, T, NH, DH] serves `backward`.
/// kernels.md §7.1.
pub fn forward(shape: Shape, in: Inputs, y: []f64, last: []f64, trace: []Trace) void {
    @memset(y, 0);
    if (in.initial) |initial| @memcpy(last, initial) else @memset(last, 0);
    for (0..shape.batch) |b| for (0..shape.heads) |h| {
        if (shape.function == 1) for (0..shape.width) |d| {
            last[shape.state(b, 2, h, d)] = 0;
            last[shape.state(b, 3, h, d)] = 0;
        };
        for (0..in.lengthOf(shape, b)) |t| {
            if (in.isBorder(shape, b, t)) for (0..4) |part| for (0..shape.width) |d| {
                last[shape.state(b, part, h, d)] = 0;
            };
            for (0..shape.width) |d| forwardUnit(shape, in, last, trace, b, t, h, d);
            for (0..shape.width) |d| {
                const value = trace[shape.unit(b, t, h, d)].y;
                const bound = if (shape.clip > 0) shape.clip else std.math.inf(f64);
                const clipped = std.math.clamp(value, -bound, bound);
                y[shape.unit(b, t, h, d)] = clipped;
                last[shape.state(b, 0, h, d)] = clipped;
            }
        }
    };
}

fn forwardUnit(
    shape: Shape,
    in: Inputs,
    state: []f64,
    trace: []Trace,
    b: usize,
    t: usize,
    h: usize,
    d: usize,
) void {
    var raw: [4]f64 = undefined;
    for (&raw, 0..) |*value, g| {
        value.* = in.wx[shape.gate(b, t, g, h, d)] + in.b[(g * shape.heads + h) * shape.width + d];
        for (0..shape.width) |e|
            value.* += state[shape.state(b, 0, h, e)] * in.r[shape.recurrent(g, h, e, d)];
    }
    const c = &state[shape.state(b, 1, h, d)];
    const n = &state[shape.state(b, 2, h, d)];
    const m = &state[shape.state(b, 3, h, d)];
    var now: Trace = .{
        .y_before = state[shape.state(b, 0, h, d)],
        .c_before = c.*,
        .n_before = n.*,
        .z = std.math.tanh(raw[2]),
        .o = sigmoid(raw[3]),
        .raw_i = raw[0],
        .raw_f = raw[1],
    };
    if (shape.function == 1) {
        now.i = sigmoid(raw[0]);
        now.f = sigmoid(raw[1]);
        c.* = now.f * c.* + now.i * now.z;
        now.y = now.o * std.math.tanh(c.*);
    } else {
        const l = m.* + logSigmoid(raw[1]);
        const first = n.* == 0;
        m.* = if (first) raw[0] else @max(raw[0], l);
        now.i = @min(@exp(raw[0] - m.*), 1);
        now.f = if (first) 0 else @min(@exp(l - m.*), 1);
        c.* = now.f * c.* + now.i * now.z;
        n.* = now.f * n.* + now.i;
        now.y = now.o * c.* / n.*;
    }
    now.c = c.*;
    now.n = n.*;
    trace[shape.unit(b, t, h, d)] = now;
}

pub const Gradients = struct {
    dwx: []f64,
    dr: []f64,
    db: []f64,
    dinitial: []f64,
};

/// All gradients from dy [B, T, NH, DH] and optional dlast [B, 4, NH, DH] (its m part is ignored).
/// kernels.md §7.2.
pub fn backward(
    shape: Shape,
    in: Inputs,
    trace: []const Trace,
    dy: []const f64,
    dlast: ?[]const f64,
    out: Gradients,
) void {
    @memset(out.dwx, 0);
    @memset(out.dr, 0);
    @memset(out.db, 0);
    const carry = out.dinitial; // ȳ, c̄, n̄ live in the places of dy_0, dc_0, dn_0
    if (dlast) |given| @memcpy(carry, given) else @memset(carry, 0);
    for (0..shape.batch) |b| for (0..shape.heads) |h| {
        var t = in.lengthOf(shape, b);
        while (t > 0) {
            t -= 1;
            for (0..shape.width) |d| backwardUnit(shape, trace, dy, out, b, t, h, d);
            for (0..shape.width) |e| backwardRecurrent(shape, in, trace, out, b, t, h, e);
            if (in.isBorder(shape, b, t)) for (0..3) |part| for (0..shape.width) |d| {
                carry[shape.state(b, part, h, d)] = 0;
            };
        }
        for (0..shape.width) |d| {
            const initial = in.initial orelse &.{};
            const given = initial.len > 0 and shape.function == 0;
            if (shape.function == 1) carry[shape.state(b, 2, h, d)] = 0;
            const c0 = if (given) initial[shape.state(b, 1, h, d)] else 0;
            const n0 = if (given) initial[shape.state(b, 2, h, d)] else 0;
            carry[shape.state(b, 3, h, d)] = c0 * carry[shape.state(b, 1, h, d)] +
                n0 * carry[shape.state(b, 2, h, d)];
        }
    };
}

fn backwardUnit(
    shape: Shape,
    trace: []const Trace,
    dy: []const f64,
    out: Gradients,
    b: usize,
    t: usize,
    h: usize,
    d: usize,
) void {
    const now = trace[shape.unit(b, t, h, d)];
    const carry_c = &out.dinitial[shape.state(b, 1, h, d)];
    const carry_n = &out.dinitial[shape.state(b, 2, h, d)];
    var dy_total = dy[shape.unit(b, t, h, d)] + out.dinitial[shape.state(b, 0, h, d)];
    if (shape.clip > 0 and @abs(now.y) > shape.clip) dy_total = 0;
    var raw: [4]f64 = undefined;
    if (shape.function == 1) {
        const bounded = std.math.tanh(now.c);
        carry_c.* += dy_total * now.o * (1 - bounded * bounded);
        raw[0] = carry_c.* * now.z * now.i * (1 - now.i);
        raw[1] = carry_c.* * now.c_before * now.f * (1 - now.f);
    } else {
        carry_c.* += dy_total * now.o / now.n;
        carry_n.* -= dy_total * now.y / now.n;
        raw[0] = now.i * (now.z * carry_c.* + carry_n.*);
        const kept = carry_c.* * now.c_before + carry_n.* * now.n_before;
        raw[1] = now.f * kept * sigmoid(-now.raw_f);
    }
    raw[2] = carry_c.* * now.i * (1 - now.z * now.z);
    raw[3] = (1 - now.o) * now.y * dy_total;
    for (raw, 0..) |value, g| {
        out.dwx[shape.gate(b, t, g, h, d)] = value;
        out.db[(g * shape.heads + h) * shape.width + d] += value;
    }
    carry_c.* *= now.f;
    carry_n.* *= now.f;
}

/// ȳ of one input unit, and its row of dR.
fn backwardRecurrent(
    shape: Shape,
    in: Inputs,
    trace: []const Trace,
    out: Gradients,
    b: usize,
    t: usize,
    h: usize,
    e: usize,
) void {
    var total: f64 = 0;
    const before = trace[shape.unit(b, t, h, e)].y_before;
    for (0..4) |g| for (0..shape.width) |d| {
        const raw = out.dwx[shape.gate(b, t, g, h, d)];
        total += in.r[shape.recurrent(g, h, e, d)] * raw;
        out.dr[shape.recurrent(g, h, e, d)] += before * raw;
    };
    if (shape.recurrent_clip > 0)
        total = std.math.clamp(total, -shape.recurrent_clip, shape.recurrent_clip);
    out.dinitial[shape.state(b, 0, h, e)] = if (shape.recurrent_cut) 0 else total;
}
