//! The language-model head and its cross entropy in one kernel. mesh.md §9, models.md §2.8.
//!
//!     r = hidden·weightᵀ   [chunk, V] in A;   losses and ∂loss/∂r in place (loss_row.zig)
//!     dhidden = dr·weight  [N, D] in S, `=`;  dweight (+)= drᵀ·hidden  [V, D] in A
//! Only one chunk of logits exists at a time. Rows that are not valid are left out of the products:
//! they cost nothing and cannot spoil gradients. Chunks are made by shape and mask only; the
//! products have one order of additions, so results have the same bits for any number of threads.
//! Equals reference/loss.zig on the logits of the whole batch.

const std = @import("std");
const args = @import("../args/loss.zig");
const dtype = @import("../dtype.zig");
const simd = @import("simd.zig");
const row_math = @import("loss_row.zig");
const rows_of = @import("loss_rows.zig");
const products = @import("loss_product.zig");
const Parallel = @import("../parallel.zig").Parallel;

const Failure = error{OutOfMemory};

/// Memory of one chunk of logits: in the last-level cache while its losses are computed.
const chunk_bytes = 8 << 20;
/// Chunks hold a multiple of this many rows.
const row_step = 64;
/// And at least this many, even beyond `chunk_bytes`: the products read the weight and its gradient
/// once per chunk, and with fewer rows a large vocabulary is bound by memory. Measured at
/// V = 50304, D = 512 on two threads: 64 rows run at 0.49 of the rate of a square product, 128 rows
/// at 0.63, 320 rows at 0.75.
const fewest_rows = 256;

/// Rows of logits held at a time.
pub fn chunkRows(comptime A: type, vocab: usize, rows: usize) usize {
    const fit = chunk_bytes / @max(1, vocab * @sizeOf(A)) / row_step * row_step;
    return @min(@max(fit, fewest_rows), std.mem.alignForward(usize, @max(rows, 1), row_step));
}

/// args/loss.zig `LinearCrossEntropy`.
pub fn linearCrossEntropy(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.LinearCrossEntropy,
) Failure!void {
    const A = simd.Arithmetic(S);
    const rows: rows_of.Rows(A) = try .init(parallel, a);
    const valid = try listValid(A, parallel, rows);
    if (a.dhidden) |out| if (valid.len < a.rows) zero(S, out, a.rows * a.width);
    const replaces = a.accumulate_dweight == 0;
    if (a.dweight) |out| if (valid.len == 0 and replaces) zero(A, out, a.vocab * a.width);
    const chunk = chunkRows(A, a.vocab, valid.len);
    const gathers = valid.len < a.rows;
    const packed_rows = if (gathers) chunk * a.width else 0;
    const work: Work(S) = .{
        .a = a,
        .rows = rows,
        .logits = try parallel.alloc(A, chunk * a.vocab),
        .hidden = try parallel.alloc(S, packed_rows),
        .dhidden = try parallel.alloc(S, if (a.dhidden == null) 0 else packed_rows),
        .gathers = gathers,
    };
    var scratch: products.Scratch = .init(parallel);
    const inner = scratch.parallel();
    var first: usize = 0;
    while (first < valid.len) : (first += chunk) {
        const some = valid[first..@min(first + chunk, valid.len)];
        try work.run(&scratch, &inner, some, first > 0 or !replaces);
    }
    rows.finish(a);
}

/// Indices of the valid rows; the others get their results here.
fn listValid(comptime A: type, parallel: *const Parallel, rows: rows_of.Rows(A)) Failure![]u32 {
    const list = try parallel.alloc(u32, rows.count);
    var count: usize = 0;
    for (0..rows.count) |i| {
        if (rows.weight(i) == 0) {
            rows.skip(i);
            continue;
        }
        list[count] = @intCast(i);
        count += 1;
    }
    return list[0..count];
}

