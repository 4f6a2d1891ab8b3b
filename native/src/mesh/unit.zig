//! The flat vector of a unit of parameters (mesh.md §7.1): its parameters one after the other, cut
//! into equal runs, one per rank of fsdp.

const std = @import("std");

/// Every parameter starts at a multiple of this many elements. It is the length of the blocks in
/// which squares are summed for the norm (mesh.md §15): no block lies on two ranks.
pub const alignment = 4096;

pub const Unit = struct {
    /// Elements of one rank.
    chunk: u64,
    /// Elements of all ranks, padding included.
    total: u64,

    pub const Range = struct { from: u64, to: u64 };

    /// Elements [from, to) of a parameter of `size` elements at `start` that rank `part` owns.
    pub fn owned(unit: Unit, start: u64, size: u64, part: u32) Range {
        const begin = part * unit.chunk;
        return .{
            .from = @min(begin -| start, size),
            .to = @min((begin + unit.chunk) -| start, size),
        };
    }
};

/// Lays out parameters of `sizes` for `shards` ranks; writes where each begins.
pub fn layOut(sizes: []const u64, shards: u32, starts: []u64) Unit {
    var end: u64 = 0;
    for (sizes, starts) |size, *start| {
        start.* = end;
        end = std.mem.alignForward(u64, end + size, alignment);
    }
    const whole = alignment * @as(u64, shards);
    const total = (end + whole - 1) / whole * whole;
    return .{ .chunk = total / shards, .total = total };
}
