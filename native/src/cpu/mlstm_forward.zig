//! mLSTM forward pass, chunkwise (the parallel form is one chunk). Equations: `args/mlstm.zig`,
//! kernels.md §2.3; reference: `reference/mlstm.zig`.
//!
//! Per chunk with state C, n before it and the vectors of `mlstm_gates.zig`, L the tokens:
//!   W[L, L] = (q kᵀ) ∘ e^(u + w) below the diagonal     σ = α ∘ (q n) + W 1
//!   h[L, DV] = (α ∘ (q C) + W v) / (N + eps)            C ← γ C + (β ∘ k)ᵀ v,  n likewise
//!
//! A task is one unit, chunk after chunk. Few units: one task per unit and block of value columns
//! computes all states, then one task per unit and chunk the outputs; the numbers are the same.

const std = @import("std");
const simd = @import("simd.zig");
const panel = @import("mlstm_panel.zig");
const problem = @import("mlstm_problem.zig");
const gates = @import("mlstm_gates.zig");
const state = @import("mlstm_state.zig");
const output = @import("mlstm_output.zig");
const recurrent = @import("mlstm_recurrent.zig");
const args = @import("../args/mlstm.zig");
const Parallel = @import("../parallel.zig").Parallel;
const Unit = problem.Unit;
const Span = problem.Span;
const width = panel.width;

pub fn mlstmForward(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.MlstmForward,
) error{OutOfMemory}!void {
    const p = problem.Problem(S).of(a);
    if (p.units() == 0) return;
    if (a.form == args.form.recurrent) return recurrent.forward(S, parallel, a, &p);
    return Forward(S).run(parallel, a, &p);
}

