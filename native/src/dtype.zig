//! Element types of tensors, and how bfloat16 is held: `u16` storage, f32 arithmetic.

const std = @import("std");

/// The numbers are part of the ABI and of checkpoints' manifests: append only.
pub const DType = enum(i32) {
    f32 = 0,
    bf16 = 1,
    f16 = 2,
    f64 = 3,
    i32 = 4,
    u8 = 5,

    pub fn size(dtype: DType) usize {
        return switch (dtype) {
            .f64 => 8,
            .f32, .i32 => 4,
            .bf16, .f16 => 2,
            .u8 => 1,
        };
    }

    pub fn isFloat(dtype: DType) bool {
        return switch (dtype) {
            .f32, .bf16, .f16, .f64 => true,
            .i32, .u8 => false,
        };
    }
};

pub fn Storage(comptime dtype: DType) type {
    return switch (dtype) {
        .f32 => f32,
        .bf16 => u16,
        .f16 => f16,
        .f64 => f64,
        .i32 => i32,
        .u8 => u8,
    };
}

/// The type in which values of storage type `S` are computed: bf16 (`u16`) computes in f32.
pub fn Arithmetic(comptime S: type) type {
    return switch (S) {
        u16, f16, f32 => f32,
        f64 => f64,
        else => @compileError("no arithmetic for " ++ @typeName(S)),
    };
}

pub fn fromBf16(x: u16) f32 {
    return @bitCast(@as(u32, x) << 16);
}

/// Rounds to nearest even. NaN stays NaN: a plain carry would turn some NaNs into Inf.
pub fn toBf16(x: f32) u16 {
    const bits: u32 = @bitCast(x);
    if (x != x) return @intCast((bits >> 16) | 0x0040);
    return @intCast((bits +% 0x7fff +% ((bits >> 16) & 1)) >> 16);
}

test "every bf16 value round-trips" {
    for (0..65536) |raw| {
        const x: u16 = @intCast(raw);
        const f = fromBf16(x);
        if (f != f) continue;
        try std.testing.expectEqual(x, toBf16(f));
    }
}

test "ties round to even" {
    try std.testing.expectEqual(@as(u16, 0x3f80), toBf16(@bitCast(@as(u32, 0x3f808000))));
    try std.testing.expectEqual(@as(u16, 0x3f82), toBf16(@bitCast(@as(u32, 0x3f818000))));
    try std.testing.expectEqual(@as(u16, 0x7f80), toBf16(std.math.inf(f32)));
    try std.testing.expect(fromBf16(toBf16(std.math.nan(f32))) != fromBf16(0));
}
