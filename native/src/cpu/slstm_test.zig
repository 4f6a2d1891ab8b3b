//! Tests of the sLSTM kernels: against the float64 reference, whose gradients are checked against
//! central differences; state passing, steps, lengths, borders, threads.

const std = @import("std");
const simd = @import("simd.zig");
const reference = @import("../reference/slstm.zig");
const args = @import("../args/slstm.zig");
const checks = @import("slstm_checks.zig");
const kernels = @import("slstm.zig");
const Lab = checks.Lab;
const testing = std.testing;

const Case = struct {
    shape: reference.Shape,
    initial: bool = true,
    borders: bool = false,
    lengths: bool = false,
    last: bool = true, // gradients of the last state arrive
    gate_scale: f64 = 2,
    recurrent_scale: f64 = 0.3,
};

/// The inputs of one case in float64, exact in the storage type, and in that type.
fn Data(comptime S: type) type {
    const A = simd.Arithmetic(S);
    return struct {
        in: reference.Inputs,
        dy: []f64,
        dlast: ?[]f64,
        wx: []S,
        r: []A,
        b: []A,
        initial: ?[]A,
        dy_s: []S,
        dlast_s: ?[]A,

        const Self = @This();

        fn make(lab: *Lab, case: Case) !Self {
            const s = case.shape;
            const wx = try lab.normal(4 * s.outputs(), case.gate_scale);
            const r = try lab.normal(s.weights(), case.recurrent_scale);
            const b = try lab.normal(s.biases(), 1);
            const dy = try lab.normal(s.outputs(), 1);
            var out: Self = .{
                .wx = try lab.rounded(S, wx),
                .r = try lab.rounded(A, r),
                .b = try lab.rounded(A, b),
                .dy_s = try lab.rounded(S, dy),
                .in = .{ .wx = wx, .r = r, .b = b },
                .dy = dy,
                .dlast = null,
                .initial = null,
                .dlast_s = null,
            };
            if (case.initial) {
                const initial = try makeInitial(lab, s);
                out.initial = try lab.rounded(A, initial);
                out.in.initial = initial;
            }
            if (case.last) {
                const dlast = try lab.normal(s.states(), 1);
                out.dlast_s = try lab.rounded(A, dlast);
                out.dlast = dlast;
            }
            const random = lab.prng.random();
            if (case.borders) {
                const borders = try lab.zeros(u8, s.batch * s.length);
                for (borders, 0..) |*flag, i| {
                    flag.* = @intFromBool(random.uintLessThan(u32, 5) == 0 or i == s.length - 1);
                }
                out.in.borders = borders;
            }
            if (case.lengths) {
                const lengths = try lab.zeros(i32, s.batch);
                for (lengths, 0..) |*length, i| {
                    const any = random.uintAtMost(usize, s.length);
                    length.* = @intCast(if (i == 0) s.length else if (i == 1) 0 else any);
                }
                out.in.lengths = lengths;
                out.spoilPadding(s, lengths);
            }
            return out;
        }

        /// What lies beyond the lengths must not matter.
        fn spoilPadding(self: *Self, s: reference.Shape, lengths: []const i32) void {
            const row = s.heads * s.width;
            for (lengths, 0..) |length, i| {
                const first = i * s.length + @as(usize, @intCast(length));
                const end = (i + 1) * s.length;
                checks.poison(S, self.wx[first * 4 * row .. end * 4 * row]);
                checks.poison(S, self.dy_s[first * row .. end * row]);
            }
        }

        fn forwardArgs(self: Self, case: Case, y: []S, saved: ?[]A, last: ?[]A) args.SlstmForward {
            const s = case.shape;
            return .{
                .wx = self.wx.ptr,
                .r = self.r.ptr,
                .b = self.b.ptr,
                .initial = if (self.initial) |x| x.ptr else null,
                .borders = if (self.in.borders) |x| x.ptr else null,
                .lengths = if (self.in.lengths) |x| x.ptr else null,
                .y = y.ptr,
                .saved = if (saved) |x| x.ptr else null,
                .last = if (last) |x| x.ptr else null,
                .batch = s.batch,
                .length = s.length,
                .heads = s.heads,
                .width = s.width,
                .function = s.function,
                .clip = s.clip,
            };
        }
    };
}

