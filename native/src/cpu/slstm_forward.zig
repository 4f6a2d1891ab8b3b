//! sLSTM forward pass, T tokens. Equations: `args/slstm.zig`; reference: `reference/slstm.zig`.
//!
//! raw[rows, 4, DH] = y_{t−1}[rows, DH]·R[DH, 4, DH] + (wx + b), then the gates, per head.
//!
//! A task owns one head and a group of batch rows for all tokens: nothing crosses tasks. R lies
//! packed as [block of units][in][4 gates][lanes], so a register tile holds all four gates of one
//! vector of units; all products of a token come before its gates, which overwrite y_{t−1}.

const std = @import("std");
const simd = @import("simd.zig");
const gates = @import("slstm_gates.zig");
const panel = @import("slstm_panel.zig");
const geometry = @import("slstm_rows.zig");
const args = @import("../args/slstm.zig");
const Parallel = @import("../parallel.zig").Parallel;

pub fn slstmForward(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.SlstmForward,
) error{OutOfMemory}!void {
    if (a.function == 1) return Forward(S, 1).run(parallel, a);
    return Forward(S, 0).run(parallel, a);
}

fn Forward(comptime S: type, comptime function: u32) type {
    return struct {
        const A = simd.Arithmetic(S);
        const lanes = simd.lanes(A);
        /// Units whose gates are computed together: two registers, because one alone would wait for
        /// the long chain of dependent instructions from raw to y.
        const bundle = 2 * lanes;
        const W = @Vector(bundle, A);

        a: *const args.SlstmForward,
        layout: panel.Layout(A),
        padded: usize, // DH rounded up to whole bundles
        group: usize, // rows of a full group
        packed_r: []A, // per head: layout.packRecurrent
        bias: []A, // [NH, 4, padded]
        work: []A, // per task: states and raw
        clip: A,

        const Self = @This();

        fn run(parallel: *const Parallel, a: *const args.SlstmForward) error{OutOfMemory}!void {
            const layout = panel.Layout(A).of(a.width, a.heads);
            const padded = @divCeil(a.width, bundle) * bundle;
            const group = @min(geometry.groupRows(a.batch), a.batch);
            const groups = if (a.batch == 0) 0 else @divCeil(a.batch, group);
            const self: Self = .{
                .a = a,
                .layout = layout,
                .padded = padded,
                .group = group,
                .packed_r = try parallel.alloc(A, a.heads * layout.recurrentSize()),
                .bias = try parallel.alloc(A, a.heads * 4 * padded),
                .work = try parallel.alloc(A, a.heads * groups * 8 * group * padded),
                .clip = if (a.clip > 0) @floatCast(a.clip) else std.math.inf(A),
            };
            parallel.each(a.heads, &self, pack);
            parallel.each(a.heads * groups, &self, task);
        }

        fn pack(self: *const Self, head: usize) void {
            const a = self.a;
            const r: [*]const A = @ptrCast(@alignCast(a.r));
            const packed_r = self.packed_r.ptr + head * self.layout.recurrentSize();
            self.layout.packRecurrent(r, head, packed_r);
            const b: [*]const A = @ptrCast(@alignCast(a.b));
            for (0..4) |g| {
                const to = self.bias[(head * 4 + g) * self.padded ..][0..self.padded];
                @memcpy(to[0..a.width], b[(g * a.heads + head) * a.width ..][0..a.width]);
                @memset(to[a.width..], 0);
            }
        }

        /// The rows of one group in one head, and where their states live.
        const Rows = struct {
            self: *const Self,
            group: geometry.Group(args.SlstmForward),
            state: [4][*]A, // y, c, n, m, each [rows, padded]
            raw: [*]A, // [rows, 4, padded]

            /// One part of one row of a state [B, 4, NH, DH].
            fn outer(rows: *const Rows, tensor: anytype, row: usize, part: usize) @TypeOf(tensor) {
                return tensor + rows.group.state(row, part);
            }

            fn inner(rows: *const Rows, row: usize, part: usize) []A {
                const padded = rows.self.padded;
                return rows.state[part][row * padded ..][0..padded];
            }
        };

        fn task(self: *const Self, index: usize) void {
            @setEvalBranchQuota(100_000);
            const a = self.a;
            const size = self.group * self.padded;
            const base = self.work.ptr + index * 8 * size;
            const group: geometry.Group(args.SlstmForward) = .of(a, self.group, index);
            const rows: Rows = .{
                .self = self,
                .group = group,
                .state = .{ base, base + size, base + 2 * size, base + 3 * size },
                .raw = base + 4 * size,
            };
            // Units beyond the width enter the gate arithmetic of the last bundle as zeros.
            @memset(base[0 .. 8 * size], 0);
            loadStates(&rows);
            for (0..a.length) |t| {
                resetAtBorders(&rows, t);
                var row: usize = 0;
                while (row < group.count) {
                    const left = panel.nextRows(group.count - row);
                    inline for (1..panel.tile_rows + 1) |n| if (n == left) product(&rows, n, row);
                    row += left;
                }
                const whole = a.width / bundle * bundle;
                for (0..group.count) |i| {
                    if (!group.active(i, t)) {
                        idle(&rows, i, t);
                        continue;
                    }
                    var u: usize = 0;
                    while (u < whole) : (u += bundle) unit(&rows, true, u, i, t);
                    if (whole < a.width) unit(&rows, false, whole, i, t);
                }
            }
            storeStates(&rows);
        }

        fn loadStates(rows: *const Rows) void {
            const width = rows.self.a.width;
            const initial: [*]const A = @ptrCast(@alignCast(rows.self.a.initial orelse return));
            for (0..rows.group.count) |row| for (0..if (function == 1) 2 else 4) |part| {
                @memcpy(rows.inner(row, part)[0..width], rows.outer(initial, row, part)[0..width]);
            };
        }

        fn storeStates(rows: *const Rows) void {
            const width = rows.self.a.width;
            const last: [*]A = @ptrCast(@alignCast(rows.self.a.last orelse return));
            for (0..rows.group.count) |row| for (0..4) |part| {
                @memcpy(rows.outer(last, row, part)[0..width], rows.inner(row, part)[0..width]);
            };
        }

        fn resetAtBorders(rows: *const Rows, t: usize) void {
            if (rows.self.a.borders == null) return;
            for (0..rows.group.count) |row| {
                if (!rows.group.active(row, t) or !rows.group.border(row, t)) continue;
                for (0..4) |part| @memset(rows.inner(row, part), 0);
            }
        }

        /// raw = y_{t−1}·R of `count` neighbouring rows.
        fn product(rows: *const Rows, comptime count: usize, row: usize) void {
            @setEvalBranchQuota(100_000);
            const self = rows.self;
            const layout = self.layout;
            const r = self.packed_r.ptr + rows.group.head * layout.recurrentSize();
            for (0..layout.blocks) |block| {
                var sums: panel.Tile(A, count, 4) = @splat(@splat(@splat(0)));
                const left = rows.state[0] + row * self.padded;
                const right = panel.neighbours(A, 4, r + block * layout.blockSize());
                const depth = layout.width;
                panel.accumulate(A, count, 4, &sums, left, self.padded, 1, right, 4 * lanes, depth);
                inline for (0..count) |i| inline for (0..4) |g| {
                    const to = rows.raw + ((row + i) * 4 + g) * self.padded + block * lanes;
                    simd.store(A, to, sums[i][g]);
                };
            }
        }

        /// A row beyond its length gives zeros; its state stays.
        fn idle(rows: *const Rows, row: usize, t: usize) void {
            const a = rows.self.a;
            const at = rows.group.token(row, t);
            const y: [*]S = @ptrCast(@alignCast(a.y));
            @memset(y[at * a.width ..][0..a.width], 0);
            const saved: [*]A = @ptrCast(@alignCast(a.saved orelse return));
            const size = args.saved_planes * a.width;
            @memset(saved[at * size ..][0..size], 0);
        }

        /// Gates, state and outputs of one bundle of units.
        inline fn unit(
            rows: *const Rows,
            comptime whole: bool,
            first: usize,
            row: usize,
            t: usize,
        ) void {
            const self = rows.self;
            const a = self.a;
            const count = if (whole) bundle else a.width - first;
            // The next tokens of many rows lie too far apart for the processor to foresee.
            const wx: [*]const S = @ptrCast(@alignCast(a.wx));
            const bias = self.bias.ptr + rows.group.head * 4 * self.padded + first;
            const sums = rows.raw + row * 4 * self.padded + first;
            var raw: [4]W = undefined;
            inline for (0..4) |g| {
                const p = wx + rows.group.gate(row, t, g) + first;
                @prefetch(p + 2 * 4 * a.heads * a.width, .{});
                const x = if (whole)
                    simd.loadN(S, bundle, p)
                else
                    panel.loadPart(S, bundle, p, count, 0);
                const inner = x + simd.loadN(A, bundle, bias + g * self.padded);
                raw[g] = simd.loadN(A, bundle, sums + g * self.padded) + inner;
            }
            const at = row * self.padded + first;
            const c_before = simd.loadN(A, bundle, rows.state[1] + at);
            const n_before = simd.loadN(A, bundle, rows.state[2] + at);
            const m_before = simd.loadN(A, bundle, rows.state[3] + at);
            const cell = if (function == 1)
                gates.lstm(W, raw, c_before)
            else
                gates.slstm(W, raw, c_before, n_before, m_before);
            const y_now = gates.clamp(W, cell.y, @splat(self.clip));
            simd.storeN(A, bundle, rows.state[0] + at, y_now);
            simd.storeN(A, bundle, rows.state[1] + at, cell.c);
            if (function == 0) simd.storeN(A, bundle, rows.state[2] + at, cell.n);
            if (function == 0) simd.storeN(A, bundle, rows.state[3] + at, cell.m);
            const out = rows.group.token(row, t);
            const y: [*]S = @ptrCast(@alignCast(a.y));
            put(S, whole, y + out * a.width + first, count, y_now);
            const saved: [*]A = @ptrCast(@alignCast(a.saved orelse return));
            inline for (cell.saved, 0..) |plane, k| {
                const p = saved + (out * args.saved_planes + k) * a.width + first;
                @prefetch(p + a.heads * args.saved_planes * a.width, .{ .rw = .write });
                put(A, whole, p, count, plane);
            }
        }

        inline fn put(comptime T: type, comptime whole: bool, p: [*]T, count: usize, v: W) void {
            if (whole) simd.storeN(T, bundle, p, v) else panel.storePart(T, bundle, p, count, v);
        }
    };
}
