//! Packing for the register tile: `width` rows or columns side by side, k-major, zero-padded, in
//! the
//! arithmetic type. dst[k·width + i] = src(i, k).

const simd = @import("simd.zig");
const dtype = @import("../dtype.zig");

pub const Source = struct {
    offset: usize,
    count: usize, // valid rows or columns of the panel
    depth: usize, // steps of k
    step: usize, // between rows or columns, in elements
    depth_step: usize, // between steps of k
};

/// Whether operands of this dtype need no conversion.
pub fn same(comptime A: type, code: i32) bool {
    return code == @backingInt(if (A == f64) dtype.DType.f64 else dtype.DType.f32);
}

pub fn panel(
    comptime A: type,
    comptime width: comptime_int,
    dst: [*]A,
    source: *const anyopaque,
    code: i32,
    s: Source,
) void {
    if (same(A, code)) return fill(A, A, width, dst, source, s);
    if (A == f32) return fill(u16, A, width, dst, source, s);
    unreachable; // f64 products have f64 operands.
}

fn fill(
    comptime S: type,
    comptime A: type,
    comptime width: comptime_int,
    dst: [*]A,
    source: *const anyopaque,
    s: Source,
) void {
    const base: [*]const S = @ptrCast(@alignCast(source));
    const src = base + s.offset;
    if (s.count < width) return sparse(S, A, width, dst, src, s);
    if (s.step == 1) {
        for (0..s.depth) |k| {
            const row: @Vector(width, A) = simd.loadN(S, width, src + k * s.depth_step);
            dst[k * width ..][0..width].* = row;
        }
        return;
    }
    var k: usize = 0;
    if (s.depth_step == 1) {
        // Blocks of 8 steps: contiguous loads from each row, transposed in registers.
        while (k + 8 <= s.depth) : (k += 8) transpose(
            S,
            A,
            width,
            dst + k * width,
            src + k,
            s.step,
        );
    }
    while (k < s.depth) : (k += 1) {
        for (0..width) |i| dst[k * width + i] = simd.get(S, src, i * s.step + k * s.depth_step);
    }
}

/// dst[k·width + i] = src[i·step + k] for 8 steps of k.
inline fn transpose(
    comptime S: type,
    comptime A: type,
    comptime width: comptime_int,
    dst: [*]A,
    src: [*]const S,
    step: usize,
) void {
    comptime var i = 0;
    inline while (i + 4 <= width) : (i += 4) {
        var rows: [4]@Vector(8, A) = undefined;
        inline for (0..4) |r| rows[r] = simd.loadN(S, 8, src + (i + r) * step);
        inline for (0..2) |half| {
            const at = [4]i32{ 4 * half, 4 * half + 1, 4 * half + 2, 4 * half + 3 };
            var q: [4]@Vector(4, A) = undefined;
            inline for (0..4) |r| q[r] = @shuffle(A, rows[r], undefined, at);
            const low01 = @shuffle(A, q[0], q[1], [4]i32{ 0, -1, 1, -2 });
            const high01 = @shuffle(A, q[0], q[1], [4]i32{ 2, -3, 3, -4 });
            const low23 = @shuffle(A, q[2], q[3], [4]i32{ 0, -1, 1, -2 });
            const high23 = @shuffle(A, q[2], q[3], [4]i32{ 2, -3, 3, -4 });
            const out = [4]@Vector(4, A){
                @shuffle(A, low01, low23, [4]i32{ 0, 1, -1, -2 }),
                @shuffle(A, low01, low23, [4]i32{ 2, 3, -3, -4 }),
                @shuffle(A, high01, high23, [4]i32{ 0, 1, -1, -2 }),
                @shuffle(A, high01, high23, [4]i32{ 2, 3, -3, -4 }),
            };
            inline for (0..4) |k| dst[(4 * half + k) * width + i ..][0..4].* = out[k];
        }
    }
    inline while (i < width) : (i += 1) {
        const row: [8]A = simd.loadN(S, 8, src + i * step);
        inline for (0..8) |k| dst[k * width + i] = row[k];
    }
}

fn sparse(
    comptime S: type,
    comptime A: type,
    comptime width: comptime_int,
    dst: [*]A,
    src: [*]const S,
    s: Source,
) void {
    for (0..s.depth) |k| {
        for (0..width) |i| {
            const valid = i < s.count;
            dst[k * width + i] = if (valid) simd.get(S, src, i * s.step + k * s.depth_step) else 0;
        }
    }
}
