//! How every parameter of the models lies on the ranks of tp (mesh.md §8.1 to §8.5). Names are
//! those of lib/nn/parameters.ts.

const std = @import("std");
const layout = @import("layout.zig");
const status = @import("../abi/status.zig");
const Error = status.Error;
const State = layout.State;

/// Where the residual stream [B, S, D] lies: S(1), S(2) or I.
pub const Residual = enum(u8) {
    sequence,
    feature,
    replicated,

    pub fn state(residual: Residual) State {
        return switch (residual) {
            .sequence => .{ .split = 1 },
            .feature => .{ .split = 2 },
            .replicated => .identical,
        };
    }
};

pub const Kind = enum(u8) { v1, paper, slstm };

/// Where a parameter is used.
pub const Room = enum { embedding, mixer, ffn, head };

pub const Rule = struct {
    /// On tp. The gradient of R is a sum that is still to be made.
    state: State,
    /// The split dim is several, put together: queries, keys, values.
    has_segments: bool = false,
};

/// Block number, and the rest of a name that begins with `blocks.`.
pub const InBlock = struct { block: u32, rest: []const u8 };

pub fn inBlock(name: []const u8) ?InBlock {
    const prefix = "blocks.";
    if (!std.mem.startsWith(u8, name, prefix)) return null;
    const tail = name[prefix.len..];
    const dot = std.mem.indexOfScalar(u8, tail, '.') orelse return null;
    const block = std.fmt.parseInt(u32, tail[0..dot], 10) catch return null;
    return .{ .block = block, .rest = tail[dot + 1 ..] };
}

pub fn roomOf(name: []const u8) Room {
    const found = inBlock(name) orelse
        return if (std.mem.startsWith(u8, name, "embedding.")) .embedding else .head;
    return if (std.mem.startsWith(u8, found.rest, "ffn")) .ffn else .mixer;
}

/// What follows from the place of a parameter in the data flow.
const Use = enum {
    /// On the residual stream: norms, and biases that are added to it.
    stream,
    /// Makes the features of this rank's heads or columns.
    out,
    /// Takes them up again.
    in,
    /// One for all heads.
    shared,
    /// Reads the channels of all heads for every head.
    gates,
    /// Cells: one matrix per gate and head.
    cell,
};

const Entry = struct {
    /// A part that ends in a dot stands for everything behind it.
    part: []const u8,
    use: Use,
    /// Of blocks of these kinds; null: of all.
    kinds: ?[]const Kind = null,
};

const slstm = [_]Kind{.slstm};
const mlstm = [_]Kind{ .v1, .paper };

/// The first entry that fits counts.
const entries = [_]Entry{
    .{ .part = "mixer_norm.", .use = .stream },
    .{ .part = "mixer_post_norm.", .use = .stream },
    .{ .part = "ffn_norm.", .use = .stream },
    .{ .part = "ffn_post_norm.", .use = .stream },
    .{ .part = "ffn.down.bias", .use = .stream },
    .{ .part = "ffn.down.weight", .use = .in },
    .{ .part = "ffn.gate.", .use = .out },
    .{ .part = "ffn.up.", .use = .out },
    .{ .part = "mixer.out.bias", .use = .stream, .kinds = &mlstm },
    .{ .part = "mixer.out.weight", .use = .in, .kinds = &mlstm },
    .{ .part = "mixer.q_norm.", .use = .shared, .kinds = &mlstm },
    .{ .part = "mixer.k_norm.", .use = .shared, .kinds = &mlstm },
    .{ .part = "mixer.recurrent", .use = .cell, .kinds = &slstm },
    .{ .part = "mixer.cell_bias", .use = .cell, .kinds = &slstm },
    .{ .part = "mixer.i_gate.weight", .use = .gates, .kinds = &.{.paper} },
    .{ .part = "mixer.f_gate.weight", .use = .gates, .kinds = &.{.paper} },
    .{ .part = "mixer.i_gate.", .use = .out },
    .{ .part = "mixer.f_gate.", .use = .out },
    .{ .part = "mixer.z_gate.", .use = .out, .kinds = &slstm },
    .{ .part = "mixer.o_gate.", .use = .out, .kinds = &slstm },
    .{ .part = "mixer.head_norm.", .use = .out },
    .{ .part = "mixer.conv.", .use = .out, .kinds = &.{ .paper, .slstm } },
    .{ .part = "mixer.q.", .use = .out, .kinds = &mlstm },
    .{ .part = "mixer.k.", .use = .out, .kinds = &mlstm },
    .{ .part = "mixer.v.", .use = .out, .kinds = &mlstm },
    .{ .part = "mixer.o.", .use = .out, .kinds = &.{.v1} },
    .{ .part = "mixer.up.", .use = .out, .kinds = &.{.paper} },
    .{ .part = "mixer.z.", .use = .out, .kinds = &.{.paper} },
    .{ .part = "mixer.skip", .use = .out, .kinds = &.{.paper} },
    .{ .part = "mixer.skip_proj.", .use = .out, .kinds = &.{.paper} },
};

fn fits(entry: Entry, kind: Kind, rest: []const u8) bool {
    if (entry.kinds) |kinds| if (std.mem.indexOfScalar(Kind, kinds, kind) == null) return false;
    if (!std.mem.endsWith(u8, entry.part, ".")) return std.mem.eql(u8, entry.part, rest);
    return std.mem.startsWith(u8, rest, entry.part);
}

fn useOf(name: []const u8, kind: Kind) Error!Use {
    if (inBlock(name)) |found| {
        for (entries) |entry| if (fits(entry, kind, found.rest)) return entry.use;
    } else {
        if (std.mem.eql(u8, name, "embedding.table")) return .out;
        if (std.mem.eql(u8, name, "lm_head.weight")) return .out;
        if (std.mem.startsWith(u8, name, "out_norm.")) return .stream;
    }
    return status.invalid(
        "layout: no rule says how {s} (of a {t} block) lies on the ranks of tp",
        .{ name, kind },
    );
}

/// `rank` are the dims of the parameter, `kind` that of its block, if it lies in one.
pub fn ruleOf(name: []const u8, kind: Kind, rank: usize, residual: Residual) Error!Rule {
    return switch (try useOf(name, kind)) {
        .out => .{ .state = .{ .split = 0 } },
        .in, .cell => .{ .state = .{ .split = 1 } },
        .shared => .{ .state = .replicated },
        .gates => if (rank == 2)
            .{ .state = .{ .split = 1 }, .has_segments = true }
        else
            .{ .state = .{ .split = 0 } },
        .stream => .{ .state = switch (residual) {
            .sequence => .replicated,
            .feature => .{ .split = 0 },
            .replicated => .identical,
        } },
    };
}
