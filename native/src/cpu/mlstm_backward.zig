//! mLSTM backward pass, chunkwise, for every form of the forward pass. kernels.md §3.
//!
//! Per unit: gate vectors and denominators; the states before every chunk, transposed, kept in
//! scratch; then the chunks in reverse order, each with the state before it and the gradient dC of
//! the one after it (`mlstm_gradient.zig`), dC ← γ dC + (α ∘ q)ᵀ dh', dn ← γ dn + (α ∘ q)ᵀ y; last
//! the gate sums (`mlstm_gate_gradient.zig`).
//!
//! A task is one unit. Few units: tasks of one unit and one block of value columns compute all C
//! and dC, then every chunk is a task; the numbers are the same.

const simd = @import("simd.zig");
const panel = @import("mlstm_panel.zig");
const problem = @import("mlstm_problem.zig");
const gates = @import("mlstm_gates.zig");
const gradient = @import("mlstm_gradient.zig");
const parts = @import("mlstm_backward_parts.zig");
const args = @import("../args/mlstm.zig");
const Parallel = @import("../parallel.zig").Parallel;

pub fn mlstmBackward(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.MlstmBackward,
) error{OutOfMemory}!void {
    const p = problem.Problem(S).of(a);
    if (p.units() == 0) return;
    return Backward(S).run(parallel, a, &p);
}

