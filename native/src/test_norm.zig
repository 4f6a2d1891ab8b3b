//! Norms, the gated head norm and softmax against `reference/norm.zig`; gradients against central
//! differences of the reference in f64, and f32 and bf16 gradients against the f64 kernel.

const std = @import("std");
const h = @import("reference/kernel_test.zig");
const norm_case = @import("reference/norm_case.zig");
const reference = @import("reference/norm.zig");
const simd = @import("cpu/simd.zig");

const gpa = h.gpa;
const Case = norm_case.Case;
const Setup = norm_case.Setup;
const randomSetup = norm_case.randomSetup;

// 130 × 128 elements are two blocks of rows for the parameter gradients.
const sizes = [_][3]usize{
    .{ 1, 1, 1 }, .{ 3, 1, 7 },    .{ 2, 3, 16 },  .{ 5, 4, 33 },
    .{ 0, 2, 8 }, .{ 130, 2, 64 }, .{ 3, 1, 700 },
};

/// One row and group of a case in f64, with one element of x, o or the parameters moved.
fn Row(comptime S: type) type {
    return struct {
        fn value(
            case: *const Case(S),
            r: usize,
            group: usize,
            buffers: *[5][1024]f64,
            sum_gradient: bool,
        ) f64 {
            const s = &case.setup;
            const x, const o, const gain, const bias, const y = .{
                buffers[0][0..s.width], buffers[1][0..s.width], buffers[2][0..s.width],
                buffers[3][0..s.width], buffers[4][0..s.width],
            };
            if (s.gated) {
                reference.gated(x, o, gain, bias, s.eps, s.center, y);
            } else reference.norm(x, gain, bias, s.eps, s.center, y);
            var loss: f64 = 0;
            const at = (r * s.groups + group) * s.width;
            for (y, 0..) |out, i| loss += out * h.toF64(S, case.dy[at + i]);
            if (sum_gradient and s.residual) for (x, 0..) |out, i| {
                loss += out * h.toF64(S, case.dsum[at + i]);
            };
            return loss;
        }

        fn load(case: *const Case(S), r: usize, group: usize, buffers: *[5][1024]f64) void {
            const s = &case.setup;
            const A = simd.Arithmetic(S);
            for (0..s.width) |i| {
                const at = (r * s.groups + group) * s.width + i;
                const from = if (s.residual and !s.gated) case.sum else case.x;
                buffers[0][i] = h.toF64(S, from[at]);
                buffers[1][i] = h.toF64(S, case.o[r * s.oStride() + group * s.width + i]);
                const own = h.toF64(A, case.scale[group * s.width + i]);
                buffers[2][i] = if (s.scaled) own + s.offset else 1;
                buffers[3][i] = if (s.biased) h.toF64(A, case.bias[group * s.width + i]) else 0;
            }
        }

        /// d loss / d buffers[which][i] by central differences.
        fn slope(
            case: *const Case(S),
            r: usize,
            group: usize,
            buffers: *[5][1024]f64,
            which: usize,
            i: usize,
        ) f64 {
            const old = buffers[which][i];
            const step = 1e-5 * @max(@abs(old), if (which == 0) case.setup.size else 1);
            buffers[which][i] = old + step;
            const above = value(case, r, group, buffers, true);
            buffers[which][i] = old - step;
            const below = value(case, r, group, buffers, true);
            buffers[which][i] = old;
            return (above - below) / (2 * step);
        }
    };
}

fn forwardCase(comptime S: type, random: std.Random, size: [3]usize) !void {
    const setup = randomSetup(random, size[0], size[1], size[2]);
    errdefer std.debug.print("{s} {any}\n", .{ @typeName(S), setup });
    var case = try Case(S).init(setup, random);
    defer case.deinit();
    try case.forward();
    if (setup.residual) for (case.x, case.residual, case.sum) |x, other, sum| {
        const want = h.toF64(S, x) + h.toF64(S, other);
        try h.expectNear(want, h.toF64(S, sum), h.bar(S, 1e-7), 0);
    };
    var buffers: [5][1024]f64 = undefined;
    for (0..setup.rows) |r| for (0..setup.groups) |group| {
        Row(S).load(&case, r, group, &buffers);
        _ = Row(S).value(&case, r, group, &buffers, false);
        const line = r * setup.groups + group;
        const stats = reference.statistics(buffers[0][0..setup.width], setup.eps, setup.center);
        const A = simd.Arithmetic(S);
        try h.expectNear(stats.rstd, h.toF64(A, case.rstd[line]), h.bar(A, 2e-6), 0);
        for (0..setup.width) |i| {
            const got = h.toF64(S, case.y[line * setup.width + i]);
            // x − mean and x̂·g + b may cancel.
            try h.expectNear(buffers[4][i], got, h.bar(S, 4e-6), if (S == f64) 1e-12 else 3e-6);
        }
    };
}

test "norms forward: LayerNorm, RMSNorm, heads, residual, gate" {
    var seeded: h.Seeded = .init();
    errdefer seeded.report();
    const random = seeded.prng.random();
    inline for (h.storages) |S| for (sizes) |size| for (0..8) |_| try forwardCase(S, random, size);
}

