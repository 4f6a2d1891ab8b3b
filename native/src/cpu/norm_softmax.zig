//! Softmax and log-softmax over the last dim of [rows, width], with their gradients.
//!
//!     y = e^(x − max)/Σ,            dx = y∘(dy − Σ dy∘y)
//!     y = (x − max) − ln Σ,         dx = dy − e^y·Σ dy
//!
//! Sums run in A over blocks of 4096 in 16 lanes, the blocks are added in f64. All outputs `=`.
//! Equal to `reference/norm.zig`.

const std = @import("std");
const args = @import("../args/norm.zig");
const math = @import("math.zig");
const partials = @import("reduce_partial.zig");
const row = @import("norm_row.zig");
const simd = @import("simd.zig");
const Parallel = @import("../parallel.zig").Parallel;
const OutOfMemory = error{OutOfMemory};

const block = 4096;

pub fn softmaxForward(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.SoftmaxForward,
) OutOfMemory!void {
    overRows(parallel, a, Softmax(S, false).forward);
}

pub fn softmaxBackward(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.SoftmaxBackward,
) OutOfMemory!void {
    overRows(parallel, a, Softmax(S, false).backward);
}

pub fn logSoftmaxForward(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.SoftmaxForward,
) OutOfMemory!void {
    overRows(parallel, a, Softmax(S, true).forward);
}

pub fn logSoftmaxBackward(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.SoftmaxBackward,
) OutOfMemory!void {
    overRows(parallel, a, Softmax(S, true).backward);
}

fn overRows(
    parallel: *const Parallel,
    a: anytype,
    comptime body: fn (@TypeOf(a), usize) void,
) void {
    if (a.width == 0) return;
    const per_task = row.rowsPerTask(a.width);
    parallel.each(@divCeil(a.rows, per_task), a, struct {
        fn some(arguments: @TypeOf(a), index: usize) void {
            const rows = row.rowsPerTask(arguments.width);
            const high = @min(arguments.rows, (index + 1) * rows);
            for (index * rows..high) |r| body(arguments, r);
        }
    }.some);
}

fn Softmax(comptime S: type, comptime logarithm: bool) type {
    const A = simd.Arithmetic(S);
    const W = simd.Wide(A);
    return struct {
        /// The exponentials wait in y for their sum, except in bf16, where that would round twice.
        const keeps = !logarithm and S != u16;

        fn forward(a: *const args.SoftmaxForward, r: usize) void {
            const n = a.width;
            const x = row.many(S, a.x) + r * n;
            const y = row.manyMut(S, a.y) + r * n;
            const most: W = @splat(maximum(x, n));
            const terms: Exponentials = .{
                .x = x,
                .most = most,
                .n = n,
                .keep = if (keeps) y else null,
            };
            const total = blocked(n, terms);
            // For the logarithm: what is subtracted. Else: what is multiplied with.
            const last: W = @splat(@floatCast(if (logarithm) @log(total) else 1 / total));
            var i: usize = 0;
            while (i < n) : (i += row.lanes) {
                if (keeps) {
                    row.store(S, y, i, n, row.load(S, y, i, n) * last);
                    continue;
                }
                const d = row.load(S, x, i, n) - most;
                row.store(S, y, i, n, if (logarithm) d - last else math.exp(W, d) * last);
            }
        }

        fn backward(a: *const args.SoftmaxBackward, r: usize) void {
            const n = a.width;
            const dy = row.many(S, a.dy) + r * n;
            const y = row.many(S, a.y) + r * n;
            const dx = row.manyMut(S, a.dx) + r * n;
            const total: W = @splat(@floatCast(blocked(n, Products{ .dy = dy, .y = y, .n = n })));
            var i: usize = 0;
            while (i < n) : (i += row.lanes) {
                const d = row.load(S, dy, i, n);
                const v = row.load(S, y, i, n);
                row.store(
                    S,
                    dx,
                    i,
                    n,
                    if (logarithm) d - math.exp(W, v) * total else v * (d - total),
                );
            }
        }

        fn maximum(x: [*]const S, n: usize) A {
            const f = partials.Lanes(.max, W, A);
            var most: W = @splat(simd.get(S, x, 0));
            var i: usize = 0;
            while (i + row.lanes <= n) : (i += row.lanes) most = f.step(
                most,
                simd.loadN(S, row.lanes, x + i),
                most,
            );
            var result = f.tree(most);
            while (i < n) : (i += 1) result = partials.larger(A, result, simd.get(S, x, i));
            return result;
        }

        const Exponentials = struct {
            x: [*]const S,
            most: W,
            n: usize,
            keep: ?[*]S,
            inline fn at(e: *const Exponentials, i: usize) W {
                const value = math.exp(W, row.load(S, e.x, i, e.n) - e.most);
                if (keeps) row.store(S, e.keep.?, i, e.n, value);
                return row.masked(A, value, i, e.n);
            }
        };

        const Products = struct {
            dy: [*]const S,
            y: [*]const S,
            n: usize,
            inline fn at(p: *const Products, i: usize) W {
                const d = row.load(S, p.dy, i, p.n);
                return if (logarithm) d else d * row.load(S, p.y, i, p.n);
            }
        };

        fn blocked(n: usize, terms: anytype) f64 {
            var total: f64 = 0;
            var low: usize = 0;
            while (low < n) : (low += block) {
                var acc: W = @splat(0);
                var i = low;
                while (i < @min(n, low + block)) : (i += row.lanes) acc += terms.at(i);
                total += simd.sum(row.lanes, A, acc);
            }
            return total;
        }
    };
}
