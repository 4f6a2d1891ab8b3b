//! What a plan knows of a model and of a step: parameters with their layouts, stages of the
//! pipeline, sizes of a microbatch. Plain numbers; nothing is allocated for weights.

const std = @import("std");
const axes = @import("axes.zig");
const layout = @import("layout.zig");
const placement = @import("placement.zig");
const table = @import("table.zig");
const status = @import("../abi/status.zig");
const DType = @import("../dtype.zig").DType;
const Error = status.Error;
const State = layout.State;

pub const Parameter = struct {
    name: []const u8,
    shape: []const u64,
    /// Of the dim that tp splits; empty: the whole dim is one.
    segments: []const u64 = &.{},
    /// On tp.
    state: State,
    /// Null for the embedding and the head.
    block: ?u32,
    room: table.Room,

    pub fn size(parameter: *const Parameter) u64 {
        return parameter.sizeOf(0, 1);
    }

    /// Elements on coordinate `part` of `parts` ranks of tp.
    pub fn sizeOf(parameter: *const Parameter, part: u32, parts: u32) u64 {
        var product: u64 = 1;
        for (parameter.shape, 0..) |length, dim| {
            const is_split = parameter.state.is(.{ .split = @intCast(dim) });
            product *= if (is_split) parameter.cutSize(length, part, parts) else length;
        }
        return product;
    }

    fn cutSize(parameter: *const Parameter, length: u64, part: u32, parts: u32) u64 {
        const segments: []const u64 = if (parameter.segments.len > 0)
            parameter.segments
        else
            &.{length};
        var total: u64 = 0;
        for (segments) |segment| total += placement.cut(segment, part, parts).length;
        return total;
    }

    /// Elements that a flat vector has room for: those of the largest part, on every rank of tp.
    pub fn reserved(parameter: *const Parameter, parts: u32) u64 {
        var product: u64 = 1;
        for (parameter.shape, 0..) |length, dim| {
            const is_split = parameter.state.is(.{ .split = @intCast(dim) });
            product *= if (is_split) placement.cut(length, 0, parts).length else length;
        }
        return product;
    }
};

/// Tokens of a chunk of a split head, and logits of one, at most: lib/nn/vocabulary_loss.ts.
const HeadLimits = struct { tokens: u64, logits: u64 };
const head_limits: std.EnumArray(Device, HeadLimits) = .init(.{
    .cpu = .{ .tokens = 4096, .logits = 1 << 25 },
    .cuda = .{ .tokens = 8192, .logits = 1 << 28 },
});

/// Activations that the backward pass makes again.
pub const Recompute = enum(u8) { none, block, half };
/// In which order gradients of microbatches are added.
pub const SumOrder = enum(u8) { tree, running };
pub const Device = enum(u8) { cpu, cuda };

pub const Settings = struct {
    /// Of one microbatch.
    rows: u32,
    length: u32,
    microbatches: u32,
    dim: u32,
    vocab: u32,
    activation: DType,
    parameter: DType,
    head: DType,
    gather: DType,
    scatter: DType,
    reshard: bool,
    /// Parameters of at most so many elements are whole on every rank of fsdp.
    min_size: u64,
    recompute: Recompute,
    residual: table.Residual,
    tied: bool,
    device: Device,
    order: SumOrder,
};

