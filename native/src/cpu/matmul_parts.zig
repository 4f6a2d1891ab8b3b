//! Sums of products in an order that ranks can share. args/matmul.zig `MatmulParts`, mesh.md §15.
//!
//! An f32 sum is known to about 1e-7, but what follows it depends on its last bits: two runs that
//! add in different orders differ by the rounding of everything behind it. Over tp the sums of
//! row-parallel products and of the gradients of what column-parallel layers read are cut between
//! ranks, so one process adds them as the ranks do: a chain per run of steps, the chains in the
//! tree of comm/reduce.zig.
//!
//! The tile is that of matmul.zig. All steps of a tile pass through the registers at once, since
//! the chains of a tree do not fit into C: strips of B come from L2, and so do rows of A.

const std = @import("std");
const simd = @import("simd.zig");
const dtype = @import("../dtype.zig");
const args = @import("../args/matmul.zig");
const Parallel = @import("../parallel.zig").Parallel;
const pack = @import("matmul_pack.zig");
const tile = @import("matmul_tile.zig");

const Term = args.Term;

/// Elements of B that are packed at a time.
const packed_most = 16 << 20;
/// Strips of a job: about as many columns of B as L2 holds.
const strips_most = 4;
/// Blocks of C per thread from which on work is even.
const enough_blocks = 3;
const levels = std.math.log2_int(usize, args.most_parts) + 1;

pub fn matmulParts(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.MatmulParts,
) error{OutOfMemory}!void {
    if (a.m == 0 or a.n == 0) return;
    const T = tile.Tile(S);
    const terms = @as([*]const Term, @ptrCast(@alignCast(a.terms)))[0..a.count];
    var depth: usize = 0;
    for (terms) |term| depth += term.k;
    const most = std.math.clamp(packed_most / @max(depth, 1) / T.nr, 1, (a.n - 1) / T.nr + 1);
    var work: Work(S) = .{
        .a = a,
        .terms = terms,
        .depth = depth,
        .packed_b = (try parallel.alloc(S, most * T.nr * depth)).ptr,
    };
    while (work.n < a.n) : (work.n += most * T.nr) {
        work.columns = @min(most * T.nr, a.n - work.n);
        parallel.each(work.strips(), @as(*const Work(S), &work), Work(S).packB);
        work.chooseBlocks(enough_blocks * @max(2, parallel.threads));
        parallel.each(
            work.blocksM() * work.blocksN(),
            @as(*const Work(S), &work),
            Work(S).job,
        );
    }
}

