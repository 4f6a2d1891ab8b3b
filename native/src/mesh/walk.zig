//! Walks through the operations of a step with layouts in place of numbers: every operation must be
//! legal on every axis (mesh.md §4.3), and in the end it is known over which axes the gradient of
//! each parameter is a sum that is still to be made.

const std = @import("std");
const axes = @import("axes.zig");
const convert = @import("convert.zig");
const layout = @import("layout.zig");
const rules = @import("rules.zig");
const status = @import("../abi/status.zig");
const Axis = axes.Axis;
const AxisSet = axes.AxisSet;
const Error = status.Error;
const State = layout.State;
const Verdict = rules.Verdict;

pub const States = [axes.count]State;

/// A tensor on its way, by what is known of it.
pub const Value = struct {
    name: []const u8,
    rank: u8,
    states: States,

    pub fn state(value: *const Value, axis: Axis) State {
        return value.states[@backingInt(axis)];
    }

    pub fn called(value: Value, name: []const u8) Value {
        var other = value;
        other.name = name;
        return other;
    }

    /// A vector as it meets tensors of `rank` dims: its dim is their last one.
    pub fn broadcast(value: Value, rank: u8) Value {
        var other = value;
        other.rank = rank;
        for (&other.states) |*one| {
            if (one.* == .split) one.* = .{ .split = rank - value.rank + one.split };
        }
        return other;
    }
};

/// The axes that have more than one rank, and on which tensors have states: stages of a pipeline
/// hold different tensors.
pub fn walkedAxes(mesh: *const axes.Mesh) AxisSet {
    var set: AxisSet = .empty;
    for (axes.default_order) |axis| {
        if (axis != .pp and mesh.size(axis) > 1) set.insert(axis);
    }
    return set;
}

pub const Walk = struct {
    over: AxisSet,

    pub fn init(mesh: *const axes.Mesh) Walk {
        return .{ .over = walkedAxes(mesh) };
    }

    fn unary(
        walk: Walk,
        what: []const u8,
        x: Value,
        rank: u8,
        context: anytype,
    ) Error!Value {
        var y = x;
        y.rank = rank;
        for (axes.default_order) |axis| {
            if (!walk.over.contains(axis)) continue;
            const state = x.state(axis);
            y.states[@backingInt(axis)] = switch (@as(Verdict, context.rule(state))) {
                .state => |made| made,
                .illegal => |why| return status.invalid(
                    "layout: {s}: {s} of {f} over {t}: {s}",
                    .{ x.name, what, state, axis, why },
                ),
            };
        }
        return y;
    }

    fn binary(walk: Walk, what: []const u8, x: Value, w: Value, context: anytype) Error!Value {
        var y = x;
        for (axes.default_order) |axis| {
            if (!walk.over.contains(axis)) continue;
            const a = x.state(axis);
            const b = w.state(axis);
            y.states[@backingInt(axis)] = switch (@as(Verdict, context.rule(a, b))) {
                .state => |made| made,
                .illegal => |why| return status.invalid(
                    "layout: {s}: {s} of {s} {f} and {f} over {t}: {s}",
                    .{ w.name, what, x.name, a, b, axis, why },
                ),
            };
        }
        return y;
    }

    pub fn add(walk: Walk, a: Value, b: Value) Error!Value {
        return walk.binary("sum", a, b, struct {
            fn rule(x: State, y: State) Verdict {
                return rules.add(x, y);
            }
        });
    }

    pub fn elementwise(walk: Walk, a: Value, b: Value) Error!Value {
        return walk.binary("product", a, b, struct {
            fn rule(x: State, y: State) Verdict {
                return rules.elementwise(x, y);
            }
        });
    }

    /// x of some dims and a vector of its last one.
    pub fn withVector(walk: Walk, x: Value, vector: Value) Error!Value {
        return walk.elementwise(x, vector.broadcast(x.rank));
    }

    pub fn nonlinear(walk: Walk, x: Value) Error!Value {
        return walk.unary("a function", x, x.rank, struct {
            fn rule(state: State) Verdict {
                return rules.nonlinear(state);
            }
        });
    }

    pub fn matmul(walk: Walk, x: Value, w: Value) Error!Value {
        const Rule = struct {
            rank: u8,
            fn rule(context: @This(), a: State, b: State) Verdict {
                return rules.matmul(a, context.rank, b);
            }
        };
        return walk.binary("product", x, w, Rule{ .rank = x.rank });
    }

    pub fn grouped(walk: Walk, x: Value, w: Value) Error!Value {
        const Rule = struct {
            rank: u8,
            fn rule(context: @This(), a: State, b: State) Verdict {
                return rules.grouped(a, context.rank, b);
            }
        };
        return walk.binary("grouped product", x, w, Rule{ .rank = x.rank });
    }

    pub fn along(walk: Walk, x: Value, dim: u8) Error!Value {
        return walk.overDim("a walk along a dim", x, dim, x.rank, rules.along);
    }

    pub fn sum(walk: Walk, x: Value, dim: u8) Error!Value {
        return walk.overDim("a sum", x, dim, x.rank, rules.sum);
    }

    pub fn mean(walk: Walk, x: Value, dim: u8) Error!Value {
        return walk.overDim("a mean", x, dim, x.rank, rules.mean);
    }

    fn overDim(
        walk: Walk,
        what: []const u8,
        x: Value,
        dim: u8,
        rank: u8,
        comptime f: fn (State, u8) Verdict,
    ) Error!Value {
        const Rule = struct {
            dim: u8,
            fn rule(context: @This(), state: State) Verdict {
                return f(state, context.dim);
            }
        };
        return walk.unary(what, x, rank, Rule{ .dim = dim });
    }

    /// Rows of a table; `ids` have one dim less than the result.
    pub fn lookUp(walk: Walk, table: Value, ids: Value) Error!Value {
        var y = ids;
        y.name = table.name;
        y.rank = ids.rank + 1;
        for (axes.default_order) |axis| {
            if (!walk.over.contains(axis) or ids.state(axis) == .split) continue;
            y.states[@backingInt(axis)] = switch (rules.lookUp(table.state(axis), y.rank)) {
                .state => |made| made,
                .illegal => |why| return status.invalid(
                    "layout: {s}: a look-up over {t}: {s}",
                    .{ table.name, axis, why },
                ),
            };
        }
        return y;
    }

    /// The conversion of one axis; an axis of one rank needs none.
    pub fn convertTo(walk: Walk, x: Value, axis: Axis, to: State) Error!Value {
        if (!walk.over.contains(axis) or x.state(axis).is(to)) return x;
        _ = convert.between(axis, x.state(axis), to) catch return status.invalid(
            "layout: {s}: there is no conversion from {f} to {f} over {t}",
            .{ x.name, x.state(axis), to, axis },
        );
        var y = x;
        y.states[@backingInt(axis)] = to;
        return y;
    }

    /// The loss from which the backward pass starts.
    pub fn loss(walk: Walk, x: Value) Error!void {
        _ = try walk.unary("the gradient", x, 0, struct {
            fn rule(state: State) Verdict {
                return rules.loss(state);
            }
        });
    }

    /// Axes over which the gradient of a parameter, used in this state, is a summand.
    pub fn pendingOf(walk: Walk, x: Value) AxisSet {
        var set: AxisSet = .empty;
        for (axes.default_order) |axis| {
            if (walk.over.contains(axis) and x.state(axis).dual() == .partial) set.insert(axis);
        }
        return set;
    }
};
