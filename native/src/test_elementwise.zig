//! Element-wise kernels against `reference/elementwise.zig`: every function at every storage type
//! on random views, derivatives against central differences, gated products, masks.

const std = @import("std");
const args = @import("args/elementwise.zig");
const cpu = @import("cpu/elementwise.zig");
const h = @import("reference/kernel_test.zig");
const reference = @import("reference/elementwise.zig");

const Unary = args.Unary;

const shapes = [_][]const u64{
    &.{},            &.{1},                        &.{7},         &.{16},        &.{ 3, 5 },
    &.{ 1, 1, 33 },  &.{ 4, 1, 9 },                &.{ 2, 3, 4 }, &.{ 2, 0, 3 }, &.{ 130, 257 },
    &.{ 5, 2, 700 }, &.{ 2, 1, 3, 2, 1, 2, 3, 2 },
};

const Domain = struct { low: f64 = -6, high: f64 = 6, p: f64 = 0 };

fn domain(op: Unary) Domain {
    return switch (op) {
        .log, .sqrt, .rsqrt => .{ .low = 0.1, .high = 9 },
        .reciprocal => .{ .low = 0.2, .high = 9 },
        .pow_scalar => .{ .low = 0.1, .high = 3, .p = 2.7 },
        .soft_cap => .{ .low = -40, .high = 40, .p = 15 },
        .scale => .{ .p = -0.37 },
        .add_scalar, .clamp_min, .clamp_max => .{ .p = 1.3 },
        else => .{},
    };
}

fn unaryCase(comptime S: type, random: std.Random, op: Unary, shape: []const u64) !void {
    const range = domain(op);
    const layout = random.enumValue(h.View(S).Layout);
    const x = try h.View(S).init(random, shape, layout, range.low, range.high);
    defer x.deinit();
    const y = try h.poisoned(S, x.count());
    defer h.gpa.free(y);
    const arguments: args.UnaryForward = .{
        .x = x.data.ptr,
        .y = y.ptr,
        .shape = x.shape,
        .x_strides = x.strides,
        .rank = x.rank,
        .parameter = range.p,
        .op = op,
    };
    try h.run(cpu.unary, S, &arguments, &.{h.bytes(S, y)});
    for (y, 0..) |got, i| {
        errdefer std.debug.print("{t} of {e} at {s}\n", .{ op, x.at(i), @typeName(S) });
        // The parameter is rounded to A, which x + p near 0 shows in absolute terms.
        const absolute: f64 = if (op == .add_scalar and S != f64) 1e-7 else 1e-9;
        const want = reference.unary(op, x.at(i), range.p);
        try h.expectNear(want, h.toF64(S, got), h.bar(S, 3e-6), absolute);
    }
}

test "unary functions on random views" {
    var seeded: h.Seeded = .init();
    errdefer seeded.report();
    const random = seeded.prng.random();
    inline for (h.storages) |S| for (std.enums.values(Unary)) |op| for (shapes) |shape| {
        if (shape.len == 2 and shape[0] == 130 and op != .exp and op != .neg) continue;
        try unaryCase(S, random, op, shape);
    };
}

fn savedValue(op: Unary, x: f64, p: f64) f64 {
    return if (op.saved() == .output) reference.unary(op, x, p) else x;
}

fn backwardCase(comptime S: type, random: std.Random, op: Unary, n: usize) !void {
    const range = domain(op);
    const dy = try h.draw(S, random, n, -2, 2);
    defer h.gpa.free(dy);
    const saved = try h.poisoned(S, n);
    defer h.gpa.free(saved);
    const want = try h.gpa.alloc(f64, n);
    defer h.gpa.free(want);
    for (saved, want, dy) |*s, *w, d| {
        var x = range.low + (range.high - range.low) * random.float(f64);
        // Central differences are wrong across a kink.
        if (@abs(x) < 1e-3 or @abs(x - range.p) < 1e-3) x += 3e-3;
        if (op.saved() == .input) {
            s.* = h.fromF64(S, x);
            x = h.toF64(S, s.*);
        } else if (op.saved() == .output) s.* = h.fromF64(S, savedValue(op, x, range.p));
        w.* = h.toF64(S, d) * reference.slope(op, x, range.p);
    }
    const dx = try h.poisoned(S, n);
    defer h.gpa.free(dx);
    const arguments: args.UnaryBackward = .{
        .dy = dy.ptr,
        .saved = if (op.saved() == .nothing) null else saved.ptr,
        .dx = dx.ptr,
        .count = n,
        .parameter = range.p,
        .op = op,
    };
    try h.run(cpu.unaryBackward, S, &arguments, &.{h.bytes(S, dx)});
    // A bf16 output that was saved carries its own rounding, up to three times (y³).
    const relative: f64 = switch (S) {
        f64 => 1e-7,
        f32 => 3e-6,
        else => 4.0 / 256.0,
    };
    for (dx, want, dy) |got, w, d| {
        errdefer std.debug.print("derivative of {t} at {s}\n", .{ op, @typeName(S) });
        // Where f' crosses 0 its two terms cancel: the error is one of their size.
        try h.expectNear(w, h.toF64(S, got), relative, @abs(h.toF64(S, d)) * 5e-7);
    }
}

