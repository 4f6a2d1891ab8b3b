//! Walks over strided views: dims are merged where every operand allows it, the flat row-major
//! index space is cut into fixed blocks, and each block is visited in runs along the last dim.

const std = @import("std");
const simd = @import("simd.zig");
const args = @import("../args/elementwise.zig");
const Parallel = @import("../parallel.zig").Parallel;

/// Elements per task: large enough to hide the hand-over, small enough for two cores to balance.
pub const block = 16 * 1024;

/// Elements that are gathered at a time when an operand's last stride is not 1.
pub const chunk = 512;

/// A walk over `operands` views of one shape. At least one dim; the last one is `inner()`.
pub fn Plan(comptime operands: usize) type {
    return struct {
        const Self = @This();
        rank: usize,
        shape: [args.max_rank]usize,
        strides: [operands][args.max_rank]usize,

        /// Drops dims of size 1 and merges neighbours that every operand steps through evenly.
        pub fn init(
            rank: usize,
            shape: *const args.Dims,
            strides: [operands]*const args.Dims,
        ) Self {
            var plan: Self = .{ .rank = 0, .shape = @splat(1), .strides = @splat(@splat(0)) };
            for (0..rank) |dim| {
                if (shape[dim] == 1) continue;
                if (plan.rank > 0 and plan.mergeable(shape[dim], strides, dim)) {
                    plan.shape[plan.rank - 1] *= shape[dim];
                } else {
                    plan.shape[plan.rank] = shape[dim];
                    plan.rank += 1;
                }
                inline for (0..operands) |k| plan.strides[k][plan.rank - 1] = strides[k][dim];
            }
            if (plan.rank == 0) {
                plan.rank = 1;
                inline for (0..operands) |k| plan.strides[k][0] = 1;
            }
            return plan;
        }

        fn mergeable(
            plan: *const Self,
            size: usize,
            strides: [operands]*const args.Dims,
            dim: usize,
        ) bool {
            inline for (0..operands) |k| {
                if (plan.strides[k][plan.rank - 1] != strides[k][dim] * size) return false;
            }
            return true;
        }

        pub fn count(plan: *const Self) usize {
            var n: usize = 1;
            for (plan.shape[0..plan.rank]) |size| n *= size;
            return n;
        }

        pub fn inner(plan: *const Self) usize {
            return plan.shape[plan.rank - 1];
        }

        pub fn innerStride(plan: *const Self, operand: usize) usize {
            return plan.strides[operand][plan.rank - 1];
        }

        /// True when operand k is read front to back without gaps.
        pub fn isFlat(plan: *const Self, operand: usize) bool {
            return plan.rank == 1 and plan.strides[operand][0] == 1;
        }

        /// Calls `run(context, offsets, at, n)` for consecutive runs of the indexes [low, high).
        /// `at` is the flat index, `offsets` are the operands' positions of its first element.
        pub fn visit(
            plan: *const Self,
            low: usize,
            high: usize,
            context: anytype,
            comptime run: fn (@TypeOf(context), [operands]usize, usize, usize) void,
        ) void {
            if (low == high) return; // Dims of size 0 have no coordinates.
            const last = plan.rank - 1;
            var coordinates: [args.max_rank]usize = @splat(0);
            var offsets: [operands]usize = @splat(0);
            var rest = low;
            var dim = plan.rank;
            while (dim > 0) {
                dim -= 1;
                coordinates[dim] = rest % plan.shape[dim];
                rest /= plan.shape[dim];
                inline for (0..operands) |k| offsets[k] += coordinates[dim] * plan.strides[k][dim];
            }
            var at = low;
            while (at < high) {
                const n = @min(plan.shape[last] - coordinates[last], high - at);
                run(context, offsets, at, n);
                at += n;
                coordinates[last] += n;
                inline for (0..operands) |k| offsets[k] += n * plan.strides[k][last];
                plan.carry(&coordinates, &offsets);
            }
        }

        /// Turns the odometer after the last dim has been advanced.
        fn carry(
            plan: *const Self,
            coordinates: *[args.max_rank]usize,
            offsets: *[operands]usize,
        ) void {
            var dim = plan.rank - 1;
            while (coordinates[dim] == plan.shape[dim] and dim > 0) : (dim -= 1) {
                coordinates[dim] = 0;
                coordinates[dim - 1] += 1;
                inline for (0..operands) |k| {
                    offsets[k] -= plan.shape[dim] * plan.strides[k][dim];
                    offsets[k] += plan.strides[k][dim - 1];
                }
            }
        }
    };
}

