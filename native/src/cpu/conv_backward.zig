//! Causal depthwise convolution, backward pass. Equations: `args/conv.zig`; reference:
//! `reference/conv.zig`.
//!
//! du_t = dy_t (·silu'(u_t)); dw_j = Σ du_t·x_e[t + j]; dx_e[e] = Σ_d w_{K−1−d}·du_{e−(K−1)+d}: a
//! convolution of du with the taps reversed.
//!
//! A task is a fixed block of tokens of one batch row. It walks through the block in pieces whose
//! du stays in cache, and computes du of the K − 1 tokens after the block once more for itself. Its
//! sums for dw and db are added to the others' in the order of the tasks.

const std = @import("std");
const simd = @import("simd.zig");
const gates = @import("slstm_gates.zig");
const taps = @import("conv_taps.zig");
const forward = @import("conv_forward.zig");
const args = @import("../args/conv.zig");
const Parallel = @import("../parallel.zig").Parallel;

const block_tokens = 128;
/// Elements of du in a piece: a share of the second-level cache.
const piece_elements = 16384;
const reduce_channels = 64;

pub fn convBackward(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.ConvBackward,
) error{OutOfMemory}!void {
    const A = simd.Arithmetic(S);
    const C = a.channels;
    const weight: [*]const A = @ptrCast(@alignCast(a.weight));
    const bias: ?[*]const A = if (a.bias) |p| @ptrCast(@alignCast(p)) else null;
    const packed_rows = try parallel.alloc(A, 2 * (a.taps + 1) * C);
    const reversed = packed_rows[(a.taps + 1) * C ..];
    const zeros = try parallel.alloc(S, C);
    const zero_sums = try parallel.alloc(A, C);
    @memset(zeros, 0);
    @memset(zero_sums, 0);
    const blocks = @max(1, @divCeil(a.length, block_tokens));
    const piece = std.math.clamp(piece_elements / @max(C, 1), 8, block_tokens);
    const self: Backward(S) = .{
        .a = a,
        .blocks = blocks,
        .piece = piece,
        .zeros = zeros.ptr,
        .zero_sums = zero_sums.ptr,
        .weights = .pack(weight, bias, C, a.taps, false, packed_rows),
        .reversed = .pack(weight, null, C, a.taps, true, reversed),
        .du = try parallel.alloc(A, a.batch * blocks * (piece + a.taps) * C),
        .sums = try parallel.alloc(A, a.batch * blocks * (a.taps + 1) * C),
    };
    const shared: *const Backward(S) = &self;
    parallel.each(a.batch * blocks, shared, Backward(S).task);
    parallel.each(@divCeil(C, reduce_channels), shared, Backward(S).reduce);
}

