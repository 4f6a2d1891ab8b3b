//! Order of the elements of a row: arg-max and the k largest.
//!
//!     before(i, j)  ⇔  xᵢ > xⱼ, or xᵢ = xⱼ and i < j;   NaN comes after every number
//! x [rows, width]. `argmax` gives the first element of that order, `topK` the first k. Comparisons
//! only: results are exact and equal at every instruction-set level.

const std = @import("std");
const args = @import("../args/index.zig");
const simd = @import("simd.zig");
const Parallel = @import("../parallel.zig").Parallel;

const Failure = error{OutOfMemory};
const job_elements = 1 << 14;

/// Position (and value) of the largest element of each row. args/index.zig `Argmax`.
pub fn argmax(comptime S: type, parallel: *const Parallel, a: *const args.Argmax) Failure!void {
    const rows_per_job = @max(1, job_elements / @max(1, a.width));
    const Job = struct { a: *const args.Argmax, rows: usize };
    parallel.each(@divCeil(a.rows, rows_per_job), Job{ .a = a, .rows = rows_per_job }, struct {
        fn body(job: Job, block: usize) void {
            const x: [*]const S = @ptrCast(@alignCast(job.a.x));
            const indices: [*]i32 = @ptrCast(@alignCast(job.a.indices));
            const values: ?[*]S = @ptrCast(@alignCast(job.a.values));
            const first = block * job.rows;
            for (first..@min(first + job.rows, job.a.rows)) |r| {
                const row = x + r * job.a.width;
                const best = largest(S, row, job.a.width);
                indices[r] = @intCast(best);
                if (values) |v| v[r] = row[best];
            }
        }
    }.body);
}

/// Position of the largest of `width` ≥ 1 elements; lowest index on ties, NaN loses, all NaN: 0.
pub fn largest(comptime S: type, row: [*]const S, width: usize) usize {
    const A = simd.Arithmetic(S);
    const top = maximum(S, row, width);
    const n = simd.lanes(A);
    const wanted: simd.Vec(A) = @splat(top);
    var i: usize = 0;
    while (i + n <= width) : (i += n) {
        if (@reduce(.Or, simd.load(S, row + i) == wanted)) break;
    }
    while (i < width) : (i += 1) if (simd.get(S, row, i) == top) return i;
    // Nothing equals the maximum only when every element is NaN.
    return 0;
}

/// Largest number of the row, NaN skipped; −Inf for a row of NaN.
pub fn maximum(comptime S: type, row: [*]const S, width: usize) simd.Arithmetic(S) {
    const A = simd.Arithmetic(S);
    const n = simd.lanes(A);
    var best: simd.Vec(A) = @splat(-std.math.inf(A));
    var i: usize = 0;
    while (i + n <= width) : (i += n) {
        const x = simd.load(S, row + i);
        best = @select(A, x > best, x, best);
    }
    var top = simd.max(n, A, best);
    while (i < width) : (i += 1) {
        const x = simd.get(S, row, i);
        if (x > top) top = x;
    }
    return top;
}

/// The k largest of each row in order. args/index.zig `TopK`.
pub fn topK(comptime S: type, parallel: *const Parallel, a: *const args.TopK) Failure!void {
    const rows_per_job = @max(1, job_elements / @max(1, a.width));
    const Job = struct { a: *const args.TopK, rows: usize };
    parallel.each(@divCeil(a.rows, rows_per_job), Job{ .a = a, .rows = rows_per_job }, struct {
        fn body(job: Job, block: usize) void {
            const x: [*]const S = @ptrCast(@alignCast(job.a.x));
            const values: [*]S = @ptrCast(@alignCast(job.a.values));
            const indices: [*]i32 = @ptrCast(@alignCast(job.a.indices));
            const k = job.a.k;
            const first = block * job.rows;
            for (first..@min(first + job.rows, job.a.rows)) |r| {
                const row = x + r * job.a.width;
                const order: Order(S) = .{ .row = row };
                order.best(indices[r * k ..][0..k], job.a.width);
                for (indices[r * k ..][0..k], values[r * k ..][0..k]) |from, *to| {
                    to.* = row[@intCast(from)];
                }
            }
        }
    }.body);
}

/// Selection in one row by a heap of indices whose root is the last of those kept.
pub fn Order(comptime S: type) type {
    const A = simd.Arithmetic(S);
    return struct {
        row: [*]const S,

        const Self = @This();

        fn at(order: Self, i: i32) A {
            return simd.get(S, order.row, @intCast(i));
        }

        fn before(order: Self, i: i32, j: i32) bool {
            const x = order.at(i);
            const y = order.at(j);
            if (x > y) return true;
            if (x < y) return false;
            if (x == y) return i < j;
            const x_is_number = x == x;
            if (x_is_number != (y == y)) return x_is_number;
            return i < j;
        }

        /// Fills `kept` with the first kept.len of `width` elements, in order.
        pub fn best(order: Self, kept: []i32, width: usize) void {
            for (kept, 0..) |*slot, i| slot.* = @intCast(i);
            var root = kept.len / 2;
            while (root > 0) {
                root -= 1;
                order.sink(kept, root);
            }
            order.scan(kept, width);
            // Each step moves the last of the rest behind it: ascending order of `before`.
            var rest = kept.len;
            while (rest > 1) {
                rest -= 1;
                std.mem.swap(i32, &kept[0], &kept[rest]);
                order.sink(kept[0..rest], 0);
            }
        }

        /// Offers every element after the first kept.len. Whole vectors that hold nothing larger
        /// than the root are skipped: an equal element comes later, so it cannot displace the root.
        fn scan(order: Self, kept: []i32, width: usize) void {
            const n = simd.lanes(A);
            var i = kept.len;
            while (i < width) {
                const last = order.at(kept[0]);
                if (i + n <= width and last == last) {
                    const limit: simd.Vec(A) = @splat(last);
                    if (!@reduce(.Or, simd.load(S, order.row + i) > limit)) {
                        i += n;
                        continue;
                    }
                }
                const end = @min(i + n, width);
                while (i < end) : (i += 1) {
                    if (!order.before(@intCast(i), kept[0])) continue;
                    kept[0] = @intCast(i);
                    order.sink(kept, 0);
                }
            }
        }

        fn sink(order: Self, heap: []i32, start: usize) void {
            var parent = start;
            while (true) {
                var child = 2 * parent + 1;
                if (child >= heap.len) return;
                if (child + 1 < heap.len and order.before(heap[child], heap[child + 1])) child += 1;
                if (!order.before(heap[parent], heap[child])) return;
                std.mem.swap(i32, &heap[parent], &heap[child]);
                parent = child;
            }
        }
    };
}
