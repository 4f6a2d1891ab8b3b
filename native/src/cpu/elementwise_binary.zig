//! y = a ∘ b with broadcasting by strides, and y = mask ? a : b. All outputs `=`. Equal to
//! `reference/elementwise.zig`.

const args = @import("../args/elementwise.zig");
const functions = @import("elementwise_functions.zig");
const simd = @import("simd.zig");
const walk = @import("elementwise_walk.zig");
const Parallel = @import("../parallel.zig").Parallel;
const OutOfMemory = error{OutOfMemory};

/// y = a ∘ b. a and b any views of the shape, y contiguous.
pub fn binary(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.BinaryForward,
) OutOfMemory!void {
    switch (a.op) {
        inline else => |op| Combined(S, op).all(parallel, a),
    }
}

fn Combined(comptime S: type, comptime op: args.Binary) type {
    const V = simd.Vec(simd.Arithmetic(S));
    return struct {
        const Task = struct { plan: walk.Plan(2), a: [*]const S, b: [*]const S, y: [*]S };

        fn all(parallel: *const Parallel, arguments: *const args.BinaryForward) void {
            const strides = .{ &arguments.a_strides, &arguments.b_strides };
            const task: Task = .{
                .plan = .init(arguments.rank, &arguments.shape, strides),
                .a = @ptrCast(@alignCast(arguments.a)),
                .b = @ptrCast(@alignCast(arguments.b)),
                .y = @ptrCast(@alignCast(arguments.y)),
            };
            walk.blocks(parallel, task.plan.count(), &task, each);
        }

        fn each(task: *const Task, low: usize, high: usize) void {
            task.plan.visit(low, high, task, run);
        }

        fn run(task: *const Task, offsets: [2]usize, at: usize, n: usize) void {
            const a_stride = task.plan.innerStride(0);
            const b_stride = task.plan.innerStride(1);
            const a = task.a + offsets[0];
            const b = task.b + offsets[1];
            if (a_stride == 1 and b_stride == 1)
                return walk.mapRun(S, 2, .{ a, b }, task.y + at, n, {}, f);
            if (a_stride == 1 and b_stride == 0)
                return walk.mapRun(S, 1, .{a}, task.y + at, n, splat(b), right);
            if (a_stride == 0 and b_stride == 1)
                return walk.mapRun(S, 1, .{b}, task.y + at, n, splat(a), left);
            var buffers: [2][walk.chunk]S = undefined;
            var done: usize = 0;
            while (done < n) : (done += walk.chunk) {
                const m = @min(walk.chunk, n - done);
                const first = done == 0;
                const x = .{
                    walk.consecutive(S, a + done * a_stride, a_stride, m, &buffers[0], first),
                    walk.consecutive(S, b + done * b_stride, b_stride, m, &buffers[1], first),
                };
                walk.mapRun(S, 2, x, task.y + at + done, m, {}, f);
            }
        }

        fn splat(x: [*]const S) V {
            return @splat(simd.get(S, x, 0));
        }

        inline fn f(_: void, x: [2]V) V {
            return functions.combine(op, V, x[0], x[1]);
        }

        inline fn right(b: V, x: [1]V) V {
            return functions.combine(op, V, x[0], b);
        }

        inline fn left(a: V, x: [1]V) V {
            return functions.combine(op, V, a, x[0]);
        }
    };
}

/// y = mask ≠ 0 ? a : b. Bits are copied, so NaN payloads stay.
pub fn where(comptime S: type, parallel: *const Parallel, a: *const args.Where) OutOfMemory!void {
    Selected(S).all(parallel, a);
}

fn Selected(comptime S: type) type {
    const lanes = simd.lanes(simd.Arithmetic(S));
    return struct {
        const Task = struct {
            plan: walk.Plan(3),
            mask: [*]const u8,
            a: [*]const S,
            b: [*]const S,
            y: [*]S,
        };

        fn all(parallel: *const Parallel, arguments: *const args.Where) void {
            const strides = .{
                &arguments.mask_strides,
                &arguments.a_strides,
                &arguments.b_strides,
            };
            const task: Task = .{
                .plan = .init(arguments.rank, &arguments.shape, strides),
                .mask = @ptrCast(arguments.mask),
                .a = @ptrCast(@alignCast(arguments.a)),
                .b = @ptrCast(@alignCast(arguments.b)),
                .y = @ptrCast(@alignCast(arguments.y)),
            };
            walk.blocks(parallel, task.plan.count(), &task, each);
        }

        fn each(task: *const Task, low: usize, high: usize) void {
            task.plan.visit(low, high, task, run);
        }

        fn run(task: *const Task, offsets: [3]usize, at: usize, n: usize) void {
            var masks: [walk.chunk]u8 = undefined;
            var buffers: [2][walk.chunk]S = undefined;
            const strides = [3]usize{
                task.plan.innerStride(0), task.plan.innerStride(1), task.plan.innerStride(2),
            };
            var done: usize = 0;
            while (done < n) : (done += walk.chunk) {
                const m = @min(walk.chunk, n - done);
                const first = done == 0;
                const mask = task.mask + offsets[0] + done * strides[0];
                const a = task.a + offsets[1] + done * strides[1];
                const b = task.b + offsets[2] + done * strides[2];
                choose(
                    walk.consecutive(u8, mask, strides[0], m, &masks, first),
                    walk.consecutive(S, a, strides[1], m, &buffers[0], first),
                    walk.consecutive(S, b, strides[2], m, &buffers[1], first),
                    task.y + at + done,
                    m,
                );
            }
        }

        fn choose(mask: [*]const u8, a: [*]const S, b: [*]const S, y: [*]S, n: usize) void {
            var i: usize = 0;
            while (i + lanes <= n) : (i += lanes) {
                const bits: @Vector(lanes, u8) = mask[i..][0..lanes].*;
                const av: @Vector(lanes, S) = a[i..][0..lanes].*;
                const bv: @Vector(lanes, S) = b[i..][0..lanes].*;
                const zero: @Vector(lanes, u8) = @splat(0);
                y[i..][0..lanes].* = @select(S, bits != zero, av, bv);
            }
            while (i < n) : (i += 1) y[i] = if (mask[i] != 0) a[i] else b[i];
        }
    };
}
