//! The strict safetensors parser against the table of reliability.md §9.2, mutations of valid
//! files, and its limits in time.

const std = @import("std");
const json = @import("formats/json.zig");
const safetensors = @import("formats/safetensors.zig");
const Kind = safetensors.Kind;
const gpa = std.testing.allocator;

test {
    _ = @import("runtime/file.zig");
    _ = @import("test_safetensors_table.zig");
}

/// Parses a whole file in memory; the verdict is null for a good one. BOOL data is checked, too.
pub fn verdict(file: []const u8, problem: *safetensors.Problem) !?Kind {
    var arena: std.heap.ArenaAllocator = .init(gpa);
    defer arena.deinit();
    check(arena.allocator(), file, problem) catch |err| switch (err) {
        error.Rejected => {
            var buffer: [4096]u8 = undefined;
            var writer: std.Io.Writer = .fixed(&buffer);
            try writer.print("{f}", .{problem.*});
            const text = writer.buffered();
            try std.testing.expect(std.mem.indexOf(u8, text, @tagName(problem.kind)) != null);
            try std.testing.expect(std.unicode.utf8ValidateSlice(text));
            problem.name = null; // It goes with the arena.
            return problem.kind;
        },
        else => return err,
    };
    return null;
}

fn check(arena: std.mem.Allocator, file: []const u8, problem: *safetensors.Problem) !void {
    const first = file[0..@min(8, file.len)];
    const length = try safetensors.headerLength(first, file.len, problem);
    const header = try safetensors.parse(arena, gpa, file[8..][0..length], file.len, problem);
    const data = file[8 + length ..];
    var covered: u64 = 0;
    for (header.entries) |entry| {
        try std.testing.expectEqual(covered, entry.begin);
        covered = entry.end;
        if (entry.type == .BOOL) if (safetensors.badBool(data[entry.begin..entry.end])) |at|
            return problem.reject(.BadBool, entry.name, 8 + length + at, "not 0 or 1");
    }
    try std.testing.expectEqual(data.len, covered);
}

/// `n, header, data` with a correct n.
pub fn build(header: []const u8, data: []const u8) ![]u8 {
    const file = try gpa.alloc(u8, 8 + header.len + data.len);
    std.mem.writeInt(u64, file[0..8], header.len, .little);
    @memcpy(file[8..][0..header.len], header);
    @memcpy(file[8 + header.len ..], data);
    return file;
}

const valid =
    \\{"__metadata__":{"format":"pt","note":"\u00e4\ud83d\ude00"},
    \\ "w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},
    \\ "empty":{"dtype":"BF16","shape":[0,7],"data_offsets":[24,24]},
    \\ "scalar":{"data_offsets":[24,32],"shape":[],"dtype":"I64"},
    \\ "flags":{"dtype":"BOOL","shape":[4],"data_offsets":[34,38]},
    \\ "half/../x":{"dtype":"F4","shape":[2,2],"data_offsets":[32,34]}}
;

test "a valid file: entries in the order of their data, metadata decoded" {
    var arena: std.heap.ArenaAllocator = .init(gpa);
    defer arena.deinit();
    var problem: safetensors.Problem = .{};
    const length = 8 + valid.len + 38;
    const header = try safetensors.parse(arena.allocator(), gpa, valid, length, &problem);
    const names = [_][]const u8{ "w", "empty", "scalar", "half/../x", "flags" };
    try std.testing.expectEqual(names.len, header.entries.len);
    for (names, header.entries) |name, entry| try std.testing.expectEqualStrings(name, entry.name);
    try std.testing.expectEqualSlices(u64, &.{ 2, 3 }, header.entries[0].dims());
    try std.testing.expectEqual(safetensors.Type.I64, header.entries[2].type);
    try std.testing.expectEqual(null, header.entries[2].type.native());
    try std.testing.expectEqual(.bf16, header.entries[1].type.native());
    try std.testing.expectEqual(2, header.metadata.len);
    try std.testing.expectEqualStrings("note", header.metadata[1].key);
    try std.testing.expectEqualStrings("ä😀", header.metadata[1].value);
}

test "the error text names tensor, kind and byte" {
    const header = "{\"a\\u0007b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}";
    var arena: std.heap.ArenaAllocator = .init(gpa);
    defer arena.deinit();
    var problem: safetensors.Problem = .{};
    const result = safetensors.parse(arena.allocator(), gpa, header, 8 + header.len + 1, &problem);
    try std.testing.expectError(error.Rejected, result);
    var buffer: [256]u8 = undefined;
    const text = try std.fmt.bufPrint(&buffer, "{f}", .{problem});
    try std.testing.expectEqualStrings(
        "tensor \"a\\x07b\": BadName at byte 9: the name has a control character",
        text,
    );
}

