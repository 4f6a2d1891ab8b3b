//! mLSTM in float64, sequential and obvious: what the kernels are tested against. kernels.md §2-5.
//!
//! Forward token by token (§2.1) and in the quadratic form with every row's gate sums added up
//! separately (§2.2). Backward token by token in terms of C̃ = e^m C and ñ = e^m n, which do not
//! depend on m: m acts through eps·e^m alone, and passes that derivative down its maxima. So it
//! shares nothing with the chunk formulas. Without the eps term, and in frozen mode, m is constant.

const std = @import("std");
const args = @import("../args/mlstm.zig");

pub const Shape = struct {
    batch: usize,
    length: usize,
    heads: usize,
    dk: usize,
    dv: usize,
    sigmoid: bool = false,
    normalize: bool = true,
    eps: f64 = 1e-6,
    reset: u32 = args.reset.exact,
    reset_value: f64 = -25,

    pub fn tokens(s: Shape) usize {
        return s.batch * s.length * s.heads;
    }

    pub fn units(s: Shape) usize {
        return s.batch * s.heads;
    }
};

/// q, k [B, S, NH, DQK], v [B, S, NH, DV], i, f [B, S, NH], c0 [B, NH, DQK, DV], n0 [B, NH, DQK],
/// m0 [B, NH], borders [B, S], lengths [B].
pub const Inputs = struct {
    q: []f64,
    k: []f64,
    v: []f64,
    i: []f64,
    f: []f64,
    c0: ?[]f64 = null,
    n0: ?[]f64 = null,
    m0: ?[]f64 = null,
    borders: ?[]const u8 = null,
    lengths: ?[]const i32 = null,

    fn length(in: Inputs, s: Shape, row: usize) usize {
        return if (in.lengths) |lengths| @intCast(lengths[row]) else s.length;
    }

    fn border(in: Inputs, s: Shape, row: usize, t: usize) bool {
        const borders = in.borders orelse return false;
        return s.reset != args.reset.none and borders[row * s.length + t] != 0;
    }

    fn resets(in: Inputs, s: Shape, row: usize, t: usize) bool {
        return s.reset == args.reset.exact and in.border(s, row, t);
    }

    fn softened(in: Inputs, s: Shape, row: usize, t: usize) bool {
        return s.reset == args.reset.soft and in.border(s, row, t);
    }

    /// log of the forget gate.
    fn forget(in: Inputs, s: Shape, row: usize, t: usize, head: usize) f64 {
        const f = in.f[(row * s.length + t) * s.heads + head];
        return logSigmoid(if (in.softened(s, row, t)) s.reset_value else f);
    }

    /// log of the input gate.
    fn input(in: Inputs, s: Shape, row: usize, t: usize, head: usize) f64 {
        const i = in.i[(row * s.length + t) * s.heads + head];
        return if (s.sigmoid) logSigmoid(i) else i;
    }
};

pub const Outputs = struct { h: []f64, sigma: []f64, m: []f64, c: []f64, n: []f64, m_last: []f64 };

/// States after every token (index 0: before the first), as the backward pass reads them.
pub const Trace = struct {
    c: []f64, // [S + 1, DQK, DV]
    n: []f64, // [S + 1, DQK]
    m: []f64, // [S + 1]
};

pub fn logSigmoid(x: f64) f64 {
    return @min(x, 0) - std.math.log1p(@exp(-@abs(x)));
}

fn sigmoid(x: f64) f64 {
    return @exp(logSigmoid(x));
}

fn denominator(s: Shape, sigma: f64, m: f64) f64 {
    if (!s.normalize) return 1;
    return @max(@abs(sigma), floor(s, m)) + s.eps;
}

fn floor(s: Shape, m: f64) f64 {
    return if (s.sigmoid) 1 else @exp(@min(-m, 700));
}

fn scaleOf(s: Shape) f64 {
    return 1 / @sqrt(@as(f64, @floatFromInt(s.dk)));
}

const One = struct { row: usize, head: usize };

fn startState(s: Shape, in: Inputs, one: One, trace: Trace) void {
    const unit = one.row * s.heads + one.head;
    const size = s.dk * s.dv;
    @memset(trace.c[0..size], 0);
    @memset(trace.n[0..s.dk], 0);
    if (in.c0) |c0| @memcpy(trace.c[0..size], c0[unit * size ..][0..size]);
    if (in.n0) |n0| @memcpy(trace.n[0..s.dk], n0[unit * s.dk ..][0..s.dk]);
    trace.m[0] = if (s.sigmoid) 0 else if (in.m0) |m0| m0[unit] else 0;
}

