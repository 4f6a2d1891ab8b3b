//! The fast mLSTM on Hopper: one sweep per pass with the state on chip (kernels/mlstm_sweep.cuh).
//! bf16, the head widths below, a frozen denominator in the backward pass; cuda/mlstm.zig does
//! everything else. kernels.md §2.4.

const std = @import("std");
const args = @import("../args/mlstm.zig");
const launches = @import("mlstm_sweep_launch.zig");
const status = @import("../abi/status.zig");
const DType = @import("../dtype.zig").DType;
const Device = @import("device.zig").Device;
const Shape = @import("device.zig").Shape;
const Error = status.Error;
const Run = launches.Run;
const array = launches.array;

/// Widths of q and k, and of v, that have all their passes among the variants.
const keys = [_]u64{ 64, 96, 128, 256 };
const values = [_]u64{ 128, 192, 256, 512 };

pub fn supportsForward(device: *const Device, dtype: DType, a: *const args.MlstmForward) bool {
    return supports(device, dtype, a) and aligned(a.h);
}

/// Floats that `forward` leaves for `backward`; 0 where that will not be the one below.
pub fn recordFloats(
    device: *const Device,
    dtype: DType,
    a: *const args.MlstmForward,
    mode: u32,
) u64 {
    if (!supportsForward(device, dtype, a) or !frozen(a, mode)) return 0;
    return launches.recordFloats(a);
}

/// Without a normaliser nothing is frozen: both gradient modes are the same.
fn frozen(a: anytype, mode: u32) bool {
    return mode == args.grad_mode.frozen or !launches.normalizes(a);
}

pub fn supportsBackward(device: *const Device, dtype: DType, a: *const args.MlstmBackward) bool {
    if (!supports(device, dtype, a) or !frozen(a, a.mode) or a.records == null) return false;
    if (a.dn_last != null or a.dm_last != null or a.dm0 != null) return false;
    return aligned(a.dh) and aligned(a.dq) and aligned(a.dk) and aligned(a.dv);
}

fn supports(device: *const Device, dtype: DType, a: anytype) bool {
    if (dtype != .bf16 or device.facts.capability != 90 or device.facts.emulated) return false;
    if (device.api.TensorMapEncodeTiled == null) return false;
    if (std.mem.indexOfScalar(u64, &keys, a.width_qk) == null) return false;
    if (std.mem.indexOfScalar(u64, &values, a.width_v) == null) return false;
    if (a.length > 1 << 28 or a.batch * a.heads > 1 << 20) return false;
    return mappable(a, a.q, a.q_strides) and mappable(a, a.k, a.k_strides) and
        mappable(a, a.v, a.v_strides);
}

/// A map's pitches are multiples of 16 bytes below 2^40. Those of dims of size 1 are never used.
fn mappable(a: anytype, pointer: *const anyopaque, s: args.Strides) bool {
    if (!aligned(pointer)) return false;
    const sizes = [_]u64{ a.batch, a.length, a.heads };
    for (sizes, [_]u64{ s.batch, s.step, s.head }) |size, stride| {
        if (size > 1 and (stride == 0 or stride % 8 != 0 or stride >= 1 << 38)) return false;
    }
    return true;
}

fn aligned(pointer: *const anyopaque) bool {
    return @intFromPtr(pointer) % 16 == 0;
}

pub fn forward(device: *Device, a: *const args.MlstmForward) Error!void {
    const norm = launches.normalizes(a);
    const records: [*]f32 = if (a.records) |records|
        @ptrCast(@alignCast(records))
    else
        try array(device, f32, launches.recordFloats(a));
    const r: Run(args.MlstmForward) = .start(device, a, records);
    var gates = try r.gates(records);
    gates.m = @ptrCast(@alignCast(a.m));
    gates.m_last = @ptrCast(@alignCast(a.m_last));
    gates.sigma_out = @ptrCast(@alignCast(a.sigma));
    try r.launchGates(gates);
    const kind: launches.Kind = if (norm) .norm else .plain;
    var s = r.sweep(kind);
    s.q = try r.operand(kind, queries(a));
    s.k = if (norm) try r.map(keysOf(a), 1) else try r.operand(kind, keysOf(a));
    s.v = try r.map(valuesOf(a), 1);
    s.o = try r.map(r.contiguous(a.h, a.width_v), 1);
    s.x = s.o;
    s.state_in = @ptrCast(@alignCast(a.c0));
    s.state_out = @ptrCast(@alignCast(a.c_last));
    if (norm) {
        s.n_in = @ptrCast(@alignCast(a.n0));
        s.n_out = @ptrCast(@alignCast(a.n_last));
        s.sigma = @ptrCast(@alignCast(a.sigma));
        if (a.records != null) launches.keepRows(&s, a, records);
    }
    try r.launchSweep(kind, s);
    try r.clearRows(a.h, a.width_v);
    if (!norm) try clearNormaliser(device, a.n_last, r.units * a.width_qk);
}

/// Sweeps take turns in their direction, so that each finds in the second-level cache what the one
/// before it has read last; 512 keys: dK takes its scores from dQ. dc0 may be dc_last, which dK and
/// the gates' gradients read: then dV comes last.
pub fn backward(device: *Device, a: *const args.MlstmBackward) Error!void {
    const r: Run(args.MlstmBackward) = .start(device, a, @ptrCast(@alignCast(a.records.?)));
    const scratch: Scratch = try .alloc(&r);
    const dh = r.contiguous(a.dh, a.width_v);
    const dv_first = a.dc0 == null or a.dc0 != a.dc_last;
    if (dv_first) try gradientOfValues(&r, dh);
    try gradientOfQueries(&r, dh, scratch);
    try gradientOfKeys(&r, dh, scratch);
    try gateGradients(&r, scratch);
    if (!dv_first) try gradientOfValues(&r, dh);
    try r.clearRows(a.dq, a.width_qk);
    try r.clearRows(a.dk, a.width_qk);
    try r.clearRows(a.dv, a.width_v);
    try clearNormaliser(device, a.dn0, r.units * a.width_qk);
}

