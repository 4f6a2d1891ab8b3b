//! The launches of cuda/mlstm_sweep.zig: argument structs, tensor maps, the variant for a width.

const std = @import("std");
const args = @import("../args/mlstm.zig");
const driver = @import("driver.zig");
const status = @import("../abi/status.zig");
const Device = @import("device.zig").Device;
const Shape = @import("device.zig").Shape;
const Error = status.Error;

/// Distance to the next block of 64 columns, in the columns or the blocks of a map.
const Columns = extern struct { column: u32, block: u32 };

/// kernels/mlstm_sweep_shape.cuh
pub const MlstmSweep = extern struct {
    q: driver.TensorMap,
    k: driver.TensorMap,
    v: driver.TensorMap,
    o: driver.TensorMap,
    x: driver.TensorMap,
    records: [*]const f32,
    exponents: [*]const f32,
    lengths: ?[*]const i32,
    state_in: ?[*]const f32,
    state_out: ?[*]f32,
    n_in: ?[*]const f32,
    n_out: ?[*]f32,
    sigma: ?[*]f32,
    kept: ?[*]f32,
    kept_exponents: ?[*]f32,
    scores: ?[*]u16,
    dots: ?[*]f32,
    units: u64,
    length: u64,
    heads: u32,
    chunks: u32,
    slices: u32,
    key_width: u32,
    value_width: u32,
    key_stride: u32,
    value_stride: u32,
    q_columns: Columns,
    v_columns: Columns,
    eps: f32,
    exponent_pitch: u32,
};

/// kernels/mlstm_gates.h, as all that follow.
const MlstmGateSizes = extern struct {
    batch: u64,
    length: u64,
    heads: u64,
    chunks: u32,
    sigmoid: u32,
    normalize: u32,
    reset: u32,
};

pub const MlstmGates = extern struct {
    i: [*]const f32,
    f: [*]const f32,
    m0: ?[*]const f32,
    borders: ?[*]const u8,
    lengths: ?[*]const i32,
    summaries: [*]f64,
    records: [*]f32,
    m: ?[*]f32 = null,
    m_last: ?[*]f32 = null,
    sigma_out: ?[*]f32 = null,
    scale: f64,
    reset_value: f64,
    sizes: MlstmGateSizes,
};

pub const MlstmGateGradient = extern struct {
    i: [*]const f32,
    f: [*]const f32,
    borders: ?[*]const u8,
    lengths: ?[*]const i32,
    rows: [*]const f32,
    columns: [*]const f32,
    tiles: [*]f64,
    tails: ?[*]const f64,
    di: [*]f32,
    df: [*]f32,
    sizes: MlstmGateSizes,
    row_parts: u32,
    column_parts: u32,
};

pub const MlstmTails = extern struct {
    state: [*]const f32,
    gradient: [*]const f32,
    tails: [*]f64,
    count: u64,
};

const MlstmClearRows = extern struct {
    rows: *anyopaque,
    lengths: [*]const i32,
    batch: u64,
    length: u64,
    width: u64,
};

comptime {
    std.debug.assert(@sizeOf(MlstmSweep) == 832);
    std.debug.assert(@sizeOf(MlstmGates) == 136);
    std.debug.assert(@sizeOf(MlstmGateGradient) == 128);
}

pub const chunk = 64;
const gate_heads = 8; // of a block of the gate kernels

/// Where the arrays of kernels/mlstm_record.cuh begin, in floats, and how many those are in all.
const RecordArrays = struct {
    backward: u64,
    exponents: u64,
    /// Of the backward pass.
    exponents_back: u64,
    exponent_pitch: u32,
    all: u64,

    fn of(a: anytype) RecordArrays {
        const norm = normalizes(a);
        const chunks = a.batch * a.heads * blocksOf(a.length, chunk);
        const pitch = 2 * chunk + 8; // row, column, what they share, and up to whole sectors
        const forward_rows = 2 * chunk; // exponents, with a normaliser; others have as many
        const backward = chunks * @as(u64, if (norm) pitch + chunk else 0); // floors, too
        const exponents = backward + chunks * pitch;
        const exponent_pitch = 4 * chunk + @as(u32, if (norm) forward_rows else 0);
        return .{
            .backward = backward,
            .exponents = exponents,
            .exponents_back = exponents + @as(u64, if (norm) forward_rows else 0),
            .exponent_pitch = exponent_pitch,
            .all = exponents + chunks * exponent_pitch,
        };
    }
};

