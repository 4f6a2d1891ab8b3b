//! Plans of a training step for TypeScript: the model comes as a list of numbers and a list of
//! names (lib/mesh/plan_model.ts writes them), what is asked for goes back the same way.

const std = @import("std");
const Context = @import("../runtime/context.zig").Context;
const axes = @import("../mesh/axes.zig");
const checks = @import("../mesh/checks.zig");
const layouts = @import("../mesh/layout.zig");
const lists = @import("mesh.zig");
const memory = @import("../mesh/memory.zig");
const models = @import("../mesh/model.zig");
const Operation = @import("../mesh/operations.zig").Operation;
const plans = @import("../mesh/plan.zig");
const table = @import("../mesh/table.zig");
const traffic = @import("../mesh/traffic.zig");
const scratch = @import("../abi/scratch.zig");
const status = @import("../abi/status.zig");
const DType = @import("../dtype.zig").DType;
const Error = status.Error;

/// Names of the next call, one a line, and the text that the last call made.
var names: std.ArrayList(u8) = .empty;
var answer: std.ArrayList(u8) = .empty;

/// Puts `length` bytes of scratch text at byte `first` of the names of the next call; they end
/// there.
pub fn writeNames(context: *Context, first: i32, length: i32) Error!void {
    const page = &scratch.block.text;
    if (first < 0 or first > names.items.len or length < 0 or length > page.len)
        return status.invalid("plan: {d} bytes at {d} of the names", .{ length, first });
    names.shrinkRetainingCapacity(@intCast(first));
    try names.appendSlice(context.gpa, page[0..@intCast(length)]);
}

/// Bytes of the last call's text from byte `first` on into scratch text. Number: how many.
pub fn readText(_: *Context, first: i32) Error!void {
    if (first < 0 or first > answer.items.len)
        return status.invalid("plan: byte {d} of a text of {d}", .{ first, answer.items.len });
    const rest = answer.items[@intCast(first)..];
    const page = &scratch.block.text;
    const length = @min(rest.len, page.len);
    @memcpy(page[0..length], rest[0..length]);
    scratch.block.numbers[0] = @floatFromInt(length);
}

/// How a parameter lies on the ranks of tp; its name in scratch text. Numbers: the split dim, -1
/// for none (R), -2 for none with the same work everywhere (I); 1 where the dim has segments.
pub fn rule(_: *Context, kind: i32, rank: i32, residual: i32, name_length: i32) Error!void {
    const text = &scratch.block.text;
    if (name_length < 0 or name_length > text.len)
        return status.invalid("layout: a name of {d} bytes", .{name_length});
    const found = try table.ruleOf(
        text[0..@intCast(name_length)],
        try choice(table.Kind, kind, "a kind of block"),
        @intCast(@max(rank, 0)),
        try choice(table.Residual, residual, "a residual mode"),
    );
    scratch.block.numbers[0] = codeOf(found.state);
    scratch.block.numbers[1] = @floatFromInt(@intFromBool(found.has_segments));
}

fn codeOf(state: layouts.State) f64 {
    return switch (state) {
        .split => |dim| @floatFromInt(dim),
        .replicated => -1,
        .identical => -2,
        .partial => unreachable, // no parameter is a summand
    };
}

fn choice(comptime E: type, number: anytype, comptime what: []const u8) Error!E {
    const most = @typeInfo(E).@"enum".field_names.len;
    if (number >= 0 and number < most) return @fromBackingInt(@intCast(number));
    return status.invalid("plan: " ++ what ++ " is {d}, expected 0 to {d}", .{ number, most - 1 });
}

