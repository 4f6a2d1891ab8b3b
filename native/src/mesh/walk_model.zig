//! The operations of the models' layers, walked with layouts (mesh.md §8, §9). What the layers of
//! lib/nn compute, without numbers.

const std = @import("std");
const axes = @import("axes.zig");
const models = @import("model.zig");
const status = @import("../abi/status.zig");
const walks = @import("walk.zig");
const AxisSet = axes.AxisSet;
const Error = status.Error;
const Model = models.Model;
const State = @import("layout.zig").State;
const Value = walks.Value;
const Walk = walks.Walk;

const batch = 0;
const sequence = 1;
const features = 2;

/// Walks one microbatch through a stage. Writes, for every parameter of the model that the stage
/// has, the axes over which its gradient must be summed.
pub fn walkStage(
    model: *const Model,
    mesh: *const axes.Mesh,
    stage: u32,
    pending: []?AxisSet,
) Error!void {
    var layers: Layers = .{ .model = model, .walk = .init(mesh), .pending = pending };
    var x = if (stage == 0) try layers.embedding() else layers.stream();
    const blocks = model.blocksOf(stage);
    for (blocks.from..blocks.to) |block| x = try layers.block(@intCast(block), x);
    if (model.isLast(stage)) try layers.head(x);
    for (model.parameters, pending) |*parameter, found| {
        if (found != null or !model.isOnStage(parameter, stage)) continue;
        return status.invalid(
            "layout: {s} is used by no operation that the plan knows",
            .{parameter.name},
        );
    }
}

