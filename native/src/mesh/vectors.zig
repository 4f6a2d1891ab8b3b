//! The flat vectors of a stage (mesh.md §7.1): which parameters fsdp cuts, and what of them a rank
//! owns. The same rules as in lib/mesh/shards.ts and the units of lib/nn/model.ts.

const std = @import("std");
const axes = @import("axes.zig");
const models = @import("model.zig");
const table = @import("table.zig");
const units = @import("unit.zig");
const Model = models.Model;

/// Parameters that are used together.
pub const Unit = struct {
    block: ?u32,
    room: table.Room,
    /// Numbers in the model's list.
    parameters: []const u32,
};

/// One flat vector.
pub const Vector = struct {
    unit: u32,
    parameters: []const u32,
    starts: []const u64,
    layout: units.Unit,
    /// Freed after the forward pass of its unit.
    reshards: bool,
};

/// Parameters of a unit that are in no vector; tied ones are the first unit's that reads them.
pub const Whole = struct {
    unit: u32,
    parameters: []const u32,
};

pub const Stage = struct {
    units: []const Unit,
    vectors: []const Vector,
    /// Vectors that each unit reads.
    readers: []const []const u32,
    /// Parameters of the stage that are in no vector.
    whole: []const u32,
    /// The same by unit, and which of these each unit reads.
    wholes: []const Whole,
    whole_readers: []const []const u32,
    /// By parameter of the model: its place in a vector, if it has one.
    places: []const ?Place,
};

pub const Place = struct { vector: u32, start: u64 };

/// Everything lives in `arena`.
pub fn ofStage(
    arena: std.mem.Allocator,
    model: *const Model,
    mesh: *const axes.Mesh,
    stage: u32,
) error{OutOfMemory}!Stage {
    const all = try unitsOf(arena, model, stage);
    const shards = mesh.size(.fsdp);
    var vectors: std.ArrayList(Vector) = .empty;
    const is_cut = try arena.alloc(bool, model.parameters.len);
    @memset(is_cut, false);
    if (shards > 1) for (all, 0..) |unit, number| {
        // A tied table has a vector of its own: both of its stages cut it in the same places.
        for ([_]bool{ true, false }) |tied| {
            var members: std.ArrayList(u32) = .empty;
            for (unit.parameters) |i| {
                const parameter = &model.parameters[i];
                if (is_cut[i] or model.isTied(parameter) != tied) continue;
                if (parameter.size() <= model.settings.min_size) continue;
                is_cut[i] = true;
                try members.append(arena, i);
            }
            if (members.items.len == 0) continue;
            const made = try layOut(arena, model, mesh, @intCast(number), members.items);
            try vectors.append(arena, made);
        }
    };
    // The last unit's backward pass follows its forward pass: it keeps its weights.
    if (vectors.items.len > 0) vectors.items[vectors.items.len - 1].reshards = false;
    var whole: std.ArrayList(u32) = .empty;
    for (model.parameters, 0..) |*parameter, i| {
        if (!is_cut[i] and model.isOnStage(parameter, stage)) try whole.append(arena, @intCast(i));
    }
    const wholes = try wholesOf(arena, all, is_cut);
    const places = try arena.alloc(?Place, model.parameters.len);
    @memset(places, null);
    for (vectors.items, 0..) |vector, number| {
        for (vector.parameters, vector.starts) |i, start|
            places[i] = .{ .vector = @intCast(number), .start = start };
    }
    return .{
        .places = places,
        .units = all,
        .vectors = vectors.items,
        .readers = try readersOf(arena, all, vectors.items),
        .whole = whole.items,
        .wholes = wholes,
        .whole_readers = try readersOf(arena, all, wholes),
    };
}

fn layOut(
    arena: std.mem.Allocator,
    model: *const Model,
    mesh: *const axes.Mesh,
    unit: u32,
    members: []const u32,
) error{OutOfMemory}!Vector {
    const sizes = try arena.alloc(u64, members.len);
    const starts = try arena.alloc(u64, members.len);
    for (members, sizes) |i, *size| size.* = model.parameters[i].reserved(mesh.size(.tp));
    const layout = units.layOut(sizes, mesh.size(.fsdp), starts);
    return .{
        .unit = unit,
        .parameters = members,
        .starts = starts,
        .layout = layout,
        .reshards = model.settings.reshard,
    };
}

