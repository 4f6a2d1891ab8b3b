//! Reading and adding rows by index, and the order of a row's elements (`index_order.zig`).
//!
//!     indexSelect:  y[o, s] = x[o, indices[s]]          x [outer, count, inner]
//!     indexAdd:     dx[o, indices[s]] += dy[o, s]       y [outer, selected, inner]
//!     takeAlong:    y[r, j] = x[r, indices[r, j]]       x [rows, width], y [rows, picks]
//! Embedding and row gathers are indexSelect with outer = 1. Exact copies; sums are made in A in
//! the order of the indices. Each block of columns (or row) has one owner, so equal indices never
//! race and the order of additions does not depend on threads.

const std = @import("std");
const args = @import("../args/index.zig");
const dtype = @import("../dtype.zig");
const simd = @import("simd.zig");
const Parallel = @import("../parallel.zig").Parallel;

pub const argmax = @import("index_order.zig").argmax;
pub const topK = @import("index_order.zig").topK;

const Failure = error{OutOfMemory};

/// Elements a job should move at least, so that handing it out costs little.
const job_elements = 1 << 14;
/// Columns of one job of a scatter: at least a cache line, at most what keeps its rows in cache.
const scatter_columns = 64;

/// Smallest and largest valid id. args/index.zig `RangeCheck`.
pub fn rangeCheck(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.RangeCheck,
) Failure!void {
    _ = parallel;
    const ids: [*]const i32 = many(i32, a.ids);
    const mask: ?[*]const u8 = @ptrCast(a.mask);
    const weights: ?[*]const S = @ptrCast(@alignCast(a.weights));
    var low: i32 = std.math.maxInt(i32);
    var high: i32 = std.math.minInt(i32);
    for (0..a.count) |i| {
        if (mask) |m| if (m[i] == 0) continue;
        if (weights) |w| if (w[i] == 0) continue;
        low = @min(low, ids[i]);
        high = @max(high, ids[i]);
    }
    const found = low <= high;
    target(i32, a.low)[0] = if (found) low else 0;
    target(i32, a.high)[0] = if (found) high else -1;
}

/// y[r] = table[ids[r]] in S. `table_dtype` is that of S or of A.
pub fn embeddingForward(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.EmbeddingForward,
) Failure!void {
    const single = @backingInt(dtype.DType.f32);
    if (S == u16 and a.table_dtype == single) return embedRounded(parallel, a);
    select(S, parallel, .{
        .x = many(S, a.table),
        .indices = many(i32, a.ids),
        .y = target(S, a.y),
        .outer = 1,
        .count = a.vocab,
        .selected = a.rows,
        .inner = a.width,
    });
}

/// dtable[ids[r]] += dy[r] in A, in the order of the rows.
pub fn embeddingBackward(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.EmbeddingBackward,
) Failure!void {
    add(S, parallel, .{
        .x = many(S, a.dy),
        .indices = many(i32, a.ids),
        .y = target(simd.Arithmetic(S), a.dtable),
        .outer = 1,
        .count = a.vocab,
        .selected = a.rows,
        .inner = a.width,
    });
}

/// y[r] = x[indices[r]], bits unchanged.
pub fn gatherRows(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.GatherRows,
) Failure!void {
    select(S, parallel, .{
        .x = many(S, a.x),
        .indices = many(i32, a.indices),
        .y = target(S, a.y),
        .outer = 1,
        .count = a.count,
        .selected = a.rows,
        .inner = a.width,
    });
}

/// y[indices[r]] += x[r] in A, in the order of the rows.
pub fn scatterAddRows(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.ScatterAddRows,
) Failure!void {
    add(S, parallel, .{
        .x = many(S, a.x),
        .indices = many(i32, a.indices),
        .y = target(simd.Arithmetic(S), a.y),
        .outer = 1,
        .count = a.count,
        .selected = a.rows,
        .inner = a.width,
    });
}

/// y[o, s] = x[o, indices[s]], bits unchanged.
pub fn indexSelect(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.IndexSelect,
) Failure!void {
    select(S, parallel, .{
        .x = many(S, a.x),
        .indices = many(i32, a.indices),
        .y = target(S, a.y),
        .outer = a.outer,
        .count = a.count,
        .selected = a.selected,
        .inner = a.inner,
    });
}

/// dx[o, indices[s]] += dy[o, s] in A, in the order of s.
pub fn indexAdd(comptime S: type, parallel: *const Parallel, a: *const args.IndexAdd) Failure!void {
    add(S, parallel, .{
        .x = many(S, a.dy),
        .indices = many(i32, a.indices),
        .y = target(simd.Arithmetic(S), a.dx),
        .outer = a.outer,
        .count = a.count,
        .selected = a.selected,
        .inner = a.inner,
    });
}

/// y[r, j] = x[r, indices[r, j]], bits unchanged.
pub fn takeAlong(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.TakeAlong,
) Failure!void {
    if (a.picks == 0) return;
    const rows_per_job = @max(1, job_elements / a.picks);
    const Job = struct { a: *const args.TakeAlong, rows: usize };
    parallel.each(@divCeil(a.rows, rows_per_job), Job{ .a = a, .rows = rows_per_job }, struct {
        fn body(job: Job, block: usize) void {
            const x = many(S, job.a.x);
            const indices = many(i32, job.a.indices);
            const y = target(S, job.a.y);
            const first = block * job.rows;
            for (first..@min(first + job.rows, job.a.rows)) |r| {
                for (r * job.a.picks..(r + 1) * job.a.picks) |at| {
                    y[at] = x[r * job.a.width + position(indices[at])];
                }
            }
        }
    }.body);
}

