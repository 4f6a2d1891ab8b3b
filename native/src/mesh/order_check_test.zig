//! Op lists that are wrong, and what is said of them.

const std = @import("std");
const axes = @import("axes.zig");
const gradient_check = @import("gradient_check.zig");
const models = @import("model.zig");
const operations = @import("operations.zig");
const order_check = @import("order_check.zig");
const plans = @import("plan.zig");
const status = @import("../abi/status.zig");
const step = @import("step.zig");
const test_models = @import("plan_model_test.zig");
const walks = @import("walk.zig");
const AxisSet = axes.AxisSet;
const Mesh = axes.Mesh;
const Operation = operations.Operation;
const State = @import("layout.zig").State;
const testing = std.testing;

fn expectSaid(text: []const u8) !void {
    const said = std.mem.span(status.lastError());
    if (std.mem.indexOf(u8, said, text) != null) return;
    std.debug.print("said: {s}\nexpected: {s}\n", .{ said, text });
    return error.TestUnexpectedResult;
}

fn mesh222() !Mesh {
    return .init(.{ 2, 1, 2, 1, 2 }, axes.default_order, 8);
}

/// The plan of a small model, and lists of all its ranks that can be spoilt.
const Case = struct {
    arena: std.heap.ArenaAllocator,
    mesh: Mesh,
    model: models.Model,
    plan: plans.Plan,
    lists: [][]Operation,

    fn init(case: *Case, options: test_models.Options) !void {
        case.arena = .init(testing.allocator);
        errdefer case.arena.deinit();
        const gpa = case.arena.allocator();
        case.mesh = try mesh222();
        case.model = try test_models.make(gpa, options);
        case.plan = try .init(gpa, &case.model, &case.mesh);
        case.lists = try gpa.alloc([]Operation, case.mesh.world());
        for (case.lists, 0..) |*list, rank| {
            const steps = try case.plan.stepsOf(@intCast(rank));
            list.* = try std.mem.concat(gpa, Operation, &.{ steps.passes, steps.closing });
        }
    }

    fn deinit(case: *Case) void {
        case.arena.deinit();
    }

    fn checkOrder(case: *Case) !void {
        const steps = try case.arena.allocator().alloc(order_check.Steps, case.lists.len);
        for (case.lists, steps) |list, *to| to.* = .{ .passes = list };
        return order_check.check(testing.allocator, &.{
            .mesh = &case.mesh,
            .lists = steps,
            .context = &case.plan,
            .describe = describe,
        });
    }

    fn describe(
        context: *const anyopaque,
        writer: *std.Io.Writer,
        rank: u32,
        operation: *const Operation,
    ) std.Io.Writer.Error!void {
        const plan: *const plans.Plan = @ptrCast(@alignCast(context));
        return plan.print(writer, rank, operation);
    }

    fn checkGradients(case: *Case, rank: u32, list: []const Operation) !void {
        const stage = case.mesh.coordinate(rank, .pp);
        const pending = case.plan.stages[stage].pending;
        return gradient_check.check(testing.allocator, case.model.parameters, pending, list);
    }

    fn find(case: *const Case, rank: u32, what: operations.Site.What) usize {
        for (case.lists[rank], 0..) |operation, i| if (operation.site.what == what) return i;
        unreachable;
    }

    fn without(case: *Case, list: []const Operation, at: usize) ![]Operation {
        const gpa = case.arena.allocator();
        return std.mem.concat(gpa, Operation, &.{ list[0..at], list[at + 1 ..] });
    }
};

const small: test_models.Options = .{ .stages = &.{ 2, 2 }, .kinds = &.{ .v1, .v1, .v1, .v1 } };

test "sound lists come to their end" {
    var case: Case = undefined;
    try case.init(small);
    defer case.deinit();
    try case.checkOrder();
    try case.plan.check();
    // Here every rank has all that fsdp could cut.
    var whole: Case = undefined;
    try whole.init(.{ .stages = &.{ 2, 2 }, .min_size = 1 << 20 });
    defer whole.deinit();
    for (whole.lists, 0..) |list, rank| try whole.checkGradients(@intCast(rank), list);
}

test "a rank that skips a call" {
    var case: Case = undefined;
    try case.init(small);
    defer case.deinit();
    case.lists[3] = try case.without(case.lists[3], case.find(3, .weights));
    try testing.expectError(error.Failed, case.checkOrder());
    try expectSaid("all_gather[fsdp] (weights of embedding, 4096 f64)");
    try expectSaid("rank 3 calls");
}

