//! Groups of ranks when something goes wrong: calls that differ, groups that are given up, a
//! process that dies, descriptors and mappings left behind; and ranks that are not there.

const std = @import("std");
const linux = std.os.linux;
const boards = @import("comm/board.zig");
const clock = @import("comm/clock.zig");
const fakes = @import("comm/fake.zig");
const harness = @import("comm/conformance_harness.zig");
const operation = @import("comm/operation.zig");
const peers = @import("comm/peer.zig");
const segment = @import("comm/segment.zig");
const status = @import("abi/status.zig");
const watchdog = @import("comm/watchdog.zig");
const Fake = fakes.Fake;
const Recorder = @import("comm/recorder.zig").Recorder;
const Transport = @import("comm/transport.zig").Transport;
const gpa = std.testing.allocator;

const layout: boards.Layout = .{ .size = 0, .slice_bytes = 1024, .part_bytes = 192 };
const kinds = [_]harness.Kind{ .threads, .shm };

fn expectFailure(result: status.Error!void, code: status.Status, text: []const u8) !void {
    if (result) return error.NoFailure else |_| {}
    const said = std.mem.span(status.lastError());
    const same = status.finish(result, "test") == code;
    if (same and std.mem.find(u8, said, text) != null) return;
    std.debug.print("expected {t} with \"{s}\"\n", .{ code, text });
    return error.WrongText;
}

fn sum(transport: Transport, values: []f32, site: []const u8) status.Error!void {
    return transport.collective(.{
        .kind = .all_reduce,
        .dtype = .f32,
        .count = values.len,
        .input = std.mem.sliceAsBytes(values).ptr,
        .output = std.mem.sliceAsBytes(values).ptr,
        .site = site,
    });
}

test "calls that differ are named on every rank, and nothing moves" {
    for (kinds) |kind| try harness.run(kind, layout, 3, {}, struct {
        fn body(transport: Transport, _: void) anyerror!void {
            var values: [40]f32 = @splat(3);
            const is_wrong = transport.group().rank == 1;
            try sum(transport, &values, "first");
            const result = if (is_wrong)
                transport.collective(.{ .kind = .barrier, .site = "end" })
            else
                sum(transport, &values, "block 6 grads");
            const text = "rank 11 called barrier[world] #1 (end) while ranks 10, 12 called " ++
                "all_reduce[world] #1 (block 6 grads, 40 f32)";
            try expectFailure(result, .aborted, text);
            for (values) |value| try std.testing.expectEqual(@as(f32, 9), value);
            const after = transport.collective(.{ .kind = .barrier });
            try expectFailure(after, .aborted, "barrier[world]: the group was given up: rank 11");
            try expectFailure(transport.exchange(null, .{
                .peer = (transport.group().rank + 1) % 3,
                .dtype = .f32,
                .count = 40,
                .data = std.mem.sliceAsBytes(&values).ptr,
            }), .aborted, "the group was given up");
        }
    }.body);
}

test "a group is given up from another thread while a rank waits" {
    for (kinds) |kind| try harness.run(kind, layout, 2, {}, struct {
        fn body(transport: Transport, _: void) anyerror!void {
            if (transport.group().rank == 1) {
                // Waits until rank 0 waits, then for its end.
                const peer = if (transport == .threads) transport.threads else transport.shm;
                while (peer.board.line(0).arrivals.load(.acquire) == 0) clock.sleep(1_000_000);
                const reason = "why not";
                const thread = try std.Thread.spawn(.{}, Transport.abort, .{ transport, reason });
                thread.join();
                transport.abort("a second reason"); // Idempotent: the first one stays.
                return;
            }
            var values: [4]f32 = @splat(1);
            try expectFailure(sum(transport, &values, ""), .aborted, "given up: why not");
        }
    }.body);
}

test "a message in time, a late one, and one from a rank that has left" {
    for (kinds) |kind| try harness.run(kind, layout, 2, {}, struct {
        fn body(transport: Transport, _: void) anyerror!void {
            var bytes: [64]u8 = @splat(7);
            if (transport.group().rank == 0) {
                const message: operation.Outgoing = .{
                    .peer = 1,
                    .dtype = .u8,
                    .count = 64,
                    .data = &bytes,
                };
                return transport.exchange(message, null);
            }
            const message: operation.Incoming = .{
                .peer = 0,
                .dtype = .u8,
                .count = 64,
                .data = &bytes,
            };
            try transport.exchange(null, message);
            transport.setLimit(20_000_000);
            const late = transport.exchange(null, message);
            if (late) return error.NoFailure else |_| {}
            const said = std.mem.span(status.lastError());
            const is_named = std.mem.find(u8, said, "rank 10") != null;
            try std.testing.expect(is_named); // late, or left already
        }
    }.body);
}

