//! Gradients of the causal convolution: du = dy (·silu'(u), u recomputed),
//! dx_e[t + j] += w_j·du_t, dw_j = Σ du_t·x_e[t + j], db = Σ du. Parameter gradients are summed in
//! fixed blocks of tokens, added in block order. Equals reference/conv.zig.

const std = @import("std");
const simd = @import("simd.zig");
const math = @import("math.zig");
const args = @import("../args/conv.zig");
const forward = @import("conv_forward.zig");
const Parallel = @import("../parallel.zig").Parallel;

const Failure = error{OutOfMemory};
const token_block = forward.token_block;

fn Job(comptime S: type) type {
    const A = simd.Arithmetic(S);
    return struct {
        a: *const args.ConvBackward,
        series: forward.Series(S),
        weight: [*]const A, // [K, C]
        du: [*]A, // [B, T, C]; 0 beyond the lengths
        partial: [*]A, // [B, blocks, K + 1, C]: dw by tap, then db
        blocks: usize,
    };
}

pub fn convBackward(comptime S: type, parallel: *const Parallel, a: *const args.ConvBackward) Failure!void {
    const A = simd.Arithmetic(S);
    const blocks = std.math.divCeil(usize, a.length, token_block) catch unreachable;
    const rows = a.batch * blocks;
    const job: Job(S) = .{
        .a = a,
        .series = .{
            .x = @ptrCast(@alignCast(a.x)),
            .state = @ptrCast(@alignCast(a.state)),
            .borders = @ptrCast(a.borders),
            .lengths = @ptrCast(@alignCast(a.lengths)),
            .length = a.length,
            .channels = a.channels,
            .taps = a.taps,
            .stride = a.x_stride,
        },
        .weight = (try forward.transposed(A, parallel, @ptrCast(@alignCast(a.weight)), a.channels, a.taps)).ptr,
        .du = (try parallel.alloc(A, a.batch * a.length * a.channels)).ptr,
        .partial = (try parallel.alloc(A, rows * (a.taps + 1) * a.channels)).ptr,
        .blocks = blocks,
    };
    parallel.each(rows, job, inner(S).local);
    parallel.each(rows, job, inner(S).inputs);
    if (a.dstate) |dstate| inner(S).states(job, @ptrCast(@alignCast(dstate)));
    inner(S).parameters(job, rows);
}

