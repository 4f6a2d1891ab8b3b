//! One thread per process that looks after its groups: a rank whose process has ended, an error of
//! NCCL or a call that does not end is seen here, also while this process waits.

const std = @import("std");
const clock = @import("clock.zig");
const Peer = @import("peer.zig").Peer;
const Transport = @import("transport.zig").Transport;
const status = @import("../abi/status.zig");

const interval = 200_000_000;

pub const Watchdog = struct {
    lock: clock.Lock = .{},
    groups: std.ArrayList(Transport) = .empty,
    thread: ?std.Thread = null,

    /// Looks after a group whose ranks are all there. The thread starts with the first one.
    pub fn add(
        watchdog: *Watchdog,
        gpa: std.mem.Allocator,
        transport: Transport,
    ) status.Error!void {
        if (transport == .shm) watchProcesses(transport.shm);
        watchdog.lock.acquire();
        defer watchdog.lock.release();
        try watchdog.groups.append(gpa, transport);
        if (watchdog.thread != null) return;
        watchdog.thread = std.Thread.spawn(.{ .stack_size = 1 << 20 }, run, .{watchdog}) catch |err|
            return status.fail(.internal, "cannot start the watchdog: {t}", .{err});
    }

    /// After this the thread does not touch the group any more.
    pub fn remove(watchdog: *Watchdog, transport: Transport) void {
        watchdog.lock.acquire();
        defer watchdog.lock.release();
        for (watchdog.groups.items, 0..) |other, i| if (std.meta.eql(other, transport)) {
            _ = watchdog.groups.swapRemove(i);
            return;
        };
    }

    fn run(watchdog: *Watchdog) void {
        while (true) {
            clock.sleep(interval);
            watchdog.lock.acquire();
            defer watchdog.lock.release();
            for (watchdog.groups.items) |transport| switch (transport) {
                .shm => |peer| lookAt(peer),
                .nccl => |nccl| nccl.look(),
                .threads, .fake => {},
            };
            watchdog.spread();
        }
    }

    /// A GPU works on the groups of a rank in one order: when one has failed, none can go on.
    fn spread(watchdog: *Watchdog) void {
        const reason = for (watchdog.groups.items) |transport| {
            if (transport != .nccl) continue;
            if (transport.nccl.failure()) |reason| break reason;
        } else return;
        for (watchdog.groups.items) |transport| {
            if (transport == .nccl) transport.nccl.abort(reason);
        }
    }
};

/// Their ends are seen from now on.
pub fn watchProcesses(peer: *Peer) void {
    for (0..peer.group.size()) |rank| {
        if (rank == peer.group.rank) continue;
        if (!peer.processes.watch(rank, peer.board.line(rank).pid.load(.acquire))) died(peer, rank);
    }
}

/// Gives the group up when one of its processes has ended without leaving it.
pub fn lookAt(peer: *Peer) void {
    var from: usize = 0;
    while (peer.processes.ended(from)) |rank| : (from = rank + 1) {
        if (!peer.board.hasLeft(rank)) died(peer, rank);
    }
}

fn died(peer: *Peer, rank: usize) void {
    if (peer.board.reason() != null) return;
    var buffer: [512]u8 = undefined;
    var writer: std.Io.Writer = .fixed(&buffer);
    writer.print("rank {d} (process {d}) of group {s} has died; its last call was {f}", .{
        peer.group.ranks[rank],
        peer.board.line(rank).pid.load(.acquire),
        peer.group.name,
        peer.board.line(rank).call.in(peer.group.name),
    }) catch {};
    peer.abort(writer.buffered());
}
