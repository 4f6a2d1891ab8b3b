//! The parts of the mLSTM's backward pass that `mlstm_backward.zig` puts in order: tensors, row
//! vectors, states, their gradients, the ends. Equations: kernels.md §3.

const simd = @import("simd.zig");
const panel = @import("mlstm_panel.zig");
const problem = @import("mlstm_problem.zig");
const gates = @import("mlstm_gates.zig");
const state = @import("mlstm_state.zig");
const gradient = @import("mlstm_gradient.zig");
const gate_gradient = @import("mlstm_gate_gradient.zig");
const args = @import("../args/mlstm.zig");
const Unit = problem.Unit;
const Span = problem.Span;
const width = panel.width;

pub fn Parts(comptime S: type) type {
    const A = simd.Arithmetic(S);
    const Problem = problem.Problem(S);
    const Gates = gates.Gates(S);
    return struct {
        p: *const Problem,
        h: ?[*]const S,
        dh: problem.View(S),
        sigma: ?[*]const A,
        dc_last: ?[*]const A,
        dn_last: ?[*]const A,
        dm_last: ?[*]const A,
        out: gradient.Tensors(S),
        di: [*]A,
        df: [*]A,
        dc0: ?[*]A,
        dn0: ?[*]A,
        dm0: ?[*]A,
        exact: bool, // through N
        eps_term: bool,

        const Self = @This();

        /// What lives as long as one unit is worked on.
        pub const Held = struct {
            g: Gates,
            rows: gradient.Rows(A),
            states: [*]A, // Cᵀ, then n, before every chunk and after the last
        };

        pub fn of(a: *const args.MlstmBackward, p: *const Problem) Self {
            const exact = a.mode == args.grad_mode.exact and p.normalize;
            const step = p.heads * p.dv;
            const strides: args.Strides = .{ .batch = p.length * step, .step = step, .head = p.dv };
            return .{
                .p = p,
                .h = @ptrCast(@alignCast(a.h)),
                .dh = .of(a.dh, strides),
                .sigma = @ptrCast(@alignCast(a.sigma)),
                .dc_last = @ptrCast(@alignCast(a.dc_last)),
                .dn_last = if (p.normalize) @ptrCast(@alignCast(a.dn_last)) else null,
                .dm_last = if (p.sigmoid) null else @ptrCast(@alignCast(a.dm_last)),
                .out = .{
                    .dq = @ptrCast(@alignCast(a.dq)),
                    .dk = @ptrCast(@alignCast(a.dk)),
                    .dv = @ptrCast(@alignCast(a.dv)),
                },
                .di = @ptrCast(@alignCast(a.di)),
                .df = @ptrCast(@alignCast(a.df)),
                .dc0 = @ptrCast(@alignCast(a.dc0)),
                .dn0 = @ptrCast(@alignCast(a.dn0)),
                .dm0 = @ptrCast(@alignCast(a.dm0)),
                .exact = exact,
                .eps_term = exact and a.eps_term != 0 and !p.sigmoid,
            };
        }

        pub fn wantsInitial(self: *const Self) bool {
            return self.dc0 != null or self.dn0 != null or self.dm0 != null;
        }

        /// Elements of one state: Cᵀ, then n.
        pub fn turnedSize(p: *const Problem) usize {
            return panel.size(p.dv, p.dk) + p.padded();
        }

        /// Elements of a state's gradient: dC, then dn.
        pub fn straightSize(p: *const Problem) usize {
            return p.stateSize() + p.padded();
        }

        /// Whether a gradient arrives at the state after chunk c.
        pub fn knowsGradient(self: *const Self, u: Unit, c: usize) bool {
            return c + 1 < u.chunks or self.dc_last != null or self.dn_last != null;
        }

        fn hasNormalizerGradient(self: *const Self) bool {
            return self.exact or self.dn_last != null;
        }

        /// Gate vectors, 1/(N + eps), ŷ/(N + eps) and ⟨dh, h⟩.
        pub fn prepare(self: *const Self, u: Unit, held: Held) Gates.Carry {
            const p = self.p;
            const end = held.g.prepare(p, u);
            for (0..u.tokens) |t| {
                const token = p.token(u, t);
                held.rows.inverse[t] = 1;
                if (!p.normalize) continue;
                const sigma = self.sigma.?[token];
                const floor = held.g.floor[t];
                const inverse = 1 / (@max(@abs(sigma), floor) + p.eps);
                held.rows.inverse[t] = inverse;
                if (!self.exact) continue;
                const inner = dot(self.dh.at(u.row, u.head, t), self.h.? + token * p.dv, p.dv);
                held.rows.inner[t] = inner;
                const active = @abs(sigma) >= floor and sigma != 0;
                const sign: A = if (sigma < 0) -1 else 1;
                held.rows.y[t] = if (active) -inner * sign * inverse else 0;
            }
            return end;
        }

        fn dot(x: [*]const S, y: [*]const S, count: usize) A {
            return simd.dot(S, x, y, count);
        }

        /// Cᵀ and n before every chunk (and after the last one where dm_S needs it), for the value
        /// columns of some panels. n belongs to the first panel.
        pub fn statesOf(
            self: *const Self,
            u: Unit,
            held: Held,
            part: [2]usize,
            work: *const gradient.Work(A),
        ) void {
            const p = self.p;
            const rows = [2]usize{ part[0] * width, @min(part[1] * width, p.dv) };
            self.loadInitial(u, held.states, rows);
            const ends = if (self.dm_last != null) u.chunks else u.chunks -| 1;
            for (0..ends) |c| {
                const span = p.span(u, c);
                p.k.pack(u, span, p.dk, held.g.beta + span.first, work.k);
                const v = p.v.at(u.row, u.head, span.first) + rows[0];
                const to = work.v + part[0] * span.count * width;
                panel.pack(S, v, p.v.strides.step, span.count, rows[1] - rows[0], null, to);
                const before = held.states + c * turnedSize(p);
                const known = p.hasInitial() or c > 0;
                const gamma = held.g.gamma[c];
                const step: state.State(A, .columns) = .{
                    .from = if (known) before else null,
                    .to = before + turnedSize(p),
                    .gamma = gamma,
                    .rows = p.dv,
                    .a = work.v,
                    .span = 0,
                    .b = work.k,
                    .tokens = span.count,
                    .panels = .{ 0, panel.count(p.dk) },
                    .part = rows,
                };
                step.run();
                if (part[0] != 0 or !p.normalize) continue;
                const n = before + panel.size(p.dv, p.dk);
                const next = n + turnedSize(p);
                const from = if (known) n else null;
                state.advanceVector(A, gamma, from, next, work.k, span.count, p.dk, null);
            }
        }

        fn loadInitial(self: *const Self, u: Unit, to: [*]A, rows: [2]usize) void {
            const p = self.p;
            if (!p.hasInitial()) return;
            const at = u.row * p.heads + u.head;
            const panels = to + rows[0] * width;
            if (p.c0) |c0| {
                const from = c0 + at * p.dk * p.dv + rows[0];
                panel.transpose(A, from, p.dv, p.dk, rows[1] - rows[0], panels, p.dv);
            } else for (0..panel.count(p.dk)) |q| {
                const first = (q * p.dv + rows[0]) * width;
                @memset(to[first .. first + (rows[1] - rows[0]) * width], 0);
            }
            if (rows[0] != 0) return;
            const n0 = if (p.n0) |n| n + at * p.dk else null;
            state.loadVector(A, n0, p.dk, to + panel.size(p.dv, p.dk));
        }

        /// dC_S and dn_S into panels.
        pub fn loadLast(self: *const Self, u: Unit, to: [*]A, part: [2]usize) void {
            const p = self.p;
            if (self.dc_last == null and self.dn_last == null) return;
            const at = u.row * p.heads + u.head;
            const columns = @min(part[1] * width, p.dv) - part[0] * width;
            const panels = to + part[0] * p.dk * width;
            if (self.dc_last) |dc| {
                const from = dc + at * p.dk * p.dv + part[0] * width;
                panel.pack(A, from, p.dv, p.dk, columns, null, panels);
            } else @memset(panels[0..panel.size(p.dk, columns)], 0);
            if (part[0] != 0) return;
            const dn = if (self.dn_last) |n| n + at * p.dk else null;
            state.loadVector(A, dn, p.dk, to + p.stateSize());
        }

        /// All gradients of one chunk. `after` is dC, dn behind it.
        pub fn gradients(
            self: *const Self,
            u: Unit,
            held: Held,
            c: usize,
            after: ?[*]const A,
            work: *const gradient.Work(A),
        ) void {
            const p = self.p;
            const span = p.span(u, c);
            p.q.pack(u, span, p.dk, null, work.q);
            p.k.pack(u, span, p.dk, null, work.k);
            p.v.pack(u, span, p.dv, null, work.v);
            self.dh.pack(u, span, p.dv, held.rows.inverse + span.first, work.d);
            const known = p.hasInitial() or c > 0;
            const before = held.states + c * turnedSize(p);
            const normalizer = if (self.hasNormalizerGradient()) after else null;
            const chunk: gradient.Gradient(S) = .{
                .p = p,
                .out = &self.out,
                .g = &held.g,
                .rows = &held.rows,
                .work = work,
                .u = u,
                .span = span,
                .ct = if (known) before else null,
                .n = if (known and p.normalize) before + panel.size(p.dv, p.dk) else null,
                .dc = after,
                .dn = if (normalizer) |x| x + p.stateSize() else null,
                .has_y = self.exact,
            };
            chunk.run();
        }

        /// From dC, dn behind chunk c to those before it, for some value columns.
        pub fn back(
            self: *const Self,
            u: Unit,
            held: Held,
            c: usize,
            after: ?[*]const A,
            before: [*]A,
            part: [2]usize,
            work: *const gradient.Work(A),
        ) void {
            const p = self.p;
            const span = p.span(u, c);
            const gamma = held.g.gamma[c];
            p.q.pack(u, span, p.dk, held.g.alpha + span.first, work.q);
            const step: state.State(A, .columns) = .{
                .from = after,
                .to = before,
                .gamma = gamma,
                .rows = p.dk,
                .a = work.q,
                .span = 0,
                .b = work.d,
                .tokens = span.count,
                .panels = part,
                .part = .{ 0, p.dk },
            };
            step.run();
            if (part[0] != 0 or !self.hasNormalizerGradient()) return;
            const from = if (after) |x| x + p.stateSize() else null;
            const to = before + p.stateSize();
            const y = held.rows.y + span.first;
            const tokens = if (self.exact) span.count else 0;
            state.advanceVector(A, gamma, from, to, work.q, tokens, p.dk, y);
        }

        /// dh' of the chunk's tokens in some value columns.
        pub fn packCotangent(
            self: *const Self,
            u: Unit,
            held: Held,
            span: Span,
            part: [2]usize,
            work: *const gradient.Work(A),
        ) void {
            const columns = @min(part[1] * width, self.p.dv) - part[0] * width;
            const from = self.dh.at(u.row, u.head, span.first) + part[0] * width;
            const to = work.d + part[0] * span.count * width;
            const scale = held.rows.inverse + span.first;
            panel.pack(S, from, self.dh.strides.step, span.count, columns, scale, to);
        }

        /// Gate gradients, gradients of the initial state, zeros beyond the row's length. `first`
        /// is dC, dn before the first chunk.
        pub fn finish(
            self: *const Self,
            u: Unit,
            held: Held,
            first: [*]const A,
            end: Gates.Carry,
        ) void {
            const p = self.p;
            const at = u.row * p.heads + u.head;
            const known = u.chunks > 0 or self.dc_last != null or self.dn_last != null;
            const last: ?f64 = if (self.dm_last) |dm| dm[at] - self.lastProduct(u, held) else null;
            const gate: gate_gradient.GateGradient(S) = .{
                .p = p,
                .g = &held.g,
                .rows = &held.rows,
                .u = u,
                .eps_term = self.eps_term,
                .last = end.winner,
                .last_gradient = last,
                .di = self.di,
                .df = self.df,
            };
            const through_maximum = gate.run();
            self.pad(u);
            if (self.dm0) |dm| {
                const product = if (known and p.hasInitial()) self.firstProduct(u, first) else 0;
                dm[at] = if (p.sigmoid) 0 else @floatCast(product + through_maximum);
            }
            if (self.dc0) |dc| {
                const size = p.dk * p.dv;
                if (known) panel.unpack(A, first, p.dk, p.dv, dc + at * size) else {
                    @memset(dc[at * size ..][0..size], 0);
                }
            }
            if (self.dn0) |dn| {
                const rows = dn[at * p.dk ..][0..p.dk];
                if (known and self.hasNormalizerGradient()) {
                    @memcpy(rows, (first + p.stateSize())[0..p.dk]);
                } else @memset(rows, 0);
            }
        }

        fn pad(self: *const Self, u: Unit) void {
            const p = self.p;
            for (u.tokens..p.length) |t| {
                const token = p.token(u, t);
                @memset(self.out.dq[token * p.dk ..][0..p.dk], 0);
                @memset(self.out.dk[token * p.dk ..][0..p.dk], 0);
                @memset(self.out.dv[token * p.dv ..][0..p.dv], 0);
            }
        }

        /// T = ⟨C_S, dC_S⟩ + ⟨n_S, dn_S⟩.
        fn lastProduct(self: *const Self, u: Unit, held: Held) f64 {
            const p = self.p;
            if (u.chunks == 0 and !p.hasInitial()) return 0;
            const ct = held.states + u.chunks * turnedSize(p);
            const n = ct + panel.size(p.dv, p.dk);
            const at = u.row * p.heads + u.head;
            var total: f64 = 0;
            for (0..p.dk) |r| {
                if (self.dn_last) |dn| total += @as(f64, dn[at * p.dk + r]) * n[r];
                const row = (self.dc_last orelse continue) + (at * p.dk + r) * p.dv;
                for (0..p.dv) |c| {
                    const x = ct[(r / width * p.dv + c) * width + r % width];
                    total += @as(f64, row[c]) * x;
                }
            }
            return total;
        }

        /// ⟨C_0, dC_0⟩ + ⟨n_0, dn_0⟩.
        fn firstProduct(self: *const Self, u: Unit, first: [*]const A) f64 {
            const p = self.p;
            const at = u.row * p.heads + u.head;
            const dn = if (self.hasNormalizerGradient()) first + p.stateSize() else null;
            var total: f64 = 0;
            for (0..p.dk) |r| {
                if (p.n0) |n0| if (dn) |x| {
                    total += @as(f64, n0[at * p.dk + r]) * x[r];
                };
                const row = (p.c0 orelse continue) + (at * p.dk + r) * p.dv;
                for (0..p.dv) |c| {
                    const x = first[(c / width * p.dk + r) * width + c % width];
                    total += @as(f64, row[c]) * x;
                }
            }
            return total;
        }
    };
}
