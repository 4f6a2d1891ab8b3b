//! Strict JSON reader (RFC 8259) for headers that come from strangers. It pulls values out of the
//! text without building a tree, so that memory follows the number of keys and not the nesting.
//! Numbers are plain decimal integers of at most 2^53 − 1, the range that JavaScript keeps exact.
//! The text must be valid UTF-8 already.

const std = @import("std");

pub const Failure = error{ BadJson, TooDeep, DuplicateKey, BadNumber, TooManyKeys };
pub const Error = Failure || std.mem.Allocator.Error;

pub const max_number = (1 << 53) - 1;

pub const Kind = enum { object, array, string, number, literal };

pub const Limits = struct {
    depth: usize = 8,
    keys: usize = 1_000_001, // of one object
};

pub const Reader = struct {
    bytes: []const u8,
    /// Owns the strings that had escapes; the others are slices of `bytes`.
    arena: std.mem.Allocator,
    at: usize = 0,
    /// Why the last failure happened.
    reason: []const u8 = "",

    fn fail(reader: *Reader, failure: Failure, reason: []const u8) Failure {
        reader.reason = reason;
        return failure;
    }

    fn skipSpace(reader: *Reader) void {
        while (reader.at < reader.bytes.len) : (reader.at += 1) switch (reader.bytes[reader.at]) {
            ' ', '\t', '\n', '\r' => {},
            else => return,
        };
    }

    /// The next byte that is not white space, not consumed.
    fn peek(reader: *Reader) Failure!u8 {
        reader.skipSpace();
        if (reader.at < reader.bytes.len) return reader.bytes[reader.at];
        return reader.fail(error.BadJson, "the text ends in the middle of a value");
    }

    fn expect(reader: *Reader, byte: u8, reason: []const u8) Failure!void {
        if (try reader.peek() != byte) return reader.fail(error.BadJson, reason);
        reader.at += 1;
    }

    /// Kind of the next value, judged by its first byte.
    pub fn kind(reader: *Reader) Failure!Kind {
        return switch (try reader.peek()) {
            '{' => .object,
            '[' => .array,
            '"' => .string,
            '-', '0'...'9' => .number,
            't', 'f', 'n' => .literal,
            else => reader.fail(error.BadJson, "expected a value"),
        };
    }

    pub fn open(reader: *Reader, bracket: u8) Failure!void {
        return reader.expect(bracket, "expected a bracket");
    }

    /// Steps to the next member; false when the closing bracket was read instead.
    pub fn more(reader: *Reader, close: u8, first: *bool) Failure!bool {
        const byte = try reader.peek();
        const was_first = first.*;
        first.* = false;
        if (byte == close) {
            reader.at += 1;
            return false;
        }
        if (was_first) return true;
        try reader.expect(',', "expected a comma or a closing bracket");
        if (try reader.peek() == close)
            return reader.fail(error.BadJson, "a comma stands before a closing bracket");
        return true;
    }

    pub fn key(reader: *Reader) Error![]const u8 {
        const text = try reader.string();
        try reader.expect(':', "expected a colon after a key");
        return text;
    }

    /// White space and the end of the text.
    pub fn finish(reader: *Reader) Failure!void {
        reader.skipSpace();
        if (reader.at != reader.bytes.len)
            return reader.fail(error.BadJson, "something follows the end of the value");
    }

    pub fn string(reader: *Reader) Error![]const u8 {
        try reader.expect('"', "expected a string in double quotes");
        const start = reader.at;
        while (reader.at < reader.bytes.len) : (reader.at += 1) switch (reader.bytes[reader.at]) {
            '"' => {
                defer reader.at += 1;
                return reader.bytes[start..reader.at];
            },
            '\\' => return reader.escapedString(start),
            0...0x1f => return reader.fail(error.BadJson, "a string holds a raw control character"),
            else => {},
        };
        return reader.fail(error.BadJson, "a string has no closing quote");
    }

    /// The rest of a string, from its first escape on.
    fn escapedString(reader: *Reader, start: usize) Error![]const u8 {
        var text: std.ArrayList(u8) = .empty;
        try text.appendSlice(reader.arena, reader.bytes[start..reader.at]);
        while (reader.at < reader.bytes.len) {
            const byte = reader.bytes[reader.at];
            reader.at += 1;
            switch (byte) {
                '"' => return text.items,
                '\\' => try reader.escape(&text),
                0...0x1f => {
                    reader.at -= 1;
                    return reader.fail(error.BadJson, "a string holds a raw control character");
                },
                else => try text.append(reader.arena, byte),
            }
        }
        return reader.fail(error.BadJson, "a string has no closing quote");
    }

    fn escape(reader: *Reader, text: *std.ArrayList(u8)) Error!void {
        if (reader.at == reader.bytes.len)
            return reader.fail(error.BadJson, "a string has no closing quote");
        const byte = reader.bytes[reader.at];
        reader.at += 1;
        const plain: u8 = switch (byte) {
            '"', '\\', '/' => byte,
            'b' => 0x08,
            'f' => 0x0c,
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => return reader.unicode(text),
            else => return reader.fail(error.BadJson, "unknown escape in a string"),
        };
        try text.append(reader.arena, plain);
    }

    fn unicode(reader: *Reader, text: *std.ArrayList(u8)) Error!void {
        var point: u21 = try reader.hex();
        if (point >= 0xd800 and point < 0xe000) {
            const rest = reader.bytes[reader.at..];
            if (point >= 0xdc00 or !std.mem.startsWith(u8, rest, "\\u"))
                return reader.fail(error.BadJson, "lone surrogate escape");
            reader.at += 2;
            const low: u21 = try reader.hex();
            if (low < 0xdc00 or low >= 0xe000)
                return reader.fail(error.BadJson, "lone surrogate escape");
            point = 0x10000 + ((point - 0xd800) << 10) + (low - 0xdc00);
        }
        var encoded: [4]u8 = undefined;
        // Surrogates are gone and 0x10ffff is the largest pair: every point has an encoding.
        const length = std.unicode.utf8Encode(point, &encoded) catch unreachable;
        try text.appendSlice(reader.arena, encoded[0..length]);
    }

    fn hex(reader: *Reader) Failure!u16 {
        var code: u16 = 0;
        for (0..4) |_| {
            const byte = if (reader.at < reader.bytes.len) reader.bytes[reader.at] else 0;
            const digit = std.fmt.charToDigit(byte, 16) catch
                return reader.fail(error.BadJson, "\\u needs four hexadecimal digits");
            code = code << 4 | digit;
            reader.at += 1;
        }
        return code;
    }

    /// A plain integer. Signs, fractions, exponents and integers beyond 2^53 − 1 are `BadNumber`.
    pub fn number(reader: *Reader) Failure!u64 {
        _ = try reader.peek();
        const start = reader.at;
        const negative = reader.take('-');
        const whole = reader.digits();
        if (whole.len == 0) return reader.fail(error.BadJson, "a number has no digits");
        if (whole.len > 1 and whole[0] == '0')
            return reader.fail(error.BadJson, "a number starts with a zero");
        var plain = !negative;
        if (reader.take('.')) {
            plain = false;
            if (reader.digits().len == 0)
                return reader.fail(error.BadJson, "a number has no digits after its point");
        }
        if (reader.take('e') or reader.take('E')) {
            plain = false;
            _ = reader.take('+') or reader.take('-');
            if (reader.digits().len == 0)
                return reader.fail(error.BadJson, "a number has no digits in its exponent");
        }
        const parsed = std.fmt.parseInt(u64, whole, 10) catch max_number + 1;
        if (plain and parsed <= max_number) return parsed;
        reader.at = start;
        return reader.fail(error.BadNumber, "numbers are plain integers from 0 to 2^53 - 1");
    }

    fn take(reader: *Reader, byte: u8) bool {
        if (reader.at == reader.bytes.len or reader.bytes[reader.at] != byte) return false;
        reader.at += 1;
        return true;
    }

    fn digits(reader: *Reader) []const u8 {
        const start = reader.at;
        while (reader.at < reader.bytes.len and std.ascii.isDigit(reader.bytes[reader.at]))
            reader.at += 1;
        return reader.bytes[start..reader.at];
    }

    pub fn literal(reader: *Reader) Failure!void {
        _ = try reader.peek();
        for ([_][]const u8{ "true", "false", "null" }) |word| {
            if (!std.mem.startsWith(u8, reader.bytes[reader.at..], word)) continue;
            reader.at += word.len;
            return;
        }
        return reader.fail(error.BadJson, "expected true, false or null");
    }
};

