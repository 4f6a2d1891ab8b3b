//! A tensor: a strided view on a reference-counted block of memory. Views (reshape, permute, slice,
//! expand) share the block; strides count elements and are never negative.

const std = @import("std");
const DType = @import("../dtype.zig").DType;
const Arena = @import("arena.zig").Arena;

pub const max_rank = 8;

pub const Device = enum(i32) { cpu = 0, cuda = 1 };

pub const Block = struct {
    bytes: []align(64) u8,
    references: u32,
    device: Device,
};

pub const Tensor = struct {
    block: *Block,
    dtype: DType,
    rank: usize,
    offset: usize = 0, // in elements
    shape: [max_rank]usize,
    strides: [max_rank]usize,

    pub fn dims(tensor: *const Tensor) []const usize {
        return tensor.shape[0..tensor.rank];
    }

    pub fn steps(tensor: *const Tensor) []const usize {
        return tensor.strides[0..tensor.rank];
    }

    pub fn count(tensor: *const Tensor) usize {
        return countOf(tensor.dims());
    }

    pub fn device(tensor: *const Tensor) Device {
        return tensor.block.device;
    }

    /// Address of the first element.
    pub fn data(tensor: *const Tensor) *anyopaque {
        return @ptrCast(tensor.block.bytes.ptr + tensor.offset * tensor.dtype.size());
    }

    /// Row-major without gaps. Dims of size 1 and empty tensors do not care about strides.
    pub fn isContiguous(tensor: *const Tensor) bool {
        if (tensor.count() == 0) return true;
        var expected: usize = 1;
        var i = tensor.rank;
        while (i > 0) {
            i -= 1;
            if (tensor.shape[i] == 1) continue;
            if (tensor.strides[i] != expected) return false;
            expected *= tensor.shape[i];
        }
        return true;
    }

    /// The size of dim `i` counted from the end (0 = last).
    pub fn back(tensor: *const Tensor, i: usize) usize {
        return tensor.shape[tensor.rank - 1 - i];
    }
};

pub fn countOf(shape: []const usize) usize {
    var n: usize = 1;
    for (shape) |size| n *= size;
    return n;
}

/// The most elements a shape may have: bytes, strides and size classes stay far from overflow.
pub const max_count = 1 << 43;

/// Whether strides and bytes of the shape can be computed; a dim of size 0 counts as 1, since
/// strides do not see it.
pub fn isCountable(shape: []const usize) bool {
    var n: usize = 1;
    for (shape) |size| {
        n = std.math.mul(usize, n, @max(size, 1)) catch return false;
        if (n > max_count) return false;
    }
    return true;
}

/// Strides of a row-major tensor of this shape.
pub fn rowMajor(shape: []const usize) [max_rank]usize {
    var strides: [max_rank]usize = @splat(0);
    var step: usize = 1;
    var i = shape.len;
    while (i > 0) {
        i -= 1;
        strides[i] = step;
        step *= shape[i];
    }
    return strides;
}

/// Prints a shape as `[2, 3]`.
pub const Shown = struct {
    shape: []const usize,

    pub fn format(shown: Shown, writer: *std.Io.Writer) std.Io.Writer.Error!void {
        try writer.writeByte('[');
        for (shown.shape, 0..) |size, i| {
            if (i > 0) try writer.writeAll(", ");
            try writer.print("{d}", .{size});
        }
        try writer.writeByte(']');
    }
};

pub fn show(shape: []const usize) Shown {
    return .{ .shape = shape };
}

test "shapes whose strides or bytes would overflow are not countable" {
    const most = std.math.maxInt(i32);
    try std.testing.expect(isCountable(&.{}));
    try std.testing.expect(isCountable(&.{ 0, 1 << 30, 1 << 12 }));
    try std.testing.expect(isCountable(&.{ 1 << 22, 1 << 21 }));
    try std.testing.expect(!isCountable(&.{ 1 << 22, 1 << 22 }));
    try std.testing.expect(!isCountable(&.{ 0, most, most }));
    try std.testing.expect(!isCountable(&.{ most, most, most, most, most, most, most, most }));
}
