//! One call of an operation: resolves handles, collects outputs and temporaries, and on any failure
//! leaves nothing behind. Outputs get handles only when everything has succeeded.

const std = @import("std");
const Context = @import("../runtime/context.zig").Context;
const tensors = @import("../runtime/tensor.zig");
const Tensor = tensors.Tensor;
const DType = @import("../dtype.zig").DType;
const scratch = @import("../abi/scratch.zig");
const status = @import("../abi/status.zig");
const args = @import("../args.zig");

pub const Error = status.Error;
pub const show = tensors.show;

/// Arithmetic type of a storage type, as dtypes: statistics, gates, states, parameter gradients.
pub fn arithmetic(dtype: DType) DType {
    return if (dtype == .f64) .f64 else .f32;
}

pub const Call = struct {
    context: *Context,
    name: []const u8,
    outputs: [scratch.max_outputs]Tensor = undefined,
    output_count: usize = 0,
    temporaries: [32]*tensors.Block = undefined,
    temporary_count: usize = 0,
    has_device: bool = false,

    /// The call computes where its first input lies; without inputs, on the default device.
    pub fn begin(context: *Context, name: []const u8) Call {
        context.device = context.default_device;
        return .{ .context = context, .name = name };
    }

    /// Releases temporaries, and outputs that were not committed.
    pub fn end(call: *Call) void {
        for (call.temporaries[0..call.temporary_count]) |block| call.context.release(block);
        for (call.outputs[0..call.output_count]) |tensor| call.context.release(tensor.block);
        call.* = undefined;
    }

    pub fn invalid(call: *Call, comptime format: []const u8, values: anytype) error{Failed} {
        return status.invalid("{s}: " ++ format, .{call.name} ++ values);
    }

    pub fn unsupported(call: *Call, comptime format: []const u8, values: anytype) error{Failed} {
        return status.fail(.unsupported, "{s}: " ++ format, .{call.name} ++ values);
    }

    pub fn missing(call: *Call, comptime format: []const u8, values: anytype) error{Failed} {
        return status.fail(.library_missing, "{s}: " ++ format, .{call.name} ++ values);
    }

    /// The tensor as it is, any strides.
    pub fn view(call: *Call, comptime what: []const u8, handle: i32) Error!Tensor {
        const tensor = call.context.get(handle) catch return call.invalid(what ++
            " is not a live tensor (handle {d}): it was disposed of or its scope has ended", .{
            handle,
        });
        if (!call.has_device) {
            call.has_device = true;
            call.context.device = tensor.device();
        } else if (tensor.device() != call.context.device) return call.invalid(
            what ++ " is on {t}, the tensors before it on {t}; move one of them with .to(device)",
            .{ tensor.device(), call.context.device },
        );
        return tensor;
    }

    pub fn optionalView(call: *Call, comptime what: []const u8, handle: i32) Error!?Tensor {
        return if (handle == 0) null else try call.view(what, handle);
    }

    /// The tensor in row-major order; copied when it is not.
    pub fn input(call: *Call, comptime what: []const u8, handle: i32) Error!Tensor {
        return call.contiguous(try call.view(what, handle));
    }

    /// Row-major and of this dtype; copied and converted when it is not.
    pub fn inputAs(call: *Call, comptime what: []const u8, handle: i32, dtype: DType) Error!Tensor {
        return call.converted(try call.view(what, handle), dtype);
    }

    pub fn optionalAs(
        call: *Call,
        comptime what: []const u8,
        handle: i32,
        dtype: DType,
    ) Error!?Tensor {
        return if (handle == 0) null else try call.inputAs(what, handle, dtype);
    }

    pub fn contiguous(call: *Call, tensor: Tensor) Error!Tensor {
        return call.converted(tensor, tensor.dtype);
    }

    pub fn converted(call: *Call, tensor: Tensor, dtype: DType) Error!Tensor {
        if (tensor.dtype == dtype and tensor.isContiguous()) return tensor;
        const copy = try call.temporary(dtype, tensor.dims());
        try copyInto(call.context, tensor, copy);
        return copy;
    }

    /// Undefined memory that lives until the end of the call.
    pub fn temporary(call: *Call, dtype: DType, shape: []const usize) Error!Tensor {
        std.debug.assert(call.temporary_count < call.temporaries.len);
        const tensor = try call.context.create(dtype, shape);
        call.temporaries[call.temporary_count] = tensor.block;
        call.temporary_count += 1;
        return tensor;
    }

    /// A result, row-major, contents undefined.
    pub fn output(call: *Call, dtype: DType, shape: []const usize) Error!Tensor {
        const tensor = try call.context.create(dtype, shape);
        call.push(tensor);
        return tensor;
    }

    pub fn outputLike(call: *Call, tensor: Tensor) Error!Tensor {
        return call.output(tensor.dtype, tensor.dims());
    }

    pub fn optionalOutput(
        call: *Call,
        wanted: bool,
        dtype: DType,
        shape: []const usize,
    ) Error!?Tensor {
        return if (wanted) try call.output(dtype, shape) else null;
    }

    /// A result that shares its memory with an existing tensor.
    pub fn outputView(call: *Call, tensor: Tensor) void {
        call.context.retain(tensor.block);
        call.push(tensor);
    }

    fn push(call: *Call, tensor: Tensor) void {
        std.debug.assert(call.output_count < call.outputs.len);
        call.outputs[call.output_count] = tensor;
        call.output_count += 1;
    }

    pub fn run(
        call: *Call,
        comptime kernel: []const u8,
        dtype: DType,
        arguments: args.Args(kernel),
    ) Error!void {
        return call.context.run(kernel, dtype, &arguments);
    }

    /// Hands the outputs over: record k of the scratch block describes output k.
    pub fn commit(call: *Call) Error!void {
        var done: usize = 0;
        errdefer for (0..done) |i| {
            call.context.retain(call.outputs[i].block); // `end` releases it once more.
            call.context.dispose(scratch.block.outputs[i].handle);
        };
        while (done < call.output_count) : (done += 1) try call.context.emit(
            done,
            call.outputs[done],
        );
        scratch.block.output_count = @intCast(done);
        call.output_count = 0;
    }

    pub fn expectShape(
        call: *Call,
        comptime what: []const u8,
        tensor: Tensor,
        shape: []const usize,
    ) Error!void {
        if (std.mem.eql(usize, tensor.dims(), shape)) return;
        return call.invalid(
            what ++ " has shape {f}, expected {f}",
            .{ show(tensor.dims()), show(shape) },
        );
    }

    pub fn expectRank(
        call: *Call,
        comptime what: []const u8,
        tensor: Tensor,
        rank: usize,
    ) Error!void {
        if (tensor.rank == rank) return;
        return call.invalid(
            what ++ " has shape {f}, expected {d} dims",
            .{ show(tensor.dims()), rank },
        );
    }

    pub fn expectFloat(call: *Call, comptime what: []const u8, tensor: Tensor) Error!void {
        if (tensor.dtype == .f32 or tensor.dtype == .f64 or tensor.dtype == .bf16) return;
        return call.invalid(what ++ " is {t}, expected f32, bf16 or f64", .{tensor.dtype});
    }

    pub fn expectDType(
        call: *Call,
        comptime what: []const u8,
        tensor: Tensor,
        dtype: DType,
    ) Error!void {
        if (tensor.dtype == dtype) return;
        return call.invalid(what ++ " is {t}, expected {t}", .{ tensor.dtype, dtype });
    }
};

