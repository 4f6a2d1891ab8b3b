//! Status codes and the error text of this thread: the one error path of the library.

const std = @import("std");

pub const Status = enum(i32) {
    ok = 0,
    invalid_argument = 1,
    invalid_handle = 2,
    unsupported = 3,
    out_of_memory = 4,
    library_missing = 5,
    cuda = 6,
    cublas = 7,
    nccl = 8,
    io = 9,
    timeout = 10,
    aborted = 11,
    internal = 12,
};

/// `Failed` means that `fail` has recorded the code and the text.
pub const Error = error{ Failed, OutOfMemory };

threadlocal var text: [2048]u8 = @splat(0);
threadlocal var code: Status = .ok;

/// Records why the call fails. The text names the operation, the argument, the value and what was
/// expected; it stays valid until the next failure on this thread.
pub fn fail(status: Status, comptime format: []const u8, values: anytype) error{Failed} {
    std.debug.assert(status != .ok);
    var writer: std.Io.Writer = .fixed(text[0 .. text.len - 1]);
    writer.print(format, values) catch {}; // Too long: what fits is kept.
    text[writer.end] = 0;
    code = status;
    return error.Failed;
}

pub fn invalid(comptime format: []const u8, values: anytype) error{Failed} {
    return fail(.invalid_argument, format, values);
}

/// The only place where a Zig error becomes a status.
pub fn finish(result: Error!void, comptime operation: []const u8) Status {
    result catch |err| switch (err) {
        error.Failed => return code,
        error.OutOfMemory => {
            _ = fail(.out_of_memory, "{s}: the host is out of memory", .{operation}) catch {};
            return .out_of_memory;
        },
    };
    return .ok;
}

pub fn lastError() callconv(.c) [*:0]const u8 {
    return @ptrCast(&text);
}

test "the text names the values and is cut, not overrun" {
    const long: [4096]u8 = @splat('x');
    try std.testing.expectEqual(error.Failed, invalid("sum: dtype {d} {s}", .{ 7, &long }));
    try std.testing.expectEqual(Status.invalid_argument, finish(error.Failed, "sum"));
    try std.testing.expect(std.mem.startsWith(u8, std.mem.span(lastError()), "sum: dtype 7 xxx"));
}
