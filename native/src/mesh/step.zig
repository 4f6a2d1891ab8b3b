//! Everything that a rank tells others in one training step, in program order (mesh.md §5 to §11,
//! §16). It follows lib/train/pass.ts, lib/mesh/fsdp.ts, lib/mesh/gradients.ts and
//! lib/optim/norm.ts; a test compares it with what they call.

const std = @import("std");
const axes = @import("axes.zig");
const models = @import("model.zig");
const operations = @import("operations.zig");
const reduction = @import("step_gradients.zig");
const schedules = @import("schedule.zig");
const layers = @import("step_layers.zig");
const status = @import("../abi/status.zig");
const transfers = @import("transfers.zig");
const vectors = @import("vectors.zig");
const Axis = axes.Axis;
const AxisSet = axes.AxisSet;
const Error = status.Error;
const Model = models.Model;
const Operation = operations.Operation;
const Site = operations.Site;

/// What is the same for all ranks of a stage.
pub const StagePlan = struct {
    stage: u32,
    parts: vectors.Stage,
    actions: []const transfers.Action,
    /// By parameter of the model: axes over which its gradient is a summand; null where it is not.
    pending: []const ?AxisSet,
    shape: schedules.Shape,

    /// Most microbatches that are between their forward and their backward pass.
    pub fn livePasses(plan: *const StagePlan) u64 {
        return plan.shape.peak(plan.stage);
    }
};

