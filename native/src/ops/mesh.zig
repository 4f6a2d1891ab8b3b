//! The mesh for TypeScript: axes, placements, flat units, schedules. Lists longer than the scratch
//! block go through `write` and `read` in pages.

const std = @import("std");
const Context = @import("../runtime/context.zig").Context;
const axes = @import("../mesh/axes.zig");
const placement = @import("../mesh/placement.zig");
const schedules = @import("../mesh/schedule.zig");
const units = @import("../mesh/unit.zig");
const scratch = @import("../abi/scratch.zig");
const status = @import("../abi/status.zig");
const Error = status.Error;

/// The list that the next call reads, and the one that the last call made.
var question: std.ArrayList(f64) = .empty;
var answer: std.ArrayList(f64) = .empty;

/// Puts `length` numbers from scratch floats at place `first` of the list of the next call; the
/// list ends there.
pub fn write(context: *Context, first: i32, length: i32) Error!void {
    const page = &scratch.block.floats;
    if (first < 0 or first > question.items.len or length < 0 or length > page.len)
        return status.invalid("mesh: {d} numbers at {d} of a list", .{ length, first });
    question.shrinkRetainingCapacity(@intCast(first));
    try question.appendSlice(context.gpa, page[0..@intCast(length)]);
}

/// Numbers from place `first` of the last call's list into scratch numbers.
pub fn read(_: *Context, first: i32) Error!void {
    if (first < 0 or first > answer.items.len)
        return status.invalid("mesh: place {d} of a list of {d}", .{ first, answer.items.len });
    const rest = answer.items[@intCast(first)..];
    const page = &scratch.block.numbers;
    const length = @min(rest.len, page.len);
    @memcpy(page[0..length], rest[0..length]);
}

/// Says how long the list is that `read` gives.
pub fn finish() void {
    scratch.block.numbers[0] = @floatFromInt(answer.items.len);
}

pub fn startAnswer() void {
    answer.clearRetainingCapacity();
}

pub fn push(context: *Context, value: u64) Error!void {
    return pushNumber(context, @floatFromInt(value));
}

pub fn pushNumber(context: *Context, value: f64) Error!void {
    try answer.append(context.gpa, value);
}

/// A number that counts something.
fn whole(comptime T: type, value: f64, comptime what: []const u8) Error!T {
    const most = @min(std.math.maxInt(T), 1 << 53);
    if (value >= 0 and value <= most and value == @floor(value)) return @intFromFloat(value);
    return status.invalid("mesh: " ++ what ++ " is {d}, expected 0 to {d}", .{ value, most });
}

/// Elements that a number of TypeScript counts exactly.
const max_elements = 1 << 53;

fn checkCount(count: u64, comptime what: []const u8) Error!void {
    if (count <= max_elements) return;
    return status.invalid("mesh: " ++ what ++ " of more than {d} elements", .{max_elements});
}

/// The mesh in scratch ints: sizes by axis, then the order.
pub fn meshFrom(ranks: u32) Error!axes.Mesh {
    const ints = &scratch.block.ints;
    var order: [axes.count]axes.Axis = undefined;
    for (&order, ints[axes.count..][0..axes.count]) |*axis, number| {
        if (number < 0 or number >= axes.count)
            return status.invalid("mesh: axis number {d} in the order", .{number});
        axis.* = @fromBackingInt(@intCast(number));
    }
    return .init(ints[0..axes.count].*, order, ranks);
}

fn setOf(bits: i32) Error!axes.AxisSet {
    if (bits < 0 or bits >= 1 << axes.count)
        return status.invalid("mesh: {d} is no set of axes", .{bits});
    var set: axes.AxisSet = .empty;
    for (axes.default_order) |axis| {
        if (bits >> @backingInt(axis) & 1 == 1) set.insert(axis);
    }
    return set;
}

pub fn checkRank(mesh: *const axes.Mesh, rank: i32) Error!u32 {
    if (rank >= 0 and rank < mesh.world()) return @intCast(rank);
    return status.invalid("mesh: rank {d} of {d} ranks", .{ rank, mesh.world() });
}

