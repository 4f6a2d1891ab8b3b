//! mLSTM kernels against the float64 reference: every form, length, chunk, gate set and type.
//! kernels.md §13.3 checks 1, 3, 7, 11.

const std = @import("std");
const simd = @import("cpu/simd.zig");
const args = @import("args/mlstm.zig");
const reference = @import("reference/mlstm.zig");
const cases = @import("reference/mlstm_case.zig");
const Case = cases.Case;
const Lab = cases.Lab;
const Shape = reference.Shape;

test {
    _ = @import("cpu/mlstm_panel.zig");
    _ = @import("cpu/mlstm_decay.zig");
    _ = @import("test_mlstm_reference.zig");
    _ = @import("test_mlstm_properties.zig");
    _ = @import("test_mlstm_state.zig");
}

/// Relative errors allowed: h and dv, last states, gradients, df. kernels.md §13.2.
const Bars = struct { h: f64, state: f64, gradient: f64, df: f64 };

fn barsOf(comptime S: type, gates: cases.GateSet) Bars {
    const hard = gates == .large or gates == .extreme or gates == .wild;
    return switch (S) {
        f64 => if (hard)
            .{ .h = 1e-9, .state = 1e-11, .gradient = 1e-9, .df = 1e-9 }
        else
            .{ .h = 1e-11, .state = 1e-12, .gradient = 1e-11, .df = 1e-11 },
        f32 => if (hard)
            .{ .h = 2e-4, .state = 2e-5, .gradient = 2e-4, .df = 2e-4 }
        else
            .{ .h = 1e-5, .state = 1e-6, .gradient = 2e-5, .df = 5e-5 },
        else => .{ .h = 1e-2, .state = 5e-3, .gradient = 2e-2, .df = if (hard) 1.5e-1 else 2e-2 },
    };
}

/// A state as it is at another m: the kernel's m is rounded to A, and its C and n belong to that.
fn matched(
    comptime A: type,
    lab: *Lab,
    values: []const f64,
    m: []const f64,
    other: []const A,
) ![]f64 {
    const out = try lab.zeros(f64, values.len);
    const size = values.len / m.len;
    for (out, values, 0..) |*to, x, at| to.* = x * @exp(m[at / size] - other[at / size]);
    return out;
}

/// Forward and backward kernel of one case against the reference.
fn check(comptime S: type, lab: *Lab, case: Case) !void {
    errdefer std.debug.print("{s}, seed {d}, {any}\n", .{ @typeName(S), lab.seed, case });
    const s = case.shape;
    const data: cases.Data = try .make(lab, S, case);
    const want: cases.Expected = try .of(lab, case, data);
    const typed: cases.Typed(S) = try .make(lab, s, data.in);
    if (data.in.lengths) |given| typed.spoilPadding(s, given);
    const got = try cases.forward(lab, S, case, data.in, typed);
    const A = simd.Arithmetic(S);
    var bars = barsOf(S, case.gates);
    // Tensors of one element per unit may cancel as a whole.
    if (s.dk * s.dv == 1 and S == f32) {
        bars = .{ .h = 1e-4, .state = 1e-4, .gradient = 1e-4, .df = 1e-4 };
    }
    try cases.expectClose(S, "h", want.out.h, got.h, bars.h);
    try cases.expectClose(A, "sigma", want.out.sigma, got.sigma, bars.h);
    try cases.expectClose(A, "m", want.out.m, got.m, if (A == f64) 1e-13 else 1e-6);
    const c = try matched(A, lab, want.out.c, want.out.m_last, got.m_last);
    const n = try matched(A, lab, want.out.n, want.out.m_last, got.m_last);
    try cases.expectClose(A, "C", c, got.c, bars.state);
    try cases.expectClose(A, "n", n, got.n, bars.state);
    try cases.expectClose(A, "m_S", want.out.m_last, got.m_last, if (A == f64) 1e-13 else 1e-6);
    const back = try cases.backward(lab, S, case, data.in, typed, got, data.cotangents);
    const g = want.gradients;
    try cases.expectClose(S, "dq", g.dq, back.dq, bars.gradient);
    try cases.expectClose(S, "dk", g.dk, back.dk, bars.gradient);
    try cases.expectClose(S, "dv", g.dv, back.dv, bars.h);
    try cases.expectClose(A, "di", g.di, back.di, bars.gradient);
    try cases.expectClose(A, "df", g.df, back.df, bars.df);
    try cases.expectClose(A, "dC0", g.dc0, back.dc0, bars.gradient);
    try cases.expectClose(A, "dn0", g.dn0, back.dn0, bars.gradient);
    if (data.in.m0 != null) try cases.expectClose(A, "dm0", g.dm0, back.dm0, bars.df);
}

