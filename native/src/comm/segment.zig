//! Memory that processes of one host share: an anonymous file without a name, which the other ranks
//! open through its maker's process. Nothing is left of it when they are gone, however they went.

const std = @import("std");
const linux = std.os.linux;
const boards = @import("board.zig");
const peers = @import("peer.zig");
const status = @import("../abi/status.zig");
const Board = boards.Board;
const Layout = boards.Layout;
const Peer = peers.Peer;
const Recorder = @import("recorder.zig").Recorder;
const Error = status.Error;

pub const Segment = struct {
    memory: []align(4096) u8,
    fd: linux.fd_t,

    /// Everybody has mapped it: the descriptor is not needed any more.
    pub fn forget(segment: *Segment) void {
        if (segment.fd < 0) return;
        _ = linux.close(segment.fd);
        segment.fd = -1;
    }

    pub fn close(segment: *Segment) void {
        segment.forget();
        _ = linux.munmap(segment.memory.ptr, segment.memory.len);
    }
};

/// A new segment with an empty board. Its descriptor must stay open until all ranks are there.
pub fn create(layout: Layout) Error!linux.fd_t {
    if (layout.size < 1 or layout.size > boards.most_ranks) return status.invalid(
        "shm: a group of {d} ranks; 1 to {d} are possible on one host",
        .{ layout.size, boards.most_ranks },
    );
    const made = linux.memfd_create("xl-comm", linux.MFD.CLOEXEC);
    if (linux.errno(made) != .SUCCESS) return failed("memfd_create", made);
    const fd: linux.fd_t = @intCast(made);
    errdefer _ = linux.close(fd);
    const sized = linux.ftruncate(fd, @intCast(layout.bytes()));
    if (linux.errno(sized) != .SUCCESS) return failed("ftruncate", sized);
    const memory = try map(fd, layout.bytes());
    defer _ = linux.munmap(memory.ptr, memory.len);
    _ = Board.init(memory.ptr, layout, false);
    return fd;
}

/// Joins the group whose segment is `fd` of process `pid` (0: of this one, taken over).
pub fn open(
    gpa: std.mem.Allocator,
    pid: u32,
    fd: linux.fd_t,
    group: peers.Group,
    recorder: *Recorder,
) Error!*Peer {
    const own = if (pid == 0) fd else try openOf(pid, fd);
    errdefer _ = linux.close(own);
    const layout = try layoutOf(own, pid);
    if (layout.size != group.size()) return status.invalid(
        "shm[{s}]: the segment is for {d} ranks, the group has {d}",
        .{ group.name, layout.size, group.size() },
    );
    const memory = try map(own, layout.bytes());
    errdefer _ = linux.munmap(memory.ptr, memory.len);
    const board: Board = .{ .base = memory.ptr, .layout = layout, .is_private = false };
    const segment: Segment = .{ .memory = memory, .fd = own };
    return Peer.create(gpa, board, .{ .segment = segment }, group, recorder);
}

fn openOf(pid: u32, fd: linux.fd_t) Error!linux.fd_t {
    var buffer: [64]u8 = undefined;
    const path = std.fmt.bufPrintSentinel(&buffer, "/proc/{d}/fd/{d}", .{ pid, fd }, 0) catch
        unreachable;
    const opened = linux.open(path, .{ .ACCMODE = .RDWR, .CLOEXEC = true }, 0);
    const why = linux.errno(opened);
    if (why == .SUCCESS) return @intCast(opened);
    return status.fail(
        .io,
        "shm: cannot open {s}: {t}; the ranks of a CPU group run on one host, as one user, and " ++
            "the first of them must be alive",
        .{ path, why },
    );
}

fn layoutOf(fd: linux.fd_t, pid: u32) Error!Layout {
    const head = try map(fd, 4096);
    defer _ = linux.munmap(head.ptr, head.len);
    return Board.layoutOf(head.ptr) orelse status.fail(
        .io,
        "shm: descriptor {d} of process {d} is no segment of this library version",
        .{ fd, pid },
    );
}

fn map(fd: linux.fd_t, bytes: usize) Error![]align(4096) u8 {
    const at = linux.mmap(
        null,
        bytes,
        .{ .READ = true, .WRITE = true },
        .{ .TYPE = .SHARED },
        fd,
        0,
    );
    if (linux.errno(at) != .SUCCESS) return failed("mmap", at);
    return @as([*]align(4096) u8, @ptrFromInt(at))[0..bytes];
}

fn failed(comptime call: []const u8, result: usize) error{Failed} {
    return status.fail(.io, "shm: " ++ call ++ ": {t}", .{linux.errno(result)});
}

comptime {
    std.debug.assert(Board.header_bytes <= 4096);
}
