//! cpu/matmul.zig against reference/matmul.zig: shapes, strides, dtypes, epilogues, threads.

const std = @import("std");
const dtype = @import("dtype.zig");
const Args = @import("args/matmul.zig").Matmul;
const matmul = @import("cpu/matmul.zig").matmul;
const reference = @import("reference/matmul.zig").matmul;
const Pool = @import("runtime/pool.zig").Pool;
const simd = @import("cpu/simd.zig");

const gpa = std.testing.allocator;

fn code(comptime T: type) i32 {
    return @backingInt(switch (T) {
        f32 => dtype.DType.f32,
        f64 => dtype.DType.f64,
        u16 => dtype.DType.bf16,
        else => unreachable,
    });
}

const Case = struct {
    m: usize,
    n: usize,
    k: usize,
    batch: usize = 1,
    transpose_a: bool = false,
    transpose_b: bool = false,
    accumulate: bool = false,
    bias: bool = false,
    residual: bool = false,
    shared_b: bool = false,
    alpha: f64 = 1,
};

/// Random bf16-exact values of both storage types.
fn draw(comptime T: type, random: std.Random, out: []T, exact: []f64) void {
    for (out, exact) |*x, *e| {
        const value = random.floatNorm(f32);
        x.* = if (T == u16) dtype.toBf16(value) else value;
        e.* = if (T == u16) dtype.fromBf16(x.*) else x.*;
    }
}

/// Largest error over |c|'s scale √k: what rounding each product and sum once can add up to.
fn run(
    comptime TA: type,
    comptime TB: type,
    comptime TC: type,
    case: Case,
    threads: u32,
    seed: u64,
) ![]TC {
    const A = if (TA == f64) f64 else f32;
    var prng = std.Random.DefaultPrng.init(seed);
    const random = prng.random();
    const a = try gpa.alloc(TA, case.batch * case.m * case.k);
    defer gpa.free(a);
    const ea = try gpa.alloc(f64, a.len);
    defer gpa.free(ea);
    const nb = if (case.shared_b) 1 else case.batch;
    const b = try gpa.alloc(TB, nb * case.n * case.k);
    defer gpa.free(b);
    const eb = try gpa.alloc(f64, b.len);
    defer gpa.free(eb);
    const c = try gpa.alloc(TC, case.batch * case.m * case.n);
    errdefer gpa.free(c);
    const ec = try gpa.alloc(f64, c.len);
    defer gpa.free(ec);
    const bias = try gpa.alloc(A, case.n);
    defer gpa.free(bias);
    const ebias = try gpa.alloc(f64, case.n);
    defer gpa.free(ebias);
    const residual = try gpa.alloc(TC, c.len);
    defer gpa.free(residual);
    const eresidual = try gpa.alloc(f64, c.len);
    defer gpa.free(eresidual);
    draw(TA, random, a, ea);
    draw(TB, random, b, eb);
    draw(A, random, bias, ebias);
    draw(TC, random, residual, eresidual);
    if (case.accumulate) draw(TC, random, c, ec) else @memset(std.mem.sliceAsBytes(c), 0xff); // NaN

    var pool: Pool = undefined;
    try pool.start(gpa, threads);
    defer pool.deinit();
    const sa: [2]usize = if (case.transpose_a) .{ 1, case.m } else .{ case.k, 1 };
    const sb: [2]usize = if (case.transpose_b) .{ 1, case.k } else .{ case.n, 1 };
    try matmul(A, pool.parallel(), &.{
        .a = a.ptr,
        .b = b.ptr,
        .c = c.ptr,
        .bias = if (case.bias) bias.ptr else null,
        .residual = if (case.residual) residual.ptr else null,
        .batch = case.batch,
        .m = case.m,
        .n = case.n,
        .k = case.k,
        .a_batch_stride = case.m * case.k,
        .a_row_stride = sa[0],
        .a_column_stride = sa[1],
        .b_batch_stride = if (case.shared_b) 0 else case.n * case.k,
        .b_row_stride = sb[0],
        .b_column_stride = sb[1],
        .c_batch_stride = case.m * case.n,
        .c_row_stride = case.n,
        .alpha = case.alpha,
        .a_dtype = code(TA),
        .b_dtype = code(TB),
        .c_dtype = code(TC),
        .accumulate = @intFromBool(case.accumulate),
    });
    const want = try gpa.alloc(f64, case.m * case.n);
    defer gpa.free(want);
    // A sum of k products of N(0, 1) wanders up to a few √k and rounds k times: errors of about k
    // units in the last place of 1; bf16 results are rounded once more.
    const unit: f64 = if (A == f64) 4.5e-16 else 2.4e-7;
    const scale: f64 = @floatFromInt(case.k + 4);
    for (0..case.batch) |e| {
        const at_b = if (case.shared_b) 0 else e * case.n * case.k;
        reference(case.m, case.n, case.k, ea[e * case.m * case.k ..], sa, eb[at_b..], sb, want);
        for (want, 0..) |w, i| {
            const at = e * want.len + i;
            var x = w * case.alpha;
            if (case.bias) x += ebias[i % case.n];
            if (case.residual) x += eresidual[at];
            if (case.accumulate) x += ec[at];
            const got: f64 = if (TC == u16) dtype.fromBf16(c[at]) else c[at];
            const rounding: f64 = if (TC == u16) 1.0 / 256.0 else unit;
            if (!(@abs(got - x) <= unit * scale + rounding * @abs(x))) {
                std.debug.print(
                    "{any} seed {d}: element {d}: {d}, expected {d}\n",
                    .{ case, seed, at, got, x },
                );
                return error.TooFar;
            }
        }
    }
    return c;
}