/// Checks a mesh; sizes and order in scratch ints. Numbers: the sizes, -1 replaced.
pub fn sizes(_: *Context, ranks: i32) Error!void {
    const mesh = try meshFrom(@max(ranks, 0));
    for (mesh.sizes, scratch.block.numbers[0..axes.count]) |size, *to| to.* = @floatFromInt(size);
}

/// Numbers: the coordinates of a rank by axis.
pub fn coordinates(_: *Context, ranks: i32, rank: i32) Error!void {
    const mesh = try meshFrom(@max(ranks, 0));
    const at = mesh.coordinates(try checkRank(&mesh, rank));
    for (at, scratch.block.numbers[0..axes.count]) |value, *to| to.* = @floatFromInt(value);
}

/// Number: the rank at the coordinates that follow the order in scratch ints.
pub fn rankOf(_: *Context, ranks: i32) Error!void {
    const mesh = try meshFrom(@max(ranks, 0));
    var at: axes.Coordinates = undefined;
    for (axes.default_order) |axis| {
        const value = scratch.block.ints[2 * axes.count + @as(usize, @backingInt(axis))];
        if (value < 0 or value >= mesh.size(axis)) return status.invalid(
            "mesh: {t} coordinate {d} of {d}; coordinates count from 0",
            .{ axis, value, mesh.size(axis) },
        );
        at[@backingInt(axis)] = @intCast(value);
    }
    scratch.block.numbers[0] = @floatFromInt(mesh.rankOf(at));
}

/// List: the ranks that equal `rank` on all axes but those of `bits`, in group order.
pub fn group(context: *Context, ranks: i32, rank: i32, bits: i32) Error!void {
    const mesh = try meshFrom(@max(ranks, 0));
    const at = try checkRank(&mesh, rank);
    const set = try setOf(bits);
    startAnswer();
    for (0..mesh.groupSize(set)) |i| try push(context, mesh.member(at, set, @intCast(i)));
    finish();
}

/// The runs of a dim of which every segment (the list of this call) is cut into `parts`. List:
/// start, length of every run of part `part`.
pub fn place(context: *Context, part: i32, parts: i32) Error!void {
    if (parts < 1 or part < 0 or part >= parts)
        return status.invalid("place: part {d} of {d}; parts count from 0", .{ part, parts });
    const gpa = context.gpa;
    const segments = try gpa.alloc(u64, question.items.len);
    defer gpa.free(segments);
    var total: u64 = 0;
    for (segments, question.items) |*to, value| {
        to.* = try whole(u64, value, "a segment");
        total +|= to.*;
    }
    try checkCount(total, "a dim");
    var runs: placement.Runs = .empty;
    defer runs.deinit(gpa);
    try placement.cutSegments(gpa, &runs, segments, @intCast(part), @intCast(parts));
    return answerRuns(context, runs.items);
}

fn answerRuns(context: *Context, runs: []const placement.Run) Error!void {
    startAnswer();
    for (runs) |run| {
        try push(context, run.start);
        try push(context, run.length);
    }
    finish();
}

/// Reads the list of the call from front to back.
pub const Reader = struct {
    at: usize = 0,

    pub fn left(reader: *const Reader) usize {
        return question.items.len - reader.at;
    }

    pub fn next(reader: *Reader, comptime T: type, comptime what: []const u8) Error!T {
        if (reader.at == question.items.len)
            return status.invalid("mesh: the list ends before " ++ what, .{});
        reader.at += 1;
        return whole(T, question.items[reader.at - 1], what);
    }
};

