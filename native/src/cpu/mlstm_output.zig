//! The outputs of one chunk of the mLSTM, and the tensors they go to. Equations:
//! `mlstm_forward.zig`.
//!
//! Rows are worked on in groups, so that the score matrix of a long chunk stays small. Of the score
//! matrix only tiles that touch the visible triangle are computed, and e^(u + w) only there.

const simd = @import("simd.zig");
const panel = @import("mlstm_panel.zig");
const problem = @import("mlstm_problem.zig");
const decay = @import("mlstm_decay.zig").decay;
const gates = @import("mlstm_gates.zig");
const args = @import("../args/mlstm.zig");
const Unit = problem.Unit;
const Span = problem.Span;
const width = panel.width;

/// Rows of the score matrix in work at a time.
const group_rows = 96;

fn groupRows(chunk: usize) usize {
    return @min(group_rows, chunk);
}

/// Scratch of one task.
pub fn Work(comptime A: type) type {
    return struct {
        q: [*]A, // panels [L, DQK]
        k: [*]A, // panels [DQK, L]: transposed
        v: [*]A, // panels [L, DV]
        scores: [*]A, // panels [group, L]
        inverse: [*]A, // [group]: 1/(N + eps)

        pub fn size(p: anytype) usize {
            const keys = panel.size(p.dk, p.chunk);
            const rows = panel.size(p.chunk, p.dk) + panel.size(p.chunk, p.dv);
            return keys + rows + panel.size(groupRows(p.chunk), p.chunk) + group_rows;
        }

        pub fn of(p: anytype, memory: [*]A) @This() {
            var from: problem.Carver(A) = .{ .next = memory };
            return .{
                .q = from.take(panel.size(p.chunk, p.dk)),
                .k = from.take(panel.size(p.dk, p.chunk)),
                .v = from.take(panel.size(p.chunk, p.dv)),
                .scores = from.take(panel.size(groupRows(p.chunk), p.chunk)),
                .inverse = from.take(group_rows),
            };
        }
    };
}

pub fn Output(comptime S: type) type {
    const A = simd.Arithmetic(S);
    const V = simd.Wide(A);
    return struct {
        p: *const problem.Problem(S),
        out: *const Tensors(S),
        g: *const gates.Gates(S),
        work: *const Work(A),
        u: Unit,
        span: Span,
        c: ?[*]const A, // state before the chunk; null: zeros
        n: ?[*]const A,

        group: usize = 0, // first row of the group in work
        group_end: usize = 0,
        panel: usize = 0, // the column panel in work

        const Self = @This();

        pub fn run(self: Self) void {
            var now = self;
            while (now.group < now.span.count) : (now.group = now.group_end) {
                now.group_end = @min(now.group + group_rows, now.span.count);
                now.scoreRows();
                for (now.group..now.group_end) |t| now.row(t);
                for (0..panel.count(now.p.dv)) |q| {
                    now.panel = q;
                    panel.tiles(A, now.group, now.group_end, Product{ .self = &now });
                }
            }
        }

        /// q kᵀ where the row sees at least one column of the panel.
        fn scoreRows(self: *Self) void {
            for (0..panel.count(self.group_end)) |q| {
                self.panel = q;
                const first = @max(self.group, q * width);
                panel.tiles(A, first, self.group_end, Scores{ .self = self });
            }
        }

        const Scores = struct {
            self: *const Self,

            pub fn tile(scores: Scores, comptime rows: comptime_int, first: usize) void {
                const self = scores.self;
                var acc: [rows]V = @splat(@splat(0));
                const span = self.span.count * width;
                const k = self.work.k + self.panel * self.p.dk * width;
                const q = self.work.q + first * width;
                panel.multiply(A, .rows, rows, &acc, q, span, k, self.p.dk);
                const to = self.scoreBlock(first, self.panel);
                inline for (0..rows) |r| simd.storeN(A, width, to + r * width, acc[r]);
            }
        };

        /// 16 columns of one row of the group's scores.
        fn scoreBlock(self: *const Self, t: usize, block: usize) [*]A {
            const rows = groupRows(self.p.chunk);
            return self.work.scores + (block * rows + t - self.group) * width;
        }

        /// Scores of one row times their decays, σ and the denominator. Blocks that the row does
        /// not see are cleared as far as the row's tile reads them.
        fn row(self: *const Self, t: usize) void {
            const g = self.g;
            const at = self.span.first + t;
            const first = g.start[at] / width;
            const last = t / width;
            const zero: V = @splat(0);
            for (0..first) |block| simd.storeN(A, width, self.scoreBlock(t, block), zero);
            var sums = zero;
            for (first..last + 1) |block| {
                const p = self.scoreBlock(t, block);
                const weight = simd.loadN(A, width, p) * decay(S, g, self.span, t, block);
                simd.storeN(A, width, p, weight);
                sums += weight;
            }
            const end = panel.count(@min(t + panel.tileRows(A), self.group_end));
            for (last + 1..@max(end, last + 1)) |block| {
                simd.storeN(A, width, self.scoreBlock(t, block), zero);
            }
            const token = self.p.token(self.u, at);
            if (self.out.m) |m| m[token] = g.m[at];
            var sigma: A = 0;
            if (self.p.normalize) sigma = simd.sum(width, A, sums) + self.stateSum(t);
            if (self.out.sigma) |to| to[token] = sigma;
            const inverse = 1 / (@max(@abs(sigma), g.floor[at]) + self.p.eps);
            self.work.inverse[t - self.group] = if (self.p.normalize) inverse else 1;
        }

        /// α q·n.
        fn stateSum(self: *const Self, t: usize) A {
            const n = self.n orelse return 0;
            const alpha = self.g.alpha[self.span.first + t];
            if (alpha == 0) return 0;
            var sums: V = @splat(0);
            for (0..panel.count(self.p.dk)) |q| {
                const x = simd.loadN(A, width, self.work.q + (q * self.span.count + t) * width);
                sums = simd.fma(V, x, simd.loadN(A, width, n + q * width), sums);
            }
            return alpha * simd.sum(width, A, sums);
        }

        /// h of one tile of rows and one panel of value columns.
        const Product = struct {
            self: *const Self,

            pub fn tile(product: Product, comptime rows: comptime_int, first: usize) void {
                const self = product.self;
                const p = self.p;
                var acc: [rows]V = @splat(@splat(0));
                if (self.c) |c| {
                    const from = c + self.panel * p.dk * width;
                    const q = self.work.q + first * width;
                    panel.multiply(A, .rows, rows, &acc, q, self.span.count * width, from, p.dk);
                    inline for (0..rows) |r| {
                        const alpha = self.g.alpha[self.span.first + first + r];
                        const scaled = acc[r] * @as(V, @splat(alpha));
                        acc[r] = if (alpha == 0) @splat(0) else scaled;
                    }
                }
                const v = self.work.v + self.panel * self.span.count * width;
                const group_span = groupRows(p.chunk) * width;
                const scores = self.scoreBlock(first, 0);
                panel.multiply(A, .rows, rows, &acc, scores, group_span, v, first + rows);
                inline for (0..rows) |r| {
                    const inverse = self.work.inverse[first + r - self.group];
                    self.storeRow(first + r, acc[r] * @as(V, @splat(inverse)));
                }
            }
        };

        inline fn storeRow(self: *const Self, t: usize, x: V) void {
            const p = self.p;
            const column = self.panel * width;
            const to = self.out.h + p.token(self.u, self.span.first + t) * p.dv + column;
            panel.storePart(S, to, p.dv - column, x);
        }
    };
}

