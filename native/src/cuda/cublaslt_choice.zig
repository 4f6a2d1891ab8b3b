//! Which of cuBLASLt's algorithms multiplies a shape: the fastest of its proposals, timed at the
//! first use. The first proposal is often, not always, the fastest. A choice is kept, and goes out
//! as text and comes back in, so that the next process starts with it: it adds in the same order
//! and loses no time.
//!
//!     <the numbers of Key> = <the eight words of the algorithm, hexadecimal>

const std = @import("std");
const args = @import("../args.zig");
const driver = @import("driver.zig");
const status = @import("../abi/status.zig");
const cublaslt = @import("cublaslt.zig");
const Device = @import("device.zig").Device;
const DType = @import("../dtype.zig").DType;
const Algorithm = cublaslt.Algorithm;
const Error = status.Error;
const Key = cublaslt.Key;
const Lt = cublaslt.Lt;
const Matmul = args.matmul.Matmul;
const Plan = cublaslt.Plan;

pub const Choices = struct {
    /// Whether shapes without a choice are timed.
    timing: bool = false,
    known: std.AutoHashMapUnmanaged(Key, Algorithm) = .empty,
    /// Those of this process, in their order.
    made: std.ArrayList(Key) = .empty,

    /// Lines that are not a choice are passed over: they cost one timing each.
    pub fn import(choices: *Choices, gpa: std.mem.Allocator, text: []const u8) Error!void {
        var lines = std.mem.tokenizeScalar(u8, text, '\n');
        while (lines.next()) |line| {
            var key: Key = undefined;
            var algorithm: Algorithm = undefined;
            if (read(line, &key, &algorithm)) try choices.known.put(gpa, key, algorithm);
        }
    }

    /// Whole lines of the choices from number `first` on; how many fitted.
    pub fn exportTo(choices: *const Choices, first: usize, writer: *std.Io.Writer) usize {
        var count: usize = 0;
        for (choices.made.items[@min(first, choices.made.items.len)..]) |key| {
            const start = writer.end;
            const algorithm = choices.known.getPtr(key).?;
            write(&key, algorithm, writer) catch {
                writer.end = start;
                break;
            };
            count += 1;
        }
        return count;
    }
};

fn write(key: *const Key, algorithm: *const Algorithm, writer: *std.Io.Writer) !void {
    inline for (@typeInfo(Key).@"struct".field_names) |name|
        try writer.print("{d} ", .{@field(key, name)});
    try writer.writeByte('=');
    for (algorithm.data) |word| try writer.print(" {x}", .{word});
    try writer.writeByte('\n');
}

fn read(line: []const u8, key: *Key, algorithm: *Algorithm) bool {
    var words = std.mem.tokenizeScalar(u8, line, ' ');
    const info = @typeInfo(Key).@"struct";
    inline for (info.field_names, info.field_types) |name, T| {
        const word = words.next() orelse return false;
        @field(key, name) = std.fmt.parseInt(T, word, 10) catch return false;
    }
    if (!std.mem.eql(u8, words.next() orelse return false, "=")) return false;
    for (&algorithm.data) |*to| {
        const word = words.next() orelse return false;
        to.* = std.fmt.parseInt(u64, word, 16) catch return false;
    }
    return words.next() == null;
}

/// Below this many operations (some 10 µs) times are noise.
const least_operations = 1 << 32;
const rounds = 3;
/// A later proposal must be this much faster: ties go the same way in every run.
const margin = 0.99;

/// Decides the algorithm of a plan where that is possible now.
pub fn settle(lt: *Lt, device: *Device, key: *const Key, plan: *Plan, a: *const Matmul) Error!void {
    const operations = 2 * a.m *| a.n *| a.k *| a.batch;
    if (!lt.choices.timing or plan.count == 1 or operations < least_operations) {
        plan.is_final = true;
        return;
    }
    if (device.memory.capture != null) return;
    const algorithm = &plan.candidates[try fastest(lt, device, plan, a)].algorithm;
    plan.algorithm = algorithm.*;
    plan.is_final = true;
    try lt.choices.known.put(lt.gpa, key.*, algorithm.*);
    try lt.choices.made.append(lt.gpa, key.*);
}

/// Into memory of its own: the product's may be added to, or be read by nobody but the caller.
fn fastest(lt: *Lt, device: *Device, plan: *const Plan, a: *const Matmul) Error!usize {
    const api = &device.api;
    const dtype: DType = @fromBackingInt(a.c_dtype);
    const count = (a.batch - 1) * a.c_batch_stride + (a.m - 1) * a.c_row_stride + a.n;
    const block = device.memory.alloc(api, count * dtype.size()) catch return 0;
    defer device.memory.release(api, block);
    const target: *anyopaque = @ptrFromInt(block.address);
    var events: [2]driver.Event = @splat(null);
    for (&events) |*event| try api.check(api.EventCreate(event, 0), "event");
    defer for (events) |event| {
        _ = api.EventDestroy_v2(event);
    };
    var best: usize = 0;
    var least = std.math.inf(f32);
    for (plan.candidates[0..plan.count], 0..) |*candidate, i| {
        if (candidate.state != 0) continue;
        // The launch before the first mark warms up, and covers the work of the host.
        if (lt.launch(device.stream, plan, &candidate.algorithm, a, target) != 0) continue;
        try api.check(api.EventRecord(events[0], device.stream), "event");
        for (0..rounds) |_|
            _ = lt.launch(device.stream, plan, &candidate.algorithm, a, target);
        try api.check(api.EventRecord(events[1], device.stream), "event");
        try api.check(api.EventSynchronize(events[1]), "timing a matrix product");
        var time: f32 = 0;
        try api.check(api.EventElapsedTime_v2(&time, events[0], events[1]), "event");
        if (time >= least * margin) continue;
        least = time;
        best = i;
    }
    return best;
}

test "choices survive as text" {
    const gpa = std.testing.allocator;
    var from: Choices = .{};
    defer from.known.deinit(gpa);
    defer from.made.deinit(gpa);
    for (0..3) |i| {
        var key = std.mem.zeroes(Key);
        key.m = 16384;
        key.n = i;
        key.output = -1;
        const algorithm: Algorithm = .{ .data = .{ i, 1, 2, 3, 4, 5, 6, std.math.maxInt(u64) } };
        try from.known.put(gpa, key, algorithm);
        try from.made.append(gpa, key);
    }
    var text: [160]u8 = undefined;
    var to: Choices = .{};
    defer to.known.deinit(gpa);
    var done: usize = 0;
    while (done < 3) {
        var writer = std.Io.Writer.fixed(&text);
        const count = from.exportTo(done, &writer);
        try std.testing.expect(count > 0 and count < 3);
        done += count;
        try to.import(gpa, writer.buffered());
    }
    try to.import(gpa, "1 2 3\n\nx = y\n");
    try std.testing.expectEqual(3, to.known.count());
    for (from.made.items) |key|
        try std.testing.expectEqual(from.known.get(key), to.known.get(key));
}
