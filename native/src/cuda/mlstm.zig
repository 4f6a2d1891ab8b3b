//! CUDA launches of args/mlstm.zig: the path for every size and option, behind the one for Hopper
//! (mlstm_sweep.zig), which takes bf16 and the usual head widths. kernels.md §2-6. States of
//! all chunks of 64 tokens lie in scratch; units (heads of rows) go through it in groups when they
//! would take too much together. Results do not depend on the groups.

const std = @import("std");
const args = @import("../args/mlstm.zig");
const status = @import("../abi/status.zig");
const DType = @import("../dtype.zig").DType;
const hopper = @import("mlstm_sweep.zig");
const Device = @import("device.zig").Device;
const Shape = @import("device.zig").Shape;
const Error = status.Error;

/// One forward or backward pass. Scratch vectors are [units, chunks·64].
pub const MlstmProblem = extern struct {
    q: *const anyopaque,
    k: *const anyopaque,
    v: *const anyopaque,
    i: [*]const f32,
    f: [*]const f32,
    c0: ?[*]const f32,
    n0: ?[*]const f32,
    m0: ?[*]const f32, // null with the sigmoid gate
    borders: ?[*]const u8, // null where no reset acts
    lengths: ?[*]const i32,
    h: ?*const anyopaque, // written by the forward pass, read by the backward pass
    sigma: ?[*]f32, // likewise
    // Outputs of the forward pass.
    m: ?[*]f32 = null,
    c_last: ?[*]f32 = null,
    n_last: ?[*]f32 = null,
    m_last: ?[*]f32 = null,
    // The backward pass.
    dh: ?*const anyopaque = null,
    dc_last: ?[*]const f32 = null,
    dn_last: ?[*]const f32 = null,
    dm_last: ?[*]const f32 = null,
    dq: ?*anyopaque = null,
    dk: ?*anyopaque = null,
    dv: ?*anyopaque = null,
    di: ?[*]f32 = null,
    df: ?[*]f32 = null,
    dc0: ?[*]f32 = null,
    dn0: ?[*]f32 = null,
    dm0: ?[*]f32 = null,
    // Scratch of both passes.
    u_high: [*]f32 = undefined,
    u_low: [*]f32 = undefined,
    w_high: [*]f32 = undefined,
    w_low: [*]f32 = undefined,
    alpha: [*]f32 = undefined,
    beta: [*]f32 = undefined,
    floor: [*]f32 = undefined,
    gamma: [*]f32 = undefined, // [units, chunks]
    start: [*]i32 = undefined, // first visible position, counted from the chunk's first
    winner: [*]i32 = undefined,
    last_winner: ?[*]i32 = null, // [units]
    states: [*]f32 = undefined, // [group, chunks + 1, DQK·DV + DQK]
    // Scratch of the backward pass.
    dstates: ?[*]f32 = null, // as states
    inverse: ?[*]f32 = null, // 1/(N + eps)
    y: ?[*]f32 = null, // ŷ/(N + eps)
    inner: ?[*]f32 = null, // ⟨dh, h⟩
    dlf: ?[*]f64 = null,
    dli: ?[*]f64 = null,
    products: ?[*]f64 = null, // [units, 2]
    q_strides: args.Strides,
    k_strides: args.Strides,
    v_strides: args.Strides,
    batch: u64,
    length: u64,
    heads: u64,
    width_qk: u64,
    width_v: u64,
    chunks: u64,
    first_unit: u64 = 0, // of the group
    scale: f64,
    reset_value: f64,
    eps: f32,
    sigmoid: u32,
    normalize: u32,
    exact_reset: u32,
    soft_reset: u32,
    exact: u32 = 0,
    eps_term: u32 = 0,

    fn units(p: *const MlstmProblem) u64 {
        return p.batch * p.heads;
    }

    fn stateBytes(p: *const MlstmProblem) u64 {
        return (p.chunks + 1) * (p.width_qk * p.width_v + p.width_qk) * @sizeOf(f32);
    }

    /// Blocks that share one unit's state.
    fn parts(p: *const MlstmProblem) u64 {
        return blocksOf(p.width_qk, chunk) * blocksOf(p.width_v, chunk);
    }
};

pub const MlstmStepPlan = extern struct {
    q: *const anyopaque,
    k: *const anyopaque,
    v: *const anyopaque,
    i: [*]const f32,
    f: [*]const f32,
    slots: ?[*]const i32,
    c: [*]f32,
    n: ?[*]f32,
    m: ?[*]f32,
    h: *anyopaque,
    factors: [*]f32, // [rows, NH, 3]: F, I, 1/(N + eps)
    q_strides: args.Strides,
    k_strides: args.Strides,
    v_strides: args.Strides,
    heads: u64,
    width_qk: u64,
    width_v: u64,
    scale: f32,
    eps: f32,
    sigmoid: u32,
    normalize: u32,
};