const Backward = Run(args.MlstmBackward);

/// What the passes leave for each other.
const Scratch = struct {
    rows: [*]f32, // q·dq of a part of 64 columns
    columns: [*]f32, // k·dk
    state: ?[*]f32, // the last one, where a gradient comes in for it
    scores: ?[*]u16, // 512 keys: of dQ, for dK

    fn alloc(r: *const Backward) Error!Scratch {
        const a = r.a;
        const tokens = r.units * r.chunks * launches.chunk;
        const dots = launches.blocksOf(a.width_qk, 64) * tokens;
        const states = r.units * a.width_qk * a.width_v;
        return .{
            .rows = try array(r.device, f32, dots),
            .columns = try array(r.device, f32, dots),
            .state = if (a.dc_last == null) null else try array(r.device, f32, states),
            .scores = if (a.width_v != 512) null else try array(
                r.device,
                u16,
                tokens * launches.chunk,
            ),
        };
    }
};

fn gradientOfQueries(r: *const Backward, dh: launches.Operand, scratch: Scratch) Error!void {
    const a = r.a;
    var s = r.sweep(.dq);
    s.q = try r.operand(.dq, dh);
    s.k = try r.operand(.dq, valuesOf(a));
    s.v = try r.map(keysOf(a), 1);
    s.o = try r.map(r.contiguous(a.dq, a.width_qk), 1);
    s.x = try r.map(queries(a), 1);
    s.scores = scratch.scores;
    s.dots = scratch.rows;
    s.state_in = @ptrCast(@alignCast(a.c0));
    s.state_out = scratch.state;
    try r.launchSweep(.dq, s);
}

fn gradientOfKeys(r: *const Backward, dh: launches.Operand, scratch: Scratch) Error!void {
    const a = r.a;
    var s = r.sweep(.dk);
    s.q = try r.operand(.dk, valuesOf(a));
    s.k = try r.operand(.dk, dh);
    s.v = try r.map(queries(a), 1);
    s.o = try r.map(r.contiguous(a.dk, a.width_qk), 1);
    s.x = try r.map(keysOf(a), 1);
    s.scores = scratch.scores;
    s.dots = scratch.columns;
    s.state_in = @ptrCast(@alignCast(a.dc_last));
    try r.launchSweep(.dk, s);
}

fn gradientOfValues(r: *const Backward, dh: launches.Operand) Error!void {
    const a = r.a;
    var s = r.sweep(.dv);
    s.q = try r.operand(.dv, keysOf(a));
    s.k = try r.operand(.dv, queries(a));
    s.v = try r.map(dh, 1);
    s.o = try r.map(r.contiguous(a.dv, a.width_v), 1);
    s.x = s.o;
    s.state_in = @ptrCast(@alignCast(a.dc_last));
    s.state_out = @ptrCast(@alignCast(a.dc0));
    try r.launchSweep(.dv, s);
}

fn gateGradients(r: *const Backward, scratch: Scratch) Error!void {
    const a = r.a;
    const device = r.device;
    const parts: u32 = @intCast(launches.blocksOf(a.width_qk, 64));
    var tails: ?[*]f64 = null;
    if (scratch.state) |last| {
        tails = try array(device, f64, r.units);
        try device.launch("mlstm_gate_tails", .{ .x = r.units }, launches.MlstmTails{
            .state = last,
            .gradient = @ptrCast(@alignCast(a.dc_last.?)),
            .tails = tails.?,
            .count = a.width_qk * a.width_v,
        });
    }
    const g: launches.MlstmGateGradient = .{
        .i = @ptrCast(@alignCast(a.i)),
        .f = @ptrCast(@alignCast(a.f)),
        .borders = r.borders(),
        .lengths = r.lengths(),
        .rows = scratch.rows,
        .columns = scratch.columns,
        .tiles = try array(device, f64, 2 * r.units * r.chunks),
        .tails = tails,
        .di = @ptrCast(@alignCast(a.di)),
        .df = @ptrCast(@alignCast(a.df)),
        .sizes = r.gateSizes(),
        .row_parts = parts,
        .column_parts = parts,
    };
    if (r.hasPlainGates()) {
        const plain = r.plainShape(4);
        try device.launch("mlstm_gate_sums_plain", plain, g);
        if (a.input_gate == args.input_gate.exp)
            return device.launch("mlstm_gate_gradients_plain_exp", plain, g);
        return device.launch("mlstm_gate_gradients_plain_sig", plain, g);
    }
    const shape: Shape = .{ .x = r.gateBlocks() };
    try device.launch("mlstm_gate_sums", shape, g);
    try device.launch("mlstm_gate_gradients", shape, g);
}

fn queries(a: anytype) launches.Operand {
    return .{ .pointer = a.q, .width = a.width_qk, .strides = a.q_strides };
}

fn keysOf(a: anytype) launches.Operand {
    return .{ .pointer = a.k, .width = a.width_qk, .strides = a.k_strides };
}

fn valuesOf(a: anytype) launches.Operand {
    return .{ .pointer = a.v, .width = a.width_v, .strides = a.v_strides };
}

/// Without a normaliser n and its gradient are zeros; so is dn0 with a frozen one.
fn clearNormaliser(device: *Device, n: ?*anyopaque, count: u64) Error!void {
    const pointer = n orelse return;
    try device.clear(@intFromPtr(pointer), count * @sizeOf(f32));
}
