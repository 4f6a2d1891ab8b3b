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
        const memory = context.arena.alloc(bytes) catch return context.exhausted(
            bytes,
            dtype,
            shape,
        );
        errdefer context.arena.release(memory);
        const block = try context.gpa.create(Block);
        block.* = .{ .bytes = memory, .references = 1, .device = .cpu };
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

    pub fn retain(_: *Context, block: *Block) void {
        block.references += 1;
    }

    pub fn release(context: *Context, block: *Block) void {
        block.references -= 1;
        if (block.references > 0) return;
        context.arena.release(@alignCast(block.bytes));
        context.gpa.destroy(block);
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
        context.calls += 1;
        if (comptime std.mem.eql(u8, name, "matmul")) {
            if (context.blas) |blas| if (Blas.fits(arguments)) return blas.multiply(arguments);
        }
        defer context.pool.resetScratch();
        if (entry(context.pool.parallel(), arguments) != 0) return error.OutOfMemory;
    }

    fn exhausted(
        context: *Context,
        bytes: usize,
        dtype: DType,
        shape: []const usize,
    ) error{Failed} {
        const stats = context.arena.stats;
        const text = "no memory for a {t} tensor of shape {f} ({d:.1} MB): {d} tensors hold " ++
            "{d:.1} MB; make the batch or the model smaller, or dispose of tensors";
        return status.fail(.out_of_memory, text, .{
            dtype,
            tensors.show(shape),
            megabytes(bytes),
            context.table.live,
            megabytes(stats.live_bytes),
        });
    }
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
