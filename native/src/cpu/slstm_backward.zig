//! sLSTM backward pass. Equations: kernels.md §7.2; reference: `reference/slstm.zig`.
//!
//! Per head, tokens in reverse: draw[rows, 4, DH] from the saved gates and the carries ȳ, c̄, n̄,
//! then ȳ[rows, DH] = draw·Rᵀ. Over all tokens: dR[DH, 4, DH] = Σ y_{t−1}ᵀ·draw, db = Σ draw.
//!
//! A task owns one head and a group of batch rows. draw and y_{t−1} of a fixed number of tokens
//! stay in cache until they have been added to the task's own dR as one matrix product; the groups'
//! sums are then added in order. y_{t−1} is recomputed from saved gates, so that bf16 outputs cost
//! dR nothing.

const std = @import("std");
const simd = @import("simd.zig");
const gates = @import("slstm_gates.zig");
const panel = @import("slstm_panel.zig");
const geometry = @import("slstm_rows.zig");
const args = @import("../args/slstm.zig");
const Parallel = @import("../parallel.zig").Parallel;

/// Rows (tokens times batch rows) of one product that adds to dR: at width 64 its operands take
/// about half of a 512 KB cache.
const product_rows = 128;

pub fn slstmBackward(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.SlstmBackward,
) error{OutOfMemory}!void {
    if (a.function == 1) return Backward(S, 1).run(parallel, a);
    return Backward(S, 0).run(parallel, a);
}

