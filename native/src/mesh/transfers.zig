//! The op list of a pipeline stage with its messages (mesh.md §10.2, §10.4). A send that is
//! followed by a receive from the same neighbour is one exchange where the neighbour has the
//! counterpart. The same rule as in lib/mesh/pipeline.ts.

const std = @import("std");
const schedules = @import("schedule.zig");
const Op = schedules.Op;

/// Forward results and backward results of a microbatch.
pub const Parcel = struct { kind: schedules.Kind, microbatch: u32 };

pub const Action = union(enum) {
    pass: Op,
    /// With both, one neighbour gets and gives at once.
    transfer: struct { send: ?Parcel = null, receive: ?Parcel = null },
};

pub const Actions = std.ArrayList(Action);

/// `lists` are the op lists of all stages.
pub fn plan(
    gpa: std.mem.Allocator,
    actions: *Actions,
    lists: []const []const Op,
    stage: usize,
) error{OutOfMemory}!void {
    const previous: ?[]const Op = if (stage > 0) lists[stage - 1] else null;
    const next: ?[]const Op = if (stage + 1 < lists.len) lists[stage + 1] else null;
    const own = lists[stage];
    var is_here = false;
    for (own, 0..) |op, at| {
        const source, const target = if (op.kind == .forward)
            .{ previous, next }
        else
            .{ next, previous };
        const parcel: Parcel = .{ .kind = op.kind, .microbatch = op.microbatch };
        if (source != null and !is_here)
            try actions.append(gpa, .{ .transfer = .{ .receive = parcel } });
        try actions.append(gpa, .{ .pass = op });
        const following: ?Op = if (at + 1 < own.len) own[at + 1] else null;
        is_here = false;
        const neighbour = target orelse continue;
        if (following) |other| is_here = hasTurn(neighbour, other, op);
        try actions.append(gpa, .{ .transfer = .{
            .send = parcel,
            .receive = if (is_here)
                .{ .kind = following.?.kind, .microbatch = following.?.microbatch }
            else
                null,
        } });
    }
}

/// Whether a list goes from one pass to another one of the other direction.
fn hasTurn(ops: []const Op, first: Op, second: Op) bool {
    if (first.kind == second.kind) return false;
    for (ops[0 .. ops.len - 1], ops[1..]) |a, b|
        if (std.meta.eql(a, first) and std.meta.eql(b, second)) return true;
    return false;
}
