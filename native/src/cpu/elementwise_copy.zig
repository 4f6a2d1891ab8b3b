//! Copies and casts between any two views of one shape, fill and arange. All outputs `=`. Equal to
//! `reference/elementwise.zig`.
//!
//! The dims are sorted by the destination's strides first, so that it is written front to back
//! whatever its layout. Then three cases: runs along the last dim (both strides 1), a transpose in
//! 16 × 16 register tiles (the source is contiguous along another dim), single elements.

const std = @import("std");
const args = @import("../args/elementwise.zig");
const conversion = @import("elementwise_convert.zig");
const simd = @import("simd.zig");
const walk = @import("elementwise_walk.zig");
const Parallel = @import("../parallel.zig").Parallel;
const OutOfMemory = error{OutOfMemory};

const Plan = walk.Plan(2);

/// to ← from, converted. `S` is ignored: both dtypes are in the arguments.
pub fn copy(comptime S: type, parallel: *const Parallel, a: *const args.Copy) OutOfMemory!void {
    _ = S;
    conversion.dispatch(a.from_dtype, FromAny, .{ parallel, a });
}

fn FromAny(comptime From: type) type {
    return struct {
        fn To(comptime T: type) type {
            return Copier(From, T);
        }
        pub fn all(parallel: *const Parallel, a: *const args.Copy) void {
            conversion.dispatch(a.to_dtype, To, .{ parallel, a });
        }
    };
}

/// The destination's largest stride first; where it repeats nothing the order is its memory order.
fn sorted(a: *const args.Copy) Plan {
    var order: [args.max_rank]usize = .{ 0, 1, 2, 3, 4, 5, 6, 7 };
    std.sort.insertion(usize, order[0..a.rank], a, struct {
        fn before(arguments: *const args.Copy, x: usize, y: usize) bool {
            return arguments.to_strides[x] > arguments.to_strides[y];
        }
    }.before);
    var shape: args.Dims = @splat(1);
    var strides: [2]args.Dims = @splat(@splat(0));
    for (order[0..a.rank], 0..) |dim, i| {
        shape[i] = a.shape[dim];
        strides[0][i] = a.from_strides[dim];
        strides[1][i] = a.to_strides[dim];
    }
    return .init(a.rank, &shape, .{ &strides[0], &strides[1] });
}

/// Side of a transposed tile, and of the square of tiles that one task does.
const tile = 16;
const square = 64;

