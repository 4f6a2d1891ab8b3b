//! Tests of the causal convolution: against the float64 reference, whose gradients are checked
//! against central differences; pieces, steps, lengths, borders, threads.

const std = @import("std");
const simd = @import("simd.zig");
const reference = @import("../reference/conv.zig");
const args = @import("../args/conv.zig");
const checks = @import("slstm_checks.zig");
const kernels = @import("conv.zig");
const Lab = checks.Lab;
const testing = std.testing;

const Options = struct {
    state: bool = true,
    borders: bool = false,
    lengths: bool = false,
    bias: bool = true,
    gap: usize = 0,
};

fn Data(comptime S: type) type {
    const A = simd.Arithmetic(S);
    return struct {
        in: reference.Inputs,
        dy: []f64,
        dlast: ?[]f64 = null,
        x: []S, // tokens C + gap apart
        weight: []A,
        bias: ?[]A = null,
        state: ?[]S = null,
        dy_s: []S,
        dlast_s: ?[]S = null,

        const Self = @This();

        fn make(lab: *Lab, s: reference.Shape, o: Options) !Self {
            const rows = s.batch * s.length;
            const x = try lab.normal(rows * s.channels, 1);
            const weight = try lab.normal(s.channels * s.taps, 1);
            const dy = try lab.normal(rows * s.channels, 1);
            const x_s = try lab.rounded(S, x);
            var out: Self = .{
                .x = try lab.poisoned(S, rows * (s.channels + o.gap)),
                .weight = try lab.rounded(A, weight),
                .dy_s = try lab.rounded(S, dy),
                .dy = dy,
                .in = .{ .x = x, .weight = weight },
            };
            for (0..rows) |r| {
                const to = out.x[r * (s.channels + o.gap) ..];
                @memcpy(to[0..s.channels], x_s[r * s.channels ..][0..s.channels]);
            }
            if (o.bias) {
                const bias = try lab.normal(s.channels, 1);
                out.bias = try lab.rounded(A, bias);
                out.in.bias = bias;
            }
            if (o.state) {
                const state = try lab.normal(s.batch * (s.taps - 1) * s.channels, 1);
                const dlast = try lab.normal(state.len, 1);
                out.state = try lab.rounded(S, state);
                out.dlast_s = try lab.rounded(S, dlast);
                out.in.state = state;
                out.dlast = dlast;
            }
            if (o.borders) {
                const borders = try lab.zeros(u8, rows);
                for (borders) |*flag| {
                    flag.* = @intFromBool(lab.prng.random().uintLessThan(u32, 7) == 0);
                }
                out.in.borders = borders;
            }
            if (o.lengths) try out.shorten(lab, s, o);
            return out;
        }

        /// Random lengths; what lies beyond them becomes NaN, for it must not matter.
        fn shorten(out: *Self, lab: *Lab, s: reference.Shape, o: Options) !void {
            const lengths = try lab.zeros(i32, s.batch);
            for (lengths, 0..) |*length, i| {
                const any = lab.prng.random().uintAtMost(usize, s.length);
                length.* = @intCast(if (i == 0) any else if (i == 1) 0 else @min(any, 2));
                for (@as(usize, @intCast(length.*))..s.length) |t| {
                    const row = i * s.length + t;
                    checks.poison(S, out.x[row * (s.channels + o.gap) ..][0..s.channels]);
                    checks.poison(S, out.dy_s[row * s.channels ..][0..s.channels]);
                }
            }
            out.in.lengths = lengths;
        }
    };
}

fn compare(comptime S: type, lab: *Lab, s: reference.Shape, o: Options) !void {
    errdefer std.debug.print("seed {d}, {s}, {any}, {any}\n", .{ lab.seed, @typeName(S), s, o });
    const data = try Data(S).make(lab, s, o);
    const count = s.batch * s.length * s.channels;
    const kept = s.batch * (s.taps - 1) * s.channels;
    const want_y = try lab.zeros(f64, count);
    const want_last = try lab.zeros(f64, kept);
    reference.forward(s, data.in, want_y, want_last);
    const y = try lab.poisoned(S, count);
    const last = try lab.poisoned(S, kept);
    try checks.runTwice(S, kernels.convForward, &args.ConvForward{
        .x = data.x.ptr,
        .weight = data.weight.ptr,
        .bias = if (data.bias) |p| p.ptr else null,
        .state = if (data.state) |p| p.ptr else null,
        .borders = if (data.in.borders) |p| p.ptr else null,
        .lengths = if (data.in.lengths) |p| p.ptr else null,
        .y = y.ptr,
        .last = last.ptr,
        .batch = s.batch,
        .length = s.length,
        .channels = s.channels,
        .taps = s.taps,
        .x_stride = s.channels + o.gap,
        .silu = @intFromBool(s.silu),
    }, &.{ checks.bytesOf(y), checks.bytesOf(last) });
    try checks.expectClose(S, "y", want_y, y, checks.bars(S)[0]);
    try checks.expectClose(S, "last", want_last, last, 0);
    try compareBackward(S, lab, s, o, data);
}