/// Of all records of a pass.
pub fn recordFloats(a: anytype) u64 {
    return RecordArrays.of(a).all;
}

/// Lets a forward sweep make the rows of the backward pass's records.
pub fn keepRows(sweep: *MlstmSweep, a: anytype, records: [*]f32) void {
    const arrays: RecordArrays = .of(a);
    sweep.kept = records + arrays.backward;
    sweep.kept_exponents = records + arrays.exponents_back;
}

pub const Kind = enum {
    norm,
    plain,
    dv,
    dq,
    dk,

    /// The keys have the width of q and k; else that of v.
    pub fn narrow(kind: Kind) bool {
        return kind != .dq and kind != .dk;
    }
};

/// The variants that exist: kernels/mlstm_sweep_*.cu.
const Variant = struct { key: u32, kind: Kind, threads: u32, shared: u32, cluster: u32 = 1 };
const variants = [_]Variant{
    .{ .key = 64, .kind = .norm, .threads = 384, .shared = 143360 },
    .{ .key = 64, .kind = .plain, .threads = 384, .shared = 137216 },
    .{ .key = 64, .kind = .dv, .threads = 384, .shared = 137216 },
    .{ .key = 128, .kind = .norm, .threads = 512, .shared = 142336 },
    .{ .key = 128, .kind = .plain, .threads = 512, .shared = 135168 },
    .{ .key = 128, .kind = .dv, .threads = 512, .shared = 135168 },
    .{ .key = 128, .kind = .dq, .threads = 384, .shared = 188416 },
    .{ .key = 128, .kind = .dk, .threads = 384, .shared = 188416 },
    .{ .key = 192, .kind = .dq, .threads = 512, .shared = 188416 },
    .{ .key = 192, .kind = .dk, .threads = 512, .shared = 188416 },
    .{ .key = 256, .kind = .norm, .threads = 512, .shared = 227328, .cluster = 2 },
    .{ .key = 256, .kind = .plain, .threads = 512, .shared = 227328, .cluster = 2 },
    .{ .key = 256, .kind = .dv, .threads = 512, .shared = 227328, .cluster = 2 },
    .{ .key = 256, .kind = .dq, .threads = 512, .shared = 229376 },
    .{ .key = 256, .kind = .dk, .threads = 512, .shared = 229376 },
    .{ .key = 512, .kind = .dq, .threads = 512, .shared = 230400, .cluster = 2 },
    .{ .key = 512, .kind = .dk, .threads = 384, .shared = 226304, .cluster = 2 },
};

/// A tensor [B, S, NH, width].
pub const Operand = struct { pointer: *const anyopaque, width: u64, strides: args.Strides };

pub fn normalizes(a: anytype) bool {
    return a.normalize != 0 or a.input_gate == args.input_gate.exp;
}

