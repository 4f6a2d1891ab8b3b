//! Optimiser steps and the clip factor: checks and the call of the kernel. Everything is in place.

const std = @import("std");
const Context = @import("../runtime/context.zig").Context;
const Tensor = @import("../runtime/tensor.zig").Tensor;
const scratch = @import("../abi/scratch.zig");
const kinds = @import("../args/optimizer.zig");
const DType = @import("../dtype.zig").DType;
const cuda = @import("../cuda/optimizer.zig");
const Schedule = cuda.Schedule;
const op = @import("call.zig");
const Call = op.Call;
const Error = op.Error;

/// What a captured update reads instead of scratch floats 0, 1, 4 and 5: coefficients of the step,
/// into an f64 tensor on the GPU. Scratch floats as in `update`.
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

const handles_each = 5;
const first_decay = 16;
/// What the scratch block holds.
const most_tensors = @min(
    scratch.block.ints.len / handles_each,
    scratch.block.floats.len - first_decay,
);

/// One update of `count` tensors of one dtype. Scratch ints, for each: parameter, gradient, three
/// moments. Scratch floats: 0 step, 1 learning rate, 2 β1, 3 β2, 4 β3, 5 α, 6 eps, 7 gradient
/// scale, 8 value clip (0 = none); from 16 on the weight decay of each.
pub fn update(
    context: *Context,
    rule_raw: i32,
    count_: i32,
    factor_: i32,
    schedule_: i32,
) Error!void {
    var call = Call.begin(context, "optimizer");
    defer call.end();
    const f = &scratch.block.floats;
    const rule = std.enums.fromInt(kinds.Rule, @as(u32, @bitCast(rule_raw))) orelse
        return call.invalid("rule code {d} does not exist", .{rule_raw});
    if (count_ < 1 or count_ > most_tensors)
        return call.invalid("{d} tensors, expected 1 to {d}", .{ count_, most_tensors });
    if (!(f[0] >= 1)) return call.invalid("step {d}, expected 1, 2, …", .{f[0]});
    const settings = try shared(&call, rule, factor_, schedule_);
    var steps: [most_tensors]kinds.OptimizerStep = undefined;
    const chosen = steps[0..@intCast(count_)];
    var dtype: ?DType = null;
    for (chosen, 0..) |*step, i| {
        step.* = settings;
        step.weight_decay = f[first_decay + i];
        try place(&call, i, rule, step, &dtype);
    }
    if (context.device == .cpu) {
        for (chosen) |*step| if (step.count > 0)
            try context.run("optimizerStep", dtype.?, step);
        return;
    }
    const gpu = context.gpu.?;
    context.calls += 1;
    defer gpu.releaseTemporaries();
    cuda.updateAll(gpu, dtype.?, chosen) catch |err| return context.explained(err, "optimizer");
    // Parts of weights that have a rounded copy.
    for (chosen, 0..) |*step, i| if (step.shadow == null)
        try context.wrote(try call.view("parameter", scratch.block.ints[handles_each * i]));
}

/// What all tensors of an update have in common.
fn shared(call: *Call, rule: kinds.Rule, factor_: i32, schedule_: i32) Error!kinds.OptimizerStep {
    const f = &scratch.block.floats;
    const factor = try call.optionalAs("factor", factor_, .f64);
    const scheduled = try call.optionalView("schedule", schedule_);
    if (scheduled) |s| {
        try call.expectDType("schedule", s, .f64);
        try call.expectShape("schedule", s, &.{@sizeOf(Schedule) / 8});
    }
    return .{
        .parameter = undefined,
        .gradient = undefined,
        .first = null,
        .second = null,
        .third = null,
        .shadow = null,
        .factor = op.pointer(factor),
        .schedule = op.pointer(scheduled),
        .norms = null,
        .count = 0,
        .step = @intFromFloat(f[0]),
        .learning_rate = f[1],
        .beta1 = f[2],
        .beta2 = f[3],
        .beta3 = f[4],
        .alpha = f[5],
        .eps = f[6],
        .weight_decay = 0,
        .gradient_scale = f[7],
        .clip_value = f[8],
        .rule = @backingInt(rule),
        .phase = @backingInt(kinds.Phase.whole),
    };
}

/// Checks tensor `i` of the scratch block; `dtype` is that of the gradients so far.
fn place(
    call: *Call,
    i: usize,
    rule: kinds.Rule,
    step: *kinds.OptimizerStep,
    dtype: *?DType,
) Error!void {
    const handles = scratch.block.ints[handles_each * i ..][0..handles_each];
    const parameter = try inPlace(call, "parameter", handles[0], null);
    const gradient = try inPlace(call, "gradient", handles[1], null);
    try call.expectShape("gradient", gradient, parameter.dims());
    if (parameter.dtype != .f32 and parameter.dtype != .f64)
        return call.invalid("parameter {d} is {t}, expected f32 or f64", .{ i, parameter.dtype });
    if (op.arithmetic(gradient.dtype) != parameter.dtype) return call.invalid(
        "parameter {d}: a {t} gradient for a {t} parameter",
        .{ i, gradient.dtype, parameter.dtype },
    );
    dtype.* = dtype.* orelse gradient.dtype;
    if (dtype.* != gradient.dtype) return call.invalid(
        "parameter {d} has a {t} gradient, those before it {t}: one update takes one dtype",
        .{ i, gradient.dtype, dtype.*.? },
    );
    const moments = [3]*?*anyopaque{ &step.first, &step.second, &step.third };
    for (moments[0..rule.moments()], handles[2..][0..rule.moments()]) |moment, handle| {
        moment.* = (try inPlace(call, "moment", handle, parameter)).data();
    }
    step.parameter = parameter.data();
    step.gradient = gradient.data();
    step.count = parameter.count();
    if (call.context.device == .cpu or parameter.dtype != .f32 or parameter.offset != 0) return;
    const gpu = call.context.gpu.?;
    const address = @intFromPtr(step.parameter);
    step.shadow = try gpu.shadows.forUpdate(gpu, address, step.count);
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
