//! Cross entropy over the vocabulary: loss sum, values per row, gradient of the logits.
//!
//!     loss = Σᵢ wᵢ·( lse − (1−ε)·z_y − (ε/V)·Σⱼ zⱼ + λ·lse² ),  w = [mask ≠ 0]·weights
//!     dlogits = grad_scale·(dloss + dloss_rowsᵢ)·w·∂/∂r                  (loss_row.zig)
//! logits [N, V] in S, statistics in A. A row belongs to one job; losses are added in f64 in row
//! order, so the sum has the same bits for any number of threads. Equals reference/loss.zig.
//! The fused head is in loss_linear.zig, the parts of ranks in loss_split.zig.

const args = @import("../args/loss.zig");
const simd = @import("simd.zig");
const row_math = @import("loss_row.zig");
const rows_of = @import("loss_rows.zig");
const Parallel = @import("../parallel.zig").Parallel;

pub const linearCrossEntropy = @import("loss_linear.zig").linearCrossEntropy;
pub const splitSoftmaxSums = @import("loss_split.zig").splitSoftmaxSums;
pub const splitSoftmaxSlopes = @import("loss_split.zig").splitSoftmaxSlopes;

const Failure = error{OutOfMemory};

/// args/loss.zig `CrossEntropyForward`.
pub fn crossEntropyForward(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.CrossEntropyForward,
) Failure!void {
    const A = simd.Arithmetic(S);
    const Job = struct {
        rows: rows_of.Rows(A),
        logits: [*]const S,
        vocab: usize,
        each: usize,
        options: row_math.Options,
    };
    const job: Job = .{
        .rows = try .init(parallel, a),
        .logits = @ptrCast(@alignCast(a.logits)),
        .vocab = a.vocab,
        .each = rows_of.perJob(a.vocab),
        .options = .of(a),
    };
    parallel.each(@divCeil(a.rows, job.each), job, struct {
        fn body(j: Job, block: usize) void {
            const first = block * j.each;
            for (first..@min(first + j.each, j.rows.count)) |i| {
                if (j.rows.weight(i) == 0) {
                    j.rows.skip(i);
                    continue;
                }
                const r = j.logits + i * j.vocab;
                j.rows.set(i, row_math.forward(S, r, j.vocab, j.rows.target(i), j.options));
            }
        }
    }.body);
    job.rows.finish(a);
}

/// args/loss.zig `CrossEntropyBackward`.
pub fn crossEntropyBackward(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.CrossEntropyBackward,
) Failure!void {
    const Job = struct { a: *const args.CrossEntropyBackward, each: usize };
    const each = rows_of.perJob(a.vocab);
    parallel.each(@divCeil(a.rows, each), Job{ .a = a, .each = each }, struct {
        fn body(j: Job, block: usize) void {
            const first = block * j.each;
            for (first..@min(first + j.each, j.a.rows)) |i| gradientRow(S, j.a, i);
        }
    }.body);
}

fn gradientRow(comptime S: type, a: *const args.CrossEntropyBackward, i: usize) void {
    const A = simd.Arithmetic(S);
    const logits: [*]const S = @ptrCast(@alignCast(a.logits));
    const dlogits: [*]S = @ptrCast(@alignCast(a.dlogits));
    const lse: [*]const A = @ptrCast(@alignCast(a.lse));
    const targets: [*]const i32 = @ptrCast(@alignCast(a.targets));
    const dloss: ?[*]const A = @ptrCast(@alignCast(a.dloss));
    const dloss_rows: ?[*]const A = @ptrCast(@alignCast(a.dloss_rows));
    const to = dlogits + i * a.vocab;
    const weight = rows_of.weightOf(A, a.mask, a.weights, i);
    if (weight == 0) return @memset(to[0..a.vocab], 0);
    const whole: f64 = if (dloss) |d| d[0] else if (dloss_rows == null) 1 else 0;
    const own: f64 = if (dloss_rows) |d| d[i] else 0;
    const slope: row_math.Slope = .{
        .scale = a.grad_scale * (whole + own) * weight,
        .lse = lse[i],
        .shift = lse[i],
        .factor = 1,
    };
    const target: usize = @intCast(targets[i]);
    row_math.backward(S, logits + i * a.vocab, to, a.vocab, target, slope, .of(a));
}
