//! What the mLSTM tests share: random cases that are exact in the storage type, kernel runs into
//! poisoned outputs, comparison with the float64 reference. kernels.md §13.

const std = @import("std");
const simd = @import("../cpu/simd.zig");
const reference = @import("mlstm.zig");
const args = @import("../args/mlstm.zig");
const kernels = @import("../cpu/mlstm.zig");
const Pool = @import("../runtime/pool.zig").Pool;

/// Everything a test allocates dies with it.
pub const Lab = struct {
    arena: std.heap.ArenaAllocator,
    prng: std.Random.DefaultPrng,
    seed: u64,

    pub fn init(seed: u64) Lab {
        return .{ .arena = .init(std.testing.allocator), .prng = .init(seed), .seed = seed };
    }

    pub fn deinit(lab: *Lab) void {
        lab.arena.deinit();
    }

    pub fn zeros(lab: *Lab, comptime T: type, count: usize) ![]T {
        const out = try lab.arena.allocator().alloc(T, count);
        @memset(std.mem.sliceAsBytes(out), 0);
        return out;
    }

    /// All bits set: NaN in every float type, absurd in every other.
    pub fn poisoned(lab: *Lab, comptime T: type, count: usize) ![]T {
        const out = try lab.arena.allocator().alloc(T, count);
        @memset(std.mem.sliceAsBytes(out), 0xff);
        return out;
    }

    /// Normal numbers, rounded to S.
    pub fn normal(lab: *Lab, comptime S: type, count: usize, scale: f64) ![]f64 {
        const out = try lab.arena.allocator().alloc(f64, count);
        for (out) |*x| x.* = round(S, scale * lab.prng.random().floatNorm(f64));
        return out;
    }

    pub fn typed(lab: *Lab, comptime S: type, values: []const f64) ![]S {
        const out = try lab.arena.allocator().alloc(S, values.len);
        for (values, 0..) |x, at| simd.put(S, out.ptr, at, @floatCast(x));
        return out;
    }

    fn maybe(lab: *Lab, comptime S: type, values: ?[]const f64) !?[]S {
        return if (values) |x| try lab.typed(S, x) else null;
    }
};

fn round(comptime S: type, x: f64) f64 {
    var out: [1]S = undefined;
    simd.put(S, &out, 0, @floatCast(x));
    return simd.get(S, &out, 0);
}

/// Gate sets of kernels.md §13.1. wild: some gates at ±1e4, closed input gates, open forget gates.
pub const GateSet = enum { std, std0, seven, large, reset, extreme, wild };

pub const Case = struct {
    shape: reference.Shape,
    gates: GateSet = .std,
    initial: bool = false,
    borders: bool = false,
    lengths: bool = false,
    last: bool = false, // cotangents of C and n of the last state
    last_m: bool = false, // and of its m
    mode: reference.Mode = .exact,
    chunk: usize = 64,
    form: u32 = args.form.chunkwise,
    threads: u32 = 1,
};

