//! The processes of a group's other ranks on this host, by descriptors that stay valid when the
//! processes end: a rank that dies is seen at once, not by a deadline.

const std = @import("std");
const linux = std.os.linux;

pub const Processes = struct {
    /// By group rank; −1 where there is nothing to watch.
    fds: []linux.fd_t,

    pub fn init(gpa: std.mem.Allocator, size: usize) error{OutOfMemory}!Processes {
        const fds = try gpa.alloc(linux.fd_t, size);
        @memset(fds, -1);
        return .{ .fds = fds };
    }

    pub fn deinit(processes: *Processes, gpa: std.mem.Allocator) void {
        for (processes.fds) |fd| if (fd >= 0) {
            _ = linux.close(fd);
        };
        gpa.free(processes.fds);
    }

    /// Watches process `pid` of a rank; false when there is none any more.
    pub fn watch(processes: *Processes, rank: usize, pid: u32) bool {
        if (processes.fds[rank] >= 0) return true;
        const opened = linux.pidfd_open(@intCast(pid), 0);
        switch (linux.errno(opened)) {
            .SUCCESS => processes.fds[rank] = @intCast(opened),
            .SRCH => return false,
            else => {}, // A kernel without them: deadlines still hold.
        }
        return true;
    }

    /// The first rank from `from` on whose process has ended.
    pub fn ended(processes: *const Processes, from: usize) ?usize {
        for (processes.fds[from..], from..) |fd, rank| {
            if (fd < 0) continue;
            var polled = [_]linux.pollfd{.{ .fd = fd, .events = linux.POLL.IN, .revents = 0 }};
            const result = linux.poll(&polled, 1, 0);
            if (linux.errno(result) == .SUCCESS and polled[0].revents != 0) return rank;
        }
        return null;
    }
};

test "a process that ends is seen" {
    const gpa = std.testing.allocator;
    var processes: Processes = try .init(gpa, 3);
    defer processes.deinit(gpa);
    try std.testing.expect(processes.watch(0, @intCast(linux.getpid())));
    const forked = linux.fork();
    if (forked == 0) {
        var time: linux.timespec = .{ .sec = 60, .nsec = 0 };
        _ = linux.nanosleep(&time, null);
        linux.exit_group(0);
    }
    const child: linux.pid_t = @intCast(forked);
    try std.testing.expect(processes.watch(2, @intCast(child)));
    try std.testing.expectEqual(@as(?usize, null), processes.ended(0));
    _ = linux.kill(child, .KILL);
    for (0..1000) |_| {
        if (processes.ended(0) != null) break;
        @import("clock.zig").sleep(5_000_000);
    }
    try std.testing.expectEqual(@as(?usize, 2), processes.ended(0));
    var state: i32 = 0;
    _ = linux.wait4(child, &state, 0, null);
    var other: Processes = try .init(gpa, 1);
    defer other.deinit(gpa);
    try std.testing.expect(!other.watch(0, @intCast(child)));
}
