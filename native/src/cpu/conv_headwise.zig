//! Head-wise linear maps with blocks of any size, as small matrix products. Equations:
//! `args/conv.zig`; reference: `reference/conv.zig`. Blocks of 2, 4 or 8 units go to
//! `conv_headwise_small.zig`.
//!
//! y[rows, b] = x[rows, a]·Wᵀ; dx[rows, a] = dy[rows, b]·W; dW[b, a] += dyᵀ·x, per block.
//!
//! The right-hand sides are packed per block as panels [k][4 vectors] that stay in the first-level
//! cache while the rows of a piece pass. dW is summed over fixed chunks of rows, added in order.

const std = @import("std");
const simd = @import("simd.zig");
const panel = @import("slstm_panel.zig");
const small = @import("conv_headwise_small.zig");
const args = @import("../args/conv.zig");
const Parallel = @import("../parallel.zig").Parallel;

const piece_rows = 64;

pub fn headwiseForward(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.HeadwiseForward,
) error{OutOfMemory}!void {
    if (a.inputs == a.outputs) switch (a.inputs) {
        inline 2, 4, 8 => |size| if (size <= simd.lanes(simd.Arithmetic(S)))
            return small.Small(S, size).forward(parallel, a),
        else => {},
    };
    return Forward(S).run(parallel, a);
}

pub fn headwiseBackward(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.HeadwiseBackward,
) error{OutOfMemory}!void {
    if (a.inputs == a.outputs) switch (a.inputs) {
        inline 2, 4, 8 => |size| if (size <= simd.lanes(simd.Arithmetic(S)))
            return small.Small(S, size).backward(parallel, a),
        else => {},
    };
    return Backward(S).run(parallel, a);
}

/// A matrix [depth, columns] as panels of four vectors of columns; missing columns are zeros.
fn Panels(comptime A: type) type {
    return struct {
        data: [*]const A,
        depth: usize,
        columns: usize,

        const Self = @This();
        const lanes = simd.lanes(A);
        const width = 4 * lanes;

        fn size(depth: usize, columns: usize) usize {
            return @divCeil(columns, width) * width * depth;
        }

        /// Element (k, c) lies at source[k·k_step + c·c_step].
        fn pack(self: Self, source: [*]const A, k_step: usize, c_step: usize, out: [*]A) void {
            @memset(out[0..size(self.depth, self.columns)], 0);
            for (0..self.columns) |c| {
                const to = out + (c / width) * width * self.depth + c % width;
                for (0..self.depth) |k| to[k * width] = source[k * k_step + c * c_step];
            }
        }

        /// out[rows, columns] = left[rows, depth]·matrix (+ bias); `Out` is the storage type.
        fn multiply(
            self: Self,
            comptime Out: type,
            left: [*]const A,
            left_stride: usize,
            rows: usize,
            bias: ?[*]const A,
            out: [*]Out,
            out_stride: usize,
        ) void {
            @setEvalBranchQuota(100_000);
            var c: usize = 0;
            while (c < self.columns) : (c += width) {
                const vecs = @min(4, @divCeil(self.columns - c, lanes));
                var row: usize = 0;
                while (row < rows) {
                    const count = panel.nextRows(rows - row);
                    const l = left + row * left_stride;
                    const o = out + row * out_stride + c;
                    inline for (1..panel.tile_rows + 1) |n| inline for (1..5) |v| {
                        if (n == count and v == vecs)
                            self.tile(Out, n, v, l, left_stride, c, bias, o, out_stride);
                    };
                    row += count;
                }
            }
        }

        inline fn tile(
            self: Self,
            comptime Out: type,
            comptime rows: usize,
            comptime vecs: usize,
            left: [*]const A,
            left_stride: usize,
            c: usize,
            bias: ?[*]const A,
            out: [*]Out,
            out_stride: usize,
        ) void {
            var sums: panel.Tile(A, rows, vecs) = @splat(@splat(@splat(0)));
            const right = panel.neighbours(A, vecs, self.data + c * self.depth);
            panel.accumulate(A, rows, vecs, &sums, left, left_stride, 1, right, width, self.depth);
            inline for (0..vecs) |v| {
                const count = @min(lanes, self.columns - c - v * lanes);
                const add: simd.Vec(A) = if (bias) |p|
                    panel.loadPart(A, lanes, p + c + v * lanes, count, 0)
                else
                    @splat(0);
                inline for (0..rows) |r| {
                    const p = out + r * out_stride + v * lanes;
                    const value = sums[r][v] + add;
                    if (count == lanes) simd.store(Out, p, value) else //
                    panel.storePart(Out, lanes, p, count, value);
                }
            }
        }
    };
}

