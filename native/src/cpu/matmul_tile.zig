//! The register tile: acc[mr][nr] += a[mr]·b[nr] for k = 0, 1, …, then one store.
//!
//! AVX2: 6 × 2 vectors of 8 = 12 accumulators, 2 of B, 1 broadcast of A: 15 of 16 registers.
//! AVX-512: 14 × 2 vectors of 16 = 28 accumulators, 2 of B, 1 broadcast: 31 of 32.

const simd = @import("simd.zig");

pub fn Tile(comptime A: type) type {
    const lanes = simd.lanes(A);
    const V = simd.Vec(A);
    // Accumulators follow the number of registers, which follows the width of a register.
    const bytes = lanes * @sizeOf(A);
    return struct {
        pub const mr = if (bytes == 64) 14 else if (bytes == 32) 6 else 4;
        pub const nr = 2 * lanes;

        pub const Store = struct {
            c: [*]A,
            stride: usize,
            rows: usize, // valid rows and columns of the tile
            columns: usize,
            alpha: A,
            read: bool, // C is added to
            bias: ?[*]const A,
            residual: ?[*]const A, // at C's position, with C's stride
        };

        /// `sources[i][k·step]` is A's element (i, k); `strip` holds B, nr per k.
        pub fn multiply(
            sources: *const [mr][*]const A,
            step: usize,
            strip: [*]const A,
            depth: usize,
            store: Store,
        ) void {
            var acc: [mr][2]V = @splat(@splat(@splat(0)));
            const rows = sources.*;
            var b = strip;
            var at: usize = 0;
            for (0..depth) |_| {
                const b0: V = b[0..lanes].*;
                const b1: V = b[lanes..][0..lanes].*;
                inline for (0..mr) |i| {
                    const x: V = @splat(rows[i][at]);
                    acc[i][0] = simd.fma(V, x, b0, acc[i][0]);
                    acc[i][1] = simd.fma(V, x, b1, acc[i][1]);
                }
                b += nr;
                at += step;
            }
            if (store.rows == mr and store.columns == nr) return full(&acc, store);
            // A copy, so that the accumulators of whole tiles never leave their registers.
            var spilled = acc;
            partial(&spilled, store);
        }

        inline fn full(acc: *const [mr][2]V, s: Store) void {
            const alpha: V = @splat(s.alpha);
            inline for (0..mr) |i| {
                inline for (0..2) |j| {
                    const at = i * s.stride + j * lanes;
                    var x = if (s.alpha == 1) acc[i][j] else acc[i][j] * alpha;
                    if (s.read) x = simd.load(A, s.c + at) + x;
                    if (s.bias) |bias| x += simd.load(A, bias + j * lanes);
                    if (s.residual) |residual| x += simd.load(A, residual + at);
                    simd.store(A, s.c + at, x);
                }
            }
        }

        /// Edges go through a buffer, element by element in the same order of additions.
        noinline fn partial(acc: *const [mr][2]V, s: Store) void {
            var buffer: [mr][nr]A = undefined;
            inline for (0..mr) |i| {
                simd.store(A, buffer[i][0..].ptr, acc[i][0]);
                simd.store(A, buffer[i][lanes..].ptr, acc[i][1]);
            }
            for (0..s.rows) |i| for (0..s.columns) |j| {
                const at = i * s.stride + j;
                var x = buffer[i][j];
                if (s.alpha != 1) x *= s.alpha;
                if (s.read) x = s.c[at] + x;
                if (s.bias) |bias| x += bias[j];
                if (s.residual) |residual| x += residual[at];
                s.c[at] = x;
            };
        }
    };
}
