//! The calls of NCCL behind collectives and messages: what they take, and in which groups.

const operation = @import("operation.zig");
const nccl_api = @import("nccl_api.zig");
const Nccl = @import("nccl.zig").Nccl;
const Result = nccl_api.Result;

pub fn collective(nccl: *Nccl, call: *const operation.Collective) Result {
    const api = nccl.api;
    const dtype = nccl_api.codeOf(call.dtype);
    const reduction = nccl_api.reductionOf(call.reduction);
    const from = call.input;
    const to = call.output;
    const count = call.count;
    const comm = nccl.comm;
    const stream = nccl.stream;
    return switch (call.kind) {
        .all_reduce => api.AllReduce(from, to, count, dtype, reduction, comm, stream),
        .reduce_scatter => api.ReduceScatter(from, to, count, dtype, reduction, comm, stream),
        .all_gather => api.AllGather(from, to, count, dtype, comm, stream),
        .broadcast => api.Broadcast(from, to, count, dtype, @intCast(call.root), comm, stream),
        .all_to_all => allToAll(nccl, call),
        .barrier, .split => barrier: {
            const scrap: *anyopaque = @ptrFromInt(nccl.scrap.address);
            break :barrier api.AllReduce(scrap, scrap, 1, 7, 0, comm, stream);
        },
        .send, .receive, .replay => unreachable,
    };
}

fn allToAll(nccl: *Nccl, call: *const operation.Collective) Result {
    const api = nccl.api;
    const dtype = nccl_api.codeOf(call.dtype);
    const part = call.count * call.dtype.size();
    var first = api.GroupStart();
    for (0..nccl.group.size()) |rank| {
        const peer: c_int = @intCast(rank);
        const from = call.input + rank * part;
        const to = call.output + rank * part;
        keep(&first, api.Send(from, call.count, dtype, peer, nccl.comm, nccl.stream));
        keep(&first, api.Recv(to, call.count, dtype, peer, nccl.comm, nccl.stream));
    }
    keep(&first, api.GroupEnd());
    return first;
}

/// Both directions in one group, so that neither waits for the other.
pub fn exchange(
    nccl: *Nccl,
    outgoing: ?operation.Outgoing,
    incoming: ?operation.Incoming,
) Result {
    const api = nccl.api;
    var first = api.GroupStart();
    if (outgoing) |it| keep(&first, api.Send(
        it.data,
        it.count,
        nccl_api.codeOf(it.dtype),
        @intCast(it.peer),
        nccl.comm,
        nccl.stream,
    ));
    if (incoming) |it| keep(&first, api.Recv(
        it.data,
        it.count,
        nccl_api.codeOf(it.dtype),
        @intCast(it.peer),
        nccl.comm,
        nccl.stream,
    ));
    keep(&first, api.GroupEnd());
    return first;
}

/// The first result that is a failure counts.
fn keep(first: *Result, result: Result) void {
    if (first.* == nccl_api.success or first.* == nccl_api.in_progress) first.* = result;
}