/// A state as a cell could have reached it: n is 0 in a third of the units, and c with it.
fn makeInitial(lab: *Lab, s: reference.Shape) ![]f64 {
    const out = try lab.normal(s.states(), 0.5);
    const part = s.heads * s.width;
    for (0..s.batch) |b| for (0..part) |unit| {
        const at = b * 4 * part + unit;
        const empty = lab.prng.random().uintLessThan(u32, 3) == 0;
        out[at + 2 * part] = if (empty) 0 else 0.25 + @abs(out[at + 2 * part]);
        if (empty) out[at + part] = 0;
    };
    return out;
}

fn compare(comptime S: type, lab: *Lab, case: Case) !void {
    errdefer std.debug.print("seed {d}, {s}, {any}\n", .{ lab.seed, @typeName(S), case });
    const A = simd.Arithmetic(S);
    const s = case.shape;
    const data = try Data(S).make(lab, case);
    const want_y = try lab.zeros(f64, s.outputs());
    const want_last = try lab.zeros(f64, s.states());
    const trace = try lab.arena.allocator().alloc(reference.Trace, s.outputs());
    reference.forward(s, data.in, want_y, want_last, trace);
    const y = try lab.poisoned(S, s.outputs());
    const last = try lab.poisoned(A, s.states());
    const saved = try lab.poisoned(A, s.outputs() * args.saved_planes);
    const forward = data.forwardArgs(case, y, saved, last);
    try checks.runTwice(S, kernels.slstmForward, &forward, &.{
        checks.bytesOf(y), checks.bytesOf(last), checks.bytesOf(saved),
    });
    const bars = checks.bars(S);
    const exact = checks.bars(A);
    try checks.expectClose(S, "y", want_y, y, bars[0]);
    try checks.expectClose(A, "last", want_last, last, exact[0]);
    try compareBackward(S, lab, case, data, trace, saved);
}

fn compareBackward(
    comptime S: type,
    lab: *Lab,
    case: Case,
    data: Data(S),
    trace: []const reference.Trace,
    saved: []const simd.Arithmetic(S),
) !void {
    const A = simd.Arithmetic(S);
    const s = case.shape;
    const want: reference.Gradients = .{
        .dwx = try lab.zeros(f64, 4 * s.outputs()),
        .dr = try lab.zeros(f64, s.weights()),
        .db = try lab.zeros(f64, s.biases()),
        .dinitial = try lab.zeros(f64, s.states()),
    };
    reference.backward(s, data.in, trace, data.dy, data.dlast, want);
    const dwx = try lab.poisoned(S, 4 * s.outputs());
    const dr = try lab.poisoned(A, s.weights());
    const db = try lab.poisoned(A, s.biases());
    const dinitial = try lab.poisoned(A, s.states());
    const backward: args.SlstmBackward = .{
        .dy = data.dy_s.ptr,
        .dlast = if (data.dlast_s) |x| x.ptr else null,
        .r = data.r.ptr,
        .initial = if (data.initial) |x| x.ptr else null,
        .borders = if (data.in.borders) |x| x.ptr else null,
        .lengths = if (data.in.lengths) |x| x.ptr else null,
        .saved = saved.ptr,
        .dwx = dwx.ptr,
        .dr = dr.ptr,
        .db = db.ptr,
        .dinitial = dinitial.ptr,
        .batch = s.batch,
        .length = s.length,
        .heads = s.heads,
        .width = s.width,
        .function = s.function,
        .clip = s.clip,
        .recurrent_cut = @intFromBool(s.recurrent_cut),
        .recurrent_clip = s.recurrent_clip,
    };
    try checks.runTwice(S, kernels.slstmBackward, &backward, &.{
        checks.bytesOf(dwx), checks.bytesOf(dr), checks.bytesOf(db), checks.bytesOf(dinitial),
    });
    const exact = checks.bars(A)[1];
    try checks.expectClose(S, "dwx", want.dwx, dwx, checks.bars(S)[1]);
    try checks.expectClose(A, "dr", want.dr, dr, exact);
    try checks.expectClose(A, "db", want.db, db, exact);
    try checks.expectClose(A, "dinitial", want.dinitial, dinitial, exact);
}

