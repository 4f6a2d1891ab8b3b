//! Collectives that a GPU works on beside other work: who still has to be joined, and the memory
//! that is kept until then.

const std = @import("std");
const Context = @import("../runtime/context.zig").Context;
const tensors = @import("../runtime/tensor.zig");
const Nccl = @import("../comm/nccl.zig").Nccl;
const operation = @import("../comm/operation.zig");
const status = @import("../abi/status.zig");
const Error = status.Error;

const Ticket = struct { nccl: *Nccl, slot: u32, blocks: [2]?*tensors.Block };

/// By number; a joined one leaves null.
var tickets: std.ArrayList(?Ticket) = .empty;

/// Starts the call. Returns the ticket; the tensors' memory is kept until it is joined.
pub fn start(
    context: *Context,
    nccl: *Nccl,
    call: operation.Collective,
    x: ?tensors.Tensor,
    y: ?tensors.Tensor,
) Error!i32 {
    const at = for (tickets.items, 0..) |ticket, i| {
        if (ticket == null) break i;
    } else fresh: {
        try tickets.append(context.gpa, null);
        break :fresh tickets.items.len - 1;
    };
    const slot = try nccl.start(call);
    tickets.items[at] = .{ .nccl = nccl, .slot = slot, .blocks = .{
        if (x) |tensor| tensor.block else null,
        if (y) |tensor| tensor.block else null,
    } };
    for (tickets.items[at].?.blocks) |block| if (block) |held| context.retain(held);
    return @intCast(at + 1);
}

/// Orders all later work of the device behind the call, and lets its memory go.
pub fn join(context: *Context, number: i32) Error!void {
    if (number < 1 or number > tickets.items.len or tickets.items[@intCast(number - 1)] == null)
        return status.invalid("join: nothing with ticket {d} is on its way", .{number});
    const ticket = &tickets.items[@intCast(number - 1)];
    const result = ticket.*.?.nccl.join(ticket.*.?.slot);
    drop(context, ticket);
    return result;
}

/// A group ends: what nobody has joined is joined.
pub fn joinAll(context: *Context, nccl: *Nccl) void {
    for (tickets.items) |*ticket| if (ticket.*) |open| {
        if (open.nccl != nccl) continue;
        nccl.join(open.slot) catch {}; // The streams end with the group.
        drop(context, ticket);
    };
}

fn drop(context: *Context, ticket: *?Ticket) void {
    for (ticket.*.?.blocks) |block| if (block) |held| context.release(held);
    ticket.* = null;
}
