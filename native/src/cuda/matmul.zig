//! Matrix products: cuBLASLt where it fits, else our own tiles (any strides, any mix of f32 and
//! bf16, bias and residual in the epilogue).
//!
//! A product of bf16 and f32 operands (activations and stored weights) rounds the f32 operand to
//! bf16 first: tensor cores take one type, and 6 bytes moved per weight cost far less than an f32
//! product.

const std = @import("std");
const args = @import("../args.zig");
const status = @import("../abi/status.zig");
const DType = @import("../dtype.zig").DType;
const devices = @import("device.zig");
const elementwise = @import("elementwise.zig");
const Device = devices.Device;
const Lt = @import("cublaslt.zig").Lt;
const Error = status.Error;
const Matmul = args.matmul.Matmul;

pub const plans = .{};

const tile = 64; // matmul.cu
const largest_z = 65535;
const f32_code = @backingInt(DType.f32);
const bf16_code = @backingInt(DType.bf16);

pub fn matmul(device: *Device, dtype: DType, a: *const Matmul) Error!void {
    if (dtype == .f64) return devices.unsupported("matmul", dtype);
    if (device.lt) |*lt| {
        var narrow = a.*;
        if (a.a_dtype != a.b_dtype) try toBf16(device, &narrow);
        if (Lt.fits(&narrow)) return lt.multiply(device.stream, &narrow);
    }
    const m = (a.m + tile - 1) / tile;
    const n = (a.n + tile - 1) / tile;
    return device.launch("matmul", .{
        .x = m * n,
        .z = @intCast(@min(a.batch, largest_z)),
    }, a.*);
}

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
    const to = try device.temporary(count * 2);
    var shape: args.elementwise.Dims = @splat(1);
    var strides: args.elementwise.Dims = @splat(0);
    shape[0] = count;
    strides[0] = 1;
    const copy: args.elementwise.Copy = .{
        .from = from,
        .to = to,
        .shape = shape,
        .from_strides = strides,
        .to_strides = strides,
        .rank = 1,
        .from_dtype = .f32,
        .to_dtype = .bf16,
    };
    try elementwise.copy(device, .f32, &copy);
    return to;
}
