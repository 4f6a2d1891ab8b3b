//! Safetensors files as a source of tensors. Files have numbers of their own; their headers are
//! kept in memory, their data is read when a tensor is asked for.

const std = @import("std");
const Context = @import("../runtime/context.zig").Context;
const File = @import("../runtime/file.zig").File;
const tensors = @import("../runtime/tensor.zig");
const Tensor = tensors.Tensor;
const safetensors = @import("../formats/safetensors.zig");
const scratch = @import("../abi/scratch.zig");
const status = @import("../abi/status.zig");
const DType = @import("../dtype.zig").DType;
const op = @import("call.zig");
const Call = op.Call;
const Error = op.Error;

const Open = struct {
    id: i32,
    file: File,
    arena: std.heap.ArenaAllocator,
    path: [:0]const u8,
    /// Position of the first byte of data in the file.
    data: u64 = 0,
    header: safetensors.Header = .{ .entries = &.{}, .metadata = &.{} },

    fn destroy(open_file: *Open, gpa: std.mem.Allocator) void {
        open_file.file.close();
        open_file.arena.deinit();
        gpa.destroy(open_file);
    }
};

/// Numbers are never used twice, so that a closed file cannot be mistaken for a newer one.
var files: std.ArrayList(*Open) = .empty;
var next_id: i32 = 1;

/// The end of a path, so that the reason still fits into the error text.
fn shown(path: []const u8) []const u8 {
    return path[path.len -| 600..];
}

fn failIo(path: []const u8, failure: File.Failure) error{Failed} {
    if (failure.code == .SUCCESS)
        return status.fail(.io, "{s}: {s}", .{ shown(path), failure.reason });
    return status.fail(.io, "{s}: {s}: E{t}", .{ shown(path), failure.reason, failure.code });
}

fn failProblem(path: []const u8, problem: safetensors.Problem) error{Failed} {
    return status.fail(
        .invalid_argument,
        "{s}: not a valid safetensors file: {f}",
        .{ shown(path), problem },
    );
}

fn find(call: *Call, id: i32) Error!*Open {
    for (files.items) |candidate| if (candidate.id == id) return candidate;
    return call.invalid("file {d} is not open: it was closed", .{id});
}

fn findEntry(call: *Call, open_file: *const Open, index: i32) Error!*const safetensors.Entry {
    const entries = open_file.header.entries;
    if (index >= 0 and index < entries.len) return &entries[@intCast(index)];
    return call.invalid(
        "tensor {d} of {s}, which has {d}",
        .{ index, shown(open_file.path), entries.len },
    );
}

/// Opens the file whose path is in scratch text and checks its header (reliability.md §9.1).
/// Numbers: file, tensors, metadata pairs.
pub fn open(context: *Context, path_length: i32) Error!void {
    var call = Call.begin(context, "file open");
    defer call.end();
    const text = &scratch.block.text;
    if (path_length < 1 or path_length > text.len)
        return call.invalid("a path of {d} bytes, expected 1 to {d}", .{ path_length, text.len });
    const given = text[0..@intCast(path_length)];
    if (std.mem.indexOfScalar(u8, given, 0) != null)
        return call.invalid("the path has a NUL byte", .{});
    var arena: std.heap.ArenaAllocator = .init(context.gpa);
    errdefer arena.deinit();
    const path = try arena.allocator().dupeSentinel(u8, given, 0);
    var failure: File.Failure = .{};
    var file = File.open(path, &failure) catch return failIo(path, failure);
    errdefer file.close();
    const opened = try context.gpa.create(Open);
    errdefer context.gpa.destroy(opened);
    opened.* = .{ .id = next_id, .file = file, .arena = arena, .path = path };
    // From here on the copy inside `opened` owns what the arena allocates.
    errdefer arena = opened.arena;
    try readHeader(context.gpa, opened);
    try files.append(context.gpa, opened);
    next_id += 1;
    const numbers = &scratch.block.numbers;
    numbers[0] = @floatFromInt(opened.id);
    numbers[1] = @floatFromInt(opened.header.entries.len);
    numbers[2] = @floatFromInt(opened.header.metadata.len);
}

