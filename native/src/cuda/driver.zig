//! The CUDA driver API, opened at run time: prototypes, constants, and the one place where its
//! results become errors. native.md §7. Sizes and numbers are those of CUDA 13.0's cuda.h.

const std = @import("std");
const library = @import("../runtime/library.zig");
const status = @import("../abi/status.zig");

pub const Result = c_int;
pub const Pointer = u64;
pub const Context = ?*opaque {};
pub const Stream = ?*opaque {};
pub const Event = ?*opaque {};
pub const Library = ?*opaque {};
pub const Kernel = ?*opaque {};
pub const Graph = ?*opaque {};
pub const GraphExec = ?*opaque {};

pub const success = 0;
pub const out_of_memory = 2;
pub const not_found = 500;
pub const not_ready = 600;

pub const attribute = struct {
    pub const multiprocessors = 16;
    pub const shared_per_block = 97; // with opting in
    pub const major = 75;
    pub const minor = 76;
};

pub const function_attribute = struct {
    pub const static_shared = 1;
    pub const registers = 4;
    pub const max_dynamic_shared = 8;
    pub const non_portable_cluster = 14;
};

/// `value` is a union in C; cluster dims and small integers fill its first words.
pub const LaunchAttribute = extern struct {
    id: c_int,
    padding: u32 = 0,
    value: [16]u32 = @splat(0),

    pub fn cluster(width: u32) LaunchAttribute {
        var made: LaunchAttribute = .{ .id = 4 };
        made.value[0] = width;
        made.value[1] = 1;
        made.value[2] = 1;
        return made;
    }

    /// The kernel may begin while the one before it ends.
    pub fn following() LaunchAttribute {
        var made: LaunchAttribute = .{ .id = 6 };
        made.value[0] = 1;
        return made;
    }
};

pub const LaunchConfig = extern struct {
    grid: [3]c_uint,
    block: [3]c_uint,
    shared_bytes: c_uint,
    stream: Stream,
    attributes: ?[*]const LaunchAttribute,
    attribute_count: c_uint,
};

pub const TensorMap = extern struct { opaque_words: [16]u64 align(64) };

comptime {
    std.debug.assert(@sizeOf(LaunchAttribute) == 72);
    std.debug.assert(@sizeOf(LaunchConfig) == 56);
    std.debug.assert(@sizeOf(TensorMap) == 128);
}

