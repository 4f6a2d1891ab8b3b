//! The table of exported functions: it feeds the linker, the TypeScript bindings and the docs.
//!
//! To export an operation: write it in `ops/<noun>.zig` as `pub fn (…: *Context, …) Error!void`,
//! add a row to the noun's table in `abi/exports_<subject>.zig`, run `bun run build:native
//! --bindings`.

const std = @import("std");
const build_options = @import("build_options");
const scratch = @import("scratch.zig");
const status = @import("status.zig");
const system = @import("system.zig");

pub const Export = struct { name: [:0]const u8, args: []const [:0]const u8, doc: []const u8 };

fn row(
    comptime name: [:0]const u8,
    comptime f: anytype,
    comptime args: []const [:0]const u8,
    comptime doc: []const u8,
) struct { Export, @TypeOf(f) } {
    return .{ .{ .name = name, .args = args, .doc = doc }, f };
}

const base = .{
    row("xl_last_error", status.lastError, &.{}, "Text of this thread's last failure."),
    row("xl_scratch", scratch.address, &.{}, "Address of the 8 KiB scratch block."),
    row("xl_abi_hash", abiHash, &.{}, "Hash of names and types of this table."),
    row("xl_start", system.start, &.{ "threads", "level" }, "Starts; 0 threads = one per core."),
    row("xl_deallocator", system.deallocator, &.{}, "Drops a handle's cell, for the collector."),
};

pub const table = base ++
    @import("exports_tensor.zig").table ++
    @import("exports_math.zig").table ++
    @import("exports_nn.zig").table ++
    @import("exports_file.zig").table ++
    @import("exports_device.zig").table ++
    @import("exports_comm.zig").table ++
    @import("exports_mesh.zig").table ++
    @import("exports_bench.zig").table;

comptime {
    @setEvalBranchQuota(100_000);
    for (table) |entry| {
        const function = entry[1]; // @export wants the address of a named constant
        const info = @typeInfo(@TypeOf(function)).@"fn";
        if (info.param_types.len != entry[0].args.len)
            @compileError(entry[0].name ++ ": as many argument names as parameters, please");
        if (!build_options.bindings_only) @export(&function, .{ .name = entry[0].name });
    }
}

/// FNV-1a over every name and type: equal on both sides, or the library is stale.
pub const hash: i32 = blk: {
    @setEvalBranchQuota(1_000_000);
    var h: u32 = 2166136261;
    for (table) |entry| {
        const info = @typeInfo(@TypeOf(entry[1])).@"fn";
        h = mix(h, entry[0].name);
        for (info.param_types) |T| h = mix(h, @typeName(T.?));
        h = mix(h, @typeName(info.return_type.?));
    }
    break :blk @intCast(h >> 1);
};

fn mix(start: u32, bytes: []const u8) u32 {
    var h = start;
    for (bytes) |byte| h = (h ^ byte) *% 16777619;
    return h;
}

fn abiHash() callconv(.c) i32 {
    return hash;
}
