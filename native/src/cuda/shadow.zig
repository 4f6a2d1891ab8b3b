//! bf16 copies of f32 weights. A product of bf16 activations with an f32 weight rounds the weight
//! first (matmul.zig): 6 bytes moved per weight and use. A weight that such products use and an
//! optimiser updates gets a copy that lasts, written by the update itself for 2 bytes per weight.
//!
//! A copy always equals its weight, rounded. Whoever writes into a tensor in place says so
//! (`Context.wrote`), and the copy is made again, in a capture as well; a graph that was recorded
//! before there was a copy is followed by a new one. Weights that are part of a larger block have
//! none.

const std = @import("std");
const args = @import("../args.zig");
const driver = @import("driver.zig");
const elementwise = @import("elementwise.zig");
const Device = @import("device.zig").Device;
const Memory = @import("memory.zig").Memory;
const Error = @import("../abi/status.zig").Error;

pub const Shadows = struct {
    /// By the address of the weight, which is that of its block.
    entries: std.AutoHashMapUnmanaged(driver.Pointer, Entry) = .empty,
    /// The largest `made`.
    newest: u64 = 0,

    const Entry = struct {
        count: u64,
        copy: ?Memory.Block = null,
        /// Launches of the device before the copy was made.
        made: u64 = 0,
        /// There was no memory: asking again would empty the cache at every update.
        is_refused: bool = false,
    };

    /// The copy of the first `count` elements at this address.
    pub fn find(shadows: *const Shadows, address: driver.Pointer, count: u64) ?*anyopaque {
        const entry = shadows.entries.get(address) orelse return null;
        const copy = entry.copy orelse return null;
        return if (count <= entry.count) @ptrFromInt(copy.address) else null;
    }

    /// A product has rounded this: if it turns out to be a weight, a copy is worth its memory.
    pub fn note(
        shadows: *Shadows,
        device: *Device,
        address: driver.Pointer,
        count: u64,
    ) Error!void {
        const entry = try shadows.entries.getOrPut(device.gpa, address);
        if (!entry.found_existing) entry.value_ptr.* = .{ .count = count };
        if (entry.value_ptr.copy == null) entry.value_ptr.count = count;
    }

    /// The copy that an update of the weight must write, made now where it is missing. null: no
    /// product rounds this weight, there is no memory for it, or a capture is running.
    pub fn forUpdate(
        shadows: *Shadows,
        device: *Device,
        address: driver.Pointer,
        count: u64,
    ) Error!?*anyopaque {
        const entry = shadows.entries.getPtr(address) orelse return null;
        if (entry.count != count) return null;
        if (entry.copy) |copy| return @ptrFromInt(copy.address);
        if (entry.is_refused or device.memory.capture != null) return null;
        const block = device.memory.alloc(&device.api, count * 2) catch {
            entry.is_refused = true;
            return null;
        };
        errdefer device.memory.release(&device.api, block);
        const made = device.launches;
        try round(device, @ptrFromInt(address), @ptrFromInt(block.address), count);
        entry.copy = block;
        entry.made = made;
        shadows.newest = made;
        return @ptrFromInt(block.address);
    }

    /// Something else than an update has written into the block at this address.
    pub fn wrote(shadows: *Shadows, device: *Device, address: driver.Pointer) Error!void {
        const entry = shadows.entries.getPtr(address) orelse return;
        try renew(device, address, entry);
    }

    /// A graph whose recording began after `started` launches has run.
    pub fn replayed(shadows: *Shadows, device: *Device, started: u64) Error!void {
        if (shadows.newest < started) return;
        var entries = shadows.entries.iterator();
        while (entries.next()) |entry| if (entry.value_ptr.made >= started)
            try renew(device, entry.key_ptr.*, entry.value_ptr);
    }

    fn renew(device: *Device, address: driver.Pointer, entry: *const Entry) Error!void {
        const copy = entry.copy orelse return;
        try round(device, @ptrFromInt(address), @ptrFromInt(copy.address), entry.count);
    }

    /// The block at this address is free.
    pub fn forget(shadows: *Shadows, device: *Device, address: driver.Pointer) void {
        if (shadows.entries.count() == 0) return;
        const removed = shadows.entries.fetchRemove(address) orelse return;
        if (removed.value.copy) |copy| device.memory.release(&device.api, copy);
    }
};

/// to [count] bf16 ← from [count] f32.
pub fn round(device: *Device, from: *const anyopaque, to: *anyopaque, count: u64) Error!void {
    var shape: args.elementwise.Dims = @splat(1);
    var strides: args.elementwise.Dims = @splat(0);
    shape[0] = count;
    strides[0] = 1;
    try elementwise.copy(device, .f32, &.{
        .from = from,
        .to = to,
        .shape = shape,
        .from_strides = strides,
        .to_strides = strides,
        .rank = 1,
        .from_dtype = .f32,
        .to_dtype = .bf16,
    });
}
