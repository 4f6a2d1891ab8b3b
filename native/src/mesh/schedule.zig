//! What a pipeline stage does in which order (mesh.md §10.2, §10.3): one forward, one backward, and
//! the interleaved order in which a stage has several chunks of the model.

const std = @import("std");
const status = @import("../abi/status.zig");
const Error = status.Error;

pub const Kind = enum(u8) { forward, backward };
pub const Op = struct { kind: Kind, microbatch: u32, chunk: u32 = 0 };
pub const Ops = std.ArrayList(Op);

pub const Shape = struct {
    stages: u32,
    microbatches: u32,
    /// Chunks of the model per stage; virtual stage of chunk c on stage s is c·stages + s.
    chunks: u32 = 1,

    pub fn check(shape: Shape) Error!void {
        const limit = 1 << 20;
        if (shape.stages < 1 or shape.microbatches < 1 or shape.chunks < 1) return status.invalid(
            "schedule: {d} stages, {d} microbatches, {d} chunks; each is 1 or more",
            .{ shape.stages, shape.microbatches, shape.chunks },
        );
        if (@max(shape.stages, shape.microbatches, shape.chunks) > limit) return status.invalid(
            "schedule: {d} stages, {d} microbatches, {d} chunks; at most {d} of each are possible",
            .{ shape.stages, shape.microbatches, shape.chunks, limit },
        );
        if (shape.chunks > 1 and shape.microbatches % shape.stages != 0) return status.invalid(
            "schedule: {d} microbatches are not divisible by pp {d}, as {d} chunks per stage need",
            .{ shape.microbatches, shape.stages, shape.chunks },
        );
        if (shape.chunks > 1 and shape.stages == 1) return status.invalid(
            "schedule: {d} chunks on one stage; interleaving needs pp 2 or more",
            .{shape.chunks},
        );
    }

    /// Forwards before the first backward may follow.
    fn warmUp(shape: Shape, stage: u32) u32 {
        const after = shape.stages - 1 - stage;
        if (shape.chunks == 1) return @min(after, shape.microbatches);
        const depth = 2 * after + (shape.chunks - 1) * shape.stages;
        return @min(depth, shape.chunks * shape.microbatches);
    }

    /// Most microbatch chunks whose forward has run and whose backward has not.
    pub fn peak(shape: Shape, stage: u32) u32 {
        const all = shape.chunks * shape.microbatches;
        return @min(all, shape.warmUp(stage) + 1);
    }

    /// Forward or backward number `i` of a stage.
    fn turn(shape: Shape, kind: Kind, i: u32) Op {
        if (shape.chunks == 1) return .{ .kind = kind, .microbatch = i };
        const round = shape.stages * shape.chunks;
        const chunk = i % round / shape.stages;
        return .{
            .kind = kind,
            .microbatch = i / round * shape.stages + i % shape.stages,
            .chunk = if (kind == .forward) chunk else shape.chunks - 1 - chunk,
        };
    }
};

/// Appends the op list of a stage.
pub fn list(gpa: std.mem.Allocator, ops: *Ops, shape: Shape, stage: u32) Error!void {
    try shape.check();
    if (stage >= shape.stages) return status.invalid(
        "schedule: stage {d} of {d}; stages count from 0",
        .{ stage, shape.stages },
    );
    const all = shape.chunks * shape.microbatches;
    const warm_up = shape.warmUp(stage);
    try ops.ensureUnusedCapacity(gpa, 2 * all);
    for (0..warm_up) |i| ops.appendAssumeCapacity(shape.turn(.forward, @intCast(i)));
    for (0..all) |i| {
        const forward: u32 = @intCast(warm_up + i);
        if (forward < all) ops.appendAssumeCapacity(shape.turn(.forward, forward));
        ops.appendAssumeCapacity(shape.turn(.backward, @intCast(i)));
    }
}
