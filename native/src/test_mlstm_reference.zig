//! The float64 mLSTM reference against itself: recurrent = parallel form, gradients = central
//! differences by every input. kernels.md §13.3 checks 1 and 3.

const std = @import("std");
const args = @import("args/mlstm.zig");
const reference = @import("reference/mlstm.zig");
const cases = @import("reference/mlstm_case.zig");
const Case = cases.Case;
const Lab = cases.Lab;

test "recurrent = parallel form" {
    for (std.enums.values(cases.GateSet), 0..) |gates, seed| for (0..3) |gate| {
        var lab: Lab = .init(seed * 10 + gate);
        defer lab.deinit();
        const case: Case = .{
            .shape = .{
                .batch = 3,
                .length = 37,
                .heads = 2,
                .dk = 5,
                .dv = 3,
                .sigmoid = gate != 0,
                .normalize = gate != 2,
            },
            .gates = gates,
            .initial = true,
            .borders = seed % 2 == 1,
            .lengths = gate == 1,
        };
        const s = case.shape;
        const data: cases.Data = try .make(&lab, f64, case);
        const want: cases.Expected = try .of(&lab, case, data);
        const h = try lab.zeros(f64, s.tokens() * s.dv);
        const sigma = try lab.zeros(f64, s.tokens());
        const m = try lab.zeros(f64, s.tokens());
        reference.parallel(s, data.in, try lab.zeros(f64, s.length), h, sigma, m);
        errdefer std.debug.print("{any}\n", .{case});
        const hard = gates == .wild or gates == .large or gates == .extreme;
        const bar: f64 = if (hard) 1e-10 else 1e-12;
        try cases.expectClose(f64, "h", want.out.h, h, bar);
        try cases.expectClose(f64, "sigma", want.out.sigma, sigma, bar);
        try cases.expectClose(f64, "m", want.out.m, m, 1e-13);
    };
}

/// Σ cotangents·outputs. In frozen mode and without the eps term the parts of the denominator that
/// are constants keep the values of the unperturbed run.
const Objective = struct {
    case: Case,
    data: cases.Data,
    constant: reference.Outputs, // of the unperturbed run
    lab: *Lab,

    fn value(self: Objective) !f64 {
        var lab: Lab = .init(0);
        defer lab.deinit();
        const s = self.case.shape;
        const out = (try cases.Expected.of(&lab, self.case, self.data)).out;
        var total: f64 = 0;
        for (0..s.tokens()) |token| {
            const unmoved = self.factor(out, token);
            for (0..s.dv) |e| {
                const at = token * s.dv + e;
                total += self.data.cotangents.dh[at] * out.h[at] * unmoved;
            }
        }
        // With the last m a constant, the last state moves at that m.
        for (0..s.units()) |unit| {
            const moved = out.m_last[unit] - self.constant.m_last[unit];
            const scale = if (self.data.cotangents.dm == null) @exp(moved) else 1;
            const c = out.c[unit * s.dk * s.dv ..][0 .. s.dk * s.dv];
            const n = out.n[unit * s.dk ..][0..s.dk];
            if (self.data.cotangents.dc) |dc| {
                for (c, dc[unit * s.dk * s.dv ..][0..c.len]) |x, d| total += scale * x * d;
            }
            if (self.data.cotangents.dn) |dn| {
                for (n, dn[unit * s.dk ..][0..n.len]) |x, d| total += scale * x * d;
            }
            if (self.data.cotangents.dm) |dm| total += dm[unit] * out.m_last[unit];
        }
        return total;
    }

    fn factor(self: Objective, out: reference.Outputs, token: usize) f64 {
        const s = self.case.shape;
        if (!s.normalize or self.case.mode == .exact) return 1;
        const before = whole(s, self.constant.sigma[token], self.constant.m[token]);
        const now = whole(s, out.sigma[token], out.m[token]);
        const moved = @exp(out.m[token] - self.constant.m[token]);
        if (self.case.mode == .frozen) return now * moved / before;
        // eps·e^m at the old m: N + eps in units of the new m is N + eps·e^(m_old − m_new).
        return now / (now - s.eps + s.eps / moved);
    }

    fn whole(s: reference.Shape, sigma: f64, m: f64) f64 {
        return @max(@abs(sigma), if (s.sigmoid) 1 else @exp(-m)) + s.eps;
    }

    fn difference(self: Objective, what: []const u8, x: []f64, gradient: []const f64) !void {
        const step = 1e-6;
        for (x, gradient, 0..) |*slot, want, at| {
            const kept = slot.*;
            slot.* = kept + step;
            const above = try self.value();
            slot.* = kept - step;
            const below = try self.value();
            slot.* = kept;
            const got = (above - below) / (2 * step);
            if (@abs(got - want) <= 1e-7 * (1 + @abs(want))) continue;
            std.debug.print("{s}[{d}]: {d}, by differences {d}, {any}, seed {d}\n", .{
                what, at, want, got, self.case, self.lab.seed,
            });
            return error.TooFar;
        }
    }
};

fn differences(lab: *Lab, case: Case) !void {
    const data: cases.Data = try .make(lab, f64, case);
    const want: cases.Expected = try .of(lab, case, data);
    const objective: Objective = .{
        .case = case,
        .data = data,
        .constant = want.out,
        .lab = lab,
    };
    const g = want.gradients;
    try objective.difference("dq", data.in.q, g.dq);
    try objective.difference("dk", data.in.k, g.dk);
    try objective.difference("dv", data.in.v, g.dv);
    try objective.difference("di", data.in.i, g.di);
    try objective.difference("df", data.in.f, g.df);
    if (data.in.c0) |c0| try objective.difference("dC0", c0, g.dc0);
    if (data.in.n0) |n0| if (case.shape.normalize) try objective.difference("dn0", n0, g.dn0);
    if (data.in.m0) |m0| try objective.difference("dm0", m0, g.dm0);
}

test "gradients = central differences" {
    const modes = [_]reference.Mode{ .frozen, .exact_without_eps_term, .exact };
    for (modes) |mode| for (0..3) |gate| for (0..4) |options| {
        const seed = @as(u64, @backingInt(mode)) * 100 + gate * 10 + options;
        var lab: Lab = .init(seed + 1);
        defer lab.deinit();
        try differences(&lab, .{
            .shape = .{
                .batch = 2,
                .length = 7,
                .heads = 1,
                .dk = 3,
                .dv = 2,
                .sigmoid = gate != 0,
                .normalize = gate != 2,
                .eps = 0.1,
                .reset = if (options == 3) args.reset.soft else args.reset.exact,
                .reset_value = -2,
            },
            .gates = .std0,
            .mode = mode,
            .initial = true,
            .last = options > 0,
            .last_m = options > 1 and gate == 0 and mode == .exact,
            .borders = options > 1,
            .lengths = options > 1,
        });
    };
}