/// Rows of S as padded rows of the arithmetic type.
fn widen(
    comptime S: type,
    from: [*]const S,
    stride: usize,
    rows: usize,
    columns: usize,
    to: [*]simd.Arithmetic(S),
    padded: usize,
) void {
    const A = simd.Arithmetic(S);
    const lanes = simd.lanes(A);
    for (0..rows) |r| {
        var c: usize = 0;
        while (c + lanes <= columns) : (c += lanes) {
            simd.store(A, to + r * padded + c, simd.load(S, from + r * stride + c));
        }
        while (c < columns) : (c += 1) to[r * padded + c] = simd.get(S, from, r * stride + c);
        @memset((to + r * padded)[columns..padded], 0);
    }
}

fn Forward(comptime S: type) type {
    return struct {
        const A = simd.Arithmetic(S);

        a: *const args.HeadwiseForward,
        weights: []A, // per block: W as panels [a][b]
        wide: []A, // per piece: x of one block in the arithmetic type, where S is not

        const Self = @This();

        fn run(parallel: *const Parallel, a: *const args.HeadwiseForward) error{OutOfMemory}!void {
            const pieces = @divCeil(a.rows, piece_rows);
            const self: Self = .{
                .a = a,
                .weights = try parallel.alloc(A, a.blocks * Panels(A).size(a.inputs, a.outputs)),
                .wide = try parallel.alloc(A, if (S == A) 0 else pieces * piece_rows * a.inputs),
            };
            const shared: *const Self = &self;
            parallel.each(a.blocks, shared, pack);
            parallel.each(pieces, shared, piece);
        }

        fn panels(self: *const Self, block: usize) Panels(A) {
            const size = Panels(A).size(self.a.inputs, self.a.outputs);
            const data = self.weights.ptr + block * size;
            return .{ .data = data, .depth = self.a.inputs, .columns = self.a.outputs };
        }

        fn pack(self: *const Self, block: usize) void {
            const a = self.a;
            const weight: [*]const A = @ptrCast(@alignCast(a.weight));
            const to = self.panels(block);
            to.pack(weight + block * a.outputs * a.inputs, 1, a.inputs, @constCast(to.data));
        }

        fn piece(self: *const Self, index: usize) void {
            const a = self.a;
            const first = index * piece_rows;
            const rows = @min(piece_rows, a.rows - first);
            const x: [*]const S = @ptrCast(@alignCast(a.x));
            const y: [*]S = @ptrCast(@alignCast(a.y));
            const bias: ?[*]const A = if (a.bias) |p| @ptrCast(@alignCast(p)) else null;
            for (0..a.blocks) |block| {
                const from = x + first * a.x_stride + block * a.inputs;
                const to = y + first * a.y_stride + block * a.outputs;
                const b = if (bias) |p| p + block * a.outputs else null;
                if (S == A) {
                    self.panels(block).multiply(S, from, a.x_stride, rows, b, to, a.y_stride);
                } else {
                    const wide = self.wide.ptr + index * piece_rows * a.inputs;
                    widen(S, from, a.x_stride, rows, a.inputs, wide, a.inputs);
                    self.panels(block).multiply(S, wide, a.inputs, rows, b, to, a.y_stride);
                }
            }
        }
    };
}