/// The buffers of one call.
fn Work(comptime S: type) type {
    const A = simd.Arithmetic(S);
    return struct {
        a: *const args.LinearCrossEntropy,
        rows: rows_of.Rows(A),
        logits: []A,
        hidden: []S, // valid rows of a chunk, where some rows are not valid
        dhidden: []S,
        gathers: bool,

        const Self = @This();

        /// One chunk: the rows `some`, all valid.
        fn run(
            work: *const Self,
            scratch: *products.Scratch,
            parallel: *const Parallel,
            some: []const u32,
            accumulate: bool,
        ) Failure!void {
            const a = work.a;
            const whole: [*]const S = @ptrCast(@alignCast(a.hidden));
            const straight = @as(usize, some[0]) * a.width;
            if (work.gathers) work.gather(some);
            const hidden = if (work.gathers) work.hidden.ptr else whole + straight;
            const size: products.Size = .{ .rows = some.len, .width = a.width, .vocab = a.vocab };
            scratch.reset();
            const weight: products.Weight = .{ .values = a.weight, .dtype = a.weight_dtype };
            const logits_of_chunk = work.logits.ptr;
            try products.logits(S, parallel, size, hidden, weight, logits_of_chunk);
            work.losses(parallel, some);
            if (a.dhidden) |erased| {
                const out: [*]S = @ptrCast(@alignCast(erased));
                const target = if (work.gathers) work.dhidden.ptr else out + straight;
                scratch.reset();
                try products.dhidden(S, parallel, size, logits_of_chunk, weight, target);
                if (work.gathers) work.scatter(some);
            }
            if (a.dweight) |erased| {
                const out: [*]A = @ptrCast(@alignCast(erased));
                scratch.reset();
                try products.dweight(S, parallel, size, logits_of_chunk, hidden, out, accumulate);
            }
        }

        /// Losses of the chunk; logits become their gradients where any gradient is asked for.
        fn losses(work: *const Self, parallel: *const Parallel, some: []const u32) void {
            const Job = struct { work: *const Self, some: []const u32, each: usize };
            const each = rows_of.perJob(work.a.vocab);
            const job: Job = .{ .work = work, .some = some, .each = each };
            parallel.each(@divCeil(some.len, each), job, struct {
                fn body(j: Job, block: usize) void {
                    const first = block * j.each;
                    for (first..@min(first + j.each, j.some.len)) |at| {
                        j.work.oneRow(at, j.some[at]);
                    }
                }
            }.body);
        }

        fn oneRow(work: *const Self, at: usize, i: usize) void {
            const vocab = work.a.vocab;
            const r = work.logits.ptr + at * vocab;
            const options: row_math.Options = .of(work.a);
            const target = work.rows.target(i);
            const row = row_math.forward(A, r, vocab, target, options);
            work.rows.set(i, row);
            if (work.a.dhidden == null and work.a.dweight == null) return;
            row_math.backward(A, r, r, vocab, target, .{
                .scale = work.a.grad_scale * work.rows.weight(i),
                .lse = row.lse,
                .shift = row.top,
                .factor = 1 / row.sum,
            }, options);
        }

        fn gather(work: *const Self, some: []const u32) void {
            const width = work.a.width;
            const from: [*]const S = @ptrCast(@alignCast(work.a.hidden));
            for (some, 0..) |i, at| {
                @memcpy(work.hidden[at * width ..][0..width], from[i * width ..][0..width]);
            }
        }

        fn scatter(work: *const Self, some: []const u32) void {
            const width = work.a.width;
            const to: [*]S = @ptrCast(@alignCast(work.a.dhidden.?));
            for (some, 0..) |i, at| {
                @memcpy(to[i * width ..][0..width], work.dhidden[at * width ..][0..width]);
            }
        }
    };
}

fn zero(comptime T: type, out: *anyopaque, count: usize) void {
    @memset(@as([*]T, @ptrCast(@alignCast(out)))[0..count], 0);
}