/// Lists of ranks; they share nothing but the stage's facts.
pub const Builder = struct {
    arena: std.mem.Allocator,
    model: *const Model,
    mesh: *const axes.Mesh,
    plan: *const StagePlan,
    at: axes.Coordinates,
    list: operations.List = .empty,
    bound: []Binding,
    /// By `Stage.wholes`.
    wholes: []Uses,
    /// Sums over fsdp whose tensor is still to be summed over dp, and the unit that ended last.
    open: operations.List = .empty,
    left: ?usize = null,
    /// Whether the microbatch is the last one of the step.
    is_last: bool = false,

    /// A vector during the step.
    const Binding = struct {
        is_gathered: bool = false,
        reads: Uses = .{},
    };

    const Uses = struct {
        /// Units that read it: both ends of a model read tied weights.
        count: u32 = 0,
        /// Those of them that the backward pass has left.
        done: u32 = 0,

        /// One more; whether it was the last.
        fn leave(uses: *Uses) bool {
            uses.done += 1;
            return uses.done == uses.count;
        }
    };

    pub fn size(builder: *const Builder, axis: Axis) u32 {
        return builder.mesh.size(axis);
    }

    /// Nothing is said in a group of one rank.
    pub fn add(builder: *Builder, operation: Operation) Error!void {
        if (builder.mesh.groupSize(operation.over) == 1) return;
        try builder.list.append(builder.arena, operation);
    }

    pub fn isFirst(builder: *const Builder) bool {
        return builder.plan.stage == 0;
    }

    pub fn isLast(builder: *const Builder) bool {
        return builder.model.isLast(builder.plan.stage);
    }

    /// Before a unit's parameters are read.
    fn enter(builder: *Builder, unit: usize) Error!void {
        for (builder.plan.parts.readers[unit]) |vector| try builder.gather(vector);
    }

    fn gather(builder: *Builder, vector: u32) Error!void {
        if (builder.bound[vector].is_gathered) return;
        builder.bound[vector].is_gathered = true;
        try builder.add(.{
            .kind = .all_gather,
            .over = only(.fsdp),
            .dtype = builder.model.settings.gather,
            .count = builder.plan.parts.vectors[vector].layout.chunk,
            .site = .{ .what = .weights, .number = vector },
            .cause = .weights,
        });
    }

    /// After the last operation of a forward pass that is not run again in a backward pass.
    fn leave(builder: *Builder, unit: usize) void {
        for (builder.plan.parts.readers[unit]) |vector| {
            if (builder.plan.parts.vectors[vector].reshards)
                builder.bound[vector].is_gathered = false;
        }
    }

    /// The backward pass comes back to a unit whose weights were freed.
    fn comeBack(builder: *Builder, unit: usize) Error!void {
        for (builder.plan.parts.readers[unit]) |vector| {
            if (builder.plan.parts.vectors[vector].reshards) try builder.gather(vector);
        }
    }

    /// The backward pass of a unit ends: everything in the opposite order of its recording.
    fn end(builder: *Builder, unit: usize) Error!void {
        const wholes = builder.plan.parts.whole_readers[unit];
        var w = wholes.len;
        while (w > 0) : (w -= 1) {
            const number = wholes[w - 1];
            if (!builder.wholes[number].leave() or !builder.is_last) continue;
            try builder.goOn(unit);
            try reduction.reduceWhole(builder, number);
        }
        const readers = builder.plan.parts.readers[unit];
        var i = readers.len;
        while (i > 0) : (i -= 1) {
            const vector = readers[i - 1];
            const binding = &builder.bound[vector];
            if (builder.plan.parts.vectors[vector].reshards) binding.is_gathered = false;
            if (!binding.reads.leave() or !builder.is_last) continue;
            try builder.goOn(unit);
            try reduction.reduceVector(builder, vector);
        }
    }

    /// Sums of the units before this one go on.
    fn goOn(builder: *Builder, unit: ?usize) Error!void {
        if (builder.left == unit) return;
        builder.left = unit;
        for (builder.open.items) |operation| try builder.add(operation);
        builder.open.clearRetainingCapacity();
    }

    /// Whether the stage runs a unit: of a tied table the last stage has the weights only.
    fn runs(builder: *const Builder, unit: vectors.Unit) bool {
        return unit.room != .embedding or builder.isFirst();
    }

    fn forward(builder: *Builder) Error!void {
        for (builder.plan.parts.units, 0..) |unit, number| {
            if (!builder.runs(unit)) continue;
            try builder.enter(number);
            try layers.forward(builder, unit);
            builder.leave(number);
        }
    }

    fn backward(builder: *Builder) Error!void {
        for (builder.bound) |*binding| binding.reads.done = 0;
        for (builder.wholes) |*uses| uses.done = 0;
        const all = builder.plan.parts.units;
        const recompute = builder.model.settings.recompute != .none;
        var i = all.len;
        while (i > 0) : (i -= 1) {
            const unit = all[i - 1];
            if (!builder.runs(unit)) continue;
            if (recompute and unit.block != null) {
                try builder.enter(i - 1);
                try layers.forward(builder, unit);
            } else try builder.comeBack(i - 1);
            try layers.backward(builder, unit);
            try builder.end(i - 1);
        }
    }

    fn message(builder: *Builder, send: ?transfers.Parcel, receive: ?transfers.Parcel) Error!void {
        const settings = &builder.model.settings;
        const stage = builder.plan.stage;
        const is_split = settings.residual != .replicated;
        const share: u64 = if (is_split) builder.size(.tp) else 1;
        var operation: Operation = .{
            .kind = .exchange,
            .over = only(.pp),
            .dtype = settings.activation,
            .count = builder.model.tokens() * settings.dim / share,
            .site = undefined,
            .cause = .pipeline,
        };
        if (receive) |parcel| {
            operation.from = if (parcel.kind == .forward) stage - 1 else stage + 1;
            operation.received = siteOf(parcel);
            if (send == null) {
                operation.kind = .receive;
                operation.site = operation.received;
            }
        } else operation.kind = .send;
        if (send) |parcel| {
            operation.to = if (parcel.kind == .forward) stage + 1 else stage - 1;
            operation.site = siteOf(parcel);
        }
        try builder.add(operation);
    }

    /// A sum of a few numbers.
    pub fn scalars(builder: *Builder, axis: Axis, count: u64, what: Site.What) Error!void {
        try builder.add(.{
            .kind = .all_reduce,
            .over = only(axis),
            .dtype = .f64,
            .count = count,
            .site = .{ .what = what },
            .cause = .scalars,
        });
    }

    /// Up to the last backward pass and the sums that run beside it: the same on all ranks of a
    /// stage with one coordinate of tp.
    fn passes(builder: *Builder) Error!void {
        try builder.scalars(.fsdp, 1, .valid_targets);
        try builder.scalars(.dp, 1, .valid_targets);
        for (builder.plan.actions) |action| switch (action) {
            .transfer => |parcels| try builder.message(parcels.send, parcels.receive),
            .pass => |op| {
                builder.is_last = op.microbatch + 1 == builder.model.settings.microbatches;
                if (op.kind == .forward) try builder.forward() else try builder.backward();
            },
        };
        try builder.goOn(null);
    }

    /// What follows: sums of what this rank has of the gradients.
    fn closing(builder: *Builder) Error!void {
        try reduction.reduceRest(builder);
        for ([_]Axis{ .fsdp, .dp, .pp }) |axis| try builder.scalars(axis, 1, .loss);
        try reduction.norm(builder);
    }
};

