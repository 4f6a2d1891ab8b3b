//! Handles: 20-bit slot index and 11-bit generation in one positive i32; 0 is none. Every call
//! checks them, so a stale handle is an error, never a crash. A slot whose generation is used up
//! retires.
//!
//! Handles that the engine's garbage collector drops arrive on a lock-free list (the deallocator
//! may run on its thread) and are released by the next call that creates a tensor.

const std = @import("std");
const Tensor = @import("../runtime/tensor.zig").Tensor;
const status = @import("status.zig");

const index_bits = 20;
const generation_max = (1 << 11) - 1;
pub const limit = 1 << index_bits;

const Slot = struct { tensor: Tensor, generation: u32, live: bool };

/// What a JavaScript ArrayBuffer's deallocator gets: the handle to release.
pub const Cell = struct { handle: i32, next: ?*Cell };

pub const Table = struct {
    slots: std.ArrayList(Slot) = .empty,
    free: std.ArrayList(u32) = .empty,
    live: usize = 0,
    dropped: std.atomic.Value(?*Cell) = .init(null),

    pub fn insert(table: *Table, gpa: std.mem.Allocator, tensor: Tensor) status.Error!i32 {
        const index: u32 = table.free.pop() orelse fresh: {
            if (table.slots.items.len >= limit) return status.fail(
                .out_of_memory,
                "{d} tensors are alive, the most there can be; dispose of some or use scope()",
                .{table.live},
            );
            try table.free.ensureTotalCapacity(gpa, table.slots.items.len + 1);
            try table.slots.append(gpa, .{ .tensor = undefined, .generation = 0, .live = false });
            break :fresh @intCast(table.slots.items.len - 1);
        };
        const slot = &table.slots.items[index];
        slot.generation += 1;
        slot.tensor = tensor;
        slot.live = true;
        table.live += 1;
        return @intCast((slot.generation << index_bits) | index);
    }

    pub fn get(table: *Table, handle: i32) status.Error!*Tensor {
        const slot = table.find(handle) orelse return status.fail(
            .invalid_handle,
            "tensor handle {d} is not alive: it was disposed of, or never existed",
            .{handle},
        );
        return &slot.tensor;
    }

    /// Frees the slot and returns the tensor for its block to be released.
    pub fn remove(table: *Table, handle: i32) ?Tensor {
        const slot = table.find(handle) orelse return null;
        slot.live = false;
        table.live -= 1;
        const index = @as(u32, @intCast(handle)) & (limit - 1);
        if (slot.generation < generation_max) table.free.appendAssumeCapacity(index);
        return slot.tensor;
    }

    fn find(table: *Table, handle: i32) ?*Slot {
        if (handle <= 0) return null;
        const raw: u32 = @intCast(handle);
        const index = raw & (limit - 1);
        if (index >= table.slots.items.len) return null;
        const slot = &table.slots.items[index];
        if (!slot.live or slot.generation != raw >> index_bits) return null;
        return slot;
    }

    pub fn iterator(table: *Table) Iterator {
        return .{ .slots = table.slots.items };
    }

    pub const Iterator = struct {
        slots: []Slot,
        at: usize = 0,

        pub fn next(walk: *Iterator) ?*Tensor {
            while (walk.at < walk.slots.len) {
                const slot = &walk.slots[walk.at];
                walk.at += 1;
                if (slot.live) return &slot.tensor;
            }
            return null;
        }
    };

    /// Safe from any thread.
    pub fn drop(table: *Table, cell: *Cell) void {
        var head = table.dropped.load(.monotonic);
        while (true) {
            cell.next = head;
            head = table.dropped.cmpxchgWeak(head, cell, .release, .monotonic) orelse return;
        }
    }

    pub fn takeDropped(table: *Table) ?*Cell {
        if (table.dropped.load(.monotonic) == null) return null;
        return table.dropped.swap(null, .acquire);
    }
};

test "stale, foreign and negative handles are refused; slots retire" {
    const gpa = std.testing.allocator;
    var table: Table = .{};
    defer table.slots.deinit(gpa);
    defer table.free.deinit(gpa);
    const tensor: Tensor = undefined;
    const first = try table.insert(gpa, tensor);
    _ = try table.get(first);
    _ = table.remove(first);
    for ([_]i32{ first, 0, -1, 5, std.math.maxInt(i32), std.math.minInt(i32) }) |bad| {
        try std.testing.expectError(error.Failed, table.get(bad));
    }
    for (0..3 * generation_max) |_| _ = table.remove(try table.insert(gpa, tensor));
    try std.testing.expectEqual(@as(usize, 0), table.live);
    try std.testing.expect(table.slots.items.len >= 3);
}
