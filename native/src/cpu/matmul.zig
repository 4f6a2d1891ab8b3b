//! C = alpha·A·B (+ C) (+ bias) (+ residual), in blocks that stay in the caches.
//!
//!   tile      mr × nr of C in registers: 6×16 with AVX2, 14×32 with AVX-512, 4×8 without either
//!   k block   kc = 256 steps: a strip of B (kc × nr) stays in L1, mc rows of A in L2
//!   job       an mc × nc block of C, all k blocks of the chunk; the unit of parallel work
//!   chunk     at most 4096 × 4096 × 4096 of the problem is packed at a time
//!
//! B is always packed into strips, k-major, zero-padded to nr; strips are packed in parallel. A is
//! read in place where its rows are contiguous in the arithmetic type (both products of a linear
//! layer that have activations on the left), and in a case of columns that `blocked` tells.
//! Otherwise (weight gradients, bf16) every job packs its own rows of A, one k block at a time, on
//! the stack: they never leave L2.
//!
//! Every element of C adds its products in one order: k ascending within a block, blocks ascending.
//! The order depends on no thread count and no instruction-set level, so bits are equal for any
//! number of threads, and for AVX2 and AVX-512.
//!
//! Roofline: 2·m·n·k FLOP against the FMA peak; packing adds (n + packed A)·k copies. Measured
//! table and rejected attempts: docs/experiments.md. Equals reference/matmul.zig.

const std = @import("std");
const simd = @import("simd.zig");
const dtype = @import("../dtype.zig");
const args = @import("../args/matmul.zig");
const Parallel = @import("../parallel.zig").Parallel;
const pack = @import("matmul_pack.zig");
const vector = @import("matmul_vector.zig");
const tile = @import("matmul_tile.zig");

pub const matmulParts = @import("matmul_parts.zig").matmulParts;

const Failure = error{OutOfMemory};

const kc = 256;
const m_chunk = 4096;
const n_chunk = 4096;
const k_chunk = 16 * kc;
/// Batch entries packed together: many small products share one pair of parallel loops.
const group_elements = 4 << 20;
/// Columns of B that are too few to pay for packing A.
const few = 128;
/// Blocks of C per thread from which on work is even.
const enough_blocks = 3;

pub fn matmul(comptime S: type, parallel: *const Parallel, a: *const args.Matmul) Failure!void {
    if (a.m == 0 or a.n == 0 or a.batch == 0) return;
    const narrow = a.c_dtype == @backingInt(dtype.DType.bf16);
    if (!narrow and a.m <= vector.rows_max and vector.fits(S, a)) return vector.run(S, parallel, a);
    if (narrow) return throughWide(S, parallel, a);
    return blocked(S, parallel, a);
}

/// A bf16 result is made in f32 and rounded once.
fn throughWide(comptime S: type, parallel: *const Parallel, a: *const args.Matmul) Failure!void {
    if (S != f32) unreachable; // f64 products have f64 results.
    const wide = try parallel.alloc(f32, a.batch * a.m * a.n);
    var inner = a.*;
    inner.c = wide.ptr;
    inner.c_dtype = @backingInt(dtype.DType.f32);
    inner.c_batch_stride = a.m * a.n;
    inner.c_row_stride = a.n;
    inner.residual = null;
    inner.accumulate = 0;
    if (a.m <= vector.rows_max and vector.fits(S, &inner))
        try vector.run(S, parallel, &inner)
    else
        try blocked(S, parallel, &inner);
    const Round = struct {
        from: [*]const f32,
        to: [*]u16,
        residual: ?[*]const u16,
        a: *const args.Matmul,
    };
    const round: Round = .{
        .from = wide.ptr,
        .to = @ptrCast(@alignCast(a.c)),
        .residual = @ptrCast(@alignCast(a.residual)),
        .a = a,
    };
    parallel.each(a.batch * a.m, round, struct {
        fn body(r: Round, row: usize) void {
            const at = row / r.a.m * r.a.c_batch_stride + row % r.a.m * r.a.c_row_stride;
            for (0..r.a.n) |j| {
                var x = r.from[row * r.a.n + j];
                if (r.residual) |residual| x += dtype.fromBf16(residual[at + j]);
                if (r.a.accumulate != 0) x += dtype.fromBf16(r.to[at + j]);
                r.to[at + j] = dtype.toBf16(x);
            }
        }
    }.body);
}

