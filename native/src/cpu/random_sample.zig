//! Drawing a token from a row of logits. serving.md §7, steps 2 to 7.
//!
//!     e = exp((z − max z)/T);  order: e descending, id ascending
//!     top-k: the first k;  top-p: of those, the shortest prefix with Σe ≥ top_p·(Σe of those)
//!     min-p: e ≥ min_p (the largest e is 1)
//!     token: ids ascending, the first with cumulative > u·total
//! logits [rows, vocab] → tokens i32 [rows]. In f64 with the functions of random_math.zig and sums
//! in ascending order of id or of rank: a row's token depends on its logits, settings and counter
//! only. Equals reference/random.zig.

const std = @import("std");
const args = @import("../args/random.zig");
const philox = @import("random_philox.zig");
const math = @import("random_math.zig");
const order = @import("index_order.zig");
const simd = @import("simd.zig");
const Parallel = @import("../parallel.zig").Parallel;

const Failure = error{OutOfMemory};

/// Rows whose scratch is alive at the same time.
const rows_at_once = 16;

/// args/random.zig `CategoricalSample`.
pub fn categoricalSample(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.CategoricalSample,
) Failure!void {
    const slots = @min(rows_at_once, a.rows);
    const Job = struct {
        a: *const args.CategoricalSample,
        scores: [*]f64,
        ranks: [*]i32,
        first: usize,
    };
    const scores = try parallel.alloc(f64, slots * a.vocab);
    const ranks = try parallel.alloc(i32, slots * a.vocab);
    var first: usize = 0;
    while (first < a.rows) : (first += rows_at_once) {
        const job: Job = .{ .a = a, .scores = scores.ptr, .ranks = ranks.ptr, .first = first };
        parallel.each(@min(rows_at_once, a.rows - first), job, struct {
            fn body(j: Job, slot: usize) void {
                const vocab = j.a.vocab;
                const row = j.first + slot;
                const logits = @as([*]const S, @ptrCast(@alignCast(j.a.logits))) + row * vocab;
                const settings: [*]const args.SampleSettings = @ptrCast(@alignCast(j.a.settings));
                const draws: [*]const args.SampleDraw = @ptrCast(@alignCast(j.a.draws));
                const tokens: [*]i32 = @ptrCast(@alignCast(j.a.tokens));
                const best = order.largest(S, logits, vocab);
                tokens[row] = @intCast(if (!(settings[row].temperature > 0)) best else sample(
                    S,
                    logits,
                    best,
                    settings[row],
                    draws[row],
                    j.scores[slot * vocab ..][0..vocab],
                    j.ranks[slot * vocab ..][0..vocab],
                ));
            }
        }.body);
    }
}

fn sample(
    comptime S: type,
    logits: [*]const S,
    best: usize,
    settings: args.SampleSettings,
    draw: args.SampleDraw,
    scores: []f64,
    ranks: []i32,
) usize {
    const top: f64 = simd.get(S, logits, best);
    // Without a finite maximum there is no softmax: +Inf takes all, −Inf and NaN leave no choice.
    if (!std.math.isFinite(top)) return best;
    exponentials(S, logits, top, settings.temperature, scores);
    cut(settings, scores, ranks);
    const total = sum(scores);
    const goal = uniform(draw) * total;
    var cumulative: f64 = 0;
    var last = best;
    for (scores, 0..) |score, id| {
        if (score == 0) continue;
        cumulative += score;
        if (cumulative > goal) return id;
        last = id;
    }
    // u·total may round up to the total itself.
    return last;
}

/// scores ← exp((z − top)/T), 0 for NaN.
fn exponentials(
    comptime S: type,
    logits: [*]const S,
    top: f64,
    temperature: f64,
    scores: []f64,
) void {
    var i: usize = 0;
    while (i < scores.len) : (i += math.width) {
        const count = @min(math.width, scores.len - i);
        var z: [math.width]f64 = @splat(top);
        for (z[0..count], i..) |*to, at| to.* = simd.get(S, logits, at);
        const shifted = @as(math.V, z) - @as(math.V, @splat(top));
        const e: [math.width]f64 = math.exp(shifted / @as(math.V, @splat(temperature)));
        @memcpy(scores[i..][0..count], e[0..count]);
    }
}