const shapes = [_]reference.Shape{
    .{ .batch = 1, .length = 1, .heads = 1, .width = 1 },
    .{ .batch = 3, .length = 7, .heads = 2, .width = 5 },
    .{ .batch = 2, .length = 33, .heads = 3, .width = 24 },
    .{ .batch = 11, .length = 20, .heads = 2, .width = 16 },
    .{ .batch = 9, .length = 40, .heads = 1, .width = 43 },
    .{ .batch = 4, .length = 3, .heads = 1, .width = 70 },
    .{ .batch = 130, .length = 4, .heads = 1, .width = 6 },
};

test "forward and backward equal the reference in f32, f64 and bf16" {
    inline for (.{ f32, f64, u16 }, 0..) |S, n| {
        for (shapes, 0..) |shape, i| for (0..4) |options| {
            var lab: Lab = .init(1000 * n + 10 * i + options);
            defer lab.deinit();
            try compare(S, &lab, .{
                .shape = shape,
                .initial = options != 0,
                .last = options != 0,
                .borders = options == 2 or options == 3,
                .lengths = options >= 1 and options != 2,
            });
        };
    }
}

test "the LSTM, clips and cuts equal the reference" {
    inline for (.{ f32, f64 }, 0..) |S, n| {
        for (0..6) |options| {
            var lab: Lab = .init(50_000 + 100 * n + options);
            defer lab.deinit();
            try compare(S, &lab, .{
                .shape = .{
                    .batch = 5,
                    .length = 30,
                    .heads = 2,
                    .width = 19,
                    .function = if (options < 3) 1 else 0,
                    .clip = if (options == 1 or options == 3) 0.2 else 0,
                    .recurrent_cut = options == 4,
                    .recurrent_clip = if (options == 2 or options == 5) 0.1 else 0,
                },
                .borders = true,
                .lengths = true,
            });
        }
    }
}

test "gates far out of range stay finite and close" {
    for (0..3) |i| {
        var lab: Lab = .init(60_000 + i);
        defer lab.deinit();
        const case: Case = .{
            .shape = .{ .batch = 2, .length = 25, .heads = 2, .width = 12 },
            .gate_scale = if (i == 2) 1e4 else 15,
        };
        try compare(f64, &lab, case);
        if (i < 2) try compare(f32, &lab, case);
    }
}

/// Σ dy·y + Σ w_y·y_T + Σ w·c_T/n_T (w·c_T for the LSTM): the last state enters by what does not
/// depend on the choice of m, which has no gradient of its own.
const Objective = struct {
    shape: reference.Shape,
    dy: []const f64,
    w: []const f64, // [B, 4, NH, DH]: parts y and c are used
    y: []f64,
    last: []f64,
    trace: []reference.Trace,

    fn value(o: Objective, in: reference.Inputs) f64 {
        reference.forward(o.shape, in, o.y, o.last, o.trace);
        var total: f64 = 0;
        for (o.dy, o.y) |d, y| total += d * y;
        o.eachUnit(&total, struct {
            fn add(sum: *f64, objective: Objective, at: usize, part: usize) void {
                const n = objective.last[at + 2 * part];
                const lstm = objective.shape.function == 1;
                sum.* += objective.w[at] * objective.last[at];
                if (!lstm and n == 0) return;
                const c = objective.last[at + part];
                sum.* += objective.w[at + part] * (if (lstm) c else c / n);
            }
        }.add);
        return total;
    }

    /// The gradients of `value` at the last state.
    fn gradient(o: Objective, dlast: []f64) void {
        @memset(dlast, 0);
        o.eachUnit(dlast, struct {
            fn set(out: []f64, objective: Objective, at: usize, part: usize) void {
                const n = objective.last[at + 2 * part];
                const w = objective.w[at + part];
                out[at] = objective.w[at];
                if (objective.shape.function == 1) {
                    out[at + part] = w;
                } else if (n != 0) {
                    out[at + part] = w / n;
                    out[at + 2 * part] = -w * objective.last[at + part] / (n * n);
                }
            }
        }.set);
    }

    fn eachUnit(
        o: Objective,
        context: anytype,
        comptime body: fn (@TypeOf(context), Objective, usize, usize) void,
    ) void {
        const part = o.shape.heads * o.shape.width;
        for (0..o.shape.batch) |b| for (0..part) |unit| body(context, o, b * 4 * part + unit, part);
    }
};

