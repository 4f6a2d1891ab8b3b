//! The GPU as a place: opening, facts, memory, waiting, captured graphs, timing.

const std = @import("std");
const Context = @import("../runtime/context.zig").Context;
const tensors = @import("../runtime/tensor.zig");
const Gpu = @import("../cuda/device.zig").Device;
const Graph = @import("../cuda/graph.zig").Graph;
const driver = @import("../cuda/driver.zig");
const scratch = @import("../abi/scratch.zig");
const status = @import("../abi/status.zig");
const op = @import("call.zig");
const Call = op.Call;
const Error = op.Error;

/// Graphs by number; a destroyed one leaves null.
var graphs: std.ArrayList(?*Graph) = .empty;
var marks: [2]driver.Event = @splat(null);

/// Opens GPU `ordinal` through the driver whose path is in scratch text. Does nothing the second
/// time.
pub fn open(context: *Context, path_length: i32, ordinal: i32, synchronous: i32) Error!void {
    var call = Call.begin(context, "device");
    defer call.end();
    const text = &scratch.block.text;
    if (path_length < 1 or path_length >= text.len)
        return call.invalid("a path of {d} bytes", .{path_length});
    const length: usize = @intCast(path_length);
    text[length] = 0;
    try context.openGpu(text[0..length :0], ordinal);
    context.gpu.?.synchronous = synchronous != 0;
}

/// Lets the cuBLASLt library whose path is in scratch text multiply matrices on the GPU.
pub fn useCublasLt(context: *Context, path_length: i32) Error!void {
    const gpu = try opened(context);
    const text = &scratch.block.text;
    if (path_length < 1 or path_length >= text.len)
        return status.invalid("cuBLASLt: a path of {d} bytes", .{path_length});
    const length: usize = @intCast(path_length);
    text[length] = 0;
    if (gpu.lt == null) try gpu.openCublasLt(text[0..length :0]);
}

/// Scratch text holds lines that `exportAlgorithms` wrote. With `timing`, shapes without a choice
/// are timed at their first use.
pub fn importAlgorithms(context: *Context, text_length: i32, timing: i32) Error!void {
    const gpu = try opened(context);
    const text = &scratch.block.text;
    if (text_length < 0 or text_length > text.len)
        return status.invalid("cuBLASLt: a text of {d} bytes", .{text_length});
    const lt = if (gpu.lt) |*lt| lt else return;
    lt.choices.timing = timing != 0;
    try lt.choices.import(context.gpa, text[0..@intCast(text_length)]);
}

/// The algorithms that were chosen by time in this process, from number `first` on, into scratch
/// text. Numbers: its bytes, how many they are.
pub fn exportAlgorithms(context: *Context, first: i32) Error!void {
    const gpu = try opened(context);
    if (first < 0) return status.invalid("cuBLASLt: choice {d}", .{first});
    var writer = std.Io.Writer.fixed(&scratch.block.text);
    const count = if (gpu.lt) |*lt| lt.choices.exportTo(@intCast(first), &writer) else 0;
    scratch.block.numbers[0] = @floatFromInt(writer.end);
    scratch.block.numbers[1] = @floatFromInt(count);
}

/// Where tensors that are made from nothing go from now on.
pub fn use(context: *Context, code: i32) Error!void {
    var call = Call.begin(context, "useDevice");
    defer call.end();
    const device = std.enums.fromInt(tensors.Device, code) orelse
        return call.invalid("device code {d} is not one of 0 (cpu), 1 (cuda)", .{code});
    try context.expectDevice(device);
    context.default_device = device;
}

fn opened(context: *Context) Error!*Gpu {
    try context.expectDevice(.cuda);
    return context.gpu.?;
}

/// Name in scratch text. Numbers: length of the name, driver version, compute capability,
/// multiprocessors, bytes in all, free bytes, live, peak, cached, launches, emulated, cuBLASLt
/// version (0: not found).
pub fn facts(context: *Context) Error!void {
    const gpu = try opened(context);
    const label = gpu.facts.label();
    @memcpy(scratch.block.text[0..label.len], label);
    var free: usize = 0;
    var total: usize = 0;
    try gpu.api.check(gpu.api.MemGetInfo_v2(&free, &total), "device memory");
    const stats = gpu.memory.stats;
    const values = [_]u64{
        label.len,
        gpu.facts.driver_version,
        gpu.facts.capability,
        gpu.facts.multiprocessors,
        total,
        free,
        stats.live_bytes,
        stats.peak_bytes,
        stats.cached_bytes,
        gpu.launches,
        @intFromBool(gpu.facts.emulated),
        if (gpu.lt) |lt| lt.version else 0,
    };
    for (values, scratch.block.numbers[0..values.len]) |value, *to| to.* = @floatFromInt(value);
}

/// Waits until everything that was asked of the GPU is done.
pub fn synchronize(context: *Context) Error!void {
    if (context.gpu) |gpu| try gpu.synchronize();
}

/// Starts recording instead of running.
pub fn captureBegin(context: *Context) Error!void {
    const gpu = try opened(context);
    try graphs.ensureUnusedCapacity(context.gpa, 1);
    graphs.appendAssumeCapacity(try Graph.begin(gpu));
}

/// Numbers: the graph, launches in it. With `keep` 0 the recording is thrown away.
pub fn captureEnd(context: *Context, keep: i32) Error!void {
    const gpu = try opened(context);
    if (gpu.memory.capture == null) return status.invalid("capture: none is running", .{});
    const at = graphs.items.len - 1;
    const graph = graphs.items[at].?;
    graphs.items[at] = null;
    try graph.end(gpu);
    if (keep == 0) return graph.destroy(gpu);
    graphs.items[at] = graph;
    scratch.block.numbers[0] = @floatFromInt(at + 1);
    scratch.block.numbers[1] = @floatFromInt(graph.launches);
}

fn find(id: i32) Error!*Graph {
    if (id >= 1 and id <= graphs.items.len)
        if (graphs.items[@intCast(id - 1)]) |graph| return graph;
    return status.invalid("graph {d} does not exist: it was disposed of", .{id});
}

pub fn replay(context: *Context, id: i32) Error!void {
    const gpu = try opened(context);
    try (try find(id)).replay(gpu);
    return @import("comm_nccl.zig").noteReplay();
}

pub fn destroyGraph(context: *Context, id: i32) Error!void {
    const gpu = try opened(context);
    const graph = try find(id);
    graphs.items[@intCast(id - 1)] = null;
    graph.destroy(gpu);
}

/// Puts a mark (0 or 1) into the stream.
pub fn mark(context: *Context, which: i32) Error!void {
    const gpu = try opened(context);
    if (which != 0 and which != 1) return status.invalid("mark {d} is not 0 or 1", .{which});
    const event = &marks[@intCast(which)];
    if (event.* == null) try gpu.api.check(gpu.api.EventCreate(event, 0), "event");
    try gpu.api.check(gpu.api.EventRecord(event.*, gpu.stream), "event");
}

/// Numbers: milliseconds on the GPU from mark 0 to mark 1. Waits for both.
pub fn elapsed(context: *Context) Error!void {
    const gpu = try opened(context);
    if (marks[0] == null or marks[1] == null)
        return status.invalid("elapsed: set both marks first", .{});
    try gpu.api.check(gpu.api.EventSynchronize(marks[1]), "event");
    var time: f32 = 0;
    try gpu.api.check(gpu.api.EventElapsedTime_v2(&time, marks[0], marks[1]), "event");
    scratch.block.numbers[0] = time;
}
