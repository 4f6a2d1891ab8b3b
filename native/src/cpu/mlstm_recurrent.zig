//! mLSTM token by token: the recurrent form of the forward pass, and the cell it shares with the
//! decode step. Equations: `args/mlstm.zig`, kernels.md §2.1, §6; reference: `reference/mlstm.zig`.
//!
//! One pass over C [DQK, DV] per token: read, update, dot with q, write.

const simd = @import("simd.zig");
const math = @import("math.zig");
const panel = @import("mlstm_panel.zig");
const problem = @import("mlstm_problem.zig");
const gates = @import("mlstm_gates.zig");
const output = @import("mlstm_output.zig");
const args = @import("../args/mlstm.zig");
const Parallel = @import("../parallel.zig").Parallel;
const Unit = problem.Unit;
const width = panel.width;

/// What the gates of one token do to the state.
pub fn Factors(comptime A: type) type {
    return struct {
        forget: A, // F
        input: A, // I
        m: A,
        floor: A, // e^(−m); 1 for the sigmoid gate

        /// m is rounded to A first: F, I and the floor then belong to the same m, whatever it is.
        pub fn of(sigmoid: bool, i: A, f: A, m: A) @This() {
            const lf = math.logSigmoid(A, f);
            if (sigmoid) {
                return .{ .forget = math.exp(A, lf), .input = math.sigmoid(A, i), .m = 0, .floor = 1 };
            }
            const decayed = @as(f64, lf) + m;
            const now: A = @floatCast(@max(decayed, i));
            return .{
                .forget = math.exp(A, @floatCast(decayed - now)),
                .input = math.exp(A, @floatCast(@as(f64, i) - now)),
                .m = now,
                .floor = gates.floorOf(A, now),
            };
        }
    };
}

/// n ← F n + I k; returns σ = q·n (q scaled already).
pub fn advanceNormalizer(
    comptime A: type,
    x: Factors(A),
    n: [*]A,
    k: [*]const A,
    q: [*]const A,
    columns: usize,
) A {
    for (0..columns) |r| n[r] = simd.fma(A, x.input, k[r], x.forget * n[r]);
    return simd.dot(A, q, n, columns);
}

/// C ← F C + I k vᵀ for some columns of C; num = qᵀC (q scaled already) for the same ones. `c`, `v`
/// and `num` point at the first of `columns`; rows of C lie `distance` apart.
pub fn advance(
    comptime A: type,
    x: Factors(A),
    c: [*]A,
    distance: usize,
    k: [*]const A,
    q: [*]const A,
    rows: usize,
    v: [*]const A,
    num: [*]A,
    columns: usize,
) void {
    var at: usize = 0;
    while (at + 4 * width <= columns) : (at += 4 * width) {
        advancePanels(A, 4, width, x, c + at, distance, k, q, rows, v + at, num + at);
    }
    while (at < columns) : (at += width) {
        const left = columns - at;
        const full = left >= width;
        const part = if (full) width else left;
        advancePanels(A, 1, part, x, c + at, distance, k, q, rows, v + at, num + at);
    }
}

inline fn advancePanels(
    comptime A: type,
    comptime panels: comptime_int,
    left: usize,
    x: Factors(A),
    c: [*]A,
    distance: usize,
    k: [*]const A,
    q: [*]const A,
    rows: usize,
    v: [*]const A,
    num: [*]A,
) void {
    const V = simd.Wide(A);
    const forget: V = @splat(x.forget);
    var value: [panels]V = undefined;
    var sums: [panels]V = @splat(@splat(0));
    inline for (0..panels) |p| value[p] = load(A, v + p * width, left);
    for (0..rows) |r| {
        const key: V = @splat(x.input * k[r]);
        const query: V = @splat(q[r]);
        inline for (0..panels) |p| {
            const at = c + r * distance + p * width;
            const now = simd.fma(V, key, value[p], forget * load(A, at, left));
            panel.storePart(A, at, left, now);
            sums[p] = simd.fma(V, query, now, sums[p]);
        }
    }
    inline for (0..panels) |p| panel.storePart(A, num + p * width, left, sums[p]);
}