fn check(comptime TA: type, comptime TB: type, comptime TC: type, case: Case, seed: u64) !void {
    const one = try run(TA, TB, TC, case, 1, seed);
    defer gpa.free(one);
    const three = try run(TA, TB, TC, case, 3, seed);
    defer gpa.free(three);
    try std.testing.expectEqualSlices(u8, std.mem.sliceAsBytes(one), std.mem.sliceAsBytes(three));
}

const shapes = [_][3]usize{
    .{ 1, 1, 1 },      .{ 1, 7, 3 },      .{ 3, 5, 7 },      .{ 4, 33, 65 },  .{ 5, 16, 8 },
    .{ 6, 16, 256 },   .{ 7, 17, 257 },   .{ 13, 31, 300 },  .{ 64, 64, 16 }, .{ 73, 129, 40 },
    .{ 144, 110, 70 }, .{ 2, 300, 1000 }, .{ 30, 20, 2100 }, .{ 100, 1, 50 }, .{ 17, 40, 0 },
};

test "every layout of f32 and f64" {
    for (shapes, 0..) |s, seed| {
        for (0..4) |layout| {
            const case: Case = .{
                .m = s[0],
                .n = s[1],
                .k = s[2],
                .transpose_a = layout & 1 != 0,
                .transpose_b = layout & 2 != 0,
            };
            try check(f32, f32, f32, case, seed);
            try check(f64, f64, f64, case, seed);
        }
    }
}

test "bf16 operands and results" {
    for (shapes, 0..) |s, seed| {
        const case: Case = .{ .m = s[0], .n = s[1], .k = s[2], .transpose_b = seed % 2 == 0 };
        try check(u16, u16, f32, case, seed);
        try check(u16, f32, u16, case, seed);
        try check(f32, u16, f32, case, seed);
        var more = case;
        more.accumulate = true;
        more.residual = true;
        try check(u16, u16, u16, more, seed);
    }
}

test "accumulation, bias, residual, alpha, batches" {
    for (shapes, 0..) |s, seed| {
        try check(f32, f32, f32, .{ .m = s[0], .n = s[1], .k = s[2], .bias = true }, seed);
        try check(f32, f32, f32, .{
            .m = s[0],
            .n = s[1],
            .k = s[2],
            .accumulate = true,
            .residual = true,
            .alpha = 0.5,
        }, seed);
        if (s[0] * s[1] * s[2] > 200_000) continue;
        try check(f32, f32, f32, .{ .m = s[0], .n = s[1], .k = s[2], .batch = 5 }, seed);
        try check(f64, f64, f64, .{
            .m = s[0],
            .n = s[1],
            .k = s[2],
            .batch = 3,
            .shared_b = true,
            .transpose_b = true,
        }, seed);
    }
}

test "more than one chunk" {
    try check(f32, f32, f32, .{ .m = 4100, .n = 20, .k = 9 }, 1);
    try check(f32, f32, f32, .{ .m = 9, .n = 4110, .k = 12, .transpose_b = true }, 2);
    try check(f32, f32, f32, .{ .m = 20, .n = 20, .k = 4200, .transpose_a = true }, 3);
}
