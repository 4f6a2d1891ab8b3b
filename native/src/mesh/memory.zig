//! Bytes that a rank needs at the peak of a step, by cause (mesh.md §23.1). Estimates from shapes:
//! what a backend's allocator and libraries take on top is not in them.

const std = @import("std");
const axes = @import("axes.zig");
const models = @import("model.zig");
const plans = @import("plan.zig");
const Model = models.Model;
const Plan = plans.Plan;

pub const Cause = enum(u8) {
    /// Trained weights, and two moments of each.
    states,
    /// Gradients of the running microbatch, and those that the optimizer takes.
    gradients,
    /// Sums over earlier microbatches.
    accumulation,
    /// Weights of vectors while they are in use.
    gathered,
    /// What backward passes need of forward passes, of all microbatches on their way.
    activations,
    /// What a unit makes while it runs backward.
    working,
    /// Logits of a chunk, and gradients of the head.
    head,
    /// Activations and gradients that come from other stages.
    transfers,
};

pub const causes = @typeInfo(Cause).@"enum".field_names.len;

/// Bytes at one moment.
pub const Bytes = struct {
    values: [causes]u64 = @splat(0),

    pub fn of(bytes: *Bytes, cause: Cause) *u64 {
        return &bytes.values[@backingInt(cause)];
    }

    pub fn total(bytes: *const Bytes) u64 {
        var sum: u64 = 0;
        for (bytes.values) |value| sum += value;
        return sum;
    }
};

/// Of the first rank of tp and fsdp of a stage, whose parts are the largest, at the worst of three
/// moments: the loss is made, the last block runs backward, the first one does.
pub fn ofStage(plan: *const Plan, stage: u32) Bytes {
    var always: Bytes = .{};
    const sizes = weights(plan, stage, &always);
    if (plan.mesh.size(.pp) > 1) {
        const settings = &plan.model.settings;
        const share: u64 = if (settings.residual == .replicated) 1 else plan.mesh.size(.tp);
        const one = plan.model.tokens() * settings.dim * settings.activation.size() / share;
        always.of(.transfers).* = 2 * one;
    }
    const logits: Head = if (plan.model.isLast(stage)) head(plan) else .{};
    const all = activations(plan, stage);
    var loss = always;
    loss.of(.activations).* = all;
    loss.of(.head).* = logits.kept + logits.chunk;
    var last = always;
    last.of(.activations).* = all;
    last.of(.head).* = logits.kept;
    last.of(.working).* = working(plan, stage);
    var first = always;
    first.of(.gradients).* = sizes.gradients;
    const one = all / plan.stages[stage].livePasses();
    first.of(.activations).* = all - one + firstBlock(plan, stage);
    first.of(.working).* = working(plan, stage);
    var most = loss;
    for ([_]Bytes{ last, first }) |moment| {
        if (moment.total() > most.total()) most = moment;
    }
    return most;
}

const Sizes = struct { gradients: u64 };

/// What weights take at any time; and their gradients when all are there.
fn weights(plan: *const Plan, stage: u32, bytes: *Bytes) Sizes {
    const model = plan.model;
    const settings = &model.settings;
    const parts = &plan.stages[stage].parts;
    const width: u64 = settings.parameter.size();
    var whole: u64 = 0;
    for (parts.whole) |i| whole += model.parameters[i].sizeOf(0, plan.mesh.size(.tp));
    var owned: u64 = 0;
    var all: u64 = 0;
    var largest: u64 = 0;
    var staying: u64 = 0;
    var passing: u64 = 0;
    for (parts.vectors) |*vector| {
        owned += vector.layout.chunk;
        all += vector.layout.total;
        largest = @max(largest, vector.layout.total);
        if (vector.reshards)
            passing = @max(passing, vector.layout.total)
        else
            staying += vector.layout.total;
    }
    // A binary counter of sums over the microbatches before the last one, or one running sum.
    const sums: u64 = switch (settings.order) {
        .running => @intFromBool(settings.microbatches > 1),
        .tree => std.math.log2_int(u32, settings.microbatches),
    };
    const scatter: u64 = settings.scatter.size();
    bytes.of(.states).* = 3 * width * (whole + owned);
    bytes.of(.accumulation).* = sums * (width * whole + scatter * all);
    bytes.of(.gathered).* = settings.gather.size() * (staying + passing);
    return .{ .gradients = width * (whole + owned) + 2 * scatter * largest };
}

/// Bytes of the activations of one block and microbatch.
const Block = struct {
    /// Its input, and that of its second half.
    inputs: [2]u64 = .{ 0, 0 },
    /// What else each half keeps where nothing is made again.
    inner: [2]u64 = .{ 0, 0 },
};

fn blockOf(plan: *const Plan, number: u32) Block {
    const model = plan.model;
    const settings = &model.settings;
    const ranks: u64 = plan.mesh.size(.tp);
    const element: u64 = settings.activation.size();
    const tokens = model.tokens();
    const is_split = settings.residual != .replicated;
    const stream = tokens * settings.dim * element / (if (is_split) ranks else 1);
    var block: Block = .{ .inputs = .{ stream, 0 } };
    // On a GPU norms and products of gates are made again, one by one: lib/nn/layers.ts. The input
    // of column-parallel layers was gathered, and stays.
    const remakes = settings.device == .cuda;
    const gathered = if (ranks > 1) tokens * settings.dim * element else if (remakes) 0 else stream;
    block.inner[0] = mixerWidth(model, number) * tokens * element / ranks;
    block.inner[0] += gateBytes(model, number) * tokens / ranks;
    if (model.kinds[number] != .slstm) block.inner[0] += gathered;
    if (model.hasFfn(number)) {
        block.inputs[1] = stream;
        const up = rowsOf(model, number, "ffn.up.weight");
        const gate = rowsOf(model, number, "ffn.gate.weight");
        const product = if (remakes) 0 else up;
        block.inner[1] = (up + gate + product) * tokens * element / ranks + gathered;
    }
    return block;
}

