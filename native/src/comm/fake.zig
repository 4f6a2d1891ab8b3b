//! Ranks that are not there: calls are checked and recorded, nothing moves, and the result is what
//! equal ranks would give. Any number of ranks in one process, for plans and deadlock checks.

const std = @import("std");
const operation = @import("operation.zig");
const peers = @import("peer.zig");
const status = @import("../abi/status.zig");
const Recorder = @import("recorder.zig").Recorder;
const Description = operation.Description;
const Error = status.Error;

/// What one rank of a group has called, in order.
pub const Log = std.ArrayList(Description);

pub const Fake = struct {
    gpa: std.mem.Allocator,
    group: peers.Group,
    recorder: *Recorder,
    log: Log = .empty,
    reason: ?[]const u8 = null,

    pub fn create(
        gpa: std.mem.Allocator,
        group: peers.Group,
        recorder: *Recorder,
    ) error{OutOfMemory}!*Fake {
        const fake = try gpa.create(Fake);
        errdefer gpa.destroy(fake);
        fake.* = .{ .gpa = gpa, .group = try group.clone(gpa), .recorder = recorder };
        return fake;
    }

    pub fn close(fake: *Fake) void {
        const gpa = fake.gpa;
        if (fake.reason) |reason| gpa.free(reason);
        fake.log.deinit(gpa);
        fake.group.free(gpa);
        gpa.destroy(fake);
    }

    pub fn poll(fake: *Fake) Error!bool {
        try fake.expectAlive("open");
        return true;
    }

    pub fn abort(fake: *Fake, reason: []const u8) void {
        if (fake.reason == null) fake.reason = fake.gpa.dupe(u8, reason) catch "";
    }

    pub fn collective(fake: *Fake, call: operation.Collective) Error!void {
        return fake.collectiveBy(HostMemory{}, call);
    }

    /// `memory` has `move(to, from, bytes)` for the addresses of the call.
    pub fn collectiveBy(fake: *Fake, memory: anytype, call: operation.Collective) Error!void {
        try fake.expectAlive(@tagName(call.kind));
        try fake.note(call.describe(fake.log.items.len));
        const part = call.count * call.dtype.size();
        const own = fake.group.rank * part;
        switch (call.kind) {
            .all_reduce => try memory.move(call.output, call.input, part),
            .reduce_scatter => try memory.move(call.output, call.input + own, part),
            .all_gather => for (0..fake.group.size()) |rank|
                try memory.move(call.output + rank * part, call.input, part),
            .all_to_all => for (0..fake.group.size()) |rank|
                try memory.move(call.output + rank * part, call.input + own, part),
            .broadcast => {}, // in place
            .barrier, .split => {},
            .send, .receive, .replay => unreachable, // exchange
        }
    }

    /// What would come is zero.
    pub fn exchange(
        fake: *Fake,
        outgoing: ?operation.Outgoing,
        incoming: ?operation.Incoming,
    ) Error!void {
        try fake.expectAlive("exchange");
        if (outgoing) |message| {
            var call = message.describe(fake.log.items.len);
            call.root = message.peer;
            try fake.note(call);
        }
        const message = incoming orelse return;
        var call = message.describe(fake.log.items.len);
        call.kind = .receive;
        call.root = message.peer;
        try fake.note(call);
        @memset(message.data[0..message.bytes()], 0);
    }

    /// There is nobody to ask: the new group is named by the caller's own color.
    pub fn split(fake: *Fake, color: i32, _: i32, name: []const u8) Error!?*Fake {
        try fake.collective(.{ .kind = .split, .site = name });
        if (color < 0) return null;
        const group: peers.Group = .{
            .name = name,
            .ranks = fake.group.ranks,
            .rank = fake.group.rank,
        };
        return try create(fake.gpa, group, fake.recorder);
    }

    fn note(fake: *Fake, call: Description) Error!void {
        try fake.log.append(fake.gpa, call);
        const number = fake.recorder.begin(fake.group.name, call);
        fake.recorder.finish(number);
    }

    fn expectAlive(fake: *Fake, what: []const u8) Error!void {
        const reason = fake.reason orelse return;
        return status.fail(.aborted, "{s}[{s}]: the group was given up: {s}", .{
            what,
            fake.group.name,
            reason,
        });
    }
};