/// dx[r, i] = Σ dy[r, j] over the picks j of element i, in the order of j.
pub fn takeAlongBackward(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.TakeAlongBackward,
) Failure!void {
    if (a.width == 0) return;
    const rows_per_job = @max(1, job_elements / (a.width + a.picks));
    const Job = struct { a: *const args.TakeAlongBackward, rows: usize };
    parallel.each(@divCeil(a.rows, rows_per_job), Job{ .a = a, .rows = rows_per_job }, struct {
        fn body(job: Job, block: usize) void {
            const dy = many(S, job.a.dy);
            const indices = many(i32, job.a.indices);
            const dx = target(simd.Arithmetic(S), job.a.dx);
            const first = block * job.rows;
            for (first..@min(first + job.rows, job.a.rows)) |r| {
                const row = dx[r * job.a.width ..][0..job.a.width];
                @memset(row, 0);
                for (r * job.a.picks..(r + 1) * job.a.picks) |at| {
                    row[position(indices[at])] += simd.get(S, dy, at);
                }
            }
        }
    }.body);
}

/// The common shape of every row kernel: X is the type read, Y the type written.
fn Rows(comptime X: type, comptime Y: type) type {
    return struct {
        x: [*]const X,
        indices: [*]const i32,
        y: [*]Y,
        outer: usize,
        count: usize,
        selected: usize,
        inner: usize,
    };
}

fn select(comptime S: type, parallel: *const Parallel, rows: Rows(S, S)) void {
    if (rows.inner == 0) return;
    const rows_per_job = @max(1, job_elements / rows.inner);
    const Job = struct { rows: Rows(S, S), rows_per_job: usize };
    const total = rows.outer * rows.selected;
    const job: Job = .{ .rows = rows, .rows_per_job = rows_per_job };
    parallel.each(@divCeil(total, rows_per_job), job, struct {
        fn body(j: Job, block: usize) void {
            const r = j.rows;
            const first = block * j.rows_per_job;
            for (first..@min(first + j.rows_per_job, r.outer * r.selected)) |at| {
                const from = at / r.selected * r.count + position(r.indices[at % r.selected]);
                @memcpy(r.y[at * r.inner ..][0..r.inner], r.x[from * r.inner ..][0..r.inner]);
            }
        }
    }.body);
}

fn add(comptime S: type, parallel: *const Parallel, rows: Rows(S, simd.Arithmetic(S))) void {
    const A = simd.Arithmetic(S);
    const column_blocks = @divCeil(rows.inner, scatter_columns);
    parallel.each(rows.outer * column_blocks, rows, struct {
        fn body(r: Rows(S, A), block: usize) void {
            const blocks = @divCeil(r.inner, scatter_columns);
            const outer = block / blocks;
            const column = block % blocks * scatter_columns;
            const width = @min(scatter_columns, r.inner - column);
            for (0..r.selected) |s| {
                const from = r.x + (outer * r.selected + s) * r.inner + column;
                const to = r.y + (outer * r.count + position(r.indices[s])) * r.inner + column;
                addRow(S, from, to, width);
            }
        }
    }.body);
}

/// y ← y + x, without the product of `simd.axpy`: the bits are the same at every level.
inline fn addRow(comptime S: type, x: [*]const S, y: [*]simd.Arithmetic(S), width: usize) void {
    const A = simd.Arithmetic(S);
    const n = simd.lanes(A);
    var i: usize = 0;
    while (i + n <= width) : (i += n) {
        simd.store(A, y + i, simd.load(A, y + i) + simd.load(S, x + i));
    }
    while (i < width) : (i += 1) y[i] += simd.get(S, x, i);
}

/// A bf16 output of an f32 table: each row is rounded while it is copied.
fn embedRounded(parallel: *const Parallel, a: *const args.EmbeddingForward) void {
    if (a.width == 0) return;
    const rows_per_job = @max(1, job_elements / a.width);
    const Job = struct { a: *const args.EmbeddingForward, rows: usize };
    parallel.each(@divCeil(a.rows, rows_per_job), Job{ .a = a, .rows = rows_per_job }, struct {
        fn body(job: Job, block: usize) void {
            const table = many(f32, job.a.table);
            const ids = many(i32, job.a.ids);
            const y = target(u16, job.a.y);
            const width = job.a.width;
            const n = simd.lanes(f32);
            const first = block * job.rows;
            for (first..@min(first + job.rows, job.a.rows)) |r| {
                const from = table + position(ids[r]) * width;
                const to = y + r * width;
                var i: usize = 0;
                while (i + n <= width) : (i += n) simd.store(u16, to + i, simd.load(f32, from + i));
                while (i < width) : (i += 1) simd.put(u16, to, i, from[i]);
            }
        }
    }.body);
}

inline fn position(id: i32) usize {
    return @intCast(id);
}

inline fn many(comptime T: type, p: *const anyopaque) [*]const T {
    return @ptrCast(@alignCast(p));
}

inline fn target(comptime T: type, p: *anyopaque) [*]T {
    return @ptrCast(@alignCast(p));
}