fn Backward(comptime S: type) type {
    return struct {
        const A = simd.Arithmetic(S);

        a: *const args.ConvBackward,
        blocks: usize,
        piece: usize, // tokens whose du is held at a time, besides the K − 1 that follow
        zeros: [*]const S,
        zero_sums: [*]const A,
        weights: taps.Weights(A),
        reversed: taps.Weights(A),
        du: []A, // per task: [piece + K, C]; the last row is for sums of single tokens
        sums: []A, // per task: dw [K, C], db [C]

        const Self = @This();

        fn task(self: *const Self, index: usize) void {
            const a = self.a;
            const size = (a.taps + 1) * a.channels;
            const row = index / self.blocks;
            const first = (index % self.blocks) * block_tokens;
            const dy: [*]const S = @ptrCast(@alignCast(a.dy));
            var block: Block = .{
                .self = self,
                .row = row,
                .source = forward.sourceOf(S, a, self.zeros, row),
                .dy = dy + row * a.length * a.channels,
                .length = forward.lengthOf(a, row),
                .end = @min(first + block_tokens, a.length),
                .du = self.du.ptr + index * (self.piece + a.taps) * a.channels,
                .sums = self.sums.ptr + index * size,
                .base = first,
            };
            @memset(block.sums[0..size], 0);
            switch (a.taps) {
                inline 2, 3, 4 => |k| block.run(k),
                else => block.run(0),
            }
        }

        const Block = struct {
            self: *const Self,
            row: usize,
            source: taps.Source(S),
            dy: [*]const S,
            length: usize, // of this batch row
            end: usize, // of the block
            du: [*]A,
            sums: [*]A,
            base: usize, // the token of du's first row

            fn run(block: *Block, comptime k: comptime_int) void {
                const a = block.self.a;
                const kept = a.taps - 1;
                const first = block.base;
                var known = first; // tokens below have their du
                if (first == block.end) block.stateGradients();
                while (block.base < block.end) {
                    const stop = @min(block.base + block.self.piece, block.end);
                    const want = @min(stop + kept, block.length);
                    if (want > known) {
                        block.eachGroup(k, known, @max(known, @min(want, block.end)), true);
                        block.eachGroup(k, @max(known, @min(want, block.end)), want, false);
                        known = want;
                    }
                    if (block.base == 0) block.stateGradients();
                    block.inputGradients(k, stop);
                    // The tokens after the piece move to the front.
                    const over = known -| stop;
                    const moved = block.du + (stop - block.base) * a.channels;
                    for (0..over * a.channels) |i| block.du[i] = moved[i];
                    block.base = stop;
                }
            }

            fn duRow(block: *const Block, t: usize) [*]A {
                return block.du + (t - block.base) * block.self.a.channels;
            }

            /// du of tokens first..end; with `own`, also their part of dw and db.
            fn eachGroup(
                block: *const Block,
                comptime k: usize,
                first: usize,
                end: usize,
                own: bool,
            ) void {
                var t = first;
                while (t < end) {
                    const four = t + taps.together <= end;
                    if (k > 0 and four and block.source.clear(t, taps.together)) {
                        block.fast(k, taps.together, t, own);
                        t += taps.together;
                        continue;
                    }
                    const plain = k > 0 and block.source.clear(t, 1);
                    if (k > 0 and plain) block.fast(k, 1, t, own) else block.slow(t, own);
                    t += 1;
                }
            }

            fn fast(
                block: *const Block,
                comptime k: comptime_int,
                comptime count: comptime_int,
                t: usize,
                own: bool,
            ) void {
                const a = block.self.a;
                const Inputs = [count + k - 1][*]const S;
                var rows: Inputs = undefined;
                for (&rows, 0..) |*p, i| p.* = block.source.row(t + i);
                const Context = struct { *const Block, *const Inputs, usize, bool };
                taps.eachChannels(A, a.channels, Context{ block, &rows, t, own }, struct {
                    inline fn body(x: Context, comptime n: comptime_int, c: usize) void {
                        x[0].group(k, count, n, x[1], x[2], x[3], c);
                    }
                }.body);
            }

            inline fn group(
                block: *const Block,
                comptime k: comptime_int,
                comptime count: comptime_int,
                comptime n: comptime_int,
                rows: *const [count + k - 1][*]const S,
                t: usize,
                own: bool,
                c: usize,
            ) void {
                const V = @Vector(n, A);
                const channels = block.self.a.channels;
                var du: [count]V = undefined;
                inline for (&du, 0..) |*d, i| {
                    d.* = simd.loadN(S, n, block.dy + (t + i) * channels + c);
                }
                if (block.self.a.silu != 0) {
                    const u = taps.convolve(S, k, count, n, rows, block.self.weights, c);
                    inline for (&du, u) |*d, x| d.* *= siluSlope(V, x);
                }
                inline for (du, 0..) |d, i| simd.storeN(A, n, block.duRow(t + i) + c, d);
                if (!own) return;
                inline for (0..k) |j| {
                    const p = block.sums + j * channels + c;
                    var total = simd.loadN(A, n, p);
                    inline for (0..count) |i| {
                        total = simd.fma(V, du[i], simd.loadN(S, n, rows[i + j] + c), total);
                    }
                    simd.storeN(A, n, p, total);
                }
                const p = block.sums + k * channels + c;
                var total = simd.loadN(A, n, p);
                inline for (du) |d| total += d;
                simd.storeN(A, n, p, total);
            }

            /// One token beside a border, or with a number of taps that has no fast path.
            fn slow(block: *const Block, t: usize, own: bool) void {
                const a = block.self.a;
                const channels = a.channels;
                const u = block.du + (block.self.piece + a.taps - 1) * channels;
                if (a.silu != 0) forward.slowSums(S, &block.source, block.self.weights, t, u);
                const Context = struct { *const Block, [*]const A, usize };
                taps.eachChannels(A, channels, Context{ block, u, t }, struct {
                    inline fn body(x: Context, comptime n: comptime_int, c: usize) void {
                        const b = x[0];
                        const V = @Vector(n, A);
                        var d = simd.loadN(S, n, b.dy + x[2] * b.self.a.channels + c);
                        if (b.self.a.silu != 0) d *= siluSlope(V, simd.loadN(A, n, x[1] + c));
                        simd.storeN(A, n, b.duRow(x[2]) + c, d);
                    }
                }.body);
                if (!own) return;
                const du = block.duRow(t);
                const start = block.source.start(t);
                for (0..a.taps) |j| {
                    if (t + j < start) continue;
                    const dw = block.sums + j * channels;
                    taps.addProduct(S, dw, du, block.source.row(t + j), channels);
                }
                const Sums = struct { db: [*]A, du: [*]const A };
                const sums: Sums = .{ .db = block.sums + a.taps * channels, .du = du };
                taps.eachChannels(A, channels, sums, struct {
                    inline fn body(x: Sums, comptime n: comptime_int, c: usize) void {
                        const before = simd.loadN(A, n, x.db + c);
                        simd.storeN(A, n, x.db + c, before + simd.loadN(A, n, x.du + c));
                    }
                }.body);
            }

            /// dx of the tokens from `base` to `stop`.
            fn inputGradients(block: *const Block, comptime k: comptime_int, stop: usize) void {
                const a = block.self.a;
                const kept = a.taps - 1;
                const dx_all: [*]S = @ptrCast(@alignCast(a.dx));
                const dx = dx_all + block.row * a.length * a.dx_stride;
                var t = block.base;
                while (t < stop) {
                    const group_end = t + taps.together;
                    const inside = group_end <= stop and group_end + kept <= block.length;
                    if (k > 0 and inside and block.source.clear(t + kept, taps.together)) {
                        block.fastInput(k, t, dx);
                        t = group_end;
                        continue;
                    }
                    if (t < block.length) {
                        block.slowInput(t + kept, dx + t * a.dx_stride);
                    } else @memset(dx[t * a.dx_stride ..][0..a.channels], 0);
                    t += 1;
                }
            }

            fn fastInput(block: *const Block, comptime k: comptime_int, t: usize, dx: [*]S) void {
                const a = block.self.a;
                const Inputs = [taps.together + k - 1][*]const A;
                var rows: Inputs = undefined;
                for (&rows, 0..) |*p, i| p.* = block.duRow(t + i);
                const Context = struct { *const Self, *const Inputs, [*]S };
                const to = dx + t * a.dx_stride;
                taps.eachChannels(A, a.channels, Context{ block.self, &rows, to }, struct {
                    inline fn body(x: Context, comptime n: comptime_int, c: usize) void {
                        const out = taps.convolve(A, k, taps.together, n, x[1], x[0].reversed, c);
                        inline for (out, 0..) |v, i| {
                            simd.storeN(S, n, x[2] + i * x[0].a.dx_stride + c, v);
                        }
                    }
                }.body);
            }

            /// The gradient of extended position e, tap by tap, with that of the last state.
            fn slowInput(block: *const Block, e: usize, to: [*]S) void {
                const self = block.self;
                const a = self.a;
                const kept = a.taps - 1;
                const sums = block.du + (self.piece + a.taps - 1) * a.channels;
                @memset(sums[0..a.channels], 0);
                for (0..a.taps) |d| {
                    if (e + d < kept) continue;
                    const t = e + d - kept;
                    if (t >= block.length or block.source.start(t) > e) continue;
                    const w = self.reversed.rows + d * a.channels;
                    taps.addProduct(A, sums, w, block.duRow(t), a.channels);
                }
                const seen = if (block.length == 0) 0 else block.source.start(block.length - 1);
                const held = e >= block.length and e >= seen;
                const dlast: ?[*]const S = if (held) @ptrCast(@alignCast(a.dlast)) else null;
                const later = (block.row * kept + e -| block.length) * a.channels;
                const Context = struct { sums: [*]const A, more: ?[*]const S, to: [*]S };
                const context: Context = .{
                    .sums = sums,
                    .more = if (dlast) |p| p + later else null,
                    .to = to,
                };
                taps.eachChannels(A, a.channels, context, struct {
                    inline fn body(x: Context, comptime n: comptime_int, c: usize) void {
                        var total = simd.loadN(A, n, x.sums + c);
                        if (x.more) |p| total += simd.loadN(S, n, p + c);
                        simd.storeN(S, n, x.to + c, total);
                    }
                }.body);
            }

            fn stateGradients(block: *const Block) void {
                const a = block.self.a;
                const dstate: [*]S = @ptrCast(@alignCast(a.dstate orelse return));
                const kept = a.taps - 1;
                for (0..kept) |e| block.slowInput(e, dstate + (block.row * kept + e) * a.channels);
            }
        };

        /// dw and db of some channels: the tasks' sums, in order.
        fn reduce(self: *const Self, index: usize) void {
            const a = self.a;
            const first = index * reduce_channels;
            const count = @min(reduce_channels, a.channels - first);
            const size = (a.taps + 1) * a.channels;
            const dweight: [*]A = @ptrCast(@alignCast(a.dweight));
            const dbias: ?[*]A = if (a.dbias) |p| @ptrCast(@alignCast(p)) else null;
            for (0..a.taps + 1) |j| {
                if (j == a.taps and dbias == null) continue;
                var total: [reduce_channels]A = @splat(0);
                for (0..a.batch * self.blocks) |task_index| {
                    const from = self.sums.ptr + task_index * size + j * a.channels + first;
                    for (total[0..count], from) |*sum, x| sum.* += x;
                }
                for (total[0..count], first..) |sum, c| {
                    if (j < a.taps) dweight[c * a.taps + j] = sum else dbias.?[c] = sum;
                }
            }
        }
    };
}

/// silu'(u) = σ(u)·(1 + u·σ(−u)).
inline fn siluSlope(comptime V: type, u: V) V {
    const pair = gates.sigmoids(V, u);
    const one: V = @splat(1);
    return pair.plus * simd.fma(V, u, pair.minus, one);
}
