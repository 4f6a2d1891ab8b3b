//! Groups of ranks: opening, waiting for the others, giving up, closing, and the flight record.

const std = @import("std");
const Context = @import("../runtime/context.zig").Context;
const Description = @import("../comm/operation.zig").Description;
const fakes = @import("../comm/fake.zig");
const Fake = fakes.Fake;
const Group = @import("../comm/peer.zig").Group;
const Peer = @import("../comm/peer.zig").Peer;
const Recorder = @import("../comm/recorder.zig").Recorder;
const Transport = @import("../comm/transport.zig").Transport;
const Watchdog = @import("../comm/watchdog.zig").Watchdog;
const clock = @import("../comm/clock.zig");
const segment = @import("../comm/segment.zig");
const scratch = @import("../abi/scratch.zig");
const status = @import("../abi/status.zig");
const text = @import("comm.zig").text;
const op = @import("call.zig");
const Call = op.Call;
const Error = op.Error;

const Entry = struct { transport: Transport, ready: bool = false };

/// Groups by number; a closed one leaves null.
var entries: std.ArrayList(?Entry) = .empty;
var recorder: Recorder = .{};
var watchdog: Watchdog = .{};
pub const most_ranks = scratch.block.ints.len;

fn entry(id: i32) Error!*Entry {
    if (id >= 1 and id <= entries.items.len)
        if (entries.items[@intCast(id - 1)]) |*found| return found;
    return status.invalid("group {d} does not exist: it was disposed of", .{id});
}

/// A group whose ranks are all there.
pub fn find(id: i32) Error!Transport {
    const found = try entry(id);
    if (!found.ready) return status.invalid(
        "group {s} is used before all of its ranks have come; wait for connectGroups()",
        .{found.transport.group().name},
    );
    return found.transport;
}

pub fn insert(context: *Context, transport: Transport) Error!void {
    errdefer transport.close();
    try entries.append(context.gpa, .{ .transport = transport });
    scratch.block.numbers[0] = @floatFromInt(entries.items.len);
}

pub fn record() *Recorder {
    return &recorder;
}

pub const Iterator = struct {
    at: usize = 0,

    pub fn next(walk: *Iterator) ?Transport {
        while (walk.at < entries.items.len) {
            walk.at += 1;
            if (entries.items[walk.at - 1]) |found| return found.transport;
        }
        return null;
    }
};

/// All groups that are open.
pub fn iterate() Iterator {
    return .{};
}

/// Group from the arguments: its global ranks in scratch ints, its name in scratch text.
pub fn groupOf(call: *Call, size: i32, rank: i32, name: []const u8, ranks: []u32) Error!Group {
    if (size < 1 or size > most_ranks) return call.invalid(
        "a group of {d} ranks; 1 to {d} are possible",
        .{ size, most_ranks },
    );
    if (rank < 0 or rank >= size)
        return call.invalid("rank {d} of a group of {d} ranks", .{ rank, size });
    const given = scratch.block.ints[0..@intCast(size)];
    for (given, ranks[0..given.len]) |global, *to| {
        if (global < 0) return call.invalid("a global rank is {d}", .{global});
        to.* = @intCast(global);
    }
    return .{ .name = name, .ranks = ranks[0..given.len], .rank = @intCast(rank) };
}

/// The descriptor that `makeSegment` made and nobody has opened yet.
var offered: i32 = -1;

/// Makes the shared memory of a group of `size` ranks. Numbers: this process, the descriptor. The
/// caller opens the group with them next, and then tells the other ranks.
pub fn makeSegment(context: *Context, size: i32) Error!void {
    var call = Call.begin(context, "group");
    defer call.end();
    if (size < 1) return call.invalid("a group of {d} ranks", .{size});
    if (offered >= 0) _ = std.os.linux.close(offered);
    offered = -1;
    const fd = try segment.create(.{ .size = @intCast(size) });
    offered = fd;
    scratch.block.numbers[0] = @floatFromInt(std.os.linux.getpid());
    scratch.block.numbers[1] = @floatFromInt(fd);
}

/// Opens a group on the segment `fd` of process `pid`. Number: the group.
pub fn openShared(
    context: *Context,
    pid: i32,
    fd: i32,
    size: i32,
    rank: i32,
    name_length: i32,
) Error!void {
    var call = Call.begin(context, "group");
    defer call.end();
    var ranks: [most_ranks]u32 = undefined;
    const name = try text(&call, 0, name_length);
    const group = try groupOf(&call, size, rank, name, &ranks);
    if (pid < 1 or fd < 0) return call.invalid("descriptor {d} of process {d}", .{ fd, pid });
    const is_own = fd == offered and pid == std.os.linux.getpid();
    if (is_own) offered = -1; // taken over, also when the group does not open
    const owner: u32 = if (is_own) 0 else @intCast(pid);
    const peer = try segment.open(context.gpa, owner, fd, group, &recorder);
    return insert(context, .{ .shm = peer });
}

