//! Optimiser updates: one pass over parameter, gradient and moments, in place. training.md
//! §5.2-5.4.
//!
//!     g ← clip(gradient·scale·factor, ±clip_value);  p ← p − η·u,  u by optimizer_rule.zig
//! Element-wise, all [count]; the gradient is S, everything else A. LAMB needs the norms of the
//! whole tensor: a first pass updates the moments and sums Σp², Σw² in f64 over fixed blocks of
//! 4096 elements, added in block order; a second pass updates the parameter.
//! Equals reference/optimizer.zig.

const std = @import("std");
const args = @import("../args/optimizer.zig");
const rules = @import("optimizer_rule.zig");
const simd = @import("simd.zig");
const Parallel = @import("../parallel.zig").Parallel;

const Failure = error{OutOfMemory};
const Rule = args.Rule;
const Phase = args.Phase;

/// Elements of one job. Also the fixed block of the sums of squares (mesh.md §15).
const block = 4096;
/// The same at every level, so that LAMB's sums have the same bits.
const lanes = simd.reduce_lanes;

/// One update of one tensor. args/optimizer.zig `OptimizerStep`.
pub fn optimizerStep(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.OptimizerStep,
) Failure!void {
    const rule: Rule = @fromBackingInt(a.rule);
    const phase: Phase = @fromBackingInt(a.phase);
    if (a.factor) |factor| if (std.math.isNan(pointer(f64, @constCast(factor))[0])) return;
    switch (rule) {
        .lamb => {
            var norms: [2]f64 = undefined;
            if (phase == .update) norms = pointer(f64, a.norms.?)[0..2].* else {
                norms = try lambNorms(S, parallel, a);
                if (a.norms) |out| pointer(f64, out)[0..2].* = norms;
            }
            if (phase != .norms) lambUpdate(S, parallel, a, norms);
        },
        inline else => |known| {
            std.debug.assert(phase == .whole);
            step(S, known, parallel, a);
        },
    }
}

/// Norm of all gradients and the factor that clips it. args/optimizer.zig `ClipFactor`.
pub fn clipFactor(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.ClipFactor,
) Failure!void {
    _ = parallel;
    const squares: [*]const S = @ptrCast(@alignCast(a.squares));
    var total: f64 = 0;
    for (squares[0..a.count]) |square| total += square;
    const norm = @sqrt(total);
    const clips = a.max_norm > 0 and std.math.isFinite(norm) and norm > a.max_norm;
    pointer(f64, a.norm)[0] = norm;
    const bad: f64 = if (a.bad) |count| pointer(f64, @constCast(count))[0] else 0;
    pointer(f64, a.factor)[0] = if (bad != 0)
        std.math.nan(f64)
    else if (clips) a.max_norm / norm else 1;
}

/// A job's view of one call: coefficients rounded to A once, pointers typed.
fn Job(comptime S: type) type {
    const A = simd.Arithmetic(S);
    return struct {
        coefficients: rules.Coefficients(A),
        parameter: [*]A,
        gradient: [*]const S,
        first: ?[*]A,
        second: ?[*]A,
        third: ?[*]A,
        shadow: ?[*]u16,
        sums: ?[*][2]f64, // per block: Σp², Σw²
        count: usize,

        fn init(a: *const args.OptimizerStep) @This() {
            return .{
                .coefficients = .init(a),
                .parameter = @ptrCast(@alignCast(a.parameter)),
                .gradient = @ptrCast(@alignCast(a.gradient)),
                .first = @ptrCast(@alignCast(a.first)),
                .second = @ptrCast(@alignCast(a.second)),
                .third = @ptrCast(@alignCast(a.third)),
                .shadow = @ptrCast(@alignCast(a.shadow)),
                .sums = null,
                .count = a.count,
            };
        }

        /// Moments of the elements from `i` on; those the rule does not keep are undefined.
        inline fn moments(
            job: *const @This(),
            comptime V: type,
            comptime rule: Rule,
            i: usize,
        ) rules.Moments(V) {
            const kept = comptime rule.moments();
            return .{
                .first = if (kept > 0) loadAs(A, V, job.first.? + i) else undefined,
                .second = if (kept > 1) loadAs(A, V, job.second.? + i) else undefined,
                .third = if (kept > 2) loadAs(A, V, job.third.? + i) else undefined,
            };
        }

        inline fn keep(
            job: *const @This(),
            comptime V: type,
            comptime rule: Rule,
            i: usize,
            m: rules.Moments(V),
        ) void {
            const kept = comptime rule.moments();
            if (kept > 0) storeAs(A, V, job.first.? + i, m.first);
            if (kept > 1) storeAs(A, V, job.second.? + i, m.second);
            if (kept > 2) storeAs(A, V, job.third.? + i, m.third);
        }

        inline fn write(job: *const @This(), comptime V: type, i: usize, p: V) void {
            storeAs(A, V, job.parameter + i, p);
            if (A == f32) if (job.shadow) |shadow| storeAs(u16, V, shadow + i, p);
        }
    };
}