pub const Data = struct {
    in: reference.Inputs,
    cotangents: reference.Cotangents,

    /// Random numbers that S (gates and states: its arithmetic type) holds exactly.
    pub fn make(lab: *Lab, comptime S: type, case: Case) !Data {
        const A = simd.Arithmetic(S);
        const s = case.shape;
        const random = lab.prng.random();
        const tokens = s.tokens();
        const i = try lab.zeros(f64, tokens);
        const f = try lab.zeros(f64, tokens);
        for (i, f) |*x, *y| {
            const pair = drawGates(random, case.gates);
            x.* = round(A, pair[0]);
            y.* = round(A, pair[1]);
        }
        var out: Data = .{
            .in = .{
                .q = try lab.normal(S, tokens * s.dk, 1),
                .k = try lab.normal(S, tokens * s.dk, 1),
                .v = try lab.normal(S, tokens * s.dv, 1),
                .i = i,
                .f = f,
            },
            .cotangents = .{ .dh = try lab.normal(S, tokens * s.dv, 1) },
        };
        const units = s.units();
        if (case.initial) {
            out.in.c0 = try lab.normal(A, units * s.dk * s.dv, 1);
            out.in.n0 = try lab.normal(A, units * s.dk, 1);
            if (!s.sigmoid) out.in.m0 = try lab.normal(A, units, 1);
        }
        if (case.last) {
            out.cotangents.dc = try lab.normal(A, units * s.dk * s.dv, 1);
            if (s.normalize) out.cotangents.dn = try lab.normal(A, units * s.dk, 1);
        }
        if (case.last_m) out.cotangents.dm = try lab.normal(A, units, 1);
        if (case.borders) out.in.borders = try drawBorders(lab, s);
        if (case.lengths) out.in.lengths = try drawLengths(lab, s);
        return out;
    }

    fn drawBorders(lab: *Lab, s: reference.Shape) ![]u8 {
        const borders = try lab.zeros(u8, s.batch * s.length);
        const random = lab.prng.random();
        for (borders, 0..) |*flag, at| {
            const t = at % s.length;
            const row = at / s.length;
            // Row 0 has borders at both ends and two neighbours; the others start without one.
            const fixed = row == 0 and (t == 0 or t + 1 == s.length or t == 4 or t == 5);
            flag.* = @intFromBool(fixed or (t > 0 and random.uintLessThan(u8, 11) == 0));
        }
        return borders;
    }

    fn drawLengths(lab: *Lab, s: reference.Shape) ![]i32 {
        const lengths = try lab.zeros(i32, s.batch);
        for (lengths, 0..) |*length, row| {
            const any = lab.prng.random().uintAtMost(usize, s.length);
            length.* = @intCast(if (row == 0) any else if (row == 1) s.length else any / 2);
        }
        return lengths;
    }
};

fn drawGates(random: std.Random, set: GateSet) [2]f64 {
    const x = random.floatNorm(f64);
    const y = random.floatNorm(f64);
    const u = random.float(f64);
    const w = random.float(f64);
    return switch (set) {
        .std => .{ x, 3 + y },
        .std0 => .{ x, y },
        .seven => .{ -10 + 2 * x, 3 + 3 * u },
        .large => .{ 30 * u - 15, 30 * w - 15 },
        .reset => .{ 2 * x, if (u < 1.0 / 64.0) -25 else 4 + y },
        .extreme => .{ 20 * x, 12 * y },
        .wild => .{
            if (u < 0.1) -std.math.inf(f64) else if (u < 0.2) 1e4 else if (u < 0.3) -1e4 else x,
            if (w < 0.1) std.math.inf(f64) else if (w < 0.2) 1e4 else if (w < 0.3) -1e4 else y,
        },
    };
}

