//! Groups on GPUs: opening NCCL, meeting the other ranks through an id, splitting, and telling of
//! failures where the host waits for the device.

const std = @import("std");
const Context = @import("../runtime/context.zig").Context;
const nccl_api = @import("../comm/nccl_api.zig");
const Nccl = @import("../comm/nccl.zig").Nccl;
const groups = @import("comm_open.zig");
const scratch = @import("../abi/scratch.zig");
const status = @import("../abi/status.zig");
const text = @import("comm.zig").text;
const op = @import("call.zig");
const Call = op.Call;
const Error = op.Error;

var api: ?nccl_api.Api = null;

/// Opens the NCCL library whose path is in scratch text, once. Number: its version.
pub fn openLibrary(context: *Context, path_length: i32) Error!void {
    var call = Call.begin(context, "NCCL");
    defer call.end();
    const path = try text(&call, 0, path_length);
    if (api == null) {
        var buffer: [4096]u8 = undefined;
        const named = std.fmt.bufPrintSentinel(&buffer, "{s}", .{path}, 0) catch unreachable;
        api = try nccl_api.open(named);
    }
    scratch.block.numbers[0] = @floatFromInt(api.?.version());
}

fn opened() Error!*const nccl_api.Api {
    return if (api) |*found| found else status.fail(
        .library_missing,
        "NCCL is not open; groups on cuda need it",
        .{},
    );
}

/// A new id of 128 bytes into scratch text, for the first rank of a group to tell the others.
pub fn makeId(_: *Context) Error!void {
    const found = try opened();
    var id: nccl_api.UniqueId = undefined;
    const result = found.GetUniqueId(&id);
    if (result != nccl_api.success) return status.fail(.nccl, "ncclGetUniqueId: {s} ({s})", .{
        found.GetErrorString(result),
        found.GetLastError(null) orelse "",
    });
    @memcpy(scratch.block.text[0..id.internal.len], &id.internal);
}

/// Starts to open a group with the id at the start of scratch text, its name behind it, and its
/// global ranks in scratch ints. Number: the group.
pub fn open(context: *Context, size: i32, rank: i32, name_length: i32) Error!void {
    var call = Call.begin(context, "group");
    defer call.end();
    try context.expectDevice(.cuda);
    const found = try opened();
    var id: nccl_api.UniqueId = undefined;
    @memcpy(&id.internal, scratch.block.text[0..id.internal.len]);
    var ranks: [groups.most_ranks]u32 = undefined;
    const name = try text(&call, id.internal.len, name_length);
    const group = try groups.groupOf(&call, size, rank, name, &ranks);
    const gpu = context.gpu.?;
    gpu.guard = raise;
    gpu.following = false; // beside collectives of other streams it has not been run
    const nccl = try Nccl.open(context.gpa, found, gpu, &id, group, groups.record());
    return groups.insert(context, .{ .nccl = nccl });
}

/// Splits a group: all of its ranks call it. Numbers: the new group (0 for a negative color), this
/// rank's place in it, its size; its global ranks in scratch ints.
pub fn split(context: *Context, id: i32, color: i32, key: i32, name_length: i32) Error!void {
    var call = Call.begin(context, "split");
    defer call.end();
    const parent = try groups.find(id);
    const name = try text(&call, 0, name_length);
    const made = try parent.split(color, key, name);
    scratch.block.numbers[0] = 0;
    const child = made orelse return;
    try groups.insert(context, child);
    const number = scratch.block.numbers[0];
    try groups.poll(context, @intFromFloat(number)); // all ranks are there
    scratch.block.numbers[0] = number;
    const group = child.group();
    scratch.block.numbers[1] = @floatFromInt(group.rank);
    scratch.block.numbers[2] = @floatFromInt(group.size());
    for (group.ranks, scratch.block.ints[0..group.size()]) |global, *to| to.* = @intCast(global);
}

/// Processes of the group's other ranks on this host, by group rank in scratch ints (0: none). One
/// that ends gives the group up.
pub fn watch(_: *Context, id: i32) Error!void {
    const transport = try groups.find(id);
    if (transport != .nccl) return;
    const nccl = transport.nccl;
    for (0..nccl.group.size()) |rank| {
        const pid = scratch.block.ints[rank];
        if (rank == nccl.group.rank or pid <= 0) continue;
        if (!nccl.processes.watch(rank, @intCast(pid))) return nccl.fail(
            .aborted,
            "the process of rank {d} of group {s} has ended",
            .{ nccl.group.ranks[rank], nccl.group.name },
        );
    }
}

/// For whoever has waited for the device: what was cut off must not pass for a result.
fn raise() Error!void {
    var all = groups.iterate();
    while (all.next()) |transport| {
        if (transport == .nccl) try transport.nccl.raise();
    }
}

/// A captured step that runs again has a deadline, too.
pub fn noteReplay() Error!void {
    var all = groups.iterate();
    while (all.next()) |transport| {
        if (transport == .nccl) return transport.nccl.noteReplay();
    }
}
