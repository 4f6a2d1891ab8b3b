//! Head-wise linear maps with square blocks of 2, 4 or 8 units: a register holds several blocks of
//! one row, and the inputs of a block reach its outputs by a shuffle within the register.
//!
//! y = Σ_i W_i∘spread_i(x), W_i[h·size + o] = w[h, o, i], spread_i(x)[h·size + o] = x[h·size + i];
//! dx = Σ_o V_o∘spread_o(dy) with V_o[h·size + i] = w[h, o, i]; dW_i += dy∘spread_i(x).
//!
//! Weights and sums are loaded once per group of rows. dW is summed over fixed chunks of rows,
//! added in order.

const std = @import("std");
const simd = @import("simd.zig");
const args = @import("../args/conv.zig");
const Parallel = @import("../parallel.zig").Parallel;

const group_rows = 8;
const forward_rows = 64;

pub fn Small(comptime S: type, comptime size: comptime_int) type {
    return struct {
        const A = simd.Arithmetic(S);
        const lanes = simd.lanes(A);

        /// Element i of every block, at all places of the block.
        inline fn spread(comptime n: usize, comptime i: usize, x: @Vector(n, A)) @Vector(n, A) {
            comptime var mask: [n]i32 = undefined;
            inline for (&mask, 0..) |*lane, at| lane.* = at / size * size + i;
            return @shuffle(A, x, undefined, @as(@Vector(n, i32), mask));
        }

        /// w [n, size, size] as size rows of n·size: out[i][h, o] = w[h, o, i], or the transpose.
        fn arrange(weight: [*]const A, blocks: usize, transposed: bool, out: [*]A) void {
            for (0..size) |i| for (0..blocks) |h| for (0..size) |o| {
                const row = if (transposed) i else o;
                const column = if (transposed) o else i;
                out[(i * blocks + h) * size + o] = weight[(h * size + row) * size + column];
            };
        }

        const Forward = struct {
            a: *const args.HeadwiseForward,
            weights: [*]const A,

            fn task(self: *const Forward, index: usize) void {
                const first = index * forward_rows;
                const end = @min(first + forward_rows, self.a.rows);
                var row = first;
                while (row < end) {
                    const count = @min(group_rows, end - row);
                    const width = self.a.blocks * size;
                    var f: usize = 0;
                    while (f + lanes <= width) : (f += lanes) self.columns(lanes, row, count, f);
                    while (f < width) : (f += size) self.columns(size, row, count, f);
                    row += count;
                }
            }

            /// Columns f..f + n of some rows.
            inline fn columns(
                self: *const Forward,
                comptime n: comptime_int,
                first: usize,
                count: usize,
                f: usize,
            ) void {
                const a = self.a;
                const V = @Vector(n, A);
                var w: [size]V = undefined;
                inline for (&w, 0..) |*value, i| {
                    value.* = simd.loadN(A, n, self.weights + i * a.blocks * size + f);
                }
                const bias: ?[*]const A = if (a.bias) |p| @ptrCast(@alignCast(p)) else null;
                const begin: V = if (bias) |p| simd.loadN(A, n, p + f) else @splat(0);
                const x: [*]const S = @ptrCast(@alignCast(a.x));
                const y: [*]S = @ptrCast(@alignCast(a.y));
                for (first..first + count) |row| {
                    const value = simd.loadN(S, n, x + row * a.x_stride + f);
                    var sum = begin;
                    inline for (w, 0..) |weight, i| {
                        sum = simd.fma(V, weight, spread(n, i, value), sum);
                    }
                    simd.storeN(S, n, y + row * a.y_stride + f, sum);
                }
            }
        };

        pub fn forward(
            parallel: *const Parallel,
            a: *const args.HeadwiseForward,
        ) error{OutOfMemory}!void {
            const weights = try parallel.alloc(A, size * a.blocks * size);
            arrange(@ptrCast(@alignCast(a.weight)), a.blocks, false, weights.ptr);
            const self: Forward = .{ .a = a, .weights = weights.ptr };
            parallel.each(@divCeil(a.rows, forward_rows), @as(*const Forward, &self), Forward.task);
        }

        const Backward = struct {
            a: *const args.HeadwiseBackward,
            chunk: usize, // rows of a task
            chunks: usize,
            weights: [*]const A, // V_o
            sums: [*]A, // per task: dW_i, then dbias

            fn taskSums(self: *const Backward, index: usize) [*]A {
                return self.sums + index * (size + 1) * self.a.blocks * size;
            }

            fn task(self: *const Backward, index: usize) void {
                const width = self.a.blocks * size;
                const sums = self.taskSums(index);
                @memset(sums[0 .. (size + 1) * width], 0);
                const end = @min((index + 1) * self.chunk, self.a.rows);
                var row = index * self.chunk;
                while (row < end) {
                    const count = @min(group_rows, end - row);
                    var f: usize = 0;
                    while (f + lanes <= width) : (f += lanes) {
                        self.columns(lanes, row, count, f, sums);
                    }
                    while (f < width) : (f += size) self.columns(size, row, count, f, sums);
                    row += count;
                }
            }

            inline fn columns(
                self: *const Backward,
                comptime n: comptime_int,
                first: usize,
                count: usize,
                f: usize,
                sums: [*]A,
            ) void {
                const a = self.a;
                const V = @Vector(n, A);
                const width = a.blocks * size;
                var w: [size]V = undefined;
                inline for (&w, 0..) |*value, o| {
                    value.* = simd.loadN(A, n, self.weights + o * width + f);
                }
                // Sums of the group start at zero, so that long sums lose less to rounding.
                var dw: [size + 1]V = @splat(@splat(0));
                const x: [*]const S = @ptrCast(@alignCast(a.x));
                const dy: [*]const S = @ptrCast(@alignCast(a.dy));
                const dx: ?[*]S = if (a.dx) |p| @ptrCast(@alignCast(p)) else null;
                for (first..first + count) |row| {
                    const input = simd.loadN(S, n, x + row * a.x_stride + f);
                    const d = simd.loadN(S, n, dy + row * a.y_stride + f);
                    inline for (0..size) |i| dw[i] = simd.fma(V, d, spread(n, i, input), dw[i]);
                    dw[size] += d;
                    const out = dx orelse continue;
                    var sum: V = @splat(0);
                    inline for (w, 0..) |weight, o| sum = simd.fma(V, weight, spread(n, o, d), sum);
                    simd.storeN(S, n, out + row * a.dx_stride + f, sum);
                }
                inline for (dw, 0..) |value, i| {
                    const p = sums + i * width + f;
                    simd.storeN(A, n, p, simd.loadN(A, n, p) + value);
                }
            }

            /// dW and dbias of one block: the chunks' sums, in order.
            fn reduce(self: *const Backward, block: usize) void {
                const a = self.a;
                const V = @Vector(size, A);
                const dweight: [*]A = @ptrCast(@alignCast(a.dweight));
                const dbias: ?[*]A = if (a.dbias) |p| @ptrCast(@alignCast(p)) else null;
                for (0..size + 1) |i| {
                    var total: V = @splat(0);
                    for (0..self.chunks) |k| {
                        const sums = self.taskSums(k);
                        total += simd.loadN(A, size, sums + (i * a.blocks + block) * size);
                    }
                    const values: [size]A = total;
                    for (values, 0..) |value, o| {
                        if (i < size) dweight[(block * size + o) * size + i] = value else //
                        if (dbias) |p| p[block * size + o] = value;
                    }
                }
            }
        };

        pub fn backward(
            parallel: *const Parallel,
            a: *const args.HeadwiseBackward,
        ) error{OutOfMemory}!void {
            const chunk = @max(forward_rows, @divCeil(a.rows, 64));
            const chunks = @divCeil(a.rows, chunk);
            const weights = try parallel.alloc(A, size * a.blocks * size);
            arrange(@ptrCast(@alignCast(a.weight)), a.blocks, true, weights.ptr);
            const sums = try parallel.alloc(A, chunks * (size + 1) * a.blocks * size);
            const self: Backward = .{
                .a = a,
                .chunk = chunk,
                .chunks = chunks,
                .weights = weights.ptr,
                .sums = sums.ptr,
            };
            const shared: *const Backward = &self;
            parallel.each(chunks, shared, Backward.task);
            parallel.each(a.blocks, shared, Backward.reduce);
        }
    };
}
