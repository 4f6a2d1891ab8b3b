//! The mesh of ranks (mesh.md §3): named axes with sizes and an order, coordinates of ranks, and
//! the groups of ranks that differ on some axes only. Pure functions of a few numbers.

const std = @import("std");
const status = @import("../abi/status.zig");
const Error = status.Error;

/// Pipeline stages, replicas, shards of weights, pieces of the sequence, pieces of layers.
pub const Axis = enum(u3) { pp, dp, fsdp, cp, tp };
pub const count = @typeInfo(Axis).@"enum".field_names.len;
pub const AxisSet = std.EnumSet(Axis);

/// Outermost first: the last axis joins neighbouring ranks.
pub const default_order = [count]Axis{ .pp, .dp, .fsdp, .cp, .tp };
/// What a rank is a double of exactly.
pub const max_world = 1 << 30;

pub const Coordinates = [count]u32;

pub const Mesh = struct {
    /// By axis.
    sizes: [count]u32,
    /// Outermost first.
    order: [count]Axis = default_order,

    /// `sizes` are by axis; one may be -1, and is then what `ranks` leaves for it.
    pub fn init(sizes: [count]i32, order: [count]Axis, ranks: u32) Error!Mesh {
        if (ranks < 1 or ranks > max_world) return status.invalid(
            "mesh: {d} ranks, expected 1 to {d}",
            .{ ranks, max_world },
        );
        try checkOrder(order);
        var inferred: ?Axis = null;
        var product: u64 = 1;
        for (default_order) |axis| {
            const given = sizes[@backingInt(axis)];
            if (given == -1) {
                if (inferred) |other| return status.invalid(
                    "mesh: {t} and {t} are both -1; one axis can be inferred from the others",
                    .{ other, axis },
                );
                inferred = axis;
            } else if (given < 1) return status.invalid(
                "mesh: {t} is {d}; an axis has 1 rank or more, or -1 for what the others leave",
                .{ axis, given },
            ) else product = @min(product * @as(u64, @intCast(given)), std.math.maxInt(u32));
        }
        const fixed: Fixed = .{ .sizes = sizes, .product = product };
        if (inferred == null and product != ranks) return status.invalid(
            "mesh: {f}, but there are {d} ranks; set one axis to -1 to have it inferred",
            .{ fixed, ranks },
        );
        if (ranks % product != 0)
            return status.invalid("mesh: {d} ranks are not divisible by {f}", .{ ranks, fixed });
        var mesh: Mesh = .{ .sizes = undefined, .order = order };
        for (&mesh.sizes, sizes) |*to, given|
            to.* = if (given == -1) @intCast(ranks / product) else @intCast(given);
        return mesh;
    }

    pub fn size(mesh: *const Mesh, axis: Axis) u32 {
        return mesh.sizes[@backingInt(axis)];
    }

    pub fn world(mesh: *const Mesh) u32 {
        return mesh.groupSize(.full);
    }

    /// Ranks between neighbours on the axis.
    pub fn stride(mesh: *const Mesh, axis: Axis) u32 {
        var product: u32 = 1;
        var i: usize = count;
        while (i > 0) : (i -= 1) {
            if (mesh.order[i - 1] == axis) return product;
            product *= mesh.size(mesh.order[i - 1]);
        }
        unreachable; // every axis is in the order
    }

    pub fn coordinate(mesh: *const Mesh, rank: u32, axis: Axis) u32 {
        return rank / mesh.stride(axis) % mesh.size(axis);
    }

    /// By axis.
    pub fn coordinates(mesh: *const Mesh, rank: u32) Coordinates {
        var result: Coordinates = undefined;
        var rest = rank;
        var i: usize = count;
        while (i > 0) : (i -= 1) {
            const axis = mesh.order[i - 1];
            result[@backingInt(axis)] = rest % mesh.size(axis);
            rest /= mesh.size(axis);
        }
        return result;
    }

    pub fn rankOf(mesh: *const Mesh, at: Coordinates) u32 {
        var rank: u32 = 0;
        for (mesh.order) |axis| rank = rank * mesh.size(axis) + at[@backingInt(axis)];
        return rank;
    }

    pub fn groupSize(mesh: *const Mesh, axes: AxisSet) u32 {
        var product: u32 = 1;
        for (default_order) |axis| {
            if (axes.contains(axis)) product *= mesh.size(axis);
        }
        return product;
    }

    /// Place of a rank among those that equal it on all axes but `axes`.
    pub fn placeIn(mesh: *const Mesh, rank: u32, axes: AxisSet) u32 {
        const at = mesh.coordinates(rank);
        var place: u32 = 0;
        for (mesh.order) |axis| {
            if (axes.contains(axis)) place = place * mesh.size(axis) + at[@backingInt(axis)];
        }
        return place;
    }

    /// The rank at a place of the group of `rank`: global ranks rise with the place.
    pub fn member(mesh: *const Mesh, rank: u32, axes: AxisSet, place: u32) u32 {
        var at = mesh.coordinates(rank);
        var rest = place;
        var i: usize = count;
        while (i > 0) : (i -= 1) {
            const axis = mesh.order[i - 1];
            if (!axes.contains(axis)) continue;
            at[@backingInt(axis)] = rest % mesh.size(axis);
            rest /= mesh.size(axis);
        }
        return mesh.rankOf(at);
    }
};

fn checkOrder(order: [count]Axis) Error!void {
    var seen: AxisSet = .empty;
    for (order) |axis| {
        if (seen.contains(axis)) return status.invalid(
            "mesh: the order names {t} twice; it names each of pp, dp, fsdp, cp, tp once",
            .{axis},
        );
        seen.insert(axis);
    }
}

/// `pp 1 × fsdp 8 × tp 2 = 16`: the axes that are not inferred.
const Fixed = struct {
    sizes: [count]i32,
    product: u64,

    pub fn format(fixed: Fixed, writer: *std.Io.Writer) std.Io.Writer.Error!void {
        var is_first = true;
        for (default_order) |axis| {
            const size = fixed.sizes[@backingInt(axis)];
            if (size == -1) continue;
            try writer.print("{s}{t} {d}", .{ if (is_first) "" else " × ", axis, size });
            is_first = false;
        }
        try writer.print(" = {d}", .{fixed.product});
    }
};