const Gate = struct { forget: f64, input: f64, m: f64, decayed: f64 };

/// F, I and m of one token. `before` is the m it meets: 0 at an exact reset.
fn gateOf(s: Shape, in: Inputs, one: One, t: usize, before: f64) Gate {
    const lf = in.forget(s, one.row, t, one.head);
    const li = in.input(s, one.row, t, one.head);
    if (s.sigmoid) return .{ .forget = @exp(lf), .input = @exp(li), .m = 0, .decayed = 0 };
    const decayed = lf + before;
    const m = @max(decayed, li);
    return .{ .forget = @exp(decayed - m), .input = @exp(li - m), .m = m, .decayed = decayed };
}

/// Runs one unit and fills its trace.
fn runUnit(s: Shape, in: Inputs, one: One, trace: Trace, out: Outputs) void {
    const size = s.dk * s.dv;
    const scale = scaleOf(s);
    startState(s, in, one, trace);
    const tokens = in.length(s, one.row);
    for (0..tokens) |t| {
        const token = (one.row * s.length + t) * s.heads + one.head;
        const fresh = in.resets(s, one.row, t);
        const gate = gateOf(s, in, one, t, if (fresh) 0 else trace.m[t]);
        const q = in.q[token * s.dk ..][0..s.dk];
        const k = in.k[token * s.dk ..][0..s.dk];
        const v = in.v[token * s.dv ..][0..s.dv];
        const c = trace.c[(t + 1) * size ..][0..size];
        const n = trace.n[(t + 1) * s.dk ..][0..s.dk];
        var sigma: f64 = 0;
        for (0..s.dk) |r| {
            const n_before = if (fresh) 0 else trace.n[t * s.dk + r];
            n[r] = gate.forget * n_before + gate.input * k[r];
            for (0..s.dv) |e| {
                const c_before = if (fresh) 0 else trace.c[t * size + r * s.dv + e];
                c[r * s.dv + e] = gate.forget * c_before + gate.input * k[r] * v[e];
            }
            sigma += scale * q[r] * n[r];
        }
        if (!s.normalize) sigma = 0;
        trace.m[t + 1] = gate.m;
        for (0..s.dv) |e| {
            var num: f64 = 0;
            for (0..s.dk) |r| num += scale * q[r] * c[r * s.dv + e];
            out.h[token * s.dv + e] = num / denominator(s, sigma, gate.m);
        }
        out.sigma[token] = sigma;
        out.m[token] = gate.m;
    }
    const unit = one.row * s.heads + one.head;
    @memcpy(out.c[unit * size ..][0..size], trace.c[tokens * size ..][0..size]);
    for (out.n[unit * s.dk ..][0..s.dk], trace.n[tokens * s.dk ..][0..s.dk]) |*to, n| {
        to.* = if (s.normalize) n else 0;
    }
    out.m_last[unit] = trace.m[tokens];
}

/// Token by token. Outputs of padded tokens are zeros.
pub fn forward(s: Shape, in: Inputs, trace: Trace, out: Outputs) void {
    for ([_][]f64{ out.h, out.sigma, out.m }) |values| @memset(values, 0);
    for (0..s.batch) |row| for (0..s.heads) |head| {
        runUnit(s, in, .{ .row = row, .head = head }, trace, out);
    };
}

/// Quadratic form, outputs of every token only. `logs` holds one row of D̃.
pub fn parallel(s: Shape, in: Inputs, logs: []f64, h: []f64, sigmas: []f64, ms: []f64) void {
    for ([_][]f64{ h, sigmas, ms }) |values| @memset(values, 0);
    for (0..s.batch) |row| for (0..s.heads) |head| for (0..in.length(s, row)) |t| {
        parallelRow(s, in, .{ .row = row, .head = head }, t, logs, h, sigmas, ms);
    };
}

