//! Runs a body on several ranks for the conformance cases: threads of this process, which share
//! plain memory or each map the same segment.

const std = @import("std");
const boards = @import("board.zig");
const clock = @import("clock.zig");
const peers = @import("peer.zig");
const segment = @import("segment.zig");
const status = @import("../abi/status.zig");
const Recorder = @import("recorder.zig").Recorder;
const Shared = @import("threads.zig").Shared;
const Transport = @import("transport.zig").Transport;
const gpa = std.testing.allocator;

pub const Kind = enum { threads, shm };
pub const most_ranks = 8;

/// What one rank is given.
const Place = struct {
    kind: Kind,
    shared: ?*Shared = null,
    fd: std.os.linux.fd_t = -1,
    size: usize,
    rank: u32,
    recorder: *Recorder,

    fn open(place: Place) !Transport {
        var ranks: [most_ranks]u32 = undefined;
        for (ranks[0..place.size], 10..) |*rank, global| rank.* = @intCast(global);
        const group: peers.Group = .{
            .name = "world",
            .ranks = ranks[0..place.size],
            .rank = place.rank,
        };
        const transport: Transport = switch (place.kind) {
            .threads => .{ .threads = try place.shared.?.open(gpa, group, place.recorder) },
            .shm => .{ .shm = try segment.open(
                gpa,
                if (place.rank == 0) 0 else @intCast(std.os.linux.getpid()),
                place.fd,
                group,
                place.recorder,
            ) },
        };
        errdefer transport.close();
        try transport.wait(60 * clock.second);
        transport.setLimit(60 * clock.second);
        return transport;
    }
};

/// The body fails on no rank, or this fails and says which.
pub fn run(
    kind: Kind,
    layout: boards.Layout,
    size: usize,
    context: anytype,
    comptime body: fn (Transport, @TypeOf(context)) anyerror!void,
) !void {
    var sized = layout;
    sized.size = size;
    const recorders = try gpa.alloc(Recorder, size);
    defer gpa.free(recorders);
    for (recorders) |*recorder| recorder.* = .{};
    const shared = if (kind == .threads) try Shared.create(gpa, sized) else null;
    const fd = if (kind == .shm) try segment.create(sized) else -1;
    const Context = @TypeOf(context);
    const Rank = struct {
        place: Place,
        context: Context,
        result: anyerror!void = {},
        text: [512]u8 = undefined,
        length: usize = 0,

        fn main(rank: *@This()) void {
            rank.result = rank.work();
            rank.result catch {
                const text = std.mem.span(status.lastError());
                rank.length = @min(text.len, rank.text.len);
                @memcpy(rank.text[0..rank.length], text[0..rank.length]);
            };
        }

        fn work(rank: *@This()) anyerror!void {
            const transport = try rank.place.open();
            defer transport.close();
            errdefer transport.abort("another rank has failed");
            return body(transport, rank.context);
        }
    };
    var ranks: [most_ranks]Rank = undefined;
    var threads: [most_ranks]std.Thread = undefined;
    for (ranks[0..size], threads[0..size], 0..) |*rank, *thread, i| {
        rank.* = .{ .context = context, .place = .{
            .kind = kind,
            .shared = shared,
            .fd = fd,
            .size = size,
            .rank = @intCast(i),
            .recorder = &recorders[i],
        } };
        thread.* = try std.Thread.spawn(.{}, Rank.main, .{rank});
    }
    for (threads[0..size]) |thread| thread.join();
    for (ranks[0..size], 0..) |*rank, i| rank.result catch |err| {
        const text = rank.text[0..rank.length];
        std.debug.print("{t}, rank {d} of {d}: {t} {s}\n", .{ kind, i, size, err, text });
        return err;
    };
}