/// Opens a group whose other ranks do not exist. Number: the group.
pub fn openFake(context: *Context, size: i32, rank: i32, name_length: i32) Error!void {
    var call = Call.begin(context, "group");
    defer call.end();
    var ranks: [most_ranks]u32 = undefined;
    const name = try text(&call, 0, name_length);
    const group = try groupOf(&call, size, rank, name, &ranks);
    return insert(context, .{ .fake = try Fake.create(context.gpa, group, &recorder) });
}

/// Fails at the first place where groups of ranks that do not exist, one per rank in scratch ints,
/// would wait for each other forever.
pub fn checkFakes(context: *Context, count: i32) Error!void {
    var call = Call.begin(context, "checkSequences");
    defer call.end();
    if (count < 1 or count > most_ranks) return call.invalid("{d} groups", .{count});
    const size: usize = @intCast(count);
    var logs: [most_ranks][]const Description = undefined;
    var name: []const u8 = "";
    var ranks: []const u32 = &.{};
    for (scratch.block.ints[0..size], logs[0..size], 0..) |id, *log, place| {
        const found = (try entry(id)).transport;
        if (found != .fake) return call.invalid(
            "group {s} moves data; groups of Group.fake are compared",
            .{found.group().name},
        );
        const group = found.group();
        if (place == 0) name = group.name;
        if (place == 0) ranks = group.ranks;
        if (group.rank != place or !std.mem.eql(u32, group.ranks, ranks)) return call.invalid(
            "group {s} at place {d} is of rank {d} of {d}: give one group per rank, in order",
            .{ group.name, place, group.rank, group.size() },
        );
        log.* = found.fake.log.items;
    }
    if (ranks.len != size) return call.invalid(
        "{d} groups for {d} ranks: give one group per rank, in order",
        .{ size, ranks.len },
    );
    try fakes.checkCollectives(name, ranks, logs[0..size]);
    try fakes.checkMessages(name, ranks, logs[0..size]);
}

/// Numbers: 1 when everybody has come and the group can be used, else 0; how many ranks are known
/// to be missing, which lie in scratch ints.
pub fn poll(context: *Context, id: i32) Error!void {
    const found = try entry(id);
    const ready = try found.transport.poll();
    scratch.block.numbers[0] = @floatFromInt(@intFromBool(ready));
    scratch.block.numbers[1] = 0;
    if (!ready and found.transport == .shm) listMissing(found.transport.shm);
    if (!ready or found.ready) return;
    try watchdog.add(context.gpa, found.transport);
    found.ready = true;
}

fn listMissing(peer: *const Peer) void {
    var count: usize = 0;
    for (0..peer.group.size()) |rank| if (!peer.board.hasCome(rank)) {
        scratch.block.ints[count] = @intCast(rank);
        count += 1;
    };
    scratch.block.numbers[1] = @floatFromInt(count);
}

/// Seconds that a call may wait for the others.
pub fn setLimit(_: *Context, id: i32, seconds: f64) Error!void {
    const found = try entry(id);
    if (!(seconds > 0 and seconds <= 1e9))
        return status.invalid("group: a deadline of {d} seconds", .{seconds});
    found.transport.setLimit(@intFromFloat(seconds * clock.second));
}

/// Gives a group up, with the reason in scratch text: whoever waits in it fails.
pub fn abort(context: *Context, id: i32, reason_length: i32) Error!void {
    var call = Call.begin(context, "abort");
    defer call.end();
    const found = try entry(id);
    found.transport.abort(try text(&call, 0, reason_length));
}

/// Lets go of a group.
pub fn close(context: *Context, id: i32) Error!void {
    const found = try entry(id);
    const transport = found.transport;
    entries.items[@intCast(id - 1)] = null;
    watchdog.remove(transport);
    if (transport == .nccl) @import("comm_stream.zig").joinAll(context, transport.nccl);
    transport.close();
}

/// Lets go of all groups; before the process ends.
pub fn closeAll(context: *Context) Error!void {
    for (entries.items, 1..) |found, id| {
        if (found != null) try close(context, @intCast(id));
    }
}

/// The step that entries of the flight record carry from now on.
pub fn setStep(_: *Context, step: f64) Error!void {
    recorder.step = step;
}

/// Entries of the flight record from number `first` on into scratch text, as JSON lines. Numbers:
/// bytes, the number of the next entry, entries so far.
pub fn printRecord(_: *Context, first: f64) Error!void {
    if (!(first >= 0 and first <= 1e15)) return status.invalid("record: entry {d}", .{first});
    var writer: std.Io.Writer = .fixed(&scratch.block.text);
    const next = recorder.print(@intFromFloat(first), &writer);
    scratch.block.numbers[0] = @floatFromInt(writer.end);
    scratch.block.numbers[1] = @floatFromInt(next);
    scratch.block.numbers[2] = @floatFromInt(recorder.count);
}
