//! Plans of whole steps: all meshes of the parity matrix with every option, large worlds, and lists
//! that are wrong.

const std = @import("std");
const axes = @import("axes.zig");
const memory = @import("memory.zig");
const models = @import("model.zig");
const operations = @import("operations.zig");
const plans = @import("plan.zig");
const status = @import("../abi/status.zig");
const test_models = @import("plan_model_test.zig");
const Mesh = axes.Mesh;
const Options = test_models.Options;
const testing = std.testing;

fn meshOf(pp: u32, dp: u32, fsdp: u32, tp: u32) !Mesh {
    const sizes: [axes.count]i32 = .{ @intCast(pp), @intCast(dp), @intCast(fsdp), 1, @intCast(tp) };
    return .init(sizes, axes.default_order, pp * dp * fsdp * tp);
}

/// Blocks per stage of four blocks.
fn stagesFor(pp: u32) []const u32 {
    return switch (pp) {
        1 => &.{4},
        2 => &.{ 2, 2 },
        else => &.{ 1, 1, 1, 1 },
    };
}

fn expectSound(mesh: *const Mesh, options: Options) !void {
    var arena: std.heap.ArenaAllocator = .init(testing.allocator);
    defer arena.deinit();
    errdefer std.debug.print("{any}: {s}\n{any}\n", .{
        mesh.sizes,
        std.mem.span(status.lastError()),
        options,
    });
    const model = try test_models.make(arena.allocator(), options);
    const plan: plans.Plan = try .init(arena.allocator(), &model, mesh);
    try plan.check();
    for (0..plan.stages.len) |stage| {
        var bytes = memory.ofStage(&plan, @intCast(stage));
        try testing.expect(bytes.of(.states).* > 0);
        try testing.expect(bytes.total() >= bytes.of(.states).* + bytes.of(.activations).*);
    }
}

test "every mesh of up to 16 ranks, with every option" {
    for ([_]u32{ 1, 2, 4 }) |pp| for ([_]u32{ 1, 2, 3 }) |dp| for ([_]u32{ 1, 2, 4 }) |fsdp| {
        for ([_]u32{ 1, 2, 8 }) |tp| {
            if (pp * dp * fsdp * tp > 16) continue;
            const mesh = try meshOf(pp, dp, fsdp, tp);
            for ([_]models.Recompute{ .none, .block, .half }) |recompute| {
                for (0..16) |bits| try expectSound(&mesh, .{
                    .stages = stagesFor(pp),
                    .recompute = recompute,
                    .residual = if (bits & 1 == 0) .sequence else .replicated,
                    .reshard = bits & 2 == 0,
                    .min_size = if (bits & 4 == 0) 0 else 4096,
                    .tied = bits & 8 != 0,
                    .microbatches = if (bits & 2 == 0) 4 else 1,
                });
            }
        }
    };
}

const large: Options = .{
    .kinds = &@as([32]@import("table.zig").Kind, @splat(.v1)),
    .dim = 4096,
    .vocab = 50304,
    .length = 8192,
    .rows = 1,
    .min_size = 1 << 18,
    .bias = false,
    .device = .cuda,
};

test "256 to 4096 ranks" {
    var options = large;
    options.stages = &.{32};
    options.microbatches = 1;
    try expectSound(&try meshOf(1, 32, 8, 1), options);
    options.microbatches = 8;
    options.stages = &.{ 9, 8, 8, 7 };
    try expectSound(&try meshOf(4, 16, 8, 8), options);
}
