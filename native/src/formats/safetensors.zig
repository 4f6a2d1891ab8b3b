//! Strict reader of safetensors headers (reliability.md §9). A file is
//! `n: u64 little-endian, n bytes of JSON, data`; the JSON maps names to dtype, shape and the range
//! of bytes in the data. Every byte of the data belongs to exactly one tensor.
//! The parser looks at the header only: files of any size cost the same.

const std = @import("std");
const DType = @import("../dtype.zig").DType;
const json = @import("json.zig");

pub const max_header = 100_000_000;
pub const max_tensors = 1_000_000;
pub const max_rank = 8;
pub const max_name = 1024;

/// What is wrong with a file; the names are part of the error texts.
pub const Kind = enum {
    TooShort,
    HeaderTooLarge,
    HeaderPastEnd,
    NotUtf8,
    BadJson,
    TooDeep,
    DuplicateKey,
    BadNumber,
    TooManyTensors,
    BadHeader,
    BadMetadata,
    BadField,
    UnknownDtype,
    RankTooHigh,
    Overflow,
    BadSize,
    BadOffsets,
    LengthMismatch,
    BadName,
    BadBool,
};

/// Element types of the format, by their names in files. The numbers are part of the ABI.
pub const Type = enum(u8) {
    BOOL,
    U8,
    I8,
    F8_E5M2,
    F8_E4M3,
    F8_E8M0,
    F8_E4M3FNUZ,
    F8_E5M2FNUZ,
    I16,
    U16,
    F16,
    BF16,
    I32,
    U32,
    F32,
    I64,
    U64,
    F64,
    C64,
    F4,
    F6_E2M3,
    F6_E3M2,

    pub fn bits(t: Type) u64 {
        return switch (t) {
            .BOOL, .U8, .I8, .F8_E5M2, .F8_E4M3, .F8_E8M0, .F8_E4M3FNUZ, .F8_E5M2FNUZ => 8,
            .I16, .U16, .F16, .BF16 => 16,
            .I32, .U32, .F32 => 32,
            .I64, .U64, .F64, .C64 => 64,
            .F4 => 4,
            .F6_E2M3, .F6_E3M2 => 6,
        };
    }

    /// The tensor type of the same values; null when there is none.
    pub fn native(t: Type) ?DType {
        return switch (t) {
            .F32 => .f32,
            .BF16 => .bf16,
            .F16 => .f16,
            .F64 => .f64,
            .I32 => .i32,
            .U8 => .u8,
            else => null,
        };
    }
};

pub const Entry = struct {
    name: []const u8,
    type: Type,
    rank: usize,
    shape: [max_rank]u64,
    begin: u64,
    end: u64,
    /// Where the name stands in the file.
    offset: u64,

    pub fn dims(entry: *const Entry) []const u64 {
        return entry.shape[0..entry.rank];
    }
};

pub const Pair = struct { key: []const u8, value: []const u8 };

/// Entries in the order of their data, metadata in the order of the file. Names and values live in
/// the header's bytes or in the arena.
pub const Header = struct {
    entries: []Entry,
    metadata: []Pair,
};

/// Why a file was rejected. `name` lives as long as the header's bytes and the arena.
pub const Problem = struct {
    kind: Kind = .TooShort,
    name: ?[]const u8 = null,
    /// From the start of the file.
    offset: u64 = 0,
    reason: []const u8 = "",

    pub fn reject(
        problem: *Problem,
        kind: Kind,
        name: ?[]const u8,
        offset: u64,
        reason: []const u8,
    ) error{Rejected} {
        problem.* = .{ .kind = kind, .name = name, .offset = offset, .reason = reason };
        return error.Rejected;
    }

    pub fn format(problem: Problem, writer: *std.Io.Writer) std.Io.Writer.Error!void {
        if (problem.name) |name| try writer.print("tensor \"{f}\": ", .{Escaped{ .text = name }});
        try writer.print("{t} at byte {d}: {s}", .{ problem.kind, problem.offset, problem.reason });
    }
};