/// Fails at the first place where the members of a group do not call the same collective: run for
/// real, they would wait for each other forever. Messages are matched by `checkMessages`.
pub fn checkCollectives(
    group: []const u8,
    ranks: []const u32,
    logs: []const []const Description,
) Error!void {
    for (logs[1..], 1..) |log, other| {
        var mine: usize = 0;
        var theirs: usize = 0;
        while (true) : ({
            mine += 1;
            theirs += 1;
        }) {
            mine = nextCollective(logs[0], mine);
            theirs = nextCollective(log, theirs);
            const a = if (mine < logs[0].len) &logs[0][mine] else null;
            const b = if (theirs < log.len) &log[theirs] else null;
            if (a == null and b == null) break;
            if (a != null and b != null and isSame(a.?, b.?)) continue;
            return status.invalid("rank {d} calls {f} while rank {d} calls {f}", .{
                ranks[0],
                Called{ .call = a, .group = group },
                ranks[other],
                Called{ .call = b, .group = group },
            });
        }
    }
}

const Called = struct {
    call: ?*const Description,
    group: []const u8,

    pub fn format(called: Called, writer: *std.Io.Writer) std.Io.Writer.Error!void {
        const call = called.call orelse return writer.writeAll("nothing more");
        try writer.print("{f}", .{call.in(called.group)});
    }
};

fn nextCollective(log: []const Description, from: usize) usize {
    var at = from;
    while (at < log.len and (log[at].kind == .send or log[at].kind == .receive)) at += 1;
    return at;
}

/// Sequence numbers of a log count messages too: they do not matter here.
fn isSame(a: *const Description, b: *const Description) bool {
    return a.kind == b.kind and a.reduction == b.reduction and a.dtype == b.dtype and
        a.count == b.count and a.root == b.root and std.mem.eql(u8, a.siteText(), b.siteText());
}

/// Fails where a message is sent and not received as it was sent, in order, for every pair.
pub fn checkMessages(
    group: []const u8,
    ranks: []const u32,
    logs: []const []const Description,
) Error!void {
    for (logs, 0..) |log, from| for (logs, 0..) |other, to| {
        var sent: usize = 0;
        var received: usize = 0;
        while (true) : ({
            sent += 1;
            received += 1;
        }) {
            sent = nextMessage(log, sent, .send, to);
            received = nextMessage(other, received, .receive, from);
            const a = if (sent < log.len) &log[sent] else null;
            const b = if (received < other.len) &other[received] else null;
            if (a == null and b == null) break;
            if (a != null and b != null and isSameMessage(a.?, b.?)) continue;
            return status.invalid("rank {d} calls {f} while rank {d} calls {f}", .{
                ranks[from],
                Called{ .call = a, .group = group },
                ranks[to],
                Called{ .call = b, .group = group },
            });
        }
    };
}

fn nextMessage(log: []const Description, from: usize, kind: operation.Kind, peer: usize) usize {
    var at = from;
    while (at < log.len and !(log[at].kind == kind and log[at].root == peer)) at += 1;
    return at;
}

fn isSameMessage(a: *const Description, b: *const Description) bool {
    return a.dtype == b.dtype and a.count == b.count and
        std.mem.eql(u8, a.siteText(), b.siteText());
}

const HostMemory = struct {
    fn move(_: HostMemory, to: [*]u8, from: [*]const u8, bytes: usize) Error!void {
        if (to != from) @memcpy(to[0..bytes], from[0..bytes]);
    }
};
