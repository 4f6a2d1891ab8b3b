//! The state of this process: thread pool, tensor memory, handle table, CPU level. There is one;
//! loading the library again in the same process finds it alive (`bun test --isolate`, `--hot`).

const std = @import("std");
const Pool = @import("pool.zig").Pool;
const Arena = @import("arena.zig").Arena;
const Blas = @import("blas.zig").Blas;
const level = @import("level.zig");
const tensors = @import("tensor.zig");
const Tensor = tensors.Tensor;
const Block = tensors.Block;
const DType = @import("../dtype.zig").DType;
const handles = @import("../abi/handles.zig");
const scratch = @import("../abi/scratch.zig");
const status = @import("../abi/status.zig");
const args = @import("../args.zig");
const cuda = @import("../cuda/table.zig");
const Gpu = @import("../cuda/device.zig").Device;

pub const Context = struct {
    gpa: std.mem.Allocator,
    pool: Pool,
    arena: Arena = .{},
    table: handles.Table = .{},
    level: level.Level,
    kernels: *const args.Table,
    calls: u64 = 0,
    /// Multiplies plain f32 matrices instead of the in-tree product when somebody asked for it.
    blas: ?Blas = null,
    /// The GPU, once somebody has asked for it.
    gpu: ?*Gpu = null,
    /// Where new tensors of operations without inputs go.
    default_device: tensors.Device = .cpu,
    /// Where the running operation computes: the device of its inputs.
    device: tensors.Device = .cpu,

    pub fn get(context: *Context, handle: i32) status.Error!Tensor {
        return (try context.table.get(handle)).*;
    }

    /// Memory for a new row-major tensor, not yet under a handle. Contents are undefined.
    pub fn create(context: *Context, dtype: DType, shape: []const usize) status.Error!Tensor {
        context.collect();
        // Broadcasting two shapes that are fine each may give one that is not.
        if (!tensors.isCountable(shape)) return status.fail(
            .out_of_memory,
            "a result of shape {f} has more than {d} elements: no tensor can be that large",
            .{ tensors.show(shape), tensors.max_count },
        );
        const bytes = tensors.countOf(shape) * dtype.size();
        const wanted: Wanted = .{ .dtype = dtype, .shape = shape };
        const memory = context.allocate(bytes) catch return context.exhausted(bytes, wanted);
        const block = context.gpa.create(Block) catch |err| {
            context.free(memory, context.device);
            return err;
        };
        block.* = .{ .bytes = memory, .references = 1, .device = context.device };
        var tensor: Tensor = .{
            .block = block,
            .dtype = dtype,
            .rank = shape.len,
            .shape = @splat(1),
            .strides = tensors.rowMajor(shape),
        };
        @memcpy(tensor.shape[0..shape.len], shape);
        return tensor;
    }

    /// Memory of the running operation's device. That of a GPU has an address here, no contents.
    fn allocate(context: *Context, bytes: usize) error{OutOfMemory}![]align(64) u8 {
        if (context.device == .cpu) return context.arena.alloc(bytes);
        const gpu = context.gpu.?;
        const block = try gpu.memory.alloc(&gpu.api, bytes);
        const address: [*]align(64) u8 = @ptrFromInt(block.address);
        return address[0..block.bytes];
    }

    fn free(context: *Context, memory: []align(64) u8, device: tensors.Device) void {
        if (device == .cpu) return context.arena.release(memory);
        const gpu = context.gpu.?;
        gpu.shadows.forget(gpu, @intFromPtr(memory.ptr));
        gpu.memory.release(&gpu.api, .{ .address = @intFromPtr(memory.ptr), .bytes = memory.len });
    }

    pub fn retain(_: *Context, block: *Block) void {
        block.references += 1;
    }

    pub fn release(context: *Context, block: *Block) void {
        block.references -= 1;
        if (block.references > 0) return;
        context.free(@alignCast(block.bytes), block.device);
        context.gpa.destroy(block);
    }

    /// Bytes of a row-major tensor, from `offset`, into host memory. Waits for the device.
    pub fn read(context: *Context, tensor: Tensor, offset: usize, to: []u8) status.Error!void {
        const from: [*]const u8 = @ptrCast(tensor.data());
        if (tensor.device() == .cpu) return @memcpy(to, from[offset..][0..to.len]);
        return context.gpu.?.download(to, @intFromPtr(from) + offset);
    }

    /// Host memory into a row-major tensor.
    pub fn write(
        context: *Context,
        tensor: Tensor,
        offset: usize,
        from: []const u8,
    ) status.Error!void {
        const to: [*]u8 = @ptrCast(tensor.data());
        if (tensor.device() == .cpu) return @memcpy(to[offset..][0..from.len], from);
        try context.gpu.?.upload(@intFromPtr(to) + offset, from);
        return context.wrote(tensor);
    }

    /// Must follow every change of a tensor in place: the GPU may keep a rounded copy of it.
    pub fn wrote(context: *Context, tensor: Tensor) status.Error!void {
        if (tensor.device() == .cpu) return;
        const gpu = context.gpu.?;
        return gpu.shadows.wrote(gpu, @intFromPtr(tensor.block.bytes.ptr));
    }

    /// Between two devices; both row-major, of one shape and dtype.
    pub fn transfer(context: *Context, from: Tensor, to: Tensor) status.Error!void {
        const bytes = from.count() * from.dtype.size();
        if (bytes == 0) return;
        if (from.device() == .cpu) {
            const source: [*]const u8 = @ptrCast(from.data());
            return context.write(to, 0, source[0..bytes]);
        }
        const target: [*]u8 = @ptrCast(to.data());
        return context.read(from, 0, target[0..bytes]);
    }

    /// Fails with the way out when the device has not been opened.
    pub fn expectDevice(context: *Context, device: tensors.Device) status.Error!void {
        if (device == .cpu or context.gpu != null) return;
        return status.fail(.unsupported, "no GPU is open; call useDevice(\"cuda\") first", .{});
    }

    /// Opens the GPU `ordinal` through the driver at `path`; once, the first one stays.
    pub fn openGpu(context: *Context, path: [*:0]const u8, ordinal: c_int) status.Error!void {
        if (context.gpu == null) context.gpu = try Gpu.start(context.gpa, path, ordinal);
    }

    /// Puts a tensor under a handle and writes its record. Takes over the reference.
    pub fn emit(context: *Context, index: usize, tensor: Tensor) status.Error!void {
        const handle = try context.table.insert(context.gpa, tensor);
        const record = &scratch.block.outputs[index];
        record.* = .{
            .handle = handle,
            .dtype = @backingInt(tensor.dtype),
            .rank = @intCast(tensor.rank),
            .device = @backingInt(tensor.device()),
            .shape = @splat(0),
            .reserved = @splat(0),
        };
        for (tensor.dims(), record.shape[0..tensor.rank]) |size, *out| out.* = @intCast(size);
    }

    pub fn dispose(context: *Context, handle: i32) void {
        if (context.table.remove(handle)) |tensor| context.release(tensor.block);
    }

    /// Releases what the garbage collector dropped since the last call.
    pub fn collect(context: *Context) void {
        var cell = context.table.takeDropped();
        while (cell) |dropped| {
            cell = dropped.next;
            context.dispose(dropped.handle);
            std.heap.c_allocator.destroy(dropped);
        }
    }

    /// Runs a compute kernel. The arguments have been validated.
    pub fn run(
        context: *Context,
        comptime name: []const u8,
        dtype: DType,
        arguments: *const args.Args(name),
    ) status.Error!void {
        context.calls += 1;
        if (context.device == .cuda)
            return cuda.run(context.gpu.?, name, dtype, arguments) catch |err|
                context.explained(err, name);
        const unavailable = "{s}: not available for {t} tensors";
        const column: usize = switch (dtype) {
            .f32 => 0,
            .f64 => 1,
            .bf16 => 2,
            else => return status.fail(.unsupported, unavailable, .{ name, dtype }),
        };
        // float64 kernels exist at one level (build.zig): they serve references, not speed.
        const table = if (dtype == .f64) level.table(.plain) else context.kernels;
        const entry = table.entries[comptime args.indexOf(name) * args.columns.len..][column] orelse
            return status.fail(.unsupported, unavailable, .{ name, dtype });
        if (comptime std.mem.eql(u8, name, "matmul")) {
            if (context.blas) |blas| if (Blas.fits(arguments)) return blas.multiply(arguments);
        }
        defer context.pool.resetScratch();
        if (entry(context.pool.parallel(), arguments) != 0) return error.OutOfMemory;
    }

    /// The error of a call of the GPU; a lack of scratch memory says what fills the device.
    pub fn explained(context: *Context, err: status.Error, name: []const u8) status.Error {
        const bytes = context.gpu.?.takeShortage();
        return if (bytes == 0) err else context.exhausted(bytes, .{ .scratch_of = name });
    }

    /// What no memory was found for.
    const Wanted = struct {
        dtype: DType = .f32,
        shape: []const usize = &.{},
        scratch_of: []const u8 = "",

        pub fn format(wanted: Wanted, writer: *std.Io.Writer) std.Io.Writer.Error!void {
            if (wanted.scratch_of.len > 0)
                return writer.print("scratch of {s}", .{wanted.scratch_of});
            const shape = tensors.show(wanted.shape);
            try writer.print("a {t} tensor of shape {f}", .{ wanted.dtype, shape });
        }
    };

    fn exhausted(context: *Context, bytes: usize, wanted: Wanted) error{Failed} {
        const on_gpu = context.device == .cuda;
        const stats = if (on_gpu) context.gpu.?.memory.stats else context.arena.stats;
        var largest: Largest = .{ .context = context, .device = context.device };
        const text = "no memory for {f} ({d:.1} MB) on {t}: {d} tensors hold {d:.1} MB{f}{f}; " ++
            "make the batch or the model smaller, or dispose of tensors";
        return status.fail(.out_of_memory, text, .{
            wanted,
            megabytes(bytes),
            context.device,
            largest.count(),
            megabytes(stats.live_bytes),
            &largest,
            Free{ .gpu = if (on_gpu) context.gpu else null },
        });
    }

    /// `; 24.0 MB are free`: what a tensor on the GPU may take; nothing for the CPU, whose system
    /// does not say.
    const Free = struct {
        gpu: ?*Gpu,

        pub fn format(given: Free, writer: *std.Io.Writer) std.Io.Writer.Error!void {
            const gpu = given.gpu orelse return;
            const bytes = gpu.freeBytes() orelse return;
            try writer.print("; {d:.1} MB are free", .{megabytes(bytes)});
        }
    };

    /// `, the largest f32 [2, 3] 24.0 MB, …`: the largest live tensors of a device.
    const Largest = struct {
        context: *Context,
        device: tensors.Device,

        pub fn format(largest: *const Largest, writer: *std.Io.Writer) std.Io.Writer.Error!void {
            var below: usize = std.math.maxInt(usize);
            for (0..3) |i| {
                const found = largest.next(below) orelse return;
                below = found.block.bytes.len;
                try writer.print("{s} {t} {f} {d:.1} MB", .{
                    if (i == 0) ", the largest" else ",",
                    found.dtype,
                    tensors.show(found.dims()),
                    megabytes(below),
                });
            }
        }

        /// Live tensors of the device.
        fn count(largest: *const Largest) usize {
            var found: usize = 0;
            var live = largest.context.table.iterator();
            while (live.next()) |tensor| found += @intFromBool(tensor.device() == largest.device);
            return found;
        }

        /// The largest tensor that is smaller than `below` bytes.
        fn next(largest: *const Largest, below: usize) ?Tensor {
            var best: ?Tensor = null;
            var live = largest.context.table.iterator();
            while (live.next()) |tensor| {
                const bytes = tensor.block.bytes.len;
                if (tensor.device() != largest.device or bytes >= below) continue;
                if (best == null or bytes > best.?.block.bytes.len) best = tensor.*;
            }
            return best;
        }
    };
};