/// A name as it may be printed: control characters escaped, cut when long.
pub const Escaped = struct {
    text: []const u8,

    pub fn format(escaped: Escaped, writer: *std.Io.Writer) std.Io.Writer.Error!void {
        const longest = 120;
        for (escaped.text[0..@min(longest, escaped.text.len)]) |byte| switch (byte) {
            0...0x1f, 0x7f...0xff => try writer.print("\\x{x:0>2}", .{byte}),
            else => try writer.writeByte(byte),
        };
        if (escaped.text.len > longest) try writer.writeAll("...");
    }
};

pub const Error = error{ Rejected, OutOfMemory };

/// Length of the header from the first bytes of a file (rule 1).
pub fn headerLength(first: []const u8, file_length: u64, problem: *Problem) Error!usize {
    if (first.len < 8 or file_length < 8)
        return problem.reject(.TooShort, null, 0, "a safetensors file has at least 8 bytes");
    const length = std.mem.readInt(u64, first[0..8], .little);
    if (length > max_header)
        return problem.reject(.HeaderTooLarge, null, 0, "the header has more than 100000000 bytes");
    if (length > file_length - 8)
        return problem.reject(.HeaderPastEnd, null, 0, "the header goes past the end of the file");
    return @intCast(length);
}

/// Parses the header of a file of `file_length` bytes (rules 2 to 12). The result lives in `arena`
/// and in `header`; `gpa` is for what is needed only meanwhile.
pub fn parse(
    arena: std.mem.Allocator,
    gpa: std.mem.Allocator,
    header: []const u8,
    file_length: u64,
    problem: *Problem,
) Error!Header {
    if (!std.unicode.utf8ValidateSlice(header))
        return problem.reject(.NotUtf8, null, 8 + firstBadByte(header), "the header is not UTF-8");
    var check: json.Reader = .{ .bytes = header, .arena = arena };
    json.validate(&check, gpa, .{ .keys = max_tensors + 1 }) catch |err|
        return translate(err, &check, problem);
    var parser: Parser = .{
        .reader = .{ .bytes = header, .arena = arena },
        .problem = problem,
        .arena = arena,
    };
    try parser.top();
    const entries = parser.entries.items;
    for (entries) |*entry| try checkSize(entry, problem);
    std.sort.pdq(Entry, entries, {}, dataOrder);
    try checkLayout(entries, file_length - 8 - header.len, problem);
    if (entries.len > max_tensors)
        return problem.reject(.TooManyTensors, null, 8, "more than 1000000 tensors");
    for (entries) |entry| try checkName(entry, problem);
    return .{ .entries = entries, .metadata = parser.metadata.items };
}

fn translate(err: json.Error, reader: *json.Reader, problem: *Problem) Error {
    const kind: Kind = switch (err) {
        error.OutOfMemory => return error.OutOfMemory,
        error.BadJson => .BadJson,
        error.TooDeep => .TooDeep,
        error.DuplicateKey => .DuplicateKey,
        error.BadNumber => .BadNumber,
        error.TooManyKeys => .TooManyTensors,
    };
    return problem.reject(kind, null, 8 + reader.at, reader.reason);
}

fn firstBadByte(bytes: []const u8) usize {
    var at: usize = 0;
    while (at < bytes.len) {
        const length = std.unicode.utf8ByteSequenceLength(bytes[at]) catch return at;
        if (length > bytes.len - at) return at;
        if (!std.unicode.utf8ValidateSlice(bytes[at..][0..length])) return at;
        at += length;
    }
    return at;
}