/// Outputs of the forward pass.
pub fn Tensors(comptime S: type) type {
    const A = simd.Arithmetic(S);
    const Problem = problem.Problem(S);
    return struct {
        h: [*]S,
        sigma: ?[*]A,
        m: ?[*]A,
        c_last: ?[*]A,
        n_last: ?[*]A,
        m_last: ?[*]A,

        const Self = @This();

        pub fn of(a: *const args.MlstmForward) Self {
            return .{
                .h = @ptrCast(@alignCast(a.h)),
                .sigma = @ptrCast(@alignCast(a.sigma)),
                .m = @ptrCast(@alignCast(a.m)),
                .c_last = @ptrCast(@alignCast(a.c_last)),
                .n_last = @ptrCast(@alignCast(a.n_last)),
                .m_last = @ptrCast(@alignCast(a.m_last)),
            };
        }

        pub fn wantsLast(self: *const Self) bool {
            return self.c_last != null or self.n_last != null;
        }

        /// Zeros for tokens beyond the row's length.
        pub fn pad(self: *const Self, p: *const Problem, u: Unit) void {
            for (u.tokens..p.length) |t| {
                const token = p.token(u, t);
                @memset(self.h[token * p.dv ..][0..p.dv], 0);
                if (self.sigma) |sigma| sigma[token] = 0;
                if (self.m) |m| m[token] = 0;
            }
        }

        /// The last state from panels (C, then n), zeros when null.
        pub fn storeLast(
            self: *const Self,
            p: *const Problem,
            u: Unit,
            c: ?[*]const A,
            m: f64,
        ) void {
            const at = u.row * p.heads + u.head;
            if (self.c_last) |to| {
                const size = p.dk * p.dv;
                if (c) |from| panel.unpack(A, from, p.dk, p.dv, to + at * size) else {
                    @memset(to[at * size ..][0..size], 0);
                }
            }
            if (self.n_last) |to| {
                const rows = to[at * p.dk ..][0..p.dk];
                const from = if (p.normalize) c else null;
                if (from) |x| @memcpy(rows, (x + p.stateSize())[0..p.dk]) else @memset(rows, 0);
            }
            if (self.m_last) |to| to[at] = @floatCast(m);
        }
    };
}
