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
    // Words stay in 64-bit lanes, where a product needs no shuffles; upper halves are garbage that
    // `product` ignores and the end cuts off.
    var c: [4]Long = undefined;
    inline for (&c, counter) |*to, from| to.* = from;
    var k = key;
    inline for (0..10) |round| {
        if (round > 0) {
            k[0] +%= 0x9E3779B9;
            k[1] +%= 0xBB67AE85;
        }
        const a = product(0xD2511F53, c[0]);
        const b = product(0xCD9E8D57, c[2]);
        c = .{
            (b >> @splat(32)) ^ c[1] ^ @as(Long, @splat(k[0])),
            b,
            (a >> @splat(32)) ^ c[3] ^ @as(Long, @splat(k[1])),
            a,
        };
    }
    var words: [4]Words = undefined;
    inline for (&words, c) |*to, from| to.* = @truncate(from);
    return words;
}

/// Words of the eight counters (group + i low, group + i high, 0, 0): elements 4·group and on.
pub inline fn element(group: u64, key: Key) [4]Words {
    const index = @as(Long, @splat(group)) +% steps;
    const high: Words = @truncate(index >> @splat(32));
    return generate(.{ @truncate(index), high, @splat(0), @splat(0) }, key);
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
    const even = interlaced(T, width, lanes[0], lanes[2]);
    const odd = interlaced(T, width, lanes[1], lanes[3]);
    return interlaced(T, 2 * width, even, odd);
}

/// a₀ b₀ a₁ b₁ …
inline fn interlaced(
    comptime T: type,
    comptime n: comptime_int,
    a: @Vector(n, T),
    b: @Vector(n, T),
) @Vector(2 * n, T) {
    comptime var places: [2 * n]i32 = undefined;
    comptime for (0..n) |i| {
        places[2 * i] = i;
        places[2 * i + 1] = ~@as(i32, i);
    };
    return @shuffle(T, a, b, places);
}

/// 64-bit product with the lower half of each lane.
inline fn product(factor: u64, x: Long) Long {
    return @as(Long, @splat(factor)) * (x & @as(Long, @splat(0xffffffff)));
}
