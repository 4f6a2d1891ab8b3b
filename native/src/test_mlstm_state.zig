//! mLSTM states: sequences in pieces, decode steps, packed documents, scale invariance. kernels.md
//! §13.3 checks 6, 9, 13, 16.

const std = @import("std");
const simd = @import("cpu/simd.zig");
const args = @import("args/mlstm.zig");
const reference = @import("reference/mlstm.zig");
const cases = @import("reference/mlstm_case.zig");
const kernels = @import("cpu/mlstm.zig");
const Case = cases.Case;
const Lab = cases.Lab;

/// Tokens [first, end) of a case with batch 1; the caller sets states and their cotangents.
fn piece(data: cases.Data, length: usize, first: usize, end: usize) cases.Data {
    var out = data;
    inline for (.{ "q", "k", "v", "i", "f" }) |name| {
        const x = @field(data.in, name);
        @field(out.in, name) = x[x.len / length * first .. x.len / length * end];
    }
    const dh = data.cotangents.dh;
    out.cotangents.dh = dh[dh.len / length * first .. dh.len / length * end];
    if (data.in.borders) |x| out.in.borders = x[first..end];
    return out;
}

fn wide(lab: *Lab, comptime S: type, values: []const S) ![]f64 {
    const out = try lab.zeros(f64, values.len);
    for (out, 0..) |*x, at| x.* = simd.get(S, values.ptr, at);
    return out;
}

/// Runs the pieces forward with the state passed on, and back with its gradient passed on; compares
/// with the whole sequence.
fn passState(comptime S: type, lab: *Lab, case: Case, cuts: []const usize, bar: f64) !void {
    const s = case.shape;
    const data: cases.Data = try .make(lab, S, case);
    const typed: cases.Typed(S) = try .make(lab, s, data.in);
    const out = try cases.forward(lab, S, case, data.in, typed);
    const back = try cases.backward(lab, S, case, data.in, typed, out, data.cotangents);

    const Piece = struct {
        case: Case,
        data: cases.Data,
        typed: cases.Typed(S),
        out: cases.Forward(S),
    };
    const pieces = try lab.arena.allocator().alloc(Piece, cuts.len - 1);
    var last = data.in;
    for (pieces, 0..) |*p, index| {
        p.case = case;
        p.case.shape.length = cuts[index + 1] - cuts[index];
        p.data = piece(data, s.length, cuts[index], cuts[index + 1]);
        inline for (.{ "c0", "n0", "m0" }) |name| @field(p.data.in, name) = @field(last, name);
        p.typed = try .make(lab, p.case.shape, p.data.in);
        p.out = try cases.forward(lab, S, p.case, p.data.in, p.typed);
        last.c0 = try wide(lab, S, p.out.c);
        last.n0 = try wide(lab, S, p.out.n);
        if (!s.sigmoid) last.m0 = try wide(lab, S, p.out.m_last);
        const h = try wide(lab, S, out.h);
        const size = s.heads * s.dv;
        const part = h[cuts[index] * size .. cuts[index + 1] * size];
        try cases.expectClose(S, "h", part, p.out.h, bar);
    }
    const end = pieces[pieces.len - 1].out;
    try cases.expectClose(S, "C", try wide(lab, S, out.c), end.c, bar);
    try cases.expectClose(S, "m", try wide(lab, S, out.m_last), end.m_last, bar);

    var cotangents = data.cotangents;
    var index = pieces.len;
    while (index > 0) {
        index -= 1;
        const p = pieces[index];
        cotangents.dh = p.data.cotangents.dh;
        const got = try cases.backward(lab, S, p.case, p.data.in, p.typed, p.out, cotangents);
        inline for (.{ "dq", "dk", "dv", "di", "df" }) |name| {
            const want = try wide(lab, S, @field(back, name));
            const size = want.len / s.length;
            const part = want[cuts[index] * size .. cuts[index + 1] * size];
            try cases.expectClose(S, name, part, @field(got, name), 5 * bar);
        }
        cotangents.dc = try wide(lab, S, got.dc0);
        if (s.normalize) cotangents.dn = try wide(lab, S, got.dn0);
        if (!s.sigmoid) cotangents.dm = try wide(lab, S, got.dm0);
    }
    const dc0 = try lab.typed(S, cotangents.dc.?);
    try cases.expectClose(S, "dC0", try wide(lab, S, back.dc0), dc0, 5 * bar);
}

