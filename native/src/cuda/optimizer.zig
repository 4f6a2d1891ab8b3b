//! CUDA launches of args/optimizer.zig.

const std = @import("std");
const args = @import("../args/optimizer.zig");
const DType = @import("../dtype.zig").DType;
const Device = @import("device.zig").Device;
const unsupported = @import("device.zig").unsupported;
const Error = @import("../abi/status.zig").Error;

/// What depends on the step, made in f64 and rounded once, as in cpu/optimizer_rule.zig.
pub const Schedule = extern struct {
    learning_rate: f64,
    rate: f32,
    beta3: f32,
    rest3: f32,
    correction1: f32, // 1/(1 − β₁ᵗ)
    correction2: f32, // 1/(1 − β₂ᵗ)
    ahead: f32, // β₁/(1 − β₁ᵗ⁺¹), nadam
    now: f32, // (1 − β₁)/(1 − β₁ᵗ), nadam
    rectifier: f32, // r of radam; 0 where ρ < 5
    alpha: f32,
    unused: f32 = 0,

    pub const Settings = struct {
        step: f64,
        learning_rate: f64,
        beta1: f64,
        beta2: f64,
        beta3: f64,
        alpha: f64,
    };

    pub fn init(s: Settings) Schedule {
        const left1 = 1 - std.math.pow(f64, s.beta1, s.step);
        const left2 = 1 - std.math.pow(f64, s.beta2, s.step);
        const next1 = 1 - std.math.pow(f64, s.beta1, s.step + 1);
        return .{
            .learning_rate = s.learning_rate,
            .rate = @floatCast(s.learning_rate),
            .beta3 = @floatCast(s.beta3),
            .rest3 = @floatCast(1 - s.beta3),
            .correction1 = @floatCast(1 / left1),
            .correction2 = @floatCast(1 / left2),
            .ahead = @floatCast(s.beta1 / next1),
            .now = @floatCast((1 - s.beta1) / left1),
            .rectifier = @floatCast(rectification(s.beta2, s.step)),
            .alpha = @floatCast(s.alpha),
        };
    }
};

/// A tensor of an update.
pub const OptimizerTensor = extern struct {
    parameter: *anyopaque,
    gradient: *const anyopaque,
    first: ?*anyopaque,
    second: ?*anyopaque,
    third: ?*anyopaque,
    shadow: ?*anyopaque,
    norms: ?*anyopaque, // f64 [2] of lamb
    count: u64,
    first_block: u32, // blocks of the launch before the tensor
    decay: f32,
};

/// As many as a launch's arguments hold.
const most_tensors = 48;

/// Tensors in blocks of 4096 elements, and what they have in common; the clip factor is still on
/// its way when this is filled.
pub const OptimizerPlan = extern struct {
    tensors: [most_tensors]OptimizerTensor,
    factor: ?*const anyopaque, // f64 [1]
    schedule: ?*const anyopaque, // Schedule [1]; null: `now`
    parts: ?*anyopaque, // f64 [blocks, 2] of lamb
    gradient_scale: f64,
    now: Schedule,
    beta1: f32,
    beta2: f32,
    rest1: f32, // 1 − β₁
    rest2: f32,
    eps: f32,
    limit: f32, // +Inf without a value clip
    count: u32, // tensors
    blocks: u32,

    fn init(a: *const args.OptimizerStep) OptimizerPlan {
        return .{
            .tensors = undefined,
            .factor = a.factor,
            .schedule = a.schedule,
            .parts = null,
            .gradient_scale = a.gradient_scale,
            .now = .init(.{
                .step = @floatFromInt(a.step),
                .learning_rate = a.learning_rate,
                .beta1 = a.beta1,
                .beta2 = a.beta2,
                .beta3 = a.beta3,
                .alpha = a.alpha,
            }),
            .beta1 = @floatCast(a.beta1),
            .beta2 = @floatCast(a.beta2),
            .rest1 = @floatCast(1 - a.beta1),
            .rest2 = @floatCast(1 - a.beta2),
            .eps = @floatCast(a.eps),
            .limit = if (a.clip_value > 0) @floatCast(a.clip_value) else std.math.inf(f32),
            .count = 0,
            .blocks = 0,
        };
    }

    fn add(plan: *OptimizerPlan, a: *const args.OptimizerStep) void {
        plan.tensors[plan.count] = .{
            .parameter = a.parameter,
            .gradient = a.gradient,
            .first = a.first,
            .second = a.second,
            .third = a.third,
            .shadow = a.shadow,
            .norms = a.norms,
            .count = a.count,
            .first_block = plan.blocks,
            .decay = @floatCast(a.weight_decay),
        };
        plan.count += 1;
        plan.blocks += @intCast((a.count + block_elements - 1) / block_elements);
    }
};

