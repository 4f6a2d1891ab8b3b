//! One rank of a group on a board: how it waits, fails, and gives the group up. The data paths are
//! in `collectives.zig` and `messages.zig`.

const std = @import("std");
const clock = @import("clock.zig");
const operation = @import("operation.zig");
const status = @import("../abi/status.zig");
const collectives = @import("collectives.zig");
const messages = @import("messages.zig");
const boards = @import("board.zig");
const Board = boards.Board;
const Processes = @import("processes.zig").Processes;
const Recorder = @import("recorder.zig").Recorder;
const Description = operation.Description;
const Error = status.Error;

pub const Group = struct {
    name: []const u8,
    /// Global rank of every group rank.
    ranks: []const u32,
    /// This rank's place in the group.
    rank: u32,

    pub fn size(group: Group) usize {
        return group.ranks.len;
    }

    pub fn clone(group: Group, gpa: std.mem.Allocator) error{OutOfMemory}!Group {
        const name = try gpa.dupe(u8, group.name);
        errdefer gpa.free(name);
        return .{ .name = name, .ranks = try gpa.dupe(u32, group.ranks), .rank = group.rank };
    }

    pub fn free(group: Group, gpa: std.mem.Allocator) void {
        gpa.free(group.name);
        gpa.free(group.ranks);
    }
};

/// Where a board's memory comes from, and what happens to it.
pub const Memory = union(enum) {
    /// Shared by the threads of one process; the last one frees it.
    threads: *@import("threads.zig").Shared,
    /// Mapped; the descriptor stays open until everybody has mapped it.
    segment: @import("segment.zig").Segment,
};

