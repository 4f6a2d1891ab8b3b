//! Collectives and messages on tensors. Results are new tensors; parts of ranks lie along dim 0.
//! Groups are opened in `comm_open.zig`.

const std = @import("std");
const Context = @import("../runtime/context.zig").Context;
const Tensor = @import("../runtime/tensor.zig").Tensor;
const operation = @import("../comm/operation.zig");
const scratch = @import("../abi/scratch.zig");
const status = @import("../abi/status.zig");
const groups = @import("comm_open.zig");
const create = @import("create.zig");
const streams = @import("comm_stream.zig");
const op = @import("call.zig");
const Call = op.Call;
const Error = op.Error;
const Transport = @import("../comm/transport.zig").Transport;

/// One collective on its way: where its tensors are and how it ends.
const Pass = struct {
    call: *Call,
    transport: Transport,
    site: []const u8,

    fn begin(call: *Call, id: i32, site_length: i32) Error!Pass {
        const transport = try groups.find(id);
        return .{ .call = call, .transport = transport, .site = try text(call, 0, site_length) };
    }

    fn size(pass: Pass) usize {
        return pass.transport.group().size();
    }

    /// Row-major, on the device that the group moves.
    fn input(pass: Pass, handle: i32) Error!Tensor {
        const x = try pass.call.input("x", handle);
        try pass.expectDevice(x);
        return x;
    }

    fn expectDevice(pass: Pass, x: Tensor) Error!void {
        if (pass.transport != .nccl or x.device() == .cuda) return;
        return pass.call.invalid(
            "x is on cpu, and group {s} moves cuda tensors (nccl); move x with .to(\"cuda\")",
            .{pass.transport.group().name},
        );
    }

    /// Starts the call from x to y; a GPU may go on beside it until `join`. Number: the ticket, 0
    /// when it is done.
    fn start(pass: Pass, given: operation.Collective, x: Tensor, y: Tensor) Error!void {
        var ticket: i32 = 0;
        if (pass.transport == .nccl) {
            const call = pass.placed(given, x, y);
            ticket = try streams.start(pass.call.context, pass.transport.nccl, call, x, y);
        } else try pass.run(given, x, y);
        scratch.block.numbers[0] = @floatFromInt(ticket);
    }

    fn placed(
        pass: Pass,
        given: operation.Collective,
        x: ?Tensor,
        y: ?Tensor,
    ) operation.Collective {
        var call = given;
        call.site = pass.site;
        call.input = address(x) orelse call.input;
        call.output = address(y) orelse call.output;
        return call;
    }

    /// Runs the call from x to y. Tensors of a GPU go through the host where the group does.
    fn run(pass: Pass, given: operation.Collective, x: ?Tensor, y: ?Tensor) Error!void {
        var call = pass.placed(given, x, y);
        if (pass.transport == .nccl) return pass.transport.collective(call);
        const context = pass.call.context;
        if (pass.transport == .fake and x != null and x.?.device() == .cuda)
            return pass.transport.fake.collectiveBy(GpuMemory{ .context = context }, call);
        var from: Host = try .init(context, x);
        defer from.deinit();
        var to: Host = if (shared(x, y)) from else try .init(context, y);
        defer if (!shared(x, y)) to.deinit();
        try from.read();
        call.input = from.data() orelse call.input;
        call.output = to.data() orelse call.output;
        try pass.transport.collective(call);
        try to.write();
    }
};

const GpuMemory = struct {
    context: *Context,

    pub fn move(gpu: GpuMemory, to: [*]u8, from: [*]const u8, bytes: usize) Error!void {
        return gpu.context.gpu.?.copy(@intFromPtr(to), @intFromPtr(from), bytes);
    }
};

fn address(tensor: ?Tensor) ?[*]u8 {
    return if (tensor) |t| @ptrCast(t.data()) else null;
}

fn shared(x: ?Tensor, y: ?Tensor) bool {
    return x != null and y != null and x.?.data() == y.?.data();
}

