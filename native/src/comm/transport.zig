//! The one interface of the transports: threads and shared memory (a board), NCCL, and ranks that
//! are not there. A transport moves bytes; layout, order and grouping are decided above it.

const std = @import("std");
const clock = @import("clock.zig");
const operation = @import("operation.zig");
const Fake = @import("fake.zig").Fake;
const peers = @import("peer.zig");
const Error = @import("../abi/status.zig").Error;

pub const Kind = enum { threads, shm, nccl, fake };

pub const Transport = union(Kind) {
    threads: *peers.Peer,
    shm: *peers.Peer,
    nccl: *@import("nccl.zig").Nccl,
    fake: *Fake,

    pub fn group(transport: Transport) peers.Group {
        return switch (transport) {
            inline else => |it| it.group,
        };
    }

    /// Every rank of the group calls this with an equal description. When it returns, the output
    /// may be used: by the host, or on nccl by work that `join` of nccl.zig orders behind it.
    pub fn collective(transport: Transport, call: operation.Collective) Error!void {
        return switch (transport) {
            inline else => |it| it.collective(call),
        };
    }

    /// A message out, one in, or both at once; both ends describe a message alike.
    pub fn exchange(
        transport: Transport,
        outgoing: ?operation.Outgoing,
        incoming: ?operation.Incoming,
    ) Error!void {
        return switch (transport) {
            inline else => |it| it.exchange(outgoing, incoming),
        };
    }

    /// Collective over this group: a group of the ranks with an equal color, ordered by key, then
    /// by rank; null for a negative color.
    pub fn split(transport: Transport, color: i32, key: i32, name: []const u8) Error!?Transport {
        switch (transport) {
            inline else => |it, tag| {
                const made = try it.split(color, key, name) orelse return null;
                return @unionInit(Transport, @tagName(tag), made);
            },
        }
    }

    /// Whether the group can be used: everybody has come, and nothing has failed. Never waits.
    pub fn poll(transport: Transport) Error!bool {
        return switch (transport) {
            inline else => |it| it.poll(),
        };
    }

    /// `poll` until it is ready; `timeout` after the limit in nanoseconds.
    pub fn wait(transport: Transport, limit: u64) Error!void {
        const status = @import("../abi/status.zig");
        const deadline = clock.now() +| limit;
        while (!try transport.poll()) {
            if (clock.now() >= deadline) return status.fail(
                .timeout,
                "open[{s}]: not all {d} ranks came within {d} s",
                .{ transport.group().name, transport.group().size(), limit / clock.second },
            );
            clock.sleep(1_000_000);
        }
    }

    /// Gives the group up, from any thread: every rank that waits in it, or calls it, fails.
    pub fn abort(transport: Transport, reason: []const u8) void {
        switch (transport) {
            inline else => |it| it.abort(reason),
        }
    }

    /// Nanoseconds that a call may wait for the others.
    pub fn setLimit(transport: Transport, limit: u64) void {
        switch (transport) {
            .threads, .shm => |peer| peer.limit = limit,
            .nccl => |nccl| nccl.limit = limit,
            .fake => {},
        }
    }

    /// Lets go of everything; the transport is gone.
    pub fn close(transport: Transport) void {
        switch (transport) {
            inline else => |it| it.close(),
        }
    }
};
