//! One sLSTM token for every row, the state updated in place (decoding). Same arithmetic, in the
//! same order, as `slstm_forward.zig`: a step has the bits of the whole pass.
//!
//! R is read where it lies, once per tile of rows, so a single row streams it at memory speed; only
//! the last vector of units, where it is not full, goes through a packed copy. Tasks are vectors of
//! units of one head; they read y_{t−1} from a copy because others overwrite it.

const std = @import("std");
const simd = @import("simd.zig");
const gates = @import("slstm_gates.zig");
const panel = @import("slstm_panel.zig");
const args = @import("../args/slstm.zig");
const Parallel = @import("../parallel.zig").Parallel;

/// Vectors of units of a task.
const task_blocks = 4;

pub fn slstmStep(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.SlstmStep,
) error{OutOfMemory}!void {
    if (a.function == 1) return Step(S, 1).run(parallel, a);
    return Step(S, 0).run(parallel, a);
}

fn Step(comptime S: type, comptime function: u32) type {
    return struct {
        const A = simd.Arithmetic(S);
        const V = simd.Vec(A);
        const lanes = simd.lanes(A);

        a: *const args.SlstmStep,
        layout: panel.Layout(A),
        before: []A, // y_{t−1} [NH, rows, DH]
        tail: []A, // per head: the packed last block, where it is not full
        bias: []A, // per head: layout.packBias
        clip: A,

        const Self = @This();

        fn run(parallel: *const Parallel, a: *const args.SlstmStep) error{OutOfMemory}!void {
            const layout = panel.Layout(A).of(a.width, a.heads);
            const ragged = layout.padded != a.width;
            const self: Self = .{
                .a = a,
                .layout = layout,
                .before = try parallel.alloc(A, a.heads * a.rows * a.width),
                .tail = try parallel.alloc(A, if (ragged) a.heads * layout.blockSize() else 0),
                .bias = try parallel.alloc(A, a.heads * 4 * layout.padded),
                .clip = if (a.clip > 0) @floatCast(a.clip) else std.math.inf(A),
            };
            parallel.each(a.heads, &self, prepare);
            parallel.each(a.heads * self.chunks(), &self, task);
        }

        fn chunks(self: *const Self) usize {
            return @divCeil(self.layout.blocks, task_blocks);
        }

        fn slot(self: *const Self, row: usize) usize {
            const slots: [*]const i32 = @ptrCast(@alignCast(self.a.slots orelse return row));
            return @intCast(slots[row]);
        }

        fn stateRow(self: *const Self, row: usize, part: usize, head: usize) [*]A {
            const state: [*]A = @ptrCast(@alignCast(self.a.state));
            return state + ((self.slot(row) * 4 + part) * self.a.heads + head) * self.a.width;
        }

        fn prepare(self: *const Self, head: usize) void {
            const a = self.a;
            const layout = self.layout;
            for (0..a.rows) |row| {
                const to = self.before.ptr + (head * a.rows + row) * a.width;
                @memcpy(to[0..a.width], self.stateRow(row, 0, head)[0..a.width]);
            }
            const b: [*]const A = @ptrCast(@alignCast(a.b));
            layout.packBias(b, head, self.bias.ptr + head * 4 * layout.padded);
            if (layout.padded == a.width) return;
            const r: [*]const A = @ptrCast(@alignCast(a.r));
            layout.packBlock(r, head, layout.blocks - 1, self.tail.ptr + head * layout.blockSize());
        }

        fn task(self: *const Self, index: usize) void {
            const head = index / self.chunks();
            const first = (index % self.chunks()) * task_blocks;
            var row: usize = 0;
            while (row < self.a.rows) {
                const count = panel.nextRows(self.a.rows - row);
                inline for (1..panel.tile_rows + 1) |n| {
                    if (n == count) {
                        for (first..@min(first + task_blocks, self.layout.blocks)) |block|
                            tile(self, n, head, row, block);
                    }
                }
                row += count;
            }
        }

        fn tile(
            self: *const Self,
            comptime count: usize,
            head: usize,
            row: usize,
            block: usize,
        ) void {
            @setEvalBranchQuota(100_000);
            const a = self.a;
            const width = a.width;
            const before = self.before.ptr + (head * a.rows + row) * width;
            var sums: panel.Tile(A, count, 4) = @splat(@splat(@splat(0)));
            if ((block + 1) * lanes <= width) {
                const r: [*]const A = @ptrCast(@alignCast(a.r));
                var right: [4][*]const A = undefined;
                for (&right, 0..) |*p, gate|
                    p.* = r + (gate * a.heads + head) * width * width + block * lanes;
                panel.accumulate(A, count, 4, &sums, before, width, 1, right, width, width);
                inline for (0..count) |i| unit(self, true, sums[i], head, row + i, block);
            } else {
                const tail = self.tail.ptr + head * self.layout.blockSize();
                const right = panel.neighbours(A, 4, tail);
                panel.accumulate(A, count, 4, &sums, before, width, 1, right, 4 * lanes, width);
                inline for (0..count) |i| unit(self, false, sums[i], head, row + i, block);
            }
        }

        inline fn unit(
            self: *const Self,
            comptime whole: bool,
            sums: [4]V,
            head: usize,
            row: usize,
            block: usize,
        ) void {
            const a = self.a;
            const first = block * lanes;
            const count = if (whole) lanes else a.width - first;
            const wx: [*]const S = @ptrCast(@alignCast(a.wx));
            const bias = self.bias.ptr + (head * self.layout.blocks + block) * 4 * lanes;
            var raw: [4]V = undefined;
            inline for (0..4) |g| {
                const p = wx + ((row * 4 + g) * a.heads + head) * a.width + first;
                const x = get(S, whole, p, count);
                raw[g] = sums[g] + (x + simd.load(A, bias + g * lanes));
            }
            var state: [4][*]A = undefined;
            for (&state, 0..) |*p, part| p.* = self.stateRow(row, part, head) + first;
            const c_before = get(A, whole, state[1], count);
            const n_before = get(A, whole, state[2], count);
            const m_before = get(A, whole, state[3], count);
            const cell = if (function == 1)
                gates.lstm(V, raw, c_before)
            else
                gates.slstm(V, raw, c_before, n_before, m_before);
            const y_now = gates.clamp(V, cell.y, @splat(self.clip));
            const zero: V = @splat(0);
            put(A, whole, state[0], count, y_now);
            put(A, whole, state[1], count, cell.c);
            put(A, whole, state[2], count, if (function == 1) zero else cell.n);
            put(A, whole, state[3], count, if (function == 1) zero else cell.m);
            const y: [*]S = @ptrCast(@alignCast(a.y));
            put(S, whole, y + (row * a.heads + head) * a.width + first, count, y_now);
        }

        inline fn get(comptime T: type, comptime whole: bool, p: [*]const T, count: usize) V {
            return if (whole) simd.load(T, p) else panel.loadPart(T, lanes, p, count, 0);
        }

        inline fn put(comptime T: type, comptime whole: bool, p: [*]T, count: usize, v: V) void {
            if (whole) simd.store(T, p, v) else panel.storePart(T, lanes, p, count, v);
        }
    };
}
