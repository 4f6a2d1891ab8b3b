//! Conversions carried out on plain arrays, one per rank: what the tests of layouts compare with.

const std = @import("std");
const axes = @import("axes.zig");
const convert = @import("convert.zig");
const layouts = @import("layout.zig");
const Axis = axes.Axis;
const AxisSet = axes.AxisSet;
const Layout = layouts.Layout;
const Mesh = axes.Mesh;
const State = layouts.State;
const Step = convert.Step;
const testing = std.testing;

pub const rank = 3;
pub const Shape = [rank]u64;

/// A tensor on all ranks of a mesh.
const Distributed = struct {
    arena: std.mem.Allocator,
    mesh: *const Mesh,
    shape: Shape,
    layout: Layout,
    /// By rank: the local part, row-major.
    parts: [][]f64,

    fn init(
        arena: std.mem.Allocator,
        mesh: *const Mesh,
        shape: Shape,
        layout: Layout,
    ) !Distributed {
        const parts = try arena.alloc([]f64, mesh.world());
        var made: Distributed = .{
            .arena = arena,
            .mesh = mesh,
            .shape = shape,
            .layout = layout,
            .parts = parts,
        };
        for (parts, 0..) |*part, r| {
            const local = made.localShape(@intCast(r));
            part.* = try arena.alloc(f64, local[0] * local[1] * local[2]);
            @memset(part.*, 0);
        }
        return made;
    }

    /// Random values that are equal where the layout says so: each element of a rank's box gets its
    /// value from its global index and the coordinates that may make a difference.
    fn random(x: *Distributed, seed: u64) void {
        for (x.parts, 0..) |part, r| {
            const at = x.mesh.coordinates(@intCast(r));
            var key = seed;
            for (axes.default_order) |axis| {
                const differs = x.layout.state(axis) == .partial;
                key = key *% 31 +% (if (differs) at[@backingInt(axis)] + 1 else 0);
            }
            var walker: Walker = .init(x, @intCast(r));
            for (part) |*value| {
                const index = walker.global(&x.shape);
                var prng: std.Random.DefaultPrng = .init(key *% 1_000_003 +% index);
                value.* = prng.random().floatNorm(f64);
                walker.next();
            }
        }
    }

    fn localShape(x: *const Distributed, r: u32) Shape {
        var local: Shape = undefined;
        x.layout.localShape(&x.shape, x.mesh, x.mesh.coordinates(r), &local);
        return local;
    }

    /// Value of a global element on a rank; null where it does not lie there.
    fn get(x: *const Distributed, r: u32, global: Shape) ?f64 {
        const coordinates = x.mesh.coordinates(r);
        var index: u64 = 0;
        for (0..rank) |dim| {
            const run = x.layout.run(dim, x.shape[dim], x.mesh, coordinates);
            if (global[dim] < run.start or global[dim] >= run.start + run.length) return null;
            index = index * run.length + global[dim] - run.start;
        }
        return x.parts[r][index];
    }

    /// The tensor itself: summands added up.
    fn sumAt(x: *const Distributed, global: Shape) f64 {
        var total: f64 = 0;
        for (0..x.mesh.world()) |r| {
            if (!x.isFirstCopy(@intCast(r))) continue;
            total += x.get(@intCast(r), global) orelse 0;
        }
        return total;
    }

    /// Of the ranks that hold copies the first one counts.
    fn isFirstCopy(x: *const Distributed, r: u32) bool {
        for (axes.default_order) |axis| switch (x.layout.state(axis)) {
            .replicated, .identical => if (x.mesh.coordinate(r, axis) != 0) return false,
            .split, .partial => {},
        };
        return true;
    }
};

