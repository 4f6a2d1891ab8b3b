const std = @import("std");
const schedules = @import("schedule.zig");
const checks = @import("schedule_check.zig");
const status = @import("../abi/status.zig");
const Op = schedules.Op;
const Shape = schedules.Shape;
const testing = std.testing;

/// Op lists of all stages.
const Lists = struct {
    arena: std.heap.ArenaAllocator,
    ops: [][]Op,

    fn init(shape: Shape) !Lists {
        var arena: std.heap.ArenaAllocator = .init(testing.allocator);
        errdefer arena.deinit();
        const gpa = arena.allocator();
        const ops = try gpa.alloc([]Op, shape.stages);
        for (ops, 0..) |*list, stage| {
            var made: schedules.Ops = .empty;
            try schedules.list(gpa, &made, shape, @intCast(stage));
            list.* = made.items;
        }
        return .{ .arena = arena, .ops = ops };
    }

    fn deinit(lists: *Lists) void {
        lists.arena.deinit();
    }
};

fn expectSound(shape: Shape) !void {
    var lists: Lists = try .init(shape);
    defer lists.deinit();
    checks.check(testing.allocator, shape, lists.ops) catch |err| {
        std.debug.print("{any}: {s}\n", .{ shape, std.mem.span(status.lastError()) });
        return err;
    };
    try expectTime(shape, lists.ops);
    try expectPeaks(shape, lists.ops);
}

/// With backwards that take twice as long the step takes 3 (v·M + P − 1): the bubble is
/// (P − 1) / (v·M + P − 1).
fn expectTime(shape: Shape, lists: []const []const Op) !void {
    const gpa = testing.allocator;
    const count = shape.stages * shape.chunks;
    const ends = try gpa.alloc([2]u32, count * shape.microbatches);
    defer gpa.free(ends);
    const at = try gpa.alloc(usize, shape.stages);
    defer gpa.free(at);
    const clock = try gpa.alloc(u32, shape.stages);
    defer gpa.free(clock);
    @memset(ends, .{ 0, 0 });
    @memset(at, 0);
    @memset(clock, 0);
    var left: usize = 2 * count * shape.microbatches;
    while (left > 0) {
        const before = left;
        for (lists, 0..) |ops, stage| while (at[stage] < ops.len) {
            const op = ops[at[stage]];
            const ready = readyAt(shape, @intCast(stage), op, ends) orelse break;
            const start = @max(ready, clock[stage]);
            clock[stage] = start + @as(u32, if (op.kind == .forward) 1 else 2);
            const virtual = op.chunk * shape.stages + stage;
            ends[virtual * shape.microbatches + op.microbatch][@backingInt(op.kind)] = clock[stage];
            at[stage] += 1;
            left -= 1;
        };
        try testing.expect(left < before);
    }
    const expected = 3 * (shape.chunks * shape.microbatches + shape.stages - 1);
    try testing.expectEqual(expected, std.mem.max(u32, clock));
}

/// When the input of a pass is there; null while it is not.
fn readyAt(shape: Shape, stage: u32, op: Op, ends: []const [2]u32) ?u32 {
    const last = shape.stages * shape.chunks - 1;
    const virtual = op.chunk * shape.stages + stage;
    const kind = @backingInt(op.kind);
    if (op.kind == .forward and virtual == 0) return 0;
    if (op.kind == .backward and virtual == last)
        return ends[virtual * shape.microbatches + op.microbatch][0];
    const from = if (op.kind == .forward) virtual - 1 else virtual + 1;
    const end = ends[from * shape.microbatches + op.microbatch][kind];
    return if (end == 0) null else end;
}

fn expectPeaks(shape: Shape, lists: []const []const Op) !void {
    for (lists, 0..) |ops, stage| {
        var live: u32 = 0;
        var peak: u32 = 0;
        for (ops) |op| {
            if (op.kind == .forward) live += 1 else live -= 1;
            peak = @max(peak, live);
        }
        const s: u32 = @intCast(stage);
        const P = shape.stages;
        const all = shape.chunks * shape.microbatches;
        const expected = if (shape.chunks == 1)
            @min(shape.microbatches, P - s)
        else
            @min(all, (shape.chunks - 1) * P + 2 * (P - 1 - s) + 1);
        try testing.expectEqual(expected, peak);
        try testing.expectEqual(expected, shape.peak(s));
    }
}

test "one forward, one backward: all P <= 16, M <= 64" {
    for (1..17) |stages| for (1..65) |microbatches|
        try expectSound(.{ .stages = @intCast(stages), .microbatches = @intCast(microbatches) });
}

test "interleaved: P in {2,3,4,8,16}, v in {2,3,4}, M <= 64" {
    for ([_]u32{ 2, 3, 4, 8, 16 }) |stages| for (2..5) |chunks| {
        var microbatches = stages;
        while (microbatches <= 64) : (microbatches += stages) try expectSound(.{
            .stages = stages,
            .microbatches = microbatches,
            .chunks = @intCast(chunks),
        });
    };
}

