//! What the ranks of a group do together, as data: collectives, messages, and the description of
//! each that desync detection compares and errors print.

const std = @import("std");
const DType = @import("../dtype.zig").DType;

pub const Kind = enum(u8) {
    all_reduce,
    reduce_scatter,
    all_gather,
    all_to_all,
    broadcast,
    barrier,
    split,
    send,
    receive,
    /// A captured step that runs again; for the flight record.
    replay,
};

/// No average: it divides by a number that not every caller means.
pub const Reduction = enum(u8) { sum, max, min };

/// Every rank of the group calls with equal kind, reduction, dtype, count, root and site.
pub const Collective = struct {
    kind: Kind,
    reduction: Reduction = .sum,
    dtype: DType = .u8,
    /// Elements of the whole buffer (all_reduce, broadcast), or of one rank's part of the larger
    /// buffer (reduce_scatter, all_gather, all_to_all). 0 is legal.
    count: usize = 0,
    /// Group rank that a broadcast comes from.
    root: u32 = 0,
    input: [*]const u8 = undefined,
    /// May be the input (all_reduce, broadcast), the input's part of this rank (reduce_scatter), or
    /// the buffer that the input is the part of (all_gather).
    output: [*]u8 = undefined,
    /// Names the tensor in errors and in the flight record.
    site: []const u8 = "",

    pub fn describe(collective: *const Collective, sequence: u64) Description {
        return .init(.{
            .kind = collective.kind,
            .reduction = collective.reduction,
            .dtype = collective.dtype,
            .count = collective.count,
            .root = collective.root,
        }, sequence, collective.site);
    }
};

/// One direction of an exchange. Both ends give equal dtype, count and site.
pub fn Message(comptime Bytes: type) type {
    return struct {
        peer: u32, // group rank
        dtype: DType,
        count: usize,
        data: Bytes,
        site: []const u8 = "",

        pub fn bytes(message: *const @This()) usize {
            return message.count * message.dtype.size();
        }

        /// Both ends describe the message as sent, so that they can compare.
        pub fn describe(message: *const @This(), sequence: u64) Description {
            return .init(.{
                .kind = .send,
                .dtype = message.dtype,
                .count = message.count,
            }, sequence, message.site);
        }
    };
}

pub const Outgoing = Message([*]const u8);
pub const Incoming = Message([*]u8);

/// A call as plain memory: it lies in segments that processes share.
pub const Description = extern struct {
    hash: u64,
    sequence: u64,
    count: u64,
    root: u32,
    kind: Kind,
    reduction: Reduction,
    dtype: u8,
    site_length: u8,
    site: [site_bytes]u8,

    pub const site_bytes = 96;
    pub const Facts = struct {
        kind: Kind,
        reduction: Reduction = .sum,
        dtype: DType = .u8,
        count: usize = 0,
        root: u32 = 0,
    };

    pub fn init(facts: Facts, sequence: u64, site: []const u8) Description {
        var made: Description = .{
            .hash = 0,
            .sequence = sequence,
            .count = facts.count,
            .root = facts.root,
            .kind = facts.kind,
            .reduction = facts.reduction,
            .dtype = @intCast(@backingInt(facts.dtype)),
            .site_length = @intCast(@min(site.len, site_bytes)),
            .site = @splat(0),
        };
        @memcpy(made.site[0..made.site_length], site[0..made.site_length]);
        var hasher: std.hash.Fnv1a_64 = .init();
        const numbers = [_]u64{
            sequence,
            facts.count,
            facts.root,
            @backingInt(facts.kind),
            @backingInt(facts.reduction),
            made.dtype,
        };
        hasher.update(std.mem.sliceAsBytes(&numbers));
        hasher.update(site);
        made.hash = hasher.final();
        return made;
    }

    pub fn siteText(description: *const Description) []const u8 {
        return description.site[0..@min(description.site_length, site_bytes)];
    }

    pub fn dtypeName(description: *const Description) []const u8 {
        const dtype = std.enums.fromInt(DType, @as(i32, description.dtype)) orelse return "?";
        return @tagName(dtype);
    }

    /// Prints as `all_gather[fsdp] #812 (block 5 weights, 4096 bf16)`.
    pub fn in(description: *const Description, group: []const u8) Shown {
        return .{ .description = description, .group = group };
    }

    pub const Shown = struct {
        description: *const Description,
        group: []const u8,

        pub fn format(shown: Shown, writer: *std.Io.Writer) std.Io.Writer.Error!void {
            const call = shown.description;
            try writer.print("{t}[{s}] #{d}", .{ call.kind, shown.group, call.sequence });
            if (call.count == 0 and (call.kind == .barrier or call.kind == .split or
                call.kind == .replay))
            {
                if (call.site_length > 0) try writer.print(" ({s})", .{call.siteText()});
                return;
            }
            try writer.writeAll(" (");
            if (call.site_length > 0) try writer.print("{s}, ", .{call.siteText()});
            if (call.reduction != .sum) try writer.print("{t} of ", .{call.reduction});
            try writer.print("{d} {s}", .{ call.count, call.dtypeName() });
            if (call.kind == .broadcast) try writer.print(" from group rank {d}", .{call.root});
            try writer.writeByte(')');
        }
    };
};

/// Prints the ranks in `set` by their global numbers: `rank 3` or `ranks 0, 1, 2`.
pub const Ranks = struct {
    set: []const bool,
    /// Global rank of every group rank.
    global: []const u32,

    pub fn format(ranks: Ranks, writer: *std.Io.Writer) std.Io.Writer.Error!void {
        var count: usize = 0;
        for (ranks.set) |is_in| count += @intFromBool(is_in);
        try writer.writeAll(if (count == 1) "rank " else "ranks ");
        var first = true;
        for (ranks.set, ranks.global) |is_in, rank| {
            if (!is_in) continue;
            try writer.print("{s}{d}", .{ if (first) "" else ", ", rank });
            first = false;
        }
    }
};

test "descriptions differ in every field that ranks must agree on, and print it" {
    const base: Collective = .{ .kind = .all_gather, .dtype = .bf16, .count = 7, .site = "w" };
    const hash = base.describe(3).hash;
    try std.testing.expectEqual(hash, base.describe(3).hash);
    try std.testing.expect(hash != base.describe(4).hash);
    inline for (.{
        .{ "kind", Kind.all_reduce },
        .{ "reduction", Reduction.max },
        .{ "dtype", DType.f16 },
        .{ "count", @as(usize, 8) },
        .{ "root", @as(u32, 1) },
        .{ "site", @as([]const u8, "v") },
    }) |change| {
        var other = base;
        @field(other, change[0]) = change[1];
        try std.testing.expect(hash != other.describe(3).hash);
    }
    var buffer: [128]u8 = undefined;
    const shown = try std.fmt.bufPrint(&buffer, "{f}", .{base.describe(3).in("fsdp")});
    try std.testing.expectEqualStrings("all_gather[fsdp] #3 (w, 7 bf16)", shown);
    const ranks: Ranks = .{ .set = &.{ true, false, true }, .global = &.{ 4, 5, 6 } };
    const listed = try std.fmt.bufPrint(&buffer, "{f}", .{ranks});
    try std.testing.expectEqualStrings("ranks 4, 6", listed);
}