fn step(
    comptime S: type,
    comptime rule: Rule,
    parallel: *const Parallel,
    a: *const args.OptimizerStep,
) void {
    const J = Job(S);
    parallel.each(@divCeil(a.count, block), J.init(a), struct {
        fn body(job: J, index: usize) void {
            eachElement(S, &job, index, {}, element);
        }

        inline fn element(comptime V: type, job: *const J, i: usize, _: *void) void {
            const p = loadAs(simd.Arithmetic(S), V, job.parameter + i);
            const g = rules.clipped(V, &job.coefficients, loadAs(S, V, job.gradient + i));
            var m = job.moments(V, rule, i);
            const u = rules.direction(V, rule, &job.coefficients, p, g, &m);
            job.keep(V, rule, i, m);
            job.write(V, i, rules.applied(V, &job.coefficients, p, u));
        }
    }.body);
}

/// Updates the moments; returns Σp² and Σw² of the tensor.
fn lambNorms(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.OptimizerStep,
) Failure![2]f64 {
    const A = simd.Arithmetic(S);
    const J = Job(S);
    const blocks = @divCeil(a.count, block);
    const sums = try parallel.alloc([2]f64, blocks);
    var all: J = .init(a);
    all.sums = sums.ptr;
    parallel.each(blocks, all, struct {
        const Totals = struct {
            p: Wide = @splat(0),
            w: Wide = @splat(0),
            tail: [2]f64 = @splat(0),
        };
        const Wide = simd.Wide(f64);

        fn body(job: J, index: usize) void {
            const totals = eachElement(S, &job, index, Totals{}, element);
            job.sums.?[index] = .{
                simd.sum(lanes, f64, totals.p) + totals.tail[0],
                simd.sum(lanes, f64, totals.w) + totals.tail[1],
            };
        }

        inline fn element(comptime V: type, job: *const J, i: usize, totals: *Totals) void {
            const p = loadAs(A, V, job.parameter + i);
            const g = rules.clipped(V, &job.coefficients, loadAs(S, V, job.gradient + i));
            var m = job.moments(V, .lamb, i);
            const w = rules.direction(V, .lamb, &job.coefficients, p, g, &m);
            job.keep(V, .lamb, i, m);
            if (V == A) {
                totals.tail[0] += @as(f64, p) * p;
                totals.tail[1] += @as(f64, w) * w;
            } else {
                totals.p += @as(Wide, p) * @as(Wide, p);
                totals.w += @as(Wide, w) * @as(Wide, w);
            }
        }
    }.body);
    var norms: [2]f64 = .{ 0, 0 };
    for (sums) |sum| {
        norms[0] += sum[0];
        norms[1] += sum[1];
    }
    return norms;
}

/// p ← p − η·(‖p‖/‖w‖)·w, w from the moments that `lambNorms` left.
fn lambUpdate(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.OptimizerStep,
    norms: [2]f64,
) void {
    const A = simd.Arithmetic(S);
    const J = Job(S);
    var all: J = .init(a);
    const defined = norms[0] != 0 and norms[1] != 0;
    const ratio = if (defined) @sqrt(norms[0]) / @sqrt(norms[1]) else 1;
    all.coefficients.rate = @floatCast(a.learning_rate * ratio);
    parallel.each(@divCeil(a.count, block), all, struct {
        fn body(job: J, index: usize) void {
            eachElement(S, &job, index, {}, element);
        }

        inline fn element(comptime V: type, job: *const J, i: usize, _: *void) void {
            const p = loadAs(A, V, job.parameter + i);
            const w = rules.adamDirection(V, &job.coefficients, p, job.moments(V, .lamb, i));
            job.write(V, i, rules.applied(V, &job.coefficients, p, w));
        }
    }.body);
}

/// Calls `element` for the elements of one block, 16 at a time, then one by one.
inline fn eachElement(
    comptime S: type,
    job: *const Job(S),
    index: usize,
    initial: anytype,
    comptime element: anytype,
) @TypeOf(initial) {
    const A = simd.Arithmetic(S);
    var state = initial;
    var i = index * block;
    const end = @min(i + block, job.count);
    while (i + lanes <= end) : (i += lanes) element(simd.Wide(A), job, i, &state);
    while (i < end) : (i += 1) element(A, job, i, &state);
    return state;
}

inline fn loadAs(comptime S: type, comptime V: type, p: [*]const S) V {
    return if (@typeInfo(V) == .vector) simd.loadN(S, lanes, p) else simd.get(S, p, 0);
}

inline fn storeAs(comptime S: type, comptime V: type, p: [*]S, x: V) void {
    if (@typeInfo(V) == .vector) simd.storeN(S, lanes, p, x) else simd.put(S, p, 0, x);
}

inline fn pointer(comptime T: type, p: anytype) @TypeOf(@as([*]T, @ptrCast(@alignCast(p)))) {
    return @ptrCast(@alignCast(p));
}
