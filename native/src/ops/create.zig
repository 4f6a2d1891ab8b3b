//! Creation of tensors and the way of their bytes in and out.

const std = @import("std");
const Context = @import("../runtime/context.zig").Context;
const tensors = @import("../runtime/tensor.zig");
const DType = @import("../dtype.zig").DType;
const op = @import("call.zig");
const Call = op.Call;
const Error = op.Error;

pub fn dtypeOf(call: *Call, raw: i32) Error!DType {
    return std.enums.fromInt(DType, raw) orelse
        call.invalid("dtype code {d} is not one of 0 to 5", .{raw});
}

/// Undefined contents; shape in scratch ints.
pub fn empty(context: *Context, rank: i32, dtype: i32) Error!void {
    var call = Call.begin(context, "empty");
    defer call.end();
    const shape = try op.scratchShape(&call, rank, 0);
    _ = try call.output(try dtypeOf(&call, dtype), shape);
    try call.commit();
}

pub fn full(context: *Context, rank: i32, dtype: i32, value: f64) Error!void {
    var call = Call.begin(context, "full");
    defer call.end();
    const shape = try op.scratchShape(&call, rank, 0);
    const y = try call.output(try dtypeOf(&call, dtype), shape);
    try fillWith(context, y, value);
    try call.commit();
}

pub fn fillWith(context: *Context, y: tensors.Tensor, value: f64) Error!void {
    if (y.count() == 0) return;
    var arguments: @import("../args.zig").Args("fill") = undefined;
    @import("elementwise.zig").fillFill(&arguments, y, value);
    try context.run("fill", .f32, &arguments);
}

/// start, start + step, … : `count` elements.
pub fn arange(context: *Context, count: i32, dtype: i32, start: f64, step: f64) Error!void {
    var call = Call.begin(context, "arange");
    defer call.end();
    if (count < 0) return call.invalid("{d} elements", .{count});
    const y = try call.output(try dtypeOf(&call, dtype), &.{@intCast(count)});
    if (count > 0) {
        var arguments: @import("../args.zig").Args("arange") = undefined;
        @import("elementwise.zig").fillArange(&arguments, y, start, step);
        try context.run("arange", .f32, &arguments);
    }
    try call.commit();
}

/// Copies `bytes` bytes from JavaScript memory into a new tensor; shape in scratch ints.
pub fn fromBytes(
    context: *Context,
    rank: i32,
    dtype_raw: i32,
    source: ?*const anyopaque,
    bytes: u64,
) Error!void {
    var call = Call.begin(context, "tensor");
    defer call.end();
    const shape = try op.scratchShape(&call, rank, 0);
    const dtype = try dtypeOf(&call, dtype_raw);
    const expected = tensors.countOf(shape) * dtype.size();
    if (bytes != expected) return call.invalid(
        "{d} bytes of data for shape {f} of {t}, expected {d}",
        .{ bytes, op.show(shape), dtype, expected },
    );
    const y = try call.output(dtype, shape);
    if (bytes > 0) {
        const from: [*]const u8 = @ptrCast(source orelse return call.invalid("no data", .{}));
        try context.write(y, 0, from[0..bytes]);
    }
    try call.commit();
}

/// Copies bytes [offset, offset + bytes) of the row-major tensor into JavaScript memory.
pub fn toBytes(
    context: *Context,
    handle: i32,
    target: ?*anyopaque,
    offset: u64,
    bytes: u64,
) Error!void {
    var call = Call.begin(context, "data");
    defer call.end();
    const x = try call.input("x", handle);
    const total = x.count() * x.dtype.size();
    if (offset > total or bytes > total - offset) return call.invalid(
        "bytes {d} to {d} of a tensor of {d} bytes",
        .{ offset, offset +| bytes, total },
    );
    if (bytes == 0) return;
    const to: [*]u8 = @ptrCast(target orelse return call.invalid("no buffer", .{}));
    try context.read(x, offset, to[0..bytes]);
}

/// Writes bytes into the row-major tensor in place.
pub fn writeBytes(
    context: *Context,
    handle: i32,
    source: ?*const anyopaque,
    offset: u64,
    bytes: u64,
) Error!void {
    var call = Call.begin(context, "write");
    defer call.end();
    const x = try call.view("x", handle);
    const total = x.count() * x.dtype.size();
    if (!x.isContiguous()) return call.invalid(
        "the tensor is a strided view; write to its base",
        .{},
    );
    if (offset > total or bytes > total - offset) return call.invalid(
        "bytes {d} to {d} of a tensor of {d} bytes",
        .{ offset, offset +| bytes, total },
    );
    if (bytes == 0) return;
    const from: [*]const u8 = @ptrCast(source orelse return call.invalid("no data", .{}));
    try context.write(x, offset, from[0..bytes]);
}

/// The tensor on a device; itself, shared, where it lies there already. Row-major.
pub fn move(context: *Context, handle: i32, code: i32) Error!void {
    var call = Call.begin(context, "to");
    defer call.end();
    const device = std.enums.fromInt(tensors.Device, code) orelse
        return call.invalid("device code {d} is not one of 0 (cpu), 1 (cuda)", .{code});
    try context.expectDevice(device);
    const given = try call.view("x", handle);
    if (given.device() == device) call.outputView(given) else {
        const x = try call.contiguous(given);
        context.device = device;
        const y = try call.output(x.dtype, x.dims());
        try context.transfer(x, y);
    }
    try call.commit();
}
