//! cpu/matmul_parts.zig: sums against f64, and that ranks which share one come to its bits.

const std = @import("std");
const args = @import("args/matmul.zig");
const matmulParts = @import("cpu/matmul.zig").matmulParts;
const Pool = @import("runtime/pool.zig").Pool;

const gpa = std.testing.allocator;

/// Products x [m, k]·w, w [n, k] (transposed) or [k, n], one per width of `ks`.
const Case = struct {
    m: usize,
    n: usize,
    ks: []const usize,
    transposed: bool = false,
    bias: bool = false,
};

fn Operands(comptime T: type) type {
    return struct {
        case: Case,
        x: [4][]T = undefined,
        w: [4][]T = undefined,
        bias: []T,

        fn init(case: Case, random: std.Random) !@This() {
            var self: @This() = .{ .case = case, .bias = try gpa.alloc(T, case.n) };
            for (self.bias) |*value| value.* = random.floatNorm(T);
            for (case.ks, 0..) |k, i| {
                self.x[i] = try gpa.alloc(T, case.m * k);
                self.w[i] = try gpa.alloc(T, case.n * k);
                for (self.x[i]) |*value| value.* = random.floatNorm(T);
                for (self.w[i]) |*value| value.* = random.floatNorm(T);
            }
            return self;
        }

        fn deinit(self: *const @This()) void {
            gpa.free(self.bias);
            for (0..self.case.ks.len) |i| {
                gpa.free(self.x[i]);
                gpa.free(self.w[i]);
            }
        }

        /// What rank `rank` of `ranks` computes of the sum; the caller frees it.
        fn share(self: *const @This(), pool: *Pool, rank: usize, ranks: usize) ![]T {
            const case = self.case;
            var terms: [4]args.Term = undefined;
            for (case.ks, terms[0..case.ks.len], 0..) |k, *term, i| {
                const first = rank * k / ranks;
                const step: usize = if (case.transposed) 1 else case.n;
                term.* = .{
                    .a = self.x[i].ptr + first,
                    .b = self.w[i].ptr + first * step,
                    .k = k / ranks,
                    .a_row_stride = k,
                    .b_row_stride = step,
                    .b_column_stride = if (case.transposed) k else 1,
                };
            }
            const c = try gpa.alloc(T, case.m * case.n);
            errdefer gpa.free(c);
            defer pool.resetScratch();
            try matmulParts(T, pool.parallel(), &.{
                .terms = &terms,
                .c = c.ptr,
                .bias = if (case.bias and ranks == 1) self.bias.ptr else null,
                .count = case.ks.len,
                .m = case.m,
                .n = case.n,
                .parts = args.most_parts / ranks,
            });
            return c;
        }

        fn exact(self: *const @This(), row: usize, column: usize) f64 {
            const case = self.case;
            var sum: f64 = if (case.bias) self.bias[column] else 0;
            for (case.ks, 0..) |k, i| for (0..k) |step| {
                const at = if (case.transposed) column * k + step else step * case.n + column;
                sum += @as(f64, self.x[i][row * k + step]) * self.w[i][at];
            };
            return sum;
        }
    };
}

const cases = [_]Case{
    .{ .m = 32, .n = 64, .ks = &.{64}, .transposed = true },
    .{ .m = 33, .n = 70, .ks = &.{ 32, 8, 64 }, .bias = true },
    .{ .m = 5, .n = 1, .ks = &.{24}, .transposed = true, .bias = true },
    .{ .m = 150, .n = 200, .ks = &.{ 512, 16 } },
};

fn check(comptime T: type, case: Case, threads: u32) !void {
    var prng = std.Random.DefaultPrng.init(case.m);
    const operands: Operands(T) = try .init(case, prng.random());
    defer operands.deinit();
    var pool: Pool = undefined;
    try pool.start(gpa, threads);
    defer pool.deinit();
    const whole = try operands.share(&pool, 0, 1);
    defer gpa.free(whole);
    var depth: usize = 0;
    for (case.ks) |k| depth += k;
    // Sums of N(0, 1) wander up to a few roots of their length, and round at every step.
    const scale = std.math.floatEps(T) * @as(f64, @floatFromInt(depth + 4)) * 2;
    for (whole, 0..) |value, at| {
        const want = operands.exact(at / case.n, at % case.n);
        try std.testing.expectApproxEqAbs(want, @as(f64, value), scale);
    }
    if (case.bias) return;
    inline for (.{ 2, 4, 8 }) |ranks| {
        var shares: [ranks][]T = undefined;
        for (&shares, 0..) |*share, rank| share.* = try operands.share(&pool, rank, ranks);
        defer for (shares) |share| gpa.free(share);
        for (whole, 0..) |value, at| {
            var level: [ranks]T = undefined;
            for (&level, shares) |*x, share| x.* = share[at];
            var left: usize = ranks;
            while (left > 1) : (left /= 2) for (0..left / 2) |i| {
                level[i] = level[2 * i] + level[2 * i + 1];
            };
            try std.testing.expectEqual(value, level[0]);
        }
    }
}

test "sums in parts: near the exact ones, and the bits of ranks that share them" {
    for (cases) |case| {
        try check(f32, case, 1);
        try check(f32, case, 3);
        try check(f64, case, 2);
    }
}

test "steps that do not divide, and none" {
    for ([_]Case{
        .{ .m = 7, .n = 33, .ks = &.{ 61, 3 } },
        .{ .m = 6, .n = 5, .ks = &.{0}, .bias = true },
    }) |case| {
        var prng = std.Random.DefaultPrng.init(case.n);
        const operands: Operands(f64) = try .init(case, prng.random());
        defer operands.deinit();
        var pool: Pool = undefined;
        try pool.start(gpa, 2);
        defer pool.deinit();
        const whole = try operands.share(&pool, 0, 1);
        defer gpa.free(whole);
        for (whole, 0..) |value, at| {
            const want = operands.exact(at / case.n, at % case.n);
            try std.testing.expectApproxEqAbs(want, value, 1e-13);
        }
    }
}
