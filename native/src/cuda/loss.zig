//! CUDA launches of args/loss.zig. The fused head holds one chunk of logits at a time:
//!
//!     r = hidden·weightᵀ;  losses and ∂loss/∂r in place
//!     dhidden = dr·weight;  dweight += drᵀ·hidden
//!
//! Logits are of the storage type, as in a head computed apart. Chunks follow from the shape alone
//! and are added to dweight in their order; every chunk costs one reading and writing of dweight.
//! An f32 weight is rounded once for all products of the call.

const std = @import("std");
const args = @import("../args/loss.zig");
const Matmul = @import("../args/matmul.zig").Matmul;
const products = @import("matmul.zig");
const status = @import("../abi/status.zig");
const DType = @import("../dtype.zig").DType;
const device_file = @import("device.zig");
const Device = device_file.Device;
const Error = status.Error;

/// Losses of a block of rows; `dlogits`, where given, may be `logits`.
pub const LossRows = extern struct {
    logits: *const anyopaque, // [rows, vocab], rows `stride` apart
    dlogits: ?*anyopaque, // likewise
    targets: *const anyopaque, // i32 [rows]
    mask: ?*const anyopaque, // u8 [rows]
    weights: ?*const anyopaque, // f32 [rows]
    losses: *anyopaque, // f64 [rows]: w·loss
    hits: *anyopaque, // u8 [rows]: the arg-max is the target
    loss_rows: ?*anyopaque, // f32 [rows]
    lse: ?*anyopaque, // f32 [rows]
    vocab: u64,
    stride: u64,
    soft_cap: f64,
    label_smoothing: f64,
    z_loss: f64,
    grad_scale: f64,
};

/// Sums over all rows.
pub const LossSums = extern struct {
    losses: *const anyopaque, // f64 [rows]
    hits: *const anyopaque, // u8 [rows]
    targets: *const anyopaque,
    mask: ?*const anyopaque,
    weights: ?*const anyopaque,
    loss: *anyopaque, // f32
    count: *anyopaque, // i32
    weight_sum: ?*anyopaque, // f32
    correct: ?*anyopaque, // i32
    fault: *anyopaque, // Fault
    rows: u64,
    vocab: u64,
};

/// Rows copied where valid, else zeros.
pub const KeptRows = extern struct {
    from: *const anyopaque, // [rows, width]
    to: *anyopaque, // [rows, width]
    mask: ?*const anyopaque,
    weights: ?*const anyopaque,
    width: u64,
};

pub const plans = .{
    .{ "LossRows", LossRows },
    .{ "LossSums", LossSums },
    .{ "KeptRows", KeptRows },
};

/// A block per row, with 32 or more elements for each thread where the row has them.
fn rowShape(rows: u64, width: u64) device_file.Shape {
    const wanted = std.math.ceilPowerOfTwoAssert(u64, @max(1, width / 32));
    return .{ .x = rows, .threads = @intCast(std.math.clamp(wanted, 32, 512)) };
}

/// Scratch of every row.
const Results = struct { losses: *anyopaque, hits: *anyopaque };

fn results(device: *Device, rows: u64) Error!Results {
    return .{
        .losses = try device.temporary(@max(1, rows) * @sizeOf(f64)),
        .hits = try device.temporary(@max(1, rows)),
    };
}

/// `a` is CrossEntropyForward or LinearCrossEntropy.
fn finish(device: *Device, scratch: Results, a: anytype) Error!void {
    try device.launch("loss_sums", .{ .x = 1, .threads = 512 }, LossSums{
        .losses = scratch.losses,
        .hits = scratch.hits,
        .targets = a.targets,
        .mask = a.mask,
        .weights = a.weights,
        .loss = a.loss,
        .count = a.count,
        .weight_sum = a.weight_sum,
        .correct = a.correct,
        .fault = @ptrFromInt(device.fault),
        .rows = a.rows,
        .vocab = a.vocab,
    });
}

/// Before the row in shared memory: losses::Shared.
const held_head = 1024;
/// Rows up to here are held twice by a multiprocessor of 228 KB.
const longest_held = 112 << 10;

/// With gradients a row is read once where it fits in shared memory.
fn launchRows(device: *Device, dtype: DType, rows: u64, plan: LossRows) Error!void {
    var shape = rowShape(rows, plan.vocab);
    const bytes = held_head + std.mem.alignForward(u64, plan.vocab * dtype.size(), 16);
    const most: u64 = @intCast(device.facts.shared_bytes);
    if (plan.dlogits == null or bytes > @min(most, longest_held))
        return device.launchFor("loss_rows", dtype, shape, plan);
    shape.shared = @intCast(bytes);
    return device.launchFor("loss_held", dtype, shape, plan);
}

