//! The only file that knows the register width. A kernel is written once, generic over the storage
//! type `S` (f32, f64, or u16 for bf16) and computes in `Arithmetic(S)`.
//!
//! Element-wise loops and GEMM tiles use the level's own width (`lanes`). Reductions use a fixed
//! width of 16 partial sums and a fixed tree, so that a sum has the same bits at every
//! instruction-set level that has fused multiply-add, and for any number of threads.

const std = @import("std");
const builtin = @import("builtin");
const dtype = @import("../dtype.zig");

pub const Arithmetic = dtype.Arithmetic;

/// False only at the portable level, where `@mulAdd` would be a libm call for every lane.
pub const has_fma = builtin.cpu.has(.x86, .fma);

/// Lanes of this level's registers in type `A` (f32 or f64).
pub fn lanes(comptime A: type) comptime_int {
    return if (A == f32) lanes_f32 else if (A == f64) lanes_f64 else @compileError("no lanes");
}

// Asked once: the question costs hundreds of comptime branches each time.
const lanes_f32 = std.simd.suggestVectorLength(f32) orelse 4;
const lanes_f64 = std.simd.suggestVectorLength(f64) orelse 2;

pub fn Vec(comptime A: type) type {
    return @Vector(lanes(A), A);
}

/// Partial sums of a reduction: the same number at every level.
pub const reduce_lanes = 16;

pub fn Wide(comptime A: type) type {
    return @Vector(reduce_lanes, A);
}

pub inline fn splat(comptime V: type, x: anytype) V {
    return @splat(x);
}

/// a·b + c, fused where the level can.
pub inline fn fma(comptime V: type, a: V, b: V, c: V) V {
    return if (has_fma) @mulAdd(V, a, b, c) else a * b + c;
}

/// `n` consecutive elements of storage type `S` as arithmetic values; no alignment needed.
pub inline fn loadN(
    comptime S: type,
    comptime n: comptime_int,
    p: [*]const S,
) @Vector(n, Arithmetic(S)) {
    const raw: @Vector(n, S) = p[0..n].*;
    if (S == u16) {
        const wide: @Vector(n, u32) = raw;
        return @bitCast(wide << @splat(16));
    }
    return raw;
}

pub inline fn storeN(
    comptime S: type,
    comptime n: comptime_int,
    p: [*]S,
    v: @Vector(n, Arithmetic(S)),
) void {
    if (S == u16) {
        const bits: @Vector(n, u32) = @bitCast(v);
        const one: @Vector(n, u32) = @splat(1);
        const half: @Vector(n, u32) = @splat(0x7fff);
        const rounded = (bits +% half +% ((bits >> @splat(16)) & one)) >> @splat(16);
        const quiet = (bits >> @splat(16)) | @as(@Vector(n, u32), @splat(0x0040));
        const kept = @select(u32, v == v, rounded, quiet);
        const out: @Vector(n, u16) = @truncate(kept);
        p[0..n].* = out;
    } else p[0..n].* = v;
}

pub inline fn load(comptime S: type, p: [*]const S) Vec(Arithmetic(S)) {
    return loadN(S, lanes(Arithmetic(S)), p);
}

pub inline fn store(comptime S: type, p: [*]S, v: Vec(Arithmetic(S))) void {
    storeN(S, lanes(Arithmetic(S)), p, v);
}

/// One element.
pub inline fn get(comptime S: type, p: [*]const S, i: usize) Arithmetic(S) {
    return if (S == u16) dtype.fromBf16(p[i]) else p[i];
}

pub inline fn put(comptime S: type, p: [*]S, i: usize, x: Arithmetic(S)) void {
    p[i] = if (S == u16) dtype.toBf16(x) else x;
}

/// Pairwise sum of a vector: `@reduce(.Add)` on floats is a sequential chain in strict mode.
pub inline fn sum(comptime n: comptime_int, comptime A: type, v: @Vector(n, A)) A {
    comptime var width = n;
    var x: [n]A = v;
    inline while (width > 1) : (width /= 2) {
        inline for (0..width / 2) |i| x[i] += x[i + width / 2];
    }
    return x[0];
}

pub inline fn max(comptime n: comptime_int, comptime A: type, v: @Vector(n, A)) A {
    comptime var width = n;
    var x: [n]A = v;
    inline while (width > 1) : (width /= 2) {
        inline for (0..width / 2) |i| x[i] = @max(x[i], x[i + width / 2]);
    }
    return x[0];
}

/// Σ xᵢ·yᵢ in a fixed order.
pub fn dot(comptime S: type, x: [*]const S, y: [*]const S, count: usize) Arithmetic(S) {
    const A = Arithmetic(S);
    var acc: Wide(A) = @splat(0);
    var i: usize = 0;
    while (i + reduce_lanes <= count) : (i += reduce_lanes) {
        acc = fma(Wide(A), loadN(S, reduce_lanes, x + i), loadN(S, reduce_lanes, y + i), acc);
    }
    var total = sum(reduce_lanes, A, acc);
    while (i < count) : (i += 1) total = fma(A, get(S, x, i), get(S, y, i), total);
    return total;
}

/// y ← y + a·x, element by element.
pub fn axpy(
    comptime S: type,
    comptime T: type,
    a: Arithmetic(T),
    x: [*]const S,
    y: [*]T,
    count: usize,
) void {
    const A = Arithmetic(T);
    const n = lanes(A);
    const av: Vec(A) = @splat(a);
    var i: usize = 0;
    while (i + n <= count) : (i += n) {
        const xv: Vec(A) = loadN(S, n, x + i);
        store(T, y + i, fma(Vec(A), av, xv, load(T, y + i)));
    }
    while (i < count) : (i += 1) put(T, y, i, fma(A, a, get(S, x, i), get(T, y, i)));
}