/// The embedding, the blocks or their halves, the head: in the order of their use.
fn unitsOf(
    arena: std.mem.Allocator,
    model: *const Model,
    stage: u32,
) error{OutOfMemory}![]const Unit {
    var list: std.ArrayList(Unit) = .empty;
    const blocks = model.blocksOf(stage);
    if (try membersOf(arena, model, stage, null, .embedding)) |unit| try list.append(arena, unit);
    for (blocks.from..blocks.to) |number| {
        const block: u32 = @intCast(number);
        if (model.settings.recompute != .half) {
            try list.append(arena, (try membersOf(arena, model, stage, block, null)).?);
            continue;
        }
        try list.append(arena, (try membersOf(arena, model, stage, block, .mixer)).?);
        if (try membersOf(arena, model, stage, block, .ffn)) |unit| try list.append(arena, unit);
    }
    if (model.isLast(stage)) {
        var unit = try membersOf(arena, model, stage, null, .head) orelse
            Unit{ .block = null, .room = .head, .parameters = &.{} };
        if (model.settings.tied) if (model.named(Model.tied_name)) |tied| {
            unit.parameters = try std.mem.concat(arena, u32, &.{ unit.parameters, &.{tied} });
        };
        try list.append(arena, unit);
    }
    return list.items;
}

/// The parameters of a block, or of one of its halves; of the embedding, or of the head.
fn membersOf(
    arena: std.mem.Allocator,
    model: *const Model,
    stage: u32,
    block: ?u32,
    room: ?table.Room,
) error{OutOfMemory}!?Unit {
    var members: std.ArrayList(u32) = .empty;
    for (model.parameters, 0..) |*parameter, i| {
        if (parameter.block != block or !model.isOnStage(parameter, stage)) continue;
        if (room) |one| if (parameter.room != one) continue;
        try members.append(arena, @intCast(i));
    }
    if (members.items.len == 0) return null;
    return .{ .block = block, .room = room orelse .mixer, .parameters = members.items };
}

fn wholesOf(
    arena: std.mem.Allocator,
    all: []const Unit,
    is_cut: []const bool,
) error{OutOfMemory}![]const Whole {
    var list: std.ArrayList(Whole) = .empty;
    const is_seen = try arena.dupe(bool, is_cut);
    for (all, 0..) |unit, number| {
        var members: std.ArrayList(u32) = .empty;
        for (unit.parameters) |i| {
            if (is_seen[i]) continue;
            is_seen[i] = true;
            try members.append(arena, i);
        }
        if (members.items.len == 0) continue;
        try list.append(arena, .{ .unit = @intCast(number), .parameters = members.items });
    }
    return list.items;
}

/// Of vectors, or of parameters that lie whole: those that each unit reads.
fn readersOf(
    arena: std.mem.Allocator,
    all: []const Unit,
    parts: anytype,
) error{OutOfMemory}![]const []const u32 {
    const readers = try arena.alloc([]const u32, all.len);
    for (all, readers) |unit, *list| {
        var found: std.ArrayList(u32) = .empty;
        for (parts, 0..) |part, number| {
            for (part.parameters) |i| {
                if (std.mem.indexOfScalar(u32, unit.parameters, i) == null) continue;
                try found.append(arena, @intCast(number));
                break;
            }
        }
        list.* = found.items;
    }
    return readers;
}

/// The name of a unit, as in lib/nn: `embedding`, `blocks.3`, `blocks.3.mixer`, `head`.
pub const UnitName = struct {
    unit: Unit,
    is_half: bool,

    pub fn format(name: UnitName, writer: *std.Io.Writer) std.Io.Writer.Error!void {
        const block = name.unit.block orelse return writer.print("{t}", .{name.unit.room});
        try writer.print("blocks.{d}", .{block});
        if (name.is_half) try writer.print(".{t}", .{name.unit.room});
    }
};
