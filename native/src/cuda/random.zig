//! CUDA launches of args/random.zig.

const std = @import("std");
const args = @import("../args/random.zig");
const DType = @import("../dtype.zig").DType;
const Device = @import("device.zig").Device;
const Error = @import("../abi/status.zig").Error;

pub const SamplePlan = extern struct {
    call: args.CategoricalSample,
    scores: *anyopaque, // f64 [blocks, vocab]
    ids: *anyopaque, // i32 [blocks, padded]
    padded: u64, // vocab up to a power of two
};

pub const plans = .{.{ "SamplePlan", SamplePlan }};

pub fn randomBits(device: *Device, dtype: DType, a: *const args.RandomBits) Error!void {
    _ = dtype;
    return device.launch("random_bits", .{ .x = blocks(device, a.count) }, a.*);
}

pub fn randomUniform(device: *Device, dtype: DType, a: *const args.RandomUniform) Error!void {
    return device.launchFor("random_uniform", dtype, .{ .x = blocks(device, a.count) }, a.*);
}

pub fn randomNormal(device: *Device, dtype: DType, a: *const args.RandomNormal) Error!void {
    return device.launchFor("random_normal", dtype, .{ .x = blocks(device, a.count) }, a.*);
}

pub fn randomTruncatedNormal(
    device: *Device,
    dtype: DType,
    a: *const args.RandomTruncatedNormal,
) Error!void {
    return device.launchFor("random_truncated", dtype, .{ .x = blocks(device, a.count) }, a.*);
}

pub fn dropoutForward(device: *Device, dtype: DType, a: *const args.DropoutForward) Error!void {
    const count = a.samples * a.positions * a.features;
    return device.launchFor("dropout", dtype, .{ .x = blocks(device, count) }, a.*);
}

/// A thread makes the four elements of a counter.
fn blocks(device: *const Device, count: u64) u64 {
    return device.blocks(count, 4 * 256);
}

pub fn categoricalSample(
    device: *Device,
    dtype: DType,
    a: *const args.CategoricalSample,
) Error!void {
    const padded = std.math.ceilPowerOfTwo(u64, a.vocab) catch unreachable;
    const most_bytes = 64 << 20;
    const rows = @min(a.rows, 256, @max(1, most_bytes / (8 * a.vocab)));
    const plan: SamplePlan = .{
        .call = a.*,
        .scores = try device.temporary(rows * a.vocab * 8),
        .ids = try device.temporary(rows * padded * 4),
        .padded = padded,
    };
    const threads: u32 = if (a.vocab <= 2048) 256 else 1024;
    return device.launchFor("categorical_sample", dtype, .{ .x = rows, .threads = threads }, plan);
}