fn readHeader(gpa: std.mem.Allocator, opened: *Open) Error!void {
    const arena = opened.arena.allocator();
    const file = opened.file;
    var problem: safetensors.Problem = .{};
    var failure: File.Failure = .{};
    var first: [8]u8 = undefined;
    const prefix = first[0..@min(8, file.length)];
    file.readAll(prefix, 0, &failure) catch return failIo(opened.path, failure);
    const length = safetensors.headerLength(prefix, file.length, &problem) catch |err|
        return failed(err, opened.path, problem);
    const bytes = try arena.alloc(u8, length);
    file.readAll(bytes, 8, &failure) catch return failIo(opened.path, failure);
    opened.header = safetensors.parse(arena, gpa, bytes, file.length, &problem) catch |err|
        return failed(err, opened.path, problem);
    opened.data = 8 + @as(u64, length);
}

fn failed(err: safetensors.Error, path: []const u8, problem: safetensors.Problem) Error {
    return switch (err) {
        error.OutOfMemory => error.OutOfMemory,
        error.Rejected => failProblem(path, problem),
    };
}

/// Name in scratch text. Numbers: length of the name, dtype code (−1 − k for type k of the format
/// that is no dtype of tensors), rank, dims, begin, end.
pub fn entry(context: *Context, id: i32, index: i32) Error!void {
    var call = Call.begin(context, "file entry");
    defer call.end();
    const found = try findEntry(&call, try find(&call, id), index);
    const code: i32 = if (found.type.native()) |dtype|
        @backingInt(dtype)
    else
        -1 - @as(i32, @backingInt(found.type));
    @memcpy(scratch.block.text[0..found.name.len], found.name);
    const numbers = &scratch.block.numbers;
    numbers[0] = @floatFromInt(found.name.len);
    numbers[1] = @floatFromInt(code);
    numbers[2] = @floatFromInt(found.rank);
    for (found.dims(), numbers[3..][0..found.rank]) |size, *out| out.* = @floatFromInt(size);
    numbers[3 + found.rank] = @floatFromInt(found.begin);
    numbers[4 + found.rank] = @floatFromInt(found.end);
}

/// A piece of `key NUL value` from `offset` on, in scratch text. Numbers: length of the whole,
/// length of the key, length of the piece.
pub fn metadata(context: *Context, id: i32, index: i32, offset: f64) Error!void {
    var call = Call.begin(context, "file metadata");
    defer call.end();
    const pairs = (try find(&call, id)).header.metadata;
    if (index < 0 or index >= pairs.len)
        return call.invalid("metadata pair {d} of {d}", .{ index, pairs.len });
    const pair = pairs[@intCast(index)];
    const total = pair.key.len + 1 + pair.value.len;
    if (!(offset >= 0 and offset <= @as(f64, @floatFromInt(total))))
        return call.invalid("offset {d} of metadata of {d} bytes", .{ offset, total });
    const start: usize = @intFromFloat(offset);
    const text = &scratch.block.text;
    const count = @min(text.len, total - start);
    for (text[0..count], start..) |*out, at| out.* = if (at < pair.key.len)
        pair.key[at]
    else if (at == pair.key.len)
        0
    else
        pair.value[at - pair.key.len - 1];
    const numbers = &scratch.block.numbers;
    numbers[0] = @floatFromInt(total);
    numbers[1] = @floatFromInt(pair.key.len);
    numbers[2] = @floatFromInt(count);
}

/// Reads a tensor; `dtype` −1 keeps the type of the file. BOOL becomes u8, its bytes are checked.
pub fn load(context: *Context, id: i32, index: i32, dtype: i32) Error!void {
    var call = Call.begin(context, "file load");
    defer call.end();
    const source = try find(&call, id);
    const found = try findEntry(&call, source, index);
    const name: safetensors.Escaped = .{ .text = found.name };
    if (found.type == .I64) return loadIndices(&call, source, found, dtype);
    const stored = found.type.native() orelse if (found.type == .BOOL) DType.u8 else return call
        .unsupported("{s}: tensor \"{f}\" is of type {t}, which no tensor has; convert the file " ++
        "to F32, BF16, F16, F64, I32 or U8", .{ shown(source.path), name, found.type });
    const wanted = if (dtype == -1) stored else std.enums.fromInt(DType, dtype) orelse
        return call.invalid("dtype code {d} is not one of -1 to 5", .{dtype});
    var shape: [tensors.max_rank]usize = undefined;
    try checkShape(&call, source, found, &shape);
    // Files are read into host memory, then go where new tensors go.
    context.device = .cpu;
    const is_direct = wanted == stored and context.default_device == .cpu;
    const host = if (is_direct)
        try call.output(wanted, shape[0..found.rank])
    else
        try call.temporary(stored, shape[0..found.rank]);
    try readInto(source, found, host);
    if (!is_direct) try deliver(&call, host, wanted);
    try call.commit();
}

