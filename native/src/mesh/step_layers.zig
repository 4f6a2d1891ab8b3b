//! What the layers of a unit tell the other ranks of tp, in both directions (mesh.md §8, §9).

const std = @import("std");
const axes = @import("axes.zig");
const models = @import("model.zig");
const operations = @import("operations.zig");
const status = @import("../abi/status.zig");
const step = @import("step.zig");
const vectors = @import("vectors.zig");
const Builder = step.Builder;
const DType = @import("../dtype.zig").DType;
const Error = status.Error;
const Kind = operations.Kind;
const Site = operations.Site;
const What = Site.What;

/// Conversions of a layer, as the forward pass makes them.
const Conversion = enum {
    /// Residual → R.
    spread,
    /// P → residual.
    collect,
    /// Residual → S(features).
    to_features,
    /// S(features) → residual.
    from_features,
    /// P → S(heads), of the gates.
    own_heads,
};

const Step = struct { conversion: Conversion, what: What };

const Steps = struct {
    items: [5]Step = undefined,
    length: usize = 0,

    fn append(steps: *Steps, conversion: Conversion, what: What) void {
        steps.items[steps.length] = .{ .conversion = conversion, .what = what };
        steps.length += 1;
    }
};

/// The conversions of a unit in the order of the forward pass.
fn stepsOf(builder: *const Builder, unit: vectors.Unit) Steps {
    var steps: Steps = .{};
    const number = unit.block orelse {
        if (unit.room == .embedding) {
            steps.append(.collect, .embedding_out);
        } else steps.append(.spread, .head_in);
        return steps;
    };
    const model = builder.model;
    const is_half = model.settings.recompute == .half;
    if (!is_half or unit.room == .mixer) switch (model.kinds[number]) {
        .v1, .paper => {
            steps.append(.spread, .mixer_in);
            if (model.hasDenseGates(number)) steps.append(.own_heads, .mixer_gates);
            steps.append(.collect, .mixer_out);
        },
        .slstm => {
            steps.append(.to_features, .mixer_in);
            steps.append(.from_features, .mixer_out);
        },
    };
    if (model.hasFfn(number) and (!is_half or unit.room == .ffn)) {
        steps.append(.spread, .ffn_in);
        steps.append(.collect, .ffn_out);
    }
    return steps;
}

pub fn forward(builder: *Builder, unit: vectors.Unit) Error!void {
    if (builder.size(.tp) == 1) return;
    const steps = stepsOf(builder, unit);
    for (steps.items[0..steps.length]) |one| try convert(builder, unit, one, false);
    if (unit.block == null and unit.room == .head) try loss(builder);
}

pub fn backward(builder: *Builder, unit: vectors.Unit) Error!void {
    if (builder.size(.tp) == 1) return;
    const steps = stepsOf(builder, unit);
    var i = steps.length;
    while (i > 0) : (i -= 1) try convert(builder, unit, steps.items[i - 1], true);
}

/// One conversion, or its dual.
fn convert(builder: *Builder, unit: vectors.Unit, one: Step, is_gradient: bool) Error!void {
    const settings = &builder.model.settings;
    const is_sequence = settings.residual == .sequence;
    const kind: Kind = switch (one.conversion) {
        .spread => if (is_sequence)
            if (is_gradient) .reduce_scatter else .all_gather
        else if (is_gradient) .all_reduce else return,
        .collect => if (is_sequence)
            if (is_gradient) .all_gather else .reduce_scatter
        else if (is_gradient) return else .all_reduce,
        .to_features => if (is_sequence) .all_to_all else if (is_gradient) .all_gather else return,
        .from_features => if (is_sequence)
            .all_to_all
        else if (is_gradient) return else .all_gather,
        .own_heads => if (is_gradient) .all_gather else .reduce_scatter,
    };
    var dtype = settings.activation;
    var whole = builder.model.tokens() * settings.dim;
    if (one.conversion == .own_heads) {
        dtype = models.arithmetic(dtype);
        const bias = builder.model.find(unit.block.?, "mixer.i_gate.bias").?;
        whole = builder.model.tokens() * 2 * builder.model.parameters[bias].shape[0];
    }
    const ranks = builder.size(.tp);
    const count = switch (kind) {
        .all_reduce => whole,
        // A rank has one part of the tensor, and cuts that into as many.
        .all_to_all => whole / ranks / ranks,
        else => whole / ranks,
    };
    try exchange(builder, kind, dtype, count, .{
        .what = one.what,
        .number = unit.block orelse 0,
        .is_gradient = is_gradient,
    });
}

fn exchange(builder: *Builder, kind: Kind, dtype: DType, count: u64, site: Site) Error!void {
    const is_loss = site.what == .head_max or site.what == .head_sums;
    try builder.add(.{
        .kind = kind,
        .over = step.only(.tp),
        .reduction = if (site.what == .head_max) .max else .sum,
        .dtype = dtype,
        .count = count,
        .site = site,
        .cause = if (is_loss) .loss else .layers,
    });
}

/// A maximum and three sums per token, chunk by chunk.
fn loss(builder: *Builder) Error!void {
    const settings = &builder.model.settings;
    const chunk = builder.model.headChunk(builder.size(.tp));
    const dtype = models.arithmetic(settings.head);
    var left = builder.model.tokens();
    while (left > 0) {
        const tokens: u64 = @min(left, chunk);
        left -= tokens;
        try exchange(builder, .all_reduce, dtype, tokens, .{ .what = .head_max });
        try exchange(builder, .all_reduce, dtype, 3 * tokens, .{ .what = .head_sums });
    }
}