test "mutations of a valid file end with a verdict" {
    const seeds = [_]u64{ 1, 20260, 0xfeed };
    const rounds = 20_000;
    const original = try build(valid, &(@as([38]u8, @splat(1))));
    defer gpa.free(original);
    for (seeds) |seed| {
        var prng: std.Random.DefaultPrng = .init(seed);
        const random = prng.random();
        var rejected: usize = 0;
        for (0..rounds) |round| {
            errdefer std.debug.print("seed {d}, round {d}\n", .{ seed, round });
            var file: std.ArrayList(u8) = .empty;
            defer file.deinit(gpa);
            try file.appendSlice(gpa, original);
            for (0..random.intRangeAtMost(usize, 1, 4)) |_| try mutate(random, &file);
            var problem: safetensors.Problem = .{};
            if (try verdict(file.items, &problem) != null) {
                rejected += 1;
                try std.testing.expect(problem.reason.len > 0);
            }
        }
        // Most places of the header matter; the rest are letters of names and metadata.
        try std.testing.expect(rejected > rounds / 2 and rejected < rounds);
    }
}

fn mutate(random: std.Random, file: *std.ArrayList(u8)) !void {
    if (file.items.len == 0) return;
    const at = random.uintLessThan(usize, file.items.len);
    const pieces = [_][]const u8{
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "-1",
        "1e0",
        "\\ud800",
        "\\u0000",
        "\"",
        "null",
        "__proto__",
        "9007199254740993",
        "0",
        "\xff",
        "\xc2",
        "\xef",
        "[[",
        "{\"a\":",
        "\"__metadata__\":",
        "true",
    };
    switch (random.uintLessThan(u32, 7)) {
        0 => file.items[at] ^= @as(u8, 1) << random.int(u3),
        1 => file.items[at] = random.int(u8),
        2 => _ = file.orderedRemove(at),
        3 => try file.insert(gpa, at, random.int(u8)),
        4 => try file.insertSlice(gpa, at, pieces[random.uintLessThan(usize, pieces.len)]),
        5 => file.shrinkRetainingCapacity(at),
        else => {
            const other = random.uintLessThan(usize, file.items.len);
            std.mem.swap(u8, &file.items[at], &file.items[other]);
        },
    }
    // Half of the headers keep a true length, so that mutations get past rule 1.
    if (file.items.len < 8 + valid.len or random.boolean()) return;
    const length = file.items.len - 8 - 38;
    std.mem.writeInt(u64, file.items[0..8], length, .little);
}

test "JSON: what RFC 8259 forbids is refused, what it allows is read" {
    const good = [_][]const u8{
        " \t\r\n{} ",
        "[]",
        "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\uD834\\uDd1e\"",
        "true",
        "null",
        "0",
        "[1,2 , 3]",
        "{\"\":0}",
        "9007199254740991",
        "[[[[[[[[]]]]]]]]",
    };
    const bad = [_]struct { []const u8, json.Error }{
        .{ "", error.BadJson },
        .{ "[1,]", error.BadJson },
        .{ "[,1]", error.BadJson },
        .{ "[1 2]", error.BadJson },
        .{ "{\"a\" 1}", error.BadJson },
        .{ "{a:1}", error.BadJson },
        .{ "{} {}", error.BadJson },
        .{ "\"a\nb\"", error.BadJson },
        .{ "\"\\x41\"", error.BadJson },
        .{ "\"\\u12g4\"", error.BadJson },
        .{ "\"\\uDC00\"", error.BadJson },
        .{ "\"\\uD800\\u0041\"", error.BadJson },
        .{ "\"\\uD800", error.BadJson },
        .{ "\"\\", error.BadJson },
        .{ "01", error.BadJson },
        .{ "+1", error.BadJson },
        .{ ".5", error.BadJson },
        .{ "1.", error.BadJson },
        .{ "1e", error.BadJson },
        .{ "NaN", error.BadJson },
        .{ "tru", error.BadJson },
        .{ "'a'", error.BadJson },
        .{ "/**/1", error.BadJson },
        .{ "[1}", error.BadJson },
        .{ "-0", error.BadNumber },
        .{ "1.0", error.BadNumber },
        .{ "1E+2", error.BadNumber },
        .{ "9007199254740992", error.BadNumber },
        .{ "[[[[[[[[[]]]]]]]]]", error.TooDeep },
        .{ "{\"a\":1,\"\\u0061\":2}", error.DuplicateKey },
        .{ "{\"x\":{\"b\":1,\"a\":1,\"b\":1}}", error.DuplicateKey },
    };
    for (good) |text| {
        errdefer std.debug.print("{s}\n", .{text});
        try validate(text);
    }
    for (bad) |row| {
        errdefer std.debug.print("{s}\n", .{row[0]});
        try std.testing.expectError(row[1], validate(row[0]));
    }
}

fn validate(text: []const u8) json.Error!void {
    var arena: std.heap.ArenaAllocator = .init(gpa);
    defer arena.deinit();
    var reader: json.Reader = .{ .bytes = text, .arena = arena.allocator() };
    return json.validate(&reader, gpa, .{});
}
