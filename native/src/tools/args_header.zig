//! Prints `kernels/args.h`: every argument struct, enum and constant of `args/*.zig` and every
//! launch plan of `cuda/*.zig`, as C++. Kernels and host code cannot disagree about a field.

const std = @import("std");
const native = @import("native");

pub fn main(init: std.process.Init) !void {
    var buffer: [4096]u8 = undefined;
    var file = std.Io.File.stdout().writer(init.io, &buffer);
    const out = &file.interface;
    try out.writeAll(
        \\// Generated from native/src/args and native/src/cuda by `zig build args`. Do not edit.
        \\#pragma once
        \\#include <stdint.h>
        \\
        \\
    );
    @setEvalBranchQuota(1_000_000);
    try printEnum(out, "DType", native.DType);
    inline for (native.args.subjects) |subject| try printSubject(out, subject);
    inline for (native.cuda_plans) |plans| inline for (plans) |row| {
        try printStruct(out, row[0], row[1]);
    };
    try out.flush();
}

fn printSubject(out: *std.Io.Writer, comptime subject: type) !void {
    inline for (@typeInfo(subject).@"struct".decl_names) |name| {
        const value = @field(subject, name);
        if (@TypeOf(value) == comptime_int) try out.print(
            "constexpr int {s} = {d};\n\n",
            .{ name, value },
        );
        if (@TypeOf(value) == type) switch (@typeInfo(value)) {
            .@"enum" => if (value != native.DType) try printEnum(out, name, value),
            .@"struct" => |info| if (info.layout == .@"extern") {
                const original = comptime shortName(value);
                if (comptime std.mem.eql(u8, original, name)) {
                    try printStruct(out, name, value);
                } else try out.print("using {s} = {s};\n\n", .{ name, original });
            } else if (info.field_names.len == 0) try printConstants(out, name, value),
            else => {},
        };
    }
}

fn printEnum(out: *std.Io.Writer, name: []const u8, comptime E: type) !void {
    const info = @typeInfo(E).@"enum";
    const is_storable = info.tag_type == u32 or info.tag_type == i32;
    if (!is_storable) return;
    try out.print("enum {s} : {s} {{\n", .{ name, comptime scalar(info.tag_type) });
    inline for (info.field_names, info.field_values) |field, value| {
        try out.print("  {s}_{s} = {d},\n", .{ name, field, value });
    }
    try out.writeAll("};\n\n");
}

/// A namespace of numbers, such as `mlstm.form`.
fn printConstants(out: *std.Io.Writer, name: []const u8, comptime T: type) !void {
    inline for (@typeInfo(T).@"struct".decl_names) |field| {
        if (@TypeOf(@field(T, field)) == comptime_int) try out.print(
            "constexpr int {s}_{s} = {d};\n",
            .{ name, field, @field(T, field) },
        );
    }
    try out.writeAll("\n");
}

fn printStruct(out: *std.Io.Writer, name: []const u8, comptime T: type) !void {
    const info = @typeInfo(T).@"struct";
    try out.print("struct {s} {{\n", .{name});
    inline for (info.field_names, info.field_types) |field, F| {
        const is_keyword = comptime std.mem.eql(u8, field, "do");
        const suffix = if (is_keyword) "_" else "";
        switch (@typeInfo(F)) {
            .array => |a| try out.print(
                "  {s} {s}{s}[{d}];\n",
                .{ comptime ctype(a.child), field, suffix, a.len },
            ),
            else => try out.print("  {s} {s}{s};\n", .{ comptime ctype(F), field, suffix }),
        }
    }
    try out.print("}};\nstatic_assert(sizeof({s}) == {d}, \"{s}\");\n\n", .{
        name, @sizeOf(T), name,
    });
}

fn ctype(comptime T: type) []const u8 {
    return switch (@typeInfo(T)) {
        .optional => |o| ctype(o.child),
        .pointer => |p| pointee(p.child) ++ (if (p.attrs.@"const") " const*" else "*"),
        .@"enum" => shortName(T),
        .@"struct" => shortName(T),
        else => scalar(T),
    };
}

fn pointee(comptime T: type) []const u8 {
    return if (T == anyopaque) "void" else ctype(T);
}

fn scalar(comptime T: type) []const u8 {
    return switch (T) {
        u64 => "uint64_t",
        i64 => "int64_t",
        u32 => "uint32_t",
        i32 => "int32_t",
        f64 => "double",
        f32 => "float",
        u8 => "uint8_t",
        else => @compileError("no C++ type for " ++ @typeName(T)),
    };
}

fn shortName(comptime T: type) []const u8 {
    const name = @typeName(T);
    const dot = std.mem.lastIndexOfScalar(u8, name, '.') orelse return name;
    return name[dot + 1 ..];
}