/// Field names are symbols without "cu". A field of optional type may be absent.
pub const Api = struct {
    Init: *const fn (c_uint) callconv(.c) Result,
    DriverGetVersion: *const fn (*c_int) callconv(.c) Result,
    DeviceGetCount: *const fn (*c_int) callconv(.c) Result,
    DeviceGet: *const fn (*c_int, c_int) callconv(.c) Result,
    DeviceGetAttribute: *const fn (*c_int, c_int, c_int) callconv(.c) Result,
    DeviceGetName: *const fn ([*]u8, c_int, c_int) callconv(.c) Result,
    DeviceTotalMem_v2: *const fn (*usize, c_int) callconv(.c) Result,
    DevicePrimaryCtxRetain: *const fn (*Context, c_int) callconv(.c) Result,
    CtxSetCurrent: *const fn (Context) callconv(.c) Result,
    StreamCreateWithPriority: *const fn (*Stream, c_uint, c_int) callconv(.c) Result,
    StreamDestroy_v2: *const fn (Stream) callconv(.c) Result,
    StreamSynchronize: *const fn (Stream) callconv(.c) Result,
    StreamQuery: *const fn (Stream) callconv(.c) Result,
    StreamWaitEvent: *const fn (Stream, Event, c_uint) callconv(.c) Result,
    EventCreate: *const fn (*Event, c_uint) callconv(.c) Result,
    EventDestroy_v2: *const fn (Event) callconv(.c) Result,
    EventRecord: *const fn (Event, Stream) callconv(.c) Result,
    EventQuery: *const fn (Event) callconv(.c) Result,
    EventSynchronize: *const fn (Event) callconv(.c) Result,
    EventElapsedTime_v2: *const fn (*f32, Event, Event) callconv(.c) Result,
    MemAlloc_v2: *const fn (*Pointer, usize) callconv(.c) Result,
    MemFree_v2: *const fn (Pointer) callconv(.c) Result,
    MemHostAlloc: *const fn (*?*anyopaque, usize, c_uint) callconv(.c) Result,
    MemFreeHost: *const fn (?*anyopaque) callconv(.c) Result,
    MemGetInfo_v2: *const fn (*usize, *usize) callconv(.c) Result,
    MemcpyHtoDAsync_v2: *const fn (Pointer, *const anyopaque, usize, Stream) callconv(.c) Result,
    MemcpyDtoHAsync_v2: *const fn (*anyopaque, Pointer, usize, Stream) callconv(.c) Result,
    MemcpyDtoDAsync_v2: *const fn (Pointer, Pointer, usize, Stream) callconv(.c) Result,
    MemsetD8Async: *const fn (Pointer, u8, usize, Stream) callconv(.c) Result,
    LibraryLoadData: *const fn (
        *Library,
        *const anyopaque,
        ?*anyopaque,
        ?*anyopaque,
        c_uint,
        ?*anyopaque,
        ?*anyopaque,
        c_uint,
    ) callconv(.c) Result,
    LibraryGetKernel: *const fn (*Kernel, Library, [*:0]const u8) callconv(.c) Result,
    KernelSetAttribute: *const fn (c_int, c_int, Kernel, c_int) callconv(.c) Result,
    KernelGetAttribute: *const fn (*c_int, c_int, Kernel, c_int) callconv(.c) Result,
    LaunchKernelEx: *const fn (
        *const LaunchConfig,
        Kernel,
        [*]const ?*const anyopaque,
        ?*?*anyopaque,
    ) callconv(.c) Result,
    StreamBeginCapture_v2: *const fn (Stream, c_int) callconv(.c) Result,
    StreamEndCapture: *const fn (Stream, *Graph) callconv(.c) Result,
    GraphInstantiateWithFlags: *const fn (*GraphExec, Graph, u64) callconv(.c) Result,
    GraphLaunch: *const fn (GraphExec, Stream) callconv(.c) Result,
    GraphExecDestroy: *const fn (GraphExec) callconv(.c) Result,
    GraphDestroy: *const fn (Graph) callconv(.c) Result,
    GetErrorName: *const fn (Result, *?[*:0]const u8) callconv(.c) Result,
    GetErrorString: *const fn (Result, *?[*:0]const u8) callconv(.c) Result,
    TensorMapEncodeTiled: ?*const fn (
        *TensorMap,
        c_int,
        c_uint,
        *anyopaque,
        [*]const u64,
        [*]const u64,
        [*]const u32,
        [*]const u32,
        c_int,
        c_int,
        c_int,
        c_int,
    ) callconv(.c) Result,

    /// Fails with the driver's own words. GPU errors are asynchronous: the kernel at fault may be
    /// an earlier one.
    pub fn check(api: *const Api, result: Result, comptime what: []const u8) status.Error!void {
        if (result == success) return;
        var name: ?[*:0]const u8 = null;
        var text: ?[*:0]const u8 = null;
        _ = api.GetErrorName(result, &name);
        _ = api.GetErrorString(result, &text);
        return status.fail(.cuda, what ++ ": {s} ({s}){s}", .{
            name orelse "unknown CUDA error",
            text orelse "no text",
            if (isSticky(result)) sticky else "",
        });
    }
};

const sticky = "; nothing on this GPU works until the process starts again, the CPU does; " ++
    "XL_SYNC=1 names the kernel at fault";

/// Errors of a kernel that poison the context: illegal address, launch failure and their kin.
fn isSticky(result: Result) bool {
    return switch (result) {
        700, 702, 710, 714...719 => true,
        else => false,
    };
}

/// The driver at `path`, or a failure in the loader's words.
pub fn open(path: [*:0]const u8) status.Error!Api {
    const handle = switch (library.open(path)) {
        .handle => |handle| handle,
        .reason => |reason| return status.fail(
            .library_missing,
            "no CUDA driver: {s}; use device=cpu, or install the NVIDIA driver",
            .{reason},
        ),
    };
    var api: Api = undefined;
    const info = @typeInfo(Api).@"struct";
    inline for (info.field_names, info.field_types) |name, Field| {
        const optional = @typeInfo(Field) == .optional;
        const F = if (optional) @typeInfo(Field).optional.child else Field;
        const found = library.symbol(F, handle, "cu" ++ name);
        if (optional) {
            @field(api, name) = found;
        } else @field(api, name) = found orelse return status.fail(
            .library_missing,
            "the CUDA driver {s} has no cu{s}; a driver of CUDA 12.8 or newer is needed",
            .{ path, name },
        );
    }
    return api;
}

/// The emulator of the tests has the kernels inside.
pub fn isEmulator(path: [*:0]const u8) bool {
    return switch (library.open(path)) {
        .handle => |handle| library.symbol(*const anyopaque, handle, "xl_emulator_error") != null,
        .reason => false,
    };
}
