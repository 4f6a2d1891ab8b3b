//! Start, memory statistics, disposal, and the garbage collector's way in.

const std = @import("std");
const builtin = @import("builtin");
const build_options = @import("build_options");
const context = @import("../runtime/context.zig");
const Context = context.Context;
const handles = @import("handles.zig");
const scratch = @import("scratch.zig");
const status = @import("status.zig");
const Error = status.Error;

pub fn start(threads: i32, level: i32) callconv(.c) status.Status {
    return status.finish(context.start(threads, level), "start");
}

/// Numbers: live tensors, live bytes, peak bytes, cached bytes, kernel calls, threads, level,
/// lanes.
pub fn memory(current: *Context) Error!void {
    current.collect();
    const stats = current.arena.stats;
    const numbers = &scratch.block.numbers;
    numbers[0] = @floatFromInt(current.table.live);
    numbers[1] = @floatFromInt(stats.live_bytes);
    numbers[2] = @floatFromInt(stats.peak_bytes);
    numbers[3] = @floatFromInt(stats.cached_bytes);
    numbers[4] = @floatFromInt(current.calls);
    numbers[5] = @floatFromInt(current.pool.view.threads);
    numbers[6] = @floatFromInt(@backingInt(current.level));
    numbers[7] = @floatFromInt(current.kernels.lanes_f32);
    numbers[8] = @floatFromInt(@backingInt(builtin.mode));
    numbers[9] = if (build_options.cuda) 1 else 0;
}

pub fn resetPeak(current: *Context) Error!void {
    current.arena.resetPeak();
}

/// Returns cached memory to the system.
pub fn trim(current: *Context) Error!void {
    current.arena.trim();
}

/// Bytes that tensors may take; an allocation beyond it fails as out of memory.
pub fn limitMemory(current: *Context, bytes: f64) Error!void {
    if (!(bytes >= 0)) return status.invalid(
        "memory limit: {d} is not a number of bytes",
        .{bytes},
    );
    const most: f64 = @floatFromInt(std.math.maxInt(i64));
    current.arena.stats.limit_bytes = @intFromFloat(@min(bytes, most));
}

pub fn dispose(current: *Context, handle: i32) Error!void {
    _ = try current.table.get(handle);
    current.dispose(handle);
}

/// Disposes of `count` handles in scratch ints; dead ones are skipped.
pub fn disposeMany(current: *Context, count: i32) Error!void {
    if (count < 0 or count > scratch.block.ints.len)
        return status.invalid("dispose: {d} handles in the scratch block", .{count});
    for (scratch.block.ints[0..@intCast(count)]) |handle| current.dispose(handle);
}

/// Numbers: low and high half of the address of a new cell that holds the handle.
pub fn cell(current: *Context, handle: i32) Error!void {
    _ = try current.table.get(handle);
    const made = try std.heap.c_allocator.create(handles.Cell);
    made.* = .{ .handle = handle, .next = null };
    const at: u64 = @intFromPtr(made);
    scratch.block.numbers[0] = @floatFromInt(at);
}

/// May run on a thread of the garbage collector: it only pushes the cell on a lock-free list.
fn dropCell(made: ?*anyopaque, _: ?*anyopaque) callconv(.c) void {
    const pointer: *handles.Cell = @ptrCast(@alignCast(made orelse return));
    const current = context.get() catch return;
    current.table.drop(pointer);
}

pub fn deallocator() callconv(.c) *const anyopaque {
    return @ptrCast(&dropCell);
}

/// Stops the process as a bug of ours would, for the test of the panic handler.
pub fn panic(_: *Context) Error!void {
    @panic("asked for by a test");
}
