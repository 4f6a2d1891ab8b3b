//! mLSTM forward pass token by token. Equations: `args/mlstm.zig`, kernels.md §2.1; reference:
//! `reference/mlstm.zig`.
//!
//! The state is float64 for every storage type. Its errors would be those of a long recurrence, and
//! the backward pass, which forms decays from sums over chunks, would meet a σ and an h that do not
//! fit where σ nearly cancels.

const simd = @import("simd.zig");
const problem = @import("mlstm_problem.zig");
const cell = @import("mlstm_cell.zig");
const output = @import("mlstm_output.zig");
const args = @import("../args/mlstm.zig");
const Parallel = @import("../parallel.zig").Parallel;
const Unit = problem.Unit;

pub fn forward(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.MlstmForward,
    p: *const problem.Problem(S),
) error{OutOfMemory}!void {
    return Recurrent(S).run(parallel, a, p);
}

fn Recurrent(comptime S: type) type {
    const A = simd.Arithmetic(S);
    const Problem = problem.Problem(S);
    return struct {
        p: *const Problem,
        out: output.Tensors(S),
        slots: problem.Slots,
        work: []f64, // per slot: C, n, then one row each of q, k, v and the numerator

        const Self = @This();

        fn run(
            parallel: *const Parallel,
            a: *const args.MlstmForward,
            p: *const Problem,
        ) error{OutOfMemory}!void {
            const self: Self = .{
                .p = p,
                .out = .of(a),
                .slots = try .of(parallel),
                .work = try parallel.alloc(f64, parallel.threads * workSize(p)),
            };
            parallel.each(p.units(), &self, whole);
        }

        fn workSize(p: *const Problem) usize {
            const rows = 3 * problem.rounded(p.dk) + 2 * problem.rounded(p.dv);
            return problem.rounded(p.dk * p.dv) + rows;
        }

        const State = struct { c: []f64, n: []f64, m: f64 };

        fn whole(self: *const Self, index: usize) void {
            const p = self.p;
            const u = p.unit(index);
            const slot = self.slots.claim();
            defer self.slots.release(slot);
            var from: problem.Carver(f64) = .{ .next = self.work.ptr + slot * workSize(p) };
            var state: State = .{
                .c = from.take(p.dk * p.dv)[0 .. p.dk * p.dv],
                .n = from.take(p.dk)[0..p.dk],
                .m = 0,
            };
            const rows: [4][*]f64 = .{
                from.take(p.dk), from.take(p.dk), from.take(p.dv), from.take(p.dv),
            };
            self.load(u, &state);
            for (0..u.tokens) |t| self.token(u, t, &state, rows);
            self.out.pad(p, u);
            self.store(u, &state);
        }

        fn load(self: *const Self, u: Unit, state: *State) void {
            const p = self.p;
            const at = u.row * p.heads + u.head;
            const size = p.dk * p.dv;
            @memset(state.c, 0);
            @memset(state.n, 0);
            if (p.c0) |c0| for (state.c, c0[at * size ..][0..size]) |*to, x| {
                to.* = x;
            };
            if (p.n0) |n0| for (state.n, n0[at * p.dk ..][0..p.dk]) |*to, x| {
                to.* = x;
            };
            state.m = if (p.m0) |m0| m0[at] else 0;
        }

        fn token(self: *const Self, u: Unit, t: usize, state: *State, rows: [4][*]f64) void {
            const p = self.p;
            const q, const k, const v, const num = rows;
            const at = p.token(u, t);
            const border = p.border(u, t);
            if (border and p.exact_reset) {
                @memset(state.c, 0);
                @memset(state.n, 0);
                state.m = 0;
            }
            cell.convert(S, f64, p.q.at(u.row, u.head, t), p.dk, p.scale, q);
            cell.convert(S, f64, p.k.at(u.row, u.head, t), p.dk, 1, k);
            cell.convert(S, f64, p.v.at(u.row, u.head, t), p.dv, 1, v);
            const f = if (border and p.soft_reset) p.reset_value else p.f[at];
            const x: cell.Factors(f64) = .of(f64, p.sigmoid, p.i[at], f, &state.m);
            var sigma: f64 = 0;
            if (p.normalize) sigma = cell.advanceNormalizer(f64, x, state.n.ptr, k, q, p.dk);
            cell.advance(f64, x, state.c.ptr, p.dv, k, q, p.dk, v, num, p.dv);
            const inverse = if (p.normalize) 1 / (@max(@abs(sigma), x.floor) + p.eps) else 1;
            for (0..p.dv) |c| {
                simd.put(S, self.out.h, at * p.dv + c, @floatCast(num[c] * inverse));
            }
            if (self.out.sigma) |to| to[at] = @floatCast(sigma);
            if (self.out.m) |to| to[at] = @floatCast(state.m);
        }

        fn store(self: *const Self, u: Unit, state: *const State) void {
            const p = self.p;
            const at = u.row * p.heads + u.head;
            const size = p.dk * p.dv;
            // The tensor of m holds a rounded m: C and n are made to match.
            const m: A = @floatCast(state.m);
            const match = @exp(state.m - m);
            if (self.out.c_last) |to| for (to[at * size ..][0..size], state.c) |*c, x| {
                c.* = @floatCast(x * match);
            };
            if (self.out.n_last) |to| for (to[at * p.dk ..][0..p.dk], state.n) |*n, x| {
                n.* = if (p.normalize) @floatCast(x * match) else 0;
            };
            if (self.out.m_last) |to| to[at] = m;
        }
    };
}