/// What the launches of a pass share.
pub fn Run(comptime A: type) type {
    return struct {
        device: *Device,
        a: *const A,
        chunks: u64,
        units: u64,
        records: [*]const f32,

        const Self = @This();

        pub fn start(device: *Device, a: *const A, records: [*]const f32) Self {
            return .{
                .device = device,
                .a = a,
                .chunks = blocksOf(a.length, chunk),
                .units = a.batch * a.heads,
                .records = records,
            };
        }

        pub fn lengths(r: *const Self) ?[*]const i32 {
            return @ptrCast(@alignCast(r.a.lengths));
        }

        fn resets(r: *const Self) u32 {
            return if (r.a.borders == null) args.reset.none else r.a.reset;
        }

        pub fn borders(r: *const Self) ?[*]const u8 {
            return if (r.resets() == args.reset.none) null else @ptrCast(r.a.borders);
        }

        pub fn gateSizes(r: *const Self) MlstmGateSizes {
            return .{
                .batch = r.a.batch,
                .length = r.a.length,
                .heads = r.a.heads,
                .chunks = @intCast(r.chunks),
                .sigmoid = r.a.input_gate,
                .normalize = @intFromBool(normalizes(r.a)),
                .reset = r.resets(),
            };
        }

        pub fn gates(r: *const Self, records: [*]f32) Error!MlstmGates {
            return .{
                .i = @ptrCast(@alignCast(r.a.i)),
                .f = @ptrCast(@alignCast(r.a.f)),
                .m0 = @ptrCast(@alignCast(r.a.m0)),
                .borders = r.borders(),
                .lengths = r.lengths(),
                .summaries = try array(r.device, f64, 2 * r.units * r.chunks),
                .records = records,
                .scale = 1 / @sqrt(@as(f64, @floatFromInt(r.a.width_qk))),
                .reset_value = r.a.reset_value,
                .sizes = r.gateSizes(),
            };
        }

        pub fn gateBlocks(r: *const Self) u64 {
            return r.a.batch * r.chunks * blocksOf(r.a.heads, gate_heads);
        }

        /// Whole chunks without borders: kernels/mlstm_gates_plain.cuh.
        pub fn hasPlainGates(r: *const Self) bool {
            return r.borders() == null and r.a.lengths == null and r.a.length % chunk == 0;
        }

        /// A warp for a chunk of eight heads, a block for `warps` chunks that follow each other.
        pub fn plainShape(r: *const Self, warps: u32) Shape {
            const blocks = r.a.batch * blocksOf(r.chunks, warps) * blocksOf(r.a.heads, gate_heads);
            return .{ .x = blocks, .threads = 32 * warps };
        }

        pub fn launchGates(r: *const Self, g: MlstmGates) Error!void {
            const is_exp = r.a.input_gate == args.input_gate.exp;
            if (r.hasPlainGates()) {
                const shape = r.plainShape(8);
                if (!is_exp) return r.device.launch("mlstm_gates_records_plain_sig", shape, g);
                try r.device.launch("mlstm_gates_summaries_plain", shape, g);
                return r.device.launch("mlstm_gates_records_plain_exp", shape, g);
            }
            const blocks = r.gateBlocks();
            try r.device.launch("mlstm_gates_summaries", .{ .x = blocks }, g);
            try r.device.launch("mlstm_gates_records", .{ .x = blocks }, g);
        }

        /// Boxes of 64 columns, times as many as one instruction of the pass loads.
        pub fn operand(r: *const Self, kind: Kind, x: Operand) Error!driver.TensorMap {
            const key = keyOf(if (kind.narrow()) r.a.width_qk else r.a.width_v);
            return r.map(x, if (key == 256) 4 else 1);
        }

        pub fn map(r: *const Self, x: Operand, blocks: u32) Error!driver.TensorMap {
            const a = r.a;
            const whole = x.width % 64 == 0;
            const extents = [5]u64{
                if (whole) 64 else x.width,
                a.length,
                if (whole) x.width / 64 else 1,
                a.heads,
                a.batch,
            };
            // Of dims of size 1 the pitch is never used, but checked.
            const pitches = [4]u64{
                if (a.length > 1) x.strides.step * 2 else 128,
                128,
                if (a.heads > 1) x.strides.head * 2 else 128,
                if (a.batch > 1) x.strides.batch * 2 else 128,
            };
            const box = [5]u32{ 64, chunk, if (whole) blocks else 1, 1, 1 };
            return tensorMap(r.device, x.pointer, &extents, &pitches, &box);
        }

        pub fn contiguous(r: *const Self, pointer: *const anyopaque, width: u64) Operand {
            const step = r.a.heads * width;
            return .{
                .pointer = pointer,
                .width = width,
                .strides = .{ .batch = r.a.length * step, .step = step, .head = width },
            };
        }

        /// What all passes say alike.
        pub fn sweep(r: *const Self, kind: Kind) MlstmSweep {
            const narrow = kind.narrow();
            const key = if (narrow) r.a.width_qk else r.a.width_v;
            const value = if (narrow) r.a.width_v else r.a.width_qk;
            const arrays: RecordArrays = .of(r.a);
            const forward = kind == .norm;
            return .{
                .q = undefined,
                .k = undefined,
                .v = undefined,
                .o = undefined,
                .x = undefined,
                .records = r.records + if (forward) 0 else arrays.backward,
                .exponents = r.records +
                    if (forward) arrays.exponents else arrays.exponents_back,
                .lengths = r.lengths(),
                .state_in = null,
                .state_out = null,
                .n_in = null,
                .n_out = null,
                .sigma = null,
                .kept = null,
                .kept_exponents = null,
                .scores = null,
                .dots = null,
                .units = r.units,
                .length = r.a.length,
                .heads = @intCast(r.a.heads),
                .chunks = @intCast(r.chunks),
                .slices = slicesOf(kind, key, value),
                .key_width = @intCast(key),
                .value_width = @intCast(value),
                // The state lies in memory as [DQK][DV].
                .key_stride = if (narrow) @intCast(value) else 1,
                .value_stride = if (narrow) 1 else @intCast(key),
                .q_columns = columnsOf(key),
                .v_columns = columnsOf(value),
                .eps = @floatCast(r.a.eps),
                .exponent_pitch = arrays.exponent_pitch,
            };
        }

        pub fn launchSweep(r: *const Self, kind: Kind, s: MlstmSweep) Error!void {
            inline for (variants) |v| {
                const name = "mlstm_sweep_" ++ std.fmt.comptimePrint("{d}_{t}", .{ v.key, v.kind });
                const key = keyOf(s.key_width);
                if (v.key == key and v.kind == kind) return r.device.launch(name, .{
                    .x = s.units * s.slices,
                    .threads = v.threads,
                    .shared = v.shared,
                    .cluster = v.cluster,
                    .follows = false,
                }, s);
            }
            unreachable;
        }

        /// Tokens behind a row's length.
        pub fn clearRows(r: *const Self, rows: *anyopaque, width: u64) Error!void {
            const clear: MlstmClearRows = .{
                .rows = rows,
                .lengths = r.lengths() orelse return,
                .batch = r.a.batch,
                .length = r.a.length,
                .width = r.a.heads * width,
            };
            const shape: Shape = .{ .x = 64, .y = @intCast(r.a.batch) };
            try r.device.launch("mlstm_clear_rows", shape, clear);
        }
    };
}