pub fn only(axis: Axis) AxisSet {
    return .initOne(axis);
}

fn siteOf(parcel: transfers.Parcel) Site {
    return .{
        .what = if (parcel.kind == .forward) .x else .dx,
        .number = parcel.microbatch,
    };
}

/// Elements of a parameter whose gradient the rank at these coordinates has in the end.
pub fn ownedSize(
    model: *const Model,
    mesh: *const axes.Mesh,
    plan: *const StagePlan,
    at: axes.Coordinates,
    parameter: u32,
) u64 {
    const tp = at[@backingInt(Axis.tp)];
    const size = model.parameters[parameter].sizeOf(tp, mesh.size(.tp));
    const place = plan.parts.places[parameter] orelse return size;
    const layout = plan.parts.vectors[place.vector].layout;
    const range = layout.owned(place.start, size, at[@backingInt(Axis.fsdp)]);
    return range.to - range.from;
}

fn begin(
    arena: std.mem.Allocator,
    model: *const Model,
    mesh: *const axes.Mesh,
    plan: *const StagePlan,
    at: axes.Coordinates,
) Error!Builder {
    const bound = try arena.alloc(Builder.Binding, plan.parts.vectors.len);
    @memset(bound, .{});
    const wholes = try arena.alloc(Builder.Uses, plan.parts.wholes.len);
    @memset(wholes, .{});
    const builder: Builder = .{
        .arena = arena,
        .model = model,
        .mesh = mesh,
        .plan = plan,
        .at = at,
        .bound = bound,
        .wholes = wholes,
    };
    for (plan.parts.units, plan.parts.readers, plan.parts.whole_readers) |unit, vector, whole| {
        if (!builder.runs(unit)) continue;
        for (vector) |number| bound[number].reads.count += 1;
        for (whole) |number| wholes[number].count += 1;
    }
    return builder;
}

/// The operations of the ranks of a stage at `part` of tp, up to the end of the last backward pass
/// and of what runs beside it, in `arena`.
pub fn passesOf(
    arena: std.mem.Allocator,
    model: *const Model,
    mesh: *const axes.Mesh,
    plan: *const StagePlan,
    part: u32,
) Error![]const Operation {
    var at: axes.Coordinates = @splat(0);
    at[@backingInt(Axis.tp)] = part;
    var builder = try begin(arena, model, mesh, plan, at);
    try builder.passes();
    return builder.list.items;
}

/// The operations that follow on the rank at these coordinates, in `arena`.
pub fn closingOf(
    arena: std.mem.Allocator,
    model: *const Model,
    mesh: *const axes.Mesh,
    plan: *const StagePlan,
    at: axes.Coordinates,
) Error![]const Operation {
    var builder = try begin(arena, model, mesh, plan, at);
    try builder.closing();
    return builder.list.items;
}
