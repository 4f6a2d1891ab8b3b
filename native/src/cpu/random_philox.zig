//! Philox4x32-10 (mesh.md §14), eight counters at a time. Integer arithmetic only.
//!
//! One round: (c₀,c₁,c₂,c₃) ← (hi(M₁c₂)⊕c₁⊕k₀, lo(M₁c₂), hi(M₀c₀)⊕c₃⊕k₁, lo(M₀c₀)); the keys grow
//! by the Weyl constants between rounds. Known answers are tested in test_random.zig.

pub const Key = [2]u32;

/// Counters of one batch.
pub const width = 8;
/// Words of one batch: element 4i + lane of a batch is word `lane` of counter i.
pub const batch = 4 * width;

pub const Words = @Vector(width, u32);
const Long = @Vector(width, u64);

/// The four output words of eight counters.
pub inline fn generate(counter: [4]Words, key: Key) [4]Words {
    var c = counter;
    var k = key;
    inline for (0..10) |round| {
        if (round > 0) {
            k[0] +%= 0x9E3779B9;
            k[1] +%= 0xBB67AE85;
        }
        const a = product(0xD2511F53, c[0]);
        const b = product(0xCD9E8D57, c[2]);
        c = .{
            high(b) ^ c[1] ^ @as(Words, @splat(k[0])),
            @truncate(b),
            high(a) ^ c[3] ^ @as(Words, @splat(k[1])),
            @truncate(a),
        };
    }
    return c;
}

/// Words of the eight counters (group + i low, group + i high, 0, 0): elements 4·group and on.
pub inline fn element(group: u64, key: Key) [4]Words {
    const index = @as(Long, @splat(group)) +% steps;
    return generate(.{ @truncate(index), high(index), @splat(0), @splat(0) }, key);
}

/// Words of one counter.
pub fn one(counter: [4]u32, key: Key) [4]u32 {
    var wide: [4]Words = undefined;
    for (&wide, counter) |*to, from| to.* = @splat(from);
    const words = generate(wide, key);
    return .{ words[0][0], words[1][0], words[2][0], words[3][0] };
}

/// 0, 1, …, 7.
pub const steps: Long = .{ 0, 1, 2, 3, 4, 5, 6, 7 };

/// Puts four vectors of lanes into the order of the elements.
pub inline fn ordered(comptime T: type, lanes: [4]@Vector(width, T)) [batch]T {
    var out: [batch]T = undefined;
    inline for (0..4) |lane| {
        const values: [width]T = lanes[lane];
        inline for (0..width) |i| out[4 * i + lane] = values[i];
    }
    return out;
}

inline fn product(factor: u64, x: Words) Long {
    return @as(Long, @splat(factor)) * @as(Long, x);
}

inline fn high(x: Long) Words {
    return @truncate(x >> @splat(32));
}
