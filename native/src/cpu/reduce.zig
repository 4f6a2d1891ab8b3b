//! y[kept] = reduction of x over the reduced dims: sum, mean, max, min, Σx², logsumexp. `=`.
//! Equal to `reference/elementwise.zig`.
//!
//! The reduced index space, row-major, is cut into blocks of at most 4096. In a block 16 lanes add
//! runs of 32 terms in A and the runs in f64; a fixed tree joins the lanes and blocks are added in
//! order. So a long f32 sum has the error of a sum of 32 terms, and no result depends on the number
//! of threads.
//!
//! Two layouts: along rows (one output at a time, its block contiguous or gathered: last dim, all,
//! any other) and down columns (a row of outputs at a time, where the last kept dim is contiguous:
//! the gradient of a bias or of broadcasting).

const std = @import("std");
const args = @import("../args/elementwise.zig");
const math = @import("math.zig");
const simd = @import("simd.zig");
const walk = @import("elementwise_walk.zig");
const columns = @import("reduce_columns.zig");
const partials = @import("reduce_partial.zig");
const Parallel = @import("../parallel.zig").Parallel;
const OutOfMemory = error{OutOfMemory};

const Reduction = args.Reduction;
const Partial = partials.Partial;

/// Reduced elements per block.
pub const block = 4096;

/// A reduction with its dims merged.
pub const Plan = struct {
    kept: walk.Plan(1),
    reduced: walk.Plan(1),
    outputs: usize,
    terms: usize,

    fn init(a: *const args.Reduce) Plan {
        const kept = walk.Plan(1).init(a.kept_rank, &a.kept_shape, .{&a.kept_strides});
        const reduced = walk.Plan(1).init(a.reduced_rank, &a.reduced_shape, .{&a.reduced_strides});
        return .{
            .kept = kept,
            .reduced = reduced,
            .outputs = kept.count(),
            .terms = reduced.count(),
        };
    }

    /// Position of a flat index of one of the two index spaces.
    pub fn offset(of: *const walk.Plan(1), flat: usize) usize {
        var rest = flat;
        var at: usize = 0;
        var dim = of.rank;
        while (dim > 0) {
            dim -= 1;
            at += rest % of.shape[dim] * of.strides[0][dim];
            rest /= of.shape[dim];
        }
        return at;
    }
};

pub fn reduce(comptime S: type, parallel: *const Parallel, a: *const args.Reduce) OutOfMemory!void {
    const plan: Plan = .init(a);
    if (plan.outputs == 0) return;
    switch (a.op) {
        inline else => |op| {
            const down = plan.kept.innerStride(0) == 1 and plan.kept.inner() >= 8 and
                plan.reduced.innerStride(0) != 1 and plan.terms > 1;
            if (down) try columns.reduce(
                S,
                op,
                parallel,
                a,
                &plan,
            ) else try Rows(S, op).all(parallel, a, &plan);
        },
    }
}

