//! Head norm with output gate, kernels.md §9. h [rows, groups, width], o [rows, groups·width].
//!
//!     y = σ(o) ∘ (g∘x̂ + b)
//!     a = dy∘σ(o)∘g, dh = rstd·(a − mean(a) − x̂·mean(a∘x̂)), do = dy∘(g∘x̂ + b)∘σ(o)∘σ(−o)
//!     dg = Σ dy∘σ(o)∘x̂, db = Σ dy∘σ(o), ⟨dh, h⟩ = (Σ a∘x̂)·eps·rstd²
//!
//! All outputs `=`. Equal to `reference/norm.zig`.

const args = @import("../args/norm.zig");
const math = @import("math.zig");
const row = @import("norm_row.zig");
const simd = @import("simd.zig");
const Parallel = @import("../parallel.zig").Parallel;
const OutOfMemory = error{OutOfMemory};

pub fn headNormGateForward(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.HeadNormGateForward,
) OutOfMemory!void {
    const Task = Forward(S);
    const task: Task = .{ .a = a, .per_task = row.rowsPerTask(a.width) };
    parallel.each(@divCeil(a.rows * a.groups, task.per_task), &task, Task.some);
}

fn Forward(comptime S: type) type {
    const A = simd.Arithmetic(S);
    const W = simd.Wide(A);
    return struct {
        const Task = @This();
        a: *const args.HeadNormGateForward,
        per_task: usize,

        fn some(task: *const Task, index: usize) void {
            const high = @min(task.a.rows * task.a.groups, (index + 1) * task.per_task);
            for (index * task.per_task..high) |line| one(task.a, line);
        }

        fn one(a: *const args.HeadNormGateForward, line: usize) void {
            const n = a.width;
            const group = line % a.groups;
            const h = row.many(S, a.h) + line * n;
            const stats = row.statistics(S, h, n, a.eps, a.center != 0);
            if (row.maybeMut(A, a.mean, line)) |mean| mean[0] = stats.mean;
            if (row.maybeMut(A, a.rstd, line)) |rstd| rstd[0] = stats.rstd;
            const scale = row.maybe(A, a.scale, group * n);
            const bias = row.maybe(A, a.bias, group * n);
            const o = row.many(S, a.o) + line / a.groups * a.o_stride + group * n;
            const y = row.manyMut(S, a.y) + line * n;
            const mean: W = @splat(stats.mean);
            const rstd: W = @splat(stats.rstd);
            var i: usize = 0;
            while (i < n) : (i += row.lanes) {
                const normalised = (row.load(S, h, i, n) - mean) * rstd;
                var inner = normalised * row.gain(A, scale, i, n, a.scale_offset);
                if (bias) |b| inner += row.load(A, b, i, n);
                row.store(S, y, i, n, gates(W, row.load(S, o, i, n)).open * inner);
            }
        }
    };
}

fn Gates(comptime W: type) type {
    return struct { open: W, shut: W };
}

/// σ(o) and σ(−o) from one exponential and one division.
inline fn gates(comptime W: type, o: W) Gates(W) {
    const one = math.constant(W, 1);
    const e = math.exp(W, -@abs(o));
    const large = one / (one + e);
    const small = e * large;
    const negative = o < math.constant(W, 0);
    return .{
        .open = math.pick(W, negative, small, large),
        .shut = math.pick(W, negative, large, small),
    };
}

pub fn headNormGateBackward(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.HeadNormGateBackward,
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
        .slopes = (try parallel.alloc(A, blocks * a.width)).ptr,
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
        a: *const args.HeadNormGateBackward,
        per_block: usize,
        dscale: ?row.Collected(A),
        dbias: ?row.Collected(A),
        slopes: [*]A, // [blocks, width]: a of the current row, since `do` may overwrite o

        fn some(task: *const Task, block: usize) void {
            const a = task.a;
            const dscale: ?[*]f64 = if (task.dscale) |*all| all.begin(block) else null;
            const dbias: ?[*]f64 = if (task.dbias) |*all| all.begin(block) else null;
            const slopes = task.slopes + block * a.width;
            const high = @min(a.rows, (block + 1) * task.per_block);
            for (block * task.per_block..high) |r| for (0..a.groups) |group| {
                const at = group * a.width;
                const sums: Sums = .{
                    .dscale = if (dscale) |all| all + at else null,
                    .dbias = if (dbias) |all| all + at else null,
                };
                one(a, r, group, sums, slopes);
            };
        }

        const Sums = struct { dscale: ?[*]f64, dbias: ?[*]f64 };

        fn one(
            a: *const args.HeadNormGateBackward,
            r: usize,
            group: usize,
            sums: Sums,
            slopes: [*]A,
        ) void {
            const n = a.width;
            const line = r * a.groups + group;
            const center = a.center != 0;
            const h = row.many(S, a.h) + line * n;
            const mean: W = @splat(if (center) row.many(A, a.mean.?)[line] else 0);
            const scalar_rstd = row.many(A, a.rstd)[line];
            const rstd: W = @splat(scalar_rstd);
            const totals = gateGradient(a, r, group, sums, slopes, mean, rstd);
            const width: A = @floatFromInt(n);
            if (row.maybeMut(A, a.inner, line)) |inner| {
                inner[0] = totals.product * @as(A, @floatCast(a.eps)) * scalar_rstd * scalar_rstd;
            }
            const mean_total: W = @splat(if (center) totals.total / width else 0);
            const mean_product: W = @splat(totals.product / width);
            const dh = row.manyMut(S, a.dh) + line * n;
            var i: usize = 0;
            while (i < n) : (i += row.lanes) {
                const normalised = (row.load(S, h, i, n) - mean) * rstd;
                const slope = row.load(A, slopes, i, n);
                row.store(S, dh, i, n, rstd * (slope - mean_total - normalised * mean_product));
            }
        }

        const Totals = struct { total: A, product: A };

        /// do, the slopes a with Σ a and Σ a∘x̂, and the parameters' sums.
        fn gateGradient(
            a: *const args.HeadNormGateBackward,
            r: usize,
            group: usize,
            sums: Sums,
            slopes: [*]A,
            mean: W,
            rstd: W,
        ) Totals {
            const n = a.width;
            const line = r * a.groups + group;
            const dy = row.many(S, a.dy) + line * n;
            const h = row.many(S, a.h) + line * n;
            const o = row.many(S, a.o) + r * a.o_stride + group * n;
            const do = row.manyMut(S, a.do) + r * a.do_stride + group * n;
            const scale = row.maybe(A, a.scale, group * n);
            const bias = row.maybe(A, a.bias, group * n);
            var total: W = @splat(0);
            var product: W = @splat(0);
            var i: usize = 0;
            while (i < n) : (i += row.lanes) {
                const normalised = (row.load(S, h, i, n) - mean) * rstd;
                const g = row.gain(A, scale, i, n, a.scale_offset);
                const gate = gates(W, row.load(S, o, i, n));
                const d = row.load(S, dy, i, n);
                const through = d * gate.open;
                const slope = through * g;
                var inner = normalised * g;
                if (bias) |b| inner += row.load(A, b, i, n);
                row.store(S, do, i, n, through * gate.shut * inner);
                row.store(A, slopes, i, n, slope);
                total += slope;
                product = simd.fma(W, slope, normalised, product);
                if (sums.dscale) |all| row.collect(A, all, i, n, through * normalised);
                if (sums.dbias) |all| row.collect(A, all, i, n, through);
            }
            return .{
                .total = simd.sum(row.lanes, A, total),
                .product = simd.sum(row.lanes, A, product),
            };
        }
    };
}