pub fn crossEntropyForward(
    device: *Device,
    dtype: DType,
    a: *const args.CrossEntropyForward,
) Error!void {
    const scratch = try results(device, a.rows);
    if (a.rows > 0) {
        const plan: LossRows = .{
            .logits = a.logits,
            .dlogits = null,
            .targets = a.targets,
            .mask = a.mask,
            .weights = a.weights,
            .losses = scratch.losses,
            .hits = scratch.hits,
            .loss_rows = a.loss_rows,
            .lse = a.lse,
            .vocab = a.vocab,
            .stride = a.vocab,
            .soft_cap = a.soft_cap,
            .label_smoothing = a.label_smoothing,
            .z_loss = a.z_loss,
            .grad_scale = 1,
        };
        try launchRows(device, dtype, a.rows, plan);
    }
    try finish(device, scratch, a);
}

pub fn splitSoftmaxSums(
    device: *Device,
    dtype: DType,
    a: *const args.SplitSoftmaxSums,
) Error!void {
    try device.launchFor("loss_split_sums", dtype, rowShape(a.rows, a.vocab), a.*);
}

pub fn splitSoftmaxSlopes(
    device: *Device,
    dtype: DType,
    a: *const args.SplitSoftmaxSlopes,
) Error!void {
    try device.launchFor("loss_split_slopes", dtype, rowShape(a.rows, a.vocab), a.*);
}

pub fn crossEntropyBackward(
    device: *Device,
    dtype: DType,
    a: *const args.CrossEntropyBackward,
) Error!void {
    if (a.rows == 0) return;
    try device.launchFor("loss_backward", dtype, rowShape(a.rows, a.vocab), a.*);
}

/// Memory of one chunk of logits at most, also as a part of the device's.
const chunk_bytes = 512 << 20;
const chunk_part = 64;
/// Chunks hold a multiple of this many rows, and at least one such step: what the products need to
/// fill their tiles.
const row_step = 128;

/// Rows of logits held at a time: equal chunks, as few as `most` bytes allow.
fn chunkRows(rows: u64, row_bytes: u64, most: u64) u64 {
    const fit = @max(most / row_bytes, row_step);
    const chunks = @max(1, std.math.divCeil(u64, rows, fit) catch unreachable);
    const equal = std.math.divCeil(u64, rows, chunks) catch unreachable;
    return @min(rows, std.mem.alignForward(u64, equal, row_step));
}

pub fn linearCrossEntropy(
    device: *Device,
    dtype: DType,
    a: *const args.LinearCrossEntropy,
) Error!void {
    if (dtype != .f32 and dtype != .bf16)
        return device_file.unsupported("linearCrossEntropy", dtype);
    const scratch = try results(device, a.rows);
    // Rows of 16 bytes' multiples keep wide loads aligned for every vocabulary.
    const stride = std.mem.alignForward(u64, a.vocab, 16 / dtype.size());
    const most = @min(chunk_bytes, device.facts.total_bytes / chunk_part);
    const chunk = chunkRows(a.rows, stride * dtype.size(), most);
    const is_masked = a.mask != null or a.weights != null;
    const weight_dtype: DType = @fromBackingInt(a.weight_dtype);
    const rounded = if (dtype == .bf16 and weight_dtype == .f32)
        try products.roundedFor(device, chunk, a.weight, a.vocab * a.width)
    else
        null;
    const head: Head = .{
        .device = device,
        .dtype = dtype,
        .a = a,
        .scratch = scratch,
        .stride = stride,
        .weight = rounded orelse a.weight,
        .weight_dtype = if (rounded == null) weight_dtype else .bf16,
        .logits = try device.temporary(@max(1, chunk * stride) * dtype.size()),
        .kept = if (is_masked)
            try device.temporary(@max(1, chunk * a.width) * dtype.size())
        else
            null,
    };
    if (a.rows == 0) try head.emptyGradient();
    var first: u64 = 0;
    while (first < a.rows) : (first += chunk) try head.run(first, @min(chunk, a.rows - first));
    try finish(device, scratch, a);
}

