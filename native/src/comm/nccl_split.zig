//! Groups out of groups on GPUs. NCCL makes the communicator; who is in it is asked from all ranks,
//! for the names in errors.

const std = @import("std");
const clock = @import("clock.zig");
const nccl_api = @import("nccl_api.zig");
const peers = @import("peer.zig");
const splits = @import("split.zig");
const status = @import("../abi/status.zig");
const Nccl = @import("nccl.zig").Nccl;
const Error = status.Error;

/// All ranks of the parent call this in the same order. The new group is ready.
pub fn run(parent: *Nccl, color: i32, key: i32, name: []const u8) Error!?*Nccl {
    const gpa = parent.gpa;
    const size = parent.group.size();
    const wishes = try gpa.alloc(splits.Wish, size);
    defer gpa.free(wishes);
    const members = try gpa.alloc(u32, size);
    defer gpa.free(members);
    try ask(parent, .{ .color = color, .key = key }, wishes, name);
    const chosen = splits.membersOf(wishes, color, members);
    const group = try splits.groupOf(gpa, parent.group, chosen, name);
    defer gpa.free(group.ranks);
    const child = if (color < 0) null else try parent.createChild(group);
    errdefer if (child) |made| made.close();
    var nobody: nccl_api.Comm = null;
    const to = if (child) |made| &made.comm else &nobody;
    var config: nccl_api.Config = .{ .split_share = 1 };
    const no_color = -1;
    const asked = if (color < 0) no_color else color;
    const result = parent.api.CommSplit(parent.comm, asked, key, to, &config);
    try settle(parent, result, to, child != null);
    return child;
}

/// Everybody's wish, through device memory.
fn ask(parent: *Nccl, wish: splits.Wish, wishes: []splits.Wish, name: []const u8) Error!void {
    const device = parent.device;
    const own = std.mem.asBytes(&wish);
    const all = std.mem.sliceAsBytes(wishes);
    const memory = device.memory.alloc(&device.api, all.len) catch
        return status.fail(.out_of_memory, "split[{s}]: no device memory", .{name});
    defer device.memory.release(&device.api, memory);
    const mine = memory.address + parent.group.rank * own.len;
    try device.upload(mine, own);
    try parent.collective(.{
        .kind = .all_gather,
        .count = own.len,
        .input = @ptrFromInt(mine),
        .output = @ptrFromInt(memory.address),
        .site = name,
    });
    try parent.collective(.{ .kind = .split, .site = name });
    try device.download(all, memory.address);
}

/// Waits until the parent is at rest and, where there is one, the child is there and ready. NCCL
/// writes the child from a thread of its own.
fn settle(
    parent: *Nccl,
    result: nccl_api.Result,
    child: *volatile nccl_api.Comm,
    wanted: bool,
) Error!void {
    var state = result;
    const deadline = clock.now() +| parent.limit;
    while (true) {
        if (state == nccl_api.success and !wanted) return;
        if (state == nccl_api.success and child.* != null) {
            state = stateOf(parent, child.*);
            if (state == nccl_api.success) return;
        }
        if (state != nccl_api.success and state != nccl_api.in_progress) break;
        if (clock.now() >= deadline) return parent.fail(
            .timeout,
            "split[{s}]: not all ranks came within {d:.3} s",
            .{ parent.group.name, clock.seconds(parent.limit) },
        );
        clock.sleep(1_000_000);
        state = stateOf(parent, parent.comm);
    }
    return parent.fail(.nccl, "split[{s}]: {s}", .{
        parent.group.name,
        parent.api.GetErrorString(state),
    });
}

fn stateOf(nccl: *Nccl, comm: nccl_api.Comm) nccl_api.Result {
    var state: nccl_api.Result = nccl_api.success;
    const asked = nccl.api.CommGetAsyncError(comm, &state);
    return if (asked == nccl_api.success) state else asked;
}
