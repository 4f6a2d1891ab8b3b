//! Causal depthwise convolution, forward pass. Equations: `args/conv.zig`; reference:
//! `reference/conv.zig`.
//!
//! u_t = b + Σ_j w_j·x_e[t + j]; y = u or u·σ(u). A task is a fixed block of tokens of one batch
//! row. Four tokens share the loads of their seven inputs; tokens next to a border take their taps
//! one by one.

const std = @import("std");
const simd = @import("simd.zig");
const gates = @import("slstm_gates.zig");
const taps = @import("conv_taps.zig");
const args = @import("../args/conv.zig");
const Parallel = @import("../parallel.zig").Parallel;

const block_tokens = 64;

pub fn convForward(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.ConvForward,
) error{OutOfMemory}!void {
    const A = simd.Arithmetic(S);
    const blocks = @divCeil(a.length, block_tokens);
    const zeros = try parallel.alloc(S, a.channels);
    @memset(zeros, 0);
    const packed_rows = try parallel.alloc(A, (a.taps + 1) * a.channels);
    const weight: [*]const A = @ptrCast(@alignCast(a.weight));
    const bias: ?[*]const A = if (a.bias) |p| @ptrCast(@alignCast(p)) else null;
    const self: Forward(S) = .{
        .a = a,
        .blocks = blocks,
        .zeros = zeros.ptr,
        .weights = .pack(weight, bias, a.channels, a.taps, false, packed_rows),
        .sums = try parallel.alloc(A, a.batch * blocks * a.channels),
    };
    const shared: *const Forward(S) = &self;
    parallel.each(a.batch * blocks, shared, Forward(S).task);
    if (a.last != null and a.taps > 1) parallel.each(a.batch, shared, Forward(S).storeLast);
}

/// What the forward and the backward kernels' arguments say about one batch row.
pub fn sourceOf(comptime S: type, a: anytype, zeros: [*]const S, row: usize) taps.Source(S) {
    const x: [*]const S = @ptrCast(@alignCast(a.x));
    const state: ?[*]const S = if (a.state) |p| @ptrCast(@alignCast(p)) else null;
    const borders: ?[*]const u8 = if (a.borders) |p| @ptrCast(p) else null;
    return .{
        .x = x + row * a.length * a.x_stride,
        .stride = a.x_stride,
        .state = if (state) |p| p + row * (a.taps - 1) * a.channels else null,
        .zeros = zeros,
        .borders = if (borders) |p| p + row * a.length else null,
        .channels = a.channels,
        .taps = a.taps,
    };
}

pub fn lengthOf(a: anytype, row: usize) usize {
    const lengths: [*]const i32 = @ptrCast(@alignCast(a.lengths orelse return a.length));
    return @intCast(lengths[row]);
}

fn Forward(comptime S: type) type {
    return struct {
        const A = simd.Arithmetic(S);

        a: *const args.ConvForward,
        blocks: usize,
        zeros: [*]const S,
        weights: taps.Weights(A),
        sums: []A, // per task: u of one token

        const Self = @This();

        fn task(self: *const Self, index: usize) void {
            const a = self.a;
            const row = index / self.blocks;
            const first = (index % self.blocks) * block_tokens;
            const end = @min(first + block_tokens, a.length);
            const run = @max(first, @min(end, lengthOf(a, row)));
            const block: Block = .{
                .self = self,
                .source = sourceOf(S, a, self.zeros, row),
                .y = self.output(row),
                .sums = self.sums.ptr + index * a.channels,
            };
            switch (a.taps) {
                inline 2, 3, 4 => |k| block.tokens(k, first, run),
                else => block.tokens(0, first, run),
            }
            @memset((block.y + run * a.channels)[0 .. (end - run) * a.channels], 0);
        }

        fn output(self: *const Self, row: usize) [*]S {
            const y: [*]S = @ptrCast(@alignCast(self.a.y));
            return y + row * self.a.length * self.a.channels;
        }

        /// The last K − 1 inputs, of the last document only.
        fn storeLast(self: *const Self, row: usize) void {
            const a = self.a;
            const source = sourceOf(S, a, self.zeros, row);
            const length = lengthOf(a, row);
            const seen = if (length == 0) 0 else source.start(length - 1);
            const last: [*]S = @ptrCast(@alignCast(a.last.?));
            for (0..a.taps - 1) |k| {
                const from = if (length + k < seen) self.zeros else source.row(length + k);
                const to = last + (row * (a.taps - 1) + k) * a.channels;
                @memcpy(to[0..a.channels], from[0..a.channels]);
            }
        }

        const Block = struct {
            self: *const Self,
            source: taps.Source(S),
            y: [*]S,
            sums: [*]A,

            /// Tokens first..end; k taps, or 0 where that number has no fast path.
            fn tokens(block: *const Block, comptime k: usize, first: usize, end: usize) void {
                var t = first;
                while (t < end) {
                    const four = t + taps.together <= end;
                    if (k > 0 and four and block.source.clear(t, taps.together)) {
                        block.fast(k, taps.together, t);
                        t += taps.together;
                        continue;
                    }
                    if (k > 0 and block.source.clear(t, 1)) block.fast(k, 1, t) else block.slow(t);
                    t += 1;
                }
            }

            fn fast(block: *const Block, comptime k: usize, comptime count: usize, t: usize) void {
                const a = block.self.a;
                const Inputs = [count + k - 1][*]const S;
                var rows: Inputs = undefined;
                for (&rows, 0..) |*p, i| p.* = block.source.row(t + i);
                const Context = struct { block: *const Block, rows: *const Inputs, t: usize };
                const context: Context = .{ .block = block, .rows = &rows, .t = t };
                taps.eachChannels(A, a.channels, context, struct {
                    inline fn body(x: Context, comptime n: comptime_int, c: usize) void {
                        const u = taps.convolve(S, k, count, n, x.rows, x.block.self.weights, c);
                        inline for (0..count) |i| x.block.store(n, u[i], x.t + i, c);
                    }
                }.body);
            }

            fn slow(block: *const Block, t: usize) void {
                const a = block.self.a;
                slowSums(S, &block.source, block.self.weights, t, block.sums);
                const Context = struct { block: *const Block, t: usize };
                taps.eachChannels(A, a.channels, Context{ .block = block, .t = t }, struct {
                    inline fn body(x: Context, comptime n: comptime_int, c: usize) void {
                        x.block.store(n, simd.loadN(A, n, x.block.sums + c), x.t, c);
                    }
                }.body);
            }

            inline fn store(
                block: *const Block,
                comptime n: comptime_int,
                u: @Vector(n, A),
                t: usize,
                c: usize,
            ) void {
                const a = block.self.a;
                const V = @Vector(n, A);
                const y = if (a.silu != 0) u * gates.sigmoids(V, u).plus else u;
                simd.storeN(S, n, block.y + t * a.channels + c, y);
            }
        };
    };
}

/// u of one token, tap by tap, without those that a border hides.
pub fn slowSums(
    comptime S: type,
    source: *const taps.Source(S),
    weights: taps.Weights(simd.Arithmetic(S)),
    t: usize,
    out: [*]simd.Arithmetic(S),
) void {
    const channels = weights.channels;
    const bias = weights.rows + weights.taps * channels;
    @memcpy(out[0..channels], bias[0..channels]);
    const start = source.start(t);
    for (0..weights.taps) |j| {
        if (t + j < start) continue;
        taps.addProduct(S, out, weights.rows + j * channels, source.row(t + j), channels);
    }
}