fn inner(comptime S: type) type {
    const A = simd.Arithmetic(S);
    const n = simd.lanes(A);
    return struct {
        /// du of a block of tokens, and its share of dw and db.
        fn local(j: Job(S), index: usize) void {
            const b = index / j.blocks;
            const start = index % j.blocks * token_block;
            const end = @min(start + token_block, j.a.length);
            const sums = j.partial + index * (j.a.taps + 1) * j.a.channels;
            @memset(sums[0 .. (j.a.taps + 1) * j.a.channels], 0);
            for (start..end) |t| {
                const du = j.du + (b * j.a.length + t) * j.a.channels;
                if (t >= j.series.valid(b)) {
                    @memset(du[0..j.a.channels], 0);
                    continue;
                }
                const from = j.series.first(b, t);
                var c: usize = 0;
                while (c + n <= j.a.channels) : (c += n) token(n, j, b, t, c, from, du, sums);
                while (c < j.a.channels) : (c += 1) token(1, j, b, t, c, from, du, sums);
            }
        }

        inline fn token(
            comptime w: comptime_int,
            j: Job(S),
            b: usize,
            t: usize,
            c: usize,
            from: isize,
            du: [*]A,
            sums: [*]A,
        ) void {
            const V = @Vector(w, A);
            const dy: [*]const S = @ptrCast(@alignCast(j.a.dy));
            const bias: ?[*]const A = @ptrCast(@alignCast(j.a.bias));
            var g: V = simd.loadN(S, w, dy + (b * j.a.length + t) * j.a.channels + c);
            if (j.a.silu != 0) {
                const u = j.series.value(w, b, t, c, from, j.weight, bias);
                const s = math.sigmoid(V, u);
                const one: V = @splat(1);
                g = g * s * (one + u * (one - s));
            }
            simd.storeN(A, w, du + c, g);
            const channels = j.a.channels;
            const reach: isize = @as(isize, @intCast(t)) - @as(isize, @intCast(j.a.taps - 1));
            for (0..j.a.taps) |tap| {
                const time = reach + @as(isize, @intCast(tap));
                if (time < from) continue;
                const x = j.series.row(b, time) orelse continue;
                const at = sums + tap * channels + c;
                simd.storeN(A, w, at, simd.fma(V, g, simd.loadN(S, w, x + c), simd.loadN(A, w, at)));
            }
            const at = sums + j.a.taps * channels + c;
            simd.storeN(A, w, at, simd.loadN(A, w, at) + g);
        }

        /// dx of a block of tokens.
        fn inputs(j: Job(S), index: usize) void {
            const b = index / j.blocks;
            const start = index % j.blocks * token_block;
            const dx: [*]S = @ptrCast(@alignCast(j.a.dx));
            for (start..@min(start + token_block, j.a.length)) |t| {
                const out = dx + (b * j.a.length + t) * j.a.dx_stride;
                if (t >= j.series.valid(b)) @memset(out[0..j.a.channels], 0) else gather(j, b, @intCast(t), out);
            }
        }

        /// Σ over the tokens that see time τ, and what the last state's gradient adds.
        fn gather(j: Job(S), b: usize, time: isize, out: [*]S) void {
            var c: usize = 0;
            while (c + n <= j.a.channels) : (c += n) simd.storeN(S, n, out + c, total(n, j, b, time, c));
            while (c < j.a.channels) : (c += 1) simd.storeN(S, 1, out + c, total(1, j, b, time, c));
        }

        inline fn total(comptime w: comptime_int, j: Job(S), b: usize, time: isize, c: usize) @Vector(w, A) {
            const V = @Vector(w, A);
            const kept: isize = @intCast(j.a.taps - 1);
            const valid: isize = @intCast(j.series.valid(b));
            var sum: V = @splat(0);
            for (0..j.a.taps) |step| {
                const t = time + @as(isize, @intCast(step));
                if (t < 0 or t >= valid) continue;
                if (time < j.series.first(b, @intCast(t))) continue;
                const tap = j.a.taps - 1 - step;
                const du = j.du + (b * j.a.length + @as(usize, @intCast(t))) * j.a.channels + c;
                sum = simd.fma(V, simd.loadN(A, w, j.weight + tap * j.a.channels + c), simd.loadN(A, w, du), sum);
            }
            const dlast: [*]const S = @ptrCast(@alignCast(j.a.dlast orelse return sum));
            const r = time - valid + kept;
            if (r < 0 or r >= kept or forward.cut(S, j.series, b, time)) return sum;
            const row = b * (j.a.taps - 1) + @as(usize, @intCast(r));
            return sum + @as(V, simd.loadN(S, w, dlast + row * j.a.channels + c));
        }

        fn states(j: Job(S), dstate: [*]S) void {
            const kept = j.a.taps - 1;
            for (0..j.a.batch) |b| for (0..kept) |r| {
                const time = @as(isize, @intCast(r)) - @as(isize, @intCast(kept));
                gather(j, b, time, dstate + (b * kept + r) * j.a.channels);
            };
        }

        fn parameters(j: Job(S), rows: usize) void {
            const channels = j.a.channels;
            const dweight: [*]A = @ptrCast(@alignCast(j.a.dweight));
            const dbias: ?[*]A = @ptrCast(@alignCast(j.a.dbias));
            const size = (j.a.taps + 1) * channels;
            const sums = j.partial;
            for (1..rows) |row| simd.axpy(A, A, 1, sums + row * size, sums, size);
            for (0..channels) |c| {
                for (0..j.a.taps) |tap| dweight[c * j.a.taps + tap] = sums[tap * channels + c];
                if (dbias) |out| out[c] = sums[j.a.taps * channels + c];
            }
        }
    };
}