const Key = struct {
    text: []const u8,
    offset: usize,

    fn before(_: void, a: Key, b: Key) bool {
        return switch (std.mem.order(u8, a.text, b.text)) {
            .lt => true,
            .gt => false,
            .eq => a.offset < b.offset,
        };
    }
};

/// Reads the whole text and checks everything that does not depend on its meaning: grammar, depth,
/// numbers, and no key twice in one object. On failure `reader` stands where it happened.
pub fn validate(reader: *Reader, gpa: std.mem.Allocator, limits: Limits) Error!void {
    var keys: std.ArrayList(Key) = .empty;
    defer keys.deinit(gpa);
    try value(reader, gpa, limits, &keys, 0);
    try reader.finish();
}

fn value(
    reader: *Reader,
    gpa: std.mem.Allocator,
    limits: Limits,
    keys: *std.ArrayList(Key),
    depth: usize,
) Error!void {
    const kind = try reader.kind();
    switch (kind) {
        .string => _ = try reader.string(),
        .number => _ = try reader.number(),
        .literal => try reader.literal(),
        .object, .array => {
            if (depth == limits.depth)
                return reader.fail(error.TooDeep, "values are nested too deep");
            if (kind == .object) return object(reader, gpa, limits, keys, depth);
            try reader.open('[');
            var first = true;
            while (try reader.more(']', &first)) try value(reader, gpa, limits, keys, depth + 1);
        },
    }
}

/// Sorting finds equal keys in n log n steps for every input; a hash table could be flooded.
fn object(
    reader: *Reader,
    gpa: std.mem.Allocator,
    limits: Limits,
    keys: *std.ArrayList(Key),
    depth: usize,
) Error!void {
    const start = keys.items.len;
    try reader.open('{');
    var first = true;
    while (try reader.more('}', &first)) {
        if (keys.items.len - start == limits.keys)
            return reader.fail(error.TooManyKeys, "an object has too many keys");
        const offset = reader.at;
        try keys.append(gpa, .{ .text = try reader.key(), .offset = offset });
        try value(reader, gpa, limits, keys, depth + 1);
    }
    const own = keys.items[start..];
    std.sort.pdq(Key, own, {}, Key.before);
    for (own[0..own.len -| 1], own[@min(1, own.len)..]) |a, b| {
        if (!std.mem.eql(u8, a.text, b.text)) continue;
        reader.at = b.offset;
        return reader.fail(error.DuplicateKey, "a key stands twice in one object");
    }
    keys.shrinkRetainingCapacity(start);
}