/// Sets the scores that top-k, top-p and min-p exclude to 0.
fn cut(settings: args.SampleSettings, scores: []f64, ranks: []i32) void {
    const limit: f64 = @floatFromInt(scores.len);
    if (settings.top_k >= 1 and settings.top_k < limit) {
        const first = ranks[0..@intFromFloat(settings.top_k)];
        const ranking: order.Order(f64) = .{ .row = scores.ptr };
        ranking.best(first, scores.len);
        const total = sumOf(scores, first);
        const cuts = settings.top_p < 1;
        keep(scores, if (cuts) prefix(scores, first, settings.top_p, total) else first);
    } else if (settings.top_p < 1) {
        const total = sum(scores);
        const ranked = ranks[0..candidates(scores, ranks, settings.top_p, total)];
        std.sort.pdq(i32, ranked, @as([]const f64, scores), before);
        keep(scores, prefix(scores, ranked, settings.top_p, total));
    }
    if (settings.min_p > 0) for (scores) |*score| {
        if (score.* < settings.min_p) score.* = 0;
    };
}

/// The shortest prefix of `ranked` whose scores reach the share `top_p` of `total`.
fn prefix(scores: []const f64, ranked: []const i32, top_p: f64, total: f64) []const i32 {
    var cumulative: f64 = 0;
    for (ranked, 1..) |id, length| {
        cumulative += scores[@intCast(id)];
        if (cumulative >= top_p * total) return ranked[0..length];
    }
    return ranked;
}

/// Sets every score after the last of `kept` (in the order of rank) to 0.
fn keep(scores: []f64, kept: []const i32) void {
    const last = kept[kept.len - 1];
    // Every comparison reads the score of the last one, so that must not change: it is not before
    // itself.
    for (scores, 0..) |*score, id| {
        if (id != last and !before(scores, @intCast(id), last)) score.* = 0;
    }
}

/// Writes the ids a top-p can keep to `ranks`, unsorted, and returns their number. Ids below
/// (1 − top_p)/vocab of the sum hold less than 1 − top_p together and are left out: sorting the
/// whole vocabulary would cost more than the rest of the row.
fn candidates(scores: []const f64, ranks: []i32, top_p: f64, total: f64) usize {
    // A top_p below 0 must not raise the floor above the largest score.
    const share = (1 - @max(top_p, 0)) / @as(f64, @floatFromInt(scores.len));
    // Half of it, so that rounding of the sums cannot exclude an id that belongs to the prefix.
    const floor = 0.5 * share * total;
    var count: usize = 0;
    for (scores, 0..) |score, id| if (score >= floor) {
        ranks[count] = @intCast(id);
        count += 1;
    };
    return count;
}

fn before(scores: []const f64, a: i32, b: i32) bool {
    const x = scores[@intCast(a)];
    const y = scores[@intCast(b)];
    return if (x == y) a < b else x > y;
}

fn sum(scores: []const f64) f64 {
    var total: f64 = 0;
    for (scores) |score| total += score;
    return total;
}

fn sumOf(scores: []const f64, ids: []const i32) f64 {
    var total: f64 = 0;
    for (ids) |id| total += scores[@intCast(id)];
    return total;
}

/// u = ((x₀>>5)·2²⁶ + (x₁>>6))·2⁻⁵³, serving.md §7.
fn uniform(draw: args.SampleDraw) f64 {
    const x = philox.one(
        .{ draw.position, draw.choice, draw.prompt, draw.spare },
        .{ draw.key_low, draw.key_high },
    );
    const bits = (@as(u64, x[0] >> 5) << 26) + (x[1] >> 6);
    return @as(f64, @floatFromInt(bits)) * 0x1p-53;
}
