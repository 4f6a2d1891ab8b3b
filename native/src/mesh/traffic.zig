//! What a rank puts on the wire in one step, call by call of a kind (mesh.md §5).

const std = @import("std");
const axes = @import("axes.zig");
const operations = @import("operations.zig");
const order_check = @import("order_check.zig");
const AxisSet = axes.AxisSet;

pub const Row = struct {
    cause: operations.Cause,
    kind: operations.Kind,
    over: AxisSet,
    calls: u64,
    wire_bytes: u64,
};

/// Rows in order of their first call.
pub fn sum(
    gpa: std.mem.Allocator,
    mesh: *const axes.Mesh,
    steps: order_check.Steps,
) error{OutOfMemory}![]Row {
    var rows: std.ArrayList(Row) = .empty;
    for ([_][]const operations.Operation{ steps.passes, steps.closing }) |list| {
        for (list) |*operation| {
            const row = try rowOf(gpa, &rows, operation);
            row.calls += 1;
            row.wire_bytes += operation.wireBytes(mesh.groupSize(operation.over));
        }
    }
    return rows.items;
}

fn rowOf(
    gpa: std.mem.Allocator,
    rows: *std.ArrayList(Row),
    operation: *const operations.Operation,
) error{OutOfMemory}!*Row {
    for (rows.items) |*row| {
        if (row.cause == operation.cause and row.kind == operation.kind and
            row.over.eql(operation.over)) return row;
    }
    try rows.append(gpa, .{
        .cause = operation.cause,
        .kind = operation.kind,
        .over = operation.over,
        .calls = 0,
        .wire_bytes = 0,
    });
    return &rows.items[rows.items.len - 1];
}
