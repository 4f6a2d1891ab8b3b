//! The conversions between layouts, and their duals (mesh.md §4.2). Data crosses ranks in no other
//! way: what is not in the table is an error when it is planned.

const std = @import("std");
const axes = @import("axes.zig");
const layouts = @import("layout.zig");
const status = @import("../abi/status.zig");
const Axis = axes.Axis;
const Error = status.Error;
const Layout = layouts.Layout;
const State = layouts.State;

pub const Move = enum {
    all_gather,
    reduce_scatter,
    all_reduce,
    all_to_all,
    /// Nothing moves: the ranks begin to do different work.
    relabel,
    slice,
    /// Dual of `slice` from R: a summand that is zero but for this rank's part.
    place_in_zeros,
};

pub const Step = struct {
    axis: Axis,
    from: State,
    to: State,
    move: Move,

    /// The conversion of the gradient.
    pub fn dual(step: Step) Step {
        const from = step.to.dual();
        const to = step.from.dual();
        const move = moveOf(from, to) orelse .place_in_zeros;
        return .{ .axis = step.axis, .from = from, .to = to, .move = move };
    }
};

/// How one state of an axis becomes another one; null when it cannot.
pub fn moveOf(from: State, to: State) ?Move {
    return switch (from) {
        .split => |dim| switch (to) {
            .split => |other| if (other == dim) null else .all_to_all,
            .replicated, .identical => .all_gather,
            .partial => null,
        },
        .partial => switch (to) {
            .split => .reduce_scatter,
            .replicated, .identical => .all_reduce,
            .partial => null,
        },
        .replicated => if (to == .split) .slice else null,
        .identical => switch (to) {
            .split => .slice,
            .replicated => .relabel,
            else => null,
        },
    };
}

/// The conversion of one axis, with the dual that its gradient takes.
pub fn between(axis: Axis, from: State, to: State) Error!Step {
    const move = moveOf(from, to) orelse return status.invalid(
        "layout: there is no conversion from {f} to {f} over {t}",
        .{ from, to, axis },
    );
    return .{ .axis = axis, .from = from, .to = to, .move = move };
}

pub const Steps = struct {
    items: [axes.count]Step = undefined,
    length: usize = 0,

    pub fn slice(steps: *const Steps) []const Step {
        return steps.items[0..steps.length];
    }
};

/// Steps from one layout to another, those first that leave less to move. Every axis changes once;
/// axes of one rank need no step.
pub fn route(mesh: *const axes.Mesh, from: Layout, to: Layout) Error!Steps {
    var steps: Steps = .{};
    var now = from;
    while (true) {
        var found: ?Step = null;
        var left: ?Axis = null;
        for (axes.default_order) |axis| {
            if (mesh.size(axis) == 1 or now.state(axis).is(to.state(axis))) continue;
            left = axis;
            const next = try between(axis, now.state(axis), to.state(axis));
            if (!isOpen(&now, &to, next)) continue;
            if (found == null or grows(found.?.move)) found = next;
        }
        const next = found orelse {
            const axis = left orelse {
                if (sameOrder(mesh, &now, &to)) return steps;
                return status.invalid(
                    "layout: {f} and {f} split a dim by the same axes in another order",
                    .{ from, to },
                );
            };
            return status.invalid(
                "layout: {f} to {f}: {t} is not the innermost axis of its dim; convert the others",
                .{ from, to, axis },
            );
        };
        now.set(next.axis, next.to);
        steps.items[steps.length] = next;
        steps.length += 1;
    }
}

fn grows(move: Move) bool {
    return move == .all_gather;
}

/// A split can end, or begin, as the innermost one of its dim only: else its parts are no runs.
fn isOpen(now: *const Layout, to: *const Layout, next: Step) bool {
    if (next.from == .split) {
        const list = now.dims[next.from.split].slice();
        if (list[list.len - 1] != next.axis) return false;
    }
    if (next.to != .split) return true;
    const have = now.dims[next.to.split].slice();
    const want = to.dims[next.to.split].slice();
    return have.len < want.len and want[have.len] == next.axis and
        std.mem.eql(Axis, have, want[0..have.len]);
}

fn sameOrder(mesh: *const axes.Mesh, a: *const Layout, b: *const Layout) bool {
    for (&a.dims, &b.dims) |*x, *y| {
        var i: usize = 0;
        for (x.slice()) |axis| {
            if (mesh.size(axis) == 1) continue;
            while (i < y.length and mesh.size(y.items[i]) == 1) i += 1;
            if (i == y.length or y.items[i] != axis) return false;
            i += 1;
        }
    }
    return true;
}
