//! The persistent thread pool. Workers spin briefly, then park on a private futex; the caller takes
//! part in every loop. It hands out indexes, never decides how work is split (`parallel.zig`).
//! The pool must not move once started.

const std = @import("std");
const linux = std.os.linux;
const Parallel = @import("../parallel.zig").Parallel;
const Body = @import("../parallel.zig").Body;
const assert = std.debug.assert;

const Word = std.atomic.Value(u32);
const Job = struct { context: *const anyopaque, body: Body, count: u32 };

pub const Pool = struct {
    gpa: std.mem.Allocator,
    threads: []std.Thread = &.{},
    epoch: Word = .init(0), // bumped once per loop; workers sleep on it
    busy: Word = .init(0), // workers still in the current loop; the caller sleeps on it
    next: Word = .init(0),
    job: Job = undefined,
    stop: bool = false,
    scratch: Scratch = .{},
    view: Parallel = undefined,

    /// `threads` counts the caller: 1 means no worker. On failure nothing is left running.
    pub fn start(pool: *Pool, gpa: std.mem.Allocator, threads: u32) !void {
        assert(threads >= 1);
        pool.* = .{ .gpa = gpa };
        const workers = try gpa.alloc(std.Thread, threads - 1);
        errdefer gpa.free(workers);
        var started: usize = 0;
        errdefer {
            pool.threads = workers[0..started];
            pool.halt();
        }
        while (started < workers.len) : (started += 1) {
            workers[started] = try std.Thread.spawn(.{ .stack_size = 8 << 20 }, worker, .{pool});
        }
        pool.threads = workers;
        pool.view = .{
            .owner = pool,
            .run = runErased,
            .scratch = scratchErased,
            .threads = threads,
        };
    }

    pub fn deinit(pool: *Pool) void {
        pool.halt();
        pool.gpa.free(pool.threads);
        pool.scratch.deinit(pool.gpa);
        pool.* = undefined;
    }

    /// What kernels get. Valid until `deinit`.
    pub fn parallel(pool: *Pool) *const Parallel {
        return &pool.view;
    }

    /// Ends the life of every scratch block handed out since the last call.
    pub fn resetScratch(pool: *Pool) void {
        pool.scratch.reset();
    }

    fn halt(pool: *Pool) void {
        pool.stop = true;
        _ = pool.epoch.fetchAdd(1, .release);
        wake(&pool.epoch, std.math.maxInt(i32));
        for (pool.threads) |thread| thread.join();
    }

    fn runErased(
        owner: *anyopaque,
        count: u32,
        context: *const anyopaque,
        body: Body,
    ) callconv(.c) void {
        const pool: *Pool = @ptrCast(@alignCast(owner));
        if (pool.threads.len == 0) {
            for (0..count) |i| body(context, @intCast(i));
            return;
        }
        assert(pool.busy.load(.monotonic) == 0); // Not reentrant.
        pool.job = .{ .context = context, .body = body, .count = count };
        pool.next.store(0, .monotonic);
        pool.busy.store(@intCast(pool.threads.len), .monotonic);
        _ = pool.epoch.fetchAdd(1, .release); // publishes job, next and busy
        wake(&pool.epoch, std.math.maxInt(i32));
        pool.drain();
        while (true) {
            const left = pool.busy.load(.acquire);
            if (left == 0) return;
            wait(&pool.busy, left);
        }
    }

    fn scratchErased(owner: *anyopaque, bytes: usize) callconv(.c) ?[*]align(64) u8 {
        const pool: *Pool = @ptrCast(@alignCast(owner));
        return pool.scratch.alloc(pool.gpa, bytes);
    }

    fn drain(pool: *Pool) void {
        while (true) {
            const index = pool.next.fetchAdd(1, .monotonic);
            if (index >= pool.job.count) return;
            pool.job.body(pool.job.context, index);
        }
    }

    fn worker(pool: *Pool) void {
        var seen: u32 = 0;
        while (true) {
            while (pool.epoch.load(.acquire) == seen) wait(&pool.epoch, seen);
            seen +%= 1;
            if (pool.stop) return;
            pool.drain();
            if (pool.busy.fetchSub(1, .release) == 1) wake(&pool.busy, 1);
        }
    }
};

/// Bump allocation over a few large blocks, kept between kernels.
const Scratch = struct {
    blocks: std.ArrayList([]align(64) u8) = .empty,
    block: usize = 0, // the block in use
    offset: usize = 0,

    fn alloc(scratch: *Scratch, gpa: std.mem.Allocator, bytes: usize) ?[*]align(64) u8 {
        const size = std.mem.alignForward(usize, bytes, 64);
        while (scratch.block < scratch.blocks.items.len) : ({
            scratch.block += 1;
            scratch.offset = 0;
        }) {
            const block = scratch.blocks.items[scratch.block];
            if (scratch.offset + size > block.len) continue;
            const at = scratch.offset;
            scratch.offset += size;
            return @alignCast(block.ptr + at);
        }
        const block = gpa.alignedAlloc(u8, .@"64", @max(size, 1 << 22)) catch return null;
        scratch.blocks.append(gpa, block) catch {
            gpa.free(block);
            return null;
        };
        scratch.offset = size;
        return block.ptr;
    }

    fn reset(scratch: *Scratch) void {
        scratch.block = 0;
        scratch.offset = 0;
    }

    fn deinit(scratch: *Scratch, gpa: std.mem.Allocator) void {
        for (scratch.blocks.items) |block| gpa.free(block);
        scratch.blocks.deinit(gpa);
    }
};

/// Bounded spinning before parking: some 50 to 200 µs, longer than JavaScript takes between two
/// operations of a training step, so that workers are awake for the next one. Waking a parked
/// thread costs tens of microseconds on virtual machines, several hundred times a step.
const spins = 4000;

fn wait(word: *const Word, expected: u32) void {
    for (0..spins) |_| {
        if (word.load(.acquire) != expected) return;
        std.atomic.spinLoopHint();
    }
    _ = linux.futex_4arg(&word.raw, .{ .cmd = .WAIT, .private = true }, expected, null);
}

fn wake(word: *const Word, count: u32) void {
    _ = linux.futex_3arg(&word.raw, .{ .cmd = .WAKE, .private = true }, count);
}

test "every index once, for 1 to 4 threads" {
    for (1..5) |threads| {
        var pool: Pool = undefined;
        try pool.start(std.testing.allocator, @intCast(threads));
        defer pool.deinit();
        var hits: [1000]u32 = @splat(0);
        for (0..200) |_| pool.parallel().each(hits.len, @as([]u32, &hits), struct {
            fn body(all: []u32, i: usize) void {
                all[i] += 1;
            }
        }.body);
        for (hits) |hit| try std.testing.expectEqual(@as(u32, 200), hit);
    }
}

test "scratch is aligned and survives growth" {
    var pool: Pool = undefined;
    try pool.start(std.testing.allocator, 1);
    defer pool.deinit();
    for (0..3) |_| {
        const a = try pool.parallel().alloc(f32, 10);
        const b = try pool.parallel().alloc(f64, 5 << 20);
        a[9] = 1;
        b[(5 << 20) - 1] = 2;
        try std.testing.expectEqual(@as(f32, 1), a[9]);
        pool.resetScratch();
    }
}
