const std = @import("std");
const axes = @import("axes.zig");
const status = @import("../abi/status.zig");
const Axis = axes.Axis;
const AxisSet = axes.AxisSet;
const Mesh = axes.Mesh;
const testing = std.testing;

/// Calls `body` with every order of the axes.
fn eachOrder(context: anytype) !void {
    var order = axes.default_order;
    try permute(&order, 0, context);
}

fn permute(order: *[axes.count]Axis, from: usize, context: anytype) !void {
    if (from == order.len) return context.check(order.*);
    for (from..order.len) |i| {
        std.mem.swap(Axis, &order[from], &order[i]);
        try permute(order, from + 1, context);
        std.mem.swap(Axis, &order[from], &order[i]);
    }
}

fn setOf(bits: usize) AxisSet {
    var set: AxisSet = .empty;
    for (axes.default_order) |axis| {
        if (bits >> @backingInt(axis) & 1 == 1) set.insert(axis);
    }
    return set;
}

/// Groups of every axis set partition the world, in the order of the axes.
const Partition = struct {
    sizes: [axes.count]i32,
    world: u32,

    pub fn check(test_case: Partition, order: [axes.count]Axis) !void {
        const mesh: Mesh = try .init(test_case.sizes, order, test_case.world);
        try testing.expectEqual(test_case.world, mesh.world());
        for (0..test_case.world) |rank| {
            const at = mesh.coordinates(@intCast(rank));
            try testing.expectEqual(rank, mesh.rankOf(at));
            for (axes.default_order) |axis| {
                const coordinate = mesh.coordinate(@intCast(rank), axis);
                try testing.expectEqual(at[@backingInt(axis)], coordinate);
                try testing.expect(coordinate < mesh.size(axis));
            }
        }
        const seen = try testing.allocator.alloc(bool, test_case.world);
        defer testing.allocator.free(seen);
        for (0..1 << axes.count) |bits| {
            const set = setOf(bits);
            @memset(seen, false);
            for (0..test_case.world) |leader| {
                if (mesh.placeIn(@intCast(leader), set) != 0) continue;
                try checkGroup(&mesh, @intCast(leader), set, seen);
            }
            for (seen) |once| try testing.expect(once);
        }
    }
};

fn checkGroup(mesh: *const Mesh, leader: u32, set: AxisSet, seen: []bool) !void {
    const first = mesh.coordinates(leader);
    var before: u32 = leader;
    for (0..mesh.groupSize(set)) |place| {
        const rank = mesh.member(leader, set, @intCast(place));
        try testing.expect(!seen[rank]);
        seen[rank] = true;
        try testing.expectEqual(place, mesh.placeIn(rank, set));
        if (place > 0) try testing.expect(rank > before);
        before = rank;
        for (axes.default_order) |axis| {
            if (set.contains(axis)) continue;
            try testing.expectEqual(first[@backingInt(axis)], mesh.coordinate(rank, axis));
        }
    }
}

test "groups of every axis set partition the world, in all 120 orders" {
    const cases = [_]Partition{
        .{ .sizes = .{ 1, 1, 1, 1, 1 }, .world = 1 },
        .{ .sizes = .{ 2, 3, 1, 1, 4 }, .world = 24 },
        .{ .sizes = .{ 2, 2, 2, 2, 2 }, .world = 32 },
        .{ .sizes = .{ 3, 1, 5, 2, -1 }, .world = 90 },
        .{ .sizes = .{ 1, -1, 8, 1, 1 }, .world = 128 },
    };
    for (cases) |case| try eachOrder(case);
}

test "worlds up to 4096: ranks and coordinates are one to one" {
    const worlds = [_]struct { sizes: [axes.count]i32, world: u32 }{
        .{ .sizes = .{ 1, 32, 8, 1, 1 }, .world = 256 },
        .{ .sizes = .{ 8, -1, 8, 1, 8 }, .world = 4096 },
        .{ .sizes = .{ 4, 4, 4, 4, 16 }, .world = 4096 },
        .{ .sizes = .{ 7, 11, 13, 1, 4 }, .world = 4004 },
    };
    for (worlds) |case| {
        const partition: Partition = .{ .sizes = case.sizes, .world = case.world };
        try partition.check(axes.default_order);
        try partition.check(.{ .tp, .cp, .pp, .fsdp, .dp });
    }
}

test "the default order joins neighbouring ranks along tp" {
    const mesh: Mesh = try .init(.{ 2, 1, 2, 1, 2 }, axes.default_order, 8);
    try testing.expectEqual(1, mesh.stride(.tp));
    try testing.expectEqual(2, mesh.stride(.fsdp));
    try testing.expectEqual(4, mesh.stride(.pp));
    try testing.expectEqual(axes.Coordinates{ 1, 0, 0, 0, 1 }, mesh.coordinates(5));
}

fn expectRejected(text: []const u8, sizes: [axes.count]i32, order: [axes.count]Axis, n: u32) !void {
    try testing.expectError(error.Failed, Mesh.init(sizes, order, n));
    try testing.expectEqualStrings(text, std.mem.span(status.lastError()));
}

test "sizes that do not fit are named" {
    try expectRejected(
        "mesh: 24 ranks are not divisible by pp 1 × fsdp 8 × cp 1 × tp 2 = 16",
        .{ 1, -1, 8, 1, 2 },
        axes.default_order,
        24,
    );
    try expectRejected(
        "mesh: pp 1 × dp 2 × fsdp 1 × cp 1 × tp 2 = 4, but there are 8 ranks; " ++
            "set one axis to -1 to have it inferred",
        .{ 1, 2, 1, 1, 2 },
        axes.default_order,
        8,
    );
    try expectRejected(
        "mesh: dp and tp are both -1; one axis can be inferred from the others",
        .{ 1, -1, 1, 1, -1 },
        axes.default_order,
        8,
    );
    try expectRejected(
        "mesh: tp is 0; an axis has 1 rank or more, or -1 for what the others leave",
        .{ 1, 1, 1, 1, 0 },
        axes.default_order,
        1,
    );
    try expectRejected(
        "mesh: the order names dp twice; it names each of pp, dp, fsdp, cp, tp once",
        .{ 1, 1, 1, 1, 1 },
        .{ .pp, .dp, .fsdp, .cp, .dp },
        1,
    );
    const huge = std.math.maxInt(i32);
    try testing.expectError(
        error.Failed,
        Mesh.init(.{ huge, huge, huge, huge, huge }, axes.default_order, 8),
    );
}
