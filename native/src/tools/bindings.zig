//! Prints `lib/native/symbols.ts`: the FFI symbol table, shared enums and the ABI hash, from the
//! Zig
//! export table itself.

const std = @import("std");
const native = @import("native");

pub fn main(init: std.process.Init) !void {
    var buffer: [4096]u8 = undefined;
    var file = std.Io.File.stdout().writer(init.io, &buffer);
    const out = &file.interface;
    try out.writeAll(
        \\// Generated from the Zig export table by `bun run build:native --bindings`. Do not edit.
        \\
        \\
    );
    try out.print("export const abiHash = {d};\n\n", .{native.exports.hash});
    try printEnum(out, "Status", native.Status);
    try printEnum(out, "DTypeCode", native.DType);
    try printEnum(out, "DeviceCode", native.Device);
    inline for (@typeInfo(native.elementwise).@"struct".decl_names) |name| {
        const value = @field(native.elementwise, name);
        if (@TypeOf(value) == type and @typeInfo(value) == .@"enum") try printEnum(
            out,
            name,
            value,
        );
    }
    inline for (@typeInfo(native.optimizer).@"struct".decl_names) |name| {
        const value = @field(native.optimizer, name);
        if (@TypeOf(value) == type and @typeInfo(value) == .@"enum") try printEnum(
            out,
            name,
            value,
        );
    }
    try out.writeAll("export const symbols = {\n");
    @setEvalBranchQuota(100_000);
    inline for (native.exports.table) |row| try printRow(out, row[0], @TypeOf(row[1]));
    try out.writeAll("} as const;\n");
    try out.flush();
}

fn printRow(out: *std.Io.Writer, row: native.exports.Export, comptime F: type) !void {
    const info = @typeInfo(F).@"fn";
    try out.print("  /** {s}(", .{row.name});
    for (row.args, 0..) |name, i| try out.print("{s}{s}", .{ if (i == 0) "" else ", ", name });
    try out.print(") {s} */\n  {s}: {{\n    args: [", .{ row.doc, row.name });
    inline for (info.param_types, 0..) |T, i| {
        try out.print("{s}\"{s}\"", .{ if (i == 0) "" else ", ", comptime ffi(T.?) });
    }
    try out.print("],\n    returns: \"{s}\",\n  }},\n", .{comptime ffi(info.return_type.?)});
}

fn printEnum(out: *std.Io.Writer, name: []const u8, comptime E: type) !void {
    const info = @typeInfo(E).@"enum";
    try out.print("export const {s} = {{\n", .{name});
    inline for (info.field_names, info.field_values) |field, value| {
        try out.print("  {s}: {d},\n", .{ field, value });
    }
    try out.writeAll("} as const;\n\n");
}

/// 64-bit integers travel as `ptr` (1.7 ns, no BigInt); see docs on the border.
fn ffi(comptime T: type) []const u8 {
    return switch (T) {
        i32, c_int => "i32",
        u32 => "u32",
        f32 => "f32",
        f64 => "f64",
        u64, i64 => "ptr",
        [*:0]const u8, ?[*:0]const u8 => "cstring",
        void => "void",
        else => switch (@typeInfo(T)) {
            .pointer, .optional => "ptr",
            .@"enum" => |e| ffi(e.tag_type),
            else => @compileError("not a C ABI type: " ++ @typeName(T)),
        },
    };
}
