//! The table of exported functions: it feeds the linker, the TypeScript bindings and the docs.
//!
//! To export an operation: write it in `ops/<noun>.zig` as `pub fn (…: *Context, …) Error!void`,
//! add a row to the noun's table in `abi/exports_<subject>.zig`, run `bun run build:native --bindings`.

const std = @import("std");
const build_options = @import("build_options");
const scratch = @import("scratch.zig");
const status = @import("status.zig");
const system = @import("system.zig");

pub const Export = struct { name: [:0]const u8, args: []const [:0]const u8, doc: []const u8 };

const base = .{
    .{ Export{ .name = "xl_last_error", .args = &.{}, .doc = "Text of this thread's last failure." }, status.lastError },
    .{ Export{ .name = "xl_scratch", .args = &.{}, .doc = "Address of the 8 KiB scratch block." }, scratch.address },
    .{ Export{ .name = "xl_abi_hash", .args = &.{}, .doc = "Hash of names and types of this table." }, abiHash },
    .{ Export{ .name = "xl_start", .args = &.{ "threads", "level" }, .doc = "Starts the context; threads 0 = one per core, level -1 = best." }, system.start },
    .{ Export{ .name = "xl_deallocator", .args = &.{}, .doc = "Function that drops a handle's cell, for the garbage collector." }, system.deallocator },
};

pub const table = base ++
    @import("exports_tensor.zig").table ++
    @import("exports_math.zig").table ++
    @import("exports_nn.zig").table ++
    @import("exports_file.zig").table;

comptime {
    @setEvalBranchQuota(100_000);
    for (table) |row| {
        const function = row[1]; // @export wants the address of a named constant
        const info = @typeInfo(@TypeOf(function)).@"fn";
        if (info.param_types.len != row[0].args.len)
            @compileError(row[0].name ++ ": as many argument names as parameters, please");
        if (!build_options.bindings_only) @export(&function, .{ .name = row[0].name });
    }
}

/// FNV-1a over every name and type: equal on both sides, or the library is stale.
pub const hash: i32 = blk: {
    @setEvalBranchQuota(1_000_000);
    var h: u32 = 2166136261;
    for (table) |row| {
        const info = @typeInfo(@TypeOf(row[1])).@"fn";
        h = mix(h, row[0].name);
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
