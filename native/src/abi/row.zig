//! One row of the export table.

const Export = @import("exports.zig").Export;
const Wrap = @import("wrap.zig").Wrap;

pub fn row(
    comptime name: [:0]const u8,
    comptime f: anytype,
    comptime args: []const [:0]const u8,
    comptime doc: []const u8,
) struct { Export, @TypeOf(Wrap(name, f).call) } {
    return .{ .{ .name = name, .args = args, .doc = doc }, Wrap(name, f).call };
}
