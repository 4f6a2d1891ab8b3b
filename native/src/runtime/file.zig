//! A file opened for reading. Bytes are read at offsets into the caller's memory instead of being
//! mapped: a mapped file that somebody shortens kills the process (SIGBUS), a read only fails.

const std = @import("std");
const linux = std.os.linux;

pub const File = struct {
    descriptor: linux.fd_t,
    length: u64,

    pub const Failure = struct { code: linux.E = .SUCCESS, reason: []const u8 = "" };

    /// Opens a regular file. Non-blocking, so that a pipe of that name cannot hang the program.
    pub fn open(path: [*:0]const u8, failure: *Failure) error{Io}!File {
        const flags: linux.O = .{ .ACCMODE = .RDONLY, .CLOEXEC = true, .NONBLOCK = true };
        const opened = linux.openat(linux.AT.FDCWD, path, flags, 0);
        try check(opened, "cannot open the file", failure);
        var file: File = .{ .descriptor = @intCast(opened), .length = 0 };
        errdefer file.close();
        var info: linux.Statx = undefined;
        const mask: linux.STATX = .{ .TYPE = true, .SIZE = true };
        const status = linux.statx(file.descriptor, "", linux.AT.EMPTY_PATH, mask, &info);
        try check(status, "cannot read the length of the file", failure);
        if (info.mode & linux.S.IFMT != linux.S.IFREG) {
            failure.* = .{ .reason = "not a regular file" };
            return error.Io;
        }
        file.length = info.size;
        return file;
    }

    pub fn close(file: *File) void {
        _ = linux.close(file.descriptor);
        file.* = undefined;
    }

    /// Fills `target` with the bytes from `offset` on; a file that ends before is a failure.
    pub fn readAll(file: File, target: []u8, offset: u64, failure: *Failure) error{Io}!void {
        var done: usize = 0;
        while (done < target.len) {
            const rest = target[done..];
            const count = linux.pread(file.descriptor, rest.ptr, rest.len, @intCast(offset + done));
            if (linux.errno(count) == .INTR) continue;
            try check(count, "cannot read the file", failure);
            if (count == 0) {
                failure.* = .{ .reason = "the file became shorter while it was open" };
                return error.Io;
            }
            done += count;
        }
    }

    fn check(result: usize, reason: []const u8, failure: *Failure) error{Io}!void {
        const code = linux.errno(result);
        if (code == .SUCCESS) return;
        failure.* = .{ .code = code, .reason = reason };
        return error.Io;
    }
};

test "what is not a regular file is refused" {
    var failure: File.Failure = .{};
    try std.testing.expectError(error.Io, File.open("/", &failure));
    try std.testing.expectEqualStrings("not a regular file", failure.reason);
    try std.testing.expectError(error.Io, File.open("/no such file", &failure));
    try std.testing.expectEqual(linux.E.NOENT, failure.code);
}
