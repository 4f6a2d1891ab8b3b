//! One token of the causal convolution for every row; the state moves on by one (decoding). Same
//! sums, in the same order, as `conv_forward.zig`.

const std = @import("std");
const simd = @import("simd.zig");
const gates = @import("slstm_gates.zig");
const taps = @import("conv_taps.zig");
const forward = @import("conv_forward.zig");
const args = @import("../args/conv.zig");
const Parallel = @import("../parallel.zig").Parallel;

pub fn convStep(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.ConvStep,
) error{OutOfMemory}!void {
    const A = simd.Arithmetic(S);
    const packed_rows = try parallel.alloc(A, (a.taps + 1) * a.channels);
    const weight: [*]const A = @ptrCast(@alignCast(a.weight));
    const bias: ?[*]const A = if (a.bias) |p| @ptrCast(@alignCast(p)) else null;
    const self: Step(S) = .{
        .a = a,
        .weights = .pack(weight, bias, a.channels, a.taps, false, packed_rows),
        .sums = try parallel.alloc(A, a.rows * a.channels),
    };
    parallel.each(a.rows, @as(*const Step(S), &self), Step(S).row);
}

fn Step(comptime S: type) type {
    return struct {
        const A = simd.Arithmetic(S);

        a: *const args.ConvStep,
        weights: taps.Weights(A),
        sums: []A, // [rows, C]

        const Self = @This();

        fn row(self: *const Self, index: usize) void {
            const a = self.a;
            const kept = a.taps - 1;
            const slots: ?[*]const i32 = if (a.slots) |p| @ptrCast(@alignCast(p)) else null;
            const slot: usize = if (slots) |p| @intCast(p[index]) else index;
            const all: [*]S = @ptrCast(@alignCast(a.state));
            const state = all + slot * kept * a.channels;
            const x: [*]const S = @ptrCast(@alignCast(a.x));
            const source: taps.Source(S) = .{
                .x = x + index * a.x_stride,
                .stride = a.x_stride,
                .state = state,
                .zeros = state,
                .borders = null,
                .channels = a.channels,
                .taps = a.taps,
            };
            const sums = self.sums.ptr + index * a.channels;
            forward.slowSums(S, &source, self.weights, 0, sums);
            const y: [*]S = @ptrCast(@alignCast(a.y));
            const Context = struct { sums: [*]const A, y: [*]S, silu: bool };
            const to_row = y + index * a.channels;
            const context: Context = .{ .sums = sums, .y = to_row, .silu = a.silu != 0 };
            taps.eachChannels(A, a.channels, context, struct {
                inline fn body(to: Context, comptime n: comptime_int, c: usize) void {
                    const V = @Vector(n, A);
                    const u = simd.loadN(A, n, to.sums + c);
                    simd.storeN(S, n, to.y + c, if (to.silu) u * gates.sigmoids(V, u).plus else u);
                }
            }.body);
            if (kept == 0) return;
            for (1..kept) |k| {
                const to = state[(k - 1) * a.channels ..][0..a.channels];
                @memcpy(to, state[k * a.channels ..][0..a.channels]);
            }
            @memcpy(state[(kept - 1) * a.channels ..][0..a.channels], source.x[0..a.channels]);
        }
    };
}