fn Backward(comptime S: type) type {
    return struct {
        const A = simd.Arithmetic(S);
        const lanes = simd.lanes(A);

        a: *const args.HeadwiseBackward,
        chunk: usize, // rows of a task
        chunks: usize,
        padded: usize, // a rounded up to whole vectors
        weights: []A, // per block: W as panels [b][a]
        work: []A, // per task: x and dy of a piece
        sums: []A, // per task: dW [b, padded], dbias [b]

        const Self = @This();

        fn run(parallel: *const Parallel, a: *const args.HeadwiseBackward) error{OutOfMemory}!void {
            const chunk = @max(4 * piece_rows, @divCeil(a.rows, 16));
            const chunks = @divCeil(a.rows, chunk);
            const padded = @divCeil(a.inputs, lanes) * lanes;
            const tasks = a.blocks * chunks;
            const self: Self = .{
                .a = a,
                .chunk = chunk,
                .chunks = chunks,
                .padded = padded,
                .weights = try parallel.alloc(A, a.blocks * Panels(A).size(a.outputs, a.inputs)),
                .work = try parallel.alloc(A, tasks * piece_rows * (padded + a.outputs)),
                .sums = try parallel.alloc(A, tasks * a.outputs * (padded + 1)),
            };
            const shared: *const Self = &self;
            if (a.dx != null) parallel.each(a.blocks, shared, pack);
            parallel.each(tasks, shared, task);
            parallel.each(a.blocks, shared, reduce);
        }

        fn panels(self: *const Self, block: usize) Panels(A) {
            const size = Panels(A).size(self.a.outputs, self.a.inputs);
            const data = self.weights.ptr + block * size;
            return .{ .data = data, .depth = self.a.outputs, .columns = self.a.inputs };
        }

        fn pack(self: *const Self, block: usize) void {
            const a = self.a;
            const weight: [*]const A = @ptrCast(@alignCast(a.weight));
            const to = self.panels(block);
            to.pack(weight + block * a.outputs * a.inputs, a.inputs, 1, @constCast(to.data));
        }

        fn task(self: *const Self, index: usize) void {
            const a = self.a;
            const block = index / self.chunks;
            const begin = (index % self.chunks) * self.chunk;
            const end = @min(begin + self.chunk, a.rows);
            const wide_x = self.work.ptr + index * piece_rows * (self.padded + a.outputs);
            const wide_dy = wide_x + piece_rows * self.padded;
            const sums = self.taskSums(index);
            @memset(sums[0 .. a.outputs * (self.padded + 1)], 0);
            const x: [*]const S = @ptrCast(@alignCast(a.x));
            const dy: [*]const S = @ptrCast(@alignCast(a.dy));
            var first = begin;
            while (first < end) : (first += piece_rows) {
                const rows = @min(piece_rows, end - first);
                const x_block = x + first * a.x_stride + block * a.inputs;
                const dy_block = dy + first * a.y_stride + block * a.outputs;
                widen(S, x_block, a.x_stride, rows, a.inputs, wide_x, self.padded);
                widen(S, dy_block, a.y_stride, rows, a.outputs, wide_dy, a.outputs);
                if (a.dx) |p| {
                    const dx: [*]S = @ptrCast(@alignCast(p));
                    const to = dx + first * a.dx_stride + block * a.inputs;
                    self.panels(block).multiply(S, wide_dy, a.outputs, rows, null, to, a.dx_stride);
                }
                self.addWeights(wide_x, wide_dy, rows, sums);
                if (a.dbias != null) self.addBias(wide_dy, rows, sums + a.outputs * self.padded);
            }
        }

        fn taskSums(self: *const Self, index: usize) [*]A {
            return self.sums.ptr + index * self.a.outputs * (self.padded + 1);
        }

        /// dW[b, padded] += dy[rows, b]ᵀ·x[rows, padded].
        fn addWeights(
            self: *const Self,
            x: [*]const A,
            dy: [*]const A,
            rows: usize,
            sums: [*]A,
        ) void {
            @setEvalBranchQuota(100_000);
            var c: usize = 0;
            while (c < self.padded) : (c += 4 * lanes) {
                const vecs = @min(4, (self.padded - c) / lanes);
                var o: usize = 0;
                while (o < self.a.outputs) {
                    const count = panel.nextRows(self.a.outputs - o);
                    const to = sums + o * self.padded + c;
                    inline for (1..panel.tile_rows + 1) |n| inline for (1..5) |v| {
                        if (n == count and v == vecs) self.addTile(n, v, x + c, dy + o, rows, to);
                    };
                    o += count;
                }
            }
        }

        inline fn addTile(
            self: *const Self,
            comptime n: usize,
            comptime vecs: usize,
            x: [*]const A,
            dy: [*]const A,
            rows: usize,
            to: [*]A,
        ) void {
            var sums: panel.Tile(A, n, vecs) = @splat(@splat(@splat(0)));
            const right = panel.neighbours(A, vecs, x);
            panel.accumulate(A, n, vecs, &sums, dy, 1, self.a.outputs, right, self.padded, rows);
            inline for (0..n) |i| inline for (0..vecs) |v| {
                const p = to + i * self.padded + v * lanes;
                simd.store(A, p, simd.load(A, p) + sums[i][v]);
            };
        }

        fn addBias(self: *const Self, dy: [*]const A, rows: usize, sums: [*]A) void {
            const b = self.a.outputs;
            for (0..rows) |r| {
                var o: usize = 0;
                while (o + lanes <= b) : (o += lanes) {
                    simd.store(A, sums + o, simd.load(A, sums + o) + simd.load(A, dy + r * b + o));
                }
                while (o < b) : (o += 1) sums[o] += dy[r * b + o];
            }
        }

        /// dW and dbias of one block: the chunks' sums, in order.
        fn reduce(self: *const Self, block: usize) void {
            const a = self.a;
            const dweight: [*]A = @ptrCast(@alignCast(a.dweight));
            for (0..a.outputs) |o| {
                const to = dweight + (block * a.outputs + o) * a.inputs;
                var i: usize = 0;
                while (i < a.inputs) : (i += lanes) {
                    var total: simd.Vec(A) = @splat(0);
                    for (0..self.chunks) |k| {
                        const sums = self.taskSums(block * self.chunks + k);
                        total += simd.load(A, sums + o * self.padded + i);
                    }
                    panel.storePart(A, lanes, to + i, @min(lanes, a.inputs - i), total);
                }
            }
            const dbias: [*]A = @ptrCast(@alignCast(a.dbias orelse return));
            for (0..a.outputs) |o| {
                var total: A = 0;
                for (0..self.chunks) |k| {
                    total += self.taskSums(block * self.chunks + k)[a.outputs * self.padded + o];
                }
                dbias[block * a.outputs + o] = total;
            }
        }
    };
}
