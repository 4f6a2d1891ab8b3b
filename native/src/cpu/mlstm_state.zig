//! The step from one chunk's state to the next: to = γ·from + Σ_k a_k b_kᵀ, over the tokens k.
//!
//! One form for C [DQK, DV] = Σ β k vᵀ, its transpose [DV, DQK], and dC [DQK, DV] = Σ α q dh'ᵀ
//! (kernels.md §2.3, §3.3). States lie in panels (`mlstm_panel.zig`); `from` may be `to`.

const simd = @import("simd.zig");
const panel = @import("mlstm_panel.zig");
const width = panel.width;

pub fn State(comptime A: type, comptime side: panel.Side) type {
    const V = simd.Wide(A);
    return struct {
        from: ?[*]const A, // null: zeros
        to: [*]A,
        gamma: A,
        rows: usize, // of the state
        a: [*]const A, // .rows: panels [rows of the state, tokens]; .columns: [tokens, rows]
        span: usize, // .rows: distance of a's panels
        b: [*]const A, // panels [tokens, columns of the state]
        tokens: usize,
        panels: [2]usize, // first and end of the column panels to compute
        part: [2]usize, // first and end of the rows to compute; the first a multiple of 16

        panel: usize = 0, // the one in work

        const Self = @This();

        pub fn run(self: Self) void {
            var work = self;
            for (self.panels[0]..self.panels[1]) |p| {
                work.panel = p;
                if (side == .rows)
                    panel.tiles(A, self.part[0], self.part[1], &work)
                else
                    panel.columnTiles(A, self.part[0], self.part[1], &work);
            }
        }

        pub fn tile(self: *const Self, comptime rows: comptime_int, first: usize) void {
            const at = (self.panel * self.rows + first) * width;
            var acc: [rows]V = @splat(@splat(0));
            // A closed state is not multiplied by 0: what it holds may be infinite.
            if (self.gamma != 0) if (self.from) |from| {
                const gamma: V = @splat(self.gamma);
                const old = from + at;
                inline for (0..rows) |r| acc[r] = gamma * simd.loadN(A, width, old + r * width);
            };
            const a = panel.left(A, side, self.a, self.tokens, first);
            const b = self.b + self.panel * self.tokens * width;
            panel.multiply(A, side, rows, &acc, a, self.span, b, self.tokens);
            inline for (0..rows) |r| simd.storeN(A, width, self.to + at + r * width, acc[r]);
        }
    };
}

/// to = γ·from + Σ_t weight_t·row_t over panels [tokens, columns]; weight 1 where null.
pub fn advanceVector(
    comptime A: type,
    gamma: A,
    from: ?[*]const A,
    to: [*]A,
    rows: [*]const A,
    tokens: usize,
    columns: usize,
    weight: ?[*]const A,
) void {
    const V = simd.Wide(A);
    for (0..panel.count(columns)) |p| {
        var acc: V = @splat(0);
        if (gamma != 0) if (from) |before| {
            acc = @as(V, @splat(gamma)) * simd.loadN(A, width, before + p * width);
        };
        for (0..tokens) |t| {
            const row = simd.loadN(A, width, rows + (p * tokens + t) * width);
            const factor: V = @splat(if (weight) |w| w[t] else 1);
            acc = simd.fma(V, factor, row, acc);
        }
        simd.storeN(A, width, to + p * width, acc);
    }
}

/// A vector of `columns` elements (zeros without a source), padded with zeros to whole panels.
pub fn loadVector(comptime A: type, from: ?[*]const A, columns: usize, to: [*]A) void {
    @memset(to[0 .. panel.count(columns) * width], 0);
    if (from) |x| @memcpy(to[0..columns], x[0..columns]);
}
