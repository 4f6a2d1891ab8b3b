//! Sum of squares of many tensors and their non-finite elements, for the global gradient norm. `=`.
//! mesh.md §15: f64 over fixed blocks of 4096 elements per tensor, added in block order.

const std = @import("std");
const args = @import("../args/elementwise.zig");
const simd = @import("simd.zig");
const Parallel = @import("../parallel.zig").Parallel;

const block = 4096;
const blocks_per_task = 8;

const Row = [2]f64;

/// out[k] = { Σx², elements that are Inf or NaN } of tensor k; the last row holds the totals.
pub fn globalSumSquares(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.GlobalSumSquares,
) error{OutOfMemory}!void {
    const tensors: usize = @intCast(a.tensors);
    // first[k] is the number of blocks before tensor k.
    const first = try parallel.alloc(usize, tensors + 1);
    first[0] = 0;
    for (0..tensors) |k| first[k + 1] = first[k] + @divCeil(a.counts[k], block);
    const parts = try parallel.alloc(Row, first[tensors]);
    const task: Task(S) = .{ .a = a, .first = first, .parts = parts };
    parallel.each(@divCeil(parts.len, blocks_per_task), &task, Task(S).some);
    const out: [*]Row = @ptrCast(@alignCast(a.out));
    out[tensors] = .{ 0, 0 };
    for (0..tensors) |k| {
        out[k] = .{ 0, 0 };
        for (parts[first[k]..first[k + 1]]) |part| {
            out[k][0] += part[0];
            out[k][1] += part[1];
        }
        out[tensors][0] += out[k][0];
        out[tensors][1] += out[k][1];
    }
}

fn Task(comptime S: type) type {
    const A = simd.Arithmetic(S);
    return struct {
        const Self = @This();
        a: *const args.GlobalSumSquares,
        first: []const usize,
        parts: []Row,

        fn some(task: *const Self, index: usize) void {
            const low = index * blocks_per_task;
            // The tensor of the first block, by bisection; later blocks walk on.
            var tensor = std.sort.upperBound(usize, task.first, low, order) - 1;
            for (low..@min(task.parts.len, low + blocks_per_task)) |part| {
                while (part >= task.first[tensor + 1]) tensor += 1;
                const x: [*]const S = @ptrCast(@alignCast(task.a.data[tensor]));
                const at = (part - task.first[tensor]) * block;
                task.parts[part] = blockOf(x + at, @min(block, task.a.counts[tensor] - at));
            }
        }

        fn order(wanted: usize, item: usize) std.math.Order {
            return std.math.order(wanted, item);
        }

        fn blockOf(x: [*]const S, n: usize) Row {
            const L = simd.reduce_lanes;
            const D = @Vector(L, f64);
            var squares: D = @splat(0);
            var broken: @Vector(L, u32) = @splat(0);
            var i: usize = 0;
            while (i + L <= n) : (i += L) step(simd.loadN(S, L, x + i), &squares, &broken);
            if (i < n) {
                var padded: [L]S = @splat(0);
                @memcpy(padded[0 .. n - i], x[i..n]);
                step(simd.loadN(S, L, &padded), &squares, &broken);
            }
            return .{ simd.sum(L, f64, squares), @floatFromInt(@reduce(.Add, broken)) };
        }

        inline fn step(
            x: @Vector(16, A),
            squares: *@Vector(16, f64),
            broken: *@Vector(16, u32),
        ) void {
            const wide: @Vector(16, f64) = x;
            squares.* = simd.fma(@Vector(16, f64), wide, wide, squares.*);
            const zero: @Vector(16, A) = @splat(0);
            const one: @Vector(16, u32) = @splat(1);
            const none: @Vector(16, u32) = @splat(0);
            // x − x is 0 for finite x only.
            broken.* += @select(u32, x - x == zero, none, one);
        }
    };
}
