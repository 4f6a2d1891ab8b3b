//! The algebra of layouts: every conversion of the table against its dual on plain arrays, routes
//! between random layouts, and the rules of operations.

const std = @import("std");
const axes = @import("axes.zig");
const convert = @import("convert.zig");
const layouts = @import("layout.zig");
const rules = @import("rules.zig");
const status = @import("../abi/status.zig");
const arrays = @import("layout_arrays_test.zig");
const Axis = axes.Axis;
const Layout = layouts.Layout;
const Mesh = axes.Mesh;
const State = layouts.State;
const testing = std.testing;

const all_states = [_]State{
    .{ .split = 0 },
    .{ .split = 1 },
    .{ .split = 2 },
    .replicated,
    .partial,
    .identical,
};

test "duals: twice is the state itself, and each conversion's dual goes the other way" {
    for (all_states) |a| {
        try testing.expect(a.dual().dual().is(a));
        for (all_states) |b| {
            if (convert.moveOf(a, b) == null) continue;
            const step = try convert.between(.tp, a, b);
            const dual = step.dual();
            try testing.expect(dual.from.is(b.dual()) and dual.to.is(a.dual()));
            if (dual.move == .place_in_zeros) {
                try testing.expect(a == .replicated and b == .split);
                continue;
            }
            try testing.expectEqual(dual.move, convert.moveOf(dual.from, dual.to).?);
            const again = dual.dual();
            try testing.expect(again.from.is(a) and again.to.is(b));
            try testing.expectEqual(step.move, again.move);
        }
    }
}

test "the table of conversions" {
    const s: State = .{ .split = 0 };
    const t: State = .{ .split = 1 };
    const Row = struct { State, State, convert.Move, convert.Move };
    const table = [_]Row{
        .{ s, .replicated, .all_gather, .reduce_scatter },
        .{ .partial, s, .reduce_scatter, .all_gather },
        .{ .partial, .replicated, .all_reduce, .all_reduce },
        .{ .partial, .identical, .all_reduce, .relabel },
        .{ .identical, .replicated, .relabel, .all_reduce },
        .{ .replicated, s, .slice, .place_in_zeros },
        .{ .identical, s, .slice, .all_gather },
        .{ s, .identical, .all_gather, .slice },
        .{ s, t, .all_to_all, .all_to_all },
    };
    for (table) |row| {
        const step = try convert.between(.tp, row[0], row[1]);
        try testing.expectEqual(row[2], step.move);
        try testing.expectEqual(row[3], step.dual().move);
    }
    const missing = [_][2]State{
        .{ .replicated, .identical },
        .{ .replicated, .partial },
        .{ .identical, .partial },
        .{ s, .partial },
        .{ s, s },
    };
    for (missing) |pair|
        try testing.expectError(error.Failed, convert.between(.tp, pair[0], pair[1]));
    try testing.expectEqualStrings(
        "layout: there is no conversion from S(0) to S(0) over tp",
        std.mem.span(status.lastError()),
    );
}

test "routes over several axes" {
    const mesh: Mesh = try .init(.{ 1, 2, 2, 1, 2 }, axes.default_order, 8);
    var from: Layout = .{};
    from.set(.dp, .{ .split = 0 });
    from.set(.fsdp, .{ .split = 0 });
    from.set(.tp, .partial);
    var to: Layout = .{};
    to.set(.dp, .{ .split = 0 });
    to.set(.tp, .{ .split = 1 });
    const steps = try convert.route(&mesh, from, to);
    try testing.expectEqual(2, steps.length);
    try testing.expectEqual(convert.Move.reduce_scatter, steps.items[0].move); // it shrinks
    try testing.expectEqual(convert.Move.all_gather, steps.items[1].move);
    // dp is the outer one: it cannot be gathered while fsdp splits the dim.
    var inner: Layout = .{};
    inner.set(.fsdp, .{ .split = 0 });
    inner.set(.tp, .partial);
    try testing.expectError(error.Failed, convert.route(&mesh, from, inner));
    var reversed: Layout = .{};
    reversed.set(.fsdp, .{ .split = 0 });
    reversed.set(.dp, .{ .split = 0 });
    reversed.set(.tp, .partial);
    try testing.expectError(error.Failed, convert.route(&mesh, from, reversed));
    // Axes of one rank have no order.
    const small: Mesh = try .init(.{ 1, 1, 2, 1, 2 }, axes.default_order, 4);
    try testing.expectEqual(0, (try convert.route(&small, from, reversed)).length);
}

fn randomLayout(random: std.Random, rank: usize) Layout {
    var layout: Layout = .{};
    var order = axes.default_order;
    random.shuffle(Axis, &order);
    for (order) |axis| layout.set(axis, switch (random.uintLessThan(u32, 6)) {
        0 => .partial,
        1 => .identical,
        2 => .replicated,
        else => .{ .split = random.uintLessThan(u8, @intCast(rank)) },
    });
    return layout;
}

