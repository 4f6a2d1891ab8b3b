//! Opening of optional libraries at run time. Nothing is linked but libc.

const std = @import("std");

/// A symbol of a library that stays open as long as the process.
pub fn symbol(comptime F: type, handle: *anyopaque, name: [*:0]const u8) ?F {
    // dlsym looks at its return address: the call must not become a jump.
    const found = @call(.never_tail, std.c.dlsym, .{ handle, name }) orelse return null;
    return @ptrCast(@alignCast(found));
}

pub const Opened = union(enum) {
    handle: *anyopaque,
    /// The loader's own words.
    reason: [*:0]const u8,
};

pub fn open(path: [*:0]const u8) Opened {
    if (std.c.dlopen(path, .{ .NOW = true })) |handle| return .{ .handle = handle };
    return .{ .reason = if (std.c.dlerror()) |message| message else "unknown reason" };
}