/// Calls `body(context, low, high)` for the fixed blocks of [0, count).
pub fn blocks(
    parallel: *const Parallel,
    count: usize,
    context: anytype,
    comptime body: fn (@TypeOf(context), usize, usize) void,
) void {
    const Task = struct { context: @TypeOf(context), count: usize };
    const task: Task = .{ .context = context, .count = count };
    parallel.each(std.math.divCeil(usize, count, block) catch unreachable, &task, struct {
        fn each(t: *const Task, index: usize) void {
            body(t.context, index * block, @min(t.count, (index + 1) * block));
        }
    }.each);
}

/// A pointer to n consecutive elements: the operand itself when its stride is 1, else `buffer`,
/// filled (stride 0) or gathered. A repeated element is written only when `first`.
pub inline fn consecutive(
    comptime T: type,
    source: [*]const T,
    stride: usize,
    n: usize,
    buffer: *[chunk]T,
    first: bool,
) [*]const T {
    if (stride == 1) return source;
    if (stride == 0) {
        if (first) @memset(buffer[0..n], source[0]);
    } else {
        for (buffer[0..n], 0..) |*element, i| element.* = source[i * stride];
    }
    return buffer;
}

/// y[i] ← f(context, x₀[i], x₁[i], …) for n consecutive elements of storage S. The tail goes
/// through a padded register, so that every element sees the same instructions wherever it lies.
pub inline fn mapRun(
    comptime S: type,
    comptime inputs: usize,
    x: [inputs][*]const S,
    y: [*]S,
    n: usize,
    context: anytype,
    comptime f: fn (
        @TypeOf(context),
        [inputs]simd.Vec(simd.Arithmetic(S)),
    ) callconv(.@"inline") simd.Vec(simd.Arithmetic(S)),
) void {
    const lanes = simd.lanes(simd.Arithmetic(S));
    const V = simd.Vec(simd.Arithmetic(S));
    var i: usize = 0;
    while (i + lanes <= n) : (i += lanes) {
        var values: [inputs]V = undefined;
        inline for (0..inputs) |k| values[k] = simd.load(S, x[k] + i);
        simd.store(S, y + i, f(context, values));
    }
    if (i == n) return;
    var values: [inputs]V = undefined;
    inline for (0..inputs) |k| {
        var padded: [lanes]S = @splat(0);
        @memcpy(padded[0 .. n - i], x[k][i..n]);
        values[k] = simd.load(S, &padded);
    }
    var out: [lanes]S = undefined;
    simd.store(S, &out, f(context, values));
    @memcpy(y[i..n], out[0 .. n - i]);
}

/// Calls `body(context, row, low, n)` for pieces of the rows of a [rows, width] matrix: whole rows,
/// grouped into tasks of about one block, or pieces of one block when rows are longer.
pub fn rowBlocks(
    parallel: *const Parallel,
    rows: usize,
    width: usize,
    context: anytype,
    comptime body: fn (@TypeOf(context), usize, usize, usize) void,
) void {
    if (rows == 0 or width == 0) return;
    const Task = struct {
        context: @TypeOf(context),
        rows: usize,
        width: usize,
        group: usize,
        pieces: usize,
    };
    const task: Task = .{
        .context = context,
        .rows = rows,
        .width = width,
        .group = @max(1, block / width),
        .pieces = std.math.divCeil(usize, width, block) catch unreachable,
    };
    const groups = std.math.divCeil(usize, rows, task.group) catch unreachable;
    parallel.each(groups * task.pieces, &task, struct {
        fn each(t: *const Task, index: usize) void {
            const first = index / t.pieces * t.group;
            const low = index % t.pieces * block;
            const n = @min(block, t.width - low);
            for (first..@min(t.rows, first + t.group)) |row| body(t.context, row, low, n);
        }
    }.each);
}
