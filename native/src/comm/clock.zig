//! Time, sleeping, futexes and a lock, from the kernel itself: this library has no event loop.

const std = @import("std");
const linux = std.os.linux;

pub const Word = std.atomic.Value(u32);

pub const second = 1_000_000_000;
/// No wait lasts longer before it looks around: abort flags and dead peers are seen within this.
pub const wait_slice = 100_000_000;

pub fn seconds(nanoseconds: u64) f64 {
    return @as(f64, @floatFromInt(nanoseconds)) / second;
}

/// Nanoseconds of the monotonic clock, for deadlines.
pub fn now() u64 {
    return read(.MONOTONIC);
}

/// Nanoseconds since 1970, for records that several ranks compare.
pub fn wall() u64 {
    return read(.REALTIME);
}

fn read(id: linux.clockid_t) u64 {
    var time: linux.timespec = undefined;
    _ = linux.clock_gettime(id, &time);
    return @as(u64, @intCast(time.sec)) * second + @as(u64, @intCast(time.nsec));
}

pub fn sleep(nanoseconds: u64) void {
    const time: linux.timespec = .{
        .sec = @intCast(nanoseconds / second),
        .nsec = @intCast(nanoseconds % second),
    };
    _ = linux.nanosleep(&time, null);
}

/// Waits until the word is not `expected`, a signal, or the limit (below one second): the caller
/// looks again. `private` only where all waiters are threads of one process.
pub fn park(word: *const Word, expected: u32, limit: u64, private: bool) void {
    const time: linux.timespec = .{ .sec = 0, .nsec = @intCast(@min(limit, wait_slice)) };
    _ = linux.futex_4arg(&word.raw, .{ .cmd = .WAIT, .private = private }, expected, &time);
}

pub fn wake(word: *const Word, private: bool) void {
    const everyone = std.math.maxInt(i32);
    _ = linux.futex_3arg(&word.raw, .{ .cmd = .WAKE, .private = private }, everyone);
}

/// A lock between threads of this process, held for short times.
pub const Lock = struct {
    word: Word = .init(0), // 0 free, 1 held, 2 held and somebody waits

    pub fn acquire(lock: *Lock) void {
        if (lock.word.cmpxchgStrong(0, 1, .acquire, .monotonic) == null) return;
        while (lock.word.swap(2, .acquire) != 0) park(&lock.word, 2, wait_slice, true);
    }

    /// Whether it could be taken within the time.
    pub fn acquireWithin(lock: *Lock, limit: u64) bool {
        const deadline = now() +| limit;
        if (lock.word.cmpxchgStrong(0, 1, .acquire, .monotonic) == null) return true;
        while (lock.word.swap(2, .acquire) != 0) {
            if (now() >= deadline) return false;
            park(&lock.word, 2, wait_slice, true);
        }
        return true;
    }

    pub fn release(lock: *Lock) void {
        if (lock.word.swap(0, .release) == 2) wake(&lock.word, true);
    }
};

test "a lock excludes" {
    const Counter = struct {
        lock: Lock = .{},
        value: u64 = 0,

        fn work(counter: *@This()) void {
            for (0..20_000) |_| {
                counter.lock.acquire();
                defer counter.lock.release();
                counter.value += 1;
            }
        }
    };
    var counter: Counter = .{};
    var threads: [3]std.Thread = undefined;
    for (&threads) |*thread| thread.* = try std.Thread.spawn(.{}, Counter.work, .{&counter});
    for (threads) |thread| thread.join();
    try std.testing.expectEqual(@as(u64, 60_000), counter.value);
}
