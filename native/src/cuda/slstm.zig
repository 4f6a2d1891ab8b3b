//! CUDA launches of args/slstm.zig. kernels.md §7. One block per head and 1 or 4 batch rows walks
//! over all tokens; which of the two, and whether R lies in shared memory, changes no result. bf16
//! on Hopper goes to slstm_resident.zig in the usual head widths.

const std = @import("std");
const args = @import("../args/slstm.zig");
const resident = @import("slstm_resident.zig");
const status = @import("../abi/status.zig");
const DType = @import("../dtype.zig").DType;
const Device = @import("device.zig").Device;
const Shape = @import("device.zig").Shape;
const Error = status.Error;

pub const SlstmForwardPlan = extern struct {
    wx: *const anyopaque,
    r: [*]const f32,
    b: [*]const f32,
    initial: ?[*]const f32,
    borders: ?[*]const u8,
    lengths: ?[*]const i32,
    y: *anyopaque,
    saved: ?[*]f32,
    last: ?[*]f32,
    batch: u64,
    length: u64,
    heads: u64,
    width: u64,
    function: u32,
    clip: f32, // +Inf: off
    staged: u32, // R lies in shared memory
};

pub const SlstmBackwardPlan = extern struct {
    dy: *const anyopaque,
    dlast: ?[*]const f32,
    r: [*]const f32,
    turned: [*]f32, // R as [NH, 4, out, in]
    initial: ?[*]const f32,
    borders: ?[*]const u8,
    lengths: ?[*]const i32,
    saved: [*]const f32,
    dwx: *anyopaque,
    draw: [*]f32, // dwx before it is rounded; dwx itself where that is f32
    dr: [*]f32, // of every range of tokens, then of the next
    db: [*]f32,
    dinitial: ?[*]f32,
    batch: u64,
    length: u64,
    heads: u64,
    width: u64,
    range: u64, // tokens of all rows that one block sums
    function: u32,
    clip: f32, // +Inf: off, as the next
    recurrent_clip: f32,
    recurrent_cut: u32,
    staged: u32,
};

/// to[count] = Σ over ranges of parts[ranges, count].
pub const SlstmSumPlan = extern struct { parts: [*]const f32, to: [*]f32, count: u64, ranges: u64 };

pub const SlstmStepPlan = extern struct {
    wx: *const anyopaque,
    r: [*]const f32,
    b: [*]const f32,
    slots: ?[*]const i32,
    state: [*]f32,
    raw: [*]f32, // [rows, 4, NH, DH]
    y: *anyopaque,
    rows: u64,
    heads: u64,
    width: u64,
    function: u32,
    clip: f32,
};

pub const plans = .{
    .{ "SlstmForwardPlan", SlstmForwardPlan },
    .{ "SlstmBackwardPlan", SlstmBackwardPlan },
    .{ "SlstmSumPlan", SlstmSumPlan },
    .{ "SlstmStepPlan", SlstmStepPlan },
} ++ resident.plans;

/// What a block gets: on Hopper, and on the smallest of the other GPUs.
const hopper_shared = 227 << 10;
const other_shared = 99 << 10;
/// Tokens below which a sum over them is not cut, and what the parts may take.
const least_range = 256;
const most_sum_bytes = 256 << 20;
const weights_shared = 2 * 32 * 68 * @sizeOf(f32);

pub fn slstmForward(device: *Device, dtype: DType, a: *const args.SlstmForward) Error!void {
    if (a.batch == 0) return;
    if (resident.supports(device, dtype, a)) return resident.forward(device, a);
    const block = try blockOf(device, a.batch, a.heads, a.width, 8);
    var plan = forwardPlan(a);
    plan.staged = @intFromBool(block.staged);
    if (block.rows == 1) return device.launchFor("slstm_forward_one", dtype, block.shape, plan);
    return device.launchFor("slstm_forward_four", dtype, block.shape, plan);
}

pub fn forwardPlan(a: *const args.SlstmForward) SlstmForwardPlan {
    return .{
        .wx = a.wx,
        .r = typed(a.r),
        .b = typed(a.b),
        .initial = @ptrCast(@alignCast(a.initial)),
        .borders = @ptrCast(a.borders),
        .lengths = @ptrCast(@alignCast(a.lengths)),
        .y = a.y,
        .saved = @ptrCast(@alignCast(a.saved)),
        .last = @ptrCast(@alignCast(a.last)),
        .batch = a.batch,
        .length = a.length,
        .heads = a.heads,
        .width = a.width,
        .function = a.function,
        .clip = bound(a.clip),
        .staged = 0,
    };
}