/// Elements [from, to) of a box (the list of this call: per dim its size, its number of runs, and
/// start and length of each). List: start, length of their runs in the global tensor.
pub fn elementRuns(context: *Context, rank: i32, from: f64, to: f64) Error!void {
    if (rank < 0 or rank > placement.max_rank)
        return status.invalid("elementRuns: {d} dims, at most 8 are possible", .{rank});
    var arena: std.heap.ArenaAllocator = .init(context.gpa);
    defer arena.deinit();
    var dims: [placement.max_rank]placement.Dim = undefined;
    var reader: Reader = .{};
    var total: u64 = 1;
    for (dims[0..@intCast(rank)]) |*dim| {
        const size = try reader.next(u64, "a dim");
        const length = try reader.next(u32, "a number of runs");
        if (length > reader.left())
            return status.invalid("elementRuns: {d} runs in a list that is shorter", .{length});
        const runs = try arena.allocator().alloc(placement.Run, length);
        for (runs) |*run| {
            run.* = .{
                .start = try reader.next(u64, "the start of a run"),
                .length = try reader.next(u64, "the length of a run"),
            };
            if (run.start + run.length > size) return status.invalid(
                "elementRuns: a run of {d} elements at {d} of a dim of {d}",
                .{ run.length, run.start, size },
            );
        }
        dim.* = .{ .size = size, .runs = runs };
        total *|= @max(size, 1);
    }
    try checkCount(total, "a tensor");
    var runs: placement.Runs = .empty;
    try placement.elementRuns(
        arena.allocator(),
        &runs,
        dims[0..@intCast(rank)],
        try whole(u64, from, "an element"),
        try whole(u64, to, "an element"),
    );
    return answerRuns(context, runs.items);
}

/// Lays out parameters whose sizes are the list of this call. List: chunk, total, every start.
pub fn flatUnit(context: *Context, shards: i32) Error!void {
    if (shards < 1) return status.invalid("flatUnit: {d} shards, expected 1 or more", .{shards});
    const gpa = context.gpa;
    const lengths = try gpa.alloc(u64, 2 * question.items.len);
    defer gpa.free(lengths);
    const given = lengths[0..question.items.len];
    const starts = lengths[given.len..];
    var total: u64 = 2 * units.alignment * @as(u64, @intCast(shards));
    for (given, question.items) |*to, value| {
        to.* = try whole(u64, value, "a size");
        total +|= to.* +| units.alignment;
    }
    try checkCount(total, "a unit");
    const unit = units.layOut(given, @intCast(shards), starts);
    startAnswer();
    try push(context, unit.chunk);
    try push(context, unit.total);
    for (starts) |start| try push(context, start);
    finish();
}

/// Numbers: the elements [from, to) of a parameter that rank `part` of a unit owns.
pub fn owned(_: *Context, chunk: f64, start: f64, size: f64, part: i32) Error!void {
    const unit: units.Unit = .{ .chunk = try whole(u64, chunk, "a chunk"), .total = 0 };
    const number = try whole(u32, @floatFromInt(part), "a part");
    try checkCount(unit.chunk *| (@as(u64, number) + 1), "a unit");
    const range = unit.owned(
        try whole(u64, start, "a start"),
        try whole(u64, size, "a size"),
        number,
    );
    scratch.block.numbers[0] = @floatFromInt(range.from);
    scratch.block.numbers[1] = @floatFromInt(range.to);
}

/// List: for every op of the stage 0 (forward) or 1 (backward), microbatch, chunk.
pub fn schedule(
    context: *Context,
    stages: i32,
    microbatches: i32,
    chunks: i32,
    stage: i32,
) Error!void {
    var ops: schedules.Ops = .empty;
    defer ops.deinit(context.gpa);
    const shape: schedules.Shape = .{
        .stages = @max(stages, 0),
        .microbatches = @max(microbatches, 0),
        .chunks = @max(chunks, 0),
    };
    if (stage < 0) return status.invalid("schedule: stage {d}; stages count from 0", .{stage});
    try schedules.list(context.gpa, &ops, shape, @intCast(stage));
    startAnswer();
    for (ops.items) |op| {
        try push(context, @backingInt(op.kind));
        try push(context, op.microbatch);
        try push(context, op.chunk);
    }
    finish();
}