pub const Model = struct {
    settings: Settings,
    /// By block.
    kinds: []const table.Kind,
    /// Blocks per stage.
    stages: []const u32,
    parameters: []const Parameter,

    pub const tied_name = "embedding.table";

    /// Blocks [from, to) of a stage.
    pub const Blocks = struct { from: u32, to: u32 };

    pub fn blocksOf(model: *const Model, stage: u32) Blocks {
        var from: u32 = 0;
        for (model.stages[0..stage]) |count| from += count;
        return .{ .from = from, .to = from + model.stages[stage] };
    }

    pub fn isLast(model: *const Model, stage: u32) bool {
        return stage + 1 == model.stages.len;
    }

    pub fn isTied(model: *const Model, parameter: *const Parameter) bool {
        return model.settings.tied and std.mem.eql(u8, parameter.name, tied_name);
    }

    /// A tied table lies on the first and on the last stage.
    pub fn isOnStage(model: *const Model, parameter: *const Parameter, stage: u32) bool {
        if (parameter.block) |block| {
            const blocks = model.blocksOf(stage);
            return block >= blocks.from and block < blocks.to;
        }
        if (parameter.room == .embedding)
            return stage == 0 or (model.isLast(stage) and model.isTied(parameter));
        return model.isLast(stage);
    }

    /// Number of the parameter `rest` of a block; null when the block has none.
    pub fn find(model: *const Model, block: u32, rest: []const u8) ?u32 {
        for (model.parameters, 0..) |*parameter, i| {
            if (parameter.block != block) continue;
            if (std.mem.eql(u8, table.inBlock(parameter.name).?.rest, rest)) return @intCast(i);
        }
        return null;
    }

    pub fn named(model: *const Model, name: []const u8) ?u32 {
        for (model.parameters, 0..) |*parameter, i|
            if (std.mem.eql(u8, parameter.name, name)) return @intCast(i);
        return null;
    }

    pub fn hasFfn(model: *const Model, block: u32) bool {
        return model.find(block, "ffn.up.weight") != null;
    }

    /// The gates of a paper block read the channels of all heads.
    pub fn hasDenseGates(model: *const Model, block: u32) bool {
        if (model.kinds[block] != .paper) return false;
        const gate = model.find(block, "mixer.i_gate.weight") orelse return false;
        return model.parameters[gate].shape.len == 2;
    }

    /// Ranks that a plan goes up to.
    const max_ranks = 1 << 16;
    /// Bytes that it counts up to.
    const max_bytes = 1 << 60;

    /// Operations of a rank that it makes at most.
    const max_operations = 1 << 22;

    /// Chunks of tokens in which a split head makes logits.
    pub fn headChunk(model: *const Model, ranks: u32) u64 {
        const rows = std.math.divCeil(u64, model.settings.vocab, ranks) catch unreachable;
        const most = head_limits.get(model.settings.device);
        return @min(most.tokens, @max(1, most.logits / rows));
    }

    /// Whether there is something to plan, and no count in it can run over.
    pub fn check(model: *const Model, mesh: *const axes.Mesh) Error!void {
        const s = &model.settings;
        if (mesh.world() > max_ranks) return status.invalid(
            "plan: {d} ranks; plans go up to {d}",
            .{ mesh.world(), max_ranks },
        );
        if (@min(s.rows, s.length, s.microbatches, s.dim, s.vocab) < 1) return status.invalid(
            "plan: {d} rows of {d} tokens, {d} microbatches, width {d}, vocabulary {d}; each is " ++
                "1 or more",
            .{ s.rows, s.length, s.microbatches, s.dim, s.vocab },
        );
        var blocks: u64 = 0;
        for (model.stages) |count| blocks += count;
        if (model.stages.len != mesh.size(.pp) or blocks != model.kinds.len or
            std.mem.indexOfScalar(u32, model.stages, 0) != null) return status.invalid(
            "plan: {d} blocks on {d} stages, expected {d} on pp {d}, and one or more on each",
            .{ blocks, model.stages.len, model.kinds.len, mesh.size(.pp) },
        );
        // Every activation is as wide as some dim of a weight of its block, a few times.
        var width: f64 = @floatFromInt(s.dim);
        var elements: f64 = 0;
        for (model.parameters) |*parameter| {
            var product: f64 = 1;
            for (parameter.shape) |size| product *= @floatFromInt(size);
            elements += product;
            width += @floatFromInt(std.mem.max(u64, parameter.shape));
        }
        const passes: f64 = @floatFromInt(s.microbatches);
        const all = @as(f64, @floatFromInt(model.tokens())) * passes;
        const chunk: f64 = @floatFromInt(model.headChunk(mesh.size(.tp)));
        const blocks_each: f64 = @floatFromInt(model.kinds.len + 2);
        const calls = passes * 20 * blocks_each + 2 * all / chunk;
        if (calls > max_operations) return status.invalid(
            "plan: {d} microbatches of {d} × {d} tokens make more than {d} operations; plan fewer",
            .{ s.microbatches, s.rows, s.length, max_operations },
        );
        if (256 * @max(all * width, elements * 32) < max_bytes) return;
        return status.invalid("plan: model and step are larger than what a plan counts", .{});
    }

    /// Tokens of a microbatch.
    pub fn tokens(model: *const Model) u64 {
        return @as(u64, model.settings.rows) * model.settings.length;
    }
};

/// f64 models compute gates, sums and losses in f64, others in f32.
pub fn arithmetic(dtype: DType) DType {
    return if (dtype == .f64) .f64 else .f32;
}