/// The product by tiles, however few the rows are.
pub fn blocked(comptime A: type, parallel: *const Parallel, a: *const args.Matmul) Failure!void {
    const T = tile.Tile(A);
    const k_most = @min(@max(a.k, 1), k_chunk);
    const n_most = roundUp(@min(a.n, n_chunk), T.nr);
    const group = std.math.clamp(group_elements / (n_most * k_most), 1, a.batch);
    const packed_b = try parallel.alloc(A, group * n_most * k_most);
    var chunk: Chunk(A) = undefined;
    chunk.a = a;
    // Columns of A may be read in place too, where a panel fills most of a cache line and few
    // columns of B would not pay for packing it.
    const columns = T.mr * @sizeOf(A) >= 48 and a.a_row_stride == 1 and a.n <= few;
    chunk.direct = (a.a_column_stride == 1 or columns) and pack.same(A, a.a_dtype);
    chunk.packed_b = packed_b.ptr;
    var batch: usize = 0;
    while (batch < a.batch) : (batch += group) {
        chunk.batch = batch;
        chunk.group = @min(group, a.batch - batch);
        var m: usize = 0;
        while (m < a.m) : (m += m_chunk) {
            chunk.m = m;
            chunk.rows = @min(m_chunk, a.m - m);
            var n: usize = 0;
            while (n < a.n) : (n += n_chunk) {
                chunk.n = n;
                chunk.columns = @min(n_chunk, a.n - n);
                var k: usize = 0;
                while (true) {
                    chunk.k = k;
                    chunk.depth = @min(k_chunk, a.k - k);
                    chunk.run(parallel);
                    k += k_chunk;
                    if (k >= a.k) break;
                }
            }
        }
    }
}

fn roundUp(x: usize, step: usize) usize {
    return (x + step - 1) / step * step;
}

