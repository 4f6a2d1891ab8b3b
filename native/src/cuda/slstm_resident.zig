//! The fast sLSTM on Hopper: R stays in registers for all tokens (kernels/slstm_resident.cu). bf16
//! tensors and the head widths below; cuda/slstm.zig does everything else. kernels.md §7.

const std = @import("std");
const args = @import("../args/slstm.zig");
const status = @import("../abi/status.zig");
const simple = @import("slstm.zig");
const DType = @import("../dtype.zig").DType;
const Device = @import("device.zig").Device;
const Shape = @import("device.zig").Shape;
const Error = status.Error;

pub const SlstmResidentPlan = extern struct {
    dy: *const anyopaque,
    dlast: ?[*]const f32,
    r: [*]const f32,
    initial: ?[*]const f32,
    borders: ?[*]const u8,
    lengths: ?[*]const i32,
    saved: *const anyopaque, // Kept [B, T, NH, DH]
    dwx: *anyopaque,
    past: *anyopaque, // bf16 [B, T, NH, DH]: y that every token started from
    db: [*]f32, // of every tile of rows, then of the next
    dinitial: ?[*]f32,
    batch: u64,
    length: u64,
    heads: u64,
    width: u64,
    clip: f32, // +Inf: off, as the next
    recurrent_clip: f32,
    recurrent_cut: u32,
};

/// dR of every range of tokens, from bf16 [tokens, NH, DH] and [tokens, 4, NH, DH].
pub const SlstmWeightsPlan = extern struct {
    past: *const anyopaque,
    dwx: *const anyopaque,
    dr: [*]f32,
    tokens: u64,
    heads: u64,
    width: u64,
    range: u64,
};

pub const plans = .{
    .{ "SlstmResidentPlan", SlstmResidentPlan },
    .{ "SlstmWeightsPlan", SlstmWeightsPlan },
};

/// Head width, blocks that share a head, shared memory of the passes: kernels/slstm_resident.cu.
const Variant = struct { width: u64, blocks: u32, forward: u32, backward: u32 };
const variants = [_]Variant{
    .{ .width = 32, .blocks = 1, .forward = 8976, .backward = 20752 },
    .{ .width = 64, .blocks = 1, .forward = 17680, .backward = 41232 },
    .{ .width = 96, .blocks = 1, .forward = 26384, .backward = 61712 },
    .{ .width = 128, .blocks = 4, .forward = 10512, .backward = 26896 },
    .{ .width = 192, .blocks = 6, .forward = 11536, .backward = 30992 },
    .{ .width = 256, .blocks = 8, .forward = 12560, .backward = 35088 },
};
const tile_rows = 4;
const warp_units = 8;

const weights_side = 64;
const weights_shared = 86016;
/// Blocks that the weights' sums are cut into, tokens below which they are not, and what the parts
/// may take.
const wanted_blocks = 256;
const least_range = 256;
const most_sum_bytes = 256 << 20;

/// By what the forward and the backward pass know alike: the one reads what the other has kept.
pub fn supports(device: *const Device, dtype: DType, a: anytype) bool {
    if (dtype != .bf16 or device.facts.capability != 90 or device.facts.emulated) return false;
    if (a.function != 0 or a.length == 0 or a.length > 1 << 28 or a.batch > 1 << 20) return false;
    inline for (variants) |v| if (v.width == a.width) return a.heads <= 1 << 16;
    return false;
}

pub fn forward(device: *Device, a: *const args.SlstmForward) Error!void {
    var plan = simple.forwardPlan(a);
    plan.wx = try aligned(device, a.wx, 4 * cells(a));
    inline for (variants) |v| if (v.width == a.width) try device.launch(
        std.fmt.comptimePrint("slstm_resident_forward_{d}", .{v.width}),
        shapeOf(v, a, v.forward),
        plan,
    );
}

pub fn backward(device: *Device, a: *const args.SlstmBackward) Error!void {
    const tiles = blocksOf(a.batch, tile_rows);
    const biases = 4 * a.heads * a.width;
    const plan: SlstmResidentPlan = .{
        .dy = try aligned(device, a.dy, cells(a)),
        .dlast = @ptrCast(@alignCast(a.dlast)),
        .r = @ptrCast(@alignCast(a.r)),
        .initial = @ptrCast(@alignCast(a.initial)),
        .borders = @ptrCast(a.borders),
        .lengths = @ptrCast(@alignCast(a.lengths)),
        .saved = a.saved,
        .dwx = a.dwx,
        .past = try device.temporary(cells(a) * 2),
        .db = try simple.array(device, tiles * biases),
        .dinitial = @ptrCast(@alignCast(a.dinitial)),
        .batch = a.batch,
        .length = a.length,
        .heads = a.heads,
        .width = a.width,
        .clip = simple.bound(a.clip),
        .recurrent_clip = simple.bound(a.recurrent_clip),
        .recurrent_cut = a.recurrent_cut,
    };
    inline for (variants) |v| if (v.width == a.width) try device.launch(
        std.fmt.comptimePrint("slstm_resident_backward_{d}", .{v.width}),
        shapeOf(v, a, v.backward),
        plan,
    );
    try simple.addRanges(device, plan.db, a.db, biases, tiles);
    return weightGradients(device, &plan, a);
}

fn weightGradients(
    device: *Device,
    plan: *const SlstmResidentPlan,
    a: *const args.SlstmBackward,
) Error!void {
    const weights = 4 * a.heads * a.width * a.width;
    const sides = blocksOf(a.width, weights_side);
    const patches = a.heads * sides * sides;
    // By the shape alone: the sums have the same bits on every GPU.
    const tokens = a.batch * a.length;
    const most = most_sum_bytes / @sizeOf(f32) / weights;
    const wanted = @max(1, @min(wanted_blocks / patches, most));
    const range = blocksOf(@max(least_range, blocksOf(tokens, wanted)), 32) * 32;
    const ranges = blocksOf(tokens, range);
    const parts = if (ranges == 1)
        @as([*]f32, @ptrCast(@alignCast(a.dr)))
    else
        try simple.array(device, ranges * weights);
    try device.launch(
        "slstm_resident_weights",
        .{ .x = patches * ranges, .shared = weights_shared },
        SlstmWeightsPlan{
            .past = plan.past,
            .dwx = a.dwx,
            .dr = parts,
            .tokens = tokens,
            .heads = a.heads,
            .width = a.width,
            .range = range,
        },
    );
    if (ranges > 1) try simple.addRanges(device, parts, a.dr, weights, ranges);
}

fn shapeOf(comptime v: Variant, a: anytype, shared: u32) Shape {
    return .{
        .x = a.heads * blocksOf(a.batch, tile_rows) * v.blocks,
        .threads = v.width / v.blocks / warp_units * 32,
        .shared = shared,
        .cluster = v.blocks,
    };
}

fn cells(a: anytype) u64 {
    return a.batch * a.length * a.heads * a.width;
}

/// The kernels copy pieces of 16 bytes: a tensor that starts elsewhere is moved first.
fn aligned(device: *Device, from: *const anyopaque, count: u64) Error!*const anyopaque {
    if (@intFromPtr(from) % 16 == 0) return from;
    const to = try device.temporary(count * 2);
    try device.copy(@intFromPtr(to), @intFromPtr(from), count * 2);
    return to;
}

fn blocksOf(count: u64, size: u64) u64 {
    return std.math.divCeil(u64, count, size) catch unreachable;
}
