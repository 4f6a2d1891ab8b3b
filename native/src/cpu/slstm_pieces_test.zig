//! sLSTM sequences cut into pieces and single steps, rows alone and in a batch, causality.

const std = @import("std");
const simd = @import("simd.zig");
const args = @import("../args/slstm.zig");
const checks = @import("slstm_checks.zig");
const kernels = @import("slstm.zig");
const Lab = checks.Lab;
const testing = std.testing;

const Sizes = struct {
    batch: usize,
    length: usize,
    heads: usize = 2,
    width: usize = 19,
    function: u32 = 0,
};

fn Layer(comptime S: type) type {
    const A = simd.Arithmetic(S);
    return struct {
        sizes: Sizes,
        r: []A,
        b: []A,

        const Self = @This();

        fn make(lab: *Lab, sizes: Sizes) !Self {
            const unit = sizes.heads * sizes.width;
            return .{
                .sizes = sizes,
                .r = try lab.rounded(A, try lab.normal(4 * unit * sizes.width, 0.3)),
                .b = try lab.rounded(A, try lab.normal(4 * unit, 1)),
            };
        }

        fn forward(
            layer: Self,
            batch: usize,
            length: usize,
            wx: []const S,
            initial: ?[]const A,
            y: []S,
            saved: []A,
            last: []A,
        ) !void {
            try checks.run(S, kernels.slstmForward, &args.SlstmForward{
                .wx = wx.ptr,
                .r = layer.r.ptr,
                .b = layer.b.ptr,
                .initial = if (initial) |p| p.ptr else null,
                .borders = null,
                .lengths = null,
                .y = y.ptr,
                .saved = saved.ptr,
                .last = last.ptr,
                .batch = batch,
                .length = length,
                .heads = layer.sizes.heads,
                .width = layer.sizes.width,
                .function = layer.sizes.function,
                .clip = 0,
            }, 2);
        }

        fn backward(
            layer: Self,
            length: usize,
            dy: []const S,
            dlast: ?[]const A,
            initial: ?[]const A,
            saved: []const A,
            out: Gradients(S),
        ) !void {
            try checks.run(S, kernels.slstmBackward, &args.SlstmBackward{
                .dy = dy.ptr,
                .dlast = if (dlast) |p| p.ptr else null,
                .r = layer.r.ptr,
                .initial = if (initial) |p| p.ptr else null,
                .borders = null,
                .lengths = null,
                .saved = saved.ptr,
                .dwx = out.dwx.ptr,
                .dr = out.dr.ptr,
                .db = out.db.ptr,
                .dinitial = out.dinitial.ptr,
                .batch = layer.sizes.batch,
                .length = length,
                .heads = layer.sizes.heads,
                .width = layer.sizes.width,
                .function = layer.sizes.function,
                .clip = 0,
                .recurrent_cut = 0,
                .recurrent_clip = 0,
            }, 2);
        }
    };
}

fn Gradients(comptime S: type) type {
    const A = simd.Arithmetic(S);
    return struct { dwx: []S, dr: []A, db: []A, dinitial: []A };
}

fn gradients(comptime S: type, lab: *Lab, layer: Layer(S), length: usize) !Gradients(S) {
    const A = simd.Arithmetic(S);
    const unit = layer.sizes.heads * layer.sizes.width;
    return .{
        .dwx = try lab.poisoned(S, layer.sizes.batch * length * 4 * unit),
        .dr = try lab.poisoned(A, layer.r.len),
        .db = try lab.poisoned(A, layer.b.len),
        .dinitial = try lab.poisoned(A, layer.sizes.batch * 4 * unit),
    };
}

/// Tokens first..first + count of every batch row of x [B, T, width].
fn tokens(
    comptime T: type,
    lab: *Lab,
    x: []const T,
    batch: usize,
    width: usize,
    first: usize,
    count: usize,
) ![]T {
    const row = x.len / batch;
    const size = count * width;
    const out = try lab.arena.allocator().alloc(T, batch * size);
    for (0..batch) |b| @memcpy(out[b * size ..][0..size], x[b * row + first * width ..][0..size]);
    return out;
}

fn expectSame(comptime T: type, want: []const T, got: []const T) !void {
    try testing.expectEqualSlices(u8, std.mem.sliceAsBytes(want), std.mem.sliceAsBytes(got));
}

