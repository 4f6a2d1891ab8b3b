//! All CPU kernels, compiled once per instruction-set level from the same source. Each level is an
//! object that exports one hidden table of entries; `runtime/level.zig` picks one by cpuid.

const std = @import("std");
const level = @import("level");
const args = @import("args.zig");
const simd = @import("cpu/simd.zig");
const Parallel = @import("parallel.zig").Parallel;

/// Same order as `args.subjects`.
const subjects = .{
    @import("cpu/elementwise.zig"),
    @import("cpu/matmul.zig"),
    @import("cpu/mlstm.zig"),
    @import("cpu/slstm.zig"),
    @import("cpu/conv.zig"),
    @import("cpu/norm.zig"),
    @import("cpu/loss.zig"),
    @import("cpu/index.zig"),
    @import("cpu/random.zig"),
    @import("cpu/optimizer.zig"),
    @import("cpu/bench.zig"),
};

comptime {
    // Debug builds use a backend without 512-bit vectors.
    const narrow = @import("builtin").zig_backend == .stage2_x86_64;
    std.debug.assert(simd.lanes(f32) == if (narrow) @min(level.lanes_f32, 8) else level.lanes_f32);
    @export(&table, .{ .name = "xl_cpu_" ++ level.suffix, .visibility = .hidden });
}

const table: args.Table = blk: {
    @setEvalBranchQuota(200_000);
    var entries: [args.count * args.columns.len]?args.Entry = @splat(null);
    var at: usize = 0;
    for (args.subjects, subjects) |subject, implementation| {
        for (subject.kernels) |row| {
            for (args.columns) |S| {
                if (args.supports(row[1], S) and (S != f64 or level.f64))
                    entries[at] = entry(implementation, row[0], row[1], S);
                at += 1;
            }
        }
    }
    break :blk .{ .lanes_f32 = simd.lanes(f32), .entries = entries };
};

fn entry(
    comptime implementation: type,
    comptime name: []const u8,
    comptime A: type,
    comptime S: type,
) args.Entry {
    return struct {
        fn call(parallel: *const Parallel, erased: *const anyopaque) callconv(.c) i32 {
            const a: *const A = @ptrCast(@alignCast(erased));
            @field(implementation, name)(S, parallel, a) catch return 1;
            return 0;
        }
    }.call;
}