/// f64 gradients of x, o, scale and bias against central differences; ⟨dh, h⟩ against its sum.
fn gradientCase(random: std.Random, size: [3]usize) !void {
    const setup = randomSetup(random, size[0], size[1], size[2]);
    errdefer std.debug.print("{any}\n", .{setup});
    var case = try Case(f64).init(setup, random);
    defer case.deinit();
    try case.forward();
    try case.backward();
    const columns = setup.groups * setup.width;
    const sums = try gpa.alloc([2]f64, columns);
    defer gpa.free(sums);
    @memset(sums, .{ 0, 0 });
    var buffers: [5][1024]f64 = undefined;
    const R = Row(f64);
    for (0..setup.rows) |r| for (0..setup.groups) |group| {
        R.load(&case, r, group, &buffers);
        const line = r * setup.groups + group;
        var inner: f64 = 0;
        // dx is of the size of rstd.
        const bar = 1e-7 * @max(1, case.rstd[line]);
        for (0..setup.width) |i| {
            const at = line * setup.width + i;
            const column = group * setup.width + i;
            try h.expectNear(R.slope(&case, r, group, &buffers, 0, i), case.dx[at], 1e-6, bar);
            inner += case.dx[at] * case.x[at];
            sums[column][0] += R.slope(&case, r, group, &buffers, 2, i);
            sums[column][1] += R.slope(&case, r, group, &buffers, 3, i);
            if (!setup.gated) continue;
            const do = case.do[r * setup.oStride() + column];
            try h.expectNear(R.slope(&case, r, group, &buffers, 1, i), do, 1e-6, 1e-8);
        }
        if (setup.gated) try h.expectNear(inner, case.inner[line], 1e-6, 1e-11 * case.rstd[line]);
    };
    for (sums, case.dscale, case.dbias) |sum, dscale, dbias| {
        try h.expectNear(sum[0], dscale, 1e-6, 1e-7);
        try h.expectNear(sum[1], dbias, 1e-6, 1e-7);
    }
}

test "gradients equal central differences of the reference" {
    var seeded: h.Seeded = .init();
    errdefer seeded.report();
    const random = seeded.prng.random();
    for (sizes[0..6]) |size| for (0..8) |_| try gradientCase(random, size);
}

/// The same inputs in f64: what S loses is its own rounding.
fn widened(comptime S: type, from: *const Case(S), random: std.Random) !Case(f64) {
    const to = try Case(f64).init(from.setup, random);
    inline for (.{ "x", "o", "residual", "dy", "dsum" }) |name| {
        for (@field(from, name), @field(to, name)) |value, *out| out.* = h.toF64(S, value);
    }
    inline for (.{ "scale", "bias" }) |name| {
        for (@field(from, name), @field(to, name)) |value, *out| out.* = value;
    }
    return to;
}

fn narrowCase(comptime S: type, random: std.Random, size: [3]usize) !void {
    const setup = randomSetup(random, size[0], size[1], size[2]);
    errdefer std.debug.print("{s} {any}\n", .{ @typeName(S), setup });
    var case = try Case(S).init(setup, random);
    defer case.deinit();
    var exact = try widened(S, &case, random);
    defer exact.deinit();
    try case.forward();
    try exact.forward();
    if (setup.residual) {
        // The kernels normalise the rounded sum.
        for (case.sum, exact.sum) |value, *out| out.* = h.toF64(S, value);
        for (case.mean, exact.mean) |value, *out| out.* = value;
        for (case.rstd, exact.rstd) |value, *out| out.* = value;
    }
    try case.backward();
    try exact.backward();
    const single = 1e-5;
    for (0..setup.rows * setup.groups) |line| {
        const scale = 3e-6 * @max(1, exact.rstd[line]);
        for (line * setup.width..(line + 1) * setup.width) |i| {
            try h.expectNear(exact.dx[i], h.toF64(S, case.dx[i]), h.bar(S, single), scale);
        }
        if (setup.gated) {
            const got = case.inner[line];
            const size_of_terms = 3e-6 * @sqrt(@as(f64, @floatFromInt(setup.width)));
            try h.expectNear(exact.inner[line], got, single, size_of_terms);
        }
    }
    const rows: f64 = @floatFromInt(setup.rows);
    for (exact.dscale, case.dscale) |want, got| try h.expectNear(want, got, single, 1e-6 * rows);
    for (exact.dbias, case.dbias) |want, got| try h.expectNear(want, got, single, 1e-6 * rows);
}

test "f32 and bf16 gradients equal the f64 kernel's" {
    var seeded: h.Seeded = .init();
    errdefer seeded.report();
    const random = seeded.prng.random();
    inline for (.{ f32, u16 }) |S| for (sizes) |size| for (0..8) |_| try narrowCase(
        S,
        random,
        size,
    );
    try narrowCase(f32, random, .{ 300, 4, 64 });
}

test "gradients may be written over their operands" {
    var seeded: h.Seeded = .init();
    errdefer seeded.report();
    const random = seeded.prng.random();
    for ([_]bool{ false, true }) |gated| {
        const setup: Setup = .{
            .rows = 7,
            .groups = 2,
            .width = 19,
            .center = true,
            .gated = gated,
        };
        var case = try Case(f32).init(setup, random);
        defer case.deinit();
        try case.forward();
        try case.backward();
        const dx = try gpa.dupe(f32, case.dx);
        defer gpa.free(dx);
        const do = try gpa.dupe(f32, case.do);
        defer gpa.free(do);
        case.dx = case.dy;
        case.do = case.o;
        try case.backward();
        try std.testing.expectEqualSlices(f32, dx, case.dx);
        if (!gated) continue;
        for (0..7) |r| {
            const at = r * setup.oStride();
            try std.testing.expectEqualSlices(f32, do[at..][0..38], case.do[at..][0..38]);
        }
    }
}

test "an exactly constant row normalises to zero, not NaN" {
    var seeded: h.Seeded = .init();
    const setup: Setup = .{ .rows = 1, .groups = 1, .width = 40, .center = true, .gated = false };
    var case = try Case(f32).init(setup, seeded.prng.random());
    defer case.deinit();
    @memset(case.x, 0.5);
    try case.forward();
    for (case.y) |y| try std.testing.expectEqual(0, y);
}
