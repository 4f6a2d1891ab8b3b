//! The softmax of rows of which a rank has some columns: sums for the other ranks, and the gradient
//! from what all ranks have added. args/loss.zig; with the steps of loss_row.zig, so that ranks get
//! the bits of one process.

const args = @import("../args/loss.zig");
const simd = @import("simd.zig");
const row_math = @import("loss_row.zig");
const rows_of = @import("loss_rows.zig");
const Parallel = @import("../parallel.zig").Parallel;

const Failure = error{OutOfMemory};

/// args/loss.zig `SplitSoftmaxSums`.
pub fn splitSoftmaxSums(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.SplitSoftmaxSums,
) Failure!void {
    eachRow(parallel, a, struct {
        fn body(given: *const args.SplitSoftmaxSums, i: usize) void {
            const A = simd.Arithmetic(S);
            const logits: [*]const S = @ptrCast(@alignCast(given.logits));
            const columns: [*]const i32 = @ptrCast(@alignCast(given.columns));
            const top: [*]const A = @ptrCast(@alignCast(given.top));
            const sums: [*]A = @ptrCast(@alignCast(given.sums));
            const r = logits + i * given.vocab;
            const wants_total = given.wants_total != 0;
            const made = row_math.sums(S, r, given.vocab, top[i], given.parts, .{
                .soft_cap = given.soft_cap,
                .wants_total = wants_total,
            });
            sums[i] = made.powers;
            sums[given.rows + i] = simd.get(S, r, @intCast(columns[i]));
            if (wants_total) sums[2 * given.rows + i] = @floatCast(made.total);
        }
    }.body);
}

/// args/loss.zig `SplitSoftmaxSlopes`.
pub fn splitSoftmaxSlopes(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.SplitSoftmaxSlopes,
) Failure!void {
    eachRow(parallel, a, struct {
        fn body(given: *const args.SplitSoftmaxSlopes, i: usize) void {
            const A = simd.Arithmetic(S);
            const logits: [*]S = @ptrCast(@alignCast(given.logits));
            const columns: [*]const i32 = @ptrCast(@alignCast(given.columns));
            const r = logits + i * given.vocab;
            const k: row_math.Factors(A) = .{
                .shift = at(A, given.top, i),
                .scale = at(A, given.scale, i),
                .rest = at(A, given.rest, i),
                .own = at(A, given.own, i),
            };
            if (k.scale == 0 and k.rest == 0 and k.own == 0) return @memset(r[0..given.vocab], 0);
            row_math.slopes(S, r, r, given.vocab, @intCast(columns[i]), k, given.soft_cap);
        }
    }.body);
}

fn at(comptime A: type, numbers: *const anyopaque, i: usize) A {
    return @as([*]const A, @ptrCast(@alignCast(numbers)))[i];
}

fn eachRow(
    parallel: *const Parallel,
    a: anytype,
    comptime body: fn (@TypeOf(a), usize) void,
) void {
    const each = rows_of.perJob(a.vocab);
    const Job = struct { a: @TypeOf(a), each: usize };
    parallel.each((a.rows + each - 1) / each, Job{ .a = a, .each = each }, struct {
        fn run(j: Job, block: usize) void {
            const first = block * j.each;
            for (first..@min(first + j.each, j.a.rows)) |i| body(j.a, i);
        }
    }.run);
}