/// The inputs in S, q, k and v interleaved in one buffer as a fused projection leaves them; what
/// lies between is NaN.
pub fn Typed(comptime S: type) type {
    const A = simd.Arithmetic(S);
    return struct {
        fused: []S,
        i: []A,
        f: []A,
        c0: ?[]A,
        n0: ?[]A,
        m0: ?[]A,

        const Self = @This();

        pub fn make(lab: *Lab, s: reference.Shape, in: reference.Inputs) !Self {
            const fused = try lab.poisoned(S, s.batch * s.length * rowSize(s));
            for (0..s.batch * s.length) |step| for (0..s.heads) |head| {
                const token = step * s.heads + head;
                const row = fused.ptr + step * rowSize(s);
                for (0..s.dk) |c| {
                    const at = head * s.dk + c;
                    simd.put(S, row, at, @floatCast(in.q[token * s.dk + c]));
                    simd.put(S, row, s.heads * s.dk + at, @floatCast(in.k[token * s.dk + c]));
                }
                for (0..s.dv) |c| {
                    const at = 2 * s.heads * s.dk + head * s.dv + c;
                    simd.put(S, row, at, @floatCast(in.v[token * s.dv + c]));
                }
            };
            return .{
                .fused = fused,
                .i = try lab.typed(A, in.i),
                .f = try lab.typed(A, in.f),
                .c0 = try lab.maybe(A, in.c0),
                .n0 = try lab.maybe(A, in.n0),
                .m0 = try lab.maybe(A, in.m0),
            };
        }

        fn rowSize(s: reference.Shape) usize {
            return s.heads * (2 * s.dk + s.dv) + 3;
        }

        /// Overwrites tokens beyond the rows' lengths with NaN.
        pub fn spoilPadding(self: Self, s: reference.Shape, lengths: []const i32) void {
            for (lengths, 0..) |length, row| for (@intCast(length)..s.length) |t| {
                const at = row * s.length + t;
                @memset(std.mem.sliceAsBytes(self.fused[at * rowSize(s) ..][0..rowSize(s)]), 0xff);
                @memset(std.mem.sliceAsBytes(self.i[at * s.heads ..][0..s.heads]), 0xff);
                @memset(std.mem.sliceAsBytes(self.f[at * s.heads ..][0..s.heads]), 0xff);
            };
        }

        /// Fills what the arguments of the forward and of the backward pass have in common.
        pub fn fill(self: Self, a: anytype, case: Case, in: reference.Inputs) void {
            const s = case.shape;
            a.q = self.fused.ptr;
            a.k = self.fused.ptr + s.heads * s.dk;
            a.v = self.fused.ptr + 2 * s.heads * s.dk;
            a.i = self.i.ptr;
            a.f = self.f.ptr;
            a.c0 = pointer(self.c0);
            a.n0 = pointer(self.n0);
            a.m0 = pointer(self.m0);
            a.borders = if (in.borders) |x| x.ptr else null;
            a.lengths = if (in.lengths) |x| x.ptr else null;
            const step = rowSize(s);
            a.q_strides = .{ .batch = s.length * step, .step = step, .head = s.dk };
            a.k_strides = a.q_strides;
            a.v_strides = .{ .batch = s.length * step, .step = step, .head = s.dv };
            a.batch = s.batch;
            a.length = s.length;
            a.heads = s.heads;
            a.width_qk = s.dk;
            a.width_v = s.dv;
            a.chunk = case.chunk;
            a.eps = s.eps;
            a.reset_value = s.reset_value;
            a.input_gate = @intFromBool(s.sigmoid);
            a.normalize = @intFromBool(s.normalize);
            a.reset = s.reset;
            a.form = case.form;
        }
    };
}

fn pointer(values: anytype) ?*const anyopaque {
    return if (values) |x| x.ptr else null;
}

/// Outputs of the forward kernel.
pub fn Forward(comptime S: type) type {
    const A = simd.Arithmetic(S);
    return struct { h: []S, sigma: []A, m: []A, c: []A, n: []A, m_last: []A };
}

pub fn forward(
    lab: *Lab,
    comptime S: type,
    case: Case,
    in: reference.Inputs,
    typed: Typed(S),
) !Forward(S) {
    const A = simd.Arithmetic(S);
    const s = case.shape;
    const out: Forward(S) = .{
        .h = try lab.poisoned(S, s.tokens() * s.dv),
        .sigma = try lab.poisoned(A, s.tokens()),
        .m = try lab.poisoned(A, s.tokens()),
        .c = try lab.poisoned(A, s.units() * s.dk * s.dv),
        .n = try lab.poisoned(A, s.units() * s.dk),
        .m_last = try lab.poisoned(A, s.units()),
    };
    var a: args.MlstmForward = undefined;
    typed.fill(&a, case, in);
    a.h = out.h.ptr;
    a.sigma = out.sigma.ptr;
    a.m = out.m.ptr;
    a.c_last = out.c.ptr;
    a.n_last = out.n.ptr;
    a.m_last = out.m_last.ptr;
    a.records = null;
    try run(S, kernels.mlstmForward, case.threads, &a);
    return out;
}

/// Outputs of the backward kernel.
pub fn Backward(comptime S: type) type {
    const A = simd.Arithmetic(S);
    return struct { dq: []S, dk: []S, dv: []S, di: []A, df: []A, dc0: []A, dn0: []A, dm0: []A };
}