/// Blocks of a unit: of 128 columns of V, or 64 with 512 keys, in whole clusters.
fn slicesOf(kind: Kind, key: u64, value: u64) u32 {
    const blocks = blocksOf(value, if (key > 256) 64 else 128);
    for (variants) |v| {
        if (v.key == keyOf(key) and v.kind == kind)
            return @intCast(blocksOf(blocks, v.cluster) * v.cluster);
    }
    unreachable;
}

/// A width of keys as its kernels have it.
fn keyOf(width: u64) u64 {
    return blocksOf(width, 64) * 64;
}

fn columnsOf(width: u64) Columns {
    return if (width % 64 == 0) .{ .column = 0, .block = 1 } else .{ .column = 64, .block = 0 };
}

fn tensorMap(
    device: *Device,
    pointer: *const anyopaque,
    extents: *const [5]u64,
    pitches: *const [4]u64,
    box: *const [5]u32,
) Error!driver.TensorMap {
    const bf16 = 9;
    const swizzle_128 = 3;
    const promote_256 = 3;
    const every = [_]u32{ 1, 1, 1, 1, 1 };
    var made: driver.TensorMap = undefined;
    const result = device.api.TensorMapEncodeTiled.?(
        &made,
        bf16,
        5,
        @constCast(pointer),
        extents,
        pitches,
        box,
        &every,
        0,
        swizzle_128,
        promote_256,
        0,
    );
    try device.api.check(result, "tensor map");
    return made;
}

pub fn array(device: *Device, comptime T: type, count: u64) Error![*]T {
    return @ptrCast(@alignCast(try device.temporary(count * @sizeOf(T))));
}

pub fn blocksOf(count: u64, size: u64) u64 {
    return std.math.divCeil(u64, count, size) catch unreachable;
}
