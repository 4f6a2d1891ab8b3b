//! CUDA launches of the reductions of args/elementwise.zig.

const args = @import("../args/elementwise.zig");
const view = @import("view.zig");
const DType = @import("../dtype.zig").DType;
const Device = @import("device.zig").Device;
const Error = @import("../abi/status.zig").Error;
const Walk = view.Walk;

/// `terms` per output are cut into `pieces` of `piece`; with more than one, what they leave goes to
/// `parts` [pieces, outputs].
pub const ReducePlan = extern struct {
    kept: Walk,
    reduced: Walk,
    x: *const anyopaque,
    y: *anyopaque,
    parts: ?*anyopaque,
    outputs: u64,
    terms: u64,
    pieces: u64,
    piece: u64,
    op: args.Reduction,
    wide: u32,
};

const most_tensors = 120;

/// As many tensors as a launch's arguments hold.
pub const SquaresPlan = extern struct {
    data: [most_tensors]*const anyopaque,
    counts: [most_tensors]u64,
    first: [most_tensors]u64, // blocks before the tensor
    parts: *anyopaque, // f64 [blocks, 2]
    out: *anyopaque, // f64 [tensors, 2]
    tensors: u64,
    blocks: u64,
};

pub const plans = .{ .{ "ReducePlan", ReducePlan }, .{ "SquaresPlan", SquaresPlan } };

/// Threads that fill a large GPU. A constant: the order of additions must not depend on the chip.
const wanted_threads = 1 << 17;
/// A warp takes lines up to here alone.
const warp_terms = 2048;
const part_bytes = 16;

pub fn reduce(device: *Device, dtype: DType, a: *const args.Reduce) Error!void {
    var plan: ReducePlan = .{
        .kept = .init(a.kept_rank, &a.kept_shape, &.{&a.kept_strides}),
        .reduced = .init(a.reduced_rank, &a.reduced_shape, &.{&a.reduced_strides}),
        .x = a.x,
        .y = a.y,
        .parts = null,
        .outputs = 0,
        .terms = 0,
        .pieces = 1,
        .piece = 0,
        .op = a.op,
        .wide = a.wide,
    };
    plan.outputs = plan.kept.count;
    plan.terms = plan.reduced.count;
    plan.piece = plan.terms;
    const down = plan.kept.innerStride(0) == 1 and plan.kept.inner() >= 8 and
        plan.reduced.innerStride(0) != 1;
    if (down or plan.terms <= 8) {
        try cut(device, &plan, plan.outputs, 1, 32);
        const threads = plan.outputs * plan.pieces;
        try device.launchFor("reduce_columns", dtype, .{ .x = device.blocks(threads, 256) }, plan);
    } else try lines(device, dtype, &plan);
    if (plan.pieces == 1) return;
    const grid = device.blocks(plan.outputs, 32);
    return device.launchFor("reduce_join", dtype, .{ .x = grid }, plan);
}

fn lines(device: *Device, dtype: DType, plan: *ReducePlan) Error!void {
    const n = view.packWidth(dtype);
    const line: view.Operand = .{ .address = plan.x, .bytes = dtype.size() };
    var is_packed = plan.reduced.isFlat(0) and line.aligned(n);
    for (0..plan.kept.rank) |dim| {
        if (plan.kept.shape[dim] > 1 and plan.kept.stride(0, dim) % n != 0) is_packed = false;
    }
    if (is_packed) plan.reduced.pack = n;
    const few = plan.outputs * 32 < wanted_threads;
    if (plan.terms <= warp_terms and !(few and plan.terms > 512)) {
        const grid = device.blocks(plan.outputs, 8);
        return device.launchFor("reduce_warps", dtype, .{ .x = grid }, plan.*);
    }
    try cut(device, plan, plan.outputs * 256, 256, 4096);
    const grid = device.blocks(plan.outputs * plan.pieces, 1);
    return device.launchFor("reduce_blocks", dtype, .{ .x = grid }, plan.*);
}

/// Cuts the terms until `threads` times the pieces fill the chip, none shorter than `least` terms.
fn cut(device: *Device, plan: *ReducePlan, threads: u64, team: u64, least: u64) Error!void {
    if (plan.terms <= least or threads >= wanted_threads) return;
    const wanted = @min(wanted_threads / threads, (plan.terms + least - 1) / least);
    const rough = (plan.terms + wanted - 1) / wanted;
    // A multiple of every pack, so that each piece begins aligned.
    const unit: u64 = if (team > 1) 64 else 1;
    plan.piece = (rough + unit - 1) / unit * unit;
    plan.pieces = (plan.terms + plan.piece - 1) / plan.piece;
    if (plan.pieces > 1)
        plan.parts = try device.temporary(plan.pieces * plan.outputs * part_bytes);
}

const squares_block = 4096;
const row_bytes = 16;

/// `data` and `counts` are host arrays; the addresses in them are the device's.
pub fn globalSumSquares(device: *Device, dtype: DType, a: *const args.GlobalSumSquares) Error!void {
    var done: u64 = 0;
    while (done < a.tensors) {
        var plan: SquaresPlan = .{
            .data = @splat(a.out),
            .counts = @splat(0),
            .first = @splat(0),
            .parts = a.out,
            .out = @ptrFromInt(@intFromPtr(a.out) + done * row_bytes),
            .tensors = @min(most_tensors, a.tensors - done),
            .blocks = 0,
        };
        for (0..plan.tensors) |k| {
            plan.data[k] = a.data[done + k];
            plan.counts[k] = a.counts[done + k];
            plan.first[k] = plan.blocks;
            plan.blocks += (plan.counts[k] + squares_block - 1) / squares_block;
        }
        if (plan.blocks > 0) {
            plan.parts = try device.temporary(plan.blocks * row_bytes);
            const grid = device.blocks(plan.blocks, 1);
            try device.launchFor("squares_parts", dtype, .{ .x = grid }, plan);
        }
        try device.launch("squares_tensors", .{ .x = plan.tensors }, plan);
        done += plan.tensors;
    }
    return device.launch("squares_total", .{ .x = 1 }, a.*);
}