pub fn backward(
    lab: *Lab,
    comptime S: type,
    case: Case,
    in: reference.Inputs,
    typed: Typed(S),
    result: Forward(S),
    cotangents: reference.Cotangents,
) !Backward(S) {
    const A = simd.Arithmetic(S);
    const s = case.shape;
    const out: Backward(S) = .{
        .dq = try lab.poisoned(S, s.tokens() * s.dk),
        .dk = try lab.poisoned(S, s.tokens() * s.dk),
        .dv = try lab.poisoned(S, s.tokens() * s.dv),
        .di = try lab.poisoned(A, s.tokens()),
        .df = try lab.poisoned(A, s.tokens()),
        .dc0 = try lab.poisoned(A, s.units() * s.dk * s.dv),
        .dn0 = try lab.poisoned(A, s.units() * s.dk),
        .dm0 = try lab.poisoned(A, s.units()),
    };
    var a: args.MlstmBackward = undefined;
    typed.fill(&a, case, in);
    a.h = result.h.ptr;
    a.sigma = result.sigma.ptr;
    a.records = null;
    a.dh = (try lab.typed(S, cotangents.dh)).ptr;
    a.dc_last = pointer(try lab.maybe(A, cotangents.dc));
    a.dn_last = pointer(try lab.maybe(A, cotangents.dn));
    a.dm_last = pointer(try lab.maybe(A, cotangents.dm));
    inline for (.{ "dq", "dk", "dv", "di", "df", "dc0", "dn0", "dm0" }) |name| {
        @field(a, name) = @field(out, name).ptr;
    }
    a.mode = if (case.mode == .frozen) args.grad_mode.frozen else args.grad_mode.exact;
    a.eps_term = @intFromBool(case.mode == .exact);
    try run(S, kernels.mlstmBackward, case.threads, &a);
    return out;
}

pub fn run(comptime S: type, comptime kernel: anytype, threads: u32, a: anytype) !void {
    var pool: Pool = undefined;
    try pool.start(std.testing.allocator, threads);
    defer pool.deinit();
    try kernel(S, pool.parallel(), a);
}

/// The reference's results for a case.
pub const Expected = struct {
    out: reference.Outputs,
    gradients: reference.Gradients,

    pub fn of(lab: *Lab, case: Case, data: Data) !Expected {
        const s = case.shape;
        const size = s.dk * s.dv;
        const trace: reference.Trace = .{
            .c = try lab.zeros(f64, (s.length + 1) * size),
            .n = try lab.zeros(f64, (s.length + 1) * s.dk),
            .m = try lab.zeros(f64, s.length + 1),
        };
        const out: reference.Outputs = .{
            .h = try lab.zeros(f64, s.tokens() * s.dv),
            .sigma = try lab.zeros(f64, s.tokens()),
            .m = try lab.zeros(f64, s.tokens()),
            .c = try lab.zeros(f64, s.units() * size),
            .n = try lab.zeros(f64, s.units() * s.dk),
            .m_last = try lab.zeros(f64, s.units()),
        };
        const gradients: reference.Gradients = .{
            .dq = try lab.zeros(f64, s.tokens() * s.dk),
            .dk = try lab.zeros(f64, s.tokens() * s.dk),
            .dv = try lab.zeros(f64, s.tokens() * s.dv),
            .di = try lab.zeros(f64, s.tokens()),
            .df = try lab.zeros(f64, s.tokens()),
            .dc0 = try lab.zeros(f64, s.units() * size),
            .dn0 = try lab.zeros(f64, s.units() * s.dk),
            .dm0 = try lab.zeros(f64, s.units()),
        };
        reference.forward(s, data.in, trace, out);
        reference.backward(s, data.in, case.mode, trace, out, data.cotangents, gradients);
        return .{ .out = out, .gradients = gradients };
    }
};

/// ‖got − want‖ / ‖want‖; infinite where `got` is not finite. Tensors that f32 cannot hold (what
/// large gates let through to the initial state) count as zeros.
pub fn distance(comptime S: type, want: []const f64, got: []const S) f64 {
    var off: f64 = 0;
    var norm: f64 = 0;
    for (want, 0..) |x, at| {
        const value: f64 = simd.get(S, got.ptr, at);
        if (!std.math.isFinite(value)) return std.math.inf(f64);
        off += (value - x) * (value - x);
        norm += x * x;
    }
    return if (off == 0) 0 else @sqrt(off / (norm + 1e-60));
}

pub fn expectClose(
    comptime S: type,
    what: []const u8,
    want: []const f64,
    got: []const S,
    bar: f64,
) !void {
    try std.testing.expectEqual(want.len, got.len);
    const off = distance(S, want, got);
    if (off <= bar) return;
    std.debug.print("{s}: relative error {e:.2}, at most {e:.1} expected\n", .{ what, off, bar });
    return error.TooFar;
}
