//! Messages between two ranks of a board. A message travels in parts through two slots per ordered
//! pair; both directions of an exchange move whenever there is something to move, so pairs that
//! exchange cannot block each other.

const std = @import("std");
const boards = @import("board.zig");
const clock = @import("clock.zig");
const operation = @import("operation.zig");
const Board = boards.Board;
const Peer = @import("peer.zig").Peer;
const Description = operation.Description;
const Error = @import("../abi/status.zig").Error;

pub fn run(
    peer: *Peer,
    outgoing: ?operation.Outgoing,
    incoming: ?operation.Incoming,
) Error!void {
    var sending: ?Sending = if (outgoing) |message| .init(peer, message) else null;
    var receiving: ?Receiving = if (incoming) |message| .init(peer, message) else null;
    errdefer {
        if (sending) |it| peer.recorder.fail(it.number);
        if (receiving) |it| peer.recorder.fail(it.number);
    }
    const bell = &peer.board.line(peer.group.rank).bell.word;
    var deadline = clock.now() +| peer.limit;
    while (true) {
        const rung = bell.load(.acquire);
        var moved = false;
        if (sending) |*it| moved = it.push() or moved;
        if (receiving) |*it| moved = try it.pull() or moved;
        const sent = if (sending) |it| it.done else true;
        const received = if (receiving) |it| it.done else true;
        if (sent and received) return;
        if (moved) {
            deadline = clock.now() +| peer.limit;
            continue;
        }
        if (!sent) try expectPeer(peer, &sending.?.call, sending.?.message.peer, deadline);
        if (!received) try expectPeer(peer, &receiving.?.call, receiving.?.message.peer, deadline);
        try peer.sleepOn(bell, rung);
    }
}

fn expectPeer(peer: *Peer, call: *const Description, other: u32, deadline: u64) Error!void {
    const global = peer.group.ranks;
    if (peer.board.hasLeft(other)) return peer.left(other, call);
    if (clock.now() < deadline) return;
    return peer.giveUp(.timeout, "{f}: rank {d} did not take part within {d:.3} s", .{
        call.in(peer.group.name),
        global[other],
        clock.seconds(peer.limit),
    });
}

const Sending = struct {
    peer: *Peer,
    message: operation.Outgoing,
    call: Description,
    number: u64,
    channel: *boards.Channel,
    offset: usize = 0,
    done: bool = false,

    fn init(peer: *Peer, message: operation.Outgoing) Sending {
        const call = message.describe(peer.sent[message.peer]);
        peer.sent[message.peer] += 1;
        return .{
            .peer = peer,
            .message = message,
            .call = call,
            .number = peer.recorder.begin(peer.group.name, call),
            .channel = peer.board.channel(peer.group.rank, message.peer),
        };
    }

    /// Puts parts in while there is room; an empty message is one empty part.
    fn push(it: *Sending) bool {
        const board = it.peer.board;
        const total = it.message.bytes();
        var moved = false;
        while (!it.done) {
            const head = it.channel.head.load(.monotonic);
            if (head -% it.channel.tail.load(.acquire) >= 2) return moved;
            const part = board.part(it.peer.group.rank, it.message.peer, head);
            const bytes = @min(total - it.offset, board.layout.part_bytes);
            part.call = it.call;
            part.offset = it.offset;
            part.bytes = bytes;
            @memcpy(Board.partData(part)[0..bytes], (it.message.data + it.offset)[0..bytes]);
            it.channel.head.store(head +% 1, .release);
            board.ring(it.message.peer);
            moved = true;
            it.offset += bytes;
            it.done = it.offset >= total;
        }
        if (moved) it.peer.recorder.finish(it.number);
        return moved;
    }
};

const Receiving = struct {
    peer: *Peer,
    message: operation.Incoming,
    call: Description,
    number: u64,
    channel: *boards.Channel,
    offset: usize = 0,
    done: bool = false,

    fn init(peer: *Peer, message: operation.Incoming) Receiving {
        const call = message.describe(peer.received[message.peer]);
        peer.received[message.peer] += 1;
        var shown = call;
        shown.kind = .receive;
        return .{
            .peer = peer,
            .message = message,
            .call = call,
            .number = peer.recorder.begin(peer.group.name, shown),
            .channel = peer.board.channel(message.peer, peer.group.rank),
        };
    }

    /// Takes parts out while there are any.
    fn pull(it: *Receiving) Error!bool {
        const board = it.peer.board;
        var moved = false;
        while (!it.done) {
            const tail = it.channel.tail.load(.monotonic);
            if (it.channel.head.load(.acquire) == tail) return moved;
            const part = board.part(it.message.peer, it.peer.group.rank, tail);
            if (part.call.hash != it.call.hash) try it.mismatch(&part.call);
            const bytes: usize = @intCast(part.bytes);
            @memcpy((it.message.data + it.offset)[0..bytes], Board.partData(part)[0..bytes]);
            it.channel.tail.store(tail +% 1, .release);
            board.ring(it.message.peer);
            moved = true;
            it.offset += bytes;
            it.done = it.offset >= it.message.bytes();
        }
        if (moved) it.peer.recorder.finish(it.number);
        return moved;
    }

    fn mismatch(it: *Receiving, sent: *const Description) Error!void {
        const group = it.peer.group;
        var expected = it.call;
        expected.kind = .receive;
        return it.peer.giveUp(.aborted, "rank {d} called {f} while rank {d} called {f}", .{
            group.ranks[it.message.peer],
            sent.in(group.name),
            group.ranks[group.rank],
            expected.in(group.name),
        });
    }
};
