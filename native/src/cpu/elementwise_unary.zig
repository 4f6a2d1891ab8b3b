//! y = f(x) of a strided view, dx = dy·f'(x), and the gated product y = f(gate) ⊙ up with its
//! gradients. All outputs `=`. Equal to `reference/elementwise.zig`.

const args = @import("../args/elementwise.zig");
const functions = @import("elementwise_functions.zig");
const simd = @import("simd.zig");
const walk = @import("elementwise_walk.zig");
const Parallel = @import("../parallel.zig").Parallel;
const OutOfMemory = error{OutOfMemory};

const Unary = args.Unary;

/// y = f(x). x any view, y contiguous.
pub fn unary(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.UnaryForward,
) OutOfMemory!void {
    switch (a.op) {
        inline else => |op| Forward(S, op).all(parallel, a),
    }
}

fn Forward(comptime S: type, comptime op: Unary) type {
    const A = simd.Arithmetic(S);
    const V = simd.Vec(A);
    return struct {
        const Task = struct { plan: walk.Plan(1), x: [*]const S, y: [*]S, p: A };

        fn all(parallel: *const Parallel, a: *const args.UnaryForward) void {
            const task: Task = .{
                .plan = .init(a.rank, &a.shape, .{&a.x_strides}),
                .x = @ptrCast(@alignCast(a.x)),
                .y = @ptrCast(@alignCast(a.y)),
                .p = @floatCast(a.parameter),
            };
            walk.blocks(parallel, task.plan.count(), &task, each);
        }

        fn each(task: *const Task, low: usize, high: usize) void {
            task.plan.visit(low, high, task, run);
        }

        fn run(task: *const Task, offsets: [1]usize, at: usize, n: usize) void {
            const stride = task.plan.innerStride(0);
            if (stride == 1) return map(task, task.x + offsets[0], task.y + at, n);
            var buffer: [walk.chunk]S = undefined;
            var done: usize = 0;
            while (done < n) : (done += walk.chunk) {
                const m = @min(walk.chunk, n - done);
                const from = task.x + offsets[0] + done * stride;
                map(
                    task,
                    walk.consecutive(S, from, stride, m, &buffer, done == 0),
                    task.y + at + done,
                    m,
                );
            }
        }

        fn map(task: *const Task, x: [*]const S, y: [*]S, n: usize) void {
            walk.mapRun(S, 1, .{x}, y, n, task.p, f);
        }

        inline fn f(p: A, x: [1]V) V {
            return functions.value(op, V, x[0], p);
        }
    };
}

/// dx = dy·f'(saved), contiguous.
pub fn unaryBackward(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.UnaryBackward,
) OutOfMemory!void {
    switch (a.op) {
        inline else => |op| Backward(S, op).all(parallel, a),
    }
}

fn Backward(comptime S: type, comptime op: Unary) type {
    const A = simd.Arithmetic(S);
    const V = simd.Vec(A);
    return struct {
        const Task = struct { dy: [*]const S, saved: [*]const S, dx: [*]S, p: A };

        fn all(parallel: *const Parallel, a: *const args.UnaryBackward) void {
            const task: Task = .{
                .dy = @ptrCast(@alignCast(a.dy)),
                // Where the derivative is constant any readable operand does.
                .saved = @ptrCast(@alignCast(if (op.saved() == .nothing) a.dy else a.saved.?)),
                .dx = @ptrCast(@alignCast(a.dx)),
                .p = @floatCast(a.parameter),
            };
            walk.blocks(parallel, a.count, &task, each);
        }

        fn each(task: *const Task, low: usize, high: usize) void {
            const x = .{ task.dy + low, task.saved + low };
            walk.mapRun(S, 2, x, task.dx + low, high - low, task.p, f);
        }

        inline fn f(p: A, x: [2]V) V {
            return x[0] * functions.derivative(op, V, x[1], p);
        }
    };
}