test "the lists of mesh.md" {
    const expected = [_][]const u8{
        "F0 F1 F2 F3 B0 F4 B1 F5 B2 F6 B3 F7 B4 B5 B6 B7",
        "F0 F1 F2 B0 F3 B1 F4 B2 F5 B3 F6 B4 F7 B5 B6 B7",
        "F0 F1 B0 F2 B1 F3 B2 F4 B3 F5 B4 F6 B5 F7 B6 B7",
        "F0 B0 F1 B1 F2 B2 F3 B3 F4 B4 F5 B5 F6 B6 F7 B7",
    };
    var lists: Lists = try .init(.{ .stages = 4, .microbatches = 8 });
    defer lists.deinit();
    for (lists.ops, expected) |ops, text| {
        var buffer: [128]u8 = undefined;
        var writer: std.Io.Writer = .fixed(&buffer);
        for (ops, 0..) |op, i| try writer.print("{s}{s}{d}", .{
            if (i == 0) "" else " ",
            if (op.kind == .forward) "F" else "B",
            op.microbatch,
        });
        try testing.expectEqualStrings(text, writer.buffered());
    }
}

/// `change` spoils sound lists; `text` is in what the validator says.
fn expectRejected(
    shape: Shape,
    comptime change: fn (lists: [][]Op) void,
    text: []const u8,
) !void {
    var lists: Lists = try .init(shape);
    defer lists.deinit();
    change(lists.ops);
    try testing.expectError(error.Failed, checks.check(testing.allocator, shape, lists.ops));
    const said = std.mem.span(status.lastError());
    if (std.mem.indexOf(u8, said, text) == null) {
        std.debug.print("said: {s}\nexpected: {s}\n", .{ said, text });
        return error.TestUnexpectedResult;
    }
}

test "lists that are wrong are rejected" {
    const shape: Shape = .{ .stages = 4, .microbatches = 8 };
    const changes = struct {
        fn swapForwards(lists: [][]Op) void {
            std.mem.swap(Op, &lists[1][0], &lists[1][1]);
        }
        fn swapBackwards(lists: [][]Op) void {
            const end = lists[0].len;
            std.mem.swap(Op, &lists[0][end - 1], &lists[0][end - 2]);
        }
        fn backwardFirst(lists: [][]Op) void {
            std.mem.swap(Op, &lists[3][0], &lists[3][1]);
        }
        fn twice(lists: [][]Op) void {
            lists[2][1] = lists[2][0];
        }
        fn short(lists: [][]Op) void {
            lists[0] = lists[0][0 .. lists[0].len - 1];
        }
        fn stranger(lists: [][]Op) void {
            lists[0][3].microbatch = 8;
        }
        /// All forwards first keeps too many microbatches alive.
        fn allForwards(lists: [][]Op) void {
            std.mem.sort(Op, lists[1], {}, struct {
                fn before(_: void, a: Op, b: Op) bool {
                    return @backingInt(a.kind) < @backingInt(b.kind);
                }
            }.before);
        }
        /// Stage 1 waits for the gradient of microbatch 0, for which stage 2 waits for microbatch
        /// 1.
        fn oneByOne(lists: [][]Op) void {
            for (lists[1], 0..) |*op, i| op.* = .{
                .kind = if (i % 2 == 0) .forward else .backward,
                .microbatch = @intCast(i / 2),
            };
        }
    };
    try expectRejected(shape, changes.swapForwards, "gets microbatch 0 of virtual stage 0");
    try expectRejected(shape, changes.swapBackwards, "backwards keep the order");
    try expectRejected(shape, changes.backwardFirst, "comes before its forward");
    try expectRejected(shape, changes.twice, "comes twice");
    try expectRejected(shape, changes.short, "stage 0 has 7 backwards of chunk 0, expected 8");
    try expectRejected(shape, changes.stranger, "microbatch 8 on stage 0 does not exist");
    try expectRejected(shape, changes.allForwards, "keeps 8 microbatches alive, expected 3");
    try expectRejected(shape, changes.oneByOne, "the stages wait for each other");
}

test "shapes that make no schedule are rejected" {
    var ops: schedules.Ops = .empty;
    defer ops.deinit(testing.allocator);
    const cases = [_]struct { Shape, u32, []const u8 }{
        .{ .{ .stages = 4, .microbatches = 6, .chunks = 2 }, 0, "are not divisible by pp 4" },
        .{ .{ .stages = 1, .microbatches = 6, .chunks = 2 }, 0, "interleaving needs pp 2" },
        .{ .{ .stages = 4, .microbatches = 0 }, 0, "0 microbatches" },
        .{ .{ .stages = 4, .microbatches = 4 }, 4, "stage 4 of 4" },
    };
    for (cases) |case| {
        const made = schedules.list(testing.allocator, &ops, case[0], case[1]);
        try testing.expectError(error.Failed, made);
        const said = std.mem.span(status.lastError());
        try testing.expect(std.mem.indexOf(u8, said, case[2]) != null);
    }
}