fn Backward(comptime S: type, comptime function: u32) type {
    return struct {
        const A = simd.Arithmetic(S);
        const V = simd.Vec(A);
        const lanes = simd.lanes(A);

        a: *const args.SlstmBackward,
        layout: panel.Layout(A),
        group: usize, // rows of a full group
        groups: usize,
        tokens: usize, // of one product
        packed_r: []A, // per head: layout.packTransposed
        work: []A, // per task: carries, y_{t−1}, draw
        sums: []A, // per task: dR as [blocks][in][4][lanes], then db as [blocks][4][lanes]
        clip: A,
        recurrent_clip: A,

        const Self = @This();

        fn run(parallel: *const Parallel, a: *const args.SlstmBackward) error{OutOfMemory}!void {
            var self: Self = .{
                .a = a,
                .layout = panel.Layout(A).of(a.width, a.heads),
                .group = @min(geometry.groupRows(a.batch), a.batch),
                .groups = 0,
                .tokens = 1,
                .packed_r = &.{},
                .work = &.{},
                .sums = &.{},
                .clip = bound(a.clip),
                .recurrent_clip = bound(a.recurrent_clip),
            };
            if (a.batch > 0) {
                self.groups = @divCeil(a.batch, self.group);
                self.tokens = @max(1, product_rows / self.group);
            }
            const tasks = a.heads * self.groups;
            self.packed_r = try parallel.alloc(A, a.heads * self.layout.transposedSize());
            self.work = try parallel.alloc(A, tasks * self.workSize());
            self.sums = try parallel.alloc(A, tasks * self.sumsSize());
            const shared: *const Self = &self;
            parallel.each(a.heads, shared, pack);
            parallel.each(tasks, shared, task);
            parallel.each(a.heads * self.layout.blocks, shared, reduce);
        }

        fn bound(x: f64) A {
            return if (x > 0) @floatCast(x) else std.math.inf(A);
        }

        fn slots(self: *const Self) usize {
            return self.tokens * self.group;
        }

        fn workSize(self: *const Self) usize {
            return self.layout.padded * (3 * self.group + 5 * self.slots());
        }

        fn sumsSize(self: *const Self) usize {
            return self.layout.recurrentSize() + 4 * self.layout.padded;
        }

        fn pack(self: *const Self, head: usize) void {
            const r: [*]const A = @ptrCast(@alignCast(self.a.r));
            const packed_r = self.packed_r.ptr + head * self.layout.transposedSize();
            self.layout.packTransposed(r, head, packed_r);
        }

        const Rows = struct {
            self: *const Self,
            group: geometry.Group(args.SlstmBackward),
            carry: [3][*]A, // ȳ, c̄, n̄ [rows, padded]
            before: [*]A, // y_{t−1} [slots, padded]
            draw: [*]A, // [blocks][slots][4][lanes]
            dr: [*]A,
            db: [*]A,

            fn drawAt(rows: *const Rows, block: usize, slot: usize) [*]A {
                return rows.draw + (block * rows.self.slots() + slot) * 4 * lanes;
            }
        };

        fn task(self: *const Self, index: usize) void {
            const a = self.a;
            const layout = self.layout;
            const work = self.work.ptr + index * self.workSize();
            const sums = self.sums.ptr + index * self.sumsSize();
            const size = self.group * layout.padded;
            const rows: Rows = .{
                .self = self,
                .group = .of(a, self.group, index),
                .carry = .{ work, work + size, work + 2 * size },
                .before = work + 3 * size,
                .draw = work + 3 * size + self.slots() * layout.padded,
                .dr = sums,
                .db = sums + layout.recurrentSize(),
            };
            @memset(sums[0..self.sumsSize()], 0);
            loadCarries(&rows);
            var end: usize = a.length;
            while (end > 0) {
                const start = (end - 1) / self.tokens * self.tokens;
                var t = end;
                while (t > start) {
                    t -= 1;
                    token(&rows, t, (t - start) * rows.group.count);
                }
                addProduct(&rows, (end - start) * rows.group.count);
                end = start;
            }
            storeCarries(&rows);
        }

        fn loadCarries(rows: *const Rows) void {
            const layout = rows.self.layout;
            const dlast: ?[*]const A = if (rows.self.a.dlast) |p| @ptrCast(@alignCast(p)) else null;
            for (0..rows.group.count) |row| for (rows.carry, 0..) |carry, part| {
                const given = dlast != null and (function == 0 or part < 2);
                const from = if (given) dlast.? + rows.group.state(row, part) else null;
                layout.loadRow(from, carry + row * layout.padded);
            };
        }

        fn storeCarries(rows: *const Rows) void {
            const a = rows.self.a;
            const layout = rows.self.layout;
            const dinitial: [*]A = @ptrCast(@alignCast(a.dinitial orelse return));
            for (0..rows.group.count) |row| {
                for (rows.carry, 0..) |carry, part| {
                    const from = carry[row * layout.padded ..][0..a.width];
                    @memcpy(dinitial[rows.group.state(row, part)..][0..a.width], from);
                }
                const dm = dinitial[rows.group.state(row, 3)..][0..a.width];
                @memset(dm, 0);
                if (function == 1) continue;
                const initial: [*]const A = @ptrCast(@alignCast(a.initial orelse continue));
                for ([2]usize{ 1, 2 }) |part| {
                    const value = initial[rows.group.state(row, part)..][0..a.width];
                    const gradient = dinitial[rows.group.state(row, part)..][0..a.width];
                    for (dm, value, gradient) |*out, x, dx| out.* += x * dx;
                }
            }
        }

        /// Token t of all rows of the group; its draw and y_{t−1} go to `slot` onwards.
        fn token(rows: *const Rows, t: usize, slot: usize) void {
            @setEvalBranchQuota(100_000);
            const layout = rows.self.layout;
            for (0..rows.group.count) |row| {
                if (!rows.group.active(row, t)) {
                    idle(rows, row, t, slot + row);
                    continue;
                }
                const whole = layout.width / lanes;
                for (0..whole) |block| unit(rows, true, block, row, t, slot + row);
                if (whole < layout.blocks) unit(rows, false, whole, row, t, slot + row);
            }
            if (rows.self.a.recurrent_cut != 0) {
                for (0..rows.group.count) |row| if (rows.group.active(row, t)) {
                    layout.loadRow(null, rows.carry[0] + row * layout.padded);
                };
            } else {
                var row: usize = 0;
                while (row < rows.group.count) {
                    const count = panel.nextRows(rows.group.count - row);
                    inline for (1..panel.tile_rows + 1) |n| {
                        if (n == count) flowBack(rows, n, row, t, slot + row);
                    }
                    row += count;
                }
            }
            if (rows.self.a.borders == null) return;
            for (0..rows.group.count) |row| {
                if (!rows.group.active(row, t) or !rows.group.border(row, t)) continue;
                for (rows.carry) |carry| layout.loadRow(null, carry + row * layout.padded);
            }
        }

        /// A row beyond its length adds nothing and keeps its carries.
        fn idle(rows: *const Rows, row: usize, t: usize, slot: usize) void {
            const a = rows.self.a;
            const layout = rows.self.layout;
            @memset(rows.before[slot * layout.padded ..][0..layout.padded], 0);
            for (0..layout.blocks) |block| @memset(rows.drawAt(block, slot)[0 .. 4 * lanes], 0);
            const dwx: [*]S = @ptrCast(@alignCast(a.dwx));
            for (0..4) |g| {
                @memset(dwx[rows.group.gate(row, t, g)..][0..a.width], 0);
            }
        }

        /// draw of one vector of units.
        inline fn unit(
            rows: *const Rows,
            comptime whole: bool,
            block: usize,
            row: usize,
            t: usize,
            slot: usize,
        ) void {
            const self = rows.self;
            const a = self.a;
            const first = block * lanes;
            const count = if (whole) lanes else a.width - first;
            const saved_tensor: [*]const A = @ptrCast(@alignCast(a.saved));
            const planes = saved_tensor + rows.group.token(
                row,
                t,
            ) * args.saved_planes * a.width + first;
            const at = row * self.layout.padded + first;
            const past = before(rows, whole, block, row, t);
            simd.store(A, rows.before + slot * self.layout.padded + first, past.y);
            var kept: [args.saved_planes]V = undefined;
            inline for (&kept, 0..) |*plane, k| {
                // Units beyond the width divide by their n.
                const fill = if (k == 1) 1 else 0;
                // Tokens of many rows lie too far apart for the processor to foresee.
                @prefetch(planes + k * a.width - 2 * a.heads * args.saved_planes * a.width, .{});
                plane.* = get(A, whole, planes + k * a.width, count, fill);
            }
            const saved = gates.unpack(V, function, kept, past.c, past.n);
            const dy_tensor: [*]const S = @ptrCast(@alignCast(a.dy));
            const dy_here = dy_tensor + rows.group.token(row, t) * a.width + first;
            @prefetch(dy_here - 2 * a.heads * a.width, .{});
            const dy = get(S, whole, dy_here, count, 0) + simd.load(A, rows.carry[0] + at);
            const out = gates.backward(
                V,
                function,
                saved,
                dy,
                simd.load(A, rows.carry[1] + at),
                simd.load(A, rows.carry[2] + at),
                @splat(self.clip),
            );
            simd.store(A, rows.carry[1] + at, out.carry_c);
            simd.store(A, rows.carry[2] + at, out.carry_n);
            const draw = rows.drawAt(block, slot);
            const dwx: [*]S = @ptrCast(@alignCast(a.dwx));
            inline for (0..4) |g| {
                simd.store(A, draw + g * lanes, out.raw[g]);
                const p = dwx + rows.group.gate(row, t, g) + first;
                @prefetch(p - 4 * a.heads * a.width, .{ .rw = .write });
                if (whole) simd.store(S, p, out.raw[g]) else //
                panel.storePart(S, lanes, p, count, out.raw[g]);
            }
        }

        const Past = struct { y: V, c: V, n: V };

        /// y, c and n that token t started from.
        inline fn before(
            rows: *const Rows,
            comptime whole: bool,
            block: usize,
            row: usize,
            t: usize,
        ) Past {
            const a = rows.self.a;
            const first = block * lanes;
            const count = if (whole) lanes else a.width - first;
            const zero: V = @splat(0);
            const fresh: Past = .{ .y = zero, .c = zero, .n = zero };
            if (rows.group.border(row, t)) return fresh;
            if (t == 0) {
                const initial: [*]const A = @ptrCast(@alignCast(a.initial orelse return fresh));
                return .{
                    .y = get(A, whole, initial + rows.group.state(row, 0) + first, count, 0),
                    .c = get(A, whole, initial + rows.group.state(row, 1) + first, count, 0),
                    .n = get(A, whole, initial + rows.group.state(row, 2) + first, count, 0),
                };
            }
            const saved: [*]const A = @ptrCast(@alignCast(a.saved));
            const planes = saved + rows.group.token(
                row,
                t - 1,
            ) * args.saved_planes * a.width + first;
            const c_past = get(A, whole, planes, count, 0);
            const n_past = get(A, whole, planes + a.width, count, 1);
            const o_past = get(A, whole, planes + 4 * a.width, count, 0);
            const y_past = gates.output(V, function, c_past, n_past, o_past);
            const clipped = gates.clamp(V, y_past, @splat(rows.self.clip));
            return .{ .y = clipped, .c = c_past, .n = n_past };
        }

        /// ȳ = draw·Rᵀ for n neighbouring rows.
        fn flowBack(rows: *const Rows, comptime n: usize, row: usize, t: usize, slot: usize) void {
            @setEvalBranchQuota(100_000);
            const layout = rows.self.layout;
            for (0..layout.inPanels()) |in| {
                const vecs = @min(4, layout.blocks - in * 4);
                inline for (1..5) |v| if (v == vecs) flowBackPanel(rows, n, v, in, row, t, slot);
            }
        }

        inline fn flowBackPanel(
            rows: *const Rows,
            comptime count: usize,
            comptime vecs: usize,
            in: usize,
            row: usize,
            t: usize,
            slot: usize,
        ) void {
            const self = rows.self;
            const layout = self.layout;
            const r_head = self.packed_r.ptr + rows.group.head * layout.transposedSize();
            const r = r_head + in * layout.panelSize();
            const width = 4 * lanes;
            var sums: panel.Tile(A, count, vecs) = @splat(@splat(@splat(0)));
            for (0..layout.blocks) |block| {
                const right = panel.neighbours(A, vecs, r + block * width * width);
                const left = rows.drawAt(block, slot);
                panel.accumulate(A, count, vecs, &sums, left, width, 1, right, width, width);
            }
            inline for (0..count) |i| if (rows.group.active(row + i, t)) {
                const to = rows.carry[0] + (row + i) * layout.padded + in * width;
                inline for (0..vecs) |v| {
                    const clipped = gates.clamp(V, sums[i][v], @splat(self.recurrent_clip));
                    simd.store(A, to + v * lanes, clipped);
                }
            };
        }

        /// dR += y_{t−1}ᵀ·draw and db += Σ draw over the first `count` slots.
        fn addProduct(rows: *const Rows, count: usize) void {
            @setEvalBranchQuota(100_000);
            const layout = rows.self.layout;
            for (0..layout.blocks) |block| {
                const draw = rows.drawAt(block, 0);
                var in: usize = 0;
                while (in < layout.width) {
                    const left = panel.nextRows(layout.width - in);
                    inline for (1..panel.tile_rows + 1) |n| {
                        if (n == left) addTile(rows, n, in, block, draw, count);
                    }
                    in += left;
                }
                const db = rows.db + block * 4 * lanes;
                inline for (0..4) |g| {
                    var total: V = @splat(0);
                    for (0..count) |slot| total += simd.load(A, draw + (slot * 4 + g) * lanes);
                    simd.store(A, db + g * lanes, simd.load(A, db + g * lanes) + total);
                }
            }
        }

        inline fn addTile(
            rows: *const Rows,
            comptime n: usize,
            in: usize,
            block: usize,
            draw: [*]const A,
            count: usize,
        ) void {
            const layout = rows.self.layout;
            var sums: panel.Tile(A, n, 4) = @splat(@splat(@splat(0)));
            const right = panel.neighbours(A, 4, draw);
            const left = rows.before + in;
            panel.accumulate(A, n, 4, &sums, left, 1, layout.padded, right, 4 * lanes, count);
            inline for (0..n) |i| inline for (0..4) |g| {
                const p = rows.dr + block * layout.blockSize() + ((in + i) * 4 + g) * lanes;
                simd.store(A, p, simd.load(A, p) + sums[i][g]);
            };
        }

        /// dr and db of one block of units: the groups' sums, in order.
        fn reduce(self: *const Self, index: usize) void {
            const a = self.a;
            const layout = self.layout;
            const head = index / layout.blocks;
            const block = index % layout.blocks;
            const dr: [*]A = @ptrCast(@alignCast(a.dr));
            const db: [*]A = @ptrCast(@alignCast(a.db));
            for (0..4) |gate| {
                const column = (gate * a.heads + head);
                for (0..a.width) |in| {
                    const offset = block * layout.blockSize() + (in * 4 + gate) * lanes;
                    self.reduceVector(head, block, offset, dr + (column * a.width + in) * a.width);
                }
                const offset = layout.recurrentSize() + (block * 4 + gate) * lanes;
                self.reduceVector(head, block, offset, db + column * a.width);
            }
        }

        fn reduceVector(
            self: *const Self,
            head: usize,
            block: usize,
            offset: usize,
            to: [*]A,
        ) void {
            var total: V = @splat(0);
            for (0..self.groups) |g| {
                const sums = self.sums.ptr + (head * self.groups + g) * self.sumsSize();
                total += simd.load(A, sums + offset);
            }
            const first = block * lanes;
            panel.storePart(A, lanes, to + first, @min(lanes, self.a.width - first), total);
        }

        inline fn get(
            comptime T: type,
            comptime whole: bool,
            p: [*]const T,
            count: usize,
            fill: A,
        ) V {
            return if (whole) simd.load(T, p) else panel.loadPart(T, lanes, p, count, fill);
        }
    };
}