const Head = struct {
    device: *Device,
    dtype: DType,
    a: *const args.LinearCrossEntropy,
    scratch: Results,
    stride: u64, // of the rows of logits
    weight: *const anyopaque, // [vocab, width]
    weight_dtype: DType,
    logits: *anyopaque, // one chunk
    kept: ?*anyopaque, // hidden states of the chunk, zeros where not valid

    fn emptyGradient(head: Head) Error!void {
        const out = head.a.dweight orelse return;
        if (head.a.accumulate_dweight != 0) return;
        const bytes = head.a.vocab * head.a.width * @sizeOf(f32);
        try head.device.clear(@intFromPtr(out), bytes);
    }

    /// The rows from `first` on.
    fn run(head: Head, first: u64, rows: u64) Error!void {
        const a = head.a;
        const hidden = try head.hiddenOf(first, rows);
        try head.product(.{ .of = hidden, .dtype = head.dtype, .row = a.width, .column = 1 }, .{
            .of = head.weight,
            .dtype = head.weight_dtype,
            .row = 1,
            .column = a.width,
        }, .{
            .of = head.logits,
            .dtype = head.dtype,
            .row = head.stride,
        }, .{ rows, a.vocab, a.width });
        try head.losses(first, rows);
        if (a.dhidden) |out| {
            const bytes = first * a.width * head.dtype.size();
            try head.product(.{
                .of = head.logits,
                .dtype = head.dtype,
                .row = head.stride,
                .column = 1,
            }, .{
                .of = head.weight,
                .dtype = head.weight_dtype,
                .row = a.width,
                .column = 1,
            }, .{
                .of = moved(out, bytes),
                .dtype = head.dtype,
                .row = a.width,
            }, .{ rows, a.width, a.vocab });
        }
        if (a.dweight) |out| try head.product(.{
            .of = head.logits,
            .dtype = head.dtype,
            .row = 1,
            .column = head.stride,
        }, .{
            .of = hidden,
            .dtype = head.dtype,
            .row = a.width,
            .column = 1,
        }, .{
            .of = out,
            .dtype = .f32,
            .row = a.width,
            .accumulate = first > 0 or a.accumulate_dweight != 0,
        }, .{ a.vocab, a.width, rows });
    }

    fn hiddenOf(head: Head, first: u64, rows: u64) Error!*const anyopaque {
        const a = head.a;
        const from = movedConst(a.hidden, first * a.width * head.dtype.size());
        const kept = head.kept orelse return from;
        try head.device.launchFor("loss_keep", head.dtype, rowShape(rows, a.width), KeptRows{
            .from = from,
            .to = kept,
            .mask = maybeMovedConst(a.mask, first),
            .weights = maybeMovedConst(a.weights, first * @sizeOf(f32)),
            .width = a.width,
        });
        return kept;
    }

    /// Losses of the chunk; logits become their gradients where any gradient is asked for.
    fn losses(head: Head, first: u64, rows: u64) Error!void {
        const a = head.a;
        const wants_gradient = a.dhidden != null or a.dweight != null;
        try launchRows(head.device, head.dtype, rows, .{
            .logits = head.logits,
            .dlogits = if (wants_gradient) head.logits else null,
            .targets = movedConst(a.targets, first * @sizeOf(i32)),
            .mask = maybeMovedConst(a.mask, first),
            .weights = maybeMovedConst(a.weights, first * @sizeOf(f32)),
            .losses = moved(head.scratch.losses, first * @sizeOf(f64)),
            .hits = moved(head.scratch.hits, first),
            .loss_rows = maybeMoved(a.loss_rows, first * @sizeOf(f32)),
            .lse = maybeMoved(a.lse, first * @sizeOf(f32)),
            .vocab = a.vocab,
            .stride = head.stride,
            .soft_cap = a.soft_cap,
            .label_smoothing = a.label_smoothing,
            .z_loss = a.z_loss,
            .grad_scale = a.grad_scale,
        });
    }

    const Left = struct { of: *const anyopaque, dtype: DType, row: u64, column: u64 };
    const Out = struct { of: *anyopaque, dtype: DType, row: u64, accumulate: bool = false };

    /// c [m, n] (+)= a [m, k]·b [k, n]; `size` is m, n, k.
    fn product(head: Head, a: Left, b: Left, c: Out, size: [3]u64) Error!void {
        const call: Matmul = .{
            .a = a.of,
            .b = b.of,
            .c = c.of,
            .bias = null,
            .residual = null,
            .batch = 1,
            .m = size[0],
            .n = size[1],
            .k = size[2],
            .a_batch_stride = 0,
            .a_row_stride = a.row,
            .a_column_stride = a.column,
            .b_batch_stride = 0,
            .b_row_stride = b.row,
            .b_column_stride = b.column,
            .c_batch_stride = 0,
            .c_row_stride = c.row,
            .alpha = 1,
            .a_dtype = @backingInt(a.dtype),
            .b_dtype = @backingInt(b.dtype),
            .c_dtype = @backingInt(c.dtype),
            .accumulate = @intFromBool(c.accumulate),
        };
        try products.matmul(head.device, .f32, &call);
    }
};

fn moved(pointer: *anyopaque, bytes: u64) *anyopaque {
    return @ptrFromInt(@intFromPtr(pointer) + bytes);
}

fn movedConst(pointer: *const anyopaque, bytes: u64) *const anyopaque {
    return @ptrFromInt(@intFromPtr(pointer) + bytes);
}

fn maybeMoved(pointer: ?*anyopaque, bytes: u64) ?*anyopaque {
    return if (pointer) |p| moved(p, bytes) else null;
}

fn maybeMovedConst(pointer: ?*const anyopaque, bytes: u64) ?*const anyopaque {
    return if (pointer) |p| movedConst(p, bytes) else null;
}
