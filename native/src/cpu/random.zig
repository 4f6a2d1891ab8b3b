//! Random tensors from Philox4x32-10 (random_philox.zig), mesh.md §14; re-exports dropout and token
//! sampling.
//!
//!     bits       x                                       x = word e & 3 of counter e>>2
//!     uniform    low + (high − low)·(x>>8)·2⁻²⁴
//!     normal     mean + std·√(−2 ln u₁)·(cos, sin)(2πu₂), u = (x + ½)·2⁻³², pairs (0,1) and (2,3)
//!     truncated  mean + std·Φ⁻¹(½ + (u − ½)·(2Φ(2) − 1))
//! y [count] = elements first … first + count − 1 of an endless tensor. Values are made in f64 by
//! random_math.zig and rounded once to f32 (then to bf16): the same bits at every level, for any
//! split into ranges and any number of threads. Equals reference/random.zig.

const std = @import("std");
const args = @import("../args/random.zig");
const philox = @import("random_philox.zig");
const math = @import("random_math.zig");
const simd = @import("simd.zig");
const Parallel = @import("../parallel.zig").Parallel;

pub const dropoutForward = @import("random_dropout.zig").dropoutForward;
pub const categoricalSample = @import("random_sample.zig").categoricalSample;

const Failure = error{OutOfMemory};
const V = math.V;

/// Counters of one job: 4096 elements.
const groups_per_job = 1024;

/// The raw words. args/random.zig `RandomBits`.
pub fn randomBits(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.RandomBits,
) Failure!void {
    _ = S;
    fill(u32, parallel, a, .{}, struct {
        inline fn value(_: anytype, words: [4]philox.Words) [4]philox.Words {
            return words;
        }
    }.value);
}

/// Uniform numbers in [low, high). args/random.zig `RandomUniform`.
pub fn randomUniform(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.RandomUniform,
) Failure!void {
    const scale = .{ .low = a.low, .width = a.high - a.low };
    fill(S, parallel, a, scale, struct {
        inline fn value(k: anytype, words: [4]philox.Words) [4]V {
            var out: [4]V = undefined;
            inline for (&out, words) |*to, word| {
                const unit = number(word >> @splat(8)) * splat(0x1p-24);
                to.* = splat(k.low) + splat(k.width) * unit;
            }
            return out;
        }
    }.value);
}

/// Normal numbers. args/random.zig `RandomNormal`.
pub fn randomNormal(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.RandomNormal,
) Failure!void {
    fill(S, parallel, a, .{ .mean = a.mean, .std = a.std }, struct {
        inline fn value(k: anytype, words: [4]philox.Words) [4]V {
            var out: [4]V = undefined;
            inline for (.{ 0, 2 }) |pair| {
                const radius = @sqrt(splat(-2) * math.ln(inside(words[pair])));
                const turned = math.cosSinTurns(inside(words[pair + 1]));
                out[pair] = splat(k.mean) + splat(k.std) * (radius * turned[0]);
                out[pair + 1] = splat(k.mean) + splat(k.std) * (radius * turned[1]);
            }
            return out;
        }
    }.value);
}

/// 2Φ(2) − 1: the probability of a standard normal number between −2 and 2.
const between_two = 0.95449973610364158560;

/// Normal numbers cut at ±2 standard deviations. args/random.zig `RandomTruncatedNormal`.
pub fn randomTruncatedNormal(
    comptime S: type,
    parallel: *const Parallel,
    a: *const args.RandomTruncatedNormal,
) Failure!void {
    fill(S, parallel, a, .{ .mean = a.mean, .std = a.std }, struct {
        inline fn value(k: anytype, words: [4]philox.Words) [4]V {
            var out: [4]V = undefined;
            inline for (&out, words) |*to, word| {
                const z = math.inverseNormal((inside(word) - splat(0.5)) * splat(between_two));
                const cut = @min(@max(z, splat(-2)), splat(2));
                to.* = splat(k.mean) + splat(k.std) * cut;
            }
            return out;
        }
    }.value);
}

/// Fills y with `value(constants, words)`, batches of eight counters aligned to multiples of four
/// elements of the whole tensor.
fn fill(
    comptime S: type,
    parallel: *const Parallel,
    a: anytype,
    constants: anytype,
    comptime value: anytype,
) void {
    if (a.count == 0) return;
    const Job = struct { a: @TypeOf(a), constants: @TypeOf(constants) };
    const groups = (a.first + a.count - 1) / 4 - a.first / 4 + 1;
    const job: Job = .{ .a = a, .constants = constants };
    parallel.each(@divCeil(groups, groups_per_job), job, struct {
        fn body(j: Job, block: usize) void {
            const y: [*]S = @ptrCast(@alignCast(j.a.y));
            const first: u64 = j.a.first;
            const last = first + j.a.count; // exclusive
            const begin = first / 4 + block * groups_per_job;
            var group = begin;
            while (group < begin + groups_per_job) : (group += philox.width) {
                if (4 * group >= last) return;
                const words = philox.element(group, .{ j.a.key_low, j.a.key_high });
                const out = rounded(S, value(j.constants, words));
                const from = @max(4 * group, first);
                const to = @min(4 * group + philox.batch, last);
                const source = out[@intCast(from - 4 * group)..][0..@intCast(to - from)];
                @memcpy(y[@intCast(from - first)..][0..source.len], source);
            }
        }
    }.body);
}

/// Values in S and in the order of the elements.
inline fn rounded(comptime S: type, lanes: anytype) [philox.batch]S {
    if (S == u32 or S == f64) return philox.ordered(S, lanes);
    var single: [4]@Vector(philox.width, f32) = undefined;
    inline for (&single, lanes) |*to, from| to.* = @floatCast(from);
    const in_order = philox.ordered(f32, single);
    if (S == f32) return in_order;
    var out: [philox.batch]S = undefined;
    simd.storeN(S, philox.batch, &out, in_order);
    return out;
}

/// (x + ½)·2⁻³²: inside (0, 1), exact.
inline fn inside(words: philox.Words) V {
    return (number(words) + splat(0.5)) * splat(0x1p-32);
}

inline fn number(words: philox.Words) V {
    return @floatFromInt(words);
}

inline fn splat(x: f64) V {
    return @splat(x);
}