pub const Peer = struct {
    gpa: std.mem.Allocator,
    board: Board,
    memory: Memory,
    group: Group,
    recorder: *Recorder,
    /// Collectives so far, messages so far to and from each rank.
    sequence: u64 = 0,
    sent: []u64,
    received: []u64,
    /// Slots used so far: their parity names the one in use.
    turn: u64 = 0,
    limit: u64 = 100 * clock.second,
    /// Of the other ranks, for the watchdog.
    processes: Processes,

    /// Takes the memory over; copies the group.
    pub fn create(
        gpa: std.mem.Allocator,
        board: Board,
        memory: Memory,
        group: Group,
        recorder: *Recorder,
    ) error{OutOfMemory}!*Peer {
        const peer = try gpa.create(Peer);
        errdefer gpa.destroy(peer);
        const own = try group.clone(gpa);
        errdefer own.free(gpa);
        const counts = try gpa.alloc(u64, 2 * group.size());
        errdefer gpa.free(counts);
        @memset(counts, 0);
        const processes: Processes = try .init(gpa, group.size());
        peer.* = .{
            .gpa = gpa,
            .board = board,
            .memory = memory,
            .group = own,
            .recorder = recorder,
            .sent = counts[0..group.size()],
            .received = counts[group.size()..],
            .processes = processes,
        };
        board.join(group.rank, @intCast(std.os.linux.getpid()));
        return peer;
    }

    pub fn close(peer: *Peer) void {
        peer.board.leave(peer.group.rank);
        const gpa = peer.gpa;
        switch (peer.memory) {
            .threads => |shared| shared.release(gpa),
            .segment => |*segment| segment.close(),
        }
        peer.processes.deinit(gpa);
        gpa.free(peer.sent.ptr[0 .. 2 * peer.group.size()]);
        peer.group.free(gpa);
        gpa.destroy(peer);
    }

    /// Whether everybody has come to the group; until then only `poll` and `close` are allowed.
    pub fn poll(peer: *Peer) Error!bool {
        try peer.expectAlive("open");
        if (!peer.board.isComplete()) return false;
        if (peer.memory == .segment) peer.memory.segment.forget();
        return true;
    }

    pub fn abort(peer: *Peer, reason: []const u8) void {
        peer.board.abort(reason);
    }

    pub fn collective(peer: *Peer, call: operation.Collective) Error!void {
        const description = call.describe(peer.sequence);
        peer.sequence += 1;
        const number = peer.recorder.begin(peer.group.name, description);
        errdefer peer.recorder.fail(number);
        try peer.expectAlive(@tagName(call.kind));
        const line = peer.board.line(peer.group.rank);
        line.call = description;
        line.input = @intFromPtr(call.input);
        line.output = @intFromPtr(call.output);
        try collectives.run(peer, &call, number);
        peer.recorder.finish(number);
    }

    /// Sends and receives at the same time; either may be missing.
    pub fn exchange(
        peer: *Peer,
        outgoing: ?operation.Outgoing,
        incoming: ?operation.Incoming,
    ) Error!void {
        try peer.expectAlive("exchange");
        return messages.run(peer, outgoing, incoming);
    }

    /// A group of the ranks that give an equal color, ordered by key and then by rank here; null
    /// for a negative color. All ranks of this group call it.
    pub fn split(peer: *Peer, color: i32, key: i32, name: []const u8) Error!?*Peer {
        return @import("split.zig").run(peer, color, key, name);
    }

    pub fn expectAlive(peer: *Peer, what: []const u8) Error!void {
        const reason = peer.board.reason() orelse return;
        return status.fail(.aborted, "{s}[{s}]: the group was given up: {s}", .{
            what,
            peer.group.name,
            reason,
        });
    }

    /// Meets all ranks. The first barrier of a call also compares what everybody calls.
    pub fn barrier(peer: *Peer, compare: bool) Error!void {
        const board = peer.board;
        const before = board.generation().load(.acquire);
        if (board.arrive(peer.group.rank)) {
            if (compare and !board.agree()) return peer.desync();
            return board.release();
        }
        const deadline = clock.now() +| peer.limit;
        while (board.generation().load(.acquire) == before) {
            try peer.sleepOn(board.generation(), before);
            if (board.generation().load(.acquire) != before) break;
            try peer.expectComers();
            if (clock.now() >= deadline) return peer.late();
        }
    }

    /// Sleeps until the word changes, at most a slice; fails when the group has been given up. The
    /// caller looks at what it waits for first: what was done before the end counts.
    pub fn sleepOn(peer: *Peer, word: *const clock.Word, expected: u32) Error!void {
        try peer.expectAlive(@tagName(peer.board.line(peer.group.rank).call.kind));
        clock.park(word, expected, @min(clock.wait_slice, peer.limit), peer.board.is_private);
    }

    fn desync(peer: *Peer) Error!void {
        var buffer: [1400]u8 = undefined;
        var writer: std.Io.Writer = .fixed(&buffer);
        const group = peer.group;
        writer.print("{f}", .{peer.board.disagreement(group.name, group.ranks)}) catch {};
        peer.abort(writer.buffered());
        return status.fail(.aborted, "{s}", .{writer.buffered()});
    }

    /// A rank that has closed its end while others wait for it will never come.
    fn expectComers(peer: *Peer) Error!void {
        var set: [boards.most_ranks]bool = undefined;
        const call = &peer.board.line(peer.group.rank).call;
        for (peer.board.behind(peer.group.rank, &set), 0..) |is_behind, rank| {
            if (is_behind and peer.board.hasLeft(rank)) return peer.left(rank, call);
        }
    }

    /// Fails because a rank has closed its end, or for the reason that it gave before.
    pub fn left(peer: *Peer, rank: usize, call: *const operation.Description) Error!void {
        try peer.expectAlive(@tagName(call.kind));
        const text = "rank {d} has left while rank {d} waits for it in {f}";
        return peer.giveUp(.aborted, text, .{
            peer.group.ranks[rank],
            peer.group.ranks[peer.group.rank],
            call.in(peer.group.name),
        });
    }

    fn late(peer: *Peer) Error!void {
        const board = peer.board;
        var set: [boards.most_ranks]bool = undefined;
        const behind = board.behind(peer.group.rank, &set);
        const first = std.mem.indexOfScalar(bool, behind, true) orelse return;
        const text = "{f}: {f} did not come within {d:.3} s; the last call of rank {d} was {f}";
        return peer.giveUp(.timeout, text, .{
            board.line(peer.group.rank).call.in(peer.group.name),
            operation.Ranks{ .set = behind, .global = peer.group.ranks },
            clock.seconds(peer.limit),
            peer.group.ranks[first],
            board.line(first).call.in(peer.group.name),
        });
    }

    /// Fails here with the code, and everywhere else with `aborted` and the same text.
    pub fn giveUp(
        peer: *Peer,
        code: status.Status,
        comptime format: []const u8,
        values: anytype,
    ) Error!void {
        var buffer: [1400]u8 = undefined;
        var writer: std.Io.Writer = .fixed(&buffer);
        writer.print(format, values) catch {}; // Too long: what fits is kept.
        peer.abort(writer.buffered());
        return status.fail(code, "{s}", .{writer.buffered()});
    }
};