fn compareBackward(
    comptime S: type,
    lab: *Lab,
    s: reference.Shape,
    o: Options,
    data: Data(S),
) !void {
    const A = simd.Arithmetic(S);
    const rows = s.batch * s.length;
    const kept = s.batch * (s.taps - 1) * s.channels;
    const want: reference.Gradients = .{
        .dx = try lab.zeros(f64, rows * s.channels),
        .dweight = try lab.zeros(f64, s.channels * s.taps),
        .dbias = try lab.zeros(f64, s.channels),
        .dstate = try lab.zeros(f64, kept),
    };
    reference.backward(s, data.in, data.dy, data.dlast, want);
    const dx = try lab.poisoned(S, rows * (s.channels + o.gap));
    const dweight = try lab.poisoned(A, s.channels * s.taps);
    const dbias = try lab.poisoned(A, s.channels);
    const dstate = try lab.poisoned(S, kept);
    try checks.runTwice(S, kernels.convBackward, &args.ConvBackward{
        .dy = data.dy_s.ptr,
        .x = data.x.ptr,
        .weight = data.weight.ptr,
        .bias = if (data.bias) |p| p.ptr else null,
        .state = if (data.state) |p| p.ptr else null,
        .borders = if (data.in.borders) |p| p.ptr else null,
        .lengths = if (data.in.lengths) |p| p.ptr else null,
        .dlast = if (data.dlast_s) |p| p.ptr else null,
        .dx = dx.ptr,
        .dweight = dweight.ptr,
        .dbias = dbias.ptr,
        .dstate = dstate.ptr,
        .batch = s.batch,
        .length = s.length,
        .channels = s.channels,
        .taps = s.taps,
        .x_stride = s.channels + o.gap,
        .dx_stride = s.channels + o.gap,
        .silu = @intFromBool(s.silu),
    }, &.{
        checks.bytesOf(dx),
        checks.bytesOf(dweight),
        checks.bytesOf(dbias),
        checks.bytesOf(dstate),
    });
    const dense = try lab.poisoned(S, rows * s.channels);
    for (0..rows) |r| {
        const from = dx[r * (s.channels + o.gap) ..][0..s.channels];
        @memcpy(dense[r * s.channels ..][0..s.channels], from);
    }
    try checks.expectClose(S, "dx", want.dx, dense, checks.bars(S)[1]);
    try checks.expectClose(A, "dweight", want.dweight, dweight, checks.bars(A)[1]);
    try checks.expectClose(A, "dbias", want.dbias, dbias, checks.bars(A)[1]);
    try checks.expectClose(S, "dstate", want.dstate, dstate, checks.bars(S)[1]);
}

const shapes = [_]reference.Shape{
    .{ .batch = 1, .length = 1, .channels = 1, .taps = 4 },
    .{ .batch = 3, .length = 0, .channels = 5, .taps = 4 },
    .{ .batch = 2, .length = 2, .channels = 9, .taps = 4, .silu = true },
    .{ .batch = 3, .length = 70, .channels = 20, .taps = 4, .silu = true },
    .{ .batch = 3, .length = 33, .channels = 16, .taps = 4 },
    .{ .batch = 2, .length = 300, .channels = 11, .taps = 4, .silu = true },
    // 2100 channels: the smallest pieces of the backward pass.
    .{ .batch = 2, .length = 150, .channels = 2100, .taps = 4, .silu = true },
    .{ .batch = 3, .length = 17, .channels = 8, .taps = 1, .silu = true },
    .{ .batch = 3, .length = 17, .channels = 10, .taps = 2 },
    .{ .batch = 3, .length = 140, .channels = 10, .taps = 3, .silu = true },
    .{ .batch = 3, .length = 140, .channels = 10, .taps = 7, .silu = true },
};

test "the convolution equals the reference in f32, f64 and bf16" {
    inline for (.{ f32, f64, u16 }, 0..) |S, n| {
        for (shapes, 0..) |shape, i| for (0..4) |option| {
            if (shape.channels > 1000 and option > 1) continue;
            var lab: Lab = .init(200_000 + 1000 * n + 10 * i + option);
            defer lab.deinit();
            try compare(S, &lab, shape, .{
                .state = option >= 1,
                .borders = option == 1 or option == 3,
                .lengths = option >= 2,
                .bias = option != 2,
                .gap = option,
            });
        };
    }
}