fn checkAll(lab: *Lab, case: Case) !void {
    try check(f64, lab, case);
    try check(f32, lab, case);
}

const lengths = [_]usize{ 1, 2, 15, 16, 17, 63, 64, 65, 93, 127, 257 };

test "every length and chunk" {
    for (lengths) |length| for ([_]usize{ 1, 16, 64, 128 }) |chunk| {
        var lab: Lab = .init(length * 1000 + chunk);
        defer lab.deinit();
        try checkAll(&lab, .{
            .shape = .{ .batch = 2, .length = length, .heads = 2, .dk = 6, .dv = 19 },
            .chunk = chunk,
            .initial = length % 2 == 0,
            .last = length % 3 != 0,
        });
    };
}

test "parallel and recurrent form" {
    for (lengths) |length| for ([_]u32{ args.form.parallel, args.form.recurrent }) |form| {
        var lab: Lab = .init(length * 10 + form);
        defer lab.deinit();
        try checkAll(&lab, .{
            .shape = .{ .batch = 1, .length = length, .heads = 3, .dk = 8, .dv = 5 },
            .form = form,
            .initial = true,
            .last = length % 2 == 1,
            .borders = length % 3 == 0,
        });
    };
}

const shapes = [_][4]usize{
    .{ 1, 2, 64, 128 },  .{ 2, 4, 16, 32 }, .{ 1, 2, 48, 96 }, .{ 2, 2, 24, 48 },
    .{ 1, 1, 130, 200 }, .{ 1, 4, 64, 64 }, .{ 1, 1, 1, 1 },   .{ 5, 4, 3, 33 },
};

test "every shape" {
    for (shapes, 0..) |shape, seed| {
        var lab: Lab = .init(seed);
        defer lab.deinit();
        const case: Case = .{
            .shape = .{
                .batch = shape[0],
                .length = 93,
                .heads = shape[1],
                .dk = shape[2],
                .dv = shape[3],
            },
            .chunk = 32,
            .initial = true,
            .last = true,
        };
        try checkAll(&lab, case);
        try check(u16, &lab, case);
    }
}

test "every gate set, both gates, all gradient modes, with borders, lengths, cotangents of m" {
    const modes = [_]reference.Mode{ .frozen, .exact_without_eps_term, .exact };
    for (std.enums.values(cases.GateSet)) |gates| for (modes) |mode| for (0..3) |gate| {
        const seed = @as(u64, @backingInt(gates)) * 100 + @as(u64, @backingInt(mode)) * 10 + gate;
        var lab: Lab = .init(seed);
        defer lab.deinit();
        var case: Case = .{
            .shape = .{
                .batch = 3,
                .length = 83,
                .heads = 2,
                .dk = 10,
                .dv = 12,
                .sigmoid = gate != 0,
                .normalize = gate != 2,
            },
            .gates = gates,
            .mode = mode,
            .chunk = 32,
            .initial = true,
            .last = true,
            .last_m = gate == 0 and mode == .exact,
        };
        // With the usual eps its derivative is far below every other term and would not show.
        if (gate == 0) case.shape.eps = 1e-2;
        try checkAll(&lab, case);
        case.borders = true;
        try checkAll(&lab, case);
        case.lengths = true;
        try checkAll(&lab, case);
        case.shape.reset = args.reset.soft;
        try checkAll(&lab, case);
        if (gates != .wild) try check(u16, &lab, case);
    };
}

test "long sequence with large gates: pairs keep f32 accurate" {
    var lab: Lab = .init(5);
    defer lab.deinit();
    try check(f32, &lab, .{
        .shape = .{ .batch = 1, .length = 2048, .heads = 1, .dk = 8, .dv = 16 },
        .gates = .large,
    });
}
