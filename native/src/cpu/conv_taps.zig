//! Where the taps of a causal convolution read, and the sums over them.
//!
//! Extended positions: e < K − 1 are the state's rows, token t is e = t + K − 1. Token t reads
//! e = t … t + K − 1, of which a border at p <= t hides those below p + K − 1.
//!
//! u = b + w_0·x_0 + … + w_{K−1}·x_{K−1}, in this order on every path: the bits do not depend on
//! how tokens were grouped.

const std = @import("std");
const simd = @import("simd.zig");

/// Tokens that share their loads on the fast path.
pub const together = 4;

/// The inputs of one batch row.
pub fn Source(comptime S: type) type {
    return struct {
        x: [*]const S, // the first token
        stride: usize,
        state: ?[*]const S, // [K − 1, C]
        zeros: [*]const S, // [C]
        borders: ?[*]const u8, // [T]
        channels: usize,
        taps: usize,

        const Self = @This();

        pub fn row(self: *const Self, e: usize) [*]const S {
            if (e + 1 >= self.taps) return self.x + (e + 1 - self.taps) * self.stride;
            const state = self.state orelse return self.zeros;
            return state + e * self.channels;
        }

        /// The first extended position that token t sees, as far as its taps reach: 0 for no limit.
        pub fn start(self: *const Self, t: usize) usize {
            const borders = self.borders orelse return 0;
            for (0..@min(self.taps - 1, t + 1)) |back| {
                if (borders[t - back] != 0) return t - back + self.taps - 1;
            }
            return 0;
        }

        /// Whether `count` tokens from t see all their taps.
        pub fn clear(self: *const Self, t: usize, count: usize) bool {
            if (self.borders == null) return true;
            for (t..t + count) |token| if (self.start(token) > token) return false;
            return true;
        }
    };
}

/// The weights of all channels as [K + 1][C] in the arithmetic type: taps, then the bias.
pub fn Weights(comptime A: type) type {
    return struct {
        rows: [*]const A,
        channels: usize,
        taps: usize,

        const Self = @This();

        /// Fills `out` ((K + 1)·C) from weight [C, K]; reversed taps serve the gradient of x.
        pub fn pack(
            weight: [*]const A,
            bias: ?[*]const A,
            channels: usize,
            taps: usize,
            reversed: bool,
            out: []A,
        ) Self {
            for (0..taps) |j| {
                const from = if (reversed) taps - 1 - j else j;
                for (out[j * channels ..][0..channels], 0..) |*w, c| w.* = weight[c * taps + from];
            }
            const last = out[taps * channels ..][0..channels];
            if (bias) |given| @memcpy(last, given[0..channels]) else @memset(last, 0);
            return .{ .rows = out.ptr, .channels = channels, .taps = taps };
        }

        pub inline fn at(self: Self, comptime n: comptime_int, j: usize, c: usize) @Vector(n, A) {
            return simd.loadN(A, n, self.rows + j * self.channels + c);
        }
    };
}

/// `tokens` neighbouring outputs of n channels from c, before any activation.
pub inline fn convolve(
    comptime In: type,
    comptime taps: comptime_int,
    comptime tokens: comptime_int,
    comptime n: comptime_int,
    rows: *const [tokens + taps - 1][*]const In,
    weights: Weights(simd.Arithmetic(In)),
    c: usize,
) [tokens]@Vector(n, simd.Arithmetic(In)) {
    const V = @Vector(n, simd.Arithmetic(In));
    var out: [tokens]V = @splat(weights.at(n, taps, c));
    var x: [tokens + taps - 1]V = undefined;
    inline for (&x, rows) |*value, row| value.* = simd.loadN(In, n, row + c);
    inline for (0..taps) |j| {
        const w = weights.at(n, j, c);
        inline for (0..tokens) |i| out[i] = simd.fma(V, w, x[i + j], out[i]);
    }
    return out;
}

/// y ← y + w∘x for one row of channels.
pub fn addProduct(
    comptime In: type,
    y: [*]simd.Arithmetic(In),
    w: [*]const simd.Arithmetic(In),
    x: [*]const In,
    count: usize,
) void {
    const A = simd.Arithmetic(In);
    const V = simd.Vec(A);
    var c: usize = 0;
    while (c + simd.lanes(A) <= count) : (c += simd.lanes(A)) {
        const sum = simd.fma(V, simd.load(A, w + c), simd.load(In, x + c), simd.load(A, y + c));
        simd.store(A, y + c, sum);
    }
    while (c < count) : (c += 1) y[c] = simd.fma(A, w[c], simd.get(In, x, c), y[c]);
}

/// Calls `body(n, c)` for whole vectors of channels, then for single ones.
pub inline fn eachChannels(
    comptime A: type,
    channels: usize,
    context: anytype,
    comptime body: anytype,
) void {
    @setEvalBranchQuota(100_000);
    const lanes = simd.lanes(A);
    var c: usize = 0;
    while (c + lanes <= channels) : (c += lanes) body(context, lanes, c);
    while (c < channels) : (c += 1) body(context, 1, c);
}
