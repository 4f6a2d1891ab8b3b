//! What a block of a reduction leaves, how blocks are added (in f64) and how the result is written.

const std = @import("std");
const args = @import("../args/elementwise.zig");
const math = @import("math.zig");
const simd = @import("simd.zig");

const Reduction = args.Reduction;

/// Sum, maximum or minimum so far. logsumexp: Σ e^(x − most), and the maximum `most`.
pub const Partial = extern struct { value: f64, most: f64 = 0 };

/// Terms that one lane adds in A before it goes over to f64.
pub const run = 32;

pub fn additive(comptime op: Reduction) bool {
    return op != .max and op != .min;
}

pub fn empty(comptime op: Reduction) Partial {
    return switch (op) {
        .sum, .mean, .sum_squares => .{ .value = 0 },
        .max => .{ .value = -std.math.inf(f64) },
        .min => .{ .value = std.math.inf(f64) },
        .logsumexp => .{ .value = 0, .most = -std.math.inf(f64) },
    };
}

pub fn add(comptime op: Reduction, a: Partial, b: Partial) Partial {
    return switch (op) {
        .sum, .mean, .sum_squares => .{ .value = a.value + b.value },
        .max => .{ .value = larger(f64, a.value, b.value) },
        .min => .{ .value = -larger(f64, -a.value, -b.value) },
        .logsumexp => blk: {
            const most = larger(f64, a.most, b.most);
            if (!std.math.isFinite(most)) break :blk .{ .value = 0, .most = most };
            break :blk .{
                .value = a.value * @exp(a.most - most) + b.value * @exp(b.most - most),
                .most = most,
            };
        },
    };
}

/// The result of one output, converted to S, or to A when `wide`.
pub fn finish(
    comptime S: type,
    comptime op: Reduction,
    a: *const args.Reduce,
    output: usize,
    terms: usize,
    partial: Partial,
) void {
    const A = simd.Arithmetic(S);
    const result: f64 = switch (op) {
        .sum, .sum_squares, .max, .min => partial.value,
        .mean => partial.value / @as(f64, @floatFromInt(terms)),
        // A maximum of ±Inf or NaN is the result itself.
        .logsumexp => if (std.math.isFinite(partial.most))
            partial.most + @log(partial.value)
        else
            partial.most,
    };
    if (a.wide != 0) {
        @as([*]A, @ptrCast(@alignCast(a.y)))[output] = @floatCast(result);
    } else simd.put(S, @ptrCast(@alignCast(a.y)), output, @floatCast(result));
}

/// max(a, b); NaN when one of them is.
pub inline fn larger(comptime V: type, a: V, b: V) V {
    return math.pick(V, a > b, a, math.pick(V, b >= a, b, a + b));
}

/// One reduction on vectors V of A.
pub fn Lanes(comptime op: Reduction, comptime V: type, comptime A: type) type {
    const n = @typeInfo(V).vector.len;
    return struct {
        pub inline fn start() V {
            return @splat(switch (op) {
                .sum, .mean, .sum_squares, .logsumexp => 0,
                .max => -std.math.inf(A),
                .min => std.math.inf(A),
            });
        }

        pub inline fn step(acc: V, x: V, shift: V) V {
            return switch (op) {
                .sum, .mean => acc + x,
                .sum_squares => simd.fma(V, x, x, acc),
                .max => larger(V, acc, x),
                .min => -larger(V, -acc, -x),
                .logsumexp => acc + math.exp(V, x - shift),
            };
        }

        /// All lanes in a fixed tree.
        pub fn tree(acc: V) A {
            var x: [n]A = acc;
            comptime var width = n;
            inline while (width > 1) : (width /= 2) {
                inline for (0..width / 2) |i| x[i] = switch (op) {
                    .max => larger(A, x[i], x[i + width / 2]),
                    .min => -larger(A, -x[i], -x[i + width / 2]),
                    else => x[i] + x[i + width / 2],
                };
            }
            return x[0];
        }
    };
}
