//! Whether the op lists of all stages of a pipeline make a step (mesh.md §10.5): every pass once,
//! in an order that ends although a channel between two stages holds a single message.

const std = @import("std");
const schedules = @import("schedule.zig");
const status = @import("../abi/status.zig");
const Error = status.Error;
const Kind = schedules.Kind;
const Op = schedules.Op;
const Shape = schedules.Shape;

/// `lists` are the op lists by stage.
pub fn check(gpa: std.mem.Allocator, shape: Shape, lists: []const []const Op) Error!void {
    try shape.check();
    if (lists.len != shape.stages)
        return status.invalid("schedule: {d} lists for {d} stages", .{ lists.len, shape.stages });
    for (lists, 0..) |ops, stage| try checkStage(gpa, shape, @intCast(stage), ops);
    return simulate(gpa, shape, lists);
}

/// Every microbatch goes forward and then backward once, backwards in order, and no more of them
/// are alive than the formula says.
fn checkStage(gpa: std.mem.Allocator, shape: Shape, stage: u32, ops: []const Op) Error!void {
    const seen = try gpa.alloc([2]bool, shape.chunks * shape.microbatches);
    defer gpa.free(seen);
    const next = try gpa.alloc(u32, shape.chunks);
    defer gpa.free(next);
    @memset(seen, .{ false, false });
    @memset(next, 0);
    var live: u32 = 0;
    var peak: u32 = 0;
    for (ops) |op| {
        const where: Where = .{ .stage = stage, .op = op };
        if (op.microbatch >= shape.microbatches or op.chunk >= shape.chunks)
            return status.invalid("schedule: {f} does not exist", .{where});
        const passes = &seen[op.chunk * shape.microbatches + op.microbatch];
        if (passes[@backingInt(op.kind)])
            return status.invalid("schedule: {f} comes twice", .{where});
        passes[@backingInt(op.kind)] = true;
        if (op.kind == .forward) {
            live += 1;
            peak = @max(peak, live);
            continue;
        }
        if (!passes[@backingInt(Kind.forward)])
            return status.invalid("schedule: {f} comes before its forward", .{where});
        if (op.microbatch != next[op.chunk]) return status.invalid(
            "schedule: {f} comes where microbatch {d} should: backwards keep the order",
            .{ where, next[op.chunk] },
        );
        next[op.chunk] += 1;
        live -= 1;
    }
    for (next, 0..) |count, chunk| if (count != shape.microbatches) return status.invalid(
        "schedule: stage {d} has {d} backwards of chunk {d}, expected {d}",
        .{ stage, count, chunk, shape.microbatches },
    );
    if (peak > shape.peak(stage)) return status.invalid(
        "schedule: stage {d} keeps {d} microbatches alive, expected {d} at most",
        .{ stage, peak, shape.peak(stage) },
    );
}

const Where = struct {
    stage: u32,
    op: Op,

    pub fn format(where: Where, writer: *std.Io.Writer) std.Io.Writer.Error!void {
        const op = where.op;
        try writer.print("{t} of microbatch {d}", .{ op.kind, op.microbatch });
        if (op.chunk > 0) try writer.print(", chunk {d},", .{op.chunk});
        try writer.print(" on stage {d}", .{where.stage});
    }
};

const Message = struct { virtual: u32, microbatch: u32 };

/// A stage on its way through its list.
const Runner = struct {
    at: usize = 0,
    phase: enum { receive, send } = .receive,
};

fn simulate(gpa: std.mem.Allocator, shape: Shape, lists: []const []const Op) Error!void {
    // One channel from every stage per direction: forwards go up, backwards go down.
    const channels = try gpa.alloc([2]?Message, shape.stages);
    defer gpa.free(channels);
    const runners = try gpa.alloc(Runner, shape.stages);
    defer gpa.free(runners);
    @memset(channels, .{ null, null });
    @memset(runners, .{});
    var has_moved = true;
    while (has_moved) {
        has_moved = false;
        for (runners, lists, 0..) |*runner, ops, stage| {
            while (runner.at < ops.len) {
                if (!try advance(shape, @intCast(stage), ops[runner.at], runner, channels)) break;
                has_moved = true;
            }
        }
    }
    for (runners, lists, 0..) |runner, ops, stage| if (runner.at < ops.len) return status.invalid(
        "schedule: the stages wait for each other; {f} never {s}",
        .{
            Where{ .stage = @intCast(stage), .op = ops[runner.at] },
            if (runner.phase == .receive) "gets its input" else "gets rid of its result",
        },
    );
}

/// One receive or send; false while it has to wait.
fn advance(
    shape: Shape,
    stage: u32,
    op: Op,
    runner: *Runner,
    channels: [][2]?Message,
) Error!bool {
    const last = shape.stages * shape.chunks - 1;
    const virtual = op.chunk * shape.stages + stage;
    const up = op.kind == .forward;
    const direction = @backingInt(op.kind);
    switch (runner.phase) {
        .receive => {
            const is_source = if (up) virtual == 0 else virtual == last;
            if (!is_source) {
                const from = (stage + (if (up) shape.stages - 1 else 1)) % shape.stages;
                const channel = &channels[from][direction];
                const message = channel.* orelse return false;
                const wanted = if (up) virtual - 1 else virtual + 1;
                if (message.virtual != wanted or message.microbatch != op.microbatch)
                    return status.invalid(
                        "schedule: {f} gets microbatch {d} of virtual stage {d}",
                        .{ Where{ .stage = stage, .op = op }, message.microbatch, message.virtual },
                    );
                channel.* = null;
            }
            runner.phase = .send;
        },
        .send => {
            const is_sink = if (up) virtual == last else virtual == 0;
            if (!is_sink) {
                const channel = &channels[stage][direction];
                if (channel.* != null) return false;
                channel.* = .{ .virtual = virtual, .microbatch = op.microbatch };
            }
            runner.* = .{ .at = runner.at + 1 };
        },
    }
    return true;
}
