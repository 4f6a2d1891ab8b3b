//! Whether a step ends: runs the op lists of all ranks of a mesh against each other (mesh.md §20).
//! The members of a group must call the same things in the same order, messages must find each
//! other, and nobody may wait forever. Sends wait for their receiver, which is more than any
//! backend asks.

const std = @import("std");
const axes = @import("axes.zig");
const operations = @import("operations.zig");
const status = @import("../abi/status.zig");
const AxisSet = axes.AxisSet;
const Error = status.Error;
const Operation = operations.Operation;

/// A group that some members wait in.
const Meeting = struct {
    hash: u64 = 0,
    /// Who came first: others are compared with it.
    first: u32 = 0,
    arrived: u32 = 0,
    /// Calls that are complete.
    done: u32 = 0,
};

/// What a rank does now.
const Progress = struct {
    at: u32 = 0,
    /// Of an exchange: what is left to be done.
    sends: bool = false,
    receives: bool = false,
    has_begun: bool = false,
};

/// What a rank calls: ranks may share lists.
pub const Steps = struct {
    passes: []const Operation,
    closing: []const Operation = &.{},

    fn at(steps: Steps, number: usize) ?*const Operation {
        if (number < steps.passes.len) return &steps.passes[number];
        const rest = number - steps.passes.len;
        return if (rest < steps.closing.len) &steps.closing[rest] else null;
    }
};

/// Prints an operation of a rank for errors.
pub const Describe = *const fn (
    context: *const anyopaque,
    writer: *std.Io.Writer,
    rank: u32,
    operation: *const Operation,
) std.Io.Writer.Error!void;

pub const Lists = struct {
    mesh: *const axes.Mesh,
    /// By rank.
    lists: []const Steps,
    context: *const anyopaque,
    describe: Describe,
};