fn rowsOf(model: *const Model, number: u32, rest: []const u8) u64 {
    const found = model.find(number, rest) orelse return 0;
    return model.parameters[found].shape[0];
}

/// Rows of a headwise weight [blocks, out, in].
fn widthOf(model: *const Model, number: u32, rest: []const u8) u64 {
    const found = model.find(number, rest) orelse return 0;
    const shape = model.parameters[found].shape;
    return if (shape.len == 3) shape[0] * shape[1] else shape[0];
}

/// Features that a mixer keeps per token.
fn mixerWidth(model: *const Model, number: u32) u64 {
    const q = widthOf(model, number, "mixer.q.weight");
    const v = widthOf(model, number, "mixer.v.weight");
    // Gates that read all heads have q, k and v once more, put together.
    const joined = if (model.hasDenseGates(number)) 2 * q + v else 0;
    return switch (model.kinds[number]) {
        // q, k, v, o, h; the gated h is made again on a GPU.
        .v1 => if (model.settings.device == .cuda) 2 * q + 3 * v else 2 * q + 4 * v,
        // inner, convolved, activated; q, k; v, z, h, normed, with the skip, gated.
        .paper => 3 * widthOf(model, number, "mixer.up.weight") + 2 * q + 6 * v + joined,
        // normed, convolved, activated; four gates, and put together; h, normed.
        .slstm => 13 * @as(u64, model.settings.dim),
    };
}

/// Bytes of gates and of states of the sLSTM per token, which are in f32 (f64).
fn gateBytes(model: *const Model, number: u32) u64 {
    const width: u64 = models.arithmetic(model.settings.activation).size();
    return switch (model.kinds[number]) {
        .v1, .paper => 2 * width * rowsOf(model, number, "mixer.i_gate.bias"),
        .slstm => 4 * width * @as(u64, model.settings.dim),
    };
}

fn kept(plan: *const Plan, block: Block) u64 {
    return switch (plan.model.settings.recompute) {
        .none => block.inputs[0] + block.inputs[1] + block.inner[0] + block.inner[1],
        .half => block.inputs[0] + block.inputs[1],
        .block => block.inputs[0],
    };
}

/// Of all blocks and microbatches that are on their way.
fn activations(plan: *const Plan, stage: u32) u64 {
    const blocks = plan.model.blocksOf(stage);
    var one: u64 = 0;
    for (blocks.from..blocks.to) |number| one += kept(plan, blockOf(plan, @intCast(number)));
    return one * plan.stages[stage].livePasses();
}

fn firstBlock(plan: *const Plan, stage: u32) u64 {
    return kept(plan, blockOf(plan, plan.model.blocksOf(stage).from));
}

/// The largest piece that is made again, and gradients as large as its activations.
fn working(plan: *const Plan, stage: u32) u64 {
    const blocks = plan.model.blocksOf(stage);
    var most: u64 = 0;
    for (blocks.from..blocks.to) |number| {
        const block = blockOf(plan, @intCast(number));
        const halves = @max(block.inner[0], block.inner[1]);
        most = @max(most, switch (plan.model.settings.recompute) {
            .none => halves,
            .half => 2 * halves,
            .block => block.inner[0] + block.inner[1] + block.inputs[1] + halves,
        });
    }
    return most;
}

const Head = struct {
    /// Hidden activations, their gradient, that of the weight.
    kept: u64 = 0,
    /// Logits.
    chunk: u64 = 0,
};

fn head(plan: *const Plan) Head {
    const model = plan.model;
    const settings = &model.settings;
    const ranks: u64 = plan.mesh.size(.tp);
    const rows = std.math.divCeil(u64, settings.vocab, ranks) catch unreachable;
    const width: u64 = models.arithmetic(settings.head).size();
    const hidden = 2 * model.tokens() * settings.dim * settings.head.size();
    const made: Head = .{ .kept = hidden + rows * settings.dim * width };
    return .{ .kept = made.kept, .chunk = chunkBytes(plan, rows, width) };
}

/// What the head of each backend has of logits at a time: native/src/cpu/loss_linear.zig,
/// native/src/cuda/loss.zig, lib/nn/vocabulary_loss.ts.
fn chunkBytes(plan: *const Plan, rows: u64, width: u64) u64 {
    const settings = &plan.model.settings;
    const tokens = plan.model.tokens();
    const stored = settings.head.size();
    const one = rows * (if (settings.device == .cuda) stored else width);
    if (plan.mesh.size(.tp) > 1) {
        // On a CPU the gradients are rounded to what the products take.
        const rounded = if (settings.device == .cuda or stored == width) 0 else rows * stored;
        const chunk = plan.model.headChunk(plan.mesh.size(.tp));
        return @min(chunk, tokens) * (one + rounded);
    }
    const fit: u64 = switch (settings.device) {
        .cpu => @max(256, (8 << 20) / one),
        .cuda => @max(128, (512 << 20) / one),
    };
    return @min(fit, tokens) * one;
}