test "the reference's gradients equal central differences" {
    for (0..6) |i| {
        var lab: Lab = .init(70_000 + i);
        defer lab.deinit();
        errdefer std.debug.print("seed {d}\n", .{lab.seed});
        const shape: reference.Shape = .{
            .batch = 2,
            .length = if (i == 0) 1 else 6,
            .heads = 2,
            .width = 3,
            .function = if (i >= 4) 1 else 0,
            .clip = if (i == 3) 0.3 else 0,
        };
        try differences(&lab, .{
            .shape = shape,
            .initial = i != 1,
            .borders = i == 2 or i == 5,
            .lengths = i == 3,
            .gate_scale = 1,
        });
    }
}

fn differences(lab: *Lab, case: Case) !void {
    const s = case.shape;
    const data = try Data(f64).make(lab, case);
    const objective: Objective = .{
        .shape = s,
        .dy = data.dy,
        .w = try lab.normal(s.states(), 1),
        .y = try lab.zeros(f64, s.outputs()),
        .last = try lab.zeros(f64, s.states()),
        .trace = try lab.arena.allocator().alloc(reference.Trace, s.outputs()),
    };
    _ = objective.value(data.in);
    const dlast = try lab.zeros(f64, s.states());
    objective.gradient(dlast);
    const out: reference.Gradients = .{
        .dwx = try lab.zeros(f64, 4 * s.outputs()),
        .dr = try lab.zeros(f64, s.weights()),
        .db = try lab.zeros(f64, s.biases()),
        .dinitial = try lab.zeros(f64, s.states()),
    };
    reference.backward(s, data.in, objective.trace, data.dy, dlast, out);
    try difference(objective, data.in, @constCast(data.in.wx), out.dwx, null);
    try difference(objective, data.in, @constCast(data.in.r), out.dr, null);
    try difference(objective, data.in, @constCast(data.in.b), out.db, null);
    const initial = data.in.initial orelse return;
    // Where n_0 = 0 the first-step rule makes the value jump: c_0 and n_0 have no derivative there.
    const skip = try lab.zeros(bool, s.states());
    const part = s.heads * s.width;
    for (0..s.batch) |b| for (0..part) |unit| {
        const at = b * 4 * part + unit;
        if (initial[at + 2 * part] != 0) continue;
        skip[at + 2 * part] = true;
        skip[at + part] = s.function == 0;
    };
    try difference(objective, data.in, @constCast(initial), out.dinitial, skip);
}

fn difference(
    objective: Objective,
    in: reference.Inputs,
    x: []f64,
    gradient: []const f64,
    skip: ?[]const bool,
) !void {
    const step = 1e-6;
    for (x, gradient, 0..) |*value, want, i| {
        if (skip) |flags| if (flags[i]) continue;
        const kept = value.*;
        value.* = kept + step;
        const above = objective.value(in);
        value.* = kept - step;
        const below = objective.value(in);
        value.* = kept;
        try testing.expectApproxEqAbs(want, (above - below) / (2 * step), 1e-7 * (1 + @abs(want)));
    }
}

test {}