/// One part of the problem, packed and multiplied.
fn Chunk(comptime A: type) type {
    const T = tile.Tile(A);
    return struct {
        a: *const args.Matmul,
        packed_b: [*]A,
        direct: bool,
        batch: usize,
        group: usize,
        m: usize,
        rows: usize,
        n: usize,
        columns: usize,
        k: usize,
        depth: usize,
        mc: usize = 0,
        nc: usize = 0,

        const Self = @This();
        /// Rows of the largest block.
        const rows_most = 12 * T.mr;

        fn run(chunk: *Self, parallel: *const Parallel) void {
            if (chunk.depth > 0) {
                parallel.each(chunk.group * chunk.strips(), @as(*const Self, chunk), packB);
            }
            chunk.chooseBlocks(enough_blocks * @max(2, parallel.threads));
            parallel.each(
                chunk.group * chunk.blocksM() * chunk.blocksN(),
                @as(*const Self, chunk),
                job,
            );
        }

        /// As large as the caches take, halved until there are `enough` blocks for threads to
        /// share: the deeper a product, the more a small block reads for what it computes. Bits do
        /// not depend on the blocks.
        fn chooseBlocks(chunk: *Self, enough: usize) void {
            const rows = [_]usize{ 12, 6, 4, 2, 1 };
            const columns = [_]usize{ 16, 8, 4, 2 };
            var r: usize = 0;
            var c: usize = 0;
            while (true) {
                chunk.mc = rows[r] * T.mr;
                chunk.nc = columns[c] * T.nr;
                if (chunk.group * chunk.blocksM() * chunk.blocksN() >= enough) return;
                // Fewer columns cost nothing while rows keep a strip of B in use.
                const wide = chunk.blocksN() < chunk.strips() and columns[c] > 2 * rows[r];
                if (wide and c + 1 < columns.len)
                    c += 1
                else if (r + 1 < rows.len)
                    r += 1
                else
                    return;
            }
        }

        fn strips(chunk: *const Self) usize {
            return std.math.divCeil(usize, chunk.columns, T.nr) catch unreachable;
        }

        fn blocksM(chunk: *const Self) usize {
            return std.math.divCeil(usize, chunk.rows, chunk.mc) catch unreachable;
        }

        fn blocksN(chunk: *const Self) usize {
            return std.math.divCeil(usize, chunk.columns, chunk.nc) catch unreachable;
        }

        fn stripOf(chunk: *const Self, entry: usize, strip: usize) [*]A {
            return chunk.packed_b + (entry * chunk.strips() + strip) * chunk.depth * T.nr;
        }

        fn packB(chunk: *const Self, index: usize) void {
            const a = chunk.a;
            const entry = index / chunk.strips();
            const strip = index % chunk.strips();
            const column = strip * T.nr;
            const at = (chunk.batch + entry) * a.b_batch_stride +
                chunk.k * a.b_row_stride + (chunk.n + column) * a.b_column_stride;
            pack.panel(A, T.nr, chunk.stripOf(entry, strip), a.b, a.b_dtype, .{
                .offset = at,
                .count = @min(T.nr, chunk.columns - column),
                .depth = chunk.depth,
                .step = a.b_column_stride,
                .depth_step = a.b_row_stride,
            });
        }

        /// `rows` rows of A from `row0` on, `depth` steps from `k` on, in panels.
        fn packA(
            chunk: *const Self,
            panels: *[rows_most * kc]A,
            entry: usize,
            row0: usize,
            row1: usize,
            k: usize,
            depth: usize,
        ) void {
            const a = chunk.a;
            var row = row0;
            while (row < row1) : (row += T.mr) {
                const at = (chunk.batch + entry) * a.a_batch_stride +
                    (chunk.m + row) * a.a_row_stride + (chunk.k + k) * a.a_column_stride;
                pack.panel(A, T.mr, panels[(row - row0) * depth ..].ptr, a.a, a.a_dtype, .{
                    .offset = at,
                    .count = @min(T.mr, chunk.rows - row),
                    .depth = depth,
                    .step = a.a_row_stride,
                    .depth_step = a.a_column_stride,
                });
            }
        }

        /// An mc × nc block of C: all k blocks of the chunk.
        fn job(chunk: *const Self, index: usize) void {
            const per_entry = chunk.blocksM() * chunk.blocksN();
            const entry = index / per_entry;
            const block = index % per_entry;
            const row0 = block / chunk.blocksN() * chunk.mc;
            const column0 = block % chunk.blocksN() * chunk.nc;
            const row1 = @min(row0 + chunk.mc, chunk.rows);
            const column1 = @min(column0 + chunk.nc, chunk.columns);
            // On the stack of the thread: packed, used and forgotten while it is in L2.
            var panels: [rows_most * kc]A align(64) = undefined;
            var k: usize = 0;
            while (true) {
                const depth = @min(kc, chunk.depth - k);
                if (!chunk.direct) chunk.packA(&panels, entry, row0, row1, k, depth);
                var column = column0;
                while (column < column1) : (column += T.nr) {
                    const strip = chunk.stripOf(entry, column / T.nr) + k * T.nr;
                    var row = row0;
                    while (row < row1) : (row += T.mr) {
                        const panel = panels[(row - row0) * depth ..].ptr;
                        chunk.product(entry, row, column, k, depth, strip, panel);
                    }
                }
                k += kc;
                if (k >= chunk.depth) break;
            }
        }

        fn product(
            chunk: *const Self,
            entry: usize,
            row: usize,
            column: usize,
            k: usize,
            depth: usize,
            strip: [*]const A,
            panel: [*]const A,
        ) void {
            const a = chunk.a;
            const rows = @min(T.mr, chunk.rows - row);
            const columns = @min(T.nr, chunk.columns - column);
            var sources: [T.mr][*]const A = undefined;
            var step: usize = 1;
            if (chunk.direct) {
                const base: [*]const A = @ptrCast(@alignCast(a.a));
                const start = base + (chunk.batch + entry) * a.a_batch_stride +
                    (chunk.k + k) * a.a_column_stride;
                step = a.a_column_stride;
                // Rows past the end repeat the last one; their results are not stored.
                for (&sources, 0..) |*source, i| {
                    source.* = start + (chunk.m + row + @min(i, rows - 1)) * a.a_row_stride;
                }
            } else {
                step = T.mr;
                for (&sources, 0..) |*source, i| source.* = panel + i;
            }
            const first = chunk.k + k == 0;
            const c: [*]A = @ptrCast(@alignCast(a.c));
            const at = (chunk.batch + entry) * a.c_batch_stride +
                (chunk.m + row) * a.c_row_stride + chunk.n + column;
            const bias: ?[*]const A = @ptrCast(@alignCast(a.bias));
            const residual: ?[*]const A = @ptrCast(@alignCast(a.residual));
            T.multiply(&sources, step, strip, depth, .{
                .c = c + at,
                .stride = a.c_row_stride,
                .rows = rows,
                .columns = columns,
                .alpha = @floatCast(a.alpha),
                .read = a.accumulate != 0 or !first,
                .bias = if (first and bias != null) bias.? + chunk.n + column else null,
                .residual = if (first and residual != null) residual.? + at else null,
            });
        }
    };
}