/// A row-major tensor as host memory: its own, or a copy of that of a GPU.
pub const Host = struct {
    context: *Context,
    tensor: ?Tensor,
    copy: ?[]u8 = null,

    pub fn init(context: *Context, tensor: ?Tensor) Error!Host {
        var host: Host = .{ .context = context, .tensor = tensor };
        const x = tensor orelse return host;
        if (x.device() == .cuda)
            host.copy = try context.gpa.alloc(u8, x.count() * x.dtype.size());
        return host;
    }

    pub fn deinit(host: *Host) void {
        if (host.copy) |copy| host.context.gpa.free(copy);
    }

    pub fn data(host: *const Host) ?[*]u8 {
        if (host.copy) |copy| return copy.ptr;
        return address(host.tensor);
    }

    pub fn read(host: *const Host) Error!void {
        const copy = host.copy orelse return;
        if (copy.len > 0) try host.context.read(host.tensor.?, 0, copy);
    }

    pub fn write(host: *const Host) Error!void {
        const copy = host.copy orelse return;
        if (copy.len > 0) try host.context.write(host.tensor.?, 0, copy);
    }
};

/// Bytes [from, from + length) of scratch text.
pub fn text(call: *Call, from: usize, length: i32) Error![]const u8 {
    const block = &scratch.block.text;
    if (length < 0 or from + @as(usize, @intCast(@max(length, 0))) > block.len)
        return call.invalid("a text of {d} bytes at {d} of the scratch block", .{ length, from });
    return block[from..][0..@intCast(length)];
}

/// The sum, maximum or minimum over all ranks. Number: the ticket for `join`, 0 when it is done.
pub fn allReduce(
    context: *Context,
    id: i32,
    x_handle: i32,
    reduction_raw: i32,
    site_length: i32,
) Error!void {
    var call = Call.begin(context, "allReduce");
    defer call.end();
    const pass = try Pass.begin(&call, id, site_length);
    const reduction = std.enums.fromInt(operation.Reduction, reduction_raw) orelse
        return call.invalid("reduction {d} is not 0 (sum), 1 (max), 2 (min)", .{reduction_raw});
    const x = try pass.input(x_handle);
    const y = try call.outputLike(x);
    try pass.start(.{
        .kind = .all_reduce,
        .reduction = reduction,
        .dtype = x.dtype,
        .count = x.count(),
    }, x, y);
    try call.commit();
}

/// Everybody's x [d, …] in rank order along dim 0: [n d, …]; a number becomes [n].
pub fn allGather(
    context: *Context,
    id: i32,
    x_handle: i32,
    site_length: i32,
) Error!void {
    var call = Call.begin(context, "allGather");
    defer call.end();
    const pass = try Pass.begin(&call, id, site_length);
    const x = try pass.input(x_handle);
    var shape = x.shape;
    shape[0] = pass.size() * if (x.rank == 0) 1 else x.shape[0];
    const y = try call.output(x.dtype, shape[0..@max(x.rank, 1)]);
    try pass.start(.{ .kind = .all_gather, .dtype = x.dtype, .count = x.count() }, x, y);
    try call.commit();
}

/// This rank's part of the sum: [n d, …] → [d, …].
pub fn reduceScatter(
    context: *Context,
    id: i32,
    x_handle: i32,
    site_length: i32,
) Error!void {
    var call = Call.begin(context, "reduceScatter");
    defer call.end();
    const pass = try Pass.begin(&call, id, site_length);
    const x = try pass.input(x_handle);
    try expectParts(&call, pass, x);
    var shape = x.shape;
    shape[0] = x.shape[0] / pass.size();
    const y = try call.output(x.dtype, shape[0..x.rank]);
    try pass.start(.{ .kind = .reduce_scatter, .dtype = x.dtype, .count = y.count() }, x, y);
    try call.commit();
}

/// Part r of every rank's x, in rank order: [n d, …] → [n d, …].
pub fn allToAll(context: *Context, id: i32, x_handle: i32, site_length: i32) Error!void {
    var call = Call.begin(context, "allToAll");
    defer call.end();
    const pass = try Pass.begin(&call, id, site_length);
    const x = try pass.input(x_handle);
    try expectParts(&call, pass, x);
    const y = try call.outputLike(x);
    const part = x.count() / pass.size();
    try pass.run(.{ .kind = .all_to_all, .dtype = x.dtype, .count = part }, x, y);
    try call.commit();
}

