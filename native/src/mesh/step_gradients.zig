//! The sums that make the gradients of a step complete, and their norm (mesh.md §6, §7, §10.6,
//! §16).

const std = @import("std");
const axes = @import("axes.zig");
const models = @import("model.zig");
const operations = @import("operations.zig");
const status = @import("../abi/status.zig");
const step = @import("step.zig");
const units = @import("unit.zig");
const Axis = axes.Axis;
const Builder = step.Builder;
const Error = status.Error;
const Site = operations.Site;

/// Elements of one fused all_reduce, and tensors in one, at most: lib/mesh/reduce.ts.
const bucket_elements = 1 << 22;
const bucket_tensors = 256;

/// Sums a vector over fsdp, of which this rank gets its run; that over dp follows later.
pub fn reduceVector(builder: *Builder, number: u32) Error!void {
    const vector = &builder.plan.parts.vectors[number];
    try sumOverData(builder, .{
        .kind = .reduce_scatter,
        .over = step.only(.fsdp),
        .dtype = builder.model.settings.scatter,
        .count = vector.layout.chunk,
        .site = .{ .what = .unit_gradients, .number = number },
        .cause = .gradients,
        .sums = vector.parameters,
    });
}

/// The same of the parameters of a unit that are in no vector, bucket by bucket.
pub fn reduceWhole(builder: *Builder, number: u32) Error!void {
    const whole = &builder.plan.parts.wholes[number];
    var items: std.ArrayList(Open) = .empty;
    for (whole.parameters) |parameter| {
        const count = localSize(builder, parameter);
        try items.append(builder.arena, .{ .parameter = parameter, .count = count });
    }
    var buckets: Buckets = .{ .items = items.items };
    while (buckets.next()) |bucket| try sumOverData(builder, .{
        .kind = .all_reduce,
        .over = step.only(.fsdp),
        .dtype = builder.model.settings.parameter,
        .count = bucket.count,
        .site = .{ .what = .whole_gradients, .number = whole.unit },
        .cause = .gradients,
        .sums = try bucket.parameters(builder.arena),
    });
}

/// `first` is the sum over fsdp; the one over dp waits for the next unit, unless it is alone.
fn sumOverData(builder: *Builder, first: operations.Operation) Error!void {
    var second = first;
    second.kind = .all_reduce;
    second.over = step.only(.dp);
    if (builder.size(.fsdp) == 1) return builder.add(second);
    try builder.add(first);
    try builder.open.append(builder.arena, second);
}

/// A gradient on its way: elements of a parameter that this rank has.
const Open = struct { parameter: u32, count: u64 };

/// As few sums as possible: neighbours go together.
const Buckets = struct {
    items: []const Open,

    const Bucket = struct {
        items: []const Open,
        count: u64,

        fn parameters(bucket: Bucket, arena: std.mem.Allocator) error{OutOfMemory}![]const u32 {
            const list = try arena.alloc(u32, bucket.items.len);
            for (bucket.items, list) |item, *parameter| parameter.* = item.parameter;
            return list;
        }
    };

    fn next(buckets: *Buckets) ?Bucket {
        const all = buckets.items;
        if (all.len == 0) return null;
        var count = all[0].count;
        var end: usize = 1;
        while (end < all.len and end < bucket_tensors and
            count + all[end].count <= bucket_elements) : (end += 1) count += all[end].count;
        buckets.items = all[end..];
        return .{ .items = all[0..end], .count = count };
    }
};

/// What layers left over tp; tied weights.
pub fn reduceRest(builder: *Builder) Error!void {
    const plan = builder.plan;
    var summands: std.ArrayList(Open) = .empty;
    for (plan.pending, 0..) |found, i| {
        const parameter: u32 = @intCast(i);
        const pending = found orelse continue;
        if (!pending.contains(.tp)) continue;
        const count = ownedSize(builder, parameter);
        if (count == 0) continue;
        try summands.append(builder.arena, .{ .parameter = parameter, .count = count });
    }
    try sumOver(builder, summands.items, .tp);
    try reduceTied(builder);
}

fn localSize(builder: *const Builder, parameter: u32) u64 {
    const tp = builder.at[@backingInt(Axis.tp)];
    return builder.model.parameters[parameter].sizeOf(tp, builder.size(.tp));
}

fn ownedSize(builder: *const Builder, parameter: u32) u64 {
    return step.ownedSize(builder.model, builder.mesh, builder.plan, builder.at, parameter);
}

fn sumOver(builder: *Builder, items: []const Open, axis: Axis) Error!void {
    var buckets: Buckets = .{ .items = items };
    while (buckets.next()) |bucket| try builder.add(.{
        .kind = .all_reduce,
        .over = step.only(axis),
        .dtype = builder.model.settings.parameter,
        .count = bucket.count,
        .site = .{ .what = .axis_gradients, .number = @backingInt(axis) },
        .cause = .gradients,
        .sums = try bucket.parameters(builder.arena),
    });
}

/// The first and the last stage of a pipeline add up what they have of a tied table.
fn reduceTied(builder: *Builder) Error!void {
    const stages = builder.size(.pp);
    if (stages == 1 or !builder.model.settings.tied) return;
    if (!builder.isFirst() and !builder.isLast()) return;
    const parameter = builder.model.named(models.Model.tied_name) orelse return;
    const count = ownedSize(builder, parameter);
    if (count == 0) return;
    const peer = if (builder.isFirst()) stages - 1 else 0;
    const site: Site = .{ .what = .tied_gradient };
    try builder.add(.{
        .kind = .exchange,
        .over = step.only(.pp),
        .dtype = builder.model.settings.parameter,
        .count = count,
        .site = site,
        .received = site,
        .cause = .gradients,
        .to = peer,
        .from = peer,
        .sums = try builder.arena.dupe(u32, &.{parameter}),
    });
}

/// Σg² and the number of elements that are not finite, of every tensor: lib/optim/norm.ts.
pub fn norm(builder: *Builder) Error!void {
    const rows = 2 * builder.model.parameters.len;
    const is_exact = builder.model.settings.device == .cpu;
    const blocks = if (is_exact) 2 * normPlaces(builder) else rows;
    try builder.scalars(.fsdp, blocks, if (is_exact) .norm_blocks else .norm);
    var stages: axes.AxisSet = .empty;
    for ([_]axes.Axis{ .pp, .tp }) |axis| {
        if (builder.mesh.size(axis) > 1) stages.insert(axis);
    }
    try builder.add(.{
        .kind = .all_reduce,
        .over = stages,
        .dtype = .f64,
        .count = if (is_exact) rows + 2 else rows,
        .site = .{ .what = .norm },
        .cause = .scalars,
    });
}

/// Places for the sums of all blocks of this stage; a tensor that is not cut needs one.
fn normPlaces(builder: *const Builder) u64 {
    var total: u64 = builder.plan.parts.whole.len;
    for (builder.plan.parts.vectors) |*vector| {
        for (vector.parameters, vector.starts) |parameter, start| {
            const size = localSize(builder, parameter);
            const chunk = vector.layout.chunk;
            const straddles = size > 0 and start / chunk != (start + size - 1) / chunk;
            const blocks = std.math.divCeil(u64, size, units.alignment) catch unreachable;
            total += if (straddles) blocks else 1;
        }
    }
    return total;
}
