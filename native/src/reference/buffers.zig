//! What kernel tests share: poisoned buffers of any storage type, thread pools of several sizes,
//! comparisons that print what differs.

const std = @import("std");
const dtype = @import("../dtype.zig");
const simd = @import("../cpu/simd.zig");
const Pool = @import("../runtime/pool.zig").Pool;

pub const gpa = std.testing.allocator;
pub const Arithmetic = dtype.Arithmetic;

/// Prints the seed of a test once it fails: call with `errdefer`.
pub fn printSeed(seed: u64) void {
    std.debug.print("seed {d}\n", .{seed});
}

/// Memory filled with NaN (or all ones for integers), so that an element never written shows up.
pub fn poisoned(comptime T: type, count: usize) ![]T {
    const buffer = try gpa.alloc(T, count);
    @memset(std.mem.sliceAsBytes(buffer), 0xff);
    return buffer;
}

/// Normal numbers times `scale`, rounded to S.
pub fn normal(comptime S: type, random: std.Random, count: usize, scale: f64) ![]S {
    const buffer = try gpa.alloc(S, count);
    for (0..count) |i| {
        simd.put(S, buffer.ptr, i, @floatCast(random.floatNorm(f64) * scale));
    }
    return buffer;
}

/// The values of a buffer in float64.
pub fn wide(comptime S: type, values: []const S) ![]f64 {
    const out = try gpa.alloc(f64, values.len);
    for (out, 0..) |*slot, i| slot.* = simd.get(S, values.ptr, i);
    return out;
}

/// ‖got − want‖ ≤ limit·(‖want‖ + 1e-3); NaN and Inf fail. The floor is for tensors that are nearly
/// zero: they are differences of numbers near 1, whose roundings they keep.
pub fn expectNear(
    comptime S: type,
    want: []const f64,
    got: []const S,
    limit: f64,
    what: []const u8,
) !void {
    try std.testing.expectEqual(want.len, got.len);
    var difference: f64 = 0;
    var norm: f64 = 0;
    for (want, 0..) |w, i| {
        const g: f64 = simd.get(S, got.ptr, i);
        if (!std.math.isFinite(g)) {
            std.debug.print("{s}[{d}] of {d}: {d}, want {d}\n", .{ what, i, got.len, g, w });
            return error.NotFinite;
        }
        difference += (g - w) * (g - w);
        norm += w * w;
    }
    if (@sqrt(difference) > limit * (@sqrt(norm) + 1e-3)) {
        std.debug.print("{s}: relative error {e}, bar {e} ({s}, {d} elements)\n", .{
            what, @sqrt(difference / (norm + 1e-300)), limit, @typeName(S), got.len,
        });
        return error.TooFar;
    }
}

/// Equal bit for bit (NaN equals the same NaN).
pub fn expectBits(comptime T: type, want: []const T, got: []const T, what: []const u8) !void {
    try std.testing.expectEqual(want.len, got.len);
    if (std.mem.eql(u8, std.mem.sliceAsBytes(want), std.mem.sliceAsBytes(got))) return;
    for (want, got, 0..) |w, g, i| if (!std.mem.eql(u8, std.mem.asBytes(&w), std.mem.asBytes(&g))) {
        std.debug.print("{s}[{d}]: {any} and {any} differ\n", .{ what, i, w, g });
        return error.BitsDiffer;
    };
}

/// Runs one kernel on pools of 1, 2 and 3 threads and calls `after(context, threads)` each time.
pub fn forThreads(context: anytype, comptime body: anytype) !void {
    for ([_]u32{ 1, 2, 3 }) |threads| {
        var pool: Pool = undefined;
        try pool.start(gpa, threads);
        defer pool.deinit();
        try body(context, pool.parallel(), threads);
    }
}

/// Bar of a float64 kernel against float64: a few hundred roundings; of f32 and bf16: given.
pub fn bar(comptime S: type, single: f64, half: f64) f64 {
    return switch (S) {
        f64 => 1e-12,
        f32 => single,
        u16 => half,
        else => @compileError("no bar for " ++ @typeName(S)),
    };
}