fn expectParts(call: *Call, pass: Pass, x: Tensor) Error!void {
    if (x.rank > 0 and x.shape[0] % pass.size() == 0) return;
    return call.invalid(
        "x has shape {f}: its dim 0 does not split into equal parts for the {d} ranks of group {s}",
        .{ op.show(x.dims()), pass.size(), pass.transport.group().name },
    );
}

/// The root's values into everybody's x, in place.
pub fn broadcast(
    context: *Context,
    id: i32,
    x_handle: i32,
    root: i32,
    site_length: i32,
) Error!void {
    var call = Call.begin(context, "broadcast");
    defer call.end();
    const pass = try Pass.begin(&call, id, site_length);
    if (root < 0 or root >= pass.size()) return call.invalid(
        "root {d} is not one of the {d} ranks of group {s}",
        .{ root, pass.size(), pass.transport.group().name },
    );
    const given = try call.view("x", x_handle);
    try pass.expectDevice(given);
    const x = try call.contiguous(given);
    const collective: operation.Collective = .{
        .kind = .broadcast,
        .dtype = x.dtype,
        .count = x.count(),
        .root = @intCast(root),
    };
    try pass.run(collective, x, x);
    if (!given.isContiguous()) try op.copyInto(context, x, given);
    try context.wrote(given);
}

/// Meets all ranks.
pub fn barrier(context: *Context, id: i32, site_length: i32) Error!void {
    var call = Call.begin(context, "barrier");
    defer call.end();
    const pass = try Pass.begin(&call, id, site_length);
    try pass.run(.{ .kind = .barrier }, null, null);
}

/// Sends x (handle 0: nothing) to rank `to` and receives a tensor from rank `from` (−1: nothing),
/// at the same time. Its shape lies in scratch ints, both sites lie in scratch text one after the
/// other.
pub fn exchange(
    context: *Context,
    id: i32,
    x_handle: i32,
    to: i32,
    out_site_length: i32,
    from: i32,
    rank: i32,
    dtype_raw: i32,
    in_site_length: i32,
) Error!void {
    var call = Call.begin(context, "exchange");
    defer call.end();
    const pass = try Pass.begin(&call, id, out_site_length);
    const in_site = try text(&call, pass.site.len, in_site_length);
    const x = if (x_handle == 0) null else try pass.input(x_handle);
    if (x != null) try expectPeer(&call, pass, to);
    var y: ?Tensor = null;
    if (from >= 0) {
        try expectPeer(&call, pass, from);
        if (pass.transport == .nccl) context.device = .cuda;
        const shape = try op.scratchShape(&call, rank, 0);
        y = try call.output(try create.dtypeOf(&call, dtype_raw), shape);
    }
    const nccl = pass.transport == .nccl;
    var out: Host = try .init(context, if (nccl) null else x);
    defer out.deinit();
    var in: Host = try .init(context, if (nccl) null else y);
    defer in.deinit();
    try out.read();
    const outgoing: ?operation.Outgoing = if (x) |t| .{
        .peer = @intCast(to),
        .dtype = t.dtype,
        .count = t.count(),
        .data = out.data() orelse address(t).?,
        .site = pass.site,
    } else null;
    const incoming: ?operation.Incoming = if (y) |t| .{
        .peer = @intCast(from),
        .dtype = t.dtype,
        .count = t.count(),
        .data = in.data() orelse address(t).?,
        .site = in_site,
    } else null;
    try pass.transport.exchange(outgoing, incoming);
    try in.write();
    try call.commit();
}

fn expectPeer(call: *Call, pass: Pass, peer: i32) Error!void {
    const group = pass.transport.group();
    if (peer >= 0 and peer < group.size() and peer != group.rank) return;
    return call.invalid("rank {d} is not another one of the {d} ranks of group {s}", .{
        peer,
        group.size(),
        group.name,
    });
}

/// Orders all later work of the device behind a started collective.
pub const join = streams.join;