pub const plans = .{
    .{ "MlstmProblem", MlstmProblem },
    .{ "MlstmStepPlan", MlstmStepPlan },
};

const chunk = 64; // tokens, and rows and columns of a tile
const step_columns = 128; // of a block; kernels/mlstm_step.cuh
const few_step_columns = 32;
// Floats of dynamic shared memory: two operands of 32 × 68; tiles are 64 × 68.
const operands = 2 * 32 * 68;
const tile = 64 * 68;
const states_shared = 4 * operands;
const output_shared = 4 * (operands + tile + 64);
const gradient_shared = 4 * (operands + 3 * tile + 4 * 64 + 64);

/// States of one group take at most this much, if they are more than one unit's.
const most_state_bytes = 1 << 30;

pub fn mlstmForward(device: *Device, dtype: DType, a: *const args.MlstmForward) Error!void {
    if (hopper.supportsForward(device, dtype, a)) return hopper.forward(device, a);
    var p = problemOf(a);
    p.h = a.h;
    p.m = @ptrCast(@alignCast(a.m));
    p.c_last = @ptrCast(@alignCast(a.c_last));
    p.n_last = @ptrCast(@alignCast(a.n_last));
    p.m_last = @ptrCast(@alignCast(a.m_last));
    try gateScratch(device, &p);
    const group = groupOf(&p, 1);
    p.states = try array(device, f32, group * p.stateBytes() / @sizeOf(f32));
    try device.launch("mlstm_scan", .{ .x = p.units(), .threads = chunk }, p);
    while (p.first_unit < p.units()) : (p.first_unit += group) {
        const units = @min(group, p.units() - p.first_unit);
        try device.launchFor(
            "mlstm_states",
            dtype,
            .{ .x = units * p.parts(), .shared = states_shared },
            p,
        );
        try device.launchFor(
            "mlstm_output",
            dtype,
            .{ .x = units * p.chunks, .shared = output_shared },
            p,
        );
    }
}

pub fn mlstmBackward(device: *Device, dtype: DType, a: *const args.MlstmBackward) Error!void {
    if (hopper.supportsBackward(device, dtype, a)) return hopper.backward(device, a);
    var p = problemOf(a);
    backwardTensors(&p, a);
    try gateScratch(device, &p);
    try gradientScratch(device, &p);
    const group = groupOf(&p, 2);
    const elements = group * p.stateBytes() / @sizeOf(f32);
    p.states = try array(device, f32, elements);
    p.dstates = try array(device, f32, elements);
    try device.launch("mlstm_scan", .{ .x = p.units(), .threads = chunk }, p);
    const tokens = p.units() * p.chunks * chunk;
    try device.launchFor("mlstm_rows", dtype, .{ .x = blocksOf(tokens, 8) }, p);
    while (p.first_unit < p.units()) : (p.first_unit += group) {
        const units = @min(group, p.units() - p.first_unit);
        try backwardGroup(device, dtype, &p, units);
    }
}

fn backwardGroup(device: *Device, dtype: DType, p: *const MlstmProblem, units: u64) Error!void {
    const sweep: Shape = .{ .x = units * p.parts(), .shared = states_shared };
    try device.launchFor("mlstm_states", dtype, sweep, p.*);
    try device.launchFor("mlstm_state_gradients", dtype, sweep, p.*);
    if (p.dm_last != null or p.dm0 != null)
        try device.launch("mlstm_products", .{ .x = units }, p.*);
    try device.launchFor(
        "mlstm_gradient",
        dtype,
        .{ .x = units * p.chunks, .shared = gradient_shared },
        p.*,
    );
    try device.launch("mlstm_gate_gradient", .{ .x = units, .threads = chunk }, p.*);
}

pub fn mlstmStep(device: *Device, dtype: DType, a: *const args.MlstmStep) Error!void {
    const sigmoid = a.input_gate == args.input_gate.sigmoid;
    const plan: MlstmStepPlan = .{
        .q = a.q,
        .k = a.k,
        .v = a.v,
        .i = @ptrCast(@alignCast(a.i)),
        .f = @ptrCast(@alignCast(a.f)),
        .slots = @ptrCast(@alignCast(a.slots)),
        .c = @ptrCast(@alignCast(a.c)),
        .n = @ptrCast(@alignCast(a.n)),
        .m = if (sigmoid) null else @ptrCast(@alignCast(a.m)),
        .h = a.h,
        .factors = try array(device, f32, 3 * a.rows * a.heads),
        .q_strides = a.q_strides,
        .k_strides = a.k_strides,
        .v_strides = a.v_strides,
        .heads = a.heads,
        .width_qk = a.width_qk,
        .width_v = a.width_v,
        .scale = @floatCast(scaleOf(a.width_qk)),
        .eps = @floatCast(a.eps),
        .sigmoid = @intFromBool(sigmoid),
        .normalize = @intFromBool(a.normalize != 0 or !sigmoid),
    };
    const units = a.rows * a.heads;
    try device.launchFor("mlstm_step_gates", dtype, .{ .x = units, .threads = 128 }, plan);
    const blocks = units * blocksOf(a.width_v, step_columns);
    if (blocks > 4 * @as(u64, device.facts.multiprocessors))
        return device.launchFor("mlstm_step", dtype, .{ .x = blocks }, plan);
    const parts = blocksOf(a.width_v, few_step_columns);
    try device.launchFor("mlstm_step_few", dtype, .{ .x = units * parts }, plan);
}

