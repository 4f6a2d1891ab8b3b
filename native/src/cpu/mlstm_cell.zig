//! One token of the mLSTM: what the recurrent form and the decode step share. Equations:
//! `args/mlstm.zig`, kernels.md §2.1, §6; reference: `reference/mlstm.zig`.
//!
//! One pass over C [DQK, DV]: read, update, dot with q, write.

const simd = @import("simd.zig");
const math = @import("math.zig");
const panel = @import("mlstm_panel.zig");
const gates = @import("mlstm_gates.zig");
const width = panel.width;

/// What the gates of one token do to the state. In float64: in long products of F the rounding of
/// large exponents would add up.
pub fn Factors(comptime A: type) type {
    return struct {
        forget: A, // F
        input: A, // I
        floor: A, // e^(−m); 1 for the sigmoid gate

        const Self = @This();

        /// Replaces m by the new one. An m of type A is rounded first: F, I and the floor then
        /// belong to what is stored.
        pub fn of(comptime M: type, sigmoid: bool, i: f64, f: f64, m: *M) Self {
            const lf = math.logSigmoid(f64, f);
            if (sigmoid) {
                m.* = 0;
                const input = math.sigmoid(f64, i);
                return .{ .forget = @floatCast(@exp(lf)), .input = @floatCast(input), .floor = 1 };
            }
            const decayed = lf + m.*;
            m.* = @floatCast(@max(decayed, i));
            return .{
                .forget = @floatCast(@exp(decayed - m.*)),
                .input = @floatCast(@exp(i - m.*)),
                .floor = gates.floorOf(A, @floatCast(m.*)),
            };
        }
    };
}

/// n ← F n + I k; returns σ = q·n (q scaled already).
pub fn advanceNormalizer(
    comptime A: type,
    x: Factors(A),
    n: [*]A,
    k: [*]const A,
    q: [*]const A,
    columns: usize,
) A {
    for (0..columns) |r| n[r] = simd.fma(A, x.input, k[r], x.forget * n[r]);
    return simd.dot(A, q, n, columns);
}

/// C ← F C + I k vᵀ for some columns of C; num = qᵀC (q scaled already) for the same ones. `c`, `v`
/// and `num` point at the first of `columns`; rows of C lie `distance` apart.
pub fn advance(
    comptime A: type,
    x: Factors(A),
    c: [*]A,
    distance: usize,
    k: [*]const A,
    q: [*]const A,
    rows: usize,
    v: [*]const A,
    num: [*]A,
    columns: usize,
) void {
    var at: usize = 0;
    while (at + 4 * width <= columns) : (at += 4 * width) {
        advancePanels(A, 4, width, x, c + at, distance, k, q, rows, v + at, num + at);
    }
    while (at < columns) : (at += width) {
        const left = columns - at;
        const full = left >= width;
        const part = if (full) width else left;
        advancePanels(A, 1, part, x, c + at, distance, k, q, rows, v + at, num + at);
    }
}

inline fn advancePanels(
    comptime A: type,
    comptime panels: comptime_int,
    left: usize,
    x: Factors(A),
    c: [*]A,
    distance: usize,
    k: [*]const A,
    q: [*]const A,
    rows: usize,
    v: [*]const A,
    num: [*]A,
) void {
    const V = simd.Wide(A);
    const forget: V = @splat(x.forget);
    var value: [panels]V = undefined;
    var sums: [panels]V = @splat(@splat(0));
    inline for (0..panels) |p| value[p] = load(A, v + p * width, left);
    for (0..rows) |r| {
        const key: V = @splat(x.input * k[r]);
        const query: V = @splat(q[r]);
        inline for (0..panels) |p| {
            const at = c + r * distance + p * width;
            const now = simd.fma(V, key, value[p], forget * load(A, at, left));
            panel.storePart(A, at, left, now);
            sums[p] = simd.fma(V, query, now, sums[p]);
        }
    }
    inline for (0..panels) |p| panel.storePart(A, num + p * width, left, sums[p]);
}

inline fn load(comptime A: type, p: [*]const A, left: usize) simd.Wide(A) {
    return if (left >= width) simd.loadN(A, width, p) else panel.loadPart(A, p, left);
}

/// x·scale in T.
pub fn convert(
    comptime S: type,
    comptime T: type,
    from: [*]const S,
    columns: usize,
    scale: T,
    to: [*]T,
) void {
    for (0..columns) |c| to[c] = simd.get(S, from, c) * scale;
}