/// y = f(gate) ⊙ up, [rows, width].
pub fn gatedActivationForward(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.GatedActivationForward,
) OutOfMemory!void {
    switch (a.op) {
        inline else => |op| if (comptime gates(op)) Gated(S, op).forward(
            parallel,
            a,
        ) else unreachable,
    }
}

/// dgate = dy ⊙ up ⊙ f'(gate), dup = dy ⊙ f(gate).
pub fn gatedActivationBackward(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.GatedActivationBackward,
) OutOfMemory!void {
    switch (a.op) {
        inline else => |op| if (comptime gates(op)) Gated(S, op).backward(
            parallel,
            a,
        ) else unreachable,
    }
}

fn gates(op: Unary) bool {
    return switch (op) {
        .sigmoid, .silu, .gelu_erf, .gelu_tanh, .relu, .relu2, .selu, .tanh => true,
        else => false,
    };
}

fn Gated(comptime S: type, comptime op: Unary) type {
    const A = simd.Arithmetic(S);
    const V = simd.Vec(A);
    return struct {
        fn forward(parallel: *const Parallel, a: *const args.GatedActivationForward) void {
            walk.rowBlocks(parallel, a.rows, a.width, a, forwardRow);
        }

        fn forwardRow(
            a: *const args.GatedActivationForward,
            row: usize,
            low: usize,
            n: usize,
        ) void {
            const gate: [*]const S = @ptrCast(@alignCast(a.gate));
            const up: [*]const S = @ptrCast(@alignCast(a.up));
            const y: [*]S = @ptrCast(@alignCast(a.y));
            const x = .{ gate + row * a.gate_stride + low, up + row * a.up_stride + low };
            walk.mapRun(S, 2, x, y + row * a.width + low, n, {}, product);
        }

        inline fn product(_: void, x: [2]V) V {
            return functions.value(op, V, x[0], 0) * x[1];
        }

        fn backward(parallel: *const Parallel, a: *const args.GatedActivationBackward) void {
            walk.rowBlocks(parallel, a.rows, a.width, a, backwardRow);
        }

        fn backwardRow(
            a: *const args.GatedActivationBackward,
            row: usize,
            low: usize,
            n: usize,
        ) void {
            const lanes = simd.lanes(A);
            const dy = @as([*]const S, @ptrCast(@alignCast(a.dy))) + row * a.width + low;
            const gate = @as([*]const S, @ptrCast(@alignCast(a.gate))) + row * a.gate_stride + low;
            const up = @as([*]const S, @ptrCast(@alignCast(a.up))) + row * a.up_stride + low;
            const dgate = @as([*]S, @ptrCast(@alignCast(a.dgate))) + row * a.dgate_stride + low;
            const dup = @as([*]S, @ptrCast(@alignCast(a.dup))) + row * a.dup_stride + low;
            var i: usize = 0;
            while (i + lanes <= n) : (i += lanes) gradients(
                dy + i,
                gate + i,
                up + i,
                dgate + i,
                dup + i,
            );
            if (i == n) return;
            var padded: [3][lanes]S = @splat(@splat(0));
            var out: [2][lanes]S = undefined;
            const left = n - i;
            inline for (.{ dy, gate, up }, 0..) |source, k| @memcpy(
                padded[k][0..left],
                source[i..n],
            );
            gradients(&padded[0], &padded[1], &padded[2], &out[0], &out[1]);
            @memcpy(dgate[i..n], out[0][0..left]);
            @memcpy(dup[i..n], out[1][0..left]);
        }

        /// One register; everything is read before anything is written (dgate may be gate).
        inline fn gradients(
            dy: [*]const S,
            gate: [*]const S,
            up: [*]const S,
            dgate: [*]S,
            dup: [*]S,
        ) void {
            const d = simd.load(S, dy);
            const g = simd.load(S, gate);
            const du = d * functions.value(op, V, g, 0);
            const dg = d * simd.load(S, up) * functions.derivative(op, V, g, 0);
            simd.store(S, dgate, dg);
            simd.store(S, dup, du);
        }
    };
}