fn parallelRow(
    s: Shape,
    in: Inputs,
    one: One,
    t: usize,
    logs: []f64,
    h: []f64,
    sigmas: []f64,
    ms: []f64,
) void {
    const unit = one.row * s.heads + one.head;
    const token = (one.row * s.length + t) * s.heads + one.head;
    const scale = scaleOf(s);
    // Backwards from t: the sum of lf over (j, t], until a border ends what t sees.
    var sum: f64 = 0;
    var first = t + 1;
    var closed = false;
    while (first > 0 and !closed) {
        first -= 1;
        logs[first] = sum + in.input(s, one.row, first, one.head);
        sum += in.forget(s, one.row, first, one.head);
        closed = in.resets(s, one.row, first);
    }
    const m0 = if (closed) 0 else if (in.m0) |m| m[unit] else 0;
    var m = sum + m0;
    for (logs[first .. t + 1]) |x| m = @max(m, x);
    if (s.sigmoid) m = 0;
    const from_state = if (closed) 0 else @exp(sum + (if (s.sigmoid) 0 else m0) - m);
    const q = in.q[token * s.dk ..][0..s.dk];
    const num = h[token * s.dv ..][0..s.dv];
    var sigma: f64 = 0;
    for (0..s.dk) |r| {
        if (in.n0) |n0| sigma += scale * from_state * q[r] * n0[unit * s.dk + r];
        if (in.c0) |c0| for (num, 0..) |*x, e| {
            x.* += scale * from_state * q[r] * c0[(unit * s.dk + r) * s.dv + e];
        };
    }
    for (first..t + 1) |j| {
        const other = (one.row * s.length + j) * s.heads + one.head;
        var product: f64 = 0;
        for (q, in.k[other * s.dk ..][0..s.dk]) |x, y| product += scale * x * y;
        const weight = product * @exp(logs[j] - m);
        sigma += weight;
        for (num, in.v[other * s.dv ..][0..s.dv]) |*x, v| x.* += weight * v;
    }
    if (!s.normalize) sigma = 0;
    for (num) |*x| x.* /= denominator(s, sigma, m);
    sigmas[token] = sigma;
    ms[token] = m;
}

pub const Mode = enum { frozen, exact_without_eps_term, exact };

/// Cotangents: dh as h, those of the last state as the states.
pub const Cotangents = struct {
    dh: []const f64,
    dc: ?[]const f64 = null,
    dn: ?[]const f64 = null,
    dm: ?[]const f64 = null,
};

pub const Gradients = struct {
    dq: []f64,
    dk: []f64,
    dv: []f64,
    di: []f64,
    df: []f64,
    dc0: []f64,
    dn0: []f64,
    dm0: []f64,

    fn clear(g: Gradients) void {
        for ([_][]f64{ g.dq, g.dk, g.dv, g.di, g.df, g.dc0, g.dn0, g.dm0 }) |x| @memset(x, 0);
    }
};

/// Gradients of the cotangents' products with h and the last state. Runs the forward pass of every
/// unit again. The m of the last state is a constant unless dm is given; `dm0` is the derivative
/// through m in exact mode, and ⟨C_0, dC_0⟩ + ⟨n_0, dn_0⟩, what invariance gives, in the others.
pub fn backward(
    s: Shape,
    in: Inputs,
    mode: Mode,
    trace: Trace,
    out: Outputs,
    cotangents: Cotangents,
    g: Gradients,
) void {
    g.clear();
    for (0..s.batch) |row| for (0..s.heads) |head| {
        const one: One = .{ .row = row, .head = head };
        runUnit(s, in, one, trace, out);
        backwardUnit(s, in, mode, one, trace, out, cotangents, g);
    };
}

fn backwardUnit(
    s: Shape,
    in: Inputs,
    mode: Mode,
    one: One,
    trace: Trace,
    out: Outputs,
    cotangents: Cotangents,
    g: Gradients,
) void {
    const unit = one.row * s.heads + one.head;
    const size = s.dk * s.dv;
    const dc = g.dc0[unit * size ..][0..size];
    const dn = g.dn0[unit * s.dk ..][0..s.dk];
    if (cotangents.dc) |x| @memcpy(dc, x[unit * size ..][0..size]);
    if (cotangents.dn) |x| if (s.normalize) @memcpy(dn, x[unit * s.dk ..][0..s.dk]);
    const tokens = in.length(s, one.row);
    // m as a variable of its own: what flows into it beyond invariance.
    var dm: f64 = 0;
    if (cotangents.dm) |x| if (!s.sigmoid) {
        dm = x[unit] - stateProduct(s, trace, tokens, dc, dn);
    };
    var t = tokens;
    while (t > 0) {
        t -= 1;
        dm = backwardToken(s, in, mode, one, t, trace, out, cotangents.dh, dm, dc, dn, g);
    }
    if (!s.sigmoid) g.dm0[unit] = dm + stateProduct(s, trace, 0, dc, dn);
}