/// Goes through the elements of a rank's box.
const Walker = struct {
    start: Shape,
    local: Shape,
    position: Shape = .{ 0, 0, 0 },

    fn init(x: *const Distributed, r: u32) Walker {
        var walker: Walker = .{ .start = undefined, .local = x.localShape(r) };
        for (&walker.start, 0..) |*start, dim|
            start.* = x.layout.run(dim, x.shape[dim], x.mesh, x.mesh.coordinates(r)).start;
        return walker;
    }

    fn index(walker: *const Walker) Shape {
        var result: Shape = undefined;
        for (&result, walker.start, walker.position) |*to, start, offset| to.* = start + offset;
        return result;
    }

    fn global(walker: *const Walker, shape: *const Shape) u64 {
        const i = walker.index();
        return (i[0] * shape[1] + i[1]) * shape[2] + i[2];
    }

    fn next(walker: *Walker) void {
        var dim: usize = rank;
        while (dim > 0) : (dim -= 1) {
            walker.position[dim - 1] += 1;
            if (walker.position[dim - 1] < walker.local[dim - 1]) return;
            walker.position[dim - 1] = 0;
        }
    }
};

/// What a rank does: element by element, from the parts of the ranks of its group along the axis.
fn apply(x: *const Distributed, step: Step) !Distributed {
    var layout = x.layout;
    layout.set(step.axis, step.to);
    const y: Distributed = try .init(x.arena, x.mesh, x.shape, layout);
    const group = AxisSet.initOne(step.axis);
    const size = x.mesh.size(step.axis);
    for (y.parts, 0..) |part, r| {
        const own: u32 = @intCast(r);
        var walker: Walker = .init(&y, own);
        for (part) |*to| {
            const global = walker.index();
            to.* = switch (step.move) {
                .relabel, .slice => x.get(own, global).?,
                .place_in_zeros => x.get(own, global) orelse 0,
                .all_gather, .all_to_all => for (0..size) |place| {
                    const other = x.mesh.member(own, group, @intCast(place));
                    if (x.get(other, global)) |found| break found;
                } else unreachable,
                .all_reduce, .reduce_scatter => sum: {
                    var total: f64 = 0;
                    for (0..size) |place|
                        total += x.get(x.mesh.member(own, group, @intCast(place)), global).?;
                    break :sum total;
                },
            };
            walker.next();
        }
    }
    return y;
}

/// Σ x·y, and Σ |x·y|, over the elements of all ranks; where all do the same work (I) it counts
/// once.
fn inner(x: *const Distributed, y: *const Distributed) struct { f64, f64 } {
    var total: f64 = 0;
    var size: f64 = 0;
    for (x.parts, y.parts, 0..) |a, b, r| {
        var counts = true;
        for (axes.default_order) |axis| {
            if (x.layout.state(axis) != .identical) continue;
            if (x.mesh.coordinate(@intCast(r), axis) != 0) counts = false;
        }
        if (counts) for (a, b) |u, v| {
            total += u * v;
            size += @abs(u * v);
        };
    }
    return .{ total, size };
}

/// A random x of the layout and a random y of the dual layout after the step.
pub fn expectAdjoint(
    random: std.Random,
    mesh: *const Mesh,
    layout: Layout,
    step: Step,
    shape: *const Shape,
) !void {
    var arena: std.heap.ArenaAllocator = .init(testing.allocator);
    defer arena.deinit();
    var x: Distributed = try .init(arena.allocator(), mesh, shape.*, layout);
    x.random(random.int(u32));
    const ax = try apply(&x, step);
    var y: Distributed = try .init(arena.allocator(), mesh, shape.*, ax.layout.dual());
    y.random(random.int(u32));
    var ay = try apply(&y, step.dual());
    const left, const left_size = inner(&ax, &y);
    const right, const right_size = inner(&x, &ay);
    try testing.expectApproxEqAbs(left, right, 1e-14 * @max(left_size, right_size));
}

/// Steps change what lies where, and never the tensor.
pub fn expectRoute(
    random: std.Random,
    mesh: *const Mesh,
    layout: Layout,
    steps: []const Step,
    shape: *const Shape,
) !void {
    var arena: std.heap.ArenaAllocator = .init(testing.allocator);
    defer arena.deinit();
    var x: Distributed = try .init(arena.allocator(), mesh, shape.*, layout);
    x.random(random.int(u32));
    var y = x;
    for (steps) |step| y = try apply(&y, step);
    for (0..shape[0]) |i| for (0..shape[1]) |j| for (0..shape[2]) |k| {
        const global: Shape = .{ i, j, k };
        try testing.expectApproxEqAbs(x.sumAt(global), y.sumAt(global), 1e-12);
    };
}
