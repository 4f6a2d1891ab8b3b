//! Properties of the mLSTM kernels that hold bit for bit: any number of threads, rows alone or in a
//! batch, causality, padding, soft resets; and the identities between gradients. kernels.md §13.3
//! checks 7, 8, 10, 12.

const std = @import("std");
const simd = @import("cpu/simd.zig");
const args = @import("args/mlstm.zig");
const reference = @import("reference/mlstm.zig");
const cases = @import("reference/mlstm_case.zig");
const Case = cases.Case;
const Lab = cases.Lab;

fn expectBits(what: []const u8, want: anytype, got: anytype) !void {
    const same = std.mem.eql(u8, std.mem.sliceAsBytes(want), std.mem.sliceAsBytes(got));
    if (same) return;
    std.debug.print("{s} differs\n", .{what});
    return error.BitsDiffer;
}

/// Every field of two results.
fn expectSame(want: anytype, got: @TypeOf(want)) !void {
    inline for (@typeInfo(@TypeOf(want)).@"struct".field_names) |name| {
        try expectBits(name, @field(want, name), @field(got, name));
    }
}

fn Results(comptime S: type) type {
    return struct { forward: cases.Forward(S), backward: cases.Backward(S) };
}

fn both(lab: *Lab, comptime S: type, case: Case, data: cases.Data) !Results(S) {
    const typed: cases.Typed(S) = try .make(lab, case.shape, data.in);
    if (data.in.lengths) |lengths| typed.spoilPadding(case.shape, lengths);
    const out = try cases.forward(lab, S, case, data.in, typed);
    const back = try cases.backward(lab, S, case, data.in, typed, out, data.cotangents);
    return .{ .forward = out, .backward = back };
}

fn threadsAgree(comptime S: type, lab: *Lab, case: Case) !void {
    errdefer std.debug.print("{s} {any}\n", .{ @typeName(S), case });
    const data: cases.Data = try .make(lab, S, case);
    const one = try both(lab, S, case, data);
    var other = case;
    for ([_]u32{ 2, 3 }) |threads| {
        other.threads = threads;
        const many = try both(lab, S, other, data);
        try expectSame(one.forward, many.forward);
        try expectSame(one.backward, many.backward);
    }
}

test "1, 2 and 3 threads, in all forms, few units and many" {
    for ([_]u32{ args.form.chunkwise, args.form.parallel, args.form.recurrent }) |form| {
        for ([_][2]usize{ .{ 1, 1 }, .{ 2, 3 }, .{ 7, 4 } }) |units| {
            var lab: Lab = .init(form * 10 + units[0]);
            defer lab.deinit();
            const case: Case = .{
                .shape = .{
                    .batch = units[0],
                    .length = 70,
                    .heads = units[1],
                    .dk = 9,
                    .dv = if (units[0] == 1) 150 else 20,
                },
                .form = form,
                .chunk = 16,
                .initial = true,
                .last = true,
                .last_m = true,
                .borders = units[0] == 2,
                .lengths = true,
            };
            inline for (.{ f32, f64, u16 }) |S| try threadsAgree(S, &lab, case);
        }
    }
}

/// The rows from `first` of a tensor whose outermost dim is the batch.
fn rowOf(comptime T: type, values: []T, batch: usize, row: usize) []T {
    const size = values.len / batch;
    return values[row * size ..][0..size];
}

/// Tokens before `length` of one row of [B, S, …].
fn cut(comptime T: type, values: []T, s: reference.Shape, row: usize, length: usize) []T {
    const all = rowOf(T, values, s.batch, row);
    return all[0 .. all.len / s.length * length];
}

/// One row of a case, cut to its length.
fn alone(data: cases.Data, s: reference.Shape, row: usize, length: usize) cases.Data {
    var out = data;
    out.in.lengths = null;
    inline for (.{ "q", "k", "v", "i", "f" }) |name| {
        @field(out.in, name) = cut(f64, @field(data.in, name), s, row, length);
    }
    inline for (.{ "c0", "n0", "m0" }) |name| {
        if (@field(data.in, name)) |x| @field(out.in, name) = rowOf(f64, x, s.batch, row);
    }
    if (data.in.borders) |x| out.in.borders = cut(u8, @constCast(x), s, row, length);
    out.cotangents.dh = cut(f64, @constCast(data.cotangents.dh), s, row, length);
    inline for (.{ "dc", "dn", "dm" }) |name| if (@field(data.cotangents, name)) |x| {
        @field(out.cotangents, name) = rowOf(f64, @constCast(x), s.batch, row);
    };
    return out;
}

