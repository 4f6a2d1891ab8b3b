//! What the sLSTM, convolution and head-wise tests share: random data that is exact in the storage
//! type, poisoned outputs, runs with one and two threads, relative errors.

const std = @import("std");
const simd = @import("simd.zig");
const Pool = @import("../runtime/pool.zig").Pool;
const Parallel = @import("../parallel.zig").Parallel;

/// Everything a test allocates dies with it.
pub const Lab = struct {
    arena: std.heap.ArenaAllocator,
    prng: std.Random.DefaultPrng,
    seed: u64,

    pub fn init(seed: u64) Lab {
        return .{
            .arena = .init(std.testing.allocator),
            .prng = .init(seed),
            .seed = seed,
        };
    }

    pub fn deinit(lab: *Lab) void {
        lab.arena.deinit();
    }

    pub fn normal(lab: *Lab, count: usize, scale: f64) ![]f64 {
        const out = try lab.arena.allocator().alloc(f64, count);
        for (out) |*x| x.* = scale * lab.prng.random().floatNorm(f64);
        return out;
    }

    pub fn zeros(lab: *Lab, comptime T: type, count: usize) ![]T {
        const out = try lab.arena.allocator().alloc(T, count);
        if (T == f64 or T == f32) @memset(out, 0) else @memset(std.mem.sliceAsBytes(out), 0);
        return out;
    }

    /// Rounds the values to S in place, and returns them as S: both sides see the same numbers.
    pub fn rounded(lab: *Lab, comptime S: type, values: []f64) ![]S {
        const out = try lab.arena.allocator().alloc(S, values.len);
        for (values, out) |*value, *x| {
            simd.put(S, @ptrCast(x), 0, @floatCast(value.*));
            value.* = simd.get(S, @ptrCast(x), 0);
        }
        return out;
    }

    /// An output that no test passes with unless every element is written.
    pub fn poisoned(lab: *Lab, comptime S: type, count: usize) ![]S {
        const out = try lab.arena.allocator().alloc(S, count);
        poison(S, out);
        return out;
    }
};

pub fn poison(comptime S: type, out: []S) void {
    const A = simd.Arithmetic(S);
    for (0..out.len) |i| simd.put(S, out.ptr, i, std.math.nan(A));
}

/// Calls a kernel with a pool of that many threads.
pub fn run(
    comptime S: type,
    comptime kernel: anytype,
    arguments: anytype,
    threads: u32,
) !void {
    var pool: Pool = undefined;
    try pool.start(std.testing.allocator, threads);
    defer pool.deinit();
    try kernel(S, pool.parallel(), arguments);
}

/// Runs a kernel with one thread, puts the outputs back as they were, runs it with two threads and
/// demands equal bits.
pub fn runTwice(
    comptime S: type,
    comptime kernel: anytype,
    arguments: anytype,
    outputs: []const []u8,
) !void {
    var arena: std.heap.ArenaAllocator = .init(std.testing.allocator);
    defer arena.deinit();
    const before = try arena.allocator().alloc([]u8, outputs.len);
    const once = try arena.allocator().alloc([]u8, outputs.len);
    for (outputs, before) |bytes, *kept| kept.* = try arena.allocator().dupe(u8, bytes);
    try run(S, kernel, arguments, 1);
    for (outputs, once, before) |bytes, *kept, poisoned| {
        kept.* = try arena.allocator().dupe(u8, bytes);
        @memcpy(bytes, poisoned);
    }
    try run(S, kernel, arguments, 2);
    for (outputs, once) |bytes, want| try std.testing.expectEqualSlices(u8, want, bytes);
}

/// ‖x − want‖ / ‖want‖ <= bar; where `want` is zero, x must be.
pub fn expectClose(
    comptime S: type,
    what: []const u8,
    want: []const f64,
    got: []const S,
    bar: f64,
) !void {
    var distance: f64 = 0;
    var norm: f64 = 0;
    for (want, 0..) |x, i| {
        const value: f64 = simd.get(S, got.ptr, i);
        distance += (value - x) * (value - x);
        norm += x * x;
    }
    const relative = if (norm == 0 and distance == 0) 0 else @sqrt(distance / norm);
    if (relative <= bar) return;
    const text = "{s}: relative error {e:.2}, at most {e:.1} expected\n";
    std.debug.print(text, .{ what, relative, bar });
    return error.TooFar;
}

pub fn bytesOf(values: anytype) []u8 {
    return std.mem.sliceAsBytes(values);
}

/// Bars of one storage type: outputs, gradients. kernels.md §13.2.
pub fn bars(comptime S: type) [2]f64 {
    return switch (S) {
        f64 => .{ 1e-12, 1e-11 },
        f32 => .{ 2e-6, 5e-6 },
        else => .{ 3e-3, 5e-3 },
    };
}