/// Meaning of a header whose JSON is known to be well-formed (rules 5 to 7, rank of rule 8).
const Parser = struct {
    reader: json.Reader,
    problem: *Problem,
    arena: std.mem.Allocator,
    entries: std.ArrayList(Entry) = .empty,
    metadata: std.ArrayList(Pair) = .empty,
    name: ?[]const u8 = null,

    fn reject(parser: *Parser, kind: Kind, reason: []const u8) error{Rejected} {
        return parser.problem.reject(kind, parser.name, 8 + parser.reader.at, reason);
    }

    /// A value of the kind that is expected next; another kind rejects the file.
    fn want(parser: *Parser, wanted: json.Kind, kind: Kind, reason: []const u8) Error!void {
        const found = parser.reader.kind() catch |err| return parser.syntax(err);
        if (found != wanted) return parser.reject(kind, reason);
    }

    fn syntax(parser: *Parser, err: json.Error) Error {
        return translate(err, &parser.reader, parser.problem);
    }

    fn open(parser: *Parser, bracket: u8) Error!void {
        parser.reader.open(bracket) catch |err| return parser.syntax(err);
    }

    fn more(parser: *Parser, close: u8, first: *bool) Error!bool {
        return parser.reader.more(close, first) catch |err| parser.syntax(err);
    }

    fn key(parser: *Parser) Error![]const u8 {
        return parser.reader.key() catch |err| parser.syntax(err);
    }

    fn string(parser: *Parser) Error![]const u8 {
        return parser.reader.string() catch |err| parser.syntax(err);
    }

    fn number(parser: *Parser) Error!u64 {
        try parser.want(.number, .BadField, "shape and data_offsets are lists of integers");
        return parser.reader.number() catch |err| parser.syntax(err);
    }

    fn top(parser: *Parser) Error!void {
        try parser.want(.object, .BadHeader, "the header is not a JSON object");
        try parser.open('{');
        var first = true;
        while (try parser.more('}', &first)) {
            const offset = 8 + parser.reader.at;
            const name = try parser.key();
            if (std.mem.eql(u8, name, "__metadata__")) {
                try parser.readMetadata();
                continue;
            }
            parser.name = name;
            defer parser.name = null;
            var entry: Entry = undefined;
            entry.name = name;
            entry.offset = offset;
            try parser.readEntry(&entry);
            try parser.entries.append(parser.arena, entry);
        }
    }

    fn readMetadata(parser: *Parser) Error!void {
        const reason = "__metadata__ is an object whose values are strings";
        try parser.want(.object, .BadMetadata, reason);
        try parser.open('{');
        var first = true;
        while (try parser.more('}', &first)) {
            const name = try parser.key();
            try parser.want(.string, .BadMetadata, reason);
            const text = try parser.string();
            try parser.metadata.append(parser.arena, .{ .key = name, .value = text });
        }
    }

    const Field = enum { dtype, shape, data_offsets };

    fn readEntry(parser: *Parser, entry: *Entry) Error!void {
        const reason = "a tensor has dtype, shape and data_offsets and nothing else";
        try parser.want(.object, .BadField, reason);
        try parser.open('{');
        var seen: std.EnumSet(Field) = .empty;
        var first = true;
        while (try parser.more('}', &first)) {
            const field = std.meta.stringToEnum(Field, try parser.key()) orelse
                return parser.reject(.BadField, reason);
            seen.insert(field);
            switch (field) {
                .dtype => {
                    try parser.want(.string, .BadField, "dtype is a string");
                    entry.type = std.meta.stringToEnum(Type, try parser.string()) orelse
                        return parser.reject(.UnknownDtype, "the dtype is not a known one");
                },
                .shape => try parser.readShape(entry),
                .data_offsets => try parser.readOffsets(entry),
            }
        }
        if (!seen.eql(.full)) return parser.reject(.BadField, reason);
    }

    fn readShape(parser: *Parser, entry: *Entry) Error!void {
        try parser.want(.array, .BadField, "shape is a list");
        try parser.open('[');
        entry.rank = 0;
        entry.shape = @splat(1);
        var first = true;
        while (try parser.more(']', &first)) {
            if (entry.rank == max_rank)
                return parser.reject(.RankTooHigh, "a tensor has at most 8 dims");
            entry.shape[entry.rank] = try parser.number();
            entry.rank += 1;
        }
    }

    fn readOffsets(parser: *Parser, entry: *Entry) Error!void {
        const reason = "data_offsets is a list of two integers";
        try parser.want(.array, .BadField, reason);
        try parser.open('[');
        var offsets: [2]u64 = undefined;
        var count: usize = 0;
        var first = true;
        while (try parser.more(']', &first)) : (count += 1) {
            if (count == 2) return parser.reject(.BadField, reason);
            offsets[count] = try parser.number();
        }
        if (count != 2) return parser.reject(.BadField, reason);
        entry.begin = offsets[0];
        entry.end = offsets[1];
    }
};

