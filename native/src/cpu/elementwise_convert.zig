//! Conversion between storage types, n elements at a time: one rounding, to nearest even; floats to
//! integers towards zero; out-of-range integers to the end of the range; NaN to 0 as an integer.

const std = @import("std");
const simd = @import("simd.zig");
const DType = @import("../dtype.zig").DType;
const dtypes = @import("../dtype.zig");

/// Elements per step: a multiple of every register width.
pub const step = 16;

/// n elements of storage type From as values that hold them exactly.
fn Exact(comptime From: type) type {
    return switch (From) {
        u16, f16, f32 => f32,
        f64 => f64,
        i32, u8 => From,
        else => unreachable,
    };
}

inline fn widen(
    comptime From: type,
    comptime n: comptime_int,
    v: @Vector(n, From),
) @Vector(n, Exact(From)) {
    if (From == u16) {
        const bits: @Vector(n, u32) = v;
        return @bitCast(bits << @as(@Vector(n, u5), @splat(16)));
    }
    return if (From == f16) @floatCast(v) else v;
}

/// The same number in type To (bf16 as u16).
pub inline fn convert(
    comptime From: type,
    comptime To: type,
    comptime n: comptime_int,
    v: @Vector(n, From),
) @Vector(n, To) {
    if (From == To) return v;
    const exact = widen(From, n, v);
    const E = Exact(From);
    const integer = E == i32 or E == u8;
    switch (To) {
        i32, u8 => {
            if (integer) return narrowInteger(E, To, n, exact);
            return truncate(
                To,
                n,
                if (E == f32) @as(@Vector(n, f64), @floatCast(exact)) else exact,
            );
        },
        f32 => return if (integer) @floatFromInt(exact) else @floatCast(exact),
        f64 => return if (integer) @floatFromInt(exact) else @floatCast(exact),
        // Every i32 is exact in f64, and f64 to f16 rounds once.
        f16 => return if (integer) @floatCast(floats(E, n, exact)) else @floatCast(exact),
        u16 => return toBf16(
            n,
            if (E == f32) exact else if (integer) oddF32(
                n,
                floats(E, n, exact),
            ) else oddF32(n, exact),
        ),
        else => unreachable,
    }
}

inline fn floats(comptime E: type, comptime n: comptime_int, v: @Vector(n, E)) @Vector(n, f64) {
    return @floatFromInt(v);
}

inline fn narrowInteger(
    comptime E: type,
    comptime To: type,
    comptime n: comptime_int,
    v: @Vector(n, E),
) @Vector(n, To) {
    if (To == i32) return v;
    const low: @Vector(n, i32) = @splat(0);
    const high: @Vector(n, i32) = @splat(255);
    return lowByte(n, @min(@max(v, low), high));
}

/// Values 0 to 255 as bytes. By `@truncate`: for `@intCast` of a signed vector to a narrower
/// unsigned
/// one, Zig 0.17 in fast mode promises LLVM that it fits the signed range, and 255 becomes 127.
inline fn lowByte(comptime n: comptime_int, v: @Vector(n, i32)) @Vector(n, u8) {
    return @truncate(@as(@Vector(n, u32), @bitCast(v)));
}

inline fn truncate(comptime To: type, comptime n: comptime_int, v: @Vector(n, f64)) @Vector(n, To) {
    const D = @Vector(n, f64);
    const low: D = @splat(std.math.minInt(To));
    const high: D = @splat(std.math.maxInt(To));
    const zero: D = @splat(0);
    const number = @select(f64, v == v, v, zero);
    const whole: @Vector(n, i32) = @intFromFloat(@min(@max(number, low), high));
    return if (To == i32) whole else lowByte(n, whole);
}

/// f64 to f32 rounded to odd: a second rounding to a shorter format is then the same as one.
inline fn oddF32(comptime n: comptime_int, v: @Vector(n, f64)) @Vector(n, f32) {
    const near: @Vector(n, f32) = @floatCast(v);
    const back: @Vector(n, f64) = near;
    const bits: @Vector(n, u32) = @bitCast(near);
    const one: @Vector(n, u32) = @splat(1);
    const above = @abs(back) > @abs(v);
    const toward_zero = @select(u32, above, bits -% one, bits);
    return @bitCast(@select(u32, back == v, bits, @select(u32, v == v, toward_zero | one, bits)));
}

inline fn toBf16(comptime n: comptime_int, v: @Vector(n, f32)) @Vector(n, u16) {
    var out: [n]u16 = undefined;
    simd.storeN(u16, n, &out, v);
    return out;
}

/// n consecutive elements.
pub fn convertRun(
    comptime From: type,
    comptime To: type,
    from: [*]const From,
    to: [*]To,
    n: usize,
) void {
    if (From == To) {
        @memcpy(to[0..n], from[0..n]);
        return;
    }
    var i: usize = 0;
    while (i + step <= n) : (i += step) {
        to[i..][0..step].* = convert(From, To, step, from[i..][0..step].*);
    }
    while (i < n) : (i += 1) to[i] = single(From, To, from[i]);
}

pub inline fn single(comptime From: type, comptime To: type, x: From) To {
    if (From == To) return x;
    return convert(From, To, 1, .{x})[0];
}

/// Calls `Body(Storage(dtype)).all(arguments…)` for a dtype known at run time.
pub inline fn dispatch(
    dtype: DType,
    comptime Body: fn (comptime type) type,
    arguments: anytype,
) void {
    switch (dtype) {
        inline else => |tag| @call(.auto, Body(dtypes.Storage(tag)).all, arguments),
    }
}