/// A host tensor as an output on the default device, in another dtype where wanted.
fn deliver(call: *Call, host: Tensor, wanted: DType) Error!void {
    const context = call.context;
    context.device = context.default_device;
    const y = try call.output(wanted, host.dims());
    if (host.count() == 0) return;
    if (context.device == .cpu) return op.copyInto(context, host, y);
    if (wanted == host.dtype) return context.transfer(host, y);
    const raw = try call.temporary(host.dtype, host.dims());
    try context.transfer(host, raw);
    try op.copyInto(context, raw, y);
}

/// Token ids are often stored as I64: they become i32, and an id that does not fit is an error.
fn loadIndices(
    call: *Call,
    source: *const Open,
    found: *const safetensors.Entry,
    dtype: i32,
) Error!void {
    if (dtype != -1 and dtype != @backingInt(DType.i32)) return call.unsupported(
        "{s}: tensor \"{f}\" is of type I64 and loads as i32 only",
        .{ shown(source.path), safetensors.Escaped{ .text = found.name } },
    );
    var shape: [tensors.max_rank]usize = undefined;
    try checkShape(call, source, found, &shape);
    call.context.device = .cpu;
    const y = try call.temporary(.i32, shape[0..found.rank]);
    const raw = try call.temporary(.f64, shape[0..found.rank]); // 8 bytes an element, as I64
    try readInto(source, found, raw);
    const wide: [*]const i64 = @ptrCast(@alignCast(raw.data()));
    const narrow: [*]i32 = @ptrCast(@alignCast(y.data()));
    for (0..y.count()) |i| narrow[i] = std.math.cast(i32, wide[i]) orelse return call.invalid(
        "{s}: element {d} of tensor \"{f}\" is {d}, which is no 32-bit integer",
        .{ shown(source.path), i, safetensors.Escaped{ .text = found.name }, wide[i] },
    );
    try deliver(call, y, .i32);
    try call.commit();
}

/// Sizes of dims are 32-bit integers at the border, and strides of empty tensors must not overflow.
fn checkShape(
    call: *Call,
    source: *const Open,
    found: *const safetensors.Entry,
    shape: *[tensors.max_rank]usize,
) Error!void {
    var product: u64 = 1;
    for (found.dims(), shape[0..found.rank]) |size, *out| {
        product = std.math.mul(u64, product, @max(1, size)) catch std.math.maxInt(u64);
        if (size > std.math.maxInt(i32) or product > 1 << 53) return call.unsupported(
            "{s}: tensor \"{f}\" has a dim of size {d}; dims have at most 2147483647 elements",
            .{ shown(source.path), safetensors.Escaped{ .text = found.name }, size },
        );
        out.* = @intCast(size);
    }
}

fn readInto(source: *const Open, found: *const safetensors.Entry, target: Tensor) Error!void {
    const memory: [*]u8 = @ptrCast(target.data());
    const bytes = memory[0..@intCast(found.end - found.begin)];
    const position = source.data + found.begin;
    var failure: File.Failure = .{};
    source.file.readAll(bytes, position, &failure) catch return failIo(source.path, failure);
    if (found.type != .BOOL) return;
    const at = safetensors.badBool(bytes) orelse return;
    var problem: safetensors.Problem = .{};
    problem.reject(.BadBool, found.name, position + at, "a BOOL byte is 0 or 1") catch {};
    return failProblem(source.path, problem);
}

pub fn close(context: *Context, id: i32) Error!void {
    var call = Call.begin(context, "file close");
    defer call.end();
    _ = try find(&call, id);
    for (files.items, 0..) |candidate, i| if (candidate.id == id) {
        _ = files.swapRemove(i);
        candidate.destroy(context.gpa);
        return;
    };
}