/// Rules 8 and 9: the range of bytes has the size that shape and type say.
fn checkSize(entry: *const Entry, problem: *Problem) Error!void {
    var bits: u64 = 1;
    for (entry.dims()) |size| bits = std.math.mul(u64, bits, size) catch
        return overflow(entry, problem);
    bits = std.math.mul(u64, bits, entry.type.bits()) catch return overflow(entry, problem);
    if (bits % 8 != 0) return problem.reject(
        .BadSize,
        entry.name,
        entry.offset,
        "the tensor does not fill a whole number of bytes",
    );
    if (entry.begin > entry.end) return problem.reject(
        .BadOffsets,
        entry.name,
        entry.offset,
        "the data ends before it begins",
    );
    if (entry.end - entry.begin != bits / 8) return problem.reject(
        .BadSize,
        entry.name,
        entry.offset,
        "the range of data_offsets does not have the size of shape and dtype",
    );
}

fn overflow(entry: *const Entry, problem: *Problem) Error {
    return problem.reject(.Overflow, entry.name, entry.offset, "the size of the tensor overflows");
}

fn dataOrder(_: void, a: Entry, b: Entry) bool {
    if (a.begin != b.begin) return a.begin < b.begin;
    if (a.end != b.end) return a.end < b.end;
    return a.offset < b.offset;
}

/// Rules 10 and 11: the sorted ranges tile the data without holes, overlaps or a tail.
fn checkLayout(entries: []const Entry, data_length: u64, problem: *Problem) Error!void {
    var expected: u64 = 0;
    for (entries) |entry| {
        if (entry.begin != expected) return problem.reject(
            .BadOffsets,
            entry.name,
            entry.offset,
            if (entry.begin < expected)
                "the data overlaps with that of another tensor"
            else
                "bytes before the data belong to no tensor",
        );
        expected = entry.end;
    }
    if (expected == data_length) return;
    const last = if (entries.len > 0) entries[entries.len - 1].name else null;
    return problem.reject(.LengthMismatch, last, 8 + expected, if (expected > data_length)
        "the file is shorter than its header says"
    else
        "bytes follow the last tensor");
}

/// Rule 12. Slashes and dots are fine: a name never becomes a path.
fn checkName(entry: Entry, problem: *Problem) Error!void {
    const name = entry.name;
    const reason = if (name.len == 0)
        "the name is empty"
    else if (name.len > max_name)
        "the name has more than 1024 bytes"
    else if (std.mem.eql(u8, name, "__proto__"))
        "the name __proto__ is not allowed"
    else if (hasControl(name))
        "the name has a control character"
    else
        return;
    return problem.reject(.BadName, name, entry.offset, reason);
}

fn hasControl(name: []const u8) bool {
    for (name, 0..) |byte, i| {
        if (byte < 0x20 or byte == 0x7f) return true;
        // U+0080 to U+009F in UTF-8.
        if (byte == 0xc2 and i + 1 < name.len and name[i + 1] < 0xa0) return true;
    }
    return false;
}

/// Rule 13: what was read as BOOL must be 0 or 1. The index of the first byte that is not.
pub fn badBool(bytes: []const u8) ?usize {
    for (bytes, 0..) |byte, i| if (byte > 1) return i;
    return null;
}
