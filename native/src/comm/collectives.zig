//! Collectives on a board. Ranks of several processes pass data through slots, a slice at a time:
//! each puts its slice into its own slot, all meet, each takes what it needs. Two slots per rank
//! are used in turn: whoever writes to one again has met everybody since they read it. Ranks that
//! are threads read each other's buffers instead and meet once more at the end.

const std = @import("std");
const operation = @import("operation.zig");
const reduce = @import("reduce.zig");
const Peer = @import("peer.zig").Peer;
const Error = @import("../abi/status.zig").Error;

/// Up to this many bytes every rank reduces everything itself, which saves a barrier.
const small_bytes = 4096;

pub fn run(peer: *Peer, call: *const operation.Collective, number: u64) Error!void {
    const walk: Walk = .{ .peer = peer, .call = call, .number = number };
    switch (call.kind) {
        .all_reduce => try walk.allReduce(),
        .reduce_scatter => try walk.reduceScatter(),
        .all_gather => try walk.allGather(),
        .all_to_all => try walk.allToAll(),
        .broadcast => try walk.broadcast(),
        .barrier, .split => try walk.meet(0),
        .send, .receive, .replay => unreachable, // messages.zig
    }
    // Buffers of threads must stay until everybody has read them.
    if (peer.board.is_private) try peer.barrier(false);
}

