//! The last step of the mLSTM's backward pass, one unit: gradients of the gate pre-activations and
//! of the initial m, from the chunks' sums. kernels.md §3.4-3.6.
//!
//!   g_t = −eps·⟨dh_t, h_t⟩/(N_t + eps), and at the last token also dm_S − T
//!   c_j += Σ_{t: j*(t)=j} g_t      dlf_t += Σ_{u≥t} (g_u − Σ_{t': j*(t')=u} g_t')
//!   di = c (exp), c·σ(−i) (sigmoid)      df = dlf·σ(−f)
//!   dm_0 = ⟨C_0, dC_0⟩ + ⟨n_0, dn_0⟩ + Σ_{t: j*(t)=0} g_t
//!
//! j*(t) is the position whose gates attain m_t; sums end at borders.

const simd = @import("simd.zig");
const math = @import("math.zig");
const problem = @import("mlstm_problem.zig");
const gates = @import("mlstm_gates.zig");
const gradient = @import("mlstm_gradient.zig");
const Unit = problem.Unit;

pub fn GateGradient(comptime S: type) type {
    const A = simd.Arithmetic(S);
    return struct {
        p: *const problem.Problem(S),
        g: *const gates.Gates(S),
        rows: *const gradient.Rows(A),
        u: Unit,
        eps_term: bool,
        last: i32, // j*(S)
        last_gradient: ?f64, // dm_S − T
        di: [*]A,
        df: [*]A,

        const Self = @This();

        /// Returns what the initial m receives through the running maximum.
        pub fn run(self: Self) f64 {
            const initial = if (self.eps_term or self.last_gradient != null) self.credits() else 0;
            const p = self.p;
            for (0..self.u.tokens) |t| {
                const token = p.token(self.u, t);
                const soft = p.soft_reset and p.border(self.u, t);
                const closing = math.sigmoid(A, -p.f[token]);
                const dlf: A = @floatCast(self.rows.dlf[t]);
                self.df[token] = if (soft) 0 else dlf * closing;
                const dli: A = @floatCast(self.rows.dli[t]);
                self.di[token] = if (p.sigmoid) dli * math.sigmoid(A, -p.i[token]) else dli;
            }
            for (self.u.tokens..p.length) |t| {
                const token = p.token(self.u, t);
                self.di[token] = 0;
                self.df[token] = 0;
            }
            return initial;
        }

        fn rowTerm(self: *const Self, t: usize) f64 {
            if (!self.eps_term) return 0;
            return -@as(f64, self.p.eps) * self.rows.inner[t] * self.rows.inverse[t];
        }

        fn credits(self: *const Self) f64 {
            const tokens = self.u.tokens;
            const credit = self.rows.credit;
            @memset(credit[0..tokens], 0);
            var initial: f64 = 0;
            const ending = self.last_gradient orelse 0;
            for (0..tokens) |t| self.give(self.g.winner[t], self.rowTerm(t), &initial);
            self.give(self.last, ending, &initial);
            var carried = ending;
            var t = tokens;
            while (t > 0) {
                t -= 1;
                carried += self.rowTerm(t) - credit[t];
                self.rows.dlf[t] += carried;
                self.rows.dli[t] += credit[t];
                if (self.p.exact_reset and self.p.border(self.u, t)) carried = 0;
            }
            return initial;
        }

        fn give(self: *const Self, position: i32, amount: f64, initial: *f64) void {
            if (position > 0) self.rows.credit[@intCast(position - 1)] += amount;
            if (position == gates.winner.initial) initial.* += amount;
        }
    };
}