test "a sequence in pieces = the whole one, gradients chained" {
    const cuts = [_][]const usize{ &.{ 0, 40, 80, 120, 160 }, &.{ 0, 1, 8, 72, 160 } };
    const forms = [_]u32{ args.form.chunkwise, args.form.recurrent };
    for (cuts) |cut| for (0..3) |gate| for (forms) |form| {
        var lab: Lab = .init(gate * 10 + form + cut[1]);
        defer lab.deinit();
        const case: Case = .{
            .shape = .{
                .batch = 1,
                .length = 160,
                .heads = 2,
                .dk = 16,
                .dv = 32,
                .sigmoid = gate != 0,
                .normalize = gate != 2,
                .eps = 1e-3,
            },
            .initial = true,
            .last = true,
            .last_m = gate == 0,
            .form = form,
        };
        try passState(f64, &lab, case, cut, 1e-12);
        try passState(f32, &lab, case, cut, 1e-5);
    };
}

test "packed documents = each alone" {
    const ends = [_]usize{ 0, 1, 2, 30, 64, 65, 110 };
    var lab: Lab = .init(17);
    defer lab.deinit();
    var case: Case = .{ .shape = .{ .batch = 1, .length = 110, .heads = 2, .dk = 9, .dv = 14 } };
    case.chunk = 32;
    const s = case.shape;
    var data: cases.Data = try .make(&lab, f64, case);
    const borders = try lab.zeros(u8, s.length);
    for (ends[0 .. ends.len - 1]) |end| borders[end] = 1;
    data.in.borders = borders;
    const typed: cases.Typed(f64) = try .make(&lab, s, data.in);
    const out = try cases.forward(&lab, f64, case, data.in, typed);
    const back = try cases.backward(&lab, f64, case, data.in, typed, out, data.cotangents);
    for (ends[0 .. ends.len - 1], ends[1..]) |first, end| {
        var one = case;
        one.shape.length = end - first;
        var part = piece(data, s.length, first, end);
        part.in.borders = null;
        const inputs: cases.Typed(f64) = try .make(&lab, one.shape, part.in);
        const got = try cases.forward(&lab, f64, one, part.in, inputs);
        const grad = try cases.backward(&lab, f64, one, part.in, inputs, got, part.cotangents);
        const size = s.heads * s.dv;
        try cases.expectClose(f64, "h", out.h[first * size .. end * size], got.h, 1e-12);
        inline for (.{ "dq", "dk", "dv", "di", "df" }) |name| {
            const want = @field(back, name);
            const width = want.len / s.length;
            const document = want[first * width .. end * width];
            // df of a document's first token is the eps term alone.
            const bar: f64 = if (end - first == 1) 1e-9 else 1e-11;
            try cases.expectClose(f64, name, document, @field(grad, name), bar);
        }
    }
}

test "nothing flows into the document before, not even what is infinite" {
    var lab: Lab = .init(18);
    defer lab.deinit();
    const case: Case = .{ .shape = .{ .batch = 1, .length = 40, .heads = 1, .dk = 4, .dv = 4 } };
    const s = case.shape;
    var data: cases.Data = try .make(&lab, f32, case);
    const borders = try lab.zeros(u8, s.length);
    borders[25] = 1;
    data.in.borders = borders;
    // A state that must not be touched: the first token discards it.
    borders[0] = 1;
    data.in.c0 = try lab.zeros(f64, s.dk * s.dv);
    @memset(data.in.c0.?, std.math.inf(f64));
    for ([_]u32{ args.form.chunkwise, args.form.parallel, args.form.recurrent }) |form| {
        var now = case;
        now.form = form;
        const typed: cases.Typed(f32) = try .make(&lab, s, data.in);
        const out = try cases.forward(&lab, f32, now, data.in, typed);
        for (out.h) |x| try std.testing.expect(std.math.isFinite(x));
        const dh = try lab.zeros(f64, s.tokens() * s.dv);
        @memset(dh[25 * s.dv ..], 1);
        const back = try cases.backward(&lab, f32, now, data.in, typed, out, .{ .dh = dh });
        inline for (.{ "dq", "dk", "dv", "di", "df" }) |name| {
            const all = @field(back, name);
            const before = all[0 .. all.len / s.length * 25];
            for (before) |x| try std.testing.expectEqual(@as(f32, 0), x);
        }
        for (back.dc0) |x| try std.testing.expectEqual(@as(f32, 0), x);
    }
}

test "h does not change with the scale of the state" {
    var lab: Lab = .init(19);
    defer lab.deinit();
    const case: Case = .{
        .shape = .{ .batch = 2, .length = 50, .heads = 2, .dk = 8, .dv = 8, .eps = 1e-12 },
        .initial = true,
        .chunk = 16,
    };
    const data: cases.Data = try .make(&lab, f64, case);
    const want = try forwardOf(&lab, case, data.in);
    for (data.in.c0.?) |*x| x.* *= 7;
    for (data.in.n0.?) |*x| x.* *= 7;
    for (data.in.m0.?) |*x| x.* -= @log(7.0);
    const got = try forwardOf(&lab, case, data.in);
    try cases.expectClose(f64, "h", want.h, got.h, 1e-10);
}

