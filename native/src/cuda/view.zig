//! Strided views as kernels walk them: dims of size 1 dropped, neighbours merged where every
//! operand steps through them evenly, so that contiguous operands become one dim. Kernels number
//! the elements row-major and find each operand's place from the number.

const std = @import("std");
const elementwise = @import("../args/elementwise.zig");
const DType = @import("../dtype.zig").DType;
const Dims = elementwise.Dims;

const max_rank = elementwise.max_rank;
pub const most_operands = 3;

pub const Walk = extern struct {
    shape: Dims,
    strides: [most_operands * max_rank]u64, // operand k, dim d: 8k + d
    count: u64,
    rank: u64, // ≥ 1
    pack: u64, // elements moved at once along the last dim; 1 = one by one

    pub fn init(rank: u64, shape: *const Dims, strides: []const *const Dims) Walk {
        var walk: Walk = .{
            .shape = @splat(1),
            .strides = @splat(0),
            .count = 1,
            .rank = 0,
            .pack = 1,
        };
        for (0..rank) |dim| {
            walk.count *= shape[dim];
            if (shape[dim] == 1) continue;
            if (walk.rank > 0 and walk.mergeable(shape[dim], strides, dim)) {
                walk.shape[walk.rank - 1] *= shape[dim];
            } else {
                walk.shape[walk.rank] = shape[dim];
                walk.rank += 1;
            }
            for (strides, 0..) |of, k| walk.strides[max_rank * k + walk.rank - 1] = of[dim];
        }
        if (walk.rank == 0) {
            walk.rank = 1;
            for (0..strides.len) |k| walk.strides[max_rank * k] = 1;
        }
        return walk;
    }

    fn mergeable(walk: *const Walk, size: u64, strides: []const *const Dims, dim: usize) bool {
        for (strides, 0..) |of, k| {
            if (walk.strides[max_rank * k + walk.rank - 1] != of[dim] * size) return false;
        }
        return true;
    }

    pub fn stride(walk: *const Walk, operand: usize, dim: usize) u64 {
        return walk.strides[max_rank * operand + dim];
    }

    pub fn inner(walk: *const Walk) u64 {
        return walk.shape[walk.rank - 1];
    }

    pub fn innerStride(walk: *const Walk, operand: usize) u64 {
        return walk.stride(operand, walk.rank - 1);
    }

    /// Whether the operand is read front to back without gaps.
    pub fn isFlat(walk: *const Walk, operand: usize) bool {
        return walk.rank == 1 and walk.strides[max_rank * operand] == 1;
    }

    /// Lets a thread move `n` neighbours at once when every operand is contiguous or constant along
    /// the last dim and no pack of any operand, or of the contiguous output, is misaligned.
    pub fn widen(walk: *Walk, n: u64, operands: []const Operand, output: ?Operand) void {
        if (walk.rank > 1 and walk.inner() % n != 0) return;
        if (output) |y| if (!y.aligned(n)) return;
        for (operands, 0..) |operand, k| {
            if (walk.innerStride(k) == 0) continue;
            if (walk.innerStride(k) != 1) return;
            if (!operand.aligned(n)) return;
            for (0..walk.rank - 1) |dim| if (walk.stride(k, dim) % n != 0) return;
        }
        walk.pack = n;
    }

    /// Threads that the elements keep busy.
    pub fn units(walk: *const Walk) u64 {
        return @max(1, walk.count / walk.pack);
    }
};

pub const Operand = struct {
    address: *const anyopaque,
    bytes: u64, // of an element

    pub fn aligned(operand: Operand, n: u64) bool {
        return @intFromPtr(operand.address) % (n * operand.bytes) == 0;
    }
};

/// Elements of 16 bytes.
pub fn packWidth(dtype: DType) u64 {
    return 16 / dtype.size();
}
