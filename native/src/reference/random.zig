//! Random numbers one at a time: Philox by the book, libm for the functions, full sorts for
//! sampling. mesh.md §14, serving.md §7.

const std = @import("std");
const args = @import("../args/random.zig");

extern "c" fn erfc(x: f64) f64;

pub fn philox(counter: [4]u32, key: [2]u32) [4]u32 {
    var c = counter;
    var k = key;
    for (0..10) |_| {
        const a = @as(u64, 0xD2511F53) * c[0];
        const b = @as(u64, 0xCD9E8D57) * c[2];
        c = .{
            @as(u32, @truncate(b >> 32)) ^ c[1] ^ k[0], @truncate(b),
            @as(u32, @truncate(a >> 32)) ^ c[3] ^ k[1], @truncate(a),
        };
        k = .{ k[0] +% 0x9E3779B9, k[1] +% 0xBB67AE85 };
    }
    return c;
}

/// The four words of the counter that element e belongs to.
pub fn group(e: u64, key: [2]u32) [4]u32 {
    return philox(.{ @truncate(e >> 2), @truncate(e >> 34), 0, 0 }, key);
}

pub fn uniform(e: u64, key: [2]u32) f64 {
    return @as(f64, @floatFromInt(group(e, key)[e & 3] >> 8)) / 16777216;
}

fn inside(word: u32) f64 {
    return (@as(f64, @floatFromInt(word)) + 0.5) / 4294967296;
}

pub fn normal(e: u64, key: [2]u32) f64 {
    const words = group(e, key);
    const pair = e & 2;
    const radius = @sqrt(-2 * @log(inside(words[pair])));
    const angle = 2 * std.math.pi * inside(words[pair + 1]);
    return radius * if (e & 1 == 0) @cos(angle) else @sin(angle);
}

/// Φ(z).
pub fn cumulativeNormal(z: f64) f64 {
    return 0.5 * erfc(-z / @sqrt(2.0));
}

/// Φ⁻¹ by bisection between −2 and 2.
pub fn truncatedNormal(e: u64, key: [2]u32) f64 {
    const low = cumulativeNormal(-2);
    const p = low + inside(group(e, key)[e & 3]) * (cumulativeNormal(2) - low);
    var bounds = [2]f64{ -2, 2 };
    for (0..60) |_| {
        const middle = 0.5 * (bounds[0] + bounds[1]);
        bounds[if (cumulativeNormal(middle) < p) 0 else 1] = middle;
    }
    return 0.5 * (bounds[0] + bounds[1]);
}

pub fn kept(row: u32, position: u32, feature: u64, keep: f64, key: [2]u32) bool {
    const word = philox(.{ @intCast(feature >> 2), position, row, 0 }, key)[feature & 3];
    return @as(f64, @floatFromInt(word)) < @floor(keep * 4294967296);
}

/// The steps 2 to 7 of serving.md §7 on probabilities.
pub fn sample(
    gpa: std.mem.Allocator,
    z: []const f64,
    s: args.SampleSettings,
    d: args.SampleDraw,
) !usize {
    const ids = try gpa.alloc(usize, z.len);
    defer gpa.free(ids);
    const p = try gpa.alloc(f64, z.len);
    defer gpa.free(p);
    var top: f64 = -std.math.inf(f64);
    for (z) |x| top = @max(top, x);
    var total: f64 = 0;
    for (p, z, ids, 0..) |*to, x, *id, i| {
        id.* = i;
        to.* = if (s.temperature == 0) x else @exp((x - top) / s.temperature);
        total += to.*;
    }
    std.mem.sort(usize, ids, @as([]const f64, p), struct {
        fn before(scores: []const f64, i: usize, j: usize) bool {
            return if (scores[i] == scores[j]) i < j else scores[i] > scores[j];
        }
    }.before);
    if (s.temperature == 0) return ids[0];
    for (p) |*x| x.* /= total;
    const largest = p[ids[0]];
    var rest = ids;
    if (s.top_k >= 1) rest = rest[0..@min(rest.len, @as(usize, @intFromFloat(s.top_k)))];
    var mass: f64 = 0;
    for (rest) |id| mass += p[id];
    var cumulative: f64 = 0;
    if (s.top_p < 1) for (rest, 1..) |id, length| {
        cumulative += p[id] / mass;
        if (cumulative >= s.top_p) {
            rest = rest[0..length];
            break;
        }
    };
    while (p[rest[rest.len - 1]] < s.min_p * largest) rest = rest[0 .. rest.len - 1];
    std.mem.sort(usize, rest, {}, std.sort.asc(usize));
    const words = philox(.{ d.position, d.choice, d.prompt, d.spare }, .{ d.key_low, d.key_high });
    const bits = @as(u64, words[0] >> 5) * 67108864 + (words[1] >> 6);
    const u = @as(f64, @floatFromInt(bits)) / 9007199254740992;
    mass = 0;
    for (rest) |id| mass += p[id];
    cumulative = 0;
    for (rest) |id| {
        cumulative += p[id];
        if (cumulative > u * mass) return id;
    }
    return rest[rest.len - 1];
}
