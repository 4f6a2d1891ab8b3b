//! Calls of a group that its stream works on: an event at the end of each, in the order of the
//! stream, for `join`, for the flight record and for the watchdog's deadlines.

const std = @import("std");
const clock = @import("clock.zig");
const driver = @import("../cuda/driver.zig");
const operation = @import("operation.zig");
const status = @import("../abi/status.zig");
const Description = operation.Description;
const Error = status.Error;
const Recorder = @import("recorder.zig").Recorder;

const no_timing = 2;

const Slot = struct {
    done: driver.Event,
    call: Description,
    number: u64,
    recorder: *Recorder,
    enqueued: u64 = 0,
    /// Somebody will still join, or the work has not ended.
    is_open: bool = true,
    is_running: bool = false,
};

pub const Works = struct {
    gpa: std.mem.Allocator,
    api: *const driver.Api,
    /// Held by the issuing thread and the watchdog's while they touch the lists.
    lock: clock.Lock = .{},
    slots: std.ArrayList(Slot) = .empty,
    /// Slots whose work runs, oldest first.
    running: std.ArrayList(u32) = .empty,
    forked: driver.Event = null,
    /// When work last ended: what waits behind other work is not late.
    progressed: u64 = 0,

    pub fn init(works: *Works) Error!void {
        try works.api.check(works.api.EventCreate(&works.forked, no_timing), "CUDA event");
    }

    pub fn deinit(works: *Works) void {
        for (works.slots.items) |slot| _ = works.api.EventDestroy_v2(slot.done);
        if (works.forked != null) _ = works.api.EventDestroy_v2(works.forked);
        works.slots.deinit(works.gpa);
        works.running.deinit(works.gpa);
    }

    /// A slot for a call.
    pub fn take(
        works: *Works,
        call: Description,
        number: u64,
        recorder: *Recorder,
    ) Error!u32 {
        works.lock.acquire();
        defer works.lock.release();
        works.collect();
        const at: u32 = for (works.slots.items, 0..) |slot, i| {
            if (!slot.is_open and !slot.is_running) break @intCast(i);
        } else try works.grow();
        const slot = &works.slots.items[at];
        slot.* = .{ .done = slot.done, .call = call, .number = number, .recorder = recorder };
        return at;
    }

    fn grow(works: *Works) Error!u32 {
        try works.slots.ensureUnusedCapacity(works.gpa, 1);
        try works.running.ensureTotalCapacity(works.gpa, works.slots.items.len + 1);
        var event: driver.Event = null;
        try works.api.check(works.api.EventCreate(&event, no_timing), "CUDA event");
        works.slots.appendAssumeCapacity(.{
            .done = event,
            .call = undefined,
            .number = 0,
            .recorder = undefined,
        });
        return @intCast(works.slots.items.len - 1);
    }

    /// Makes `stream` wait for all that `other` was asked so far.
    pub fn follow(works: *Works, stream: driver.Stream, other: driver.Stream) Error!void {
        const api = works.api;
        try api.check(api.EventRecord(works.forked, other), "CUDA event");
        try api.check(api.StreamWaitEvent(stream, works.forked, 0), "CUDA event");
    }

    /// The slot's work ends here in the stream. What is captured runs at replays only.
    pub fn mark(works: *Works, at: u32, stream: driver.Stream, is_captured: bool) Error!void {
        // The driver may let calls wait behind stuck work: not with the lock held.
        const slot = &works.slots.items[at];
        try works.api.check(works.api.EventRecord(slot.done, stream), "CUDA event");
        if (is_captured) return;
        works.lock.acquire();
        defer works.lock.release();
        slot.enqueued = clock.now();
        slot.is_running = true;
        works.running.appendAssumeCapacity(at);
    }

    /// Makes `stream` wait for the slot's work; the slot is free afterwards.
    pub fn join(works: *Works, at: u32, stream: driver.Stream) Error!void {
        const waits = works.api.StreamWaitEvent(stream, works.slots.items[at].done, 0);
        works.lock.acquire();
        defer works.lock.release();
        works.slots.items[at].is_open = false;
        return works.api.check(waits, "CUDA event");
    }

    /// For a call that failed before it was issued.
    pub fn forget(works: *Works, at: u32) void {
        works.lock.acquire();
        defer works.lock.release();
        const slot = &works.slots.items[at];
        slot.recorder.fail(slot.number);
        slot.is_open = false;
    }

    pub fn isDone(works: *Works, at: u32) Error!bool {
        works.lock.acquire();
        defer works.lock.release();
        const result = works.api.EventQuery(works.slots.items[at].done);
        if (result == driver.not_ready) return false;
        try works.api.check(result, "barrier");
        return true;
    }

    /// Takes ended work off the list; returns the oldest call where it is later than the limit.
    pub fn reap(works: *Works, limit: u64) ?Description {
        works.lock.acquire();
        defer works.lock.release();
        works.collect();
        if (works.running.items.len == 0) return null;
        const oldest = &works.slots.items[works.running.items[0]];
        const since = @max(oldest.enqueued, works.progressed);
        return if (clock.now() > since +| limit) oldest.call else null;
    }

    /// In the order of the stream, so the oldest ends first.
    fn collect(works: *Works) void {
        var ended: usize = 0;
        for (works.running.items) |at| {
            const slot = &works.slots.items[at];
            if (works.api.EventQuery(slot.done) != driver.success) break;
            slot.is_running = false;
            slot.recorder.finish(slot.number);
            ended += 1;
        }
        if (ended == 0) return;
        works.progressed = clock.now();
        works.running.replaceRangeAssumeCapacity(0, ended, &.{});
    }
};