test "a rank that swaps two calls of one group" {
    var case: Case = undefined;
    try case.init(small);
    defer case.deinit();
    const at = case.find(5, .mixer_in);
    const next = case.find(5, .mixer_out);
    std.mem.swap(Operation, &case.lists[5][at], &case.lists[5][next]);
    try testing.expectError(error.Failed, case.checkOrder());
    try expectSaid("of tp, rank");
    try expectSaid("blocks.2.mixer.out");
    try expectSaid("blocks.2.mixer.in");
}

test "a rank with another count" {
    var case: Case = undefined;
    try case.init(small);
    defer case.deinit();
    case.lists[1][case.find(1, .unit_gradients)].count += 1;
    try testing.expectError(error.Failed, case.checkOrder());
    try expectSaid("reduce_scatter[fsdp] (gradients of");
}

test "a rank that ends its step early" {
    var case: Case = undefined;
    try case.init(small);
    defer case.deinit();
    case.lists[6] = case.lists[6][0 .. case.lists[6].len - 1];
    try testing.expectError(error.Failed, case.checkOrder());
    try expectSaid("waits forever: rank 6 has ended its step");
}

test "two groups that are called in opposite orders wait for each other" {
    const mesh: Mesh = try .init(.{ 1, 2, 1, 1, 2 }, axes.default_order, 4);
    const over = [_]AxisSet{ .initOne(.dp), .initOne(.tp) };
    var lists: [4][2]Operation = undefined;
    var steps: [4]order_check.Steps = undefined;
    for (&lists, &steps, 0..) |*list, *to, rank| {
        for (list, 0..) |*operation, i| {
            // Every rank meets dp and tp once; ranks 0 and 3 in the other order than 1 and 2.
            const is_odd = rank == 1 or rank == 2;
            operation.* = .{
                .kind = .all_reduce,
                .over = over[if (is_odd) 1 - i else i],
                .dtype = .f32,
                .count = 1,
                .site = .{ .what = .loss },
                .cause = .scalars,
            };
        }
        to.* = .{ .passes = list };
    }
    const given: order_check.Lists = .{
        .mesh = &mesh,
        .lists = &steps,
        .context = &mesh,
        .describe = printKind,
    };
    // 0 waits for 2 on dp, which waits for 3 on tp, which waits for 1 on dp, which waits for 0 on
    // tp.
    try testing.expectError(error.Failed, order_check.check(testing.allocator, &given));
    try expectSaid("and waits forever");
    for (&lists, 0..) |*list, rank| {
        if (rank == 1 or rank == 2) std.mem.swap(Operation, &list[0], &list[1]);
    }
    try order_check.check(testing.allocator, &given);
}

fn printKind(
    _: *const anyopaque,
    writer: *std.Io.Writer,
    _: u32,
    operation: *const Operation,
) std.Io.Writer.Error!void {
    const group: operations.GroupName = .{ .over = operation.over };
    return writer.print("{t}[{f}]", .{ operation.kind, group });
}

test "neighbours that send to each other before they receive" {
    var case: Case = undefined;
    try case.init(small);
    defer case.deinit();
    // Splits the first exchange of every rank into a send and a receive.
    for (case.lists) |*list| {
        const at = for (list.*, 0..) |operation, i| {
            if (operation.kind == .exchange) break i;
        } else continue;
        var send = list.*[at];
        var receive = send;
        send.kind = .send;
        receive.kind = .receive;
        receive.site = send.received;
        const gpa = case.arena.allocator();
        const parts = [_][]const Operation{ list.*[0..at], &.{ send, receive }, list.*[at + 1 ..] };
        list.* = try std.mem.concat(gpa, Operation, &parts);
    }
    try testing.expectError(error.Failed, case.checkOrder());
    try expectSaid("and waits forever");
}

test "messages that are mixed up" {
    var case: Case = undefined;
    try case.init(small);
    defer case.deinit();
    const rank = case.mesh.rankOf(.{ 1, 0, 0, 0, 0 });
    case.lists[rank][case.find(rank, .x)].site.number = 3;
    try testing.expectError(error.Failed, case.checkOrder());
    try expectSaid("x of microbatch 0");
    try expectSaid("x of microbatch 3");
}