test "derivatives equal central differences" {
    var seeded: h.Seeded = .init();
    errdefer seeded.report();
    const random = seeded.prng.random();
    inline for (h.storages) |S| for (std.enums.values(Unary)) |op| {
        for ([_]usize{ 0, 1, 7, 500 }) |n| try backwardCase(S, random, op, n);
    };
    try backwardCase(f32, random, .tanh, 40_000);
}

fn slopeAt(op: Unary, x: f64, p: f64) !f64 {
    const dy = [1]f64{1};
    const saved = [1]f64{x};
    var dx = [1]f64{std.math.nan(f64)};
    const arguments: args.UnaryBackward = .{
        .dy = &dy,
        .saved = &saved,
        .dx = &dx,
        .count = 1,
        .parameter = p,
        .op = op,
    };
    try h.run(cpu.unaryBackward, f64, &arguments, &.{h.bytes(f64, &dx)});
    return dx[0];
}

test "derivatives at kinks" {
    const expectEqual = std.testing.expectEqual;
    try expectEqual(0, try slopeAt(.abs, 0, 0));
    try expectEqual(0, try slopeAt(.relu, 0, 0));
    try expectEqual(0, try slopeAt(.relu2, 0, 0));
    try expectEqual(1, try slopeAt(.clamp_min, 1.5, 1.5));
    try expectEqual(1, try slopeAt(.clamp_max, 1.5, 1.5));
    const selu_slope: f64 = 1.0507009873554805 * 1.6732632423543772;
    try std.testing.expectApproxEqRel(selu_slope, try slopeAt(.selu, 0, 0), 1e-15);
}

test "NaN passes through every unary function" {
    inline for (h.storages) |S| for (std.enums.values(Unary)) |op| {
        const x: [3]S = @splat(h.fromF64(S, std.math.nan(f64)));
        var y: [3]S = @splat(0);
        var arguments: args.UnaryForward = .{
            .x = &x,
            .y = &y,
            .shape = @splat(1),
            .x_strides = @splat(1),
            .rank = 1,
            .parameter = 2.5,
            .op = op,
        };
        arguments.shape[0] = 3;
        try h.run(cpu.unary, S, &arguments, &.{h.bytes(S, &y)});
        for (y) |value| try h.expectNear(std.math.nan(f64), h.toF64(S, value), 0, 0);
    };
}

fn binaryCase(comptime S: type, random: std.Random, op: args.Binary, shape: []const u64) !void {
    const View = h.View(S);
    const a = try View.init(random, shape, random.enumValue(View.Layout), 0.5, 3);
    defer a.deinit();
    const b = try View.init(random, shape, random.enumValue(View.Layout), 0.5, 3);
    defer b.deinit();
    // Some equal pairs and a NaN make the comparisons and maxima meet their special cases.
    if (a.count() > 2) {
        b.data[b.offset(0)] = a.data[a.offset(0)];
        a.data[a.offset(1)] = h.fromF64(S, std.math.nan(f64));
    }
    const y = try h.poisoned(S, a.count());
    defer h.gpa.free(y);
    const arguments: args.BinaryForward = .{
        .a = a.data.ptr,
        .b = b.data.ptr,
        .y = y.ptr,
        .shape = a.shape,
        .a_strides = a.strides,
        .b_strides = b.strides,
        .rank = a.rank,
        .op = op,
    };
    try h.run(cpu.binary, S, &arguments, &.{h.bytes(S, y)});
    for (y, 0..) |got, i| {
        errdefer std.debug.print("{t} of {e}, {e}\n", .{ op, a.at(i), b.at(i) });
        try h.expectNear(
            reference.binary(op, a.at(i), b.at(i)),
            h.toF64(S, got),
            h.bar(S, 1.2e-7),
            0,
        );
    }
}

test "binary functions with random strides and broadcasts" {
    var seeded: h.Seeded = .init();
    errdefer seeded.report();
    const random = seeded.prng.random();
    inline for (h.storages) |S| for (std.enums.values(args.Binary)) |op| for (shapes) |shape| {
        if (shape.len == 2 and shape[0] == 130 and op != .mul) continue;
        try binaryCase(S, random, op, shape);
    };
}

test "where copies bits by mask" {
    var seeded: h.Seeded = .init();
    errdefer seeded.report();
    const random = seeded.prng.random();
    inline for (h.storages) |S| for (shapes) |shape| {
        const View = h.View(S);
        const mask = try h.View(u8).init(
            random,
            shape,
            random.enumValue(h.View(u8).Layout),
            0,
            2.999,
        );
        defer mask.deinit();
        const a = try View.init(random, shape, random.enumValue(View.Layout), -1, 1);
        defer a.deinit();
        const b = try View.init(random, shape, random.enumValue(View.Layout), -1, 1);
        defer b.deinit();
        const y = try h.poisoned(S, a.count());
        defer h.gpa.free(y);
        const arguments: args.Where = .{
            .mask = mask.data.ptr,
            .a = a.data.ptr,
            .b = b.data.ptr,
            .y = y.ptr,
            .shape = a.shape,
            .mask_strides = mask.strides,
            .a_strides = a.strides,
            .b_strides = b.strides,
            .rank = a.rank,
        };
        try h.run(cpu.where, S, &arguments, &.{h.bytes(S, y)});
        for (y, 0..) |got, i| {
            const want = if (mask.at(i) != 0) a.at(i) else b.at(i);
            try std.testing.expectEqual(want, h.toF64(S, got));
        }
    };
}