fn rowsAlone(comptime S: type, units: usize) !void {
    const A = simd.Arithmetic(S);
    var lab: Lab = .init(units);
    defer lab.deinit();
    const case: Case = .{
        .shape = .{ .batch = units, .length = 45, .heads = 2, .dk = 7, .dv = 18 },
        .chunk = 16,
        .initial = true,
        .last = true,
        .last_m = true,
        .borders = true,
        .lengths = true,
    };
    const s = case.shape;
    const data: cases.Data = try .make(&lab, S, case);
    const all = try both(&lab, S, case, data);
    for (data.in.lengths.?, 0..) |length, row| {
        if (length == 0) continue;
        const tokens: usize = @intCast(length);
        var one = case;
        one.shape.batch = 1;
        one.shape.length = tokens;
        const got = try both(&lab, S, one, alone(data, s, row, tokens));
        const f = all.forward;
        const b = all.backward;
        try expectBits("h", cut(S, f.h, s, row, tokens), got.forward.h);
        try expectBits("sigma", cut(A, f.sigma, s, row, tokens), got.forward.sigma);
        try expectBits("C", rowOf(A, f.c, s.batch, row), got.forward.c);
        try expectBits("n", rowOf(A, f.n, s.batch, row), got.forward.n);
        try expectBits("m", rowOf(A, f.m_last, s.batch, row), got.forward.m_last);
        inline for (.{ "dq", "dk", "dv" }) |name| {
            const part = cut(S, @field(b, name), s, row, tokens);
            try expectBits(name, part, @field(got.backward, name));
        }
        inline for (.{ "di", "df" }) |name| {
            const part = cut(A, @field(b, name), s, row, tokens);
            try expectBits(name, part, @field(got.backward, name));
        }
        inline for (.{ "dc0", "dn0", "dm0" }) |name| {
            const part = rowOf(A, @field(b, name), s.batch, row);
            try expectBits(name, part, @field(got.backward, name));
        }
    }
}

test "rows of any length in a batch = each alone" {
    inline for (.{ f32, f64, u16 }) |S| for ([_]usize{ 3, 11 }) |units| try rowsAlone(S, units);
}

test "an empty row keeps its state and passes gradients on" {
    var lab: Lab = .init(3);
    defer lab.deinit();
    const case: Case = .{
        .shape = .{ .batch = 2, .length = 5, .heads = 1, .dk = 3, .dv = 4 },
        .initial = true,
        .last = true,
        .last_m = true,
    };
    var data: cases.Data = try .make(&lab, f32, case);
    data.in.lengths = &.{ 0, 0 };
    const got = try both(&lab, f32, case, data);
    try expectBits("C", try lab.typed(f32, data.in.c0.?), got.forward.c);
    try expectBits("n", try lab.typed(f32, data.in.n0.?), got.forward.n);
    try expectBits("m", try lab.typed(f32, data.in.m0.?), got.forward.m_last);
    try expectBits("dC0", try lab.typed(f32, data.cotangents.dc.?), got.backward.dc0);
    try expectBits("dn0", try lab.typed(f32, data.cotangents.dn.?), got.backward.dn0);
    try cases.expectClose(f32, "dm0", data.cotangents.dm.?, got.backward.dm0, 1e-6);
    for (got.forward.h) |x| try std.testing.expectEqual(@as(f32, 0), x);
    for (got.backward.dq) |x| try std.testing.expectEqual(@as(f32, 0), x);
    for (got.backward.df) |x| try std.testing.expectEqual(@as(f32, 0), x);
}

test "causality: outputs before a token do not depend on it" {
    for ([_]u32{ args.form.chunkwise, args.form.parallel, args.form.recurrent }) |form| {
        var lab: Lab = .init(form);
        defer lab.deinit();
        const case: Case = .{
            .shape = .{ .batch = 1, .length = 80, .heads = 2, .dk = 5, .dv = 17 },
            .form = form,
            .chunk = 32,
        };
        const s = case.shape;
        const data: cases.Data = try .make(&lab, f32, case);
        const before = try both(&lab, f32, case, data);
        // From the end on: changes of one round lie behind the token of the next.
        for ([_]usize{ 79, 50, 32, 31, 1 }) |t| {
            const at = t * s.heads;
            for (data.in.q[at * s.dk ..]) |*x| x.* += 1;
            for (data.in.k[at * s.dk ..]) |*x| x.* -= 1;
            for (data.in.v[at * s.dv ..]) |*x| x.* *= 2;
            for (data.in.i[at..]) |*x| x.* += 5;
            for (data.in.f[at..]) |*x| x.* -= 5;
            const after = try both(&lab, f32, case, data);
            try expectBits("h", before.forward.h[0 .. at * s.dv], after.forward.h[0 .. at * s.dv]);
            try expectBits("m", before.forward.m[0..at], after.forward.m[0..at]);
        }
    }
}

