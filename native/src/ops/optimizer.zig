//! Optimiser steps and the clip factor: checks and the call of the kernel. Everything is in place.

const std = @import("std");
const Context = @import("../runtime/context.zig").Context;
const Tensor = @import("../runtime/tensor.zig").Tensor;
const scratch = @import("../abi/scratch.zig");
const kinds = @import("../args/optimizer.zig");
const Schedule = @import("../cuda/optimizer.zig").Schedule;
const op = @import("call.zig");
const Call = op.Call;
const Error = op.Error;

/// What a captured update reads instead of scratch floats 0, 1, 4 and 5: coefficients of the step,
/// into an f64 tensor on the GPU. Scratch floats as in `step`.
pub fn schedule(context: *Context, target_: i32) Error!void {
    var call = Call.begin(context, "optimizer schedule");
    defer call.end();
    const target = try inPlace(&call, "schedule", target_, null);
    try call.expectDType("schedule", target, .f64);
    const f = &scratch.block.floats;
    if (!(f[0] >= 1)) return call.invalid("step {d}, expected 1, 2, …", .{f[0]});
    const made: Schedule = .init(.{
        .step = f[0],
        .learning_rate = f[1],
        .beta1 = f[2],
        .beta2 = f[3],
        .beta3 = f[4],
        .alpha = f[5],
    });
    try call.expectShape("schedule", target, &.{@sizeOf(Schedule) / 8});
    try context.write(target, 0, std.mem.asBytes(&made));
}

/// Scratch floats: 0 step, 1 learning rate, 2 β1, 3 β2, 4 β3, 5 α, 6 eps, 7 weight decay,
/// 8 gradient scale, 9 value clip (0 = none).
pub fn step(
    context: *Context,
    rule_raw: i32,
    parameter_: i32,
    gradient_: i32,
    first_: i32,
    second_: i32,
    third_: i32,
    factor_: i32,
    schedule_: i32,
) Error!void {
    var call = Call.begin(context, "optimizer");
    defer call.end();
    const f = &scratch.block.floats;
    const rule = std.enums.fromInt(kinds.Rule, @as(u32, @bitCast(rule_raw))) orelse
        return call.invalid("rule code {d} does not exist", .{rule_raw});
    const parameter = try inPlace(&call, "parameter", parameter_, null);
    if (parameter.dtype != .f32 and parameter.dtype != .f64)
        return call.invalid("the parameter is {t}, expected f32 or f64", .{parameter.dtype});
    const gradient = try call.input("gradient", gradient_);
    try call.expectShape("gradient", gradient, parameter.dims());
    if (op.arithmetic(gradient.dtype) != parameter.dtype)
        return call.invalid(
            "a {t} gradient for a {t} parameter",
            .{ gradient.dtype, parameter.dtype },
        );
    var moments: [3]?Tensor = .{ null, null, null };
    for (&moments, [3]i32{ first_, second_, third_ }, 0..) |*moment, handle, i| {
        if (i >= rule.moments()) continue;
        moment.* = try inPlace(&call, "moment", handle, parameter);
    }
    const factor = try call.optionalAs("factor", factor_, .f64);
    const scheduled = try call.optionalView("schedule", schedule_);
    if (scheduled) |s| {
        try call.expectDType("schedule", s, .f64);
        try call.expectShape("schedule", s, &.{@sizeOf(Schedule) / 8});
    }
    if (!(f[0] >= 1)) return call.invalid("step {d}, expected 1, 2, …", .{f[0]});
    if (parameter.count() > 0) try call.run("optimizerStep", gradient.dtype, .{
        .parameter = parameter.data(),
        .gradient = gradient.data(),
        .first = op.pointer(moments[0]),
        .second = op.pointer(moments[1]),
        .third = op.pointer(moments[2]),
        .shadow = null,
        .factor = op.pointer(factor),
        .schedule = op.pointer(scheduled),
        .norms = null,
        .count = parameter.count(),
        .step = @intFromFloat(f[0]),
        .learning_rate = f[1],
        .beta1 = f[2],
        .beta2 = f[3],
        .beta3 = f[4],
        .alpha = f[5],
        .eps = f[6],
        .weight_decay = f[7],
        .gradient_scale = f[8],
        .clip_value = f[9],
        .rule = @backingInt(rule),
        .phase = @backingInt(kinds.Phase.whole),
    });
}

fn inPlace(call: *Call, comptime what: []const u8, handle: i32, like: ?Tensor) Error!Tensor {
    const x = try call.view(what, handle);
    if (!x.isContiguous()) return call.invalid("the " ++ what ++ " is a strided view", .{});
    if (like) |p| {
        try call.expectDType(what, x, p.dtype);
        try call.expectShape(what, x, p.dims());
    }
    return x;
}

/// From the f64 [tensors + 1, 2] of `globalSumSquares`. Outputs: norm f64 [], factor f64 [].
pub fn clipFactor(context: *Context, sums_: i32, max_norm: f64) Error!void {
    var call = Call.begin(context, "clipFactor");
    defer call.end();
    const sums = try call.input("sums", sums_);
    try call.expectDType("sums", sums, .f64);
    if (sums.rank != 2 or sums.shape[1] != 2 or sums.shape[0] < 1)
        return call.invalid(
            "sums have shape {f}, expected [tensors + 1, 2]",
            .{op.show(sums.dims())},
        );
    if (!(max_norm >= 0)) return call.invalid("a largest norm of {d}", .{max_norm});
    const norm = try call.output(.f64, &.{});
    const factor = try call.output(.f64, &.{});
    const rows: [*]const [2]f64 = @ptrCast(@alignCast(sums.data()));
    try call.run("clipFactor", .f64, .{
        .squares = &rows[sums.shape[0] - 1][0], // the row of totals
        .bad = &rows[sums.shape[0] - 1][1],
        .norm = norm.data(),
        .factor = factor.data(),
        .count = 1,
        .max_norm = max_norm,
    });
    try call.commit();
}
