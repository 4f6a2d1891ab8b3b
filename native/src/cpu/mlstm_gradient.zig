//! Gradients of one chunk of the mLSTM. kernels.md §3.3, §3.4 (chunk-local form).
//!
//! With dh' = dh/(N + eps), y = ŷ/(N + eps), E = e^(u + w) where visible (0 elsewhere), C the state
//! before the chunk and dC the gradient of the one after it:
//!   R = q kᵀ    G = dh' vᵀ    P = (G + y) ∘ E    Z = P ∘ R
//!   dq = P k + α ∘ (dh' Cᵀ + y nᵀ)      r' = rows of q ∘ the second term
//!   dk = Pᵀ q + β ∘ (v dCᵀ + dnᵀ)       c' = rows of k ∘ the second term
//!   dv = (R ∘ E)ᵀ dh' + β ∘ (k dC)
//!   dlf_t = X + Σ_{u≥t} r'_u + Σ_{j<t} c'_j + Σ_{u≥t>j} Z_uj,  X = γ (⟨C, dC⟩ + ⟨n, dn⟩)
//!   c_j = c'_j + Σ_t Z_tj
//! The last sum telescopes inside the chunk: its difference from t + 1 to t is Z's row sum minus
//! its column sum at t. It is 0 at the chunk's first token and at every border.

const simd = @import("simd.zig");
const panel = @import("mlstm_panel.zig");
const problem = @import("mlstm_problem.zig");
const gates = @import("mlstm_gates.zig");
const decay = @import("mlstm_decay.zig").decay;
const args = @import("../args/mlstm.zig");
const Unit = problem.Unit;
const Span = problem.Span;
const width = panel.width;

const closure_block = 64 * width;

/// Row vectors of the backward pass, over the tokens of one unit.
pub fn Rows(comptime A: type) type {
    return struct {
        inverse: [*]A, // 1/(N + eps)
        y: [*]A, // ŷ/(N + eps)
        inner: [*]A, // ⟨dh, h⟩
        dlf: [*]f64,
        dli: [*]f64, // c_j
        credit: [*]f64, // eps term: what the tokens' rows owe to position j
    };
}

/// Scratch of one task.
pub fn Work(comptime A: type) type {
    return struct {
        q: [*]A, // panels [L, DQK]
        k: [*]A, // panels [L, DQK]
        v: [*]A, // panels [L, DV]
        d: [*]A, // panels [L, DV]: dh'
        kt: [*]A, // panels [DQK, L]
        vt: [*]A, // panels [DV, L]
        r: [*]A, // panels [L, L]: R, then R ∘ E
        p: [*]A, // panels [L, L]: G, then P
        dct: [*]A, // panels [DV, DQK]: dC transposed
        sums: [4][*]A, // [L]: rows of Z, columns of Z, r', c'

        pub fn size(p: anytype) usize {
            const rows = 2 * (panel.size(p.chunk, p.dk) + panel.size(p.chunk, p.dv));
            const turned = panel.size(p.dk, p.chunk) + panel.size(p.dv, p.chunk);
            const squares = 2 * panel.size(p.chunk, p.chunk);
            const sums = 4 * problem.rounded(p.chunk);
            return rows + turned + squares + panel.size(p.dv, p.dk) + sums;
        }

        pub fn of(p: anytype, memory: [*]A) @This() {
            var from: problem.Carver(A) = .{ .next = memory };
            return .{
                .q = from.take(panel.size(p.chunk, p.dk)),
                .k = from.take(panel.size(p.chunk, p.dk)),
                .v = from.take(panel.size(p.chunk, p.dv)),
                .d = from.take(panel.size(p.chunk, p.dv)),
                .kt = from.take(panel.size(p.dk, p.chunk)),
                .vt = from.take(panel.size(p.dv, p.chunk)),
                .r = from.take(panel.size(p.chunk, p.chunk)),
                .p = from.take(panel.size(p.chunk, p.chunk)),
                .dct = from.take(panel.size(p.dv, p.dk)),
                .sums = .{
                    from.take(p.chunk), from.take(p.chunk), from.take(p.chunk), from.take(p.chunk),
                },
            };
        }
    };
}

