//! What the forward and backward kernels of the mLSTM share: typed views of the arguments, how the
//! work is cut into units and chunks, and scratch memory that threads reuse.

const std = @import("std");
const simd = @import("simd.zig");
const panel = @import("mlstm_panel.zig");
const args = @import("../args/mlstm.zig");
const Parallel = @import("../parallel.zig").Parallel;

/// A unit is one head of one batch row: nothing crosses units.
pub fn Problem(comptime S: type) type {
    const A = simd.Arithmetic(S);
    return struct {
        q: View(S),
        k: View(S),
        v: View(S),
        i: [*]const A,
        f: [*]const A,
        c0: ?[*]const A,
        n0: ?[*]const A,
        m0: ?[*]const A,
        borders: ?[*]const u8,
        lengths: ?[*]const i32,
        batch: usize,
        length: usize,
        heads: usize,
        dk: usize,
        dv: usize,
        chunk: usize,
        eps: A,
        scale: f64, // s = DQK^(−1/2)
        reset_value: A,
        sigmoid: bool,
        normalize: bool,
        exact_reset: bool,
        soft_reset: bool,

        const Self = @This();

        /// From the arguments of the forward or the backward pass.
        pub fn of(a: anytype) Self {
            std.debug.assert(a.length >= 1 and a.width_qk >= 1 and a.width_v >= 1 and a.chunk >= 1);
            const borders = if (a.reset == args.reset.none) null else a.borders;
            return .{
                .q = .of(a.q, a.q_strides),
                .k = .of(a.k, a.k_strides),
                .v = .of(a.v, a.v_strides),
                .i = @ptrCast(@alignCast(a.i)),
                .f = @ptrCast(@alignCast(a.f)),
                .c0 = @ptrCast(@alignCast(a.c0)),
                .n0 = @ptrCast(@alignCast(a.n0)),
                .m0 = if (a.input_gate == args.input_gate.exp) @ptrCast(@alignCast(a.m0)) else null,
                .borders = @ptrCast(borders),
                .lengths = @ptrCast(@alignCast(a.lengths)),
                .batch = a.batch,
                .length = a.length,
                .heads = a.heads,
                .dk = a.width_qk,
                .dv = a.width_v,
                .chunk = if (a.form == args.form.parallel) a.length else @min(a.chunk, a.length),
                .eps = @floatCast(a.eps),
                .scale = 1 / @sqrt(@as(f64, @floatFromInt(a.width_qk))),
                .reset_value = @floatCast(a.reset_value),
                .sigmoid = a.input_gate == args.input_gate.sigmoid,
                .normalize = a.normalize != 0 or a.input_gate == args.input_gate.exp,
                .exact_reset = borders != null and a.reset == args.reset.exact,
                .soft_reset = borders != null and a.reset == args.reset.soft,
            };
        }

        pub fn units(self: *const Self) usize {
            return self.batch * self.heads;
        }

        /// Chunks of a whole row.
        pub fn chunks(self: *const Self) usize {
            return (self.length + self.chunk - 1) / self.chunk;
        }

        pub fn unit(self: *const Self, index: usize) Unit {
            const row = index / self.heads;
            var tokens = self.length;
            if (self.lengths) |lengths| tokens = @intCast(lengths[row]);
            return .{
                .index = index,
                .row = row,
                .head = index % self.heads,
                .tokens = tokens,
                .chunks = (tokens + self.chunk - 1) / self.chunk,
            };
        }

        /// Token t of a unit in a tensor [B, S, NH].
        pub fn token(self: *const Self, u: Unit, t: usize) usize {
            return (u.row * self.length + t) * self.heads + u.head;
        }

        pub fn border(self: *const Self, u: Unit, t: usize) bool {
            const borders = self.borders orelse return false;
            return borders[u.row * self.length + t] != 0;
        }

        pub fn span(self: *const Self, u: Unit, c: usize) Span {
            const first = c * self.chunk;
            return .{ .index = c, .first = first, .count = @min(self.chunk, u.tokens - first) };
        }

        pub fn hasInitial(self: *const Self) bool {
            return self.c0 != null or self.n0 != null;
        }

        /// How many tasks share the state of one unit: 1 where units alone keep many cores busy. By
        /// the shape alone, never by the number of threads.
        pub fn stateBlocks(self: *const Self) usize {
            const wanted = (few + self.units() - 1) / @max(1, self.units());
            return @max(1, @min(wanted, panel.count(self.dv) / 4));
        }

        /// Whether chunks become tasks of their own, with the states of all of them in memory.
        pub fn spread(self: *const Self) bool {
            return self.units() < few and self.chunks() > 1;
        }

        const few = 16;

        /// Elements of a state in panels of the value dim.
        pub fn stateSize(self: *const Self) usize {
            return panel.size(self.dk, self.dv);
        }

        /// DQK rounded up to whole panels.
        pub fn padded(self: *const Self) usize {
            return panel.count(self.dk) * panel.width;
        }
    };
}

pub const Unit = struct { index: usize, row: usize, head: usize, tokens: usize, chunks: usize };

/// The tokens of one chunk.
pub const Span = struct { index: usize, first: usize, count: usize };

pub fn View(comptime S: type) type {
    return struct {
        base: [*]const S,
        strides: args.Strides,

        const Self = @This();

        pub fn of(pointer: *const anyopaque, strides: args.Strides) Self {
            return .{ .base = @ptrCast(@alignCast(pointer)), .strides = strides };
        }

        pub fn at(self: Self, row: usize, head: usize, t: usize) [*]const S {
            const s = self.strides;
            return self.base + row * s.batch + t * s.step + head * s.head;
        }

        /// Panels of the chunk's tokens.
        pub fn pack(
            self: Self,
            u: Unit,
            span: Span,
            columns: usize,
            scale: ?[*]const simd.Arithmetic(S),
            to: [*]simd.Arithmetic(S),
        ) void {
            const from = self.at(u.row, u.head, span.first);
            panel.pack(S, from, self.strides.step, span.count, columns, scale, to);
        }
    };
}

/// Hands out consecutive parts of one block, each aligned to 16 elements.
pub fn Carver(comptime A: type) type {
    return struct {
        next: [*]A,

        pub fn take(self: *@This(), elements: usize) [*]A {
            const at = self.next;
            self.next += rounded(elements);
            return at;
        }
    };
}

pub fn rounded(elements: usize) usize {
    return (elements + 15) / 16 * 16;
}

/// As many scratch blocks as threads. A task holds one while it runs, so blocks stay in the cache
/// of whoever reuses them; what a block holds never outlives a task.
pub const Slots = struct {
    taken: []std.atomic.Value(u32),

    pub fn of(parallel: *const Parallel) error{OutOfMemory}!Slots {
        const taken = try parallel.alloc(std.atomic.Value(u32), parallel.threads);
        for (taken) |*flag| flag.* = .init(0);
        return .{ .taken = taken };
    }

    /// Always finds one: no more tasks run at a time than there are threads.
    pub fn claim(self: Slots) usize {
        while (true) for (self.taken, 0..) |*flag, i| {
            if (flag.cmpxchgStrong(0, 1, .acquire, .monotonic) == null) return i;
        };
    }

    pub fn release(self: Slots, slot: usize) void {
        self.taken[slot].store(0, .release);
    }
};
