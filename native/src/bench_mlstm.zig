//! Speed of the mLSTM kernels in units of the fused multiply-add ceiling of the same run.
//! `zig build-exe -O ReleaseFast -mcpu=x86_64_v3 -lc src/bench_mlstm.zig`, then optionally the
//! number of one shape. Counted are the products of kernels.md §14 with half of the score square;
//! times are the best of many. One thread is timed by its processor time, which other programs on
//! the machine do not stretch; several by the wall clock, which needs an idle machine.

const std = @import("std");
const simd = @import("cpu/simd.zig");
const kernels = @import("cpu/mlstm.zig");
const args = @import("args/mlstm.zig");
const Pool = @import("runtime/pool.zig").Pool;

const Shape = struct { batch: u64, length: u64, heads: u64, dk: u64, dv: u64, chunk: u64 = 64 };

const shapes = [_]Shape{
    .{ .batch = 16, .length = 256, .heads = 4, .dk = 16, .dv = 32 },
    .{ .batch = 16, .length = 256, .heads = 4, .dk = 16, .dv = 32, .chunk = 32 },
    .{ .batch = 8, .length = 256, .heads = 4, .dk = 32, .dv = 64 },
    .{ .batch = 4, .length = 512, .heads = 4, .dk = 48, .dv = 96 },
    .{ .batch = 4, .length = 512, .heads = 4, .dk = 64, .dv = 64 },
    .{ .batch = 1, .length = 512, .heads = 4, .dk = 192, .dv = 192 },
    .{ .batch = 1, .length = 512, .heads = 4, .dk = 384, .dv = 384 },
};

fn now(threads: u32) f64 {
    var ts: std.os.linux.timespec = undefined;
    const clock: std.os.linux.clockid_t = if (threads == 1) .PROCESS_CPUTIME_ID else .MONOTONIC;
    _ = std.os.linux.clock_gettime(clock, &ts);
    return @as(f64, @floatFromInt(ts.sec)) * 1e9 + @as(f64, @floatFromInt(ts.nsec));
}

const ceiling_steps = 1_000_000;

fn ceilingBody(out: *[8]f32, index: usize) void {
    const V = simd.Vec(f32);
    var acc: [12]V = @splat(@splat(1));
    const factor: V = @splat(0.999999);
    const term: V = @splat(out[index]);
    for (0..ceiling_steps) |_| inline for (0..12) |i| {
        acc[i] = simd.fma(V, acc[i], factor, term);
    };
    var total: V = @splat(0);
    inline for (0..12) |i| total += acc[i];
    out[index] = simd.sum(simd.lanes(f32), f32, total);
}

/// GFLOP/s of independent multiply-adds on all threads.
fn ceiling(pool: *Pool, threads: u32) f64 {
    var best: f64 = 0;
    for (0..10) |_| {
        var out: [8]f32 = @splat(1e-9);
        const start = now(threads);
        pool.parallel().each(threads, &out, ceilingBody);
        const flops: f64 = @floatFromInt(threads * ceiling_steps * 12 * 2 * simd.lanes(f32));
        best = @max(best, flops / (now(threads) - start));
    }
    return best;
}

fn random(gpa: std.mem.Allocator, comptime S: type, count: usize) ![]S {
    const out = try gpa.alloc(S, count);
    var prng: std.Random.DefaultPrng = .init(count);
    for (0..count) |i| simd.put(S, out.ptr, i, prng.random().floatNorm(f32));
    return out;
}

