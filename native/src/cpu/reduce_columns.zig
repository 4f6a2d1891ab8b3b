//! Reductions down columns: a strip of up to 512 neighbouring outputs runs through 512 terms at a
//! time, each strip row being contiguous. Runs of 32 terms are added in A, runs and blocks in f64,
//! in order.

const std = @import("std");
const args = @import("../args/elementwise.zig");
const partials = @import("reduce_partial.zig");
const simd = @import("simd.zig");
const Parallel = @import("../parallel.zig").Parallel;
const Plan = @import("reduce.zig").Plan;

const Partial = partials.Partial;

const strip = 512;
const block = 512;

pub fn reduce(
    comptime S: type,
    comptime op: args.Reduction,
    parallel: *const Parallel,
    a: *const args.Reduce,
    plan: *const Plan,
) error{OutOfMemory}!void {
    const Task = Columns(S, op);
    const width = plan.kept.inner();
    var task: Task = .{
        .plan = plan,
        .a = a,
        .x = @ptrCast(@alignCast(a.x)),
        .width = width,
        .strips = @divCeil(width, strip),
        .blocks = @divCeil(plan.terms, block),
        .scratch = undefined,
    };
    const lines = plan.outputs / width * task.strips;
    // A task is one strip of one block, or several strips where blocks are short.
    task.group = @max(1, 32 / plan.terms);
    if (task.blocks > 1) {
        task.pitch = @min(strip, width);
        task.scratch = (try parallel.alloc(Partial, lines * task.pitch * task.blocks)).ptr;
    }
    parallel.each(@divCeil(lines, task.group) * task.blocks, &task, Task.part);
    if (task.blocks > 1) parallel.each(lines, &task, Task.combine);
}

fn Columns(comptime S: type, comptime op: args.Reduction) type {
    const A = simd.Arithmetic(S);
    const lanes = simd.lanes(A);
    const V = simd.Vec(A);
    const f = partials.Lanes(op, V, A);
    return struct {
        const Task = @This();
        plan: *const Plan,
        a: *const args.Reduce,
        x: [*]const S,
        width: usize,
        strips: usize, // per row of outputs
        blocks: usize,
        scratch: [*]Partial, // [lines, blocks, pitch]
        pitch: usize = 0,
        group: usize = 1, // strips per task

        fn part(task: *const Task, index: usize) void {
            const first = index / task.blocks * task.group;
            const piece = index % task.blocks;
            const lines = task.plan.outputs / task.width * task.strips;
            for (first..@min(lines, first + task.group)) |line| task.stripOf(line, piece);
        }

        fn stripOf(task: *const Task, line: usize, piece: usize) void {
            const column = line % task.strips * strip;
            const n = @min(strip, task.width - column);
            const output = line / task.strips * task.width + column;
            var sums: Accumulators = .{
                .x = task.x + Plan.offset(&task.plan.kept, output),
                .n = n,
                .stride = task.plan.reduced.innerStride(0),
            };
            const low = piece * block;
            const high = @min(task.plan.terms, low + block);
            if (op == .logsumexp) {
                for (&sums.most) |*most| most.* = @splat(-std.math.inf(A));
                task.plan.reduced.visit(low, high, &sums, Accumulators.maxima);
            }
            for (&sums.acc) |*acc| acc.* = f.start();
            var at = low;
            while (at < high) : (at += partials.run) {
                task.plan.reduced.visit(
                    at,
                    @min(high, at + partials.run),
                    &sums,
                    Accumulators.rows,
                );
                if (partials.additive(op)) sums.flush();
            }
            for (0..n) |i| {
                const result = sums.result(i);
                if (task.blocks == 1) {
                    partials.finish(S, op, task.a, output + i, task.plan.terms, result);
                } else task.scratch[(line * task.blocks + piece) * task.pitch + i] = result;
            }
        }

        const Accumulators = struct {
            x: [*]const S,
            n: usize,
            stride: usize,
            acc: [strip / lanes]V = undefined,
            total: [strip / lanes]@Vector(lanes, f64) = @splat(@splat(0)),
            most: [strip / lanes]V = undefined,

            fn result(sums: *const Accumulators, i: usize) Partial {
                const value: [lanes]f64 = if (partials.additive(op))
                    sums.total[i / lanes]
                else
                    sums.acc[i / lanes];
                if (op != .logsumexp) return .{ .value = value[i % lanes] };
                const most = @as([lanes]A, sums.most[i / lanes])[i % lanes];
                return .{
                    .value = if (std.math.isFinite(most)) value[i % lanes] else 0,
                    .most = most,
                };
            }

            /// The run of terms in A goes over to f64.
            fn flush(sums: *Accumulators) void {
                const used = @divCeil(sums.n, lanes);
                for (sums.acc[0..used], sums.total[0..used]) |*acc, *total| {
                    total.* += acc.*;
                    acc.* = f.start();
                }
            }

            fn rows(sums: *Accumulators, offsets: [1]usize, at: usize, count: usize) void {
                _ = at;
                const x = sums.x + offsets[0];
                var row: usize = 0;
                while (row + 4 <= count) : (row += 4) sums.sweep(4, x + row * sums.stride, false);
                while (row < count) : (row += 1) sums.sweep(1, x + row * sums.stride, false);
            }

            fn maxima(sums: *Accumulators, offsets: [1]usize, at: usize, count: usize) void {
                _ = at;
                for (0..count) |row| sums.sweep(1, sums.x + offsets[0] + row * sums.stride, true);
            }

            /// `terms` terms of every column, in order: the sums are loaded and stored once.
            fn sweep(
                sums: *Accumulators,
                comptime terms: usize,
                x: [*]const S,
                comptime only_max: bool,
            ) void {
                var i: usize = 0;
                while (i + lanes <= sums.n) : (i += lanes) {
                    inline for (0..terms) |k| {
                        const term = simd.load(S, x + k * sums.stride + i);
                        sums.step(i / lanes, term, only_max);
                    }
                }
                if (i == sums.n) return;
                inline for (0..terms) |k| {
                    var padded: [lanes]S = @splat(0);
                    @memcpy(padded[0 .. sums.n - i], x[k * sums.stride ..][i..sums.n]);
                    sums.step(i / lanes, simd.load(S, &padded), only_max);
                }
            }

            inline fn step(sums: *Accumulators, k: usize, x: V, comptime only_max: bool) void {
                if (only_max) {
                    sums.most[k] = partials.larger(V, sums.most[k], x);
                } else {
                    sums.acc[k] = f.step(
                        sums.acc[k],
                        x,
                        if (op == .logsumexp) sums.most[k] else f.start(),
                    );
                }
            }
        };

        fn combine(task: *const Task, line: usize) void {
            const column = line % task.strips * strip;
            const n = @min(strip, task.width - column);
            const output = line / task.strips * task.width + column;
            for (0..n) |i| {
                var total: Partial = partials.empty(op);
                for (0..task.blocks) |piece| {
                    const at = (line * task.blocks + piece) * task.pitch + i;
                    total = partials.add(op, total, task.scratch[at]);
                }
                partials.finish(S, op, task.a, output + i, task.plan.terms, total);
            }
        }
    };
}