test "soft reset = f at the reset value, without its gradient" {
    var lab: Lab = .init(9);
    defer lab.deinit();
    var case: Case = .{
        .shape = .{ .batch = 2, .length = 60, .heads = 2, .dk = 4, .dv = 6 },
        .borders = true,
        .chunk = 16,
    };
    case.shape.reset = args.reset.soft;
    const data: cases.Data = try .make(&lab, f32, case);
    const soft = try both(&lab, f32, case, data);
    for (data.in.f, 0..) |*f, token| {
        if (data.in.borders.?[token / case.shape.heads] != 0) f.* = -25;
    }
    var plain = case;
    plain.shape.reset = args.reset.none;
    const same = try both(&lab, f32, plain, data);
    try expectSame(soft.forward, same.forward);
    for (soft.backward.df, same.backward.df, 0..) |got, want, token| {
        const border = data.in.borders.?[token / case.shape.heads] != 0;
        try std.testing.expectEqual(if (border) 0 else want, got);
    }
}

/// Products per token of two tensors [tokens, width].
fn products(lab: *Lab, x: []const f64, y: []const f64, tokens: usize) ![]f64 {
    const out = try lab.zeros(f64, tokens);
    const width = x.len / tokens;
    for (out, 0..) |*sum, t| {
        for (x[t * width ..][0..width], y[t * width ..][0..width]) |a, b| sum.* += a * b;
    }
    return out;
}

test "identities between the gradients" {
    for ([_]reference.Mode{ .frozen, .exact_without_eps_term }) |mode| {
        var lab: Lab = .init(@backingInt(mode));
        defer lab.deinit();
        var case: Case = .{
            .shape = .{ .batch = 1, .length = 150, .heads = 1, .dk = 12, .dv = 20 },
            .mode = mode,
            .initial = true,
            .last = true,
        };
        const s = case.shape;
        var data: cases.Data = try .make(&lab, f64, case);
        const got = try both(&lab, f64, case, data);
        const f = got.forward;
        const b = got.backward;
        const rows = try products(&lab, data.in.q, b.dq, s.tokens());
        const columns = try products(&lab, data.in.k, b.dk, s.tokens());
        const inner = try products(&lab, data.cotangents.dh, f.h, s.tokens());
        for (inner, f.sigma, f.m) |*x, sigma, m| {
            const floor = @exp(-m);
            const whole = @max(@abs(sigma), floor) + s.eps;
            if (mode != .frozen and @abs(sigma) >= floor) x.* *= 1 - @abs(sigma) / whole;
        }
        // Where the normaliser is active the exact r is tiny: an absolute bar.
        for (rows, inner) |r, want| try std.testing.expectApproxEqAbs(want, r, 1e-9);
        try cases.expectClose(f64, "c = di", columns, b.di, 1e-11);
        // T + Σ (r − c) over all tokens closes at ⟨C_0, dC_0⟩ + ⟨n_0, dn_0⟩.
        var total: f64 = 0;
        for (f.c, data.cotangents.dc.?) |x, y| total += x * y;
        for (f.n, data.cotangents.dn.?) |x, y| total += x * y;
        for (rows, columns) |r, c| total += r - c;
        var first: f64 = 0;
        for (data.in.c0.?, b.dc0) |x, y| first += x * y;
        for (data.in.n0.?, b.dn0) |x, y| first += x * y;
        try std.testing.expectApproxEqAbs(first, total, 1e-9);
        if (mode != .frozen) continue;
        // Without a gradient of the normaliser, keys and values weigh the same.
        data.cotangents.dn = null;
        case.last = false;
        const plain = (try both(&lab, f64, case, data)).backward;
        const keys = try products(&lab, data.in.k, plain.dk, s.tokens());
        const values = try products(&lab, data.in.v, plain.dv, s.tokens());
        try cases.expectClose(f64, "k dk = v dv", keys, values, 1e-11);
    }
}