fn widened(comptime T: type, lab: *Lab, x: []const T) ![]f64 {
    const out = try lab.arena.allocator().alloc(f64, x.len);
    for (out, 0..) |*value, i| value.* = simd.get(T, x.ptr, i);
    return out;
}

test "pieces with the state passed on have the bits of the whole, and their gradients add up" {
    inline for (.{ f32, f64, u16 }, 0..) |S, n| for (0..2) |function| {
        var lab: Lab = .init(80_000 + 10 * n + function);
        defer lab.deinit();
        errdefer std.debug.print("seed {d}\n", .{lab.seed});
        try pieces(S, &lab, .{ .batch = 3, .length = 40, .function = @intCast(function) });
    };
}

fn pieces(comptime S: type, lab: *Lab, sizes: Sizes) !void {
    const A = simd.Arithmetic(S);
    const unit = sizes.heads * sizes.width;
    const layer = try Layer(S).make(lab, sizes);
    const count = sizes.batch * sizes.length * unit;
    const wx = try lab.rounded(S, try lab.normal(4 * count, 2));
    const dy = try lab.rounded(S, try lab.normal(count, 1));
    const y = try lab.poisoned(S, count);
    const saved = try lab.poisoned(A, count * args.saved_planes);
    const last = try lab.poisoned(A, sizes.batch * 4 * unit);
    try layer.forward(sizes.batch, sizes.length, wx, null, y, saved, last);
    const whole = try gradients(S, lab, layer, sizes.length);
    try layer.backward(sizes.length, dy, null, null, saved, whole);

    // Pieces of 1, 7, 13 and the rest.
    const cuts = [_]usize{ 0, 1, 8, 21, sizes.length };
    var states: [5]?[]A = @splat(null);
    var keeps: [4][]A = undefined;
    for (0..4) |i| {
        const length = cuts[i + 1] - cuts[i];
        const part = try tokens(S, lab, wx, sizes.batch, 4 * unit, cuts[i], length);
        const out = try lab.poisoned(S, sizes.batch * length * unit);
        keeps[i] = try lab.poisoned(A, out.len * args.saved_planes);
        states[i + 1] = try lab.poisoned(A, last.len);
        try layer.forward(sizes.batch, length, part, states[i], out, keeps[i], states[i + 1].?);
        try expectSame(S, try tokens(S, lab, y, sizes.batch, unit, cuts[i], length), out);
    }
    try expectSame(A, last, states[4].?);

    const dr = try lab.zeros(A, whole.dr.len);
    const db = try lab.zeros(A, whole.db.len);
    var dlast: ?[]const A = null;
    var i: usize = 4;
    while (i > 0) {
        i -= 1;
        const length = cuts[i + 1] - cuts[i];
        const part = try tokens(S, lab, dy, sizes.batch, unit, cuts[i], length);
        const out = try gradients(S, lab, layer, length);
        try layer.backward(length, part, dlast, states[i], keeps[i], out);
        const want = try tokens(S, lab, whole.dwx, sizes.batch, 4 * unit, cuts[i], length);
        try expectSame(S, want, out.dwx);
        for (dr, out.dr) |*sum, x| sum.* += x;
        for (db, out.db) |*sum, x| sum.* += x;
        dlast = out.dinitial;
    }
    // Sums over tokens were cut in other places: equal but for rounding.
    const bar: f64 = if (A == f64) 1e-14 else 1e-6;
    try checks.expectClose(A, "dr", try widened(A, lab, whole.dr), dr, bar);
    try checks.expectClose(A, "db", try widened(A, lab, whole.db), db, bar);
}

test "a step has the bits of the whole pass; idle slots stay untouched" {
    inline for (.{ f32, f64, u16 }, 0..) |S, n| for ([_]usize{ 1, 16, 19, 40 }, 0..) |width, i| {
        var lab: Lab = .init(81_000 + 10 * n + i);
        defer lab.deinit();
        errdefer std.debug.print("seed {d}\n", .{lab.seed});
        const function: u32 = @intCast(i % 2);
        try steps(S, &lab, .{ .batch = 4, .length = 6, .width = width, .function = function });
    };
}

