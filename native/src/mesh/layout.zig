//! Layouts (mesh.md §4): in which state a tensor is on every axis of the mesh, and which box of it
//! lies on a rank. Whole tensors come in two states, since what becomes of their gradients differs:
//!
//!   S(d)  dim d is split, part k lies on coordinate k     gradient: S(d)
//!   R     whole on every rank, which do different work    gradient: P
//!   P     every rank holds a summand                      gradient: R
//!   I     whole on every rank, which repeat the same work gradient: I

const std = @import("std");
const axes = @import("axes.zig");
const placement = @import("placement.zig");
const Axis = axes.Axis;
const AxisSet = axes.AxisSet;

pub const max_dims = placement.max_rank;

/// State of a tensor on one axis.
pub const State = union(enum) {
    split: u8,
    replicated,
    partial,
    identical,

    /// State of the gradient.
    pub fn dual(state: State) State {
        return switch (state) {
            .split, .identical => state,
            .replicated => .partial,
            .partial => .replicated,
        };
    }

    pub fn is(state: State, other: State) bool {
        return std.meta.eql(state, other);
    }

    pub fn format(state: State, writer: *std.Io.Writer) std.Io.Writer.Error!void {
        return switch (state) {
            .split => |dim| writer.print("S({d})", .{dim}),
            .replicated => writer.writeAll("R"),
            .partial => writer.writeAll("P"),
            .identical => writer.writeAll("I"),
        };
    }
};

/// Axes that split a dim, outermost first: each cuts what the ones before it leave.
pub const AxisList = struct {
    items: [axes.count]Axis = undefined,
    length: u8 = 0,

    pub fn slice(list: *const AxisList) []const Axis {
        return list.items[0..list.length];
    }

    fn append(list: *AxisList, axis: Axis) void {
        list.items[list.length] = axis;
        list.length += 1;
    }

    fn remove(list: *AxisList, axis: Axis) void {
        const at = std.mem.indexOfScalar(Axis, list.slice(), axis).?;
        const rest = list.items[at + 1 .. list.length];
        @memmove(list.items[at..][0..rest.len], rest);
        list.length -= 1;
    }
};

/// An axis that is named nowhere is R.
pub const Layout = struct {
    dims: [max_dims]AxisList = @splat(.{}),
    partial: AxisSet = .empty,
    identical: AxisSet = .empty,

    pub fn state(layout: *const Layout, axis: Axis) State {
        if (layout.partial.contains(axis)) return .partial;
        if (layout.identical.contains(axis)) return .identical;
        for (&layout.dims, 0..) |*list, dim| {
            if (std.mem.indexOfScalar(Axis, list.slice(), axis) != null)
                return .{ .split = @intCast(dim) };
        }
        return .replicated;
    }

    /// A split becomes the innermost one of its dim.
    pub fn set(layout: *Layout, axis: Axis, to: State) void {
        switch (layout.state(axis)) {
            .split => |dim| layout.dims[dim].remove(axis),
            .partial => layout.partial.remove(axis),
            .identical => layout.identical.remove(axis),
            .replicated => {},
        }
        switch (to) {
            .split => |dim| layout.dims[dim].append(axis),
            .partial => layout.partial.insert(axis),
            .identical => layout.identical.insert(axis),
            .replicated => {},
        }
    }

    /// Layout of the gradient.
    pub fn dual(layout: *const Layout) Layout {
        var result = layout.*;
        for (axes.default_order) |axis| {
            const now = layout.state(axis);
            if (now != .split) result.set(axis, now.dual());
        }
        return result;
    }

    /// What of a dim of `size` lies at these coordinates.
    pub fn run(
        layout: *const Layout,
        dim: usize,
        size: u64,
        mesh: *const axes.Mesh,
        at: axes.Coordinates,
    ) placement.Run {
        var result: placement.Run = .{ .start = 0, .length = size };
        for (layout.dims[dim].slice()) |axis| {
            const piece = placement.cut(result.length, at[@backingInt(axis)], mesh.size(axis));
            result = .{ .start = result.start + piece.start, .length = piece.length };
        }
        return result;
    }

    pub fn localShape(
        layout: *const Layout,
        shape: []const u64,
        mesh: *const axes.Mesh,
        at: axes.Coordinates,
        local: []u64,
    ) void {
        for (shape, local, 0..) |size, *to, dim| to.* = layout.run(dim, size, mesh, at).length;
    }

    /// `[S(dp·fsdp), -] P(tp)`
    pub fn format(layout: Layout, writer: *std.Io.Writer) std.Io.Writer.Error!void {
        var rank = layout.dims.len;
        while (rank > 0 and layout.dims[rank - 1].length == 0) rank -= 1;
        try writer.writeAll("[");
        for (layout.dims[0..rank], 0..) |*list, dim| {
            if (dim > 0) try writer.writeAll(", ");
            if (list.length == 0) try writer.writeAll("-");
            for (list.slice(), 0..) |axis, i|
                try writer.print("{s}{t}", .{ if (i == 0) "" else "·", axis });
        }
        try writer.writeAll("]");
        for (axes.default_order) |axis| switch (layout.state(axis)) {
            .partial => try writer.print(" P({t})", .{axis}),
            .identical => try writer.print(" I({t})", .{axis}),
            else => {},
        };
    }
};
