//! Tests of the head-wise linear maps: against the float64 reference, for every path, with strides.

const std = @import("std");
const simd = @import("simd.zig");
const reference = @import("../reference/conv.zig");
const args = @import("../args/conv.zig");
const checks = @import("slstm_checks.zig");
const kernels = @import("conv.zig");
const Lab = checks.Lab;

/// Rows of `width` values, `gap` unused elements apart, with NaN in the gaps.
fn spaced(
    comptime S: type,
    lab: *Lab,
    values: []const S,
    rows: usize,
    width: usize,
    gap: usize,
) ![]S {
    const out = try lab.poisoned(S, rows * (width + gap));
    for (0..rows) |r| @memcpy(out[r * (width + gap) ..][0..width], values[r * width ..][0..width]);
    return out;
}

/// The values of spaced rows; the gaps must still be NaN.
fn gathered(
    comptime S: type,
    lab: *Lab,
    from: []const S,
    rows: usize,
    width: usize,
    gap: usize,
) ![]S {
    const out = try lab.poisoned(S, rows * width);
    for (0..rows) |r| {
        const row = from[r * (width + gap) ..][0 .. width + gap];
        @memcpy(out[r * width ..][0..width], row[0..width]);
        for (width..width + gap) |i| {
            const x = simd.get(S, row.ptr, i);
            try std.testing.expect(x != x);
        }
    }
    return out;
}

fn compare(comptime S: type, lab: *Lab, s: reference.Headwise, gap: usize, biased: bool) !void {
    errdefer std.debug.print("seed {d}, {s}, {any}\n", .{ lab.seed, @typeName(S), s });
    const A = simd.Arithmetic(S);
    const in = s.blocks * s.inputs;
    const out = s.blocks * s.outputs;
    const x = try lab.normal(s.rows * in, 1);
    const w = try lab.normal(out * s.inputs, 1);
    const b = try lab.normal(out, 1);
    const dy = try lab.normal(s.rows * out, 1);
    const x_s = try spaced(S, lab, try lab.rounded(S, x), s.rows, in, gap);
    const dy_s = try spaced(S, lab, try lab.rounded(S, dy), s.rows, out, 2 * gap);
    const w_s = try lab.rounded(A, w);
    const b_s = try lab.rounded(A, b);

    const want = try lab.zeros(f64, s.rows * out);
    reference.headwise(s, x, w, if (biased) b else null, want);
    const y = try lab.poisoned(S, s.rows * (out + gap));
    try checks.runTwice(S, kernels.headwiseForward, &args.HeadwiseForward{
        .x = x_s.ptr,
        .weight = w_s.ptr,
        .bias = if (biased) b_s.ptr else null,
        .y = y.ptr,
        .rows = s.rows,
        .blocks = s.blocks,
        .inputs = s.inputs,
        .outputs = s.outputs,
        .x_stride = in + gap,
        .y_stride = out + gap,
    }, &.{checks.bytesOf(y)});
    const y_dense = try gathered(S, lab, y, s.rows, out, gap);
    try checks.expectClose(S, "y", want, y_dense, checks.bars(S)[0]);

    const dx_want = try lab.zeros(f64, s.rows * in);
    const dw_want = try lab.zeros(f64, out * s.inputs);
    const db_want = try lab.zeros(f64, out);
    reference.headwiseBackward(s, dy, x, w, dx_want, dw_want, db_want);
    const dx = try lab.poisoned(S, s.rows * (in + gap));
    const dw = try lab.poisoned(A, out * s.inputs);
    const db = try lab.poisoned(A, out);
    try checks.runTwice(S, kernels.headwiseBackward, &args.HeadwiseBackward{
        .dy = dy_s.ptr,
        .x = x_s.ptr,
        .weight = w_s.ptr,
        .dx = if (biased) dx.ptr else null,
        .dweight = dw.ptr,
        .dbias = if (biased) db.ptr else null,
        .rows = s.rows,
        .blocks = s.blocks,
        .inputs = s.inputs,
        .outputs = s.outputs,
        .x_stride = in + gap,
        .y_stride = out + 2 * gap,
        .dx_stride = in + gap,
    }, &.{ checks.bytesOf(dx), checks.bytesOf(dw), checks.bytesOf(db) });
    try checks.expectClose(A, "dw", dw_want, dw, checks.bars(A)[1]);
    if (!biased) return;
    const dx_dense = try gathered(S, lab, dx, s.rows, in, gap);
    try checks.expectClose(S, "dx", dx_want, dx_dense, checks.bars(S)[1]);
    try checks.expectClose(A, "db", db_want, db, checks.bars(A)[1]);
}

const shapes = [_]reference.Headwise{
    .{ .rows = 1, .blocks = 1, .inputs = 1, .outputs = 1 },
    .{ .rows = 0, .blocks = 3, .inputs = 4, .outputs = 4 },
    .{ .rows = 0, .blocks = 2, .inputs = 5, .outputs = 3 },
    .{ .rows = 77, .blocks = 7, .inputs = 4, .outputs = 4 },
    .{ .rows = 301, .blocks = 64, .inputs = 4, .outputs = 4 },
    .{ .rows = 35, .blocks = 5, .inputs = 2, .outputs = 2 },
    .{ .rows = 35, .blocks = 3, .inputs = 8, .outputs = 8 },
    .{ .rows = 41, .blocks = 3, .inputs = 4, .outputs = 8 },
    .{ .rows = 600, .blocks = 2, .inputs = 32, .outputs = 32 },
    .{ .rows = 70, .blocks = 3, .inputs = 50, .outputs = 37 },
    .{ .rows = 5, .blocks = 1, .inputs = 192, .outputs = 192 },
};

test "head-wise maps equal the reference in f32, f64 and bf16" {
    inline for (.{ f32, f64, u16 }, 0..) |S, n| {
        for (shapes, 0..) |shape, i| for (0..2) |option| {
            var lab: Lab = .init(100_000 + 1000 * n + 10 * i + option);
            defer lab.deinit();
            try compare(S, &lab, shape, 3 * option, option == 1);
        };
    }
}