fn stateProduct(s: Shape, trace: Trace, t: usize, dc: []const f64, dn: []const f64) f64 {
    const size = s.dk * s.dv;
    var total: f64 = 0;
    for (dc, trace.c[t * size ..][0..size]) |x, c| total += x * c;
    for (dn, trace.n[t * s.dk ..][0..s.dk]) |x, n| total += x * n;
    return total;
}

/// One token back. `dm` is the derivative by m_t with C̃ = e^m C and ñ = e^m n held: the part that
/// does not cancel. Returns the same for m before the token; dc and dn move likewise.
fn backwardToken(
    s: Shape,
    in: Inputs,
    mode: Mode,
    one: One,
    t: usize,
    trace: Trace,
    out: Outputs,
    dh_all: []const f64,
    dm_after: f64,
    dc: []f64,
    dn: []f64,
    g: Gradients,
) f64 {
    const token = (one.row * s.length + t) * s.heads + one.head;
    const size = s.dk * s.dv;
    const scale = scaleOf(s);
    const fresh = in.resets(s, one.row, t);
    const gate = gateOf(s, in, one, t, if (fresh) 0 else trace.m[t]);
    const q = in.q[token * s.dk ..][0..s.dk];
    const k = in.k[token * s.dk ..][0..s.dk];
    const v = in.v[token * s.dv ..][0..s.dv];
    const dh = dh_all[token * s.dv ..][0..s.dv];
    const c = trace.c[(t + 1) * size ..][0..size];
    const n = trace.n[(t + 1) * s.dk ..][0..s.dk];
    const sigma = out.sigma[token];
    const whole = denominator(s, sigma, gate.m);
    var inner: f64 = 0;
    for (dh, out.h[token * s.dv ..][0..s.dv]) |x, y| inner += x * y;
    const active = s.normalize and @abs(sigma) >= floor(s, gate.m);
    var dsigma: f64 = 0;
    if (mode != .frozen and active) dsigma = -inner / whole * std.math.sign(sigma);
    var dm = dm_after;
    if (mode == .exact and s.normalize and !s.sigmoid) dm -= s.eps * inner / whole;

    var dforget: f64 = 0;
    var dinput: f64 = 0;
    for (0..s.dk) |r| {
        dn[r] += dsigma * scale * q[r];
        g.dq[token * s.dk + r] += dsigma * scale * n[r];
        g.dk[token * s.dk + r] += dn[r] * gate.input;
        dinput += dn[r] * k[r];
        if (!fresh) dforget += dn[r] * trace.n[t * s.dk + r];
        for (0..s.dv) |e| {
            const at = r * s.dv + e;
            dc[at] += scale * q[r] * dh[e] / whole;
            g.dq[token * s.dk + r] += scale * c[at] * dh[e] / whole;
            g.dk[token * s.dk + r] += dc[at] * v[e] * gate.input;
            g.dv[token * s.dv + e] += dc[at] * k[r] * gate.input;
            dinput += dc[at] * k[r] * v[e];
            if (!fresh) dforget += dc[at] * trace.c[t * size + at];
        }
    }
    for (dc) |*x| x.* *= if (fresh) 0 else gate.forget;
    for (dn) |*x| x.* *= if (fresh) 0 else gate.forget;
    var dli = dinput * gate.input;
    var dlf = dforget * gate.forget;
    // The maximum passes its derivative to the branch that attains it.
    var before: f64 = 0;
    if (!s.sigmoid and gate.m > gate.decayed) dli += dm else if (!s.sigmoid) {
        dlf += dm;
        before = if (fresh) 0 else dm;
    }
    const closing_i = if (s.sigmoid) sigmoid(-in.i[token]) else 1;
    g.di[token] = dli * closing_i;
    g.df[token] = if (in.softened(s, one.row, t)) 0 else dlf * sigmoid(-in.f[token]);
    return before;
}
