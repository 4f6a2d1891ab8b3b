//! LayerNorm and RMSNorm over the last dim, head by head, with an optional fused residual sum.
//! models.md §2.2-2.3. x, y [rows, groups, width]; scale, bias [groups, width].
//!
//!     x̂ = (x − mean)·rstd, y = x̂·g + b
//!     a = dy·g, dx = rstd·(a − mean(a) − x̂·mean(a∘x̂)) + dsum, dg = Σ dy∘x̂, db = Σ dy
//!
//! Two-pass variance; all outputs `=`. Equal to `reference/norm.zig`.

const std = @import("std");
const args = @import("../args/norm.zig");
const gate = @import("norm_gate.zig");
const row = @import("norm_row.zig");
const simd = @import("simd.zig");
const softmax = @import("norm_softmax.zig");
const Parallel = @import("../parallel.zig").Parallel;
const OutOfMemory = error{OutOfMemory};

pub const headNormGateForward = gate.headNormGateForward;
pub const headNormGateBackward = gate.headNormGateBackward;
pub const softmaxForward = softmax.softmaxForward;
pub const softmaxBackward = softmax.softmaxBackward;
pub const logSoftmaxForward = softmax.logSoftmaxForward;
pub const logSoftmaxBackward = softmax.logSoftmaxBackward;

pub fn normForward(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.NormForward,
) OutOfMemory!void {
    const per_task = row.rowsPerTask(a.width);
    const Task = Forward(S);
    const task: Task = .{ .a = a, .per_task = per_task };
    parallel.each(@divCeil(a.rows * a.groups, per_task), &task, Task.some);
}

fn Forward(comptime S: type) type {
    const A = simd.Arithmetic(S);
    const W = simd.Wide(A);
    return struct {
        const Task = @This();
        a: *const args.NormForward,
        per_task: usize,

        fn some(task: *const Task, index: usize) void {
            const high = @min(task.a.rows * task.a.groups, (index + 1) * task.per_task);
            for (index * task.per_task..high) |line| one(task.a, line);
        }

        /// One row of one group.
        fn one(a: *const args.NormForward, line: usize) void {
            const n = a.width;
            const group = line % a.groups;
            var x = row.many(S, a.x) + line * n;
            if (a.residual) |residual| {
                const sum = row.manyMut(S, a.sum.?) + line * n;
                const other = row.many(S, residual) + line * n;
                var i: usize = 0;
                while (i < n) : (i += row.lanes) {
                    row.store(S, sum, i, n, row.load(S, x, i, n) + row.load(S, other, i, n));
                }
                x = sum;
            }
            const stats = row.statistics(S, x, n, a.eps, a.center != 0);
            if (row.maybeMut(A, a.mean, line)) |mean| mean[0] = stats.mean;
            if (row.maybeMut(A, a.rstd, line)) |rstd| rstd[0] = stats.rstd;
            const scale = row.maybe(A, a.scale, group * n);
            const bias = row.maybe(A, a.bias, group * n);
            const y = row.manyMut(S, a.y) + line * n;
            const mean: W = @splat(stats.mean);
            const rstd: W = @splat(stats.rstd);
            var i: usize = 0;
            while (i < n) : (i += row.lanes) {
                const normalised = (row.load(S, x, i, n) - mean) * rstd;
                const g = row.gain(A, scale, i, n, a.scale_offset);
                const out = if (bias) |b|
                    simd.fma(W, normalised, g, row.load(A, b, i, n))
                else
                    normalised * g;
                row.store(S, y, i, n, out);
            }
        }
    };
}

pub fn normBackward(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.NormBackward,
) OutOfMemory!void {
    const A = simd.Arithmetic(S);
    const columns = a.groups * a.width;
    const per_block = row.rowsPerBlock(a.rows, columns);
    const blocks = @divCeil(a.rows, per_block);
    const Task = Backward(S);
    const task: Task = .{
        .a = a,
        .per_block = per_block,
        .dscale = try row.Collected(A).init(parallel, a.dscale, blocks, columns),
        .dbias = try row.Collected(A).init(parallel, a.dbias, blocks, columns),
    };
    parallel.each(blocks, &task, Task.some);
    if (task.dscale) |*dscale| dscale.finish(parallel);
    if (task.dbias) |*dbias| dbias.finish(parallel);
}

fn Backward(comptime S: type) type {
    const A = simd.Arithmetic(S);
    const W = simd.Wide(A);
    return struct {
        const Task = @This();
        a: *const args.NormBackward,
        per_block: usize,
        dscale: ?row.Collected(A),
        dbias: ?row.Collected(A),

        fn some(task: *const Task, block: usize) void {
            const a = task.a;
            const dscale: ?[*]f64 = if (task.dscale) |*all| all.begin(block) else null;
            const dbias: ?[*]f64 = if (task.dbias) |*all| all.begin(block) else null;
            const high = @min(a.rows, (block + 1) * task.per_block);
            for (block * task.per_block..high) |r| for (0..a.groups) |group| {
                one(a, r * a.groups + group, group, dscale, dbias);
            };
        }

        /// One row of one group: first the two means and the parameters' sums, then dx.
        fn one(
            a: *const args.NormBackward,
            line: usize,
            group: usize,
            dscale: ?[*]f64,
            dbias: ?[*]f64,
        ) void {
            const n = a.width;
            const center = a.center != 0;
            const dy = row.many(S, a.dy) + line * n;
            const x = row.many(S, a.x) + line * n;
            const scale = row.maybe(A, a.scale, group * n);
            const mean: W = @splat(if (center) row.many(A, a.mean.?)[line] else 0);
            const rstd: W = @splat(row.many(A, a.rstd)[line]);
            var total: W = @splat(0);
            var product: W = @splat(0);
            var i: usize = 0;
            while (i < n) : (i += row.lanes) {
                const d = row.load(S, dy, i, n);
                const normalised = (row.load(S, x, i, n) - mean) * rstd;
                const slope = d * row.gain(A, scale, i, n, a.scale_offset);
                total += slope;
                product = simd.fma(W, slope, normalised, product);
                if (dscale) |sums| row.collect(A, sums + group * n, i, n, d * normalised);
                if (dbias) |sums| row.collect(A, sums + group * n, i, n, d);
            }
            const width: A = @floatFromInt(n);
            const mean_total: W = @splat(if (center) simd.sum(row.lanes, A, total) / width else 0);
            const mean_product: W = @splat(simd.sum(row.lanes, A, product) / width);
            const dsum = row.maybe(S, a.dsum, line * n);
            const dx = row.manyMut(S, a.dx) + line * n;
            i = 0;
            while (i < n) : (i += row.lanes) {
                const normalised = (row.load(S, x, i, n) - mean) * rstd;
                const slope = row.load(S, dy, i, n) * row.gain(A, scale, i, n, a.scale_offset);
                const inner = slope - mean_total - normalised * mean_product;
                const out = if (dsum) |more|
                    simd.fma(W, rstd, inner, row.load(S, more, i, n))
                else
                    rstd * inner;
                row.store(S, dx, i, n, out);
            }
        }
    };
}
