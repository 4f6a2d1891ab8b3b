//! The flight record: the last operations of this rank, in a ring. When something goes wrong it
//! says what every rank was doing.

const std = @import("std");
const clock = @import("clock.zig");
const operation = @import("operation.zig");
const Description = operation.Description;

pub const Entry = struct {
    number: u64,
    call: Description,
    group: [24]u8,
    group_length: u8,
    step: f64,
    /// Nanoseconds since 1970; 0: not yet.
    enqueued: u64,
    started: u64 = 0,
    finished: u64 = 0,
    failed: bool = false,
};

pub const Recorder = struct {
    lock: clock.Lock = .{},
    entries: [capacity]Entry = undefined,
    /// Operations so far; the newest `capacity` are kept.
    count: u64 = 0,
    /// Of the training run; entries carry it.
    step: f64 = 0,

    pub const capacity = 2048;

    /// Returns the number of the operation, for `finish`.
    pub fn begin(recorder: *Recorder, group: []const u8, call: Description) u64 {
        recorder.lock.acquire();
        defer recorder.lock.release();
        const number = recorder.count;
        recorder.count += 1;
        const entry = &recorder.entries[number % capacity];
        entry.* = .{
            .number = number,
            .call = call,
            .group = @splat(0),
            .group_length = @intCast(@min(group.len, 24)),
            .step = recorder.step,
            .enqueued = clock.wall(),
        };
        @memcpy(entry.group[0..entry.group_length], group[0..entry.group_length]);
        return number;
    }

    /// All ranks have come.
    pub fn start(recorder: *Recorder, number: u64) void {
        recorder.set(number, "started", clock.wall());
    }

    pub fn finish(recorder: *Recorder, number: u64) void {
        recorder.set(number, "finished", clock.wall());
    }

    pub fn fail(recorder: *Recorder, number: u64) void {
        recorder.set(number, "failed", true);
    }

    fn set(recorder: *Recorder, number: u64, comptime field: []const u8, value: anytype) void {
        recorder.lock.acquire();
        defer recorder.lock.release();
        const entry = &recorder.entries[number % capacity];
        if (entry.number == number and number < recorder.count) @field(entry, field) = value;
    }

    /// JSON lines of the entries from number `first` on, as many as fit; returns the number of the
    /// first one that did not.
    pub fn print(recorder: *Recorder, first: u64, writer: *std.Io.Writer) u64 {
        recorder.lock.acquire();
        defer recorder.lock.release();
        var number = @max(first, recorder.count -| capacity);
        while (number < recorder.count) : (number += 1) {
            const end = writer.end;
            printEntry(&recorder.entries[number % capacity], writer) catch {
                writer.end = end;
                break;
            };
        }
        return number;
    }
};

fn printEntry(entry: *const Entry, writer: *std.Io.Writer) std.Io.Writer.Error!void {
    const call = &entry.call;
    try writer.print("{{\"number\":{d},\"group\":", .{entry.number});
    try std.json.Stringify.encodeJsonString(entry.group[0..entry.group_length], .{}, writer);
    try writer.print(
        ",\"op\":\"{t}\",\"reduction\":\"{t}\",\"seq\":{d},\"dtype\":\"{s}\",\"count\":{d}," ++
            "\"hash\":\"{x:0>16}\",\"site\":",
        .{ call.kind, call.reduction, call.sequence, call.dtypeName(), call.count, call.hash },
    );
    try std.json.Stringify.encodeJsonString(call.siteText(), .{}, writer);
    try writer.print(",\"step\":{d},\"enqueued\":{d:.3}", .{ entry.step, ms(entry.enqueued) });
    if (entry.started > 0) try writer.print(",\"started\":{d:.3}", .{ms(entry.started)});
    if (entry.finished > 0) try writer.print(",\"finished\":{d:.3}", .{ms(entry.finished)});
    if (entry.failed) try writer.writeAll(",\"failed\":true");
    try writer.writeAll("}\n");
}

fn ms(nanoseconds: u64) f64 {
    return @as(f64, @floatFromInt(nanoseconds)) / 1e6;
}

test "the ring keeps the newest entries, and prints what fits" {
    const recorder = try std.testing.allocator.create(Recorder);
    defer std.testing.allocator.destroy(recorder);
    recorder.* = .{ .step = 3 };
    const call: operation.Collective = .{ .kind = .all_reduce, .count = 5, .site = "a \"b\"\n" };
    for (0..Recorder.capacity + 10) |i| {
        const number = recorder.begin("dp", call.describe(i));
        recorder.finish(number);
    }
    recorder.fail(3); // Gone from the ring: must not touch its successor.
    var buffer: [3000]u8 = undefined;
    var writer: std.Io.Writer = .fixed(&buffer);
    var next: u64 = 0;
    var lines: u64 = 0;
    while (next < recorder.count) {
        writer.end = 0;
        const after = recorder.print(next, &writer);
        try std.testing.expect(after > next);
        next = after;
        var rows = std.mem.tokenizeScalar(u8, writer.buffered(), '\n');
        while (rows.next()) |row| : (lines += 1) {
            const parsed = try std.json.parseFromSlice(
                struct { number: u64, site: []const u8, step: f64, failed: bool = false },
                std.testing.allocator,
                row,
                .{ .ignore_unknown_fields = true },
            );
            defer parsed.deinit();
            try std.testing.expectEqual(10 + lines, parsed.value.number);
            try std.testing.expectEqualStrings("a \"b\"\n", parsed.value.site);
            try std.testing.expect(!parsed.value.failed and parsed.value.step == 3);
        }
    }
    try std.testing.expectEqual(@as(u64, Recorder.capacity), lines);
}