/// Where gradients go.
pub fn Tensors(comptime S: type) type {
    return struct { dq: [*]S, dk: [*]S, dv: [*]S };
}

pub fn Gradient(comptime S: type) type {
    const A = simd.Arithmetic(S);
    const V = simd.Wide(A);
    return struct {
        p: *const problem.Problem(S),
        out: *const Tensors(S),
        g: *const gates.Gates(S),
        rows: *const Rows(A),
        work: *const Work(A), // q, k, v, d are packed
        u: Unit,
        span: Span,
        ct: ?[*]const A, // Cᵀ before the chunk, panels [DV, DQK]; null: zeros
        n: ?[*]const A, // n before the chunk
        dc: ?[*]const A, // dC after the chunk, panels [DQK, DV]; null: zeros
        dn: ?[*]const A,
        has_y: bool,

        panel: usize = 0, // the column panel in work

        const Self = @This();

        pub fn run(self: Self) void {
            var now = self;
            const p = now.p;
            const tokens = now.span.count;
            now.turn();
            for (0..panel.count(tokens)) |q| {
                now.panel = q;
                panel.tiles(A, q * width, tokens, Square{
                    .self = &now,
                    .a = now.work.q,
                    .b = now.work.kt,
                    .depth = p.dk,
                    .to = now.work.r,
                });
                panel.tiles(A, q * width, tokens, Square{
                    .self = &now,
                    .a = now.work.d,
                    .b = now.work.vt,
                    .depth = p.dv,
                    .to = now.work.p,
                });
            }
            for (now.work.sums) |sums| @memset(sums[0..problem.rounded(tokens)], 0);
            for (0..tokens) |t| now.row(t);
            for (0..panel.count(p.dk)) |q| {
                now.panel = q;
                panel.tiles(A, 0, tokens, Queries{ .self = &now });
                panel.columnTiles(A, 0, tokens, Keys{ .self = &now });
            }
            for (0..panel.count(p.dv)) |q| {
                now.panel = q;
                panel.columnTiles(A, 0, tokens, Values{ .self = &now });
            }
            now.gateSums();
        }

        /// kᵀ, vᵀ and dCᵀ.
        fn turn(self: *const Self) void {
            const p = self.p;
            turnPanels(self.work.k, self.span.count, p.dk, self.work.kt);
            turnPanels(self.work.v, self.span.count, p.dv, self.work.vt);
            if (self.dc) |dc| turnPanels(dc, p.dk, p.dv, self.work.dct);
        }

        fn turnPanels(from: [*]const A, rows: usize, columns: usize, to: [*]A) void {
            for (0..panel.count(columns)) |q| {
                const some: usize = @min(width, columns - q * width);
                const at = q * width;
                panel.transpose(A, from + at * rows, width, rows, some, to + at * width, columns);
            }
        }

        /// One tile of R or G.
        const Square = struct {
            self: *const Self,
            a: [*]const A,
            b: [*]const A,
            depth: usize,
            to: [*]A,

            pub fn tile(square: Square, comptime rows: comptime_int, first: usize) void {
                const tokens = square.self.span.count;
                const q = square.self.panel;
                var acc: [rows]V = @splat(@splat(0));
                const b = square.b + q * square.depth * width;
                const a = square.a + first * width;
                panel.multiply(A, .rows, rows, &acc, a, tokens * width, b, square.depth);
                const to = square.to + (q * tokens + first) * width;
                inline for (0..rows) |r| simd.storeN(A, width, to + r * width, acc[r]);
            }
        };

        /// From R and G to R ∘ E and P, and Z's sums, for one row.
        fn row(self: *const Self, t: usize) void {
            const tokens = self.span.count;
            const w = self.work;
            const at = self.span.first + t;
            const first = self.g.start[at] / width;
            const last = t / width;
            const y: V = @splat(if (self.has_y) self.rows.y[at] else 0);
            const zero: V = @splat(0);
            var sums = zero;
            for (0..first) |block| {
                simd.storeN(A, width, w.r + (block * tokens + t) * width, zero);
                simd.storeN(A, width, w.p + (block * tokens + t) * width, zero);
            }
            for (first..last + 1) |block| {
                const e = decay(S, self.g, self.span, t, block);
                const r_at = w.r + (block * tokens + t) * width;
                const p_at = w.p + (block * tokens + t) * width;
                const r = simd.loadN(A, width, r_at);
                const p = (simd.loadN(A, width, p_at) + y) * e;
                const z = p * r;
                simd.storeN(A, width, r_at, r * e);
                simd.storeN(A, width, p_at, p);
                sums += z;
                const column = w.sums[1] + block * width;
                simd.storeN(A, width, column, simd.loadN(A, width, column) + z);
            }
            w.sums[0][t] = simd.sum(width, A, sums);
            // The row's tile of dq reads as far as its last row sees.
            const end = panel.count(@min(t + panel.tileRows(A), tokens));
            for (last + 1..@max(end, last + 1)) |block| {
                simd.storeN(A, width, w.p + (block * tokens + t) * width, zero);
            }
        }

        /// dq of one tile.
        const Queries = struct {
            self: *const Self,

            pub fn tile(queries: Queries, comptime rows: comptime_int, first: usize) void {
                const self = queries.self;
                const w = self.work;
                const p = self.p;
                const tokens = self.span.count;
                const at = self.span.first + first;
                var acc: [rows]V = @splat(@splat(0));
                if (self.ct) |ct| {
                    const from = ct + self.panel * p.dv * width;
                    const d = w.d + first * width;
                    panel.multiply(A, .rows, rows, &acc, d, tokens * width, from, p.dv);
                    if (self.has_y) {
                        const n = simd.loadN(A, width, self.n.? + self.panel * width);
                        inline for (0..rows) |r| {
                            const y: V = @splat(self.rows.y[at + r]);
                            acc[r] = simd.fma(V, y, n, acc[r]);
                        }
                    }
                    const q = w.q + (self.panel * tokens + first) * width;
                    inline for (0..rows) |r| {
                        const alpha = self.g.alpha[at + r];
                        acc[r] = if (alpha == 0) @splat(0) else acc[r] * @as(V, @splat(alpha));
                        const product = acc[r] * simd.loadN(A, width, q + r * width);
                        w.sums[2][first + r] += simd.sum(width, A, product);
                    }
                }
                const k = w.k + self.panel * tokens * width;
                const weights = w.p + first * width;
                panel.multiply(A, .rows, rows, &acc, weights, tokens * width, k, first + rows);
                self.store(rows, self.out.dq, p.dk, first, acc);
            }
        };

        /// dk of one tile.
        const Keys = struct {
            self: *const Self,

            pub fn tile(keys: Keys, comptime rows: comptime_int, first: usize) void {
                const self = keys.self;
                const w = self.work;
                const p = self.p;
                const tokens = self.span.count;
                var acc: [rows]V = @splat(@splat(0));
                if (self.dc != null) {
                    const from = w.dct + self.panel * p.dv * width;
                    const v = w.v + first * width;
                    panel.multiply(A, .rows, rows, &acc, v, tokens * width, from, p.dv);
                }
                if (self.dn) |dn| {
                    const part = simd.loadN(A, width, dn + self.panel * width);
                    inline for (0..rows) |r| acc[r] += part;
                }
                if (self.dc != null or self.dn != null) {
                    const k = w.k + (self.panel * tokens + first) * width;
                    inline for (0..rows) |r| {
                        acc[r] = self.opened(acc[r], first + r);
                        const product = acc[r] * simd.loadN(A, width, k + r * width);
                        w.sums[3][first + r] += simd.sum(width, A, product);
                    }
                }
                // Positions before the tile's first row do not see it.
                const q = w.q + (self.panel * tokens + first) * width;
                const weights = panel.left(A, .columns, w.p, tokens, first) + first * width;
                panel.multiply(A, .columns, rows, &acc, weights, 0, q, tokens - first);
                self.store(rows, self.out.dk, p.dk, first, acc);
            }
        };

        /// dv of one tile.
        const Values = struct {
            self: *const Self,

            pub fn tile(values: Values, comptime rows: comptime_int, first: usize) void {
                const self = values.self;
                const w = self.work;
                const p = self.p;
                const tokens = self.span.count;
                var acc: [rows]V = @splat(@splat(0));
                if (self.dc) |dc| {
                    const from = dc + self.panel * p.dk * width;
                    const k = w.k + first * width;
                    panel.multiply(A, .rows, rows, &acc, k, tokens * width, from, p.dk);
                    inline for (0..rows) |r| acc[r] = self.opened(acc[r], first + r);
                }
                const d = w.d + (self.panel * tokens + first) * width;
                const weights = panel.left(A, .columns, w.r, tokens, first) + first * width;
                panel.multiply(A, .columns, rows, &acc, weights, 0, d, tokens - first);
                self.store(rows, self.out.dv, p.dv, first, acc);
            }
        };

        /// β x, and 0 where the state does not see the token.
        inline fn opened(self: *const Self, x: V, t: usize) V {
            const beta = self.g.beta[self.span.first + t];
            return if (beta == 0) @splat(0) else x * @as(V, @splat(beta));
        }

        inline fn store(
            self: *const Self,
            comptime rows: comptime_int,
            to: [*]S,
            columns: usize,
            first: usize,
            acc: [rows]V,
        ) void {
            const column = self.panel * width;
            inline for (0..rows) |r| {
                const token = self.p.token(self.u, self.span.first + first + r);
                panel.storePart(S, to + token * columns + column, columns - column, acc[r]);
            }
        }

        /// dlf and c_j of the chunk's tokens.
        fn gateSums(self: *const Self) void {
            const tokens = self.span.count;
            const z_rows, const z_columns, const queries, const keys = self.work.sums;
            const x = self.closure();
            var before: f64 = 0; // Σ_{j<t} c'_j, ascending
            for (0..tokens) |t| {
                self.rows.dlf[self.span.first + t] = before + x;
                self.rows.dli[self.span.first + t] = @as(f64, keys[t]) + z_columns[t];
                before += keys[t];
            }
            var after: f64 = 0; // Σ_{u≥t} r'_u, descending
            var across: f64 = 0;
            var t = tokens;
            while (t > 0) {
                t -= 1;
                after += queries[t];
                across += @as(f64, z_rows[t]) - z_columns[t];
                // No visible pair lies on both sides of a token that sees nothing before it.
                if (self.g.start[self.span.first + t] == t) across = 0;
                self.rows.dlf[self.span.first + t] += after + across;
            }
        }

        /// γ (⟨C, dC⟩ + ⟨n, dn⟩).
        fn closure(self: *const Self) f64 {
            const gamma = self.g.gamma[self.span.index];
            if (gamma == 0) return 0;
            const p = self.p;
            const ct = self.ct orelse return 0;
            var total: f64 = 0;
            const size = panel.size(p.dv, p.dk);
            var at: usize = 0;
            // Blocks short enough for sums in A.
            if (self.dc != null) while (at < size) : (at += closure_block) {
                const length = @min(closure_block, size - at);
                total += panel.dot(A, ct + at, self.work.dct + at, length);
            };
            if (self.dn) |dn| total += panel.dot(A, self.n.?, dn, p.padded());
            return gamma * total;
        }
    };
}