fn Backward(comptime S: type) type {
    const A = simd.Arithmetic(S);
    const Problem = problem.Problem(S);
    const Gates = gates.Gates(S);
    const Work = gradient.Work(A);
    const Parts = parts.Parts(S);
    const turnedSize = Parts.turnedSize;
    const straightSize = Parts.straightSize;
    return struct {
        p: *const Problem,
        parts: Parts,
        slots: problem.Slots,
        work: []A, // per slot
        vectors: []A, // gates and row vectors, per holder: a unit when spread, else a slot
        sums: []f64,
        words: []u32,
        states: []A, // per holder: Cᵀ and n before every chunk and after the last
        dstates: []A, // per holder: dC and dn likewise, or one pair where units are not spread
        ends: []Gates.Carry, // per unit
        spread: bool,

        const Self = @This();

        fn run(
            parallel: *const Parallel,
            a: *const args.MlstmBackward,
            p: *const Problem,
        ) error{OutOfMemory}!void {
            const spread = p.spread();
            const holders = if (spread) p.units() else parallel.threads;
            const sizes = Gates.sizes(p);
            const length = problem.rounded(p.length);
            const self: Self = .{
                .p = p,
                .parts = .of(a, p),
                .slots = try .of(parallel),
                .work = try parallel.alloc(A, parallel.threads * Work.size(p)),
                .vectors = try parallel.alloc(A, holders * (sizes[0] + 3 * length)),
                .sums = try parallel.alloc(f64, holders * (sizes[1] + 3 * length)),
                .words = try parallel.alloc(u32, holders * sizes[2]),
                .states = try parallel.alloc(A, holders * (p.chunks() + 1) * turnedSize(p)),
                .dstates = try parallel.alloc(A, holders * gradientsKept(p) * straightSize(p)),
                .ends = try parallel.alloc(Gates.Carry, p.units()),
                .spread = spread,
            };
            if (!spread) return parallel.each(p.units(), &self, whole);
            parallel.each(p.units(), &self, prepare);
            parallel.each(p.units() * p.stateBlocks(), &self, stateBlock);
            parallel.each(p.units() * p.chunks(), &self, chunk);
            parallel.each(p.units(), &self, finish);
        }

        fn gradientsKept(p: *const Problem) usize {
            return if (p.spread()) p.chunks() + 1 else 1;
        }

        fn heldBy(self: *const Self, holder: usize) Parts.Held {
            const p = self.p;
            const sizes = Gates.sizes(p);
            const length = problem.rounded(p.length);
            const values = self.vectors.ptr + holder * (sizes[0] + 3 * length);
            const sums = self.sums.ptr + holder * (sizes[1] + 3 * length);
            return .{
                .g = .carve(p, values, sums, self.words.ptr + holder * sizes[2]),
                .rows = .{
                    .inverse = values + sizes[0],
                    .y = values + sizes[0] + length,
                    .inner = values + sizes[0] + 2 * length,
                    .dlf = sums + sizes[1],
                    .dli = sums + sizes[1] + length,
                    .credit = sums + sizes[1] + 2 * length,
                },
                .states = self.states.ptr + holder * (p.chunks() + 1) * turnedSize(p),
            };
        }

        fn gradientsOf(self: *const Self, holder: usize) [*]A {
            return self.dstates.ptr + holder * gradientsKept(self.p) * straightSize(self.p);
        }

        fn workOf(self: *const Self, slot: usize) Work {
            return .of(self.p, self.work.ptr + slot * Work.size(self.p));
        }

        /// One unit alone.
        fn whole(self: *const Self, index: usize) void {
            const u = self.p.unit(index);
            const slot = self.slots.claim();
            defer self.slots.release(slot);
            const held = self.heldBy(slot);
            const work = self.workOf(slot);
            const end = self.parts.prepare(u, held);
            const all = [2]usize{ 0, panel.count(self.p.dv) };
            self.parts.statesOf(u, held, all, &work);
            const now = self.gradientsOf(slot);
            self.parts.loadLast(u, now, all);
            var c = u.chunks;
            while (c > 0) {
                c -= 1;
                const after = if (self.parts.knowsGradient(u, c)) now else null;
                self.parts.gradients(u, held, c, after, &work);
                if (c == 0 and !self.parts.wantsInitial()) break;
                self.parts.back(u, held, c, after, now, all, &work);
            }
            self.parts.finish(u, held, now, end);
        }

        fn prepare(self: *const Self, index: usize) void {
            self.ends[index] = self.parts.prepare(self.p.unit(index), self.heldBy(index));
        }

        /// All states and their gradients of one unit, for one block of value columns.
        fn stateBlock(self: *const Self, index: usize) void {
            const p = self.p;
            const blocks = p.stateBlocks();
            const u = p.unit(index / blocks);
            const slot = self.slots.claim();
            defer self.slots.release(slot);
            const held = self.heldBy(u.index);
            const work = self.workOf(slot);
            const panels = panel.count(p.dv);
            const block = index % blocks;
            const part = [2]usize{ block * panels / blocks, (block + 1) * panels / blocks };
            self.parts.statesOf(u, held, part, &work);
            const all = self.gradientsOf(u.index);
            self.parts.loadLast(u, all + u.chunks * straightSize(p), part);
            var c = u.chunks;
            while (c > 0) {
                c -= 1;
                if (c == 0 and !self.parts.wantsInitial()) break;
                self.parts.packCotangent(u, held, p.span(u, c), part, &work);
                const before = all + c * straightSize(p);
                const after = before + straightSize(p);
                const known = if (self.parts.knowsGradient(u, c)) after else null;
                self.parts.back(u, held, c, known, before, part, &work);
            }
        }

        fn chunk(self: *const Self, index: usize) void {
            const p = self.p;
            const u = p.unit(index / p.chunks());
            const c = index % p.chunks();
            if (c >= u.chunks) return;
            const slot = self.slots.claim();
            defer self.slots.release(slot);
            const work = self.workOf(slot);
            const after = self.gradientsOf(u.index) + (c + 1) * straightSize(p);
            const known = if (self.parts.knowsGradient(u, c)) after else null;
            self.parts.gradients(u, self.heldBy(u.index), c, known, &work);
        }

        fn finish(self: *const Self, index: usize) void {
            const held = self.heldBy(index);
            const first = self.gradientsOf(index);
            self.parts.finish(self.p.unit(index), held, first, self.ends[index]);
        }
    };
}
