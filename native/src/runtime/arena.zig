//! Caching allocator of tensor memory. Blocks are rounded up to a size class (four per octave, so
//! at
//! most a quarter is wasted), handed back to a free list of their class and reused; `trim` returns
//! what is cached to the system. Large blocks come straight from the kernel, with huge pages.
//! Used from one thread only.

const std = @import("std");
const linux = std.os.linux;

pub const alignment = 64;
const min_class = 256;
pub const class_count = 4 * 40;

const Free = struct { next: ?*Free };

pub const Stats = struct {
    live_bytes: usize = 0, // handed out, rounded to classes
    peak_bytes: usize = 0,
    cached_bytes: usize = 0,
    limit_bytes: usize = std.math.maxInt(usize),
};

pub const Arena = struct {
    free: [class_count]?*Free = @splat(null),
    stats: Stats = .{},

    pub fn alloc(arena: *Arena, bytes: usize) error{OutOfMemory}![]align(alignment) u8 {
        const class = classOf(bytes);
        const size = sizeOf(class);
        if (arena.stats.live_bytes + size > arena.stats.limit_bytes) return error.OutOfMemory;
        const pointer: [*]align(alignment) u8 = if (arena.free[class]) |block| reuse: {
            arena.free[class] = block.next;
            arena.stats.cached_bytes -= size;
            break :reuse @alignCast(@as([*]u8, @ptrCast(block)));
        } else map(size) catch retry: {
            arena.trim();
            break :retry try map(size);
        };
        arena.stats.live_bytes += size;
        arena.stats.peak_bytes = @max(arena.stats.peak_bytes, arena.stats.live_bytes);
        return pointer[0..size];
    }

    /// Takes exactly the slice that `alloc` returned.
    pub fn release(arena: *Arena, block: []align(alignment) u8) void {
        const class = classOf(block.len);
        std.debug.assert(sizeOf(class) == block.len);
        const node: *Free = @ptrCast(block.ptr);
        node.next = arena.free[class];
        arena.free[class] = node;
        arena.stats.live_bytes -= block.len;
        arena.stats.cached_bytes += block.len;
    }

    /// Gives every cached block back to the system.
    pub fn trim(arena: *Arena) void {
        for (&arena.free, 0..) |*list, class| {
            while (list.*) |block| {
                list.* = block.next;
                unmap(@as([*]u8, @ptrCast(block)), sizeOf(class));
                arena.stats.cached_bytes -= sizeOf(class);
            }
        }
    }

    pub fn resetPeak(arena: *Arena) void {
        arena.stats.peak_bytes = arena.stats.live_bytes;
    }
};

pub fn classOf(bytes: usize) usize {
    const size = @max(bytes, min_class);
    const octave = std.math.log2_int_ceil(usize, size) - 1; // 2^octave < size ≤ 2^(octave+1)
    const base = @as(usize, 1) << @intCast(octave);
    const quarter = std.math.divCeil(usize, size - base, base / 4) catch unreachable; // 1..4
    return (octave - 7) * 4 + quarter - 1;
}

pub fn sizeOf(class: usize) usize {
    const base = @as(usize, 1) << @intCast(class / 4 + 7);
    return base + (class % 4 + 1) * (base / 4);
}

const huge = 2 << 20;

fn map(bytes: usize) error{OutOfMemory}![*]align(alignment) u8 {
    if (bytes < huge) {
        const block = std.heap.c_allocator.alignedAlloc(
            u8,
            .@"64",
            bytes,
        ) catch return error.OutOfMemory;
        return block.ptr;
    }
    const block = std.posix.mmap(
        null,
        bytes,
        .{ .READ = true, .WRITE = true },
        .{ .TYPE = .PRIVATE, .ANONYMOUS = true },
        -1,
        0,
    ) catch return error.OutOfMemory;
    // Only advice: without huge pages the block works as well, with more TLB misses.
    _ = linux.madvise(block.ptr, bytes, linux.MADV.HUGEPAGE);
    return @alignCast(block.ptr);
}

fn unmap(pointer: [*]u8, bytes: usize) void {
    if (bytes < huge) {
        const block: []align(alignment) u8 = @alignCast(pointer[0..bytes]);
        return std.heap.c_allocator.free(block);
    }
    std.posix.munmap(@alignCast(pointer[0..bytes]));
}

test "size classes cover every size with at most a quarter wasted" {
    var bytes: usize = 1;
    while (bytes < 1 << 24) : (bytes += 1 + bytes / 97) {
        const size = sizeOf(classOf(bytes));
        try std.testing.expect(size >= bytes);
        try std.testing.expect(size <= @max(min_class, bytes + bytes / 4 + 1));
        try std.testing.expectEqual(size, sizeOf(classOf(size)));
    }
}

test "blocks are reused and counted" {
    var arena: Arena = .{};
    const a = try arena.alloc(5 << 20);
    arena.release(a);
    const b = try arena.alloc(5 << 20);
    try std.testing.expectEqual(a.ptr, b.ptr);
    arena.release(b);
    try std.testing.expectEqual(@as(usize, 0), arena.stats.live_bytes);
    arena.trim();
    try std.testing.expectEqual(@as(usize, 0), arena.stats.cached_bytes);
}
