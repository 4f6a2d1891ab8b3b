//! Models of tests: a few blocks of every kind, as lists of parameters.

const std = @import("std");
const models = @import("model.zig");
const table = @import("table.zig");
const Kind = table.Kind;

pub const Options = struct {
    kinds: []const Kind = &.{ .v1, .paper, .slstm, .v1 },
    stages: []const u32 = &.{4},
    heads: u32 = 8,
    dim: u32 = 64,
    vocab: u32 = 61,
    rows: u32 = 2,
    length: u32 = 32,
    microbatches: u32 = 4,
    min_size: u64 = 0,
    reshard: bool = true,
    recompute: models.Recompute = .none,
    residual: table.Residual = .sequence,
    tied: bool = false,
    device: models.Device = .cpu,
    bias: bool = true,
};

/// Everything lives in `arena`.
pub fn make(arena: std.mem.Allocator, options: Options) !models.Model {
    var list: List = .{ .arena = arena, .options = options };
    try list.all();
    return .{
        .settings = .{
            .rows = options.rows,
            .length = options.length,
            .microbatches = options.microbatches,
            .dim = options.dim,
            .vocab = options.vocab,
            .activation = .f64,
            .parameter = .f64,
            .head = .f64,
            .gather = .f64,
            .scatter = .f64,
            .reshard = options.reshard,
            .min_size = options.min_size,
            .recompute = options.recompute,
            .residual = options.residual,
            .tied = options.tied,
            .device = options.device,
            .order = .tree,
        },
        .kinds = options.kinds,
        .stages = options.stages,
        .parameters = list.items.items,
    };
}

const List = struct {
    arena: std.mem.Allocator,
    options: Options,
    items: std.ArrayList(models.Parameter) = .empty,
    kind: Kind = .v1,
    block: ?u32 = null,

    fn add(list: *List, rest: []const u8, shape: []const u64) !void {
        const name = if (list.block) |number|
            try std.fmt.allocPrint(list.arena, "blocks.{d}.{s}", .{ number, rest })
        else
            rest;
        const rule = try table.ruleOf(name, list.kind, shape.len, list.options.residual);
        const dim: u64 = list.options.dim;
        const width: u64 = if (list.kind == .paper) 2 * dim else dim;
        try list.items.append(list.arena, .{
            .name = name,
            .shape = try list.arena.dupe(u64, shape),
            .segments = if (rule.has_segments)
                try list.arena.dupe(u64, &.{ width, width, width })
            else
                &.{},
            .state = rule.state,
            .block = list.block,
            .room = table.roomOf(name),
        });
    }

    fn linear(list: *List, comptime name: []const u8, out: u64, in: u64) !void {
        try list.add(name ++ ".weight", &.{ out, in });
        if (list.options.bias) try list.add(name ++ ".bias", &.{out});
    }

    fn all(list: *List) !void {
        const D: u64 = list.options.dim;
        try list.add("embedding.table", &.{ list.options.vocab, D });
        for (list.options.kinds, 0..) |kind, number| {
            list.block = @intCast(number);
            list.kind = kind;
            try list.add("mixer_norm.scale", &.{D});
            switch (kind) {
                .v1 => try list.v1(),
                .paper => try list.paper(),
                .slstm => try list.slstm(),
            }
            if (kind != .paper) try list.ffn();
        }
        list.block = null;
        try list.add("out_norm.scale", &.{D});
        if (!list.options.tied) try list.add("lm_head.weight", &.{ list.options.vocab, D });
    }

    fn gates(list: *List, shape: []const u64) !void {
        for ([_][]const u8{ "i", "f" }) |gate| {
            const names = [_][]const u8{ "weight", "bias" };
            for (names, [_][]const u64{ shape, &.{list.options.heads} }) |name, one| try list.add(
                try std.fmt.allocPrint(list.arena, "mixer.{s}_gate.{s}", .{ gate, name }),
                one,
            );
        }
    }

    fn v1(list: *List) !void {
        const D: u64 = list.options.dim;
        const heads: u64 = list.options.heads;
        try list.linear("mixer.q", D / 2, D);
        try list.linear("mixer.k", D / 2, D);
        try list.linear("mixer.v", D, D);
        try list.linear("mixer.o", D, D);
        try list.gates(&.{ heads, D });
        try list.add("mixer.q_norm.scale", &.{D / 2 / heads});
        try list.add("mixer.k_norm.scale", &.{D / 2 / heads});
        try list.add("mixer.head_norm.scale", &.{D});
        try list.linear("mixer.out", D, D);
    }

    fn paper(list: *List) !void {
        const D: u64 = list.options.dim;
        const inner = 2 * D;
        const heads: u64 = list.options.heads;
        try list.linear("mixer.up", inner, D);
        try list.linear("mixer.z", inner, D);
        try list.add("mixer.conv.weight", &.{ inner, 4 });
        try list.add("mixer.conv.bias", &.{inner});
        try list.add("mixer.q.weight", &.{ inner / 4, 4, 4 });
        try list.add("mixer.k.weight", &.{ inner / 4, 4, 4 });
        try list.add("mixer.v.weight", &.{ inner / 4, 4, 4 });
        try list.gates(&.{ heads, 3 * inner });
        try list.add("mixer.head_norm.scale", &.{inner});
        try list.add("mixer.skip", &.{inner});
        try list.linear("mixer.out", D, inner);
    }

    fn slstm(list: *List) !void {
        const D: u64 = list.options.dim;
        const heads: u64 = list.options.heads;
        const width = D / heads;
        try list.add("mixer.conv.weight", &.{ D, 4 });
        try list.add("mixer.conv.bias", &.{D});
        for ([_][]const u8{ "i", "f", "z", "o" }) |gate| {
            const name = try std.fmt.allocPrint(list.arena, "mixer.{s}_gate.weight", .{gate});
            try list.add(name, &.{ heads, width, width });
        }
        try list.add("mixer.recurrent", &.{ 4, heads, width, width });
        try list.add("mixer.cell_bias", &.{ 4, heads, width });
        try list.add("mixer.head_norm.scale", &.{D});
    }

    fn ffn(list: *List) !void {
        const D: u64 = list.options.dim;
        try list.add("ffn_norm.scale", &.{D});
        try list.linear("ffn.gate", 3 * D, D);
        try list.linear("ffn.up", 3 * D, D);
        try list.linear("ffn.down", D, 3 * D);
    }
};
