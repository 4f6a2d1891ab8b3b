//! The small matrix products inside the sLSTM recurrence: one register tile of `rows` rows by
//! `vecs` vectors, and the packed form of R it streams through.
//!
//! acc[r][v] += Σ_k a[r, k]·b[k, v], k in order, so every element's bits are the same for any tile
//! shape, register width (with fused multiply-add) and batch.

const std = @import("std");
const builtin = @import("builtin");
const simd = @import("simd.zig");

/// Rows of a tile of four vectors: the accumulators fill the register file but for the operands.
pub const tile_rows: comptime_int = if (builtin.cpu.has(.x86, .avx512f)) 6 else 3;

/// Rows of the next tile of `left` rows: as equal as possible, for a tile of one row would wait for
/// its own sums.
pub fn nextRows(left: usize) usize {
    return @divCeil(left, @divCeil(left, tile_rows));
}

pub fn Tile(comptime A: type, comptime rows: comptime_int, comptime vecs: comptime_int) type {
    return [rows][vecs]simd.Vec(A);
}

/// `a` is [rows, depth] with the given strides; b[v] points at the first of `depth` vectors that
/// lie `b_step` elements apart.
pub inline fn accumulate(
    comptime A: type,
    comptime rows: comptime_int,
    comptime vecs: comptime_int,
    acc: *Tile(A, rows, vecs),
    a: [*]const A,
    a_row: usize,
    a_step: usize,
    b: [vecs][*]const A,
    b_step: usize,
    depth: usize,
) void {
    const V = simd.Vec(A);
    var sums = acc.*;
    for (0..depth) |k| {
        var left: [rows]V = undefined;
        inline for (0..rows) |r| left[r] = @splat(a[r * a_row + k * a_step]);
        // One vector of b at a time: 12 sums, 3 of a and 1 of b are the 16 registers of AVX2.
        inline for (0..vecs) |v| {
            const right = simd.load(A, b[v] + k * b_step);
            inline for (0..rows) |r| sums[r][v] = simd.fma(V, left[r], right, sums[r][v]);
        }
    }
    acc.* = sums;
}

/// Neighbouring vectors from `base`.
pub inline fn neighbours(
    comptime A: type,
    comptime vecs: comptime_int,
    base: [*]const A,
) [vecs][*]const A {
    var out: [vecs][*]const A = undefined;
    inline for (0..vecs) |v| out[v] = base + v * simd.lanes(A);
    return out;
}

/// Sizes of one head, rounded up to whole vectors: units beyond the width are zeros everywhere.
pub fn Layout(comptime A: type) type {
    return struct {
        width: usize, // DH
        blocks: usize, // vectors of units
        padded: usize, // blocks·lanes
        heads: usize,

        const Self = @This();
        const lanes = simd.lanes(A);

        pub fn of(width: usize, heads: usize) Self {
            const blocks = (width + lanes - 1) / lanes;
            return .{ .width = width, .blocks = blocks, .padded = blocks * lanes, .heads = heads };
        }

        /// Elements of `packRecurrent`'s output for one head.
        pub fn recurrentSize(self: Self) usize {
            return self.blocks * self.blockSize();
        }

        pub fn blockSize(self: Self) usize {
            return self.width * 4 * lanes;
        }

        /// Elements of `packTransposed`'s output for one head.
        pub fn transposedSize(self: Self) usize {
            return self.inPanels() * self.panelSize();
        }

        pub fn inPanels(self: Self) usize {
            return (self.blocks + 3) / 4;
        }

        pub fn panelSize(self: Self) usize {
            return 4 * self.padded * 4 * lanes;
        }

        /// R [4, NH, in, out] of one head as [in][4][lanes] for one block of output units.
        pub fn packBlock(self: Self, r: [*]const A, head: usize, block: usize, out: [*]A) void {
            const first = block * lanes;
            const count = @min(lanes, self.width - first);
            for (0..self.width) |in| for (0..4) |gate| {
                const row = (gate * self.heads + head) * self.width + in;
                const from = r + row * self.width + first;
                const to = out + (in * 4 + gate) * lanes;
                @memcpy(to[0..count], from[0..count]);
                @memset(to[count..lanes], 0);
            };
        }

        /// [blocks][in][4][lanes]: the forward product streams it once per tile of rows.
        pub fn packRecurrent(self: Self, r: [*]const A, head: usize, out: [*]A) void {
            for (0..self.blocks) |block| {
                self.packBlock(r, head, block, out + block * self.blockSize());
            }
        }

        /// [input panels][blocks, 4, lanes of output units][4·lanes input units]: for the gradient
        /// that flows back to the y before.
        pub fn packTransposed(self: Self, r: [*]const A, head: usize, out: [*]A) void {
            @memset(out[0..self.transposedSize()], 0);
            for (0..self.width) |in| for (0..4) |gate| {
                const from = r + ((gate * self.heads + head) * self.width + in) * self.width;
                const panel = out + (in / (4 * lanes)) * self.panelSize() + in % (4 * lanes);
                for (0..self.width) |unit| {
                    const k = ((unit / lanes) * 4 + gate) * lanes + unit % lanes;
                    panel[k * 4 * lanes] = from[unit];
                }
            };
        }

        /// The bias [4, NH, DH] of one head as [blocks][4][lanes].
        pub fn packBias(self: Self, b: [*]const A, head: usize, out: [*]A) void {
            @memset(out[0 .. 4 * self.padded], 0);
            for (0..4) |gate| for (0..self.width) |unit| {
                out[((unit / lanes) * 4 + gate) * lanes + unit % lanes] =
                    b[(gate * self.heads + head) * self.width + unit];
            };
        }

        /// Copies one row of `width` units into padded scratch, or clears it without a source.
        pub fn loadRow(self: Self, from: ?[*]const A, to: [*]A) void {
            const given = from orelse return @memset(to[0..self.padded], 0);
            @memcpy(to[0..self.width], given[0..self.width]);
            @memset(to[self.width..self.padded], 0);
        }
    };
}

/// `n` elements of S, of which only the first `count` exist; the rest reads `fill`.
pub inline fn loadPart(
    comptime S: type,
    comptime n: comptime_int,
    p: [*]const S,
    count: usize,
    fill: simd.Arithmetic(S),
) @Vector(n, simd.Arithmetic(S)) {
    var out: [n]simd.Arithmetic(S) = @splat(fill);
    for (0..count) |lane| out[lane] = simd.get(S, p, lane);
    return out;
}

/// Stores the first `count` of `n` elements.
pub inline fn storePart(
    comptime S: type,
    comptime n: comptime_int,
    p: [*]S,
    count: usize,
    v: @Vector(n, simd.Arithmetic(S)),
) void {
    const values: [n]simd.Arithmetic(S) = v;
    for (0..count) |lane| simd.put(S, p, lane, values[lane]);
}
