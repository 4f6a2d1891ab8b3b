const std = @import("std");
const placement = @import("placement.zig");
const unit = @import("unit.zig");
const Run = placement.Run;
const testing = std.testing;

const shapes = [_][]const u64{
    &.{},
    &.{7},
    &.{0},
    &.{ 6, 4 },
    &.{ 5, 3 },
    &.{ 4, 6, 5 },
    &.{ 3, 0, 2 },
    &.{ 2, 3, 4, 5 },
};

/// Local element → global element, by going through all of them.
fn naive(gpa: std.mem.Allocator, dims: []const placement.Dim) ![]u64 {
    var list: std.ArrayList(u64) = .empty;
    try walk(gpa, &list, dims, 0);
    return list.toOwnedSlice(gpa);
}

fn walk(
    gpa: std.mem.Allocator,
    list: *std.ArrayList(u64),
    dims: []const placement.Dim,
    before: u64,
) !void {
    if (dims.len == 0) return list.append(gpa, before);
    for (dims[0].runs) |run| {
        for (run.start..run.start + run.length) |i|
            try walk(gpa, list, dims[1..], before * dims[0].size + i);
    }
}

fn expectRuns(dims: []const placement.Dim, from: u64, to: u64, elements: []const u64) !void {
    const gpa = testing.allocator;
    var runs: placement.Runs = .empty;
    defer runs.deinit(gpa);
    try placement.elementRuns(gpa, &runs, dims, from, to);
    var at = from;
    var end: ?u64 = null;
    for (runs.items) |run| {
        try testing.expect(run.length > 0);
        if (end) |value| try testing.expect(value != run.start); // maximal
        for (0..run.length) |i| {
            try testing.expectEqual(elements[at], run.start + i);
            at += 1;
        }
        end = run.start + run.length;
    }
    try testing.expectEqual(to, at);
}

test "parts of every dim: their element runs are the elements, each on one rank" {
    const gpa = testing.allocator;
    var random: std.Random.DefaultPrng = .init(1);
    for (shapes) |shape| {
        var total: u64 = 1;
        for (shape) |size| total *= size;
        for (0..shape.len + 1) |split| for (1..6) |parts| {
            if (split == shape.len and parts > 1) continue; // not split
            const seen = try gpa.alloc(u32, total);
            defer gpa.free(seen);
            @memset(seen, 0);
            for (0..parts) |part| {
                var storage: [8][]Run = undefined;
                const dims = try box(gpa, shape, split, @intCast(part), @intCast(parts), &storage);
                defer gpa.free(dims);
                defer for (storage[0..shape.len]) |runs| gpa.free(runs);
                const elements = try naive(gpa, dims);
                defer gpa.free(elements);
                try testing.expectEqual(elements.len, placement.localSize(dims));
                for (elements) |element| seen[element] += 1;
                try expectRuns(dims, 0, elements.len, elements);
                for (0..20) |_| {
                    const from = random.random().uintAtMost(u64, elements.len);
                    const to = random.random().intRangeAtMost(u64, from, elements.len);
                    try expectRuns(dims, from, to, elements);
                }
            }
            for (seen) |count| try testing.expectEqual(1, count);
        };
    }
}

/// Cuts one dim, in two segments where it has three elements or more.
fn box(
    gpa: std.mem.Allocator,
    shape: []const u64,
    split: usize,
    part: u32,
    parts: u32,
    storage: *[8][]Run,
) ![]placement.Dim {
    const dims = try gpa.alloc(placement.Dim, shape.len);
    for (shape, dims, 0..) |size, *dim, i| {
        var runs: placement.Runs = .empty;
        if (i == split) {
            const third = size / 3;
            const segments: []const u64 = if (third > 0) &.{ third, size - third } else &.{size};
            try placement.cutSegments(gpa, &runs, segments, part, parts);
        } else try runs.append(gpa, .{ .start = 0, .length = size });
        storage[i] = try runs.toOwnedSlice(gpa);
        dim.* = .{ .size = size, .runs = storage[i] };
    }
    return dims;
}

test "segments are cut one by one, and neighbours join" {
    const gpa = testing.allocator;
    var runs: placement.Runs = .empty;
    defer runs.deinit(gpa);
    try placement.cutSegments(gpa, &runs, &.{ 4, 6 }, 1, 2);
    try testing.expectEqualSlices(Run, &.{
        .{ .start = 2, .length = 2 },
        .{ .start = 7, .length = 3 },
    }, runs.items);
    runs.clearRetainingCapacity();
    try placement.cutSegments(gpa, &runs, &.{ 4, 6 }, 0, 1);
    try testing.expectEqualSlices(Run, &.{.{ .start = 0, .length = 10 }}, runs.items);
    runs.clearRetainingCapacity();
    try placement.cutSegments(gpa, &runs, &.{2}, 3, 4);
    try testing.expectEqualSlices(Run, &.{.{ .start = 0, .length = 0 }}, runs.items);
}

test "element ranges outside of the part are rejected" {
    const gpa = testing.allocator;
    var runs: placement.Runs = .empty;
    defer runs.deinit(gpa);
    const dims = [_]placement.Dim{.{ .size = 4, .runs = &.{.{ .start = 1, .length = 2 }} }};
    try testing.expectError(error.Failed, placement.elementRuns(gpa, &runs, &dims, 0, 3));
    try testing.expectError(error.Failed, placement.elementRuns(gpa, &runs, &dims, 2, 1));
}

test "flat units: aligned, every element on one rank, blocks of the norm on one rank" {
    const sizes = [_][]const u64{
        &.{},
        &.{0},
        &.{1},
        &.{4096},
        &.{ 5000, 3, 0, 9000 },
        &.{ 1 << 20, 17, 4095, 4097 },
    };
    for (sizes) |list| for ([_]u32{ 1, 2, 3, 7, 8, 64 }) |shards| {
        var starts: [8]u64 = undefined;
        const flat = unit.layOut(list, shards, starts[0..list.len]);
        try testing.expectEqual(flat.total, flat.chunk * shards);
        try testing.expectEqual(0, flat.chunk % unit.alignment);
        var end: u64 = 0;
        for (list, starts[0..list.len]) |size, start| {
            try testing.expectEqual(0, start % unit.alignment);
            try testing.expect(start >= end);
            end = start + size;
            var next: u64 = 0;
            for (0..shards) |part| {
                const range = flat.owned(start, size, @intCast(part));
                if (range.from == range.to) continue;
                try testing.expectEqual(next, range.from);
                try testing.expectEqual(0, range.from % unit.alignment);
                next = range.to;
            }
            try testing.expectEqual(size, next);
        }
        try testing.expect(end <= flat.total);
    };
}