const Run = struct {
    given: *const Lists,
    /// By set of axes and by the first rank of the group.
    meetings: [1 << axes.count]?[]Meeting = @splat(null),
    progress: []Progress,
    ready: std.ArrayList(u32) = .empty,
    /// The rank whose operation is being looked at.
    acting: u32 = 0,
    arena: std.mem.Allocator,

    fn current(run: *const Run, rank: u32) ?*const Operation {
        return run.given.lists[rank].at(run.progress[rank].at);
    }

    fn finish(run: *Run, rank: u32) Error!void {
        const progress = &run.progress[rank];
        progress.* = .{ .at = progress.at + 1 };
        try run.ready.append(run.arena, rank);
    }

    fn meetingOf(run: *Run, rank: u32, over: AxisSet) Error!*Meeting {
        const slot = &run.meetings[over.bits.mask];
        if (slot.* == null) {
            slot.* = try run.arena.alloc(Meeting, run.given.mesh.world());
            @memset(slot.*.?, .{});
        }
        return &slot.*.?[run.given.mesh.member(rank, over, 0)];
    }

    fn collective(run: *Run, rank: u32, operation: *const Operation) Error!void {
        const mesh = run.given.mesh;
        const meeting = try run.meetingOf(rank, operation.over);
        const hash = operation.hash();
        if (meeting.arrived == 0) {
            meeting.first = rank;
            meeting.hash = hash;
        } else if (meeting.hash != hash) return run.mismatch(rank, meeting);
        meeting.arrived += 1;
        const size = mesh.groupSize(operation.over);
        if (meeting.arrived < size) return;
        meeting.arrived = 0;
        meeting.done += 1;
        for (0..size) |place| try run.finish(mesh.member(rank, operation.over, @intCast(place)));
    }

    fn mismatch(run: *Run, rank: u32, meeting: *const Meeting) Error {
        return status.invalid("plan: in call {d} of {f}, {f}, but {f}", .{
            meeting.done + 1,
            operations.GroupName{ .over = run.current(rank).?.over },
            run.shown(meeting.first),
            run.shown(rank),
        });
    }

    fn peerOf(run: *const Run, rank: u32, operation: *const Operation, place: u32) u32 {
        return run.given.mesh.member(rank, operation.over, place);
    }

    fn message(run: *Run, rank: u32, operation: *const Operation) Error!void {
        const own = &run.progress[rank];
        if (!own.has_begun) own.* = .{
            .at = own.at,
            .sends = operation.kind != .receive,
            .receives = operation.kind != .send,
            .has_begun = true,
        };
        if (own.sends) try run.deliver(rank, run.peerOf(rank, operation, operation.to));
        if (own.receives) try run.deliver(run.peerOf(rank, operation, operation.from), rank);
        if (!own.sends and !own.receives) try run.finish(rank);
    }

    /// Hands a message over when both sides are there.
    fn deliver(run: *Run, from: u32, to: u32) Error!void {
        const sender = &run.progress[from];
        const receiver = &run.progress[to];
        if (!sender.has_begun or !receiver.has_begun) return;
        if (!sender.sends or !receiver.receives) return;
        const out = run.current(from).?;
        const in = run.current(to).?;
        if (run.peerOf(from, out, out.to) != to or run.peerOf(to, in, in.from) != from) return;
        const expected = if (in.kind == .exchange) in.received else in.site;
        if (!std.meta.eql(out.site, expected) or out.count != in.count or out.dtype != in.dtype)
            return status.invalid("plan: {f}, but {f}", .{ run.shown(from), run.shown(to) });
        sender.sends = false;
        receiver.receives = false;
        // The other side goes on where nothing of its exchange is left.
        for ([_]u32{ from, to }) |rank| {
            const progress = &run.progress[rank];
            if (!progress.sends and !progress.receives and rank != run.acting) try run.finish(rank);
        }
    }

    fn go(run: *Run) Error!void {
        for (0..run.given.lists.len) |rank| try run.ready.append(run.arena, @intCast(rank));
        while (run.ready.pop()) |rank| {
            const operation = run.current(rank) orelse continue;
            run.acting = rank;
            if (operation.kind.isMessage())
                try run.message(rank, operation)
            else
                try run.collective(rank, operation);
        }
        for (0..run.given.lists.len) |rank| {
            const one: u32 = @intCast(rank);
            if (run.current(one) != null) return run.stuck(one);
        }
    }

    fn stuck(run: *Run, rank: u32) Error {
        const mesh = run.given.mesh;
        const operation = run.current(rank).?;
        for (0..mesh.groupSize(operation.over)) |place| {
            const other = mesh.member(rank, operation.over, @intCast(place));
            const their = run.current(other) orelse return status.invalid(
                "plan: {f} and waits forever: rank {d} has ended its step",
                .{ run.shown(rank), other },
            );
            if (their.hash() != operation.hash()) return status.invalid(
                "plan: {f} and waits forever: {f}",
                .{ run.shown(rank), run.shown(other) },
            );
        }
        return status.invalid("plan: {f} and waits forever", .{run.shown(rank)});
    }

    fn shown(run: *const Run, rank: u32) Shown {
        return .{ .given = run.given, .rank = rank, .operation = run.current(rank).? };
    }
};

const Shown = struct {
    given: *const Lists,
    rank: u32,
    operation: *const Operation,

    pub fn format(shown: Shown, writer: *std.Io.Writer) std.Io.Writer.Error!void {
        try writer.print("rank {d} calls ", .{shown.rank});
        try shown.given.describe(shown.given.context, writer, shown.rank, shown.operation);
    }
};

/// Fails, and names ranks and operations, unless all ranks come to the end of their lists.
pub fn check(gpa: std.mem.Allocator, given: *const Lists) Error!void {
    var arena: std.heap.ArenaAllocator = .init(gpa);
    defer arena.deinit();
    const allocator = arena.allocator();
    const progress = try allocator.alloc(Progress, given.lists.len);
    @memset(progress, .{});
    var run: Run = .{ .given = given, .progress = progress, .arena = allocator };
    return run.go();
}