/// Columns [n, n + columns) of C.
fn Work(comptime S: type) type {
    const T = tile.Tile(S);
    const lanes = simd.lanes(S);
    const V = simd.Vec(S);
    const Sums = [T.mr][2]V;
    return struct {
        a: *const args.MatmulParts,
        terms: []const Term,
        depth: usize, // steps of all terms
        packed_b: [*]S, // [strips, depth, nr], steps in the order of their use
        n: usize = 0,
        columns: usize = 0,
        tiles_m: usize = 0, // of a job
        tiles_n: usize = 0,

        const Self = @This();

        fn strips(work: *const Self) usize {
            return (work.columns - 1) / T.nr + 1;
        }

        fn blocksM(work: *const Self) usize {
            return (work.a.m - 1) / (work.tiles_m * T.mr) + 1;
        }

        fn blocksN(work: *const Self) usize {
            return (work.strips() - 1) / work.tiles_n + 1;
        }

        /// Halves blocks until there are `enough` for threads to share. Bits do not depend on them.
        fn chooseBlocks(work: *Self, enough: usize) void {
            work.tiles_m = 12;
            work.tiles_n = @min(strips_most, work.strips());
            while (work.blocksM() * work.blocksN() < enough) {
                if (work.tiles_m > 1) work.tiles_m /= 2 else if (work.tiles_n > 1)
                    work.tiles_n /= 2
                else
                    return;
            }
        }

        fn runOf(work: *const Self, term: Term, part: usize) [2]usize {
            const parts = work.a.parts;
            return .{ part * term.k / parts, (part + 1) * term.k / parts };
        }

        fn packB(work: *const Self, strip: usize) void {
            const column = work.n + strip * T.nr;
            var to = work.packed_b + strip * work.depth * T.nr;
            for (0..work.a.parts) |part| for (work.terms) |term| {
                const low, const high = work.runOf(term, part);
                pack.panel(S, T.nr, to, term.b, codeOf(S), .{
                    .offset = low * term.b_row_stride + column * term.b_column_stride,
                    .count = @min(T.nr, work.n + work.columns - column),
                    .depth = high - low,
                    .step = term.b_column_stride,
                    .depth_step = term.b_row_stride,
                });
                to += (high - low) * T.nr;
            };
        }

        fn job(work: *const Self, index: usize) void {
            const row0 = index / work.blocksN() * work.tiles_m * T.mr;
            const strip0 = index % work.blocksN() * work.tiles_n;
            const row1 = @min(row0 + work.tiles_m * T.mr, work.a.m);
            const strip1 = @min(strip0 + work.tiles_n, work.strips());
            var row = row0;
            while (row < row1) : (row += T.mr) {
                for (strip0..strip1) |strip| work.product(row, strip);
            }
        }

        /// One tile of C: a binary counter of partial sums, carried as in an addition of one.
        fn product(work: *const Self, row: usize, strip: usize) void {
            const rows = @min(T.mr, work.a.m - row);
            var partial: [levels]Sums = undefined;
            var b = work.packed_b + strip * work.depth * T.nr;
            var filled: usize = 0;
            for (0..work.a.parts) |part| {
                var sums: Sums = @splat(@splat(@splat(0)));
                for (work.terms) |term| {
                    const low, const high = work.runOf(term, part);
                    extend(&sums, term, row, rows, low, b, high - low);
                    b += (high - low) * T.nr;
                }
                filled = 0;
                while ((part >> @intCast(filled)) & 1 == 1) : (filled += 1) {
                    inline for (0..T.mr) |i| inline for (0..2) |j| {
                        sums[i][j] = partial[filled][i][j] + sums[i][j];
                    };
                }
                partial[filled] = sums;
            }
            work.store(&partial[filled], row, rows, strip);
        }

        /// sums += A·B over `depth` steps of a term from `first` on.
        inline fn extend(
            sums: *Sums,
            term: Term,
            row: usize,
            rows: usize,
            first: usize,
            strip: [*]const S,
            depth: usize,
        ) void {
            const base = @as([*]const S, @ptrCast(@alignCast(term.a))) + first;
            // Rows past the end repeat the last one; their results are not stored.
            var sources: [T.mr][*]const S = undefined;
            for (&sources, 0..) |*source, i| {
                source.* = base + (row + @min(i, rows - 1)) * term.a_row_stride;
            }
            const rows_of = sources;
            var acc = sums.*;
            var b = strip;
            for (0..depth) |k| {
                const b0: V = b[0..lanes].*;
                const b1: V = b[lanes..][0..lanes].*;
                inline for (0..T.mr) |i| {
                    const x: V = @splat(rows_of[i][k]);
                    acc[i][0] = simd.fma(V, x, b0, acc[i][0]);
                    acc[i][1] = simd.fma(V, x, b1, acc[i][1]);
                }
                b += T.nr;
            }
            sums.* = acc;
        }

        fn store(work: *const Self, sums: *const Sums, row: usize, rows: usize, strip: usize) void {
            const a = work.a;
            const column = work.n + strip * T.nr;
            const columns = @min(T.nr, a.n - column);
            const bias: ?[*]const S = @ptrCast(@alignCast(a.bias));
            const c = @as([*]S, @ptrCast(@alignCast(a.c))) + row * a.n + column;
            for (sums[0..rows], 0..) |pair, i| {
                var line: [T.nr]S = undefined;
                simd.store(S, &line, pair[0]);
                simd.store(S, line[lanes..].ptr, pair[1]);
                if (bias) |values| for (line[0..columns], values[column..][0..columns]) |*x, y| {
                    x.* += y;
                };
                @memcpy(c[i * a.n ..][0..columns], line[0..columns]);
            }
        }
    };
}

fn codeOf(comptime S: type) i32 {
    return @backingInt(if (S == f64) dtype.DType.f64 else dtype.DType.f32);
}