fn Forward(comptime S: type) type {
    const A = simd.Arithmetic(S);
    const V = simd.Wide(A);
    const Problem = problem.Problem(S);
    const Gates = gates.Gates(S);
    const Work = output.Work(A);
    return struct {
        p: *const Problem,
        out: output.Tensors(S),
        slots: problem.Slots,
        work: []A, // per slot
        work_size: usize,
        gate_values: []A, // per slot, or per unit
        gate_sums: []f64,
        gate_words: []u32,
        states: []A, // [units, chunks + 1, C and n], or per slot one C and n
        last: []Gates.Carry, // per unit
        blocks: usize, // tasks per unit that share a state; 0: one task does all

        const Self = @This();

        fn run(
            parallel: *const Parallel,
            a: *const args.MlstmForward,
            p: *const Problem,
        ) error{OutOfMemory}!void {
            const spread = p.spread();
            const holders = if (spread) p.units() else parallel.threads;
            const sizes = Gates.sizes(p);
            const per_unit = if (spread) p.chunks() + 1 else 1;
            const self: Self = .{
                .p = p,
                .out = .of(a),
                .slots = try .of(parallel),
                .work = try parallel.alloc(A, parallel.threads * Work.size(p)),
                .work_size = Work.size(p),
                .gate_values = try parallel.alloc(A, holders * sizes[0]),
                .gate_sums = try parallel.alloc(f64, holders * sizes[1]),
                .gate_words = try parallel.alloc(u32, holders * sizes[2]),
                .states = try parallel.alloc(A, holders * per_unit * stateSize(p)),
                .last = try parallel.alloc(Gates.Carry, p.units()),
                .blocks = if (spread) p.stateBlocks() else 0,
            };
            if (!spread) return parallel.each(p.units(), &self, whole);
            parallel.each(p.units(), &self, prepare);
            parallel.each(p.units() * self.blocks, &self, stateBlock);
            parallel.each(p.units() * p.chunks(), &self, chunk);
        }

        fn stateSize(p: *const Problem) usize {
            return p.stateSize() + p.padded();
        }

        fn gatesOf(self: *const Self, holder: usize) Gates {
            const sizes = Gates.sizes(self.p);
            return .carve(
                self.p,
                self.gate_values.ptr + holder * sizes[0],
                self.gate_sums.ptr + holder * sizes[1],
                self.gate_words.ptr + holder * sizes[2],
            );
        }

        /// One unit, from its first to its last chunk.
        fn whole(self: *const Self, index: usize) void {
            const p = self.p;
            const u = p.unit(index);
            const slot = self.slots.claim();
            defer self.slots.release(slot);
            const g = self.gatesOf(slot);
            const carry = g.prepare(p, u);
            const held = self.states.ptr + slot * stateSize(p);
            const all = [2]usize{ 0, panel.count(p.dv) };
            var known = self.loadInitial(u, held, all);
            const work: Work = .of(p, self.work.ptr + slot * self.work_size);
            for (0..u.chunks) |c| {
                const span = p.span(u, c);
                pack(p, u, span, &work);
                self.chunkOutputs(u, span, g, if (known) held else null, &work);
                if (c + 1 == u.chunks and !self.out.wantsLast()) break;
                self.advance(span, g, if (known) held else null, held, all, &work);
                known = true;
            }
            self.out.pad(p, u);
            self.out.storeLast(p, u, if (known) held else null, carry.m);
        }

        fn prepare(self: *const Self, index: usize) void {
            const u = self.p.unit(index);
            self.last[index] = self.gatesOf(index).prepare(self.p, u);
            self.out.pad(self.p, u);
        }

        /// All states of one unit, for one block of value columns.
        fn stateBlock(self: *const Self, index: usize) void {
            const p = self.p;
            const u = p.unit(index / self.blocks);
            const slot = self.slots.claim();
            defer self.slots.release(slot);
            const g = self.gatesOf(u.index);
            const panels = panel.count(p.dv);
            const block = index % self.blocks;
            const blocks = self.blocks;
            const part = [2]usize{ block * panels / blocks, (block + 1) * panels / blocks };
            var before = self.states.ptr + u.index * (p.chunks() + 1) * stateSize(p);
            var known = self.loadInitial(u, before, part);
            const work: Work = .of(p, self.work.ptr + slot * self.work_size);
            for (0..u.chunks) |c| {
                if (c + 1 == u.chunks and !self.out.wantsLast()) break;
                const span = p.span(u, c);
                packKeys(p, u, span, &work);
                packValues(p, u, span, part, &work);
                const after = before + stateSize(p);
                self.advance(span, g, if (known) before else null, after, part, &work);
                before = after;
                known = true;
            }
        }

        /// The outputs of one chunk; the last one of a unit stores its last state.
        fn chunk(self: *const Self, index: usize) void {
            const p = self.p;
            const u = p.unit(index / p.chunks());
            const c = index % p.chunks();
            const base = self.states.ptr + u.index * (p.chunks() + 1) * stateSize(p);
            const known = p.hasInitial() or c > 0;
            if (c < u.chunks) {
                const slot = self.slots.claim();
                defer self.slots.release(slot);
                const work: Work = .of(p, self.work.ptr + slot * self.work_size);
                const span = p.span(u, c);
                pack(p, u, span, &work);
                const before = base + c * stateSize(p);
                const g = self.gatesOf(u.index);
                self.chunkOutputs(u, span, g, if (known) before else null, &work);
            }
            if (c + 1 != p.chunks()) return;
            const end = base + u.chunks * stateSize(p);
            const some = p.hasInitial() or u.chunks > 0;
            self.out.storeLast(p, u, if (some) end else null, self.last[u.index].m);
        }

        /// Whether the unit has an initial state; its panels then hold it.
        fn loadInitial(self: *const Self, u: Unit, to: [*]A, part: [2]usize) bool {
            const p = self.p;
            if (!p.hasInitial()) return false;
            const at = u.row * p.heads + u.head;
            for (part[0]..part[1]) |q| {
                const panels = to + q * p.dk * width;
                const c0 = p.c0 orelse {
                    @memset(panels[0 .. p.dk * width], 0);
                    continue;
                };
                const columns = @min(width, p.dv - q * width);
                panel.pack(A, c0 + at * p.dk * p.dv + q * width, p.dv, p.dk, columns, null, panels);
            }
            if (part[0] != 0) return true;
            const n0 = if (p.n0) |n| n + at * p.dk else null;
            state.loadVector(A, n0, p.dk, to + p.stateSize());
            return true;
        }

        fn packKeys(p: *const Problem, u: Unit, span: Span, work: *const Work) void {
            const from = p.k.at(u.row, u.head, span.first);
            panel.transpose(S, from, p.k.strides.step, span.count, p.dk, work.k, p.dk);
        }

        fn packValues(
            p: *const Problem,
            u: Unit,
            span: Span,
            part: [2]usize,
            work: *const Work,
        ) void {
            const from = p.v.at(u.row, u.head, span.first) + part[0] * width;
            const columns = @min(part[1] * width, p.dv) - part[0] * width;
            const to = work.v + part[0] * span.count * width;
            panel.pack(S, from, p.v.strides.step, span.count, columns, null, to);
        }

        fn pack(p: *const Problem, u: Unit, span: Span, work: *const Work) void {
            p.q.pack(u, span, p.dk, null, work.q);
            packKeys(p, u, span, work);
            packValues(p, u, span, .{ 0, panel.count(p.dv) }, work);
        }

        fn chunkOutputs(
            self: *const Self,
            u: Unit,
            span: Span,
            g: Gates,
            before: ?[*]const A,
            work: *const Work,
        ) void {
            const chunk_output: output.Output(S) = .{
                .p = self.p,
                .out = &self.out,
                .g = &g,
                .work = work,
                .u = u,
                .span = span,
                .c = before,
                .n = if (before) |x| x + self.p.stateSize() else null,
            };
            chunk_output.run();
        }

        /// Scales kᵀ by β in place, then the state. n belongs to the first block.
        fn advance(
            self: *const Self,
            span: Span,
            g: Gates,
            before: ?[*]const A,
            after: [*]A,
            part: [2]usize,
            work: *const Work,
        ) void {
            const p = self.p;
            const gamma = g.gamma[span.index];
            for (0..panel.count(span.count)) |q| {
                const beta = simd.loadN(A, width, g.beta + span.first + q * width);
                const rows = work.k + q * p.dk * width;
                for (0..p.dk) |r| {
                    const row = rows + r * width;
                    simd.storeN(A, width, row, beta * simd.loadN(A, width, row));
                }
            }
            const step: state.State(A, .rows) = .{
                .from = before,
                .to = after,
                .gamma = gamma,
                .rows = p.dk,
                .a = work.k,
                .span = p.dk * width,
                .b = work.v,
                .tokens = span.count,
                .panels = part,
                .part = .{ 0, p.dk },
            };
            step.run();
            if (part[0] != 0 or !p.normalize) return;
            const n_before: ?[*]const A = if (before) |x| x + p.stateSize() else null;
            const n_after = after + p.stateSize();
            for (0..p.dk) |r| {
                var sums: V = @splat(0);
                for (0..panel.count(span.count)) |q| {
                    sums += simd.loadN(A, width, work.k + (q * p.dk + r) * width);
                }
                const kept = if (gamma == 0) 0 else if (n_before) |n| gamma * n[r] else 0;
                n_after[r] = kept + simd.sum(width, A, sums);
            }
            @memset(n_after[p.dk..p.padded()], 0);
        }
    };
}