test "gradients that stay partial sums" {
    var case: Case = undefined;
    try case.init(.{ .stages = &.{ 2, 2 }, .min_size = 1 << 20 });
    defer case.deinit();
    const list = case.lists[0];
    for ([_]struct { axes.Axis, []const u8 }{
        .{ .fsdp, "layout: blocks.1.mixer_norm.scale: gradient is partial over fsdp; reduce it " ++
            "before the optimizer" },
        .{ .tp, "layout: blocks.0.mixer_norm.scale: gradient is partial over tp; reduce it " ++
            "before the optimizer" },
    }) |one| {
        const at = for (list, 0..) |operation, i| {
            if (operation.sums.len > 0 and operation.over.contains(one[0])) break i;
        } else unreachable;
        const spoilt = try case.without(list, at);
        try testing.expectError(error.Failed, case.checkGradients(0, spoilt));
        try expectSaid(one[1]);
        const twice = try std.mem.concat(
            case.arena.allocator(),
            Operation,
            &.{ list, list[at .. at + 1] },
        );
        try testing.expectError(error.Failed, case.checkGradients(0, twice));
        try expectSaid("it would count once per rank");
    }
}

test "a gradient that is complete must not be summed" {
    var case: Case = undefined;
    try case.init(.{ .stages = &.{ 2, 2 }, .min_size = 1 << 20 });
    defer case.deinit();
    const q = case.model.named("blocks.0.mixer.q.weight").?;
    for (case.lists[0]) |*operation| {
        if (operation.sums.len == 0 or !operation.over.contains(.tp)) continue;
        operation.sums = &.{q};
        break;
    }
    try testing.expectError(error.Failed, case.checkGradients(0, case.lists[0]));
    try expectSaid("layout: blocks.0.mixer.q.weight: the gradient is summed over tp");
}

/// Activations over tp.
fn value(name: []const u8, rank: u8, tp: State) walks.Value {
    var states: walks.States = @splat(.replicated);
    states[@backingInt(axes.Axis.tp)] = tp;
    return .{ .name = name, .rank = rank, .states = states };
}

test "the mean over a slice of the sequence is rejected, a sum that is scaled is not" {
    const mesh: Mesh = try .init(.{ 1, 1, 1, 1, 2 }, axes.default_order, 2);
    const walk: walks.Walk = .init(&mesh);
    // A head on slices of the sequence: every rank has the losses of its own tokens.
    const x = value("x", 3, .{ .split = 1 });
    const losses = try walk.nonlinear(try walk.sum(try walk.nonlinear(
        try walk.matmul(x, value("lm_head.weight", 2, .replicated)),
    ), 2));
    const mean = walk.mean(losses.called("loss"), 1);
    try testing.expectError(error.Failed, mean);
    try expectSaid("layout: loss: a mean of S(1) over tp: it divides by what lies on one rank");
    const total = try walk.sum(losses.called("loss"), 1);
    try walk.loss(total); // P: summands, scaled by the global count
    // Without the sum over the ranks it cannot pass for the same loss on all of them.
    var relabelled = total;
    relabelled.states[@backingInt(axes.Axis.tp)] = .replicated;
    try testing.expectError(error.Failed, walk.loss(relabelled));
    try expectSaid("counts it once per rank");
    try testing.expectError(error.Failed, walk.nonlinear(total));
}

test "a head on repeated work needs its input relabelled" {
    const mesh: Mesh = try .init(.{ 1, 1, 1, 1, 2 }, axes.default_order, 2);
    const walk: walks.Walk = .init(&mesh);
    const x = value("x", 3, .identical);
    const weight = value("ffn.up.weight", 2, .{ .split = 0 });
    try testing.expectError(error.Failed, walk.matmul(x, weight));
    try expectSaid("relabel x to R");
    const y = try walk.matmul(try walk.convertTo(x, .tp, .replicated), weight);
    try testing.expect(y.state(.tp).is(.{ .split = 2 }));
    // Its transpose gives summands, which must not meet a whole value before they are added up.
    const product = try walk.matmul(y, value("ffn.down.weight", 2, .{ .split = 1 }));
    try testing.expect(product.state(.tp) == .partial);
    try testing.expectError(error.Failed, walk.add(x, product));
    _ = try walk.add(x, try walk.convertTo(product, .tp, .identical));
}
