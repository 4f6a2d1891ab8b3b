//! What the kernel tests share: random views over poisoned memory, runs with several thread counts
//! that must agree bit for bit, and comparisons that name what they expected.

const std = @import("std");
const dtype = @import("../dtype.zig");
const Pool = @import("../runtime/pool.zig").Pool;

pub const max_rank = 8;
pub const Dims = [max_rank]u64;
pub const gpa = std.testing.allocator;

/// The storage types of the kernels' columns.
pub const storages = .{ f32, f64, u16 };

pub fn toF64(comptime T: type, x: T) f64 {
    return switch (T) {
        u16 => dtype.fromBf16(x),
        f16, f32, f64 => x,
        else => @floatFromInt(x),
    };
}

/// To the nearest value of storage type T (for drawing test data; double rounding is harmless).
pub fn fromF64(comptime T: type, x: f64) T {
    return switch (T) {
        u16 => dtype.toBf16(@floatCast(x)),
        f16, f32, f64 => @floatCast(x),
        else => @intFromFloat(x),
    };
}

/// Unit roundoff of results in T, with room for the few operations behind them.
pub fn bar(comptime T: type, f32_bar: f64) f64 {
    return switch (T) {
        u16 => 1.0 / 256.0 + f32_bar,
        f64 => 1e-12,
        else => f32_bar,
    };
}

/// A seed that differs from run to run and is printed when the test fails.
pub const Seeded = struct {
    prng: std.Random.DefaultPrng,
    seed: u64,

    pub fn init() Seeded {
        const seed = std.testing.random_seed;
        return .{ .prng = .init(seed), .seed = seed };
    }

    /// To be used with errdefer.
    pub fn report(seeded: *const Seeded) void {
        std.debug.print("random seed {d}\n", .{seeded.seed});
    }
};

/// A strided view on its own memory. Elements outside of the view stay NaN (all bits set).
pub fn View(comptime T: type) type {
    return struct {
        const Self = @This();
        data: []T,
        rank: usize,
        shape: Dims,
        strides: Dims,

        pub const Layout = enum { row_major, random, broadcast };

        /// Random values in [low, high).
        pub fn init(
            random: std.Random,
            shape: []const u64,
            layout: Layout,
            low: f64,
            high: f64,
        ) !Self {
            var view: Self = .{
                .data = &.{},
                .rank = shape.len,
                .shape = @splat(1),
                .strides = @splat(0),
            };
            @memcpy(view.shape[0..shape.len], shape);
            var order: [max_rank]usize = .{ 0, 1, 2, 3, 4, 5, 6, 7 };
            if (layout != .row_major) random.shuffle(usize, order[0..shape.len]);
            var size: u64 = 1;
            var k = shape.len;
            while (k > 0) {
                k -= 1;
                const dim = order[k];
                if (layout == .broadcast and random.uintLessThan(u8, 3) == 0) continue;
                view.strides[dim] = size;
                size *= @max(1, shape[dim]);
                if (layout != .row_major and random.boolean()) size = size * 3 / 2 + 1;
            }
            view.data = try gpa.alloc(T, size);
            poison(T, view.data);
            for (0..view.count()) |flat| {
                view.data[view.offset(flat)] = fromF64(T, low + (high - low) * random.float(f64));
            }
            return view;
        }

        pub fn deinit(view: Self) void {
            gpa.free(view.data);
        }

        pub fn count(view: *const Self) usize {
            var n: usize = 1;
            for (view.shape[0..view.rank]) |size| n *= size;
            return n;
        }

        pub fn offset(view: *const Self, flat: usize) usize {
            return offsetOf(view.rank, &view.shape, &view.strides, flat);
        }

        pub fn at(view: *const Self, flat: usize) f64 {
            return toF64(T, view.data[view.offset(flat)]);
        }
    };
}

pub fn offsetOf(rank: usize, shape: *const Dims, strides: *const Dims, flat: usize) usize {
    var rest = flat;
    var sum: usize = 0;
    var dim = rank;
    while (dim > 0) {
        dim -= 1;
        sum += rest % shape[dim] * strides[dim];
        rest /= shape[dim];
    }
    return sum;
}

pub fn poison(comptime T: type, data: []T) void {
    @memset(std.mem.sliceAsBytes(data), 0xff);
}

/// Poisoned memory for an output.
pub fn poisoned(comptime T: type, n: usize) ![]T {
    const data = try gpa.alloc(T, n);
    poison(T, data);
    return data;
}

/// n random values in [low, high).
pub fn draw(comptime T: type, random: std.Random, n: usize, low: f64, high: f64) ![]T {
    const data = try gpa.alloc(T, n);
    for (data) |*x| x.* = fromF64(T, low + (high - low) * random.float(f64));
    return data;
}

/// Runs a kernel with 1, 2 and 3 threads; before each run every output is set to its state before
/// the call (poison, or an in-place operand). The outputs must have the same bits each time.
pub fn run(
    comptime kernel: anytype,
    comptime S: type,
    arguments: anytype,
    outputs: []const []u8,
) !void {
    var before: [8][]u8 = undefined;
    var first: [8][]u8 = undefined;
    for (outputs, 0..) |output, k| {
        before[k] = try gpa.dupe(u8, output);
        first[k] = try gpa.alloc(u8, output.len);
    }
    defer for (0..outputs.len) |k| {
        gpa.free(before[k]);
        gpa.free(first[k]);
    };
    for (1..4) |threads| {
        var pool: Pool = undefined;
        try pool.start(gpa, @intCast(threads));
        defer pool.deinit();
        for (outputs, 0..) |output, k| @memcpy(output, before[k]);
        try kernel(S, pool.parallel(), arguments);
        for (outputs, 0..) |output, k| {
            if (threads == 1) {
                @memcpy(first[k], output);
            } else if (!std.mem.eql(u8, first[k], output)) {
                std.debug.print("output {d} differs between 1 and {d} threads\n", .{ k, threads });
                return error.DependsOnThreads;
            }
        }
    }
}

pub fn bytes(comptime T: type, data: []T) []u8 {
    return std.mem.sliceAsBytes(data);
}

/// |got − want| ≤ relative·|want| + absolute; NaN wants NaN, Inf wants the same Inf.
pub fn expectNear(want: f64, got: f64, relative: f64, absolute: f64) !void {
    if (want != want and got != got) return;
    if (want == got) return;
    const allowed = relative * @abs(want) + absolute;
    if (@abs(want - got) <= allowed) return;
    std.debug.print("got {e}, expected {e} within {e}\n", .{ got, want, allowed });
    return error.TooFar;
}