/// Reads the list of the call.
const Question = struct {
    reader: lists.Reader = .{},
    arena: std.mem.Allocator,
    lines: std.mem.SplitIterator(u8, .scalar),

    fn number(question: *Question, comptime what: []const u8) Error!u32 {
        return question.reader.next(u32, what);
    }

    fn of(question: *Question, comptime E: type, comptime what: []const u8) Error!E {
        return choice(E, try question.number(what), what);
    }

    /// How many things follow, of which each takes a number or more.
    fn length(question: *Question, comptime what: []const u8) Error!u32 {
        const value = try question.number(what);
        if (value <= question.reader.left()) return value;
        return status.invalid(
            "plan: {d} of " ++ what ++ " in a list with {d} numbers left",
            .{ value, question.reader.left() },
        );
    }

    fn series(question: *Question, comptime T: type, comptime what: []const u8) Error![]T {
        const result = try question.arena.alloc(T, try question.length(what));
        for (result) |*value| value.* = try question.reader.next(T, what);
        return result;
    }

    fn settings(question: *Question) Error!models.Settings {
        return .{
            .rows = try question.number("rows"),
            .length = try question.number("a length"),
            .microbatches = try question.number("microbatches"),
            .dim = try question.number("a width"),
            .vocab = try question.number("a vocabulary"),
            .activation = try question.of(DType, "a dtype"),
            .parameter = try question.of(DType, "a dtype"),
            .head = try question.of(DType, "a dtype"),
            .gather = try question.of(DType, "a dtype"),
            .scatter = try question.of(DType, "a dtype"),
            .reshard = try question.number("resharding") == 1,
            .min_size = try question.reader.next(u64, "a size"),
            .recompute = try question.of(models.Recompute, "a recompute policy"),
            .residual = try question.of(table.Residual, "a residual mode"),
            .tied = try question.number("tied weights") == 1,
            .device = try question.of(models.Device, "a device"),
            .order = try question.of(models.SumOrder, "an order"),
        };
    }

    fn facts(question: *Question) Error!checks.Facts {
        return .{
            .batch = try question.reader.next(u64, "rows"),
            .mlstm_heads = try question.number("heads"),
            .slstm_heads = try question.number("heads"),
            .block_size = try question.number("a block size"),
        };
    }

    fn model(question: *Question) Error!models.Model {
        const given = try question.settings();
        const kinds = try question.arena.alloc(table.Kind, try question.length("blocks"));
        for (kinds) |*kind| kind.* = try question.of(table.Kind, "a kind of block");
        const stages = try question.series(u32, "blocks of a stage");
        const all = try question.arena.alloc(
            models.Parameter,
            try question.length("parameters"),
        );
        for (all) |*one| one.* = try question.parameter(kinds, given.residual);
        return .{
            .settings = given,
            .kinds = kinds,
            .stages = stages,
            .parameters = all,
        };
    }

    fn parameter(
        question: *Question,
        kinds: []const table.Kind,
        residual: table.Residual,
    ) Error!models.Parameter {
        const line = question.lines.next() orelse "";
        const name = try question.arena.dupe(u8, line);
        const shape = try question.series(u64, "a shape");
        if (shape.len == 0 or shape.len > layouts.max_dims) return status.invalid(
            "plan: {s} has {d} dims, expected 1 to {d}",
            .{ name, shape.len, layouts.max_dims },
        );
        const segments = try question.series(u64, "segments");
        const place = table.inBlock(name);
        const block: ?u32 = if (place) |found| found.block else null;
        if (block != null and block.? >= kinds.len)
            return status.invalid("plan: {s} of a model with {d} blocks", .{ name, kinds.len });
        const kind = if (block) |i| kinds[i] else .v1;
        const found = try table.ruleOf(name, kind, shape.len, residual);
        return .{
            .name = name,
            .shape = shape,
            .segments = segments,
            .state = found.state,
            .block = block,
            .room = table.roomOf(name),
        };
    }
};

/// What a call is about, in memory that lasts as long as it.
const Subject = struct {
    arena: std.heap.ArenaAllocator,
    mesh: axes.Mesh,
    model: models.Model,
    facts: checks.Facts,

    fn read(subject: *Subject, context: *Context, ranks: i32) Error!void {
        subject.arena = .init(context.gpa);
        errdefer subject.arena.deinit();
        subject.mesh = try lists.meshFrom(@max(ranks, 0));
        var question: Question = .{
            .arena = subject.arena.allocator(),
            .lines = std.mem.splitScalar(u8, names.items, '\n'),
        };
        subject.facts = try question.facts();
        subject.model = try question.model();
    }

    fn plan(subject: *Subject) Error!plans.Plan {
        return .init(subject.arena.allocator(), &subject.model, &subject.mesh);
    }

    fn deinit(subject: *Subject) void {
        subject.arena.deinit();
    }
};