/// What both passes say alike.
fn problemOf(a: anytype) MlstmProblem {
    const sigmoid = a.input_gate == args.input_gate.sigmoid;
    const acts = a.borders != null and a.reset != args.reset.none;
    return .{
        .q = a.q,
        .k = a.k,
        .v = a.v,
        .i = @ptrCast(@alignCast(a.i)),
        .f = @ptrCast(@alignCast(a.f)),
        .c0 = @ptrCast(@alignCast(a.c0)),
        .n0 = @ptrCast(@alignCast(a.n0)),
        .m0 = if (sigmoid) null else @ptrCast(@alignCast(a.m0)),
        .borders = if (acts) @ptrCast(@alignCast(a.borders)) else null,
        .lengths = @ptrCast(@alignCast(a.lengths)),
        .h = null,
        .sigma = @ptrCast(@alignCast(@constCast(a.sigma))),
        .q_strides = a.q_strides,
        .k_strides = a.k_strides,
        .v_strides = a.v_strides,
        .batch = a.batch,
        .length = a.length,
        .heads = a.heads,
        .width_qk = a.width_qk,
        .width_v = a.width_v,
        .chunks = blocksOf(a.length, chunk),
        .scale = scaleOf(a.width_qk),
        .reset_value = a.reset_value,
        .eps = @floatCast(a.eps),
        .sigmoid = @intFromBool(sigmoid),
        .normalize = @intFromBool(a.normalize != 0 or !sigmoid),
        .exact_reset = @intFromBool(acts and a.reset == args.reset.exact),
        .soft_reset = @intFromBool(acts and a.reset == args.reset.soft),
    };
}

fn backwardTensors(p: *MlstmProblem, a: *const args.MlstmBackward) void {
    p.h = a.h;
    p.dh = a.dh;
    p.dc_last = @ptrCast(@alignCast(a.dc_last));
    p.dn_last = if (p.normalize != 0) @ptrCast(@alignCast(a.dn_last)) else null;
    p.dm_last = if (p.sigmoid != 0) null else @ptrCast(@alignCast(a.dm_last));
    p.dq = a.dq;
    p.dk = a.dk;
    p.dv = a.dv;
    p.di = @ptrCast(@alignCast(a.di));
    p.df = @ptrCast(@alignCast(a.df));
    p.dc0 = @ptrCast(@alignCast(a.dc0));
    p.dn0 = @ptrCast(@alignCast(a.dn0));
    p.dm0 = @ptrCast(@alignCast(a.dm0));
    const exact = a.mode == args.grad_mode.exact and p.normalize != 0;
    p.exact = @intFromBool(exact);
    p.eps_term = @intFromBool(exact and a.eps_term != 0 and p.sigmoid == 0);
}

fn gateScratch(device: *Device, p: *MlstmProblem) Error!void {
    const count = p.units() * p.chunks * chunk;
    const values = try array(device, f32, 7 * count);
    inline for (.{
        "u_high", "u_low", "w_high", "w_low", "alpha", "beta", "floor",
    }, 0..) |name, index| @field(p, name) = values + index * count;
    p.gamma = try array(device, f32, p.units() * p.chunks);
    p.start = try array(device, i32, 2 * count);
    p.winner = p.start + count;
}

fn gradientScratch(device: *Device, p: *MlstmProblem) Error!void {
    const count = p.units() * p.chunks * chunk;
    const values = try array(device, f32, 3 * count);
    p.inverse = values;
    p.y = values + count;
    p.inner = values + 2 * count;
    const sums = try array(device, f64, 2 * count + 2 * p.units());
    p.dlf = sums;
    p.dli = sums + count;
    p.products = sums + 2 * count;
    p.last_winner = try array(device, i32, p.units());
}

/// Units whose states, `copies` times, fit into scratch together.
fn groupOf(p: *const MlstmProblem, copies: u64) u64 {
    return std.math.clamp(most_state_bytes / (copies * p.stateBytes()), 1, p.units());
}

fn array(device: *Device, comptime T: type, count: u64) Error![*]T {
    return @ptrCast(@alignCast(try device.temporary(count * @sizeOf(T))));
}

fn scaleOf(width_qk: u64) f64 {
    return 1 / @sqrt(@as(f64, @floatFromInt(width_qk)));
}

fn blocksOf(count: u64, size: u64) u64 {
    return std.math.divCeil(u64, count, size) catch unreachable;
}