fn forwardOf(lab: *Lab, case: Case, in: reference.Inputs) !cases.Forward(f64) {
    return cases.forward(lab, f64, case, in, try .make(lab, case.shape, in));
}

fn steps(comptime S: type, lab: *Lab, case: Case, threads: u32, bar: f64) !void {
    const A = simd.Arithmetic(S);
    const s = case.shape;
    const data: cases.Data = try .make(lab, S, case);
    const typed: cases.Typed(S) = try .make(lab, s, data.in);
    const want = try cases.forward(lab, S, case, data.in, typed);
    const count = s.batch + 2;
    const size = s.heads * s.dk * s.dv;
    const c = try lab.poisoned(A, count * size);
    const n = try lab.poisoned(A, count * s.heads * s.dk);
    const m = try lab.poisoned(A, count * s.heads);
    const slots = try lab.zeros(i32, s.batch);
    for (slots, 0..) |*slot, row| {
        slot.* = @intCast(count - 1 - row);
        const at: usize = @intCast(slot.*);
        @memset(c[at * size ..][0..size], 0);
        @memset(n[at * s.heads * s.dk ..][0 .. s.heads * s.dk], 0);
        @memset(m[at * s.heads ..][0..s.heads], 0);
    }
    var a: args.MlstmForward = undefined;
    typed.fill(&a, case, data.in);
    const h = try lab.poisoned(S, s.tokens() * s.dv);
    const i_row = try lab.zeros(A, s.batch * s.heads);
    const f_row = try lab.zeros(A, s.batch * s.heads);
    const h_row = try lab.poisoned(S, s.batch * s.heads * s.dv);
    const step: usize = a.q_strides.step;
    for (0..s.length) |t| {
        for (0..s.batch) |row| for (0..s.heads) |head| {
            const token = (row * s.length + t) * s.heads + head;
            i_row[row * s.heads + head] = typed.i[token];
            f_row[row * s.heads + head] = typed.f[token];
        };
        const now: args.MlstmStep = .{
            .q = typed.fused.ptr + t * step,
            .k = typed.fused.ptr + t * step + s.heads * s.dk,
            .v = typed.fused.ptr + t * step + 2 * s.heads * s.dk,
            .i = i_row.ptr,
            .f = f_row.ptr,
            .slots = slots.ptr,
            .c = c.ptr,
            .n = if (s.normalize) n.ptr else null,
            .m = if (s.sigmoid) null else m.ptr,
            .h = h_row.ptr,
            .q_strides = a.q_strides,
            .k_strides = a.k_strides,
            .v_strides = a.v_strides,
            .rows = s.batch,
            .heads = s.heads,
            .width_qk = s.dk,
            .width_v = s.dv,
            .eps = s.eps,
            .input_gate = @intFromBool(s.sigmoid),
            .normalize = @intFromBool(s.normalize),
        };
        try cases.run(S, kernels.mlstmStep, threads, &now);
        for (0..s.batch) |row| {
            const width = s.heads * s.dv;
            @memcpy(h[(row * s.length + t) * width ..][0..width], h_row[row * width ..][0..width]);
        }
    }
    try cases.expectClose(S, "h", try wide(lab, S, want.h), h, bar);
    for (slots, 0..) |slot, row| {
        const at: usize = @intCast(slot);
        const whole = try wide(lab, A, want.c[row * size ..][0..size]);
        try cases.expectClose(A, "C", whole, c[at * size ..][0..size], @min(bar, 1e-5));
    }
    // Slots that no row uses keep every bit.
    const untouched = std.mem.sliceAsBytes(c[0 .. 2 * size]);
    for (untouched) |byte| try std.testing.expectEqual(@as(u8, 0xff), byte);
}

test "1024 decode steps = one prefill" {
    for (0..3) |gate| {
        var lab: Lab = .init(gate);
        defer lab.deinit();
        var case: Case = .{ .shape = .{
            .batch = 3,
            .length = 1024,
            .heads = 2,
            .dk = 8,
            .dv = 12,
            .sigmoid = gate != 0,
            .normalize = gate != 2,
        } };
        try steps(f32, &lab, case, 1, 1e-5);
        case.shape.length = 40;
        try steps(f64, &lab, case, 2, 1e-12);
        try steps(u16, &lab, case, 1, 5e-3);
        // Few heads with wide values: the two-pass schedule.
        case.shape.dv = 200;
        case.shape.batch = 1;
        try steps(f32, &lab, case, 2, 1e-5);
    }
}