const gate_ops = [_]Unary{ .sigmoid, .silu, .gelu_erf, .gelu_tanh, .relu, .relu2, .selu, .tanh };

/// gate and up are the halves of one matrix, and so are their gradients.
fn gatedCase(comptime S: type, random: std.Random, op: Unary, rows: usize, width: usize) !void {
    const n = rows * width;
    const both = try h.draw(S, random, 2 * n, -3, 3);
    defer h.gpa.free(both);
    const dy = try h.draw(S, random, n, -1, 1);
    defer h.gpa.free(dy);
    const y = try h.poisoned(S, n);
    defer h.gpa.free(y);
    const gradient = try h.poisoned(S, 2 * n);
    defer h.gpa.free(gradient);
    const forward: args.GatedActivationForward = .{
        .gate = both.ptr,
        .up = both.ptr + width,
        .y = y.ptr,
        .rows = rows,
        .width = width,
        .gate_stride = 2 * width,
        .up_stride = 2 * width,
        .op = op,
    };
    try h.run(cpu.gatedActivationForward, S, &forward, &.{h.bytes(S, y)});
    const backward: args.GatedActivationBackward = .{
        .dy = dy.ptr,
        .gate = both.ptr,
        .up = both.ptr + width,
        .dgate = gradient.ptr,
        .dup = gradient.ptr + width,
        .rows = rows,
        .width = width,
        .gate_stride = 2 * width,
        .up_stride = 2 * width,
        .dgate_stride = 2 * width,
        .dup_stride = 2 * width,
        .op = op,
    };
    try h.run(cpu.gatedActivationBackward, S, &backward, &.{h.bytes(S, gradient)});
    const relative = if (S == f64) 1e-7 else h.bar(S, 3e-6);
    for (0..rows) |r| for (0..width) |i| {
        const g = h.toF64(S, both[r * 2 * width + i]);
        const u = h.toF64(S, both[r * 2 * width + width + i]);
        const d = h.toF64(S, dy[r * width + i]);
        const f = reference.unary(op, g, 0);
        errdefer std.debug.print("{t} gate {e} at {s}\n", .{ op, g, @typeName(S) });
        try h.expectNear(f * u, h.toF64(S, y[r * width + i]), h.bar(S, 3e-6), 1e-9);
        try h.expectNear(
            d * f,
            h.toF64(S, gradient[r * 2 * width + width + i]),
            h.bar(S, 3e-6),
            1e-9,
        );
        if (@abs(g) < 1e-3) continue; // The kinks of relu and selu.
        const want = d * u * reference.slope(op, g, 0);
        // Where f' crosses 0 its two terms cancel: the error is one of their size.
        const absolute = @abs(d * u) * 5e-7;
        try h.expectNear(want, h.toF64(S, gradient[r * 2 * width + i]), relative, absolute);
    };
}

test "gated activations on the halves of a matrix" {
    var seeded: h.Seeded = .init();
    errdefer seeded.report();
    const random = seeded.prng.random();
    inline for (h.storages) |S| for (gate_ops) |op| {
        for ([_][2]usize{ .{ 1, 1 }, .{ 3, 7 }, .{ 5, 64 }, .{ 0, 8 }, .{ 2, 100 } }) |size| {
            try gatedCase(S, random, op, size[0], size[1]);
        }
    };
    try gatedCase(f32, random, .silu, 300, 100);
    try gatedCase(f32, random, .silu, 2, 20_000);
}

test "gradients may take the place of gate and up" {
    var gate = [_]f32{ 0.5, -1, 2 };
    var up = [_]f32{ 1, 2, 3 };
    const dy = [_]f32{ 1, 1, 1 };
    const arguments: args.GatedActivationBackward = .{
        .dy = &dy,
        .gate = &gate,
        .up = &up,
        .dgate = &gate,
        .dup = &up,
        .rows = 1,
        .width = 3,
        .gate_stride = 3,
        .up_stride = 3,
        .dgate_stride = 3,
        .dup_stride = 3,
        .op = .silu,
    };
    try h.run(
        cpu.gatedActivationBackward,
        f32,
        &arguments,
        &.{ h.bytes(f32, &gate), h.bytes(f32, &up) },
    );
    for ([_]f64{ 0.5, -1, 2 }, [_]f64{ 1, 2, 3 }, gate, up) |g, u, dg, du| {
        try h.expectNear(u * reference.slope(.silu, g, 0), dg, 1e-6, 1e-7);
        try h.expectNear(reference.unary(.silu, g, 0), du, 1e-6, 0);
    }
}
