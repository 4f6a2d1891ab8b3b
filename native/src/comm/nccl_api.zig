//! NCCL, opened at run time: prototypes, constants, and dtypes. native.md §14.

const std = @import("std");
const library = @import("../runtime/library.zig");
const operation = @import("operation.zig");
const status = @import("../abi/status.zig");
const DType = @import("../dtype.zig").DType;
const Stream = @import("../cuda/driver.zig").Stream;

pub const Result = c_int;
pub const Comm = ?*opaque {};
pub const UniqueId = extern struct { internal: [128]u8 };

pub const success = 0;
pub const in_progress = 7;

/// The prefix of ncclConfig_t that every release since 2.18 understands: the library copies as much
/// as `size` says and resets fields newer than `version`.
pub const Config = extern struct {
    size: usize = @sizeOf(Config),
    magic: c_uint = 0xcafebeef,
    version: c_uint = 21800,
    blocking: c_int = 0,
    cga_cluster_size: c_int = unset,
    min_ctas: c_int = unset,
    max_ctas: c_int = unset,
    net_name: ?[*:0]const u8 = null,
    split_share: c_int = unset,

    const unset = std.math.minInt(c_int);
};

comptime {
    std.debug.assert(@sizeOf(Config) == 48);
}

/// Field names are symbols without "nccl". A field of optional type may be absent.
pub const Api = struct {
    GetVersion: *const fn (*c_int) callconv(.c) Result,
    GetErrorString: *const fn (Result) callconv(.c) [*:0]const u8,
    GetLastError: *const fn (Comm) callconv(.c) ?[*:0]const u8,
    GetUniqueId: *const fn (*UniqueId) callconv(.c) Result,
    CommInitRankConfig: *const fn (*Comm, c_int, UniqueId, c_int, *Config) callconv(.c) Result,
    /// Takes the id by address, and so is the one to prefer where it exists (2.23).
    CommInitRankScalable: ?*const fn (
        *Comm,
        c_int,
        c_int,
        c_int,
        *UniqueId,
        *Config,
    ) callconv(.c) Result,
    CommSplit: *const fn (Comm, c_int, c_int, *Comm, *Config) callconv(.c) Result,
    CommFinalize: *const fn (Comm) callconv(.c) Result,
    CommDestroy: *const fn (Comm) callconv(.c) Result,
    CommAbort: *const fn (Comm) callconv(.c) Result,
    CommGetAsyncError: *const fn (Comm, *Result) callconv(.c) Result,
    CommCount: *const fn (Comm, *c_int) callconv(.c) Result,
    CommUserRank: *const fn (Comm, *c_int) callconv(.c) Result,
    AllReduce: *const fn (From, To, usize, c_int, c_int, Comm, Stream) callconv(.c) Result,
    ReduceScatter: *const fn (From, To, usize, c_int, c_int, Comm, Stream) callconv(.c) Result,
    AllGather: *const fn (From, To, usize, c_int, Comm, Stream) callconv(.c) Result,
    Broadcast: *const fn (From, To, usize, c_int, c_int, Comm, Stream) callconv(.c) Result,
    Send: *const fn (From, usize, c_int, c_int, Comm, Stream) callconv(.c) Result,
    Recv: *const fn (To, usize, c_int, c_int, Comm, Stream) callconv(.c) Result,
    GroupStart: *const fn () callconv(.c) Result,
    GroupEnd: *const fn () callconv(.c) Result,

    const From = *const anyopaque;
    const To = *anyopaque;

    /// 22809 for 2.28.9.
    pub fn version(api: *const Api) u32 {
        var number: c_int = 0;
        return if (api.GetVersion(&number) == success) @intCast(@max(number, 0)) else 0;
    }
};

extern fn setenv(name: [*:0]const u8, value: [*:0]const u8, overwrite: c_int) c_int;

/// The library at `path`, or a failure in the loader's words. NVLink multicast stays off unless
/// whoever started the process has chosen: it can put a host out of service. NCCL reads its C
/// environment, which JavaScript does not reach.
pub fn open(path: [*:0]const u8) status.Error!Api {
    _ = setenv("NCCL_NVLS_ENABLE", "0", 0);
    const handle = switch (library.open(path)) {
        .handle => |handle| handle,
        .reason => |reason| return status.fail(.library_missing, "no NCCL: {s}", .{reason}),
    };
    var api: Api = undefined;
    const info = @typeInfo(Api).@"struct";
    inline for (info.field_names, info.field_types) |name, Field| {
        const optional = @typeInfo(Field) == .optional;
        const F = if (optional) @typeInfo(Field).optional.child else Field;
        const found = library.symbol(F, handle, "nccl" ++ name);
        if (optional) {
            @field(api, name) = found;
        } else @field(api, name) = found orelse return status.fail(
            .library_missing,
            "the NCCL library {s} has no nccl{s}; NCCL 2.18 or newer is needed",
            .{ path, name },
        );
    }
    return api;
}

pub fn codeOf(dtype: DType) c_int {
    return switch (dtype) {
        .u8 => 1,
        .i32 => 2,
        .f16 => 6,
        .f32 => 7,
        .f64 => 8,
        .bf16 => 9,
    };
}

pub fn reductionOf(reduction: operation.Reduction) c_int {
    return switch (reduction) {
        .sum => 0,
        .max => 2,
        .min => 3,
    };
}
