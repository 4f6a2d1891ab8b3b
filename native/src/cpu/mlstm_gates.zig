//! The vectors over tokens that drive every product of the mLSTM. kernels.md §2.3, §2.4.
//!
//! Per chunk, with b_t = Σ_{u≤t} lf_u, w_j = li_j − b_j, P_t the running maximum of μ_{c−1} and w,
//! m_t = b_t + P_t:
//!   s·D_tj = e^(u_t + w_j), u_t = b_t − m_t + log s     α_t = s·e^(b_t + μ_{c−1} − m_t)
//!   β_j = e^(b_L + w_j − μ_c)                           γ_c = e^(b_L + μ_{c−1} − μ_c)
//!
//! The sums run in float64. u and w leave as pairs of A (high, low): with large gates they are huge
//! and nearly cancel. What a border makes invisible is selected away, never multiplied by 0: its
//! exponents may overflow.

const std = @import("std");
const simd = @import("simd.zig");
const math = @import("math.zig");
const panel = @import("mlstm_panel.zig");
const problem = @import("mlstm_problem.zig");
const Unit = problem.Unit;
const Span = problem.Span;
const width = panel.width;

/// Position that attains the running maximum: none is the floor m = 0 behind an exact reset,
/// initial the state before the first token; others count tokens from 1.
pub const winner = struct {
    pub const none = -1;
    pub const initial = 0;
};