fn Copier(comptime From: type, comptime To: type) type {
    return struct {
        const Task = struct { plan: Plan, from: [*]const From, to: [*]To, dim: usize = 0 };

        pub fn all(parallel: *const Parallel, a: *const args.Copy) void {
            var task: Task = .{
                .plan = sorted(a),
                .from = @ptrCast(@alignCast(a.from)),
                .to = @ptrCast(@alignCast(a.to)),
            };
            if (task.plan.count() == 0) return;
            if (transposedDim(&task.plan)) |dim| {
                task.dim = dim;
                parallel.each(squares(&task), &task, transposeSquare);
            } else walk.blocks(parallel, task.plan.count(), &task, each);
        }

        fn each(task: *const Task, low: usize, high: usize) void {
            task.plan.visit(low, high, task, run);
        }

        fn run(task: *const Task, offsets: [2]usize, at: usize, n: usize) void {
            _ = at;
            const from = task.from + offsets[0];
            const to = task.to + offsets[1];
            const from_stride = task.plan.innerStride(0);
            const to_stride = task.plan.innerStride(1);
            if (from_stride == 1 and to_stride == 1) return conversion.convertRun(
                From,
                To,
                from,
                to,
                n,
            );
            if (from_stride == 0 and to_stride == 1)
                return @memset(to[0..n], conversion.single(From, To, from[0]));
            for (0..n) |i| to[i * to_stride] = conversion.single(From, To, from[i * from_stride]);
        }

        /// The dim along which the source is contiguous while the destination's last dim is not it.
        fn transposedDim(plan: *const Plan) ?usize {
            const last = plan.rank - 1;
            if (plan.strides[1][last] != 1 or plan.strides[0][last] <= 1) return null;
            for (0..last) |dim| {
                if (plan.strides[0][dim] == 1 and plan.shape[dim] >= 4) return dim;
            }
            return null;
        }

        fn squares(task: *const Task) usize {
            const plan = &task.plan;
            const along = @divCeil(plan.shape[task.dim], square) * @divCeil(plan.inner(), square);
            return plan.count() / plan.shape[task.dim] / plan.inner() * along;
        }

        /// Square `index`: rows of the destination along `dim`, columns along the last dim.
        fn transposeSquare(task: *const Task, index: usize) void {
            const plan = &task.plan;
            const last = plan.rank - 1;
            const across = @divCeil(plan.inner(), square);
            const down = @divCeil(plan.shape[task.dim], square);
            const column = index % across * square;
            const row = index / across % down * square;
            var rest = index / across / down;
            var from = row + column * plan.strides[0][last];
            var to = row * plan.strides[1][task.dim] + column;
            var dim = last;
            while (dim > 0) {
                dim -= 1;
                if (dim == task.dim) continue;
                const coordinate = rest % plan.shape[dim];
                rest /= plan.shape[dim];
                from += coordinate * plan.strides[0][dim];
                to += coordinate * plan.strides[1][dim];
            }
            transpose(
                task.from + from,
                plan.strides[0][last],
                task.to + to,
                plan.strides[1][task.dim],
                @min(square, plan.shape[task.dim] - row),
                @min(square, plan.inner() - column),
            );
        }

        /// to[i·ld_to + j] ← from[j·ld_from + i].
        fn transpose(
            from: [*]const From,
            ld_from: usize,
            to: [*]To,
            ld_to: usize,
            rows: usize,
            columns: usize,
        ) void {
            var j: usize = 0;
            while (j + tile <= columns) : (j += tile) {
                var i: usize = 0;
                while (i + tile <= rows) : (i += tile) {
                    transposeTile(from + j * ld_from + i, ld_from, to + i * ld_to + j, ld_to);
                }
                edge(from, ld_from, to, ld_to, i, rows, j, j + tile);
            }
            edge(from, ld_from, to, ld_to, 0, rows, j, columns);
        }

        fn edge(
            from: [*]const From,
            ld_from: usize,
            to: [*]To,
            ld_to: usize,
            top: usize,
            bottom: usize,
            left: usize,
            right: usize,
        ) void {
            for (top..bottom) |i| for (left..right) |j| {
                to[i * ld_to + j] = conversion.single(From, To, from[j * ld_from + i]);
            };
        }

        /// Whole cache lines on both sides: 16 × 16 as four 8 × 8 register transposes.
        fn transposeTile(from: [*]const From, ld_from: usize, to: [*]To, ld_to: usize) void {
            inline for (0..tile / 8) |block_i| inline for (0..tile / 8) |block_j| {
                var rows: [8]@Vector(8, From) = undefined;
                inline for (&rows, 0..) |*row, j| {
                    row.* = from[(block_j * 8 + j) * ld_from + block_i * 8 ..][0..8].*;
                }
                // Three perfect shuffles of 64 elements exchange the two halves of the index.
                inline for (0..3) |_| {
                    var shuffled: [8]@Vector(8, From) = undefined;
                    inline for (0..4) |i| {
                        shuffled[2 * i] = @shuffle(From, rows[i], rows[i + 4], low_half);
                        shuffled[2 * i + 1] = @shuffle(From, rows[i], rows[i + 4], high_half);
                    }
                    rows = shuffled;
                }
                inline for (rows, 0..) |row, i| {
                    to[(block_i * 8 + i) * ld_to + block_j * 8 ..][0..8].* =
                        conversion.convert(From, To, 8, row);
                }
            };
        }
    };
}

const low_half: @Vector(8, i32) = .{
    0,
    ~@as(i32, 0),
    1,
    ~@as(i32, 1),
    2,
    ~@as(i32, 2),
    3,
    ~@as(i32, 3),
};
const high_half: @Vector(8, i32) = .{
    4,
    ~@as(i32, 4),
    5,
    ~@as(i32, 5),
    6,
    ~@as(i32, 6),
    7,
    ~@as(i32, 7),
};

/// y = value.
pub fn fill(comptime S: type, parallel: *const Parallel, a: *const args.Fill) OutOfMemory!void {
    _ = S;
    conversion.dispatch(a.dtype, Filler, .{ parallel, a });
}

fn Filler(comptime T: type) type {
    return struct {
        pub fn all(parallel: *const Parallel, a: *const args.Fill) void {
            walk.blocks(parallel, a.count, a, each);
        }
        fn each(a: *const args.Fill, low: usize, high: usize) void {
            const y: [*]T = @ptrCast(@alignCast(a.y));
            @memset(y[low..high], conversion.single(f64, T, a.value));
        }
    };
}

/// y[i] = start + i·step.
pub fn arange(comptime S: type, parallel: *const Parallel, a: *const args.Arange) OutOfMemory!void {
    _ = S;
    conversion.dispatch(a.dtype, Counter, .{ parallel, a });
}

fn Counter(comptime T: type) type {
    return struct {
        pub fn all(parallel: *const Parallel, a: *const args.Arange) void {
            walk.blocks(parallel, a.count, a, each);
        }
        fn each(a: *const args.Arange, low: usize, high: usize) void {
            const y: [*]T = @ptrCast(@alignCast(a.y));
            for (low..high) |i| {
                const value = a.start + @as(f64, @floatFromInt(i)) * a.step;
                y[i] = conversion.single(f64, T, value);
            }
        }
    };
}
