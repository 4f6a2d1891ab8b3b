//! Device memory: a caching allocator over plain allocations, one free list per size class (those
//! of the host arena). All work of a device runs on one stream, so a block may be handed out again
//! as soon as the host lets go of it: the next kernel on it runs after the last one that used it.
//!
//! Blocks that a captured graph uses stay the graph's own until it is destroyed: what is freed in
//! the capture is reused inside the capture only, and a result that outlives the capture goes back
//! to the graph, since every replay writes to it.

const std = @import("std");
const arena = @import("../runtime/arena.zig");
const driver = @import("driver.zig");

pub const Memory = struct {
    gpa: std.mem.Allocator,
    free: Lists = @splat(.empty),
    stats: arena.Stats = .{},
    capture: ?*Reserved = null,
    /// Which graph a block belongs to.
    owners: std.AutoHashMapUnmanaged(driver.Pointer, *Reserved) = .empty,

    const Lists = [arena.class_count]std.ArrayList(driver.Pointer);

    /// Blocks of a captured graph that nobody holds.
    pub const Reserved = struct { free: Lists = @splat(.empty) };

    pub const Block = struct { address: driver.Pointer, bytes: usize };

    pub fn alloc(memory: *Memory, api: *const driver.Api, bytes: usize) error{OutOfMemory}!Block {
        const class = arena.classOf(bytes);
        const size = arena.sizeOf(class);
        if (memory.stats.live_bytes + size > memory.stats.limit_bytes) return error.OutOfMemory;
        const address = memory.take(class) orelse map(api, size) catch retry: {
            memory.trim(api); // waits for the device, which a capture does not allow: then it fails
            break :retry try map(api, size);
        };
        if (memory.capture) |graph| memory.owners.put(memory.gpa, address, graph) catch
            return error.OutOfMemory;
        memory.stats.live_bytes += size;
        memory.stats.peak_bytes = @max(memory.stats.peak_bytes, memory.stats.live_bytes);
        return .{ .address = address, .bytes = size };
    }

    fn take(memory: *Memory, class: usize) ?driver.Pointer {
        const size = arena.sizeOf(class);
        if (memory.capture) |graph| if (graph.free[class].pop()) |address| return address;
        const address = memory.free[class].pop() orelse return null;
        memory.stats.cached_bytes -= size;
        return address;
    }

    /// Takes exactly the size that `alloc` gave.
    pub fn release(memory: *Memory, api: *const driver.Api, block: Block) void {
        const class = arena.classOf(block.bytes);
        memory.stats.live_bytes -= block.bytes;
        if (memory.owners.get(block.address)) |graph| {
            graph.free[class].append(memory.gpa, block.address) catch return;
            return;
        }
        memory.free[class].append(memory.gpa, block.address) catch {
            _ = api.MemFree_v2(block.address);
            return;
        };
        memory.stats.cached_bytes += block.bytes;
    }

    /// A graph is gone: its blocks serve everybody again, those in use as soon as they are free.
    pub fn giveBack(memory: *Memory, graph: *Reserved) void {
        for (&graph.free, &memory.free, 0..) |*from, *to, class| {
            for (from.items) |address| {
                to.append(memory.gpa, address) catch continue;
                memory.stats.cached_bytes += arena.sizeOf(class);
            }
            from.deinit(memory.gpa);
        }
        var owned = memory.owners.iterator();
        while (owned.next()) |entry| if (entry.value_ptr.* == graph) {
            memory.owners.removeByPtr(entry.key_ptr);
            owned = memory.owners.iterator(); // a removal ends the walk
        };
    }

    /// Gives every cached block back to the driver.
    pub fn trim(memory: *Memory, api: *const driver.Api) void {
        for (&memory.free) |*list| {
            for (list.items) |address| _ = api.MemFree_v2(address);
            list.clearRetainingCapacity();
        }
        memory.stats.cached_bytes = 0;
    }
};

fn map(api: *const driver.Api, bytes: usize) error{OutOfMemory}!driver.Pointer {
    var address: driver.Pointer = 0;
    if (api.MemAlloc_v2(&address, bytes) != driver.success) return error.OutOfMemory;
    return address;
}