const Layers = struct {
    model: *const Model,
    walk: Walk,
    pending: []?AxisSet,

    /// Activations of whole rows, in a state on tp.
    fn activations(layers: *const Layers, rank: u8, tp: State) Value {
        _ = layers;
        var states: walks.States = @splat(.replicated);
        states[@backingInt(axes.Axis.dp)] = .{ .split = batch };
        states[@backingInt(axes.Axis.fsdp)] = .{ .split = batch };
        states[@backingInt(axes.Axis.cp)] = .{ .split = sequence };
        states[@backingInt(axes.Axis.tp)] = tp;
        return .{ .name = "x", .rank = rank, .states = states };
    }

    fn residual(layers: *const Layers) State {
        return layers.model.settings.residual.state();
    }

    fn stream(layers: *const Layers) Value {
        return layers.activations(3, layers.residual());
    }

    /// A parameter as a layer uses it: whole on the axes of the data.
    fn use(layers: *Layers, number: u32) Value {
        const parameter = &layers.model.parameters[number];
        var states: walks.States = @splat(.replicated);
        states[@backingInt(axes.Axis.tp)] = parameter.state;
        const rank: u8 = @intCast(parameter.shape.len);
        const value: Value = .{ .name = parameter.name, .rank = rank, .states = states };
        layers.pending[number] = layers.walk.pendingOf(value);
        return value;
    }

    /// The parameter `parts` (put together) of a block.
    fn of(layers: *Layers, block_number: u32, comptime rest: []const u8) Error!Value {
        return try layers.maybe(block_number, rest) orelse status.invalid(
            "layout: block {d} has no {s}",
            .{ block_number, rest },
        );
    }

    fn maybe(layers: *Layers, block_number: u32, comptime rest: []const u8) Error!?Value {
        const number = layers.model.find(block_number, rest) orelse return null;
        return layers.use(number);
    }

    fn top(layers: *Layers, name: []const u8) ?Value {
        return layers.use(layers.model.named(name) orelse return null);
    }

    fn embedding(layers: *Layers) Error!Value {
        const table = layers.top("embedding.table") orelse
            return status.invalid("layout: the model has no embedding.table", .{});
        const ids = layers.activations(2, .replicated);
        const x = try layers.walk.lookUp(table, ids);
        return layers.toResidual(x);
    }

    fn toResidual(layers: *const Layers, x: Value) Error!Value {
        return layers.walk.convertTo(x, .tp, layers.residual());
    }

    /// Whole on every rank, which then do different work with it.
    fn spread(layers: *const Layers, x: Value) Error!Value {
        return layers.walk.convertTo(x, .tp, .replicated);
    }

    fn norm(layers: *Layers, x: Value, scale: Value, bias: ?Value) Error!Value {
        const walk = layers.walk;
        var y: Value = undefined;
        if (x.state(.tp).is(.{ .split = features })) {
            // The statistics are summed over the features of all ranks.
            const squares = try walk.sum(try walk.nonlinear(x), features);
            y = try walk.elementwise(x, try walk.convertTo(squares, .tp, .replicated));
        } else y = try walk.along(x, features);
        y = try walk.withVector(y, scale);
        return if (bias) |vector| walk.withVector(y, vector) else y;
    }

    fn linear(layers: *const Layers, x: Value, weight: Value, bias: ?Value) Error!Value {
        const y = (try layers.walk.matmul(x, weight)).called(weight.name);
        return if (bias) |vector| layers.walk.withVector(y, vector) else y;
    }

    /// Row-parallel: the products of all ranks are summed, and the bias is added once.
    fn collected(layers: *const Layers, x: Value, weight: Value, bias: ?Value) Error!Value {
        const y = try layers.toResidual(try layers.linear(x, weight, null));
        return if (bias) |vector| layers.walk.withVector(y, vector) else y;
    }

    fn block(layers: *Layers, number: u32, x: Value) Error!Value {
        const u = try layers.norm(
            x,
            try layers.of(number, "mixer_norm.scale"),
            try layers.maybe(number, "mixer_norm.bias"),
        );
        var y = switch (layers.model.kinds[number]) {
            .v1 => try layers.v1(number, u),
            .paper => try layers.paper(number, u),
            .slstm => try layers.slstm(number, u),
        };
        if (try layers.maybe(number, "mixer_post_norm.scale")) |scale|
            y = try layers.norm(y, scale, try layers.maybe(number, "mixer_post_norm.bias"));
        const half = try layers.walk.add(x, y);
        return if (layers.model.hasFfn(number)) layers.ffn(number, half) else half;
    }

    fn v1(layers: *Layers, number: u32, input: Value) Error!Value {
        const u = try layers.spread(input);
        const q = try layers.projected(number, u, "mixer.q");
        const k = try layers.projected(number, u, "mixer.k");
        const v = try layers.projected(number, u, "mixer.v");
        const o = try layers.projected(number, u, "mixer.o");
        const i = try layers.projected(number, u, "mixer.i_gate");
        const f = try layers.projected(number, u, "mixer.f_gate");
        const h = try layers.cell(number, .{ q, k, v, i, f });
        const gated = try layers.walk.elementwise(h, try layers.walk.nonlinear(o));
        return layers.mixed(number, gated);
    }

    fn projected(
        layers: *Layers,
        number: u32,
        x: Value,
        comptime name: []const u8,
    ) Error!Value {
        const weight = try layers.of(number, name ++ ".weight");
        return layers.linear(x, weight, try layers.maybe(number, name ++ ".bias"));
    }

    fn headwise(
        layers: *Layers,
        number: u32,
        x: Value,
        comptime name: []const u8,
    ) Error!Value {
        const weight = try layers.of(number, name ++ ".weight");
        const y = (try layers.walk.grouped(x, weight)).called(weight.name);
        const bias = try layers.maybe(number, name ++ ".bias") orelse return y;
        return layers.walk.withVector(y, bias);
    }

    /// mLSTM: q, k, v and gates by head, in the order of the sequence; and the norm of each head.
    fn cell(layers: *Layers, number: u32, inputs: [5]Value) Error!Value {
        const walk = layers.walk;
        var q, var k, const v, const i, const f = inputs;
        // One scale for all heads.
        if (try layers.maybe(number, "mixer.q_norm.scale")) |scale|
            q = try walk.elementwise(q, scale);
        if (try layers.maybe(number, "mixer.k_norm.scale")) |scale|
            k = try walk.elementwise(k, scale);
        var h = try walk.along(q, sequence);
        for ([_]Value{ k, v, i, f }) |input|
            h = try walk.elementwise(h, try walk.along(input, sequence));
        return layers.headNorm(number, h);
    }

    fn headNorm(layers: *Layers, number: u32, h: Value) Error!Value {
        const scale = try layers.maybe(number, "mixer.head_norm.scale") orelse return h;
        const y = try layers.walk.withVector(try layers.walk.nonlinear(h), scale);
        const bias = try layers.maybe(number, "mixer.head_norm.bias") orelse return y;
        return layers.walk.withVector(y, bias);
    }

    fn mixed(layers: *Layers, number: u32, h: Value) Error!Value {
        const weight = try layers.of(number, "mixer.out.weight");
        return layers.collected(h, weight, try layers.maybe(number, "mixer.out.bias"));
    }

    fn paper(layers: *Layers, number: u32, input: Value) Error!Value {
        const walk = layers.walk;
        const u = try layers.spread(input);
        const inner = try layers.projected(number, u, "mixer.up");
        const z = try layers.projected(number, u, "mixer.z");
        const conv = try walk.nonlinear(try layers.convolved(number, inner));
        const q = try layers.headwise(number, conv, "mixer.q");
        const k = try layers.headwise(number, conv, "mixer.k");
        const v = try layers.headwise(number, inner, "mixer.v");
        const source = try walk.elementwise(try walk.elementwise(q, k), v);
        const i = try layers.gate(number, source, "mixer.i_gate");
        const f = try layers.gate(number, source, "mixer.f_gate");
        const h = try layers.cell(number, .{ q, k, v, i, f });
        const skipped = if (layers.model.find(number, "mixer.skip_proj.weight") != null)
            try layers.headwise(number, conv, "mixer.skip_proj")
        else
            conv;
        const skip = try walk.withVector(skipped, try layers.of(number, "mixer.skip"));
        const sum = try walk.add(h, skip);
        return layers.mixed(number, try walk.elementwise(sum, try walk.nonlinear(z)));
    }

    fn convolved(layers: *Layers, number: u32, x: Value) Error!Value {
        const weight = try layers.maybe(number, "mixer.conv.weight") orelse return x;
        const y = try layers.walk.grouped(try layers.walk.along(x, sequence), weight);
        return layers.walk.withVector(y, try layers.of(number, "mixer.conv.bias"));
    }

    /// Gates that read all heads are summands of every head: each rank gets the sums of its own.
    fn gate(
        layers: *Layers,
        number: u32,
        source: Value,
        comptime name: []const u8,
    ) Error!Value {
        const weight = try layers.of(number, name ++ ".weight");
        const bias = try layers.of(number, name ++ ".bias");
        const y = if (layers.model.hasDenseGates(number))
            try layers.walk.convertTo(
                try layers.linear(source, weight, null),
                .tp,
                .{ .split = features },
            )
        else
            try layers.walk.grouped(source, weight);
        return layers.walk.withVector(y, bias);
    }

    fn slstm(layers: *Layers, number: u32, input: Value) Error!Value {
        const walk = layers.walk;
        const u = try walk.convertTo(input, .tp, .{ .split = features });
        const conv = try walk.nonlinear(try layers.convolved(number, u));
        const i = try walk.grouped(conv, try layers.of(number, "mixer.i_gate.weight"));
        const f = try walk.grouped(conv, try layers.of(number, "mixer.f_gate.weight"));
        const z = try walk.grouped(u, try layers.of(number, "mixer.z_gate.weight"));
        const o = try walk.grouped(u, try layers.of(number, "mixer.o_gate.weight"));
        var h = try walk.along(i, sequence);
        for ([_]Value{ f, z, o }) |gates|
            h = try walk.elementwise(h, try walk.along(gates, sequence));
        h = try walk.grouped(h, try layers.of(number, "mixer.recurrent"));
        h = try walk.grouped(h, try layers.of(number, "mixer.cell_bias"));
        return layers.toResidual(try layers.headNorm(number, h));
    }

    fn ffn(layers: *Layers, number: u32, x: Value) Error!Value {
        const walk = layers.walk;
        const normed = try layers.norm(
            x,
            try layers.of(number, "ffn_norm.scale"),
            try layers.maybe(number, "ffn_norm.bias"),
        );
        const u = try layers.spread(normed);
        var hidden = try walk.nonlinear(try layers.projected(number, u, "ffn.up"));
        if (layers.model.find(number, "ffn.gate.weight") != null)
            hidden = try walk.elementwise(try layers.projected(number, u, "ffn.gate"), hidden);
        const weight = try layers.of(number, "ffn.down.weight");
        var y = try layers.collected(hidden, weight, try layers.maybe(number, "ffn.down.bias"));
        if (try layers.maybe(number, "ffn_post_norm.scale")) |scale|
            y = try layers.norm(y, scale, try layers.maybe(number, "ffn_post_norm.bias"));
        return walk.add(x, y);
    }

    /// The last norm, the head, and the sum of the losses, which is scaled by the global count.
    fn head(layers: *Layers, x: Value) Error!void {
        const walk = layers.walk;
        const normed = if (layers.top("out_norm.scale")) |scale|
            try layers.norm(x, scale, layers.top("out_norm.bias"))
        else
            x;
        const name = if (layers.model.settings.tied) Model.tied_name else "lm_head.weight";
        const weight = layers.top(name) orelse
            return status.invalid("layout: the model has no {s}", .{name});
        const logits = try layers.linear(try layers.spread(normed), weight, null);
        const powers = try walk.nonlinear(try walk.nonlinear(logits));
        const total = try walk.convertTo(try walk.sum(powers, features), .tp, .identical);
        const losses = try walk.nonlinear(total);
        return walk.loss((try walk.sum(try walk.sum(losses, sequence), batch)).called("loss"));
    }
};