fn Run(comptime S: type) type {
    return struct {
        forward: args.MlstmForward,
        backward: args.MlstmBackward,

        fn make(gpa: std.mem.Allocator, s: Shape) !@This() {
            const tokens = s.batch * s.length * s.heads;
            const keys: args.Strides = .{
                .batch = s.length * s.heads * s.dk,
                .step = s.heads * s.dk,
                .head = s.dk,
            };
            const values: args.Strides = .{
                .batch = s.length * s.heads * s.dv,
                .step = s.heads * s.dv,
                .head = s.dv,
            };
            const f = try random(gpa, f32, tokens);
            for (f) |*x| x.* += 3;
            var a: args.MlstmForward = std.mem.zeroes(args.MlstmForward);
            a.q = (try random(gpa, S, tokens * s.dk)).ptr;
            a.k = (try random(gpa, S, tokens * s.dk)).ptr;
            a.v = (try random(gpa, S, tokens * s.dv)).ptr;
            a.i = (try random(gpa, f32, tokens)).ptr;
            a.f = f.ptr;
            a.h = (try random(gpa, S, tokens * s.dv)).ptr;
            a.sigma = (try random(gpa, f32, tokens)).ptr;
            a.q_strides = keys;
            a.k_strides = keys;
            a.v_strides = values;
            a.batch = s.batch;
            a.length = s.length;
            a.heads = s.heads;
            a.width_qk = s.dk;
            a.width_v = s.dv;
            a.chunk = s.chunk;
            a.eps = 1e-6;
            a.normalize = 1;
            var b: args.MlstmBackward = std.mem.zeroes(args.MlstmBackward);
            inline for (@typeInfo(args.MlstmForward).@"struct".field_names) |name| {
                if (@hasField(args.MlstmBackward, name)) @field(b, name) = @field(a, name);
            }
            b.dh = (try random(gpa, S, tokens * s.dv)).ptr;
            b.dq = (try random(gpa, S, tokens * s.dk)).ptr;
            b.dk = (try random(gpa, S, tokens * s.dk)).ptr;
            b.dv = (try random(gpa, S, tokens * s.dv)).ptr;
            b.di = (try random(gpa, f32, tokens)).ptr;
            b.df = (try random(gpa, f32, tokens)).ptr;
            return .{ .forward = a, .backward = b };
        }
    };
}

fn measure(comptime S: type, gpa: std.mem.Allocator, pool: *Pool, threads: u32, s: Shape) !void {
    var run: Run(S) = try .make(gpa, s);
    var best: [2]f64 = @splat(std.math.inf(f64));
    for (0..30) |_| {
        const start = now(threads);
        try kernels.mlstmForward(S, pool.parallel(), &run.forward);
        const middle = now(threads);
        pool.resetScratch();
        const again = now(threads);
        try kernels.mlstmBackward(S, pool.parallel(), &run.backward);
        best[0] = @min(best[0], middle - start);
        best[1] = @min(best[1], now(threads) - again);
        pool.resetScratch();
    }
    const peak = ceiling(pool, threads);
    const tokens: f64 = @floatFromInt(s.batch * s.length * s.heads);
    const forward: f64 = @floatFromInt(4 * s.dk * s.dv + s.chunk * (s.dk + s.dv));
    const backward: f64 = @floatFromInt(10 * s.dk * s.dv + s.chunk * (3 * s.dk + 2 * s.dv));
    const rates = [2]f64{ tokens * forward / best[0], tokens * backward / best[1] };
    std.debug.print(
        "{s} {d}x{d}x{d} {d}/{d} L{d}, {d} threads: ceiling {d:.0} GFLOP/s, " ++
            "forward {d:.2} ms {d:.0} ({d:.0}%), backward {d:.2} ms {d:.0} ({d:.0}%)\n",
        .{
            if (S == u16) "bf16" else @typeName(S), s.batch,
            s.length,                               s.heads,
            s.dk,                                   s.dv,
            s.chunk,                                threads,
            peak,                                   best[0] / 1e6,
            rates[0],                               100 * rates[0] / peak,
            best[1] / 1e6,                          rates[1],
            100 * rates[1] / peak,
        },
    );
}

pub fn main(init: std.process.Init.Minimal) !void {
    var given = init.args.iterate();
    _ = given.next();
    const only: ?usize = if (given.next()) |x| try std.fmt.parseInt(usize, x, 10) else null;
    for ([_]u32{ 1, 2 }) |threads| for (shapes, 0..) |s, index| {
        if (only) |x| if (x != index) continue;
        var pool: Pool = undefined;
        try pool.start(std.heap.c_allocator, threads);
        defer pool.deinit();
        var arena: std.heap.ArenaAllocator = .init(std.heap.c_allocator);
        defer arena.deinit();
        try measure(f32, arena.allocator(), &pool, threads, s);
        if (index < 3) try measure(u16, arena.allocator(), &pool, threads, s);
    };
}