/// Copies any view into any view of the same shape, converting the dtype.
pub fn copyInto(context: *Context, from: Tensor, to: Tensor) Error!void {
    var arguments: args.Args("copy") = undefined;
    @import("elementwise.zig").fillCopy(&arguments, from, to);
    return context.run("copy", .f32, &arguments);
}

/// A dim counted from the end when negative.
pub fn resolveDim(call: *Call, dim: i32, rank: usize) Error!usize {
    const n: i32 = @intCast(rank);
    if (dim >= -n and dim < n) return @intCast(if (dim < 0) dim + n else dim);
    return call.invalid("dim {d} is out of range for a tensor of {d} dims", .{ dim, rank });
}

/// Arguments that TypeScript put into the scratch block, as a shape.
pub fn scratchShape(call: *Call, rank: i32, at: usize) Error![]const usize {
    if (rank < 0 or rank > tensors.max_rank)
        return call.invalid("{d} dims, at most {d} are possible", .{ rank, tensors.max_rank });
    const shape = shape_buffer[at..][0..@intCast(rank)];
    for (shape, scratch.block.ints[at..][0..@intCast(rank)]) |*out, size| {
        if (size < 0) return call.invalid("size {d} of a dim is negative", .{size});
        out.* = @intCast(size);
    }
    if (!tensors.isCountable(shape)) return call.invalid(
        "shape {f} has more than {d} elements: no tensor can be that large",
        .{ show(shape), tensors.max_count },
    );
    return shape;
}

threadlocal var shape_buffer: [64]usize = undefined;

pub fn pointer(tensor: ?Tensor) ?*anyopaque {
    return if (tensor) |t| t.data() else null;
}
