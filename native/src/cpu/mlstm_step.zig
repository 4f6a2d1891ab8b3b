//! mLSTM decode step: one token for every row, the state updated in place. kernels.md §6.
//!
//! A task is one head of one row. Few heads with wide values: a first pass computes gates, n and
//! the denominator of every head, a second one C in blocks of columns.

const simd = @import("simd.zig");
const problem = @import("mlstm_problem.zig");
const cell = @import("mlstm_cell.zig");
const args = @import("../args/mlstm.zig");
const Parallel = @import("../parallel.zig").Parallel;

pub fn mlstmStep(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.MlstmStep,
) error{OutOfMemory}!void {
    return Step(S).run(parallel, a);
}

/// Columns of C that make a task of their own worth its start.
const block_columns = 64;
/// From this many heads on, heads alone keep many cores busy.
const many_heads = 16;

fn Step(comptime S: type) type {
    const A = simd.Arithmetic(S);
    const Factors = cell.Factors(A);
    return struct {
        a: *const args.MlstmStep,
        slots: problem.Slots,
        work: []A, // per slot: one row each of q, k, v, numerator
        heads: []Head,
        blocks: usize,

        const Head = struct { factors: Factors, inverse: A };
        const Self = @This();

        fn run(parallel: *const Parallel, a: *const args.MlstmStep) error{OutOfMemory}!void {
            const count = a.rows * a.heads;
            const blocks = if (count >= many_heads) 1 else @max(1, a.width_v / block_columns);
            const self: Self = .{
                .a = a,
                .slots = try .of(parallel),
                .work = try parallel.alloc(A, parallel.threads * workSize(a)),
                .heads = try parallel.alloc(Head, count),
                .blocks = blocks,
            };
            if (blocks == 1) return parallel.each(count, &self, both);
            for (0..count) |index| self.gatesOnly(index);
            parallel.each(count * blocks, &self, columns);
        }

        fn workSize(a: *const args.MlstmStep) usize {
            return 2 * problem.rounded(a.width_qk) + 2 * problem.rounded(a.width_v);
        }

        const Rows = struct { q: [*]A, k: [*]A, v: [*]A, num: [*]A };

        fn both(self: *const Self, index: usize) void {
            const slot = self.slots.claim();
            defer self.slots.release(slot);
            const rows = self.rowsOf(slot, index);
            self.gatesOf(index, rows);
            self.block(index, 0, rows);
        }

        fn gatesOnly(self: *const Self, index: usize) void {
            const slot = self.slots.claim();
            defer self.slots.release(slot);
            self.gatesOf(index, self.rowsOf(slot, index));
        }

        fn columns(self: *const Self, index: usize) void {
            const slot = self.slots.claim();
            defer self.slots.release(slot);
            const head = index / self.blocks;
            self.block(head, index % self.blocks, self.rowsOf(slot, head));
        }

        fn rowsOf(self: *const Self, slot: usize, index: usize) Rows {
            const a = self.a;
            var from: problem.Carver(A) = .{ .next = self.work.ptr + slot * workSize(a) };
            const rows: Rows = .{
                .q = from.take(a.width_qk),
                .k = from.take(a.width_qk),
                .v = from.take(a.width_v),
                .num = from.take(a.width_v),
            };
            const scale = 1 / @sqrt(@as(f64, @floatFromInt(a.width_qk)));
            const q = at(a.q, a.q_strides, index, a.heads);
            const k = at(a.k, a.k_strides, index, a.heads);
            const v = at(a.v, a.v_strides, index, a.heads);
            cell.convert(S, A, q, a.width_qk, @floatCast(scale), rows.q);
            cell.convert(S, A, k, a.width_qk, 1, rows.k);
            cell.convert(S, A, v, a.width_v, 1, rows.v);
            return rows;
        }

        fn at(
            base: *const anyopaque,
            strides: args.Strides,
            index: usize,
            heads: usize,
        ) [*]const S {
            const typed: [*]const S = @ptrCast(@alignCast(base));
            return typed + index / heads * strides.batch + index % heads * strides.head;
        }

        /// Which head of the state tensors a head of the call uses.
        fn held(self: *const Self, index: usize) usize {
            const slots: [*]const i32 = @ptrCast(@alignCast(self.a.slots orelse return index));
            const slot: usize = @intCast(slots[index / self.a.heads]);
            return slot * self.a.heads + index % self.a.heads;
        }

        fn gatesOf(self: *const Self, index: usize, rows: Rows) void {
            const a = self.a;
            const i: [*]const A = @ptrCast(@alignCast(a.i));
            const f: [*]const A = @ptrCast(@alignCast(a.f));
            const where = self.held(index);
            const sigmoid = a.input_gate == args.input_gate.sigmoid;
            const m: ?[*]A = if (sigmoid) null else @ptrCast(@alignCast(a.m));
            var none: A = 0;
            const state = if (m) |all| &all[where] else &none;
            const x: Factors = .of(A, sigmoid, i[index], f[index], state);
            var inverse: A = 1;
            if (a.normalize != 0 or !sigmoid) {
                const n: [*]A = @ptrCast(@alignCast(a.n.?));
                const row = n + where * a.width_qk;
                const sigma = cell.advanceNormalizer(A, x, row, rows.k, rows.q, a.width_qk);
                inverse = 1 / (@max(@abs(sigma), x.floor) + @as(A, @floatCast(a.eps)));
            }
            self.heads[index] = .{ .factors = x, .inverse = inverse };
        }

        /// C and h of one block of value columns.
        fn block(self: *const Self, index: usize, part: usize, rows: Rows) void {
            const a = self.a;
            const first = part * block_columns;
            const end = if (part + 1 == self.blocks) a.width_v else first + block_columns;
            const head = self.heads[index];
            const c: [*]A = @ptrCast(@alignCast(a.c));
            cell.advance(
                A,
                head.factors,
                c + self.held(index) * a.width_qk * a.width_v + first,
                a.width_v,
                rows.k,
                rows.q,
                a.width_qk,
                rows.v + first,
                rows.num + first,
                end - first,
            );
            const h: [*]S = @ptrCast(@alignCast(a.h));
            for (first..end) |column| {
                simd.put(S, h, index * a.width_v + column, rows.num[column] * head.inverse);
            }
        }
    };
}