test "a killed process: who waits for it learns its rank" {
    const fd = try segment.create(.{ .size = 2, .slice_bytes = 1024, .part_bytes = 192 });
    const recorder = try gpa.create(Recorder);
    defer gpa.destroy(recorder);
    recorder.* = .{};
    const parent: u32 = @intCast(linux.getpid());
    const forked = linux.fork();
    if (forked == 0) {
        const group: peers.Group = .{ .name = "pair", .ranks = &.{ 4, 9 }, .rank = 1 };
        const arena = std.heap.page_allocator;
        _ = segment.open(arena, parent, fd, group, recorder) catch linux.exit_group(1);
        clock.sleep(600 * clock.second);
        linux.exit_group(0);
    }
    const group: peers.Group = .{ .name = "pair", .ranks = &.{ 4, 9 }, .rank = 0 };
    const peer = try segment.open(gpa, 0, fd, group, recorder);
    defer peer.close();
    const transport: Transport = .{ .shm = peer };
    try transport.wait(60 * clock.second);
    watchdog.watchProcesses(peer);
    watchdog.lookAt(peer);
    try peer.expectAlive("test"); // It lives.
    const child: linux.pid_t = @intCast(forked);
    const Killer = struct {
        fn work(watched: *peers.Peer, pid: linux.pid_t) void {
            while (watched.board.line(0).arrivals.load(.acquire) == 0) clock.sleep(1_000_000);
            _ = linux.kill(pid, .KILL);
            while (watched.board.reason() == null) {
                watchdog.lookAt(watched);
                clock.sleep(1_000_000);
            }
        }
    };
    const thread = try std.Thread.spawn(.{}, Killer.work, .{ peer, child });
    var values: [4]f32 = @splat(1);
    const result = sum(transport, &values, "grads");
    thread.join();
    var state: i32 = 0;
    _ = linux.wait4(child, &state, 0, null);
    try expectFailure(result, .aborted, "rank 9 (process ");
}

fn countLines(path: [*:0]const u8) !usize {
    const opened = linux.open(path, .{ .CLOEXEC = true }, 0);
    if (linux.errno(opened) != .SUCCESS) return error.NoFile;
    const fd: linux.fd_t = @intCast(opened);
    defer _ = linux.close(fd);
    var lines: usize = 0;
    var buffer: [4096]u8 = undefined;
    while (true) {
        const got = linux.read(fd, &buffer, buffer.len);
        if (linux.errno(got) != .SUCCESS) return error.NoFile;
        if (got == 0) return lines;
        lines += std.mem.count(u8, buffer[0..got], "\n");
    }
}

fn countMappings() !usize {
    return countLines("/proc/self/maps");
}

/// The lowest free descriptor: rises when one is left open.
fn lowestFree() !usize {
    const opened = linux.open("/proc/self/maps", .{ .CLOEXEC = true }, 0);
    if (linux.errno(opened) != .SUCCESS) return error.NoFile;
    _ = linux.close(@intCast(opened));
    return opened;
}

test "a thousand groups leave no descriptor and no mapping" {
    const recorder = try gpa.create(Recorder);
    defer gpa.destroy(recorder);
    recorder.* = .{};
    const own: u32 = @intCast(linux.getpid());
    var before: [2]usize = undefined;
    for (0..1003) |round| {
        if (round == 3) before = .{ try countMappings(), try lowestFree() };
        const fd = try segment.create(.{ .size = 2, .slice_bytes = 1024, .part_bytes = 192 });
        var pair: [2]*peers.Peer = undefined;
        for (&pair, 0..) |*peer, rank| {
            const own_rank: u32 = @intCast(rank);
            const group: peers.Group = .{ .name = "x", .ranks = &.{ 0, 1 }, .rank = own_rank };
            peer.* = try segment.open(gpa, if (rank == 0) 0 else own, fd, group, recorder);
            if (rank == 0) try std.testing.expect(!try peer.*.poll());
        }
        for (pair) |peer| watchdog.watchProcesses(peer);
        for (pair) |peer| try std.testing.expect(try peer.poll());
        for (pair) |peer| peer.close();
    }
    try std.testing.expectEqual(before[1], try lowestFree());
    // The allocator may have mapped a little.
    try std.testing.expect(try countMappings() < before[0] + 8);
}

