//! A group on GPUs, one per process, through NCCL. Work runs on a stream of the group: behind what
//! the compute stream was asked before, beside what it is asked after, until `join`. Communicators
//! are not blocking: nothing here waits for other ranks without a deadline.

const std = @import("std");
const clock = @import("clock.zig");
const driver = @import("../cuda/driver.zig");
const Device = @import("../cuda/device.zig").Device;
const Memory = @import("../cuda/memory.zig").Memory;
const nccl_api = @import("nccl_api.zig");
const operation = @import("operation.zig");
const status = @import("../abi/status.zig");
const calls = @import("nccl_calls.zig");
const works = @import("nccl_work.zig");
const Api = nccl_api.Api;
const Group = @import("peer.zig").Group;
const Processes = @import("processes.zig").Processes;
const Recorder = @import("recorder.zig").Recorder;
const Description = operation.Description;
const Error = status.Error;

pub const Nccl = struct {
    gpa: std.mem.Allocator,
    api: *const Api,
    device: *Device,
    comm: nccl_api.Comm = null,
    group: Group,
    recorder: *Recorder,
    stream: driver.Stream = null,
    work: works.Works,
    /// A few bytes of device memory, for barriers.
    scrap: Memory.Block,
    sequence: u64 = 0,
    messages: []u64, // sent to each rank, then received from each
    limit: u64 = 100 * clock.second,
    processes: Processes,
    /// Held during calls of NCCL on `comm`, and while it is given up.
    lock: clock.Lock = .{},
    failed: std.atomic.Value(bool) = .init(false),
    reason: [1400]u8 = undefined,
    reason_length: usize = 0,
    /// Whether somebody has been told of the failure where the host waits.
    told: bool = false,

    /// Starts to meet the other ranks; `poll` says when they have come.
    pub fn open(
        gpa: std.mem.Allocator,
        api: *const Api,
        device: *Device,
        id: *nccl_api.UniqueId,
        group: Group,
        recorder: *Recorder,
    ) Error!*Nccl {
        const nccl = try create(gpa, api, device, group, recorder);
        errdefer nccl.close();
        var config: nccl_api.Config = .{ .split_share = 1 }; // with groups that are split off
        const size: c_int = @intCast(group.size());
        const rank: c_int = @intCast(group.rank);
        const result = if (api.CommInitRankScalable) |init|
            init(&nccl.comm, size, rank, 1, id, &config)
        else
            api.CommInitRankConfig(&nccl.comm, size, id.*, rank, &config);
        try nccl.accept(result, "ncclCommInitRank");
        return nccl;
    }

    fn create(
        gpa: std.mem.Allocator,
        api: *const Api,
        device: *Device,
        group: Group,
        recorder: *Recorder,
    ) Error!*Nccl {
        const nccl = try gpa.create(Nccl);
        errdefer gpa.destroy(nccl);
        const own = try group.clone(gpa);
        errdefer own.free(gpa);
        const messages = try gpa.alloc(u64, 2 * group.size());
        errdefer gpa.free(messages);
        @memset(messages, 0);
        var processes: Processes = try .init(gpa, group.size());
        errdefer processes.deinit(gpa);
        const scrap = device.memory.alloc(&device.api, 1024) catch return status.fail(
            .out_of_memory,
            "nccl[{s}]: no device memory",
            .{group.name},
        );
        errdefer device.memory.release(&device.api, scrap);
        nccl.* = .{
            .gpa = gpa,
            .api = api,
            .device = device,
            .group = own,
            .recorder = recorder,
            .work = .{ .gpa = gpa, .api = &device.api },
            .scrap = scrap,
            .messages = messages,
            .processes = processes,
        };
        const high_priority = -5;
        const made = device.api.StreamCreateWithPriority(&nccl.stream, 1, high_priority);
        try device.api.check(made, "CUDA stream");
        errdefer _ = device.api.StreamDestroy_v2(nccl.stream);
        try nccl.work.init();
        return nccl;
    }

    /// Ends the communicator: in peace where the others do, too, within a short time.
    pub fn close(nccl: *Nccl) void {
        const gpa = nccl.gpa;
        const device = nccl.device;
        nccl.endCommunicator();
        _ = device.api.StreamSynchronize(nccl.stream);
        nccl.work.deinit();
        _ = device.api.StreamDestroy_v2(nccl.stream);
        device.memory.release(&device.api, nccl.scrap);
        nccl.processes.deinit(gpa);
        gpa.free(nccl.messages);
        nccl.group.free(gpa);
        gpa.destroy(nccl);
    }

    fn endCommunicator(nccl: *Nccl) void {
        if (nccl.comm == null) return;
        const api = nccl.api;
        // Only what is ready can end in peace: an init under way never would.
        var state: nccl_api.Result = nccl_api.in_progress;
        _ = api.CommGetAsyncError(nccl.comm, &state);
        const is_ready = state == nccl_api.success;
        if (is_ready) state = api.CommFinalize(nccl.comm);
        const deadline = clock.now() + 5 * clock.second;
        while (is_ready and state == nccl_api.in_progress and clock.now() < deadline) {
            clock.sleep(1_000_000);
            _ = api.CommGetAsyncError(nccl.comm, &state);
        }
        _ = if (state == nccl_api.success) api.CommDestroy(nccl.comm) else api.CommAbort(nccl.comm);
        nccl.comm = null;
    }

    pub fn poll(nccl: *Nccl) Error!bool {
        try nccl.expectAlive("open");
        var state: nccl_api.Result = nccl_api.success;
        try nccl.accept(nccl.api.CommGetAsyncError(nccl.comm, &state), "ncclCommGetAsyncError");
        if (state == nccl_api.in_progress) return false;
        try nccl.accept(state, "ncclCommInitRank");
        return true;
    }

    /// Gives the group up once, from any thread: kernels that wait on the GPU end.
    pub fn abort(nccl: *Nccl, reason: []const u8) void {
        // The issuing thread may be stuck in a call with the lock held; NCCL allows an abort then.
        const is_held = nccl.lock.acquireWithin(5 * clock.second);
        defer if (is_held) nccl.lock.release();
        if (nccl.failed.load(.acquire)) return;
        nccl.reason_length = @min(reason.len, nccl.reason.len);
        @memcpy(nccl.reason[0..nccl.reason_length], reason[0..nccl.reason_length]);
        nccl.failed.store(true, .release);
        if (nccl.comm != null) _ = nccl.api.CommAbort(nccl.comm);
        nccl.comm = null;
    }

    pub fn expectAlive(nccl: *Nccl, what: []const u8) Error!void {
        const reason = nccl.failure() orelse return;
        nccl.told = true;
        return status.fail(.aborted, "{s}[{s}]: the group was given up: {s}", .{
            what,
            nccl.group.name,
            reason,
        });
    }

    /// Why the group was given up; null while it works.
    pub fn failure(nccl: *Nccl) ?[]const u8 {
        if (!nccl.failed.load(.acquire)) return null;
        return nccl.reason[0..nccl.reason_length];
    }

    /// Fails once after the group was given up: for places where the host has waited for work that
    /// may have been cut off.
    pub fn raise(nccl: *Nccl) Error!void {
        if (!nccl.told) try nccl.expectAlive("nccl");
    }

    /// Success, or under way.
    fn accept(nccl: *Nccl, result: nccl_api.Result, comptime what: []const u8) Error!void {
        if (result == nccl_api.success or result == nccl_api.in_progress) return;
        return nccl.fail(.nccl, what ++ "[{s}] on rank {d}: {f}", .{
            nccl.group.name,
            nccl.group.ranks[nccl.group.rank],
            Words{ .nccl = nccl, .result = result },
        });
    }

    /// NCCL's own words for a result.
    const Words = struct {
        nccl: *Nccl,
        result: nccl_api.Result,

        pub fn format(words: Words, writer: *std.Io.Writer) std.Io.Writer.Error!void {
            const api = words.nccl.api;
            const last: [*:0]const u8 = api.GetLastError(words.nccl.comm) orelse "";
            try writer.print("{s}", .{api.GetErrorString(words.result)});
            if (last[0] != 0) try writer.print(" ({s})", .{last});
        }
    };

    /// Gives the group up, and fails here.
    pub fn fail(
        nccl: *Nccl,
        code: status.Status,
        comptime format: []const u8,
        values: anytype,
    ) error{Failed} {
        var buffer: [1400]u8 = undefined;
        var writer: std.Io.Writer = .fixed(&buffer);
        writer.print(format, values) catch {}; // Too long: what fits is kept.
        nccl.abort(writer.buffered());
        nccl.told = true;
        return status.fail(code, "{s}", .{writer.buffered()});
    }

    /// Runs the call in the order of the compute stream; a barrier also waits on the host.
    pub fn collective(nccl: *Nccl, call: operation.Collective) Error!void {
        const slot = try nccl.start(call);
        if (call.kind == .barrier or call.kind == .split) try nccl.wait(slot);
        try nccl.join(slot);
    }

    /// Starts the call behind all work of the compute stream; `join` must follow.
    pub fn start(nccl: *Nccl, call: operation.Collective) Error!u32 {
        const description = call.describe(nccl.sequence);
        nccl.sequence += 1;
        const slot = try nccl.begin(description);
        errdefer nccl.work.forget(slot);
        const result = result: {
            nccl.lock.acquire();
            defer nccl.lock.release();
            try nccl.expectAlive(@tagName(call.kind));
            break :result calls.collective(nccl, &call);
        };
        try nccl.settle(&description, result);
        try nccl.mark(slot);
        return slot;
    }

    /// Both directions at once; either may be missing.
    pub fn exchange(
        nccl: *Nccl,
        outgoing: ?operation.Outgoing,
        incoming: ?operation.Incoming,
    ) Error!void {
        var slots: [2]?u32 = .{ null, null };
        errdefer for (slots) |slot| if (slot) |taken| nccl.work.forget(taken);
        var description: Description = undefined;
        if (incoming) |message| {
            description = message.describe(nccl.count(nccl.group.size() + message.peer));
            description.kind = .receive;
            slots[1] = try nccl.begin(description);
        }
        if (outgoing) |message| {
            description = message.describe(nccl.count(message.peer));
            slots[0] = try nccl.begin(description);
        }
        const result = result: {
            nccl.lock.acquire();
            defer nccl.lock.release();
            try nccl.expectAlive("exchange");
            break :result calls.exchange(nccl, outgoing, incoming);
        };
        try nccl.settle(&description, result);
        for (slots) |slot| if (slot) |taken| {
            try nccl.mark(taken);
            try nccl.join(taken);
        };
    }

    /// The number of the next message of one direction and rank.
    fn count(nccl: *Nccl, at: usize) u64 {
        defer nccl.messages[at] += 1;
        return nccl.messages[at];
    }

    /// Orders the group's stream behind the compute stream.
    fn begin(nccl: *Nccl, description: Description) Error!u32 {
        try nccl.expectAlive(@tagName(description.kind));
        const number = nccl.recorder.begin(nccl.group.name, description);
        errdefer nccl.recorder.fail(number);
        const slot = try nccl.work.take(description, number, nccl.recorder);
        errdefer nccl.work.forget(slot);
        try nccl.work.follow(nccl.stream, nccl.device.stream);
        return slot;
    }

    /// Sees an issued call through until its work is in the stream.
    fn settle(
        nccl: *Nccl,
        description: *const Description,
        result: nccl_api.Result,
    ) Error!void {
        var state = result;
        const began = clock.now();
        const deadline = began +| nccl.limit;
        while (state == nccl_api.in_progress) {
            {
                nccl.lock.acquire();
                defer nccl.lock.release();
                try nccl.expectAlive(@tagName(description.kind));
                const asked = nccl.api.CommGetAsyncError(nccl.comm, &state);
                if (asked != nccl_api.success) state = asked;
            }
            if (state != nccl_api.in_progress) break;
            const now = clock.now();
            if (now >= deadline) return nccl.late(description);
            // Launching takes tens of microseconds on a thread of NCCL: longer when ranks connect.
            if (now - began > 500_000) clock.sleep(20_000) else std.atomic.spinLoopHint();
        }
        if (state != nccl_api.success) return nccl.fail(.nccl, "{f} on rank {d}: {f}", .{
            description.in(nccl.group.name),
            nccl.group.ranks[nccl.group.rank],
            Words{ .nccl = nccl, .result = state },
        });
    }

    fn mark(nccl: *Nccl, slot: u32) Error!void {
        return nccl.work.mark(slot, nccl.stream, nccl.device.memory.capture != null);
    }

    fn late(nccl: *Nccl, description: *const Description) error{Failed} {
        return nccl.fail(.timeout, "{f} on rank {d} has not ended within {d:.3} s", .{
            description.in(nccl.group.name),
            nccl.group.ranks[nccl.group.rank],
            clock.seconds(nccl.limit),
        });
    }

    /// A captured step runs in the compute stream: it is watched as a call is.
    pub fn noteReplay(nccl: *Nccl) Error!void {
        const call: Description = .init(.{ .kind = .replay }, 0, "");
        const number = nccl.recorder.begin(nccl.group.name, call);
        const slot = try nccl.work.take(call, number, nccl.recorder);
        try nccl.work.mark(slot, nccl.device.stream, false);
        return nccl.work.join(slot, nccl.device.stream);
    }

    /// Orders all later work of the compute stream behind a started call.
    pub fn join(nccl: *Nccl, slot: u32) Error!void {
        return nccl.work.join(slot, nccl.device.stream);
    }

    /// Waits on the host for a started call, within the limit.
    fn wait(nccl: *Nccl, slot: u32) Error!void {
        if (nccl.device.memory.capture != null) return status.fail(
            .unsupported,
            "barrier[{s}] inside a captured step: the host cannot wait there",
            .{nccl.group.name},
        );
        const deadline = clock.now() +| nccl.limit;
        while (!try nccl.work.isDone(slot)) {
            try nccl.expectAlive("barrier");
            if (clock.now() >= deadline) return nccl.late(&nccl.work.slots.items[slot].call);
            clock.sleep(20_000);
        }
        return nccl.expectAlive("barrier"); // An abort ends the work, too.
    }

    pub fn split(nccl: *Nccl, color: i32, key: i32, name: []const u8) Error!?*Nccl {
        return @import("nccl_split.zig").run(nccl, color, key, name);
    }

    /// For the child of a split: everything but the communicator.
    pub fn createChild(nccl: *Nccl, group: Group) Error!*Nccl {
        const child = try create(nccl.gpa, nccl.api, nccl.device, group, nccl.recorder);
        child.limit = nccl.limit;
        return child;
    }

    /// For the watchdog's thread: errors of other ranks, dead processes, calls that do not end.
    pub fn look(nccl: *Nccl) void {
        if (nccl.failed.load(.acquire)) return;
        _ = nccl.device.api.CtxSetCurrent(nccl.device.context);
        var buffer: [1400]u8 = undefined;
        var writer: std.Io.Writer = .fixed(&buffer);
        nccl.findFault(&writer) catch {};
        if (writer.end > 0) nccl.abort(writer.buffered());
    }

    fn findFault(nccl: *Nccl, writer: *std.Io.Writer) std.Io.Writer.Error!void {
        const own = nccl.group.ranks[nccl.group.rank];
        const late_call = nccl.work.reap(nccl.limit);
        if (nccl.processes.ended(0)) |rank| return writer.print(
            "the process of rank {d} of group {s} has ended",
            .{ nccl.group.ranks[rank], nccl.group.name },
        );
        if (late_call) |call| return writer.print(
            "{f} on rank {d} has not ended within {d:.3} s",
            .{ call.in(nccl.group.name), own, clock.seconds(nccl.limit) },
        );
        if (!nccl.lock.acquireWithin(clock.second)) return;
        defer nccl.lock.release();
        if (nccl.comm == null) return;
        var state: nccl_api.Result = nccl_api.success;
        _ = nccl.api.CommGetAsyncError(nccl.comm, &state);
        if (state == nccl_api.success or state == nccl_api.in_progress) return;
        return writer.print("group {s} on rank {d}: {f}", .{
            nccl.group.name,
            own,
            Words{ .nccl = nccl, .result = state },
        });
    }
};