const block_elements = 4096; // optimizer.cu

/// √[(ρ−4)(ρ−2)ρ∞ / ((ρ∞−4)(ρ∞−2)ρ)], ρ = ρ∞ − 2tβ₂ᵗ/(1−β₂ᵗ), ρ∞ = 2/(1−β₂) − 1; 0 where ρ < 5.
fn rectification(beta2: f64, t: f64) f64 {
    const power = std.math.pow(f64, beta2, t);
    const most = 2 / (1 - beta2) - 1;
    const rho = most - 2 * t * power / (1 - power);
    if (!(rho >= 5)) return 0;
    return @sqrt((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho));
}

pub const plans = .{
    .{ "Schedule", Schedule },
    .{ "OptimizerTensor", OptimizerTensor },
    .{ "OptimizerPlan", OptimizerPlan },
};

pub fn optimizerStep(device: *Device, dtype: DType, a: *const args.OptimizerStep) Error!void {
    return updateAll(device, dtype, a[0..1]);
}

/// One update of tensors that differ in pointers, count and weight decay alone; `dtype` is that of
/// all gradients. A launch takes 48 tensors.
pub fn updateAll(device: *Device, dtype: DType, steps: []const args.OptimizerStep) Error!void {
    var first: usize = 0;
    while (first < steps.len) : (first += most_tensors) {
        const some = steps[first..@min(first + most_tensors, steps.len)];
        var plan: OptimizerPlan = .init(&some[0]);
        for (some) |*step| if (step.count > 0) plan.add(step);
        if (plan.count == 0) continue;
        const rule = std.enums.fromInt(args.Rule, some[0].rule).?;
        const grid = device.blocks(plan.blocks, 1);
        switch (rule) {
            .lamb => try lamb(device, dtype, &plan, grid, some[0].phase),
            inline else => |known| {
                const name = "optimizer_" ++ @tagName(known);
                try device.launchFor(name, dtype, .{ .x = grid }, plan);
            },
        }
    }
}

fn lamb(device: *Device, dtype: DType, plan: *OptimizerPlan, grid: u64, phase: u32) Error!void {
    for (plan.tensors[0..plan.count]) |*tensor| {
        if (tensor.norms == null) tensor.norms = try device.temporary(16);
    }
    if (phase != @backingInt(args.Phase.update)) {
        plan.parts = try device.temporary(@as(u64, plan.blocks) * 16);
        try device.launchFor("lamb_parts", dtype, .{ .x = grid }, plan.*);
        try device.launch("lamb_norms", .{ .x = plan.count }, plan.*);
    }
    if (phase != @backingInt(args.Phase.norms))
        try device.launch("lamb_update", .{ .x = grid }, plan.*);
}

pub fn clipFactor(device: *Device, dtype: DType, a: *const args.ClipFactor) Error!void {
    if (dtype != .f64) return unsupported("clipFactor", dtype);
    return device.launch("clip_factor", .{ .x = 1, .threads = 32 }, a.*);
}