inline fn load(comptime A: type, p: [*]const A, left: usize) simd.Wide(A) {
    return if (left >= width) simd.loadN(A, width, p) else panel.loadPart(A, p, left);
}

/// x·scale in A.
pub fn convert(
    comptime S: type,
    from: [*]const S,
    columns: usize,
    scale: simd.Arithmetic(S),
    to: [*]simd.Arithmetic(S),
) void {
    for (0..columns) |c| to[c] = simd.get(S, from, c) * scale;
}

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
        work: []A, // per slot: C, n, then one row each of q, k, v and the numerator

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
                .work = try parallel.alloc(A, parallel.threads * workSize(p)),
            };
            parallel.each(p.units(), &self, whole);
        }

        fn workSize(p: *const Problem) usize {
            const rows = 3 * problem.rounded(p.dk) + 2 * problem.rounded(p.dv);
            return problem.rounded(p.dk * p.dv) + rows;
        }

        const State = struct { c: []A, n: []A, m: A };

        fn whole(self: *const Self, index: usize) void {
            const p = self.p;
            const u = p.unit(index);
            const slot = self.slots.claim();
            defer self.slots.release(slot);
            var from: problem.Carver(A) = .{ .next = self.work.ptr + slot * workSize(p) };
            var state: State = .{
                .c = from.take(p.dk * p.dv)[0 .. p.dk * p.dv],
                .n = from.take(p.dk)[0..p.dk],
                .m = 0,
            };
            const rows: [4][*]A = .{
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
            if (p.c0) |c0| @memcpy(state.c, c0[at * size ..][0..size]) else @memset(state.c, 0);
            if (p.n0) |n0| @memcpy(state.n, n0[at * p.dk ..][0..p.dk]) else @memset(state.n, 0);
            state.m = if (p.m0) |m0| m0[at] else 0;
        }

        fn token(self: *const Self, u: Unit, t: usize, state: *State, rows: [4][*]A) void {
            const p = self.p;
            const q, const k, const v, const num = rows;
            const at = p.token(u, t);
            const border = p.border(u, t);
            if (border and p.exact_reset) {
                @memset(state.c, 0);
                @memset(state.n, 0);
                state.m = 0;
            }
            convert(S, p.q.at(u.row, u.head, t), p.dk, @floatCast(p.scale), q);
            convert(S, p.k.at(u.row, u.head, t), p.dk, 1, k);
            convert(S, p.v.at(u.row, u.head, t), p.dv, 1, v);
            const f = if (border and p.soft_reset) p.reset_value else p.f[at];
            const x: Factors(A) = .of(p.sigmoid, p.i[at], f, state.m);
            state.m = x.m;
            var sigma: A = 0;
            if (p.normalize) sigma = advanceNormalizer(A, x, state.n.ptr, k, q, p.dk);
            advance(A, x, state.c.ptr, p.dv, k, q, p.dk, v, num, p.dv);
            const inverse = if (p.normalize) 1 / (@max(@abs(sigma), x.floor) + p.eps) else 1;
            for (0..p.dv) |c| simd.put(S, self.out.h, at * p.dv + c, num[c] * inverse);
            if (self.out.sigma) |to| to[at] = sigma;
            if (self.out.m) |to| to[at] = x.m;
        }

        fn store(self: *const Self, u: Unit, state: *const State) void {
            const p = self.p;
            const at = u.row * p.heads + u.head;
            const size = p.dk * p.dv;
            if (self.out.c_last) |to| @memcpy(to[at * size ..][0..size], state.c);
            if (self.out.n_last) |to| {
                const n = to[at * p.dk ..][0..p.dk];
                if (p.normalize) @memcpy(n, state.n) else @memset(n, 0);
            }
            if (self.out.m_last) |to| to[at] = state.m;
        }
    };
}
