//! What the cross-entropy kernels keep per row: weights, results, and the sums over rows.
//!
//!     wᵢ = [maskᵢ ≠ 0]·weightsᵢ;   a row is valid where w ≠ 0;   loss = Σᵢ wᵢ·lossᵢ
//! Sums are made in f64 in row order by the calling thread.

const simd = @import("simd.zig");
const Row = @import("loss_row.zig").Row;
const Parallel = @import("../parallel.zig").Parallel;

/// Logits one job should cover at least.
const job_elements = 1 << 14;

/// Rows of one job, by shape only.
pub fn perJob(vocab: usize) usize {
    return @max(1, job_elements / @max(1, vocab));
}

/// w of row i; 0 = not valid.
pub inline fn weightOf(
    comptime A: type,
    mask: ?*const anyopaque,
    weights: ?*const anyopaque,
    i: usize,
) f64 {
    if (mask) |m| if (@as([*]const u8, @ptrCast(m))[i] == 0) return 0;
    const w: [*]const A = @ptrCast(@alignCast(weights orelse return 1));
    return w[i];
}

/// Inputs and results of every row. `a` is CrossEntropyForward or LinearCrossEntropy.
pub fn Rows(comptime A: type) type {
    return struct {
        count: usize,
        targets: [*]const i32,
        mask: ?*const anyopaque,
        weights: ?*const anyopaque,
        losses: []f64, // w·loss
        correct: []u8,
        loss_rows: ?[*]A,
        lse: ?[*]A,

        const Self = @This();

        pub fn init(parallel: *const Parallel, a: anytype) error{OutOfMemory}!Self {
            return .{
                .count = a.rows,
                .targets = @ptrCast(@alignCast(a.targets)),
                .mask = a.mask,
                .weights = a.weights,
                .losses = try parallel.alloc(f64, a.rows),
                .correct = try parallel.alloc(u8, a.rows),
                .loss_rows = @ptrCast(@alignCast(a.loss_rows)),
                .lse = @ptrCast(@alignCast(a.lse)),
            };
        }

        pub inline fn weight(rows: Self, i: usize) f64 {
            return weightOf(A, rows.mask, rows.weights, i);
        }

        /// Only for valid rows: the targets of others may be anything.
        pub inline fn target(rows: Self, i: usize) usize {
            return @intCast(rows.targets[i]);
        }

        pub fn set(rows: Self, i: usize, row: Row) void {
            const loss = rows.weight(i) * row.loss;
            rows.losses[i] = loss;
            rows.correct[i] = @intFromBool(row.correct);
            if (rows.loss_rows) |out| out[i] = @floatCast(loss);
            if (rows.lse) |out| out[i] = @floatCast(row.lse);
        }

        /// A row that is not valid.
        pub fn skip(rows: Self, i: usize) void {
            rows.losses[i] = 0;
            rows.correct[i] = 0;
            if (rows.loss_rows) |out| out[i] = 0;
            if (rows.lse) |out| out[i] = 0;
        }

        /// Writes the sums.
        pub fn finish(rows: Self, a: anytype) void {
            var loss: f64 = 0;
            var weight_sum: f64 = 0;
            var count: i32 = 0;
            var correct: i32 = 0;
            for (rows.losses, rows.correct, 0..) |row_loss, hit, i| {
                const w = rows.weight(i);
                loss += row_loss;
                weight_sum += w;
                count += @intFromBool(w != 0);
                correct += hit;
            }
            write(A, a.loss, @floatCast(loss));
            write(i32, a.count, count);
            if (a.weight_sum) |out| write(A, out, @floatCast(weight_sum));
            if (a.correct) |out| write(i32, out, correct);
        }
    };
}

inline fn write(comptime T: type, out: *anyopaque, value: T) void {
    @as(*T, @ptrCast(@alignCast(out))).* = value;
}
