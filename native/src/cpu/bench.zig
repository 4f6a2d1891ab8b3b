//! The peak rate of fused multiply-adds: what every product is measured against.

const std = @import("std");
const simd = @import("simd.zig");
const args = @import("../args/bench.zig");
const Parallel = @import("../parallel.zig").Parallel;

pub fn ceiling(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.Ceiling,
) error{OutOfMemory}!void {
    parallel.each(a.tasks, a, struct {
        fn body(c: *const args.Ceiling, task: usize) void {
            const V = simd.Vec(S);
            const out: [*]S = @ptrCast(@alignCast(c.out));
            var acc: [args.chains]V = @splat(@splat(1));
            var x: V = @splat(0.999);
            var y: V = @splat(1e-9);
            std.mem.doNotOptimizeAway(&x);
            std.mem.doNotOptimizeAway(&y);
            for (0..c.loops) |_| inline for (&acc) |*v| {
                v.* = simd.fma(V, v.*, x, y);
            };
            var total = acc[0];
            for (acc[1..]) |v| total += v;
            out[task] = simd.sum(simd.lanes(S), S, total);
        }
    }.body);
}