fn steps(comptime S: type, lab: *Lab, sizes: Sizes) !void {
    const A = simd.Arithmetic(S);
    const unit = sizes.heads * sizes.width;
    const layer = try Layer(S).make(lab, sizes);
    const count = sizes.batch * sizes.length * unit;
    const wx = try lab.rounded(S, try lab.normal(4 * count, 2));
    const y = try lab.poisoned(S, count);
    const saved = try lab.poisoned(A, count * args.saved_planes);
    const last = try lab.poisoned(A, sizes.batch * 4 * unit);
    try layer.forward(sizes.batch, sizes.length, wx, null, y, saved, last);
    const slots = [_]i32{ 5, 2, 3, 0 };
    const state = try lab.poisoned(A, 6 * 4 * unit);
    for (slots) |slot| @memset(state[@as(usize, @intCast(slot)) * 4 * unit ..][0 .. 4 * unit], 0);
    const idle = try lab.arena.allocator().dupe(A, state);
    const out = try lab.poisoned(S, sizes.batch * unit);
    for (0..sizes.length) |t| {
        const now = try tokens(S, lab, wx, sizes.batch, 4 * unit, t, 1);
        try checks.run(S, kernels.slstmStep, &args.SlstmStep{
            .wx = now.ptr,
            .r = layer.r.ptr,
            .b = layer.b.ptr,
            .slots = &slots,
            .state = state.ptr,
            .y = out.ptr,
            .rows = sizes.batch,
            .heads = sizes.heads,
            .width = sizes.width,
            .function = sizes.function,
            .clip = 0,
        }, 2);
        try expectSame(S, try tokens(S, lab, y, sizes.batch, unit, t, 1), out);
    }
    for (slots, 0..) |slot, r| {
        const at = @as(usize, @intCast(slot)) * 4 * unit;
        try expectSame(A, last[r * 4 * unit ..][0 .. 4 * unit], state[at..][0 .. 4 * unit]);
    }
    for ([_]usize{ 1, 4 }) |slot| {
        const at = slot * 4 * unit;
        try expectSame(A, idle[at..][0 .. 4 * unit], state[at..][0 .. 4 * unit]);
    }
}

test "a row has the same bits alone and in any batch, and does not see the future" {
    var lab: Lab = .init(82_000);
    defer lab.deinit();
    const sizes: Sizes = .{ .batch = 21, .length = 12 };
    const unit = sizes.heads * sizes.width;
    const layer = try Layer(f32).make(&lab, sizes);
    const row = sizes.length * unit;
    const wx = try lab.rounded(f32, try lab.normal(4 * row * sizes.batch, 2));
    const y = try lab.poisoned(f32, row * sizes.batch);
    const saved = try lab.poisoned(f32, y.len * args.saved_planes);
    const last = try lab.poisoned(f32, sizes.batch * 4 * unit);
    try layer.forward(sizes.batch, sizes.length, wx, null, y, saved, last);
    const alone = try lab.poisoned(f32, row);
    for ([_]usize{ 0, 7, 20 }) |r| {
        const own = wx[4 * r * row ..][0 .. 4 * row];
        try layer.forward(1, sizes.length, own, null, alone, saved, last);
        try expectSame(f32, y[r * row ..][0..row], alone);
        const past = 5 * unit;
        for (own[4 * past ..]) |*x| x.* += 1;
        try layer.forward(1, sizes.length, own, null, alone, saved, last);
        try expectSame(f32, y[r * row ..][0..past], alone[0..past]);
        const before = y[r * row + past ..][0..unit];
        try testing.expect(!std.mem.eql(f32, before, alone[past..][0..unit]));
    }
}

test "no rows, no tokens" {
    var lab: Lab = .init(83_000);
    defer lab.deinit();
    for ([_]Sizes{ .{ .batch = 0, .length = 4 }, .{ .batch = 2, .length = 0 } }) |sizes| {
        const layer = try Layer(f32).make(&lab, sizes);
        const unit = sizes.heads * sizes.width;
        const initial = try lab.rounded(f32, try lab.normal(sizes.batch * 4 * unit, 1));
        const last = try lab.poisoned(f32, initial.len);
        try layer.forward(sizes.batch, sizes.length, &.{}, initial, &.{}, &.{}, last);
        try expectSame(f32, initial, last);
        const out = try gradients(f32, &lab, layer, sizes.length);
        try layer.backward(sizes.length, &.{}, initial, initial, &.{}, out);
        for (out.dr) |x| try testing.expectEqual(@as(f32, 0), x);
        for (out.db) |x| try testing.expectEqual(@as(f32, 0), x);
        const some = @min(initial.len, unit);
        try expectSame(f32, initial[0..some], out.dinitial[0..some]);
    }
}
