//! CUDA launches of args/index.zig.

const std = @import("std");
const args = @import("../args/index.zig");
const view = @import("view.zig");
const DType = @import("../dtype.zig").DType;
const device_file = @import("device.zig");
const Device = device_file.Device;
const Shape = device_file.Shape;
const unsupported = device_file.unsupported;
const Error = @import("../abi/status.zig").Error;

/// Instead of `low` and `high`, the device's fault record is written where an id lies outside.
pub const RangePlan = extern struct {
    ids: *const anyopaque,
    kept: ?*anyopaque, // i32 [count]: the ids, −1 for those outside
    mask: ?*const anyopaque,
    weights: ?*const anyopaque,
    fault: *anyopaque,
    parts: ?*anyopaque, // i32 [part_count, 2]
    count: u64,
    part_count: u64,
    limit: u64,
};

/// y[o, s] = x[o, indices[s]], rows of `inner` units.
pub const SelectPlan = extern struct {
    x: *const anyopaque,
    indices: *const anyopaque,
    y: *anyopaque,
    outer: u64,
    count: u64,
    selected: u64,
    inner: u64,
};

/// dx[o, indices[s]] = Σ dy[o, s], dx cleared before.
pub const AddPlan = extern struct {
    dy: *const anyopaque,
    indices: *const anyopaque,
    dx: *anyopaque,
    outer: u64,
    count: u64,
    selected: u64,
    inner: u64,
    tiles: u64, // blocks that share the columns of a position
};

/// The same through lists of the positions of each index; dx may hold anything before.
pub const ListPlan = extern struct {
    dy: *const anyopaque,
    indices: *const anyopaque,
    dx: *anyopaque,
    cursors: *anyopaque, // Cursors; cleared, as the next two are
    sizes: *anyopaque, // u32 [count]: positions of each index
    finished: *anyopaque, // u32 [split, slices]: chunks that have ended
    starts: *anyopaque, // u32 [count]
    list: *anyopaque, // u32 [selected]: positions as they arrived
    order: *anyopaque, // u32 [selected]: arrivals, then positions in order
    longs: *anyopaque, // u32: indices with long lists
    chunks: *anyopaque, // Chunk
    parts: *anyopaque, // f32 [.., outer·inner]: sums of chunks
    outer: u64,
    count: u64,
    selected: u64,
    inner: u64,
    slices: u64, // warps that share the columns of a position
    rows: u32, // of one warp
    long_blocks: u32,
    chunk_blocks: u32,
    reserved: u32 = 0,
};

pub const TopKPlan = extern struct {
    x: *const anyopaque,
    values: *anyopaque,
    indices: *anyopaque,
    keys: ?*anyopaque, // u64 [blocks, padded]
    rows: u64,
    width: u64,
    k: u64,
    padded: u64, // k up to a power of two
};

pub const plans = .{
    .{ "RangePlan", RangePlan },
    .{ "SelectPlan", SelectPlan },
    .{ "AddPlan", AddPlan },
    .{ "ListPlan", ListPlan },
    .{ "TopKPlan", TopKPlan },
};

/// Ids that one block looks through faster than two launches.
const alone = 1 << 15;

pub fn rangeCheck(device: *Device, dtype: DType, a: *const args.RangeCheck) Error!void {
    _ = dtype; // Weights are f32 on this device.
    return check(device, a, null);
}

/// `rangeCheck` for kernels that write where an id points: they take `kept`, and leave out −1.
pub fn guard(device: *Device, a: *const args.RangeCheck, kept: *anyopaque) Error!void {
    defer device.releaseTemporaries();
    return check(device, a, kept);
}

fn check(device: *Device, a: *const args.RangeCheck, kept: ?*anyopaque) Error!void {
    var plan: RangePlan = .{
        .ids = a.ids,
        .kept = kept,
        .mask = a.mask,
        .weights = a.weights,
        .fault = @ptrFromInt(device.fault),
        .parts = null,
        .count = a.count,
        .part_count = 0,
        .limit = a.limit,
    };
    if (a.count <= alone) {
        const threads: u32 = if (a.count <= 1024) 256 else 1024;
        return device.launch("range_check", .{ .x = 1, .threads = threads }, plan);
    }
    plan.part_count = device.blocks(a.count, 4096);
    plan.parts = try device.temporary(plan.part_count * 8);
    try device.launch("range_check", .{ .x = plan.part_count, .threads = 1024 }, plan);
    if (plan.part_count > 1) try device.launch("range_join", .{ .x = 1, .threads = 1024 }, plan);
}