test "adjoint: <Ax, y> = <x, A'y> of every conversion, worlds 1 to 16" {
    var prng: std.Random.DefaultPrng = .init(7);
    const random = prng.random();
    const shapes = [_][3]u64{
        .{ 4, 6, 8 },
        .{ 5, 3, 7 },
        .{ 1, 2, 3 },
        .{ 0, 3, 2 },
        .{ 9, 1, 1 },
        .{ 13, 4, 5 },
    };
    var checked: usize = 0;
    for (1..17) |world| for (0..6) |_| {
        const mesh = try randomMesh(random, @intCast(world));
        for (shapes) |shape| for (0..6) |_| {
            const layout = randomLayout(random, shape.len);
            for (axes.default_order) |axis| for (all_states) |to| {
                const from = layout.state(axis);
                const move = convert.moveOf(from, to) orelse continue;
                if (!isInnermost(&layout, axis)) continue;
                const step: convert.Step = .{ .axis = axis, .from = from, .to = to, .move = move };
                try arrays.expectAdjoint(random, &mesh, layout, step, &shape);
                checked += 1;
            };
        };
    };
    try testing.expect(checked > 5000);
}

/// Whether the axis can leave its dim.
fn isInnermost(layout: *const Layout, axis: Axis) bool {
    const state = layout.state(axis);
    if (state != .split) return true;
    const list = layout.dims[state.split].slice();
    return list[list.len - 1] == axis;
}

/// A mesh of `world` ranks with random factors on random axes.
fn randomMesh(random: std.Random, world: u32) !Mesh {
    var sizes: [axes.count]i32 = @splat(1);
    var rest = world;
    while (rest > 1) {
        var factor = random.intRangeAtMost(u32, 2, rest);
        while (rest % factor != 0) factor -= 1;
        if (factor == 1) factor = rest;
        sizes[random.uintLessThan(usize, axes.count)] *= @intCast(factor);
        rest /= factor;
    }
    var order = axes.default_order;
    random.shuffle(Axis, &order);
    return .init(sizes, order, world);
}

test "routes of random layouts give the values of the target" {
    var prng: std.Random.DefaultPrng = .init(11);
    const random = prng.random();
    var found: usize = 0;
    for (0..20_000) |_| {
        const mesh = try randomMesh(random, random.intRangeAtMost(u32, 1, 16));
        const shape = [_]u64{ random.uintAtMost(u64, 5), random.uintAtMost(u64, 7), 3 };
        const from = randomLayout(random, shape.len);
        const to = randomLayout(random, shape.len);
        const steps = convert.route(&mesh, from, to) catch continue;
        try arrays.expectRoute(random, &mesh, from, steps.slice(), &shape);
        found += 1;
    }
    try testing.expect(found > 500);
}

fn expectState(expected: State, verdict: rules.Verdict) !void {
    try testing.expect(verdict == .state and verdict.state.is(expected));
}

fn expectIllegal(verdict: rules.Verdict) !void {
    try testing.expect(verdict == .illegal);
}

test "operations that are legal on an axis" {
    const seq: State = .{ .split = 1 };
    const features: State = .{ .split = 2 };
    try expectState(.partial, rules.add(.partial, .partial));
    try expectState(seq, rules.add(seq, seq));
    try expectState(seq, rules.elementwise(seq, .replicated));
    try expectState(.identical, rules.elementwise(.identical, .identical));
    try expectState(.partial, rules.scale(.partial));
    try expectState(seq, rules.matmul(seq, 3, .replicated));
    try expectState(features, rules.matmul(.replicated, 3, .{ .split = 0 }));
    try expectState(.partial, rules.matmul(features, 3, .{ .split = 1 }));
    try expectState(.identical, rules.matmul(.identical, 3, .identical));
    try expectState(features, rules.grouped(features, 3, .{ .split = 0 }));
    try expectState(features, rules.grouped(features, 3, .replicated));
    try expectState(seq, rules.along(seq, 2));
    try expectState(.partial, rules.lookUp(.{ .split = 0 }, 3));
    try expectState(features, rules.lookUp(.{ .split = 1 }, 3));
    try expectState(.partial, rules.sum(seq, 1));
    try expectState(seq, rules.sum(seq, 2));
    try expectState(.partial, rules.loss(.partial));
    try expectState(.identical, rules.loss(.identical));
}

test "operations that are not" {
    const seq: State = .{ .split = 1 };
    const features: State = .{ .split = 2 };
    try expectIllegal(rules.add(.partial, .replicated));
    try expectIllegal(rules.add(.identical, .partial));
    try expectIllegal(rules.nonlinear(.partial));
    try expectIllegal(rules.elementwise(.partial, .replicated));
    try expectIllegal(rules.elementwise(seq, features));
    try expectIllegal(rules.elementwise(seq, .identical));
    try expectIllegal(rules.elementwise(.identical, .replicated));
    try expectIllegal(rules.matmul(.identical, 3, .{ .split = 0 }));
    try expectIllegal(rules.matmul(.identical, 3, .replicated));
    try expectIllegal(rules.matmul(seq, 3, .{ .split = 0 }));
    try expectIllegal(rules.matmul(features, 3, .replicated));
    try expectIllegal(rules.matmul(.replicated, 3, .{ .split = 1 }));
    try expectIllegal(rules.matmul(.partial, 3, .replicated));
    try expectIllegal(rules.grouped(seq, 3, .{ .split = 0 }));
    try expectIllegal(rules.grouped(features, 3, .identical));
    try expectIllegal(rules.along(seq, 1));
    try expectIllegal(rules.mean(seq, 1));
    try expectIllegal(rules.loss(.replicated));
    try expectIllegal(rules.loss(seq));
}
