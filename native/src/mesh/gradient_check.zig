//! Whether the sums of a step make every gradient complete before the optimizer sees it (mesh.md
//! §4.3): each axis over which it is a summand once, and no other axis.

const std = @import("std");
const axes = @import("axes.zig");
const models = @import("model.zig");
const operations = @import("operations.zig");
const status = @import("../abi/status.zig");
const AxisSet = axes.AxisSet;
const Error = status.Error;

/// `pending` says, by parameter, over which axes its gradient is a summand when the backward pass
/// ends; null for parameters of other stages.
pub fn check(
    gpa: std.mem.Allocator,
    parameters: []const models.Parameter,
    pending: []const ?AxisSet,
    list: []const operations.Operation,
) Error!void {
    const open = try gpa.dupe(?AxisSet, pending);
    defer gpa.free(open);
    for (list) |operation| for (operation.sums) |number| {
        const name = parameters[number].name;
        const left = if (open[number]) |*set| set else return status.invalid(
            "layout: {s} is summed on a stage that does not have it",
            .{name},
        );
        for (axes.default_order) |axis| {
            if (!operation.over.contains(axis)) continue;
            if (!left.contains(axis)) return status.invalid(
                "layout: {s}: the gradient is summed over {t}, over which it is complete: it " ++
                    "would count once per rank",
                .{ name, axis },
            );
            left.remove(axis);
        }
    };
    for (parameters, open) |parameter, left| {
        const set = left orelse continue;
        for (axes.default_order) |axis| if (set.contains(axis)) return status.invalid(
            "layout: {s}: gradient is partial over {t}; reduce it before the optimizer",
            .{ parameter.name, axis },
        );
    }
}