/// Text: everything that keeps the model off the mesh, `setting<tab>sentence` a line.
pub fn issues(context: *Context, ranks: i32) Error!void {
    var subject: Subject = undefined;
    try subject.read(context, ranks);
    defer subject.deinit();
    var text: std.Io.Writer.Allocating = .init(subject.arena.allocator());
    checks.write(&text.writer, &subject.model, &subject.mesh, subject.facts) catch
        return error.OutOfMemory;
    return answerText(context, text.written());
}

fn answerText(context: *Context, text: []const u8) Error!void {
    answer.clearRetainingCapacity();
    try answer.appendSlice(context.gpa, text);
    scratch.block.numbers[0] = @floatFromInt(text.len);
}

/// Fails unless the operations of all ranks end and every gradient becomes complete.
pub fn check(context: *Context, ranks: i32) Error!void {
    var subject: Subject = undefined;
    try subject.read(context, ranks);
    defer subject.deinit();
    const plan = try subject.plan();
    return plan.check();
}

/// List, for every stage and parameter on it: stage, parameter, state on tp, vector (-1: none),
/// elements on the first rank of tp, and how many of those a rank of fsdp owns on average.
pub fn parameters(context: *Context, ranks: i32) Error!void {
    var subject: Subject = undefined;
    try subject.read(context, ranks);
    defer subject.deinit();
    const plan = try subject.plan();
    lists.startAnswer();
    const tp = subject.mesh.size(.tp);
    for (plan.stages) |*stage| for (subject.model.parameters, 0..) |*parameter, i| {
        if (!subject.model.isOnStage(parameter, stage.stage)) continue;
        const place = stage.parts.places[i];
        const local = parameter.sizeOf(0, tp);
        const shards = if (place == null) 1 else subject.mesh.size(.fsdp);
        try lists.push(context, stage.stage);
        try lists.push(context, i);
        try lists.pushNumber(context, codeOf(parameter.state));
        try lists.pushNumber(context, if (place) |found| @floatFromInt(found.vector) else -1);
        try lists.push(context, local);
        try lists.push(context, std.math.divCeil(u64, local, shards) catch unreachable);
    };
    lists.finish();
}

/// List, for every stage: bytes by cause.
pub fn bytes(context: *Context, ranks: i32) Error!void {
    var subject: Subject = undefined;
    try subject.read(context, ranks);
    defer subject.deinit();
    const plan = try subject.plan();
    lists.startAnswer();
    for (0..plan.stages.len) |stage| {
        for (memory.ofStage(&plan, @intCast(stage)).values) |value| try lists.push(context, value);
    }
    lists.finish();
}

/// List, for every stage: rows of stage, cause, kind, axes, calls, bytes on the wire per rank.
pub fn calls(context: *Context, ranks: i32) Error!void {
    var subject: Subject = undefined;
    try subject.read(context, ranks);
    defer subject.deinit();
    const plan = try subject.plan();
    lists.startAnswer();
    for (plan.stages) |*stage| {
        var at: axes.Coordinates = @splat(0);
        at[@backingInt(axes.Axis.pp)] = stage.stage;
        const steps = try plan.stepsOf(subject.mesh.rankOf(at));
        for (try traffic.sum(subject.arena.allocator(), &subject.mesh, steps)) |row| {
            try lists.push(context, stage.stage);
            try lists.push(context, @backingInt(row.cause));
            try lists.push(context, @backingInt(row.kind));
            try lists.push(context, row.over.bits.mask);
            try lists.push(context, row.calls);
            try lists.push(context, row.wire_bytes);
        }
    }
    lists.finish();
}

/// Text: the operations of a rank in program order, one a line.
pub fn operations(context: *Context, ranks: i32, rank: i32) Error!void {
    var subject: Subject = undefined;
    try subject.read(context, ranks);
    defer subject.deinit();
    const plan = try subject.plan();
    const number = try lists.checkRank(&subject.mesh, rank);
    const steps = try plan.stepsOf(number);
    var text: std.Io.Writer.Allocating = .init(subject.arena.allocator());
    for ([_][]const Operation{ steps.passes, steps.closing }) |list| {
        for (list) |*one| print(&text.writer, &plan, number, one) catch return error.OutOfMemory;
    }
    return answerText(context, text.written());
}

fn print(
    writer: *std.Io.Writer,
    plan: *const plans.Plan,
    rank: u32,
    operation: *const Operation,
) std.Io.Writer.Error!void {
    try plan.print(writer, rank, operation);
    try writer.writeByte('\n');
}