pub fn Gates(comptime S: type) type {
    const A = simd.Arithmetic(S);
    const Problem = problem.Problem(S);
    const V = simd.Wide(A);
    const D = @Vector(width, f64);
    return struct {
        u_high: [*]A, // [S], as all that follow unless said otherwise
        u_low: [*]A,
        w_high: [*]A,
        w_low: [*]A,
        alpha: [*]A,
        beta: [*]A,
        m: [*]A,
        floor: [*]A, // e^(−m), its argument clamped; 1 for the sigmoid gate
        gamma: [*]A, // [chunks]
        start: [*]u32, // first visible position, counted from the chunk's first
        winner: [*]i32,
        wide: [3][*]f64, // [chunk]: b, w, m
        logs: [2][*]A, // [chunk]: lf, li

        const Self = @This();

        pub const Carry = struct { m: f64, winner: i32 };

        /// Elements of A, f64 and u32 one unit needs.
        pub fn sizes(p: *const Problem) [3]usize {
            const length = problem.rounded(p.length + width);
            const chunk = problem.rounded(p.chunk + width);
            const chunks = problem.rounded(p.chunks());
            return .{ 8 * length + chunks + 2 * chunk, 3 * chunk, 2 * length };
        }

        pub fn carve(p: *const Problem, values: [*]A, wide: [*]f64, words: [*]u32) Self {
            const length = problem.rounded(p.length + width);
            const chunk = problem.rounded(p.chunk + width);
            var from: problem.Carver(A) = .{ .next = values };
            return .{
                .u_high = from.take(length),
                .u_low = from.take(length),
                .w_high = from.take(length),
                .w_low = from.take(length),
                .alpha = from.take(length),
                .beta = from.take(length),
                .m = from.take(length),
                .floor = from.take(length),
                .gamma = from.take(p.chunks()),
                .logs = .{ from.take(chunk), from.take(chunk) },
                .wide = .{ wide, wide + chunk, wide + 2 * chunk },
                .start = words,
                .winner = @ptrCast(words + length),
            };
        }

        /// All chunks of a unit; returns the last m and who attains it.
        pub fn prepare(self: *const Self, p: *const Problem, u: Unit) Carry {
            const state = u.row * p.heads + u.head;
            var carry: Carry = .{
                .m = if (p.m0) |m0| m0[state] else 0,
                .winner = winner.initial,
            };
            for (0..u.chunks) |c| {
                const span = p.span(u, c);
                self.logarithms(p, u, span);
                const before = carry.m;
                const sums = self.scan(p, u, span, &carry);
                self.vectors(p, span, before, carry.m, sums);
            }
            return carry;
        }

        /// lf, and li, of the chunk's tokens.
        fn logarithms(self: *const Self, p: *const Problem, u: Unit, span: Span) void {
            const forget, const input = self.logs;
            for (0..span.count) |t| {
                const at = p.token(u, span.first + t);
                const soft = p.soft_reset and p.border(u, span.first + t);
                forget[t] = if (soft) p.reset_value else p.f[at];
                input[t] = p.i[at];
            }
            const end = problem.rounded(span.count);
            @memset(forget[span.count..end], 0);
            @memset(input[span.count..end], 0);
            var t: usize = 0;
            while (t < span.count) : (t += width) {
                logSigmoid(forget + t);
                if (p.sigmoid) logSigmoid(input + t);
            }
        }

        fn logSigmoid(x: [*]A) void {
            simd.storeN(A, width, x, math.logSigmoid(V, simd.loadN(A, width, x)));
        }

        /// The chunk's Σ lf, and what its borders hide: the state before it from the first border
        /// on, its tokens before the last border from the state behind it.
        const Sums = struct { total: f64, first_border: usize, last_border: usize };

        fn scan(self: *const Self, p: *const Problem, u: Unit, span: Span, carry: *Carry) Sums {
            const forget, const input = self.logs;
            const b_all, const w_all, const m_all = self.wide;
            var b: f64 = 0;
            var highest = carry.m;
            var first_border = span.count;
            var start: usize = 0;
            var attained = carry.winner;
            for (0..span.count) |t| {
                if (p.exact_reset and p.border(u, span.first + t)) {
                    highest = -b;
                    start = t;
                    first_border = @min(first_border, t);
                    attained = winner.none;
                }
                b += forget[t];
                const w = input[t] - b;
                // Selections: a branch on the running maximum is hard to predict.
                const higher = w > highest;
                highest = if (higher) w else highest;
                attained = if (higher) @intCast(span.first + t + 1) else attained;
                b_all[t] = b;
                w_all[t] = w;
                m_all[t] = if (p.sigmoid) 0 else b + highest;
                self.start[span.first + t] = @intCast(start);
                self.winner[span.first + t] = attained;
            }
            carry.winner = attained;
            carry.m = m_all[span.count - 1];
            // The last state's m is what its tensor can hold: C and n are made to match.
            if (span.first + span.count == u.tokens) carry.m = @as(A, @floatCast(carry.m));
            return .{ .total = b, .first_border = first_border, .last_border = start };
        }

        /// From the float64 sums to the vectors in A. `before` is μ_{c−1}, `after` μ_c.
        fn vectors(
            self: *const Self,
            p: *const Problem,
            span: Span,
            before: f64,
            after: f64,
            sums: Sums,
        ) void {
            const b_all, const w_all, const m_all = self.wide;
            const log_scale: D = @splat(@log(p.scale));
            const scale: V = @splat(@floatCast(p.scale));
            const lane: @Vector(width, u32) = std.simd.iota(u32, width);
            var t: usize = 0;
            while (t < span.count) : (t += width) {
                const at = span.first + t;
                const b: D = simd.loadN(f64, width, b_all + t);
                const w: D = simd.loadN(f64, width, w_all + t);
                const m: D = simd.loadN(f64, width, m_all + t);
                split(b - m + log_scale, self.u_high + at, self.u_low + at);
                split(w, self.w_high + at, self.w_low + at);
                const m_rounded: V = @floatCast(m);
                simd.storeN(A, width, self.m + at, m_rounded);
                simd.storeN(A, width, self.floor + at, floorOf(V, m_rounded));
                const position = lane + positions(t);
                const seen = position < positions(sums.first_border);
                // Beyond the chunk β is 0: there it meets tokens that are zeros.
                const inside = position < positions(span.count);
                const kept = position >= positions(sums.last_border);
                const to_state: V = @floatCast(b + @as(D, @splat(before)) - m);
                const alpha = scale * math.exp(V, to_state);
                simd.storeN(A, width, self.alpha + at, @select(A, seen, alpha, zero));
                const to_end: V = @floatCast(@as(D, @splat(sums.total - after)) + w);
                const beta = math.exp(V, to_end);
                const open = @select(A, kept, beta, zero);
                simd.storeN(A, width, self.beta + at, @select(A, inside, open, zero));
            }
            const decay: A = @floatCast(sums.total + before - after);
            self.gamma[span.index] = if (sums.first_border == span.count) math.exp(A, decay) else 0;
        }

        const zero: V = @splat(0);

        inline fn positions(t: usize) @Vector(width, u32) {
            return @splat(@intCast(t));
        }

        /// x as a sum of two values of A. An infinite x (a closed input gate) has no low part.
        inline fn split(x: D, high: [*]A, low: [*]A) void {
            const top: V = @floatCast(x);
            const rest: V = @floatCast(x - @as(D, top));
            const finite = @abs(top) < @as(V, @splat(std.math.inf(A)));
            simd.storeN(A, width, high, top);
            simd.storeN(A, width, low, @select(A, finite, rest, zero));
        }
    };
}

/// e^(−m), which overflows for closed input gates: the argument stops where 1/e^(−m) is still
/// normal.
pub inline fn floorOf(comptime V: type, m: V) V {
    const A = if (@typeInfo(V) == .vector) @typeInfo(V).vector.child else V;
    const highest = math.constant(V, if (A == f64) 700.0 else 80.0);
    return math.exp(V, @min(-m, highest));
}