fn megabytes(bytes: usize) f64 {
    return @as(f64, @floatFromInt(bytes)) / 1e6;
}

var instance: Context = undefined;
var alive = false;

/// Starts the context, or changes the number of threads of the living one. 0 threads means one per
/// core; level −1 means the best this processor has.
pub fn start(threads: i32, wanted: i32) status.Error!void {
    const cores: u32 = @intCast(@max(1, std.Thread.getCpuCount() catch 1));
    if (threads < 0 or threads > 1024)
        return status.invalid("threads: {d} is not between 0 (one per core) and 1024", .{threads});
    const count: u32 = if (threads == 0) cores else @intCast(threads);
    const best = level.best();
    const chosen = if (wanted < 0) best else std.enums.fromInt(level.Level, wanted) orelse
        return status.invalid(
            "cpu level {d} is not one of 0 (plain), 1 (avx2), 2 (avx512)",
            .{wanted},
        );
    if (@backingInt(chosen) > @backingInt(best))
        return status.fail(
            .unsupported,
            "this processor has no {t}; its best level is {t}",
            .{ chosen, best },
        );
    if (!alive) {
        instance = .{
            .gpa = std.heap.c_allocator,
            .pool = undefined,
            .level = chosen,
            .kernels = level.table(chosen),
        };
        try startPool(count);
        alive = true;
        return;
    }
    instance.level = chosen;
    instance.kernels = level.table(chosen);
    if (instance.pool.view.threads != count) {
        instance.pool.deinit();
        try startPool(count);
    }
}

fn startPool(count: u32) status.Error!void {
    instance.pool.start(std.heap.c_allocator, count) catch |err| switch (err) {
        error.OutOfMemory => return error.OutOfMemory,
        else => return status.fail(.internal, "cannot start {d} threads: {t}", .{ count, err }),
    };
}

/// The living context, or a failure that says how to start it.
pub fn get() status.Error!*Context {
    if (!alive) return status.fail(.internal, "xl_start has not been called", .{});
    return &instance;
}