test "memory that is no segment is refused" {
    const made: linux.fd_t = @intCast(linux.memfd_create("other", linux.MFD.CLOEXEC));
    _ = linux.ftruncate(made, 4096);
    defer _ = linux.close(made);
    const own: u32 = @intCast(linux.getpid());
    const group: peers.Group = .{ .name = "x", .ranks = &.{ 0, 1 }, .rank = 1 };
    var recorder: *Recorder = try gpa.create(Recorder);
    defer gpa.destroy(recorder);
    recorder.count = 0;
    for ([_]linux.fd_t{ made, 1 << 20 }) |fd| {
        if (segment.open(gpa, own, fd, group, recorder)) |_| return error.NoFailure else |_| {}
        try std.testing.expect(std.mem.startsWith(u8, std.mem.span(status.lastError()), "shm: "));
    }
}

fn fakeLogs(swapped: bool) !void {
    const size = 300;
    const recorder = try gpa.create(Recorder);
    defer gpa.destroy(recorder);
    recorder.* = .{};
    var ranks: [size]u32 = undefined;
    for (&ranks, 0..) |*rank, i| rank.* = @intCast(i);
    var fake: [size]*Fake = undefined;
    for (&fake, 0..) |*it, i| {
        const group: peers.Group = .{ .name = "fsdp", .ranks = &ranks, .rank = @intCast(i) };
        it.* = try Fake.create(gpa, group, recorder);
    }
    defer for (fake) |it| it.close();
    var logs: [size][]const operation.Description = undefined;
    for (fake, &logs, 0..) |it, *log, i| {
        const transport: Transport = .{ .fake = it };
        var values: [2]f32 = .{ 1, 2 };
        const sites: [2][]const u8 = if (swapped and i == 77) .{ "b", "a" } else .{ "a", "b" };
        for (sites) |site| try sum(transport, &values, site);
        try std.testing.expectEqual([2]f32{ 1, 2 }, values);
        const to: u32 = @intCast((i + 1) % size);
        const from: u32 = @intCast((i + size - 1) % size);
        const bytes = std.mem.sliceAsBytes(&values);
        const count: usize = if (swapped and i == 5) 1 else 2;
        try transport.exchange(
            .{ .peer = to, .dtype = .f32, .count = count, .data = bytes.ptr },
            .{ .peer = from, .dtype = .f32, .count = 2, .data = bytes.ptr },
        );
        log.* = it.log.items;
    }
    try fakes.checkCollectives("fsdp", &ranks, &logs);
    try fakes.checkMessages("fsdp", &ranks, &logs);
}

test "ranks that are not there: equal sequences pass, a swapped call is found without running" {
    try fakeLogs(false);
    const text = "rank 0 calls all_reduce[fsdp] #0 (a, 2 f32) while rank 77 calls " ++
        "all_reduce[fsdp] #0 (b, 2 f32)";
    if (fakeLogs(true)) return error.NoFailure else |_| {}
    try std.testing.expectEqualStrings(text, std.mem.span(status.lastError()));
}

test "ranks that are not there: messages must be received as they are sent" {
    const first: operation.Outgoing = .{
        .peer = 1,
        .dtype = .f32,
        .count = 4,
        .data = undefined,
        .site = "a",
    };
    var sent = first.describe(0);
    sent.root = 1;
    var received = sent;
    received.kind = .receive;
    received.root = 0;
    const ranks = [_]u32{ 6, 7 };
    try fakes.checkMessages("pp", &ranks, &.{ &.{ sent, sent }, &.{ received, received } });
    var other = received;
    other.count = 5;
    const missing = fakes.checkMessages("pp", &ranks, &.{ &.{sent}, &.{} });
    try expectFailure(missing, .invalid_argument, "while rank 7 calls nothing more");
    const wrong = fakes.checkMessages("pp", &ranks, &.{ &.{sent}, &.{other} });
    try expectFailure(wrong, .invalid_argument, "rank 6 calls send[pp] #0 (a, 4 f32)");
}
