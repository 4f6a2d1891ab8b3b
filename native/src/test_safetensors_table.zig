//! The 52 rows of the differential table (reliability.md §9.2), by their numbers.

const std = @import("std");
const safetensors = @import("formats/safetensors.zig");
const shared = @import("test_safetensors.zig");
const Kind = safetensors.Kind;
const gpa = std.testing.allocator;

/// `file` instead of `header` when the length in front is part of the case.
const Row = struct {
    number: u32,
    header: []const u8 = "",
    data: []const u8 = "",
    file: ?[]const u8 = null,
    kind: ?Kind = null,
};

fn entry(
    comptime name: []const u8,
    comptime dtype: []const u8,
    comptime shape: []const u8,
    comptime offsets: []const u8,
) []const u8 {
    return "\"" ++ name ++ "\":{\"dtype\":\"" ++ dtype ++ "\",\"shape\":[" ++ shape ++
        "],\"data_offsets\":[" ++ offsets ++ "]}";
}

fn one(
    comptime name: []const u8,
    comptime dtype: []const u8,
    comptime shape: []const u8,
    comptime offsets: []const u8,
) []const u8 {
    return "{" ++ entry(name, dtype, shape, offsets) ++ "}";
}

const zeros: [16]u8 = @splat(0);
const big_n = "\x01\xe1\xf5\x05\x00\x00\x00\x00"; // 100 000 001
const n_60 = "\x3c\x00\x00\x00\x00\x00\x00\x00";

fn two(comptime a: []const u8, comptime b: []const u8) []const u8 {
    return "{" ++ a ++ "," ++ b ++ "}";
}

