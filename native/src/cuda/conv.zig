//! CUDA launches of args/conv.zig.

const args = @import("../args/conv.zig");
const headwise = @import("conv_headwise.zig");
const norm = @import("norm.zig");
const status = @import("../abi/status.zig");
const DType = @import("../dtype.zig").DType;
const device_file = @import("device.zig");
const Device = device_file.Device;
const Error = status.Error;

pub const headwiseForward = headwise.headwiseForward;
pub const headwiseBackward = headwise.headwiseBackward;

/// A warp takes `tile` tokens, a block eight tiles of one batch row.
pub const ConvForwardPlan = extern struct {
    call: args.ConvForward,
    tile: u64,
    row_blocks: u64, // blocks of tiles in a batch row
};

pub const ConvBackwardPlan = extern struct {
    call: args.ConvBackward,
    tile: u64,
    row_blocks: u64, // rows of partials for each batch row
    weight_partial: ?*anyopaque, // f32 [batch·row_blocks, channels, taps]
    bias_partial: ?*anyopaque, // f32 [batch·row_blocks, channels]
    slopes: ?*anyopaque, // f32 [batch, length, channels]: du, for any number of taps
};

pub const plans = .{
    .{ "ConvForwardPlan", ConvForwardPlan },
    .{ "ConvBackwardPlan", ConvBackwardPlan },
} ++ headwise.plans;

/// kernels/conv_window.cuh, conv_feed.cuh.
const block_tiles = 8;
const lanes = 32;
const together_tokens = 4;
const groups = 3;
/// Three rounds of two blocks for each multiprocessor of a large GPU: a fixed number, so that sums
/// do not depend on the GPU.
const enough_blocks = 792;

/// Tokens of a tile, from the shape alone: longer ones repeat less, shorter ones fill the chip.
fn tileOf(batch: u64, length: u64, channels: u64, width: u64) u64 {
    const columns = divCeil(channels / width, lanes);
    for ([_]u64{ 128, 64, 32 }) |tile| {
        if (batch * divCeil(length, tile * block_tiles) * columns >= enough_blocks) return tile;
    }
    return 16;
}

/// Places for the tokens on their way, and for the sums of the tiles.
fn sharedBytes(dtype: DType, inputs: u64, width: u64) u32 {
    const block_threads = block_tiles * lanes;
    const sums = block_threads * width * @sizeOf(f32);
    const places = groups * inputs * together_tokens * block_threads * width * dtype.size();
    return @intCast(if (width == 1) sums else @max(sums, places));
}

fn hasWindow(taps: u64) bool {
    return taps >= 2 and taps <= 4;
}

/// Channels that a thread moves at once.
fn together(channels: u64, strides: []const u64, pointers: []const ?*const anyopaque) u64 {
    if (channels % 4 != 0) return 1;
    for (strides) |stride| if (stride % 4 != 0) return 1;
    for (pointers) |pointer| if (@intFromPtr(pointer) % 16 != 0) return 1;
    return 4;
}

fn divCeil(a: u64, b: u64) u64 {
    return norm.divCeil(a, b);
}

pub fn convForward(device: *Device, dtype: DType, a: *const args.ConvForward) Error!void {
    const elements = a.batch * a.length * a.channels;
    if (elements > 0 and hasWindow(a.taps)) {
        const pointers = [_]?*const anyopaque{ a.x, a.state, a.y };
        const width = together(a.channels, &.{a.x_stride}, &pointers);
        const tile = tileOf(a.batch, a.length, a.channels, width);
        const row_blocks = divCeil(a.length, tile * block_tiles);
        const plan: ConvForwardPlan = .{ .call = a.*, .tile = tile, .row_blocks = row_blocks };
        const shape: device_file.Shape = .{
            .x = a.batch * row_blocks * divCeil(a.channels / width, lanes),
            .shared = sharedBytes(dtype, 1, width),
        };
        if (width == 4) {
            try device.launchFor("conv_forward4", dtype, shape, plan);
        } else try device.launchFor("conv_forward1", dtype, shape, plan);
    } else if (elements > 0) {
        const blocks = device.blocks(elements, 256);
        try device.launchFor("conv_any_forward", dtype, .{ .x = blocks }, a.*);
    }
    const kept = a.batch * (a.taps - 1) * a.channels;
    if (a.last == null or kept == 0) return;
    try device.launchFor("conv_last", dtype, .{ .x = device.blocks(kept, 256) }, a.*);
}

pub fn convBackward(device: *Device, dtype: DType, a: *const args.ConvBackward) Error!void {
    const pointers = [_]?*const anyopaque{ a.dy, a.x, a.state, a.dlast, a.dx, a.dstate };
    const width = together(a.channels, &.{ a.x_stride, a.dx_stride }, &pointers);
    const tile = tileOf(a.batch, a.length, a.channels, width);
    const is_windowed = hasWindow(a.taps) and a.length > 0;
    // Without a window a tile is that of a row of partials: as many tokens as eight warps take.
    const row_blocks = divCeil(a.length, tile * block_tiles);
    const rows = a.batch * row_blocks;
    var plan: ConvBackwardPlan = .{
        .call = a.*,
        .tile = if (is_windowed) tile else tile * block_tiles,
        .row_blocks = row_blocks,
        .weight_partial = try norm.partials(device, a.dweight, rows, a.channels * a.taps),
        .bias_partial = try norm.partials(device, a.dbias, rows, a.channels),
        .slopes = null,
    };
    if (is_windowed) {
        try launchWindow(device, dtype, &plan, width);
    } else try launchAny(device, dtype, &plan);
    const columns = a.channels * a.taps;
    try norm.sumPartials(device, plan.weight_partial, a.dweight, rows, columns);
    try norm.sumPartials(device, plan.bias_partial, a.dbias, rows, a.channels);
}

fn launchWindow(
    device: *Device,
    dtype: DType,
    plan: *const ConvBackwardPlan,
    width: u64,
) Error!void {
    const a = &plan.call;
    const shape: device_file.Shape = .{
        .x = a.batch * plan.row_blocks * divCeil(a.channels / width, lanes),
        .shared = sharedBytes(dtype, 2, width),
    };
    if (shape.x == 0) return;
    if (width == 4) {
        try device.launchFor("conv_backward4", dtype, shape, plan.*);
    } else try device.launchFor("conv_backward1", dtype, shape, plan.*);
}

fn launchAny(device: *Device, dtype: DType, plan: *ConvBackwardPlan) Error!void {
    const a = &plan.call;
    const elements = a.batch * a.length * a.channels;
    const inputs = a.batch * (a.length + a.taps - 1) * a.channels;
    const sums = a.batch * plan.row_blocks * (a.taps + 1) * a.channels;
    plan.slopes = try device.temporary(@max(1, elements) * @sizeOf(f32));
    if (elements > 0) {
        const blocks = device.blocks(elements, 256);
        try device.launchFor("conv_any_slopes", dtype, .{ .x = blocks }, plan.*);
    }
    if (inputs > 0) {
        const blocks = device.blocks(inputs, 256);
        try device.launchFor("conv_any_inputs", dtype, .{ .x = blocks }, plan.*);
    }
    if (sums > 0) {
        const blocks = device.blocks(sums, 256);
        try device.launchFor("conv_any_weights", dtype, .{ .x = blocks }, plan.*);
    }
}

pub fn convStep(device: *Device, dtype: DType, a: *const args.ConvStep) Error!void {
    const count = a.rows * a.channels;
    if (count == 0) return;
    try device.launchFor("conv_step", dtype, .{ .x = device.blocks(count, 256) }, a.*);
}