test "a step has the bits of the whole pass" {
    inline for (.{ f32, u16 }, 0..) |S, n| for (0..4) |i| {
        var lab: Lab = .init(210_000 + 10 * n + i);
        defer lab.deinit();
        const s: reference.Shape = .{ .batch = 3, .length = 9, .channels = 13, .taps = i + 1 };
        const data = try Data(S).make(&lab, s, .{});
        const size = (s.taps - 1) * s.channels;
        const y = try lab.poisoned(S, s.batch * s.length * s.channels);
        const last = try lab.poisoned(S, s.batch * size);
        try checks.run(S, kernels.convForward, &args.ConvForward{
            .x = data.x.ptr,
            .weight = data.weight.ptr,
            .bias = data.bias.?.ptr,
            .state = data.state.?.ptr,
            .borders = null,
            .lengths = null,
            .y = y.ptr,
            .last = last.ptr,
            .batch = s.batch,
            .length = s.length,
            .channels = s.channels,
            .taps = s.taps,
            .x_stride = s.channels,
            .silu = 1,
        }, 1);
        // Row r keeps its state in slot 4 − r; slots 0 and 1 belong to nobody.
        const slots = [_]i32{ 4, 3, 2 };
        const state = try lab.poisoned(S, 5 * size);
        for (slots, 0..) |slot, r| {
            const to = state[@as(usize, @intCast(slot)) * size ..][0..size];
            @memcpy(to, data.state.?[r * size ..][0..size]);
        }
        const idle = try testing.allocator.dupe(S, state[0 .. 2 * size]);
        defer testing.allocator.free(idle);
        const out = try lab.poisoned(S, s.batch * s.channels);
        for (0..s.length) |t| {
            try checks.run(S, kernels.convStep, &args.ConvStep{
                .x = data.x.ptr + t * s.channels,
                .weight = data.weight.ptr,
                .bias = data.bias.?.ptr,
                .slots = &slots,
                .state = state.ptr,
                .y = out.ptr,
                .rows = s.batch,
                .channels = s.channels,
                .taps = s.taps,
                .x_stride = s.length * s.channels,
                .silu = 1,
            }, 2);
            for (0..s.batch) |r| {
                const want = y[(r * s.length + t) * s.channels ..][0..s.channels];
                const got = out[r * s.channels ..][0..s.channels];
                try testing.expectEqualSlices(u8, checks.bytesOf(want), checks.bytesOf(got));
            }
        }
        for (slots, 0..) |slot, r| {
            const got = state[@as(usize, @intCast(slot)) * size ..][0..size];
            const want = last[r * size ..][0..size];
            try testing.expectEqualSlices(u8, checks.bytesOf(want), checks.bytesOf(got));
        }
        const spared = state[0 .. 2 * size];
        try testing.expectEqualSlices(u8, checks.bytesOf(idle), checks.bytesOf(spared));
    };
}

test "the reference's gradients equal central differences" {
    for (0..4) |i| {
        var lab: Lab = .init(220_000 + i);
        defer lab.deinit();
        errdefer std.debug.print("seed {d}\n", .{lab.seed});
        const s: reference.Shape = .{
            .batch = 2,
            .length = 6,
            .channels = 2,
            .taps = 4,
            .silu = i > 0,
        };
        const data = try Data(f64).make(&lab, s, .{ .borders = i == 2, .lengths = i == 3 });
        const out: reference.Gradients = .{
            .dx = try lab.zeros(f64, data.in.x.len),
            .dweight = try lab.zeros(f64, data.in.weight.len),
            .dbias = try lab.zeros(f64, s.channels),
            .dstate = try lab.zeros(f64, data.in.state.?.len),
        };
        reference.backward(s, data.in, data.dy, data.dlast, out);
        const y = try lab.zeros(f64, data.in.x.len);
        const last = try lab.zeros(f64, data.in.state.?.len);
        const pairs = [4][2][]const f64{
            .{ data.in.x, out.dx },
            .{ data.in.weight, out.dweight },
            .{ data.in.bias.?, out.dbias },
            .{ data.in.state.?, out.dstate },
        };
        for (pairs) |pair| for (@constCast(pair[0]), pair[1]) |*x, want| {
            const kept = x.*;
            var value: [2]f64 = @splat(0);
            for (&value, [2]f64{ 1e-5, -1e-5 }) |*total, step| {
                x.* = kept + step;
                reference.forward(s, data.in, y, last);
                for (data.dy, y) |d, v| total.* += d * v;
                for (data.dlast.?, last) |d, v| total.* += d * v;
            }
            x.* = kept;
            const slope = (value[0] - value[1]) / 2e-5;
            try testing.expectApproxEqAbs(want, slope, 1e-8 * (1 + @abs(want)));
        };
    }
}