pub fn embeddingForward(device: *Device, dtype: DType, a: *const args.EmbeddingForward) Error!void {
    const plan: SelectPlan = .{
        .x = a.table,
        .indices = a.ids,
        .y = a.y,
        .outer = 1,
        .count = a.vocab,
        .selected = a.rows,
        .inner = a.width,
    };
    const rounds = dtype == .bf16 and a.table_dtype == @backingInt(DType.f32);
    if (!rounds) return select(device, dtype, plan);
    const wide = a.width % 4 == 0 and aligned(a.table, 16) and aligned(a.y, 8);
    const blocks = device.blocks(a.rows * a.width / if (wide) @as(u64, 4) else 1, 256);
    return if (wide)
        device.launch("embed_rounded_4", .{ .x = blocks }, plan)
    else
        device.launch("embed_rounded_1", .{ .x = blocks }, plan);
}

pub fn gatherRows(device: *Device, dtype: DType, a: *const args.GatherRows) Error!void {
    return select(device, dtype, .{
        .x = a.x,
        .indices = a.indices,
        .y = a.y,
        .outer = 1,
        .count = a.count,
        .selected = a.rows,
        .inner = a.width,
    });
}

pub fn indexSelect(device: *Device, dtype: DType, a: *const args.IndexSelect) Error!void {
    return select(device, dtype, .{
        .x = a.x,
        .indices = a.indices,
        .y = a.y,
        .outer = a.outer,
        .count = a.count,
        .selected = a.selected,
        .inner = a.inner,
    });
}

/// Bits are moved, in the widest units that rows consist of.
fn select(device: *Device, dtype: DType, rows: SelectPlan) Error!void {
    if (dtype != .f32 and dtype != .bf16) return unsupported("select", dtype);
    var plan = rows;
    const bytes = plan.inner * dtype.size();
    const wide = bytes % 16 == 0 and aligned(plan.x, 16) and aligned(plan.y, 16);
    if (wide) plan.inner = bytes / 16;
    const shape: Shape = .{
        .x = device.blocks(plan.outer * plan.selected * plan.inner, 256),
    };
    if (wide) return device.launch("select_16", shape, plan);
    return if (dtype == .f32)
        device.launch("select_4", shape, plan)
    else
        device.launch("select_2", shape, plan);
}

/// Writes every row of the table, whatever it holds.
pub fn embeddingBackward(
    device: *Device,
    dtype: DType,
    a: *const args.EmbeddingBackward,
) Error!void {
    return add(device, dtype, .{
        .dy = a.dy,
        .indices = a.ids,
        .dx = a.dtable,
        .outer = 1,
        .count = a.vocab,
        .selected = a.rows,
        .inner = a.width,
        .tiles = 1,
    });
}

/// Writes all of dx, whatever it holds.
pub fn indexAdd(device: *Device, dtype: DType, a: *const args.IndexAdd) Error!void {
    return add(device, dtype, .{
        .dy = a.dy,
        .indices = a.indices,
        .dx = a.dx,
        .outer = a.outer,
        .count = a.count,
        .selected = a.selected,
        .inner = a.inner,
        .tiles = 1,
    });
}

/// Lists up to here are scanned by every block: squared work, but one launch.
const scanned = 2048;

fn add(device: *Device, dtype: DType, sums: AddPlan) Error!void {
    var plan = sums;
    const wide = plan.inner % 4 == 0 and aligned(plan.dx, 16) and
        aligned(plan.dy, 4 * dtype.size());
    if (plan.outer * plan.count * plan.inner == 0) return;
    if (plan.selected > scanned) return addLists(device, dtype, plan, wide);
    try device.clear(@intFromPtr(plan.dx), plan.outer * plan.count * plan.inner * 4);
    plan.tiles = ceil(plan.outer * plan.inner / if (wide) @as(u64, 4) else 1, 256);
    const shape: Shape = .{ .x = plan.selected * plan.tiles };
    return if (wide)
        device.launchFor("add_scanning_4", dtype, shape, plan)
    else
        device.launchFor("add_scanning_1", dtype, shape, plan);
}

/// As in `kernels/index_lists.cuh` and `kernels/index_sums.cuh`.
const lists = struct {
    const few = 32;
    const chunk = 128;
    const chunk_bytes = 28;
    const units = 2;
    const warps = 8;
    const most_rows = 8;
};

