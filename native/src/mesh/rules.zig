//! Which operations are legal on one axis of the mesh (mesh.md §4.3): the state of the result, or
//! why there is none.

const std = @import("std");
const State = @import("layout.zig").State;

pub const Verdict = union(enum) {
    state: State,
    /// A sentence.
    illegal: []const u8,
};

fn ok(state: State) Verdict {
    return .{ .state = state };
}

const is_partial = "a summand would go through it before it is summed; reduce it first";

/// a + b, and other linear combinations.
pub fn add(a: State, b: State) Verdict {
    if (a.is(b)) return ok(a);
    if (a == .partial or b == .partial)
        return .{ .illegal = "a whole value would be added once per rank; sum the summands first" };
    return elementwise(a, b);
}

/// Multiplied by a number, or by a value that every rank has.
pub fn scale(a: State) Verdict {
    return ok(a);
}

/// A function of every element that is not linear.
pub fn nonlinear(a: State) Verdict {
    return if (a == .partial) .{ .illegal = is_partial } else ok(a);
}

/// A function of two tensors of one shape, or of one of them and another that is broadcast.
pub fn elementwise(a: State, b: State) Verdict {
    if (a == .partial or b == .partial) return .{ .illegal = is_partial };
    if (a.is(b)) return ok(a);
    if (a == .split and b == .replicated) return ok(a);
    if (a == .replicated and b == .split) return ok(b);
    if (a == .split and b == .split)
        return .{ .illegal = "its operands are split along different dims" };
    return .{ .illegal = "one operand is the same work on every rank (I), and the other is not: " ++
        "its gradient would be a summand that nothing sums" };
}

/// y = x Wᵀ for x of `rank` dims and W [out, in].
pub fn matmul(x: State, rank: u8, w: State) Verdict {
    if (x == .partial or w == .partial) return .{ .illegal = is_partial };
    const last = rank - 1;
    switch (x) {
        .split => |dim| if (dim == last) {
            if (w.is(.{ .split = 1 })) return ok(.partial);
            return .{ .illegal = "x is split along its features, and W not along the same" };
        } else {
            if (w == .replicated) return ok(x);
            return .{ .illegal = "the rows of x are split: W must be whole (R)" };
        },
        .replicated => {
            if (w == .replicated) return ok(.replicated);
            if (w.is(.{ .split = 0 })) return ok(.{ .split = last });
            return .{ .illegal = "x is whole (R): W must be split along its rows, or whole (R)" };
        },
        .identical => {
            if (w == .identical) return ok(.identical);
            return .{ .illegal = "x is the same work on every rank (I), and W is not: the " ++
                "gradient of x would be a summand; relabel x to R" };
        },
        .partial => unreachable,
    }
}

/// A map of each of the groups into which features (the last dim) fall: heads, channels, blocks.
pub fn grouped(x: State, rank: u8, w: State) Verdict {
    if (x == .partial or w == .partial) return .{ .illegal = is_partial };
    if (x.is(.{ .split = rank - 1 })) {
        if (w == .split or w == .replicated) return ok(x);
        return .{ .illegal = "x is split by groups: the weight cannot be the same work (I)" };
    }
    if (x == .split) {
        if (w == .replicated) return ok(x);
        return .{ .illegal = "the rows of x are split: the weight must be whole (R)" };
    }
    if (x.is(w)) return ok(x);
    return .{ .illegal = "x is whole, and the weight is not whole in the same way" };
}

/// Something that goes along a dim in order, or mixes its elements: cells, convolutions, norms.
pub fn along(x: State, dim: u8) Verdict {
    if (x == .partial) return .{ .illegal = is_partial };
    if (x.is(.{ .split = dim })) return .{ .illegal = "the dim that it goes along is split" };
    return ok(x);
}

/// Rows of a table [rows, features] by numbers that every rank has; the result has `rank` dims.
pub fn lookUp(table: State, rank: u8) Verdict {
    return switch (table) {
        .split => |dim| ok(if (dim == 0) .partial else .{ .split = rank - 1 }),
        .partial => .{ .illegal = is_partial },
        else => ok(table),
    };
}

/// Σ over a dim.
pub fn sum(x: State, dim: u8) Verdict {
    return ok(if (x.is(.{ .split = dim })) .partial else x);
}

/// A mean over a dim.
pub fn mean(x: State, dim: u8) Verdict {
    if (!x.is(.{ .split = dim })) return ok(x);
    return .{ .illegal = "it divides by what lies on one rank, and the ranks' gradients are " ++
        "summed; sum, and scale by the global count" };
}

/// A loss that is differentiated: summands scaled by the global count, or the same on every rank.
pub fn loss(x: State) Verdict {
    return switch (x) {
        .partial, .identical => ok(x),
        .replicated => .{ .illegal = "every rank would start a gradient of the same loss (R), " ++
            "and their sum counts it once per rank; it is a summand (P) or the same work (I)" },
        .split => .{ .illegal = "a loss is one number" },
    };
}
