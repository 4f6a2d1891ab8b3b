//! Dropout whose mask is recomputed, never stored. mesh.md §14.
//!
//!     y[s, p, f] = x[s, p, f]/keep where word f & 3 of counter (f>>2, p, s, 0) < ⌊keep·2³²⌋,
//!     else 0
//! s, p, f are the global sample, position and feature, so the mask depends on nothing but the key
//! and the place of the element. x, y [samples, positions, features]. Linear in x: applied to dy it
//! is its own gradient. Equals reference/random.zig.

const args = @import("../args/random.zig");
const philox = @import("random_philox.zig");
const simd = @import("simd.zig");
const Parallel = @import("../parallel.zig").Parallel;

const Failure = error{OutOfMemory};
const job_elements = 1 << 13;

/// args/random.zig `DropoutForward`.
pub fn dropoutForward(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.DropoutForward,
) Failure!void {
    if (a.features == 0) return;
    const rows_per_job = @max(1, job_elements / a.features);
    const Job = struct { a: *const args.DropoutForward, rows: usize };
    const job: Job = .{ .a = a, .rows = rows_per_job };
    parallel.each(@divCeil(a.samples * a.positions, rows_per_job), job, struct {
        fn body(j: Job, block: usize) void {
            const first = block * j.rows;
            for (first..@min(first + j.rows, j.a.samples * j.a.positions)) |row| {
                dropRow(S, j.a, row);
            }
        }
    }.body);
}

fn Wide(comptime T: type) type {
    return @Vector(philox.batch, T);
}

fn dropRow(comptime S: type, a: *const args.DropoutForward, row: usize) void {
    const A = simd.Arithmetic(S);
    const x: [*]const S = @ptrCast(@alignCast(a.x));
    const y: [*]S = @ptrCast(@alignCast(a.y));
    const position: u32 = @truncate(a.first_position + row % a.positions);
    const sample: u32 = @truncate(a.first_sample + row / a.positions);
    // 2³² for keep = 1: one more than any word, hence 64 bits.
    const threshold: u64 = @intFromFloat(@floor(a.keep * 0x1p32));
    const scale: A = @floatCast(1 / a.keep);
    const from = x + row * a.features;
    const to = y + row * a.features;
    const last = a.first_feature + a.features; // exclusive
    var group = a.first_feature / 4;
    while (4 * group < last) : (group += philox.width) {
        const words = philox.ordered(u32, featureWords(@truncate(group), position, sample, a));
        if (4 * group >= a.first_feature and 4 * group + philox.batch <= last) {
            const i = 4 * group - a.first_feature;
            const kept = @as(Wide(u64), words) < @as(Wide(u64), @splat(threshold));
            const scaled = simd.loadN(S, philox.batch, from + i) * @as(Wide(A), @splat(scale));
            const zero: Wide(A) = @splat(0);
            simd.storeN(S, philox.batch, to + i, @select(A, kept, scaled, zero));
            continue;
        }
        for (words, 4 * group..) |word, feature| {
            if (feature < a.first_feature or feature >= last) continue;
            const i = feature - a.first_feature;
            simd.put(S, to, i, if (word < threshold) simd.get(S, from, i) * scale else 0);
        }
    }
}

inline fn featureWords(
    group: u32,
    position: u32,
    sample: u32,
    a: *const args.DropoutForward,
) [4]philox.Words {
    const steps: philox.Words = @truncate(philox.steps);
    return philox.generate(
        .{ @as(philox.Words, @splat(group)) +% steps, @splat(position), @splat(sample), @splat(0) },
        .{ a.key_low, a.key_high },
    );
}