/// Memory besides the result: 8 bytes per index, 8 per position, and parts of long lists, at most
/// the bytes of 1/64 of the positions in f32.
fn addLists(device: *Device, dtype: DType, sums: AddPlan, wide: bool) Error!void {
    const elements = sums.outer * sums.inner;
    const slices = ceil(elements, 32 * lists.units * if (wide) @as(u64, 4) else 1);
    const longs = sums.selected / (lists.few + 1);
    const split = sums.selected / (lists.chunk + 1);
    const most_chunks = longs + sums.selected / lists.chunk;
    const cleared_bytes = (8 + sums.count + split * slices) * 4;
    const cleared: [*]u32 = @ptrCast(@alignCast(try device.temporary(cleared_bytes)));
    try device.clear(@intFromPtr(cleared), cleared_bytes);
    const plan: ListPlan = .{
        .dy = sums.dy,
        .indices = sums.indices,
        .dx = sums.dx,
        .cursors = cleared,
        .sizes = cleared + 8,
        .finished = cleared + 8 + sums.count,
        .starts = try device.temporary(sums.count * 4),
        .list = try device.temporary(sums.selected * 4),
        .order = try device.temporary(sums.selected * 4),
        .longs = try device.temporary(longs * 4),
        .chunks = try device.temporary(most_chunks * lists.chunk_bytes),
        .parts = try device.temporary(2 * sums.selected / lists.chunk * elements * 4),
        .outer = sums.outer,
        .count = sums.count,
        .selected = sums.selected,
        .inner = sums.inner,
        .slices = slices,
        .rows = rowsOfWarp(device, sums.count * slices),
        .long_blocks = @intCast(device.blocks(longs, 1)),
        .chunk_blocks = @intCast(device.blocks(most_chunks * slices, lists.warps)),
    };
    const blocks = ceil(sums.selected, 256);
    try device.launch("list_sizes", .{ .x = blocks }, plan);
    try device.launch("list_starts", .{ .x = ceil(sums.count, 1024), .threads = 1024 }, plan);
    try device.launch("list_fill", .{ .x = blocks }, plan);
    try device.launch("list_order", .{ .x = plan.long_blocks + blocks }, plan);
    const groups = ceil(sums.count, plan.rows);
    const shape: Shape = .{ .x = plan.chunk_blocks + ceil(groups * slices, lists.warps) };
    return if (wide)
        device.launchFor("add_lists_4", dtype, shape, plan)
    else
        device.launchFor("add_lists_1", dtype, shape, plan);
}

/// Several rows where warps for all of the chip remain, a power of two: groups of rows do not
/// cross 1024.
fn rowsOfWarp(device: *const Device, pieces: u64) u32 {
    const enough = @as(u64, device.facts.multiprocessors) * 128;
    var rows: u32 = 1;
    while (rows < lists.most_rows and pieces / (2 * rows) >= enough) rows *= 2;
    return rows;
}

pub fn takeAlong(device: *Device, dtype: DType, a: *const args.TakeAlong) Error!void {
    const blocks = device.blocks(a.rows * a.picks, 256);
    return device.launchFor("take_along", dtype, .{ .x = blocks }, a.*);
}

pub fn takeAlongBackward(
    device: *Device,
    dtype: DType,
    a: *const args.TakeAlongBackward,
) Error!void {
    const blocks = device.blocks(a.rows, 8);
    return device.launchFor("take_along_backward", dtype, .{ .x = blocks }, a.*);
}

pub fn argmax(device: *Device, dtype: DType, a: *const args.Argmax) Error!void {
    if (a.width <= 1024)
        return device.launchFor("argmax_warps", dtype, .{ .x = device.blocks(a.rows, 8) }, a.*);
    return device.launchFor("argmax_blocks", dtype, .{ .x = device.blocks(a.rows, 1) }, a.*);
}

/// Up to here the k largest are found one after the other.
const few = 64;

pub fn topK(device: *Device, dtype: DType, a: *const args.TopK) Error!void {
    var plan: TopKPlan = .{
        .x = a.x,
        .values = a.values,
        .indices = a.indices,
        .keys = null,
        .rows = a.rows,
        .width = a.width,
        .k = a.k,
        .padded = std.math.ceilPowerOfTwo(u64, a.k) catch unreachable,
    };
    const threads: u32 = if (a.width <= 2048) 256 else 1024;
    if (a.k <= few) {
        const blocks = device.blocks(a.rows, 1);
        return device.launchFor("top_few", dtype, .{ .x = blocks, .threads = threads }, plan);
    }
    const most_bytes = 64 << 20;
    const blocks = @min(a.rows, 512, @max(1, most_bytes / (plan.padded * 8)));
    plan.keys = try device.temporary(blocks * plan.padded * 8);
    return device.launchFor("top_many", dtype, .{ .x = blocks, .threads = threads }, plan);
}

fn aligned(p: *const anyopaque, bytes: usize) bool {
    return @intFromPtr(p) % bytes == 0;
}

fn ceil(a: u64, b: u64) u64 {
    return (a + b - 1) / b;
}
