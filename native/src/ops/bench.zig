//! What benchmarks need: ceilings, and the choice of the library that multiplies.

const std = @import("std");
const Context = @import("../runtime/context.zig").Context;
const Blas = @import("../runtime/blas.zig").Blas;
const tensors = @import("../runtime/tensor.zig");
const args = @import("../args.zig");
const scratch = @import("../abi/scratch.zig");
const op = @import("call.zig");
const Call = op.Call;
const Error = op.Error;

/// Runs `loops` rounds of multiply-adds on every thread. Numbers: FLOP done.
pub fn ceiling(context: *Context, loops: f64) Error!void {
    var call = Call.begin(context, "ceiling");
    defer call.end();
    if (!(loops >= 1 and loops <= 1e10)) return call.invalid("{d} loops", .{loops});
    context.device = .cpu;
    const tasks = context.pool.view.threads;
    const out = try call.temporary(.f32, &.{tasks});
    try call.run("ceiling", .f32, .{
        .out = out.data(),
        .tasks = tasks,
        .loops = @intFromFloat(loops),
    });
    const lanes: f64 = @floatFromInt(context.kernels.lanes_f32);
    const each = 2 * args.bench.chains * lanes * loops;
    scratch.block.numbers[0] = each * @as(f64, @floatFromInt(tasks));
}

/// Lets the CBLAS library whose path is in scratch text multiply plain f32 matrices, after it has
/// agreed with the in-tree product; a length of 0 goes back to the in-tree product.
pub fn useBlas(context: *Context, path_length: i32) Error!void {
    var call = Call.begin(context, "blas");
    defer call.end();
    context.blas = null;
    context.device = .cpu;
    if (path_length == 0) return;
    if (path_length < 0 or path_length >= scratch.block.text.len)
        return call.invalid("a path of {d} bytes", .{path_length});
    const length: usize = @intCast(path_length);
    scratch.block.text[length] = 0;
    const path: [:0]const u8 = scratch.block.text[0..length :0];
    var failure: Blas.Failure = undefined;
    const blas = Blas.open(path.ptr, &failure) orelse return switch (failure) {
        .reason => |reason| call.missing("{s}", .{reason}),
        .symbol => call.missing("{s} has no cblas_sgemm", .{path}),
        .mismatch => unreachable,
    };
    if (blas.setThreads) |set| set(@intCast(context.pool.view.threads));
    for ([_]Check{
        .{ .m = 64, .n = 64, .k = 64, .flip = false },
        .{ .m = 3, .n = 5, .k = 7, .flip = false },
        .{ .m = 33, .n = 17, .k = 40, .flip = true },
    }) |check| {
        const worst = try compare(&call, blas, check);
        if (!(worst <= 1e-5)) return call.unsupported(
            "{s} computes wrong products on this processor (error {e}); the in-tree one stays",
            .{ path, worst },
        );
    }
    context.blas = blas;
}

const Check = struct { m: usize, n: usize, k: usize, flip: bool };

/// Largest difference between both products over the largest value.
fn compare(call: *Call, blas: Blas, c: Check) Error!f64 {
    const a = try call.temporary(.f32, &.{ c.m, c.k });
    const b = try call.temporary(.f32, &.{ c.k, c.n });
    const ours = try call.temporary(.f32, &.{ c.m, c.n });
    const theirs = try call.temporary(.f32, &.{ c.m, c.n });
    var prng = std.Random.DefaultPrng.init(c.m * 1000 + c.n);
    for ([_]tensors.Tensor{ a, b }) |t| for (values(t)) |*x| {
        x.* = prng.random().floatNorm(f32);
    };
    var p: args.Args("matmul") = .{
        .a = a.data(),
        .b = b.data(),
        .c = ours.data(),
        .bias = null,
        .residual = null,
        .batch = 1,
        .m = c.m,
        .n = c.n,
        .k = c.k,
        .a_batch_stride = 0,
        .a_row_stride = if (c.flip) 1 else c.k,
        .a_column_stride = if (c.flip) c.m else 1,
        .b_batch_stride = 0,
        .b_row_stride = if (c.flip) 1 else c.n,
        .b_column_stride = if (c.flip) c.k else 1,
        .c_batch_stride = 0,
        .c_row_stride = c.n,
        .alpha = 1,
        .a_dtype = 0,
        .b_dtype = 0,
        .c_dtype = 0,
        .accumulate = 0,
    };
    try call.run("matmul", .f32, p);
    p.c = theirs.data();
    blas.multiply(&p);
    var worst: f64 = 0;
    var largest: f64 = 0;
    for (values(ours), values(theirs)) |x, y| {
        if (!(@abs(x - y) < std.math.inf(f32))) return std.math.inf(f64);
        worst = @max(worst, @abs(x - y));
        largest = @max(largest, @abs(x));
    }
    return worst / largest;
}

fn values(t: tensors.Tensor) []f32 {
    const data: [*]f32 = @ptrCast(@alignCast(t.data()));
    return data[0..t.count()];
}
