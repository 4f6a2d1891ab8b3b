//! FMA ceiling, our product and a BLAS of the caller's choice, in one run:
//!   zig build-exe -O ReleaseFast -mcpu=native -lc native/src/bench_matmul.zig
//!   ./bench_matmul [path of a CBLAS library]

const std = @import("std");
const linux = std.os.linux;
const Args = @import("args/matmul.zig").Matmul;
const matmul = @import("cpu/matmul.zig").matmul;
const simd = @import("cpu/simd.zig");
const Pool = @import("runtime/pool.zig").Pool;

const gpa = std.heap.c_allocator;
const Gemm = *const fn (
    i32,
    i32,
    i32,
    i32,
    i32,
    i32,
    f32,
    [*]const f32,
    i32,
    [*]const f32,
    i32,
    f32,
    [*]f32,
    i32,
) callconv(.c) void;
const SetThreads = *const fn (i32) callconv(.c) void;

fn now() f64 {
    var t: linux.timespec = undefined;
    _ = linux.clock_gettime(.MONOTONIC, &t);
    return @as(f64, @floatFromInt(t.sec)) + @as(f64, @floatFromInt(t.nsec)) * 1e-9;
}

/// GFLOP/s of independent fused multiply-adds on every thread.
fn ceiling(pool: *Pool) f64 {
    const loops = 4_000_000;
    var sink: [64]f32 = @splat(0);
    var best: f64 = 0;
    for (0..3) |_| {
        const start = now();
        pool.parallel().each(pool.view.threads, @as([*]f32, &sink), struct {
            fn body(out: [*]f32, i: usize) void {
                const V = simd.Vec(f32);
                var acc: [12]V = @splat(@splat(1));
                var x: V = @splat(0.999);
                var y: V = @splat(1e-9);
                std.mem.doNotOptimizeAway(&x);
                std.mem.doNotOptimizeAway(&y);
                for (0..loops) |_| inline for (&acc) |*a| {
                    a.* = simd.fma(V, a.*, x, y);
                };
                var total = acc[0];
                for (acc[1..]) |a| total += a;
                out[i] = total[0];
            }
        }.body);
        const flops: f64 = @floatFromInt(2 * 12 * simd.lanes(f32) * loops * pool.view.threads);
        best = @max(best, flops / (now() - start) / 1e9);
    }
    return best;
}

const Shape = struct {
    name: []const u8,
    m: usize,
    n: usize,
    k: usize,
    ta: bool = false,
    tb: bool = false,
};
const shapes = [_]Shape{
    .{ .name = "256^3", .m = 256, .n = 256, .k = 256 },
    .{ .name = "512^3", .m = 512, .n = 512, .k = 512 },
    .{ .name = "1024^3", .m = 1024, .n = 1024, .k = 1024 },
    .{ .name = "2048^3", .m = 2048, .n = 2048, .k = 2048 },
    .{ .name = "y  4096 128x128", .m = 4096, .n = 128, .k = 128, .tb = true },
    .{ .name = "dx 4096 128x128", .m = 4096, .n = 128, .k = 128 },
    .{ .name = "dw 4096 128x128", .m = 128, .n = 128, .k = 4096, .ta = true },
    .{ .name = "y  2048 256->704", .m = 2048, .n = 704, .k = 256, .tb = true },
    .{ .name = "dx 2048 704->256", .m = 2048, .n = 256, .k = 704 },
    .{ .name = "dw 2048 704x256", .m = 704, .n = 256, .k = 2048, .ta = true },
    .{ .name = "head 2048 256->4096", .m = 2048, .n = 4096, .k = 256, .tb = true },
};

pub fn main(init: std.process.Init) !void {
    var it = init.minimal.args.iterate();
    _ = it.next();
    const path = it.next();
    var gemm: ?Gemm = null;
    var setThreads: ?SetThreads = null;
    if (path) |p| if (std.c.dlopen(p, .{ .NOW = true })) |handle| {
        gemm = @ptrCast(
            std.c.dlsym(handle, "scipy_cblas_sgemm") orelse std.c.dlsym(handle, "cblas_sgemm"),
        );
        setThreads = @ptrCast(std.c.dlsym(handle, "scipy_openblas_set_num_threads") orelse
            std.c.dlsym(handle, "openblas_set_num_threads"));
    };
    for ([_]u32{ 1, 2 }) |threads| {
        var pool: Pool = undefined;
        try pool.start(gpa, threads);
        defer pool.deinit();
        if (setThreads) |set| set(@intCast(threads));
        const peak = ceiling(&pool);
        std.debug.print("threads {d}: FMA ceiling {d:.1} GFLOP/s\n", .{ threads, peak });
        for (shapes) |s| {
            const a = try gpa.alloc(f32, s.m * s.k);
            defer gpa.free(a);
            const b = try gpa.alloc(f32, s.n * s.k);
            defer gpa.free(b);
            const c = try gpa.alloc(f32, s.m * s.n);
            defer gpa.free(c);
            for (a, 0..) |*x, i| x.* = @floatFromInt(@as(i32, @intCast(i % 17)) - 8);
            for (b, 0..) |*x, i| x.* = @floatFromInt(@as(i32, @intCast(i % 13)) - 6);
            const lda = if (s.ta) s.m else s.k;
            const ldb = if (s.tb) s.k else s.n;
            const flops = 2 * @as(
                f64,
                @floatFromInt(s.m),
            ) * @as(f64, @floatFromInt(s.n)) * @as(f64, @floatFromInt(s.k));
            var ours: f64 = 1e9;
            var theirs: f64 = 1e9;
            for (0..7) |_| {
                var t = now();
                try matmul(f32, pool.parallel(), &.{
                    .a = a.ptr,
                    .b = b.ptr,
                    .c = c.ptr,
                    .bias = null,
                    .residual = null,
                    .batch = 1,
                    .m = s.m,
                    .n = s.n,
                    .k = s.k,
                    .a_batch_stride = 0,
                    .a_row_stride = if (s.ta) 1 else lda,
                    .a_column_stride = if (s.ta) lda else 1,
                    .b_batch_stride = 0,
                    .b_row_stride = if (s.tb) 1 else ldb,
                    .b_column_stride = if (s.tb) ldb else 1,
                    .c_batch_stride = 0,
                    .c_row_stride = s.n,
                    .alpha = 1,
                    .a_dtype = 0,
                    .b_dtype = 0,
                    .c_dtype = 0,
                    .accumulate = 0,
                });
                ours = @min(ours, now() - t);
                pool.resetScratch();
                if (gemm) |call| {
                    t = now();
                    call(
                        101,
                        if (s.ta) 112 else 111,
                        if (s.tb) 112 else 111,
                        @intCast(s.m),
                        @intCast(s.n),
                        @intCast(s.k),
                        1,
                        a.ptr,
                        @intCast(lda),
                        b.ptr,
                        @intCast(ldb),
                        0,
                        c.ptr,
                        @intCast(s.n),
                    );
                    theirs = @min(theirs, now() - t);
                }
            }
            const mine = flops / ours / 1e9;
            const row = "  {s:<22} ours {d:6.1} ({d:.0} % of ceiling)" ++
                "  blas {d:6.1}  ratio {d:.2}\n";
            std.debug.print(row, .{
                s.name, mine, 100 * mine / peak, flops / theirs / 1e9, theirs / ours,
            });
        }
    }
}