fn Rows(comptime S: type, comptime op: Reduction) type {
    const A = simd.Arithmetic(S);
    return struct {
        const Task = struct {
            plan: *const Plan,
            a: *const args.Reduce,
            x: [*]const S,
            blocks: usize, // per output
            group: usize, // outputs per task, when one block each
            scratch: [*]Partial,
        };

        fn all(
            parallel: *const Parallel,
            a: *const args.Reduce,
            plan: *const Plan,
        ) OutOfMemory!void {
            const count = @max(1, @divCeil(plan.terms, block));
            var task: Task = .{
                .plan = plan,
                .a = a,
                .x = @ptrCast(@alignCast(a.x)),
                .blocks = count,
                .group = @max(1, walk.block / @max(1, plan.terms)),
                .scratch = undefined,
            };
            if (count == 1) return parallel.each(@divCeil(plan.outputs, task.group), &task, single);
            task.scratch = (try parallel.alloc(Partial, plan.outputs * count)).ptr;
            parallel.each(plan.outputs * @divCeil(count, blocks_per_task), &task, pieces);
            parallel.each(@divCeil(plan.outputs, 64), &task, combine);
        }

        const blocks_per_task = 4;

        /// Outputs whose terms fit in one block.
        fn single(task: *const Task, index: usize) void {
            const high = @min(task.plan.outputs, (index + 1) * task.group);
            for (index * task.group..high) |output| {
                const x = task.x + Plan.offset(&task.plan.kept, output);
                partials.finish(S, op, task.a, output, task.plan.terms, blockOf(task, x, 0));
            }
        }

        fn pieces(task: *const Task, index: usize) void {
            const per_output = @divCeil(task.blocks, blocks_per_task);
            const output = index / per_output;
            const first = index % per_output * blocks_per_task;
            const x = task.x + Plan.offset(&task.plan.kept, output);
            for (first..@min(task.blocks, first + blocks_per_task)) |piece| {
                task.scratch[output * task.blocks + piece] = blockOf(task, x, piece);
            }
        }

        fn combine(task: *const Task, index: usize) void {
            for (index * 64..@min(task.plan.outputs, (index + 1) * 64)) |output| {
                var total: Partial = partials.empty(op);
                for (task.scratch[output * task.blocks ..][0..task.blocks]) |part| {
                    total = partials.add(op, total, part);
                }
                partials.finish(S, op, task.a, output, task.plan.terms, total);
            }
        }

        fn blockOf(task: *const Task, x: [*]const S, piece: usize) Partial {
            const low = piece * block;
            const n = @min(block, task.plan.terms - low);
            if (task.plan.reduced.isFlat(0)) return run(x + low, n);
            var buffer: [block]S = undefined;
            const gather: Gather = .{
                .x = x,
                .stride = task.plan.reduced.innerStride(0),
                .low = low,
                .to = &buffer,
            };
            task.plan.reduced.visit(low, low + n, &gather, Gather.copy);
            return run(&buffer, n);
        }

        const Gather = struct {
            x: [*]const S,
            stride: usize,
            low: usize,
            to: *[block]S,

            fn copy(gather: *const Gather, offsets: [1]usize, at: usize, n: usize) void {
                const to = gather.to[at - gather.low ..][0..n];
                const from = gather.x + offsets[0];
                if (gather.stride == 1) return @memcpy(to, from[0..n]);
                for (to, 0..) |*element, i| element.* = from[i * gather.stride];
            }
        };

        /// One contiguous block in 16 lanes; the tail fills the first lanes.
        fn run(x: [*]const S, n: usize) Partial {
            const L = simd.reduce_lanes;
            const W = simd.Wide(A);
            const f = partials.Lanes(op, W, A);
            const most = if (op == .logsumexp) run_max(x, n) else 0;
            if (op == .logsumexp and !std.math.isFinite(most)) return .{ .value = 0, .most = most };
            const shift: W = @splat(most);
            var acc: W = f.start();
            var total: @Vector(L, f64) = @splat(0);
            const whole_registers = n - n % L;
            var i: usize = 0;
            while (i < whole_registers) {
                const stop = @min(whole_registers, i + partials.run * L);
                while (i < stop) : (i += L) acc = f.step(acc, simd.loadN(S, L, x + i), shift);
                if (partials.additive(op)) {
                    total += acc;
                    acc = f.start();
                }
            }
            if (i < n) {
                var padded: [L]S = undefined;
                @memcpy(padded[0 .. n - i], x[i..n]);
                @memset(padded[n - i ..], x[i]);
                const next = f.step(acc, simd.loadN(S, L, &padded), shift);
                acc = @select(A, firstLanes(n - i), next, acc);
            }
            if (!partials.additive(op)) return .{ .value = f.tree(acc), .most = most };
            total += acc;
            return .{ .value = simd.sum(L, f64, total), .most = most };
        }

        fn run_max(x: [*]const S, n: usize) A {
            return @floatCast(Rows(S, .max).run(x, n).value);
        }

        fn firstLanes(n: usize) @Vector(simd.reduce_lanes, bool) {
            const index = std.simd.iota(u32, simd.reduce_lanes);
            return index < @as(@Vector(simd.reduce_lanes, u32), @splat(@intCast(n)));
        }
    };
}
