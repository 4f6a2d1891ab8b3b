//! Softmax and log-softmax against `reference/norm.zig`, gradients against central differences.

const std = @import("std");
const args = @import("args/norm.zig");
const cpu = @import("cpu/norm.zig");
const h = @import("reference/kernel_test.zig");
const reference = @import("reference/norm.zig");

const gpa = h.gpa;

const Kind = enum { softmax, log_softmax };

fn forward(comptime S: type, kind: Kind, x: []S, y: []S, rows: usize) !void {
    const a: args.SoftmaxForward = .{
        .x = x.ptr,
        .y = y.ptr,
        .rows = rows,
        .width = x.len / @max(1, rows),
    };
    switch (kind) {
        .softmax => try h.run(cpu.softmaxForward, S, &a, &.{h.bytes(S, y)}),
        .log_softmax => try h.run(cpu.logSoftmaxForward, S, &a, &.{h.bytes(S, y)}),
    }
}

fn backward(comptime S: type, kind: Kind, dy: []S, y: []S, dx: []S, rows: usize) !void {
    const width = y.len / @max(1, rows);
    const a: args.SoftmaxBackward = .{
        .dy = dy.ptr,
        .y = y.ptr,
        .dx = dx.ptr,
        .rows = rows,
        .width = width,
    };
    switch (kind) {
        .softmax => try h.run(cpu.softmaxBackward, S, &a, &.{h.bytes(S, dx)}),
        .log_softmax => try h.run(cpu.logSoftmaxBackward, S, &a, &.{h.bytes(S, dx)}),
    }
}

fn exact(kind: Kind, x: []const f64, y: []f64) void {
    switch (kind) {
        .softmax => reference.softmax(x, y),
        .log_softmax => reference.logSoftmax(x, y),
    }
}

fn forwardCase(comptime S: type, kind: Kind, random: std.Random, rows: usize, width: usize) !void {
    const x = try h.draw(S, random, rows * width, -8, 8);
    defer gpa.free(x);
    const y = try h.poisoned(S, rows * width);
    defer gpa.free(y);
    try forward(S, kind, x, y, rows);
    const wide = try gpa.alloc(f64, width);
    defer gpa.free(wide);
    const want = try gpa.alloc(f64, width);
    defer gpa.free(want);
    for (0..rows) |r| {
        for (wide, x[r * width ..][0..width]) |*out, value| out.* = h.toF64(S, value);
        exact(kind, wide, want);
        for (want, y[r * width ..][0..width]) |w, got| {
            errdefer std.debug.print("{t} {s} {d}×{d}\n", .{ kind, @typeName(S), rows, width });
            // x − max is rounded to 16·6e-8 before the exponential.
            try h.expectNear(w, h.toF64(S, got), h.bar(S, 3e-6), if (S == f64) 1e-13 else 2e-6);
        }
    }
}

test "softmax and log-softmax forward" {
    var seeded: h.Seeded = .init();
    errdefer seeded.report();
    const random = seeded.prng.random();
    const sizes = [_][2]usize{
        .{ 1, 1 },
        .{ 3, 7 },
        .{ 2, 16 },
        .{ 5, 50 },
        .{ 0, 4 },
        .{ 3, 0 },
        .{ 2, 9001 },
    };
    inline for (h.storages) |S| for (std.enums.values(Kind)) |kind| for (sizes) |size| {
        try forwardCase(S, kind, random, size[0], size[1]);
    };
    try forwardCase(f32, .softmax, random, 700, 60);
}

fn gradientCase(comptime S: type, kind: Kind, random: std.Random, width: usize) !void {
    const x = try h.draw(S, random, width, -3, 3);
    defer gpa.free(x);
    const dy = try h.draw(S, random, width, -1, 1);
    defer gpa.free(dy);
    const y = try h.poisoned(S, width);
    defer gpa.free(y);
    const dx = try h.poisoned(S, width);
    defer gpa.free(dx);
    try forward(S, kind, x, y, 1);
    try backward(S, kind, dy, y, dx, 1);
    const wide = try gpa.alloc(f64, width);
    defer gpa.free(wide);
    const out = try gpa.alloc(f64, width);
    defer gpa.free(out);
    for (wide, x) |*to, from| to.* = h.toF64(S, from);
    for (dx, 0..) |got, i| {
        var losses: [2]f64 = .{ 0, 0 };
        const old = wide[i];
        for ([_]f64{ 1e-5, -1e-5 }, &losses) |step, *loss| {
            wide[i] = old + step;
            exact(kind, wide, out);
            for (out, dy) |value, d| loss.* += value * h.toF64(S, d);
        }
        wide[i] = old;
        const want = (losses[0] - losses[1]) / 2e-5;
        // A bf16 y is rounded, and e^y multiplies its absolute rounding by Σ dy.
        const absolute: f64 = switch (S) {
            f64 => 1e-8, // Rounding of a loss of about 40, divided by the step.
            f32 => 1e-6,
            else => 0.02,
        };
        try h.expectNear(want, h.toF64(S, got), h.bar(S, 1e-5), absolute);
    }
}

test "softmax gradients equal central differences" {
    var seeded: h.Seeded = .init();
    errdefer seeded.report();
    const random = seeded.prng.random();
    inline for (h.storages) |S| for (std.enums.values(Kind)) |kind| for ([_]usize{
        1,
        5,
        16,
        41,
    }) |width| {
        try gradientCase(S, kind, random, width);
    };
}

test "in place, masked entries and broken rows" {
    const inf = std.math.inf(f32);
    var x = [_]f32{ 1, -inf, 2, -inf, -inf, std.math.nan(f32), 0, 0 };
    const a: args.SoftmaxForward = .{ .x = &x, .y = &x, .rows = 2, .width = 4 };
    try h.run(cpu.softmaxForward, f32, &a, &.{h.bytes(f32, &x)});
    try std.testing.expectEqual(0, x[1]);
    try h.expectNear(1 / (1 + @exp(@as(f64, 1))), x[0], 1e-6, 0);
    for (x[4..]) |value| try std.testing.expect(std.math.isNan(value));
    var masked = [_]f32{ -inf, -inf, -inf };
    const all: args.SoftmaxForward = .{ .x = &masked, .y = &masked, .rows = 1, .width = 3 };
    try h.run(cpu.softmaxForward, f32, &all, &.{h.bytes(f32, &masked)});
    for (masked) |value| try std.testing.expect(std.math.isNan(value));
}
