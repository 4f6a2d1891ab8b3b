//! Matrix products: cuBLASLt where it fits, else our own tiles (any strides, any mix of f32 and
//! bf16, bias and residual in the epilogue).
//!
//! A product of bf16 and f32 operands (activations and stored weights) rounds the f32 operand to
//! bf16 first: tensor cores take one type, and 6 bytes moved per weight cost far less than an f32
//! product; weights in training are kept rounded (shadow.zig). Products of at most 8 rows read a
//! stored weight as it is, in whichever type: decoding is the reading of weights.

const std = @import("std");
const args = @import("../args.zig");
const status = @import("../abi/status.zig");
const DType = @import("../dtype.zig").DType;
const devices = @import("device.zig");
const shadow = @import("shadow.zig");
const Device = devices.Device;
const Lt = @import("cublaslt.zig").Lt;
const Error = status.Error;
const Matmul = args.matmul.Matmul;

/// Few rows against a weight [n, k]: `split` warps share four of its rows.
pub const SkinnyPlan = extern struct {
    call: Matmul,
    split: u32, // 1, 2, 4 or 8
    chunk: u32, // elements of a row of x in shared memory
    aligned: u32, // 1: rows of the weight start at multiples of 16 bytes and end at one
};

pub const plans = .{.{ "SkinnyPlan", SkinnyPlan }};

const tile = 64; // matmul.cu
const largest_z = 65535;
const f32_code = @backingInt(DType.f32);
const bf16_code = @backingInt(DType.bf16);

pub fn matmul(device: *Device, dtype: DType, a: *const Matmul) Error!void {
    if (dtype == .f64) return devices.unsupported("matmul", dtype);
    if (isSkinny(a)) return skinny(device, a);
    var narrow = a.*;
    if (a.a_dtype != a.b_dtype) try toBf16(device, &narrow);
    if (device.lt) |*lt| if (Lt.fits(&narrow)) return lt.multiply(device, &narrow);
    const m = (a.m + tile - 1) / tile;
    const n = (a.n + tile - 1) / tile;
    return device.launch("matmul", .{
        .x = m * n,
        .z = @intCast(@min(a.batch, largest_z)),
    }, narrow);
}

const skinny_rows = 4; // matmul_skinny.cuh: rows, warps
const skinny_warps = 8;
const most_skinny = 8;
const longest_skinny = 1 << 16; // a block walks along k: dot products of vectors go elsewhere

/// Up to 8 rows: cuBLASLt took 34 ms for 8 rows of a 7B model where this product takes 12.
fn isSkinny(a: *const Matmul) bool {
    if (a.m > most_skinny) return false;
    if (a.batch != 1 or a.k == 0 or a.k > longest_skinny) return false;
    return a.b_row_stride == 1 or a.k == 1;
}

fn skinny(device: *Device, a: *const Matmul) Error!void {
    const bytes: u64 = if (a.b_dtype == bf16_code) 2 else 4;
    const width = 16 / bytes;
    const stretch = width * 32;
    const groups = (a.n + skinny_rows - 1) / skinny_rows;
    // As many warps as run at once share the work; more would leave a last round half empty.
    const most = @as(u64, device.facts.multiprocessors) * 2 * skinny_warps;
    var split: u32 = 1;
    while (split < skinny_warps and groups * split * 2 <= most and split * stretch < a.k)
        split *= 2;
    const rows = std.math.ceilPowerOfTwo(u64, a.m) catch unreachable;
    const whole = (a.k + stretch - 1) / stretch * stretch;
    const chunk = @min(whole, skinny_shared / 4 / rows);
    const address = @intFromPtr(a.b) | a.b_column_stride * bytes | a.k * bytes;
    const plan: SkinnyPlan = .{
        .call = a.*,
        .split = split,
        .chunk = @intCast(chunk),
        .aligned = @intFromBool(address % 16 == 0),
    };
    const shape: devices.Shape = .{
        .x = (groups * split + skinny_warps - 1) / skinny_warps,
        .shared = @intCast(rows * chunk * 4),
    };
    const storage: DType = if (a.b_dtype == bf16_code) .bf16 else .f32;
    return switch (rows) {
        1 => device.launchFor("matmul_skinny_1", storage, shape, plan),
        2 => device.launchFor("matmul_skinny_2", storage, shape, plan),
        4 => device.launchFor("matmul_skinny_4", storage, shape, plan),
        else => device.launchFor("matmul_skinny_8", storage, shape, plan),
    };
}

/// Bytes of x in shared memory at most: two blocks and more fit on a multiprocessor. For 8 rows
/// this is 2048 columns, a whole number of steps of the kernel.
const skinny_shared = 64 << 10;

/// Replaces the f32 operand by a rounded copy, where its memory has few gaps.
fn toBf16(device: *Device, a: *Matmul) Error!void {
    if (a.a_dtype == f32_code) {
        const span = spanOf(
            .{ a.batch, a.m, a.k },
            .{ a.a_batch_stride, a.a_row_stride, a.a_column_stride },
        ) orelse return;
        a.a = try rounded(device, a.a, span);
        a.a_dtype = bf16_code;
    } else {
        const span = spanOf(
            .{ a.batch, a.k, a.n },
            .{ a.b_batch_stride, a.b_row_stride, a.b_column_stride },
        ) orelse return;
        a.b = try rounded(device, a.b, span);
        a.b_dtype = bf16_code;
    }
}

/// The f32 weight as every product of `rows` bf16 rows with it would round it: for callers that
/// make many. null where the products take it as it is.
pub fn roundedFor(
    device: *Device,
    rows: u64,
    weight: *const anyopaque,
    count: u64,
) Error!?*const anyopaque {
    if (rows <= most_skinny or count == 0) return null;
    return try rounded(device, weight, count);
}

/// Elements from the first to the last; null when more than half of them are gaps.
fn spanOf(sizes: [3]u64, strides: [3]u64) ?u64 {
    var last: u64 = 0;
    var count: u64 = 1;
    for (sizes, strides) |size, stride| {
        if (stride == 0) continue;
        last += (size - 1) * stride;
        count *= size;
    }
    return if (last + 1 <= 2 * count) last + 1 else null;
}

fn rounded(device: *Device, from: *const anyopaque, count: u64) Error!*const anyopaque {
    const address = @intFromPtr(from);
    if (device.shadows.find(address, count)) |copy| return copy;
    try device.shadows.note(device, address, count);
    const to = try device.temporary(count * 2);
    try shadow.round(device, from, to, count);
    return to;
}
