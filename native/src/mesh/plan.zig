//! The plan of a step on a mesh: every stage's vectors and passes, every rank's operations, and the
//! checks that need no run (mesh.md §4.3, §10.5, §20).

const std = @import("std");
const axes = @import("axes.zig");
const gradient_check = @import("gradient_check.zig");
const models = @import("model.zig");
const operations = @import("operations.zig");
const order_check = @import("order_check.zig");
const schedule_check = @import("schedule_check.zig");
const schedules = @import("schedule.zig");
const status = @import("../abi/status.zig");
const step = @import("step.zig");
const transfers = @import("transfers.zig");
const vectors = @import("vectors.zig");
const walk = @import("walk_model.zig");
const AxisSet = axes.AxisSet;
const Error = status.Error;
const Model = models.Model;
const Operation = operations.Operation;

pub const Plan = struct {
    arena: std.mem.Allocator,
    model: *const Model,
    mesh: *const axes.Mesh,
    stages: []const step.StagePlan,
    /// By stage: operations up to the last backward pass.
    passes: []const []const Operation,

    /// Everything lives in `arena`. Fails where an operation of the model is not legal, or where
    /// the stages of the pipeline would wait for each other.
    pub fn init(arena: std.mem.Allocator, model: *const Model, mesh: *const axes.Mesh) Error!Plan {
        try model.check(mesh);
        const count = mesh.size(.pp);
        const shape: schedules.Shape = .{
            .stages = count,
            .microbatches = model.settings.microbatches,
        };
        const lists = try arena.alloc([]const schedules.Op, count);
        for (lists, 0..) |*list, stage| {
            var ops: schedules.Ops = .empty;
            try schedules.list(arena, &ops, shape, @intCast(stage));
            list.* = ops.items;
        }
        try schedule_check.check(arena, shape, lists);
        const stages = try arena.alloc(step.StagePlan, count);
        const parts = mesh.size(.tp);
        const passes = try arena.alloc([]const Operation, count * parts);
        for (stages, 0..) |*plan, stage| {
            const number: u32 = @intCast(stage);
            const pending = try arena.alloc(?AxisSet, model.parameters.len);
            @memset(pending, null);
            try walk.walkStage(model, mesh, number, pending);
            addTied(model, mesh, number, pending);
            var actions: transfers.Actions = .empty;
            try transfers.plan(arena, &actions, lists, stage);
            plan.* = .{
                .stage = number,
                .parts = try vectors.ofStage(arena, model, mesh, number),
                .actions = actions.items,
                .pending = pending,
                .shape = shape,
            };
            for (passes[stage * parts ..][0..parts], 0..) |*list, part|
                list.* = try step.passesOf(arena, model, mesh, plan, @intCast(part));
        }
        return .{
            .arena = arena,
            .model = model,
            .mesh = mesh,
            .stages = stages,
            .passes = passes,
        };
    }

    /// What a rank does in a step.
    pub fn stepsOf(plan: *const Plan, rank: u32) Error!order_check.Steps {
        const at = plan.mesh.coordinates(rank);
        const number = at[@backingInt(axes.Axis.pp)];
        const stage = &plan.stages[number];
        return .{
            .passes = plan.passes[number * plan.mesh.size(.tp) + at[@backingInt(axes.Axis.tp)]],
            .closing = try step.closingOf(plan.arena, plan.model, plan.mesh, stage, at),
        };
    }

    /// Runs the lists of all ranks against each other, and follows the gradients of each.
    pub fn check(plan: *const Plan) Error!void {
        const lists = try plan.arena.alloc(order_check.Steps, plan.mesh.world());
        for (lists, 0..) |*list, rank| {
            const at = plan.mesh.coordinates(@intCast(rank));
            // Ranks that differ on dp and cp alone have one list.
            var leader = at;
            leader[@backingInt(axes.Axis.dp)] = 0;
            leader[@backingInt(axes.Axis.cp)] = 0;
            const first = plan.mesh.rankOf(leader);
            if (first < rank) {
                list.* = lists[first];
                continue;
            }
            list.* = try plan.stepsOf(@intCast(rank));
            try plan.checkGradients(at, list.*);
        }
        return order_check.check(plan.arena, &.{
            .mesh = plan.mesh,
            .lists = lists,
            .context = plan,
            .describe = describe,
        });
    }

    fn checkGradients(
        plan: *const Plan,
        at: axes.Coordinates,
        steps: order_check.Steps,
    ) Error!void {
        const stage = &plan.stages[at[@backingInt(axes.Axis.pp)]];
        // What another rank of fsdp owns, that one has to sum.
        const pending = try plan.arena.dupe(?AxisSet, stage.pending);
        const all = try std.mem.concat(plan.arena, Operation, &.{ steps.passes, steps.closing });
        for (pending, 0..) |*found, i| {
            const left = if (found.*) |*set| set else continue;
            const parameter: u32 = @intCast(i);
            if (step.ownedSize(plan.model, plan.mesh, stage, at, parameter) > 0) continue;
            left.remove(.tp);
            left.remove(.pp);
        }
        return gradient_check.check(plan.arena, plan.model.parameters, pending, all);
    }

    /// Prints an operation as in errors of the ranks themselves: `all_gather[fsdp] (weights of
    /// head, 4096 bf16)`.
    pub fn print(
        plan: *const Plan,
        writer: *std.Io.Writer,
        rank: u32,
        operation: *const Operation,
    ) std.Io.Writer.Error!void {
        const stage = plan.mesh.coordinate(rank, .pp);
        const group: operations.GroupName = .{ .over = operation.over };
        try writer.print("{t}[{f}] (", .{ operation.kind, group });
        try plan.printSite(writer, stage, operation.site);
        if (operation.kind == .exchange) {
            try writer.writeAll(" for ");
            try plan.printSite(writer, stage, operation.received);
        }
        try writer.writeAll(", ");
        if (operation.reduction != .sum) try writer.print("{t} of ", .{operation.reduction});
        try writer.print("{d} {t})", .{ operation.count, operation.dtype });
    }

    /// The site as the ranks name it.
    pub fn printSite(
        plan: *const Plan,
        writer: *std.Io.Writer,
        stage: u32,
        site: operations.Site,
    ) std.Io.Writer.Error!void {
        const number = site.number;
        switch (site.what) {
            .weights, .unit_gradients, .whole_gradients => {
                const parts = &plan.stages[stage].parts;
                const is_whole = site.what == .whole_gradients;
                const name: vectors.UnitName = .{
                    .unit = parts.units[if (is_whole) number else parts.vectors[number].unit],
                    .is_half = plan.model.settings.recompute == .half,
                };
                const what = if (site.what == .weights) "weights" else "gradients";
                try writer.print("{s} of {f}", .{ what, name });
            },
            .embedding_out => try writer.writeAll("embedding.out"),
            .mixer_in => try writer.print("blocks.{d}.mixer.in", .{number}),
            .mixer_out => try writer.print("blocks.{d}.mixer.out", .{number}),
            .mixer_gates => try writer.print("blocks.{d}.mixer.gates", .{number}),
            .ffn_in => try writer.print("blocks.{d}.ffn.in", .{number}),
            .ffn_out => try writer.print("blocks.{d}.ffn.out", .{number}),
            .head_in => try writer.writeAll("lm_head.in"),
            .head_max => try writer.writeAll("lm_head.max"),
            .head_sums => try writer.writeAll("lm_head.sums"),
            .axis_gradients => {
                const axis: axes.Axis = @fromBackingInt(@intCast(number));
                try writer.print("gradients over {t}", .{axis});
            },
            .tied_gradient => try writer.print("gradient of {s}", .{Model.tied_name}),
            .norm_blocks => try writer.writeAll("gradient norm, blocks"),
            .norm => try writer.writeAll("gradient norm"),
            .valid_targets => try writer.writeAll("valid targets"),
            .loss => try writer.writeAll("loss"),
            .x => try writer.print("x of microbatch {d}", .{number}),
            .dx => try writer.print("dx of microbatch {d}", .{number}),
        }
        if (site.is_gradient) try writer.writeAll(" gradient");
    }
};

fn describe(
    context: *const anyopaque,
    writer: *std.Io.Writer,
    rank: u32,
    operation: *const Operation,
) std.Io.Writer.Error!void {
    const plan: *const Plan = @ptrCast(@alignCast(context));
    return plan.print(writer, rank, operation);
}

/// Both ends of a pipeline use a tied table: each has a summand of its gradient.
fn addTied(
    model: *const Model,
    mesh: *const axes.Mesh,
    stage: u32,
    pending: []?AxisSet,
) void {
    if (mesh.size(.pp) == 1 or !model.settings.tied) return;
    if (stage != 0 and !model.isLast(stage)) return;
    const tied = model.named(Model.tied_name) orelse return;
    if (pending[tied]) |*set| set.insert(.pp);
}
