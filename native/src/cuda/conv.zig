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

/// kernels/conv_window.cuh.
const block_tiles = 8;
const lanes = 32;

/// Tokens of a tile, from the shape alone: longer ones repeat less, shorter ones fill the chip.
fn tileOf(length: u64) u64 {
    return if (length >= 1024) 32 else 16;
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
        const tile = tileOf(a.length);
        const row_blocks = divCeil(a.length, tile * block_tiles);
        const plan: ConvForwardPlan = .{ .call = a.*, .tile = tile, .row_blocks = row_blocks };
        const pointers = [_]?*const anyopaque{ a.x, a.state, a.y };
        const width = together(a.channels, &.{a.x_stride}, &pointers);
        const blocks = a.batch * row_blocks * divCeil(a.channels / width, lanes);
        if (width == 4) {
            try device.launchFor("conv_forward4", dtype, .{ .x = blocks }, plan);
        } else try device.launchFor("conv_forward1", dtype, .{ .x = blocks }, plan);
    } else if (elements > 0) {
        const blocks = device.blocks(elements, 256);
        try device.launchFor("conv_any_forward", dtype, .{ .x = blocks }, a.*);
    }
    const kept = a.batch * (a.taps - 1) * a.channels;
    if (a.last == null or kept == 0) return;
    try device.launchFor("conv_last", dtype, .{ .x = device.blocks(kept, 256) }, a.*);
}

pub fn convBackward(device: *Device, dtype: DType, a: *const args.ConvBackward) Error!void {
    const tile = tileOf(a.length);
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
        try launchWindow(device, dtype, &plan);
    } else try launchAny(device, dtype, &plan);
    const columns = a.channels * a.taps;
    try norm.sumPartials(device, plan.weight_partial, a.dweight, rows, columns);
    try norm.sumPartials(device, plan.bias_partial, a.dbias, rows, a.channels);
}

fn launchWindow(device: *Device, dtype: DType, plan: *const ConvBackwardPlan) Error!void {
    const a = &plan.call;
    const pointers = [_]?*const anyopaque{ a.dy, a.x, a.state, a.dlast, a.dx, a.dstate };
    const width = together(a.channels, &.{ a.x_stride, a.dx_stride }, &pointers);
    const blocks = a.batch * plan.row_blocks * divCeil(a.channels / width, lanes);
    if (blocks == 0) return;
    if (width == 4) {
        try device.launchFor("conv_backward4", dtype, .{ .x = blocks }, plan.*);
    } else try device.launchFor("conv_backward1", dtype, .{ .x = blocks }, plan.*);
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