pub fn slstmBackward(device: *Device, dtype: DType, a: *const args.SlstmBackward) Error!void {
    if (a.batch > 0 and resident.supports(device, dtype, a)) return resident.backward(device, a);
    const block = try blockOf(device, a.batch, a.heads, a.width, 11);
    const weights = 4 * a.heads * a.width * a.width;
    var plan: SlstmBackwardPlan = .{
        .dy = a.dy,
        .dlast = @ptrCast(@alignCast(a.dlast)),
        .r = typed(a.r),
        .turned = try array(device, weights),
        .initial = @ptrCast(@alignCast(a.initial)),
        .borders = @ptrCast(a.borders),
        .lengths = @ptrCast(@alignCast(a.lengths)),
        .saved = typed(a.saved),
        .dwx = a.dwx,
        .draw = undefined,
        .dr = @ptrCast(@alignCast(a.dr)),
        .db = @ptrCast(@alignCast(a.db)),
        .dinitial = @ptrCast(@alignCast(a.dinitial)),
        .batch = a.batch,
        .length = a.length,
        .heads = a.heads,
        .width = a.width,
        .range = 0,
        .function = a.function,
        .clip = bound(a.clip),
        .recurrent_clip = bound(a.recurrent_clip),
        .recurrent_cut = a.recurrent_cut,
        .staged = @intFromBool(block.staged),
    };
    plan.draw = if (dtype == .f32)
        @ptrCast(@alignCast(a.dwx))
    else
        try array(device, a.batch * a.length * 4 * a.heads * a.width);
    try device.launch("slstm_turn", .{ .x = device.blocks(weights, 256) }, plan);
    if (a.batch > 0 and block.rows == 1)
        try device.launchFor("slstm_backward_one", dtype, block.shape, plan)
    else if (a.batch > 0)
        try device.launchFor("slstm_backward_four", dtype, block.shape, plan);
    return weightGradients(device, &plan, a);
}

/// dR and db from the d raw of all tokens.
fn weightGradients(
    device: *Device,
    plan: *SlstmBackwardPlan,
    a: *const args.SlstmBackward,
) Error!void {
    const biases = 4 * a.heads * a.width;
    const weights = biases * a.width;
    const sides = blocksOf(a.width, 64);
    const patches = 4 * a.heads * sides * sides;
    // By the shape alone: the sums have the same bits on every GPU.
    const tokens = a.batch * a.length;
    const wanted = @min(@max(1, 512 / patches), most_sum_bytes / @sizeOf(f32) / weights);
    plan.range = @max(least_range, blocksOf(tokens, @max(1, wanted)));
    const ranges = @max(1, blocksOf(tokens, plan.range));
    if (ranges > 1) {
        plan.dr = try array(device, ranges * weights);
        plan.db = try array(device, ranges * biases);
    }
    const shape: Shape = .{ .x = patches * ranges, .shared = weights_shared };
    try device.launch("slstm_weights", shape, plan.*);
    if (ranges == 1) return;
    try addRanges(device, plan.dr, a.dr, weights, ranges);
    try addRanges(device, plan.db, a.db, biases, ranges);
}

/// to[count] = Σ of the parts [ranges, count], in their order.
pub fn addRanges(
    device: *Device,
    parts: [*]const f32,
    to: *anyopaque,
    count: u64,
    ranges: u64,
) Error!void {
    const sum: SlstmSumPlan = .{
        .parts = parts,
        .to = @ptrCast(@alignCast(to)),
        .count = count,
        .ranges = ranges,
    };
    try device.launch("slstm_add_ranges", .{ .x = device.blocks(count, 256) }, sum);
}

pub fn slstmStep(device: *Device, dtype: DType, a: *const args.SlstmStep) Error!void {
    if (a.rows == 0) return;
    const plan: SlstmStepPlan = .{
        .wx = a.wx,
        .r = typed(a.r),
        .b = typed(a.b),
        .slots = @ptrCast(@alignCast(a.slots)),
        .state = @ptrCast(@alignCast(a.state)),
        .raw = try array(device, a.rows * 4 * a.heads * a.width),
        .y = a.y,
        .rows = a.rows,
        .heads = a.heads,
        .width = a.width,
        .function = a.function,
        .clip = bound(a.clip),
    };
    const columns = 4 * a.heads * blocksOf(a.width, 32);
    const shape: Shape = .{ .x = columns * blocksOf(a.rows, 4) };
    try device.launchFor("slstm_step_raw", dtype, shape, plan);
    const units = a.rows * a.heads * a.width;
    try device.launchFor("slstm_step_units", dtype, .{ .x = blocksOf(units, 256) }, plan);
}

const Block = struct { rows: u64, staged: bool, shape: Shape };

/// `vectors` is the floats a block keeps per unit and row.
fn blockOf(device: *const Device, batch: u64, heads: u64, width: u64, vectors: u64) Error!Block {
    const padded = (width + 3) / 4 * 4;
    const vector_bytes = vectors * padded * @sizeOf(f32);
    const hopper = device.facts.capability == 90;
    const most_shared: u64 = if (hopper) hopper_shared else other_shared;
    if (vector_bytes > most_shared) return status.fail(
        .unsupported,
        "sLSTM heads of {d} units: too wide for cuda, which takes up to {d}",
        .{ width, most_shared / (vectors * @sizeOf(f32)) },
    );
    const few = batch * heads <= device.facts.multiprocessors;
    const rows: u64 = if (few or 4 * vector_bytes > most_shared) 1 else 4;
    const matrix = 4 * width * width * @sizeOf(f32);
    const staged = rows * vector_bytes + matrix <= most_shared;
    return .{
        .rows = rows,
        .staged = staged,
        .shape = .{
            .x = heads * blocksOf(batch, rows),
            .threads = @intCast(@min(512, (4 * width + 31) / 32 * 32)),
            .shared = @intCast(rows * vector_bytes + if (staged) matrix else 0),
        },
    };
}

pub fn bound(x: f64) f32 {
    return if (x > 0) @floatCast(x) else std.math.inf(f32);
}

fn typed(pointer: *const anyopaque) [*]const f32 {
    return @ptrCast(@alignCast(pointer));
}

pub fn array(device: *Device, count: u64) Error![*]f32 {
    return @ptrCast(@alignCast(try device.temporary(count * @sizeOf(f32))));
}

fn blocksOf(count: u64, size: u64) u64 {
    return std.math.divCeil(u64, count, size) catch unreachable;
}