const Walk = struct {
    peer: *Peer,
    call: *const operation.Collective,
    number: u64,

    fn ranks(walk: Walk) usize {
        return walk.peer.group.size();
    }

    fn self(walk: Walk) usize {
        return walk.peer.group.rank;
    }

    fn direct(walk: Walk) bool {
        return walk.peer.board.is_private;
    }

    /// Elements of a slice of `pieces` pieces, per piece.
    fn step(walk: Walk, pieces: usize) usize {
        const whole = @max(walk.call.count, 1);
        if (walk.direct()) return whole;
        const fit = walk.peer.board.layout.slice_bytes / walk.call.dtype.size() / pieces;
        // Whole cache lines, where there are any.
        return @min(whole, if (fit > 64) fit / 64 * 64 else fit);
    }

    fn bytes(walk: Walk, elements: usize) usize {
        return elements * walk.call.dtype.size();
    }

    /// Barrier after the slice that starts at element `at`; the first one compares the calls.
    fn meet(walk: Walk, at: usize) Error!void {
        try walk.peer.barrier(at == 0);
        if (at == 0) walk.peer.recorder.start(walk.number);
    }

    fn slot(walk: Walk, rank: usize) [*]u8 {
        return walk.peer.board.slot(rank, walk.peer.turn);
    }

    /// Where a rank has put the slice that starts at `at` of a buffer without pieces.
    fn source(walk: Walk, rank: usize, at: usize) [*]u8 {
        if (!walk.direct()) return walk.slot(rank);
        const buffer: [*]u8 = @ptrFromInt(walk.peer.board.line(rank).input);
        return buffer + walk.bytes(at);
    }

    /// Where a rank has put `width` elements from `at` on of piece `index`.
    fn piece(walk: Walk, rank: usize, index: usize, at: usize, width: usize) [*]u8 {
        if (!walk.direct()) return walk.slot(rank) + walk.bytes(index * width);
        const buffer: [*]u8 = @ptrFromInt(walk.peer.board.line(rank).input);
        return buffer + walk.bytes(index * walk.call.count + at);
    }

    /// Puts elements into the own slot.
    fn stage(walk: Walk, at: usize, width: usize) void {
        if (walk.direct()) return;
        const from = walk.call.input + walk.bytes(at);
        @memcpy(walk.slot(walk.self())[0..walk.bytes(width)], from[0..walk.bytes(width)]);
    }

    fn stagePieces(walk: Walk, at: usize, width: usize) void {
        if (walk.direct()) return;
        for (0..walk.ranks()) |index| {
            const from = walk.call.input + walk.bytes(index * walk.call.count + at);
            const to = walk.piece(walk.self(), index, at, width);
            @memcpy(to[0..walk.bytes(width)], from[0..walk.bytes(width)]);
        }
    }

    /// Copies elements to place `at` of the output.
    fn take(walk: Walk, from: [*]const u8, at: usize, width: usize) void {
        const to = walk.call.output + walk.bytes(at);
        if (to == from) return; // in place
        @memcpy(to[0..walk.bytes(width)], from[0..walk.bytes(width)]);
    }

    fn allReduce(walk: Walk) Error!void {
        const count = walk.call.count;
        const most = walk.step(1);
        var at: usize = 0;
        while (true) : (at += most) {
            const width = @min(most, count - at);
            walk.stage(at, width);
            try walk.meet(at);
            if (!walk.direct() and walk.bytes(width) <= small_bytes) {
                walk.combineInto(walk.call.output + walk.bytes(at), at, 0, width);
            } else try walk.reduceShared(at, width);
            walk.peer.turn += 1;
            if (at + width >= count) return;
        }
    }

    /// Each rank reduces its share of the slice where the others find it.
    fn reduceShared(walk: Walk, at: usize, width: usize) Error!void {
        const mine = walk.share(walk.self(), width);
        const to = walk.result(walk.self(), at) + walk.bytes(mine.from);
        walk.combineInto(to, at, mine.from, mine.width);
        try walk.peer.barrier(false);
        for (0..walk.ranks()) |rank| {
            const theirs = walk.share(rank, width);
            const from = walk.result(rank, at) + walk.bytes(theirs.from);
            walk.take(from, at + theirs.from, theirs.width);
        }
    }

    fn combineInto(walk: Walk, to: [*]u8, at: usize, from: usize, width: usize) void {
        var sources: [reduce.most_ranks][*]const u8 = undefined;
        for (sources[0..walk.ranks()], 0..) |*each, rank|
            each.* = walk.source(rank, at) + walk.bytes(from);
        reduce.combine(
            walk.call.reduction,
            walk.call.dtype,
            sources[0..walk.ranks()],
            to,
            width,
        );
    }

    /// Where a rank leaves its share of a sum: over its own contribution, which only it reads
    /// there, or in its output.
    fn result(walk: Walk, rank: usize, at: usize) [*]u8 {
        if (!walk.direct()) return walk.slot(rank);
        const buffer: [*]u8 = @ptrFromInt(walk.peer.board.line(rank).output);
        return buffer + walk.bytes(at);
    }

    const Share = struct { from: usize, width: usize };

    /// Whole cache lines per rank, so that no two ranks write to one.
    fn share(walk: Walk, rank: usize, width: usize) Share {
        const line = 64;
        const lines = std.math.divCeil(usize, width, line) catch unreachable;
        const each = std.math.divCeil(usize, lines, walk.ranks()) catch unreachable;
        const from = @min(width, rank * each * line);
        return .{ .from = from, .width = @min(width, from + each * line) - from };
    }

    fn reduceScatter(walk: Walk) Error!void {
        const count = walk.call.count;
        const most = walk.step(walk.ranks());
        var at: usize = 0;
        while (true) : (at += most) {
            const width = @min(most, count - at);
            walk.stagePieces(at, width);
            try walk.meet(at);
            var sources: [reduce.most_ranks][*]const u8 = undefined;
            for (sources[0..walk.ranks()], 0..) |*each, rank|
                each.* = walk.piece(rank, walk.self(), at, width);
            const to = walk.call.output + walk.bytes(at);
            const all = sources[0..walk.ranks()];
            reduce.combine(walk.call.reduction, walk.call.dtype, all, to, width);
            walk.peer.turn += 1;
            if (at + width >= count) return;
        }
    }

    fn allGather(walk: Walk) Error!void {
        const count = walk.call.count;
        const most = walk.step(1);
        var at: usize = 0;
        while (true) : (at += most) {
            const width = @min(most, count - at);
            walk.stage(at, width);
            try walk.meet(at);
            for (0..walk.ranks()) |rank|
                walk.take(walk.source(rank, at), rank * count + at, width);
            walk.peer.turn += 1;
            if (at + width >= count) return;
        }
    }

    fn allToAll(walk: Walk) Error!void {
        const count = walk.call.count;
        const most = walk.step(walk.ranks());
        var at: usize = 0;
        while (true) : (at += most) {
            const width = @min(most, count - at);
            walk.stagePieces(at, width);
            try walk.meet(at);
            for (0..walk.ranks()) |rank|
                walk.take(walk.piece(rank, walk.self(), at, width), rank * count + at, width);
            walk.peer.turn += 1;
            if (at + width >= count) return;
        }
    }

    fn broadcast(walk: Walk) Error!void {
        const count = walk.call.count;
        const most = walk.step(1);
        const root: usize = walk.call.root;
        var at: usize = 0;
        while (true) : (at += most) {
            const width = @min(most, count - at);
            if (walk.self() == root) walk.stage(at, width);
            try walk.meet(at);
            if (walk.self() != root or walk.call.output != walk.call.input)
                walk.take(walk.source(root, at), at, width);
            walk.peer.turn += 1;
            if (at + width >= count) return;
        }
    }
};