const rows = [_]Row{
    .{ .number = 1, .file = "", .kind = .TooShort },
    .{ .number = 2, .file = zeros[0..7], .kind = .TooShort },
    .{ .number = 3, .file = "\xff" ++ "\xff\xff\xff\xff\xff\xff\xff", .kind = .HeaderTooLarge },
    .{ .number = 4, .file = big_n ++ "{}", .kind = .HeaderTooLarge },
    .{ .number = 5, .file = zeros[0..8], .kind = .BadJson },
    .{ .number = 6, .file = n_60 ++ "{}", .kind = .HeaderPastEnd },
    .{ .number = 7, .header = "{}" },
    .{ .number = 8, .header = "  {}" },
    .{ .number = 9, .header = "[]", .kind = .BadHeader },
    .{ .number = 10, .header = "null", .kind = .BadHeader },
    .{ .number = 11, .header = "\xff", .kind = .NotUtf8 },
    .{ .number = 12, .header = "{", .kind = .BadJson },
    .{ .number = 13, .header = "\xef\xbb\xbf{}", .kind = .BadJson },
    .{
        .number = 14,
        .header = two(entry("a", "U8", "1", "0,1"), entry("a", "U8", "1", "0,1")),
        .data = zeros[0..1],
        .kind = .DuplicateKey,
    },
    .{
        .number = 15,
        .header = two(entry("a", "U8", "1", "0,1"), entry("a", "U8", "1", "1,2")),
        .data = zeros[0..2],
        .kind = .DuplicateKey,
    },
    .{
        .number = 16,
        .header = "{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\"," ++
            "\"shape\":[1],\"data_offsets\":[0,1]}}",
        .data = zeros[0..1],
        .kind = .DuplicateKey,
    },
    .{
        .number = 17,
        .header = two(entry("a", "U8", "2", "0,2"), entry("b", "U8", "2", "1,3")),
        .data = zeros[0..3],
        .kind = .BadOffsets,
    },
    .{
        .number = 18,
        .header = two(entry("a", "U8", "2", "0,2"), entry("b", "U8", "2", "0,2")),
        .data = zeros[0..2],
        .kind = .BadOffsets,
    },
    .{
        .number = 19,
        .header = two(entry("a", "U8", "1", "0,1"), entry("b", "U8", "1", "2,3")),
        .data = zeros[0..3],
        .kind = .BadOffsets,
    },
    row(20, one("a", "U8", "1", "0,1"), 5, .LengthMismatch),
    row(21, one("a", "U8", "4", "0,4"), 2, .LengthMismatch),
    row(22, one("a", "U8", "1", "1,0"), 1, .BadOffsets),
    row(23, one("a", "U8", "1", "-1,0"), 1, .BadNumber),
    row(24, one("a", "U8", "1", "0"), 1, .BadField),
    row(25, one("a", "U8", "1", "0,1,2"), 1, .BadField),
    row(26, one("a", "U8", "1", "0,1.0"), 1, .BadNumber),
    row(27, one("a", "U8", "1", "0,\"1\""), 1, .BadField),
    row(28, one("a", "U8", "1e0", "0,1"), 1, .BadNumber),
    row(29, one("a", "I32", "2,18446744073709551614", "0,16"), 16, .BadNumber),
    row(30, one("a", "I32", "2,9223372036854775807", "0,16"), 16, .BadNumber),
    row(31, one("a", "U8", "18446744073709551616", "0,1"), 1, .BadNumber),
    row(32, one("a", "U8", "4294967296,4294967296", "0,0"), 0, .Overflow),
    row(33, one("a", "F32", "0,18446744073709551615", "0,0"), 0, .BadNumber),
    row(34, one("a", "F32", "18446744073709551615,2,0", "0,0"), 0, .BadNumber),
    row(35, one("a", "Q7", "1", "0,1"), 1, .UnknownDtype),
    row(36, "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, .BadField),
    row(
        37,
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":1}}",
        1,
        .BadField,
    ),
    row(38, "{\"__metadata__\":{\"a\":1}}", 0, .BadMetadata),
    row(39, "{\"__metadata__\":null}", 0, .BadMetadata),
    row(40, "{\"__metadata__\":{\"a\":{\"b\":\"c\"}}}", 0, .BadMetadata),
    row(41, one("__metadata__", "U8", "1", "0,1"), 1, .BadMetadata),
    row(42, one("a\\u0000b", "U8", "1", "0,1"), 1, .BadName),
    row(43, one("../../etc/passwd", "U8", "1", "0,1"), 1, null),
    row(44, one("__proto__", "U8", "1", "0,1"), 1, .BadName),
    row(45, one("", "U8", "1", "0,1"), 1, .BadName),
    row(46, one("\\ud800", "U8", "1", "0,1"), 1, .BadJson),
    row(48, "{" ++ entry("a", "U8", "1", "0,1") ++ ",}", 1, .BadJson),
    row(50, one("a", "F4", "3", "0,2"), 2, .BadSize),
    .{
        .number = 51,
        .header = one("a", "BOOL", "1", "0,1"),
        .data = "\x02",
        .kind = .BadBool,
    },
    // Beyond the table: sizes that disagree, ranges past every data, no shape at all.
    row(101, one("a", "F32", "2", "0,4"), 4, .BadSize),
    row(102, one("a", "U8", "0", "7,7"), 0, .BadOffsets),
    row(103, one("a", "C64", "9007199254740991,2048", "0,0"), 0, .Overflow),
    row(104, "{\"a\":7}", 0, .BadField),
    row(105, "{}x", 0, .BadJson),
    row(106, "{}  ", 0, null),
    row(107, "{}", 1, .LengthMismatch),
    row(108, one("a", "U8", "1,1,1,1,1,1,1,1", "0,1"), 1, null),
    row(109, one("a", "U8", "1,1,1,1,1,1,1,1,1", "0,1"), 1, .RankTooHigh),
};

fn row(number: u32, comptime header: []const u8, comptime length: usize, kind: ?Kind) Row {
    return .{ .number = number, .header = header, .data = zeros[0..length], .kind = kind };
}

fn expectVerdict(number: u32, file: []const u8, expected: ?Kind) !void {
    errdefer std.debug.print("row {d}\n", .{number});
    var problem: safetensors.Problem = .{};
    try std.testing.expectEqual(expected, try shared.verdict(file, &problem));
}

test "differential table" {
    for (rows) |case| {
        const file = if (case.file) |bytes| try gpa.dupe(u8, bytes) else try shared.build(
            case.header,
            case.data,
        );
        defer gpa.free(file);
        try expectVerdict(case.number, file, case.kind);
    }
}

test "every prefix of a valid file is rejected" {
    const header = two(entry("a", "F32", "2", "0,8"), entry("b", "U8", "1", "8,9"));
    const file = try shared.build(header, zeros[0..9]);
    defer gpa.free(file);
    try expectVerdict(0, file, null);
    for (0..file.len) |length| {
        var problem: safetensors.Problem = .{};
        try std.testing.expect(try shared.verdict(file[0..length], &problem) != null);
    }
}

test "row 47: 200 000 nested arrays" {
    var header: std.ArrayList(u8) = .empty;
    defer header.deinit(gpa);
    try header.appendSlice(gpa, "{\"a\":");
    try header.appendNTimes(gpa, '[', 200_000);
    try header.appendNTimes(gpa, ']', 200_000);
    try header.append(gpa, '}');
    const file = try shared.build(header.items, "");
    defer gpa.free(file);
    try expectVerdict(47, file, .TooDeep);
}

test "row 49: a shape of 10 000 ones" {
    var header: std.ArrayList(u8) = .empty;
    defer header.deinit(gpa);
    try header.appendSlice(gpa, "{\"a\":{\"dtype\":\"U8\",\"shape\":[1");
    for (1..10_000) |_| try header.appendSlice(gpa, ",1");
    try header.appendSlice(gpa, "],\"data_offsets\":[0,1]}}");
    const file = try shared.build(header.items, zeros[0..1]);
    defer gpa.free(file);
    try expectVerdict(49, file, .RankTooHigh);
}

test "row 52: 100 000 empty tensors" {
    const file = try many(100_000);
    defer gpa.free(file);
    try expectVerdict(52, file, null);
}

test "one tensor more than allowed" {
    const file = try many(safetensors.max_tensors + 1);
    defer gpa.free(file);
    try expectVerdict(110, file, .TooManyTensors);
}

fn many(count: usize) ![]u8 {
    var header: std.ArrayList(u8) = .empty;
    defer header.deinit(gpa);
    try header.append(gpa, '{');
    for (0..count) |i| {
        if (i > 0) try header.append(gpa, ',');
        try header.print(gpa, "\"t{d}\":", .{i});
        try header.appendSlice(gpa, "{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}");
    }
    try header.append(gpa, '}');
    return shared.build(header.items, "");
}
