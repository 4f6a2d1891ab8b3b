//! One GPU: driver, stream, kernels, memory, staging. One stream carries all work in the order of
//! the calls; the host waits only where a value is read.

const std = @import("std");
const args = @import("../args.zig");
const driver = @import("driver.zig");
const images = @import("images.zig");
const status = @import("../abi/status.zig");
const DType = @import("../dtype.zig").DType;
const Memory = @import("memory.zig").Memory;
const Lt = @import("cublaslt.zig").Lt;
const Shadows = @import("shadow.zig").Shadows;
const Error = status.Error;

pub const Facts = struct {
    name: [128]u8 = @splat(0),
    driver_version: u32 = 0,
    capability: u32 = 0, // 90 for compute capability 9.0
    multiprocessors: u32 = 0,
    shared_bytes: c_int = 48 << 10, // most dynamic shared memory of a block
    total_bytes: usize = 0,
    emulated: bool = false,

    pub fn label(facts: *const Facts) []const u8 {
        return std.mem.sliceTo(&facts.name, 0);
    }
};

/// Graphs of CUDA 12.3 and later hold kernels that follow others. Those of sm_90 say `follow`.
const first_to_follow = 12030;

/// Grid and block of a launch, and the dynamic shared memory of a block.
pub const Shape = struct {
    x: u64,
    y: u32 = 1,
    z: u32 = 1,
    threads: u32 = 256,
    shared: u32 = 0,
    cluster: u32 = 1,
    /// May begin while the kernel before it ends: says `follow` (common.cuh), as every KERNEL.
    follows: bool = true,
};

/// What kernels report besides their results, read wherever the host waits anyway: an index that
/// lies outside of its table. `args.h`: Fault.
pub const Fault = extern struct { code: u32, limit: u32, low: i32, high: i32 };

pub const Device = struct {
    gpa: std.mem.Allocator,
    api: driver.Api,
    context: driver.Context,
    stream: driver.Stream,
    ordinal: c_int,
    facts: Facts,
    memory: Memory,
    libraries: [images.most]driver.Library = @splat(null),
    kernels: std.StringHashMapUnmanaged(driver.Kernel) = .empty,
    temporaries: std.ArrayList(Memory.Block) = .empty,
    /// Bytes of scratch that were not found; `takeShortage`.
    shortage: usize = 0,
    staging: [*]u8 = undefined, // pinned host memory: slots for uploads, then one for downloads
    uploads: usize = 0,
    copied: [upload_slots]driver.Event = @splat(null),
    fault: driver.Pointer = 0,
    launches: u64 = 0,
    /// Waits after every launch, to name the kernel at fault. `XL_SYNC=1`.
    synchronous: bool = false,
    /// Whether kernels may begin while those before them end.
    following: bool = false,
    lt: ?Lt = null,
    /// Called when the host has waited: fails when the work was cut off (groups of ranks).
    guard: ?*const fn () Error!void = null,
    shadows: Shadows = .{},

    pub const staging_bytes = 1 << 20;
    const upload_slots = 8;

    pub fn start(
        gpa: std.mem.Allocator,
        path: [*:0]const u8,
        ordinal: c_int,
    ) Error!*Device {
        const api = try driver.open(path);
        const facts = try probe(&api, ordinal, driver.isEmulator(path));
        const device = try gpa.create(Device);
        errdefer gpa.destroy(device);
        device.* = .{
            .gpa = gpa,
            .api = api,
            .context = null,
            .stream = null,
            .ordinal = ordinal,
            .facts = facts,
            .memory = .{ .gpa = gpa },
            .following = facts.capability == 90 and !facts.emulated and
                facts.driver_version >= first_to_follow,
        };
        try api.check(api.DevicePrimaryCtxRetain(&device.context, ordinal), "CUDA context");
        try api.check(api.CtxSetCurrent(device.context), "CUDA context");
        // Non-blocking: independent of the legacy default stream.
        try api.check(api.StreamCreateWithPriority(&device.stream, 1, 0), "CUDA stream");
        try device.load();
        var pinned: ?*anyopaque = null;
        const pinned_bytes = (upload_slots + 1) * staging_bytes;
        try api.check(api.MemHostAlloc(&pinned, pinned_bytes, 0), "pinned host memory");
        device.staging = @ptrCast(pinned.?);
        const no_timing = 2;
        for (&device.copied) |*event|
            try api.check(api.EventCreate(event, no_timing), "CUDA event");
        const fault = device.memory.alloc(&device.api, @sizeOf(Fault)) catch
            return status.fail(.out_of_memory, "CUDA: no device memory at all", .{});
        device.fault = fault.address;
        try device.clear(fault.address, @sizeOf(Fault));
        return device;
    }

    fn load(device: *Device) Error!void {
        const api = &device.api;
        const chosen = images.choose(device.facts.capability, device.facts.emulated);
        if (chosen.len == 0) return status.fail(.unsupported, "{s}", .{
            if (!images.present)
                "this library was built without CUDA kernels; run `bun run build:native` with nvcc"
            else
                "this GPU's architecture has no embedded kernels; sm_80 or newer is needed",
        });
        for (chosen, 0..) |image, i| try api.check(
            api.LibraryLoadData(&device.libraries[i], image, null, null, 0, null, null, 0),
            "loading CUDA kernels",
        );
    }

    /// Workspace included; it stays.
    pub fn openCublasLt(device: *Device, path: [*:0]const u8) Error!void {
        const cublaslt = @import("cublaslt.zig");
        const block = device.memory.alloc(&device.api, cublaslt.workspace_bytes) catch
            return status.fail(.out_of_memory, "no device memory for cuBLASLt's workspace", .{});
        errdefer device.memory.release(&device.api, block);
        device.lt = try Lt.open(device.gpa, path, block.address);
    }

    /// The kernel of this name; looked up once.
    fn kernel(device: *Device, comptime name: [:0]const u8) Error!driver.Kernel {
        if (device.kernels.get(name)) |found| return found;
        for (device.libraries) |library| {
            if (library == null) continue;
            var found: driver.Kernel = null;
            const result = device.api.LibraryGetKernel(&found, library, name);
            if (result == driver.not_found) continue;
            try device.api.check(result, name);
            try device.allowSharedMemory(found);
            try device.kernels.put(device.gpa, name, found);
            return found;
        }
        return status.fail(.unsupported, name ++ ": no such CUDA kernel in this library", .{});
    }

    /// Dynamic shared memory up to what the GPU gives a block besides the kernel's own static one.
    fn allowSharedMemory(device: *Device, found: driver.Kernel) Error!void {
        const api = &device.api;
        const attribute = driver.function_attribute;
        var static: c_int = 0;
        try api.check(
            api.KernelGetAttribute(&static, attribute.static_shared, found, device.ordinal),
            "shared memory of a kernel",
        );
        try api.check(api.KernelSetAttribute(
            attribute.max_dynamic_shared,
            device.facts.shared_bytes - static,
            found,
            device.ordinal,
        ), "shared memory of a kernel");
    }

    /// Whether a kernel exists for this GPU.
    pub fn has(device: *Device, comptime name: [:0]const u8) bool {
        _ = device.kernel(name) catch return false;
        return true;
    }

    /// Launches the kernel with its one argument, a struct that both sides share (args.h).
    pub fn launch(
        device: *Device,
        comptime name: [:0]const u8,
        shape: Shape,
        arguments: anytype,
    ) Error!void {
        const Arguments = @TypeOf(arguments);
        comptime std.debug.assert(@typeInfo(Arguments).@"struct".layout == .@"extern");
        comptime std.debug.assert(@sizeOf(Arguments) <= 4096);
        if (shape.x == 0 or shape.x > std.math.maxInt(i32)) return status.fail(
            .unsupported,
            name ++ ": a grid of {d} blocks, more than CUDA launches at once",
            .{shape.x},
        );
        var attributes: [2]driver.LaunchAttribute = undefined;
        var count: u32 = 0;
        if (shape.cluster > 1) {
            attributes[count] = .cluster(shape.cluster);
            count += 1;
        }
        if (shape.follows and device.following and !device.synchronous) {
            attributes[count] = .following();
            count += 1;
        }
        const config: driver.LaunchConfig = .{
            .grid = .{ @intCast(shape.x), shape.y, shape.z },
            .block = .{ shape.threads, 1, 1 },
            .shared_bytes = shape.shared,
            .stream = device.stream,
            .attributes = &attributes,
            .attribute_count = count,
        };
        const parameters = [_]?*const anyopaque{@ptrCast(&arguments)};
        const found = try device.kernel(name);
        try device.api.check(
            device.api.LaunchKernelEx(&config, found, &parameters, null),
            name,
        );
        device.launches += 1;
        if (device.synchronous) try device.api.check(
            device.api.StreamSynchronize(device.stream),
            name,
        );
    }

    /// `launch` of the variant for a storage type: name_f32 or name_bf16.
    pub fn launchFor(
        device: *Device,
        comptime name: []const u8,
        dtype: DType,
        shape: Shape,
        arguments: anytype,
    ) Error!void {
        return switch (dtype) {
            .f32 => device.launch(name ++ "_f32", shape, arguments),
            .bf16 => device.launch(name ++ "_bf16", shape, arguments),
            else => unsupported(name, dtype),
        };
    }

    /// Device memory that lives until the end of the running operation. Contents are undefined.
    pub fn temporary(device: *Device, bytes: usize) Error!*anyopaque {
        const block = device.memory.alloc(&device.api, bytes) catch {
            device.shortage = bytes;
            const text = "no device memory for {d} bytes of scratch";
            return status.fail(.out_of_memory, text, .{bytes});
        };
        errdefer device.memory.release(&device.api, block);
        try device.temporaries.append(device.gpa, block);
        return @ptrFromInt(block.address);
    }

    /// Bytes that `temporary` has not found since the last call, or 0.
    pub fn takeShortage(device: *Device) usize {
        defer device.shortage = 0;
        return device.shortage;
    }

    /// Device memory that an allocation may take; null where the driver does not say.
    pub fn freeBytes(device: *Device) ?usize {
        var free: usize = 0;
        var total: usize = 0;
        if (device.api.MemGetInfo_v2(&free, &total) != driver.success) return null;
        const stats = device.memory.stats;
        return @min(free + stats.cached_bytes, stats.limit_bytes -| stats.live_bytes);
    }

    pub fn releaseTemporaries(device: *Device) void {
        for (device.temporaries.items) |block| device.memory.release(&device.api, block);
        device.temporaries.clearRetainingCapacity();
    }

    pub fn clear(device: *Device, address: driver.Pointer, bytes: usize) Error!void {
        const result = device.api.MemsetD8Async(address, 0, bytes, device.stream);
        return device.api.check(result, "clearing device memory");
    }

    /// From one place of the device to another, in the order of the stream.
    pub fn copy(
        device: *Device,
        to: driver.Pointer,
        from: driver.Pointer,
        bytes: usize,
    ) Error!void {
        if (bytes == 0) return;
        const result = device.api.MemcpyDtoDAsync_v2(to, from, bytes, device.stream);
        return device.api.check(result, "copying device memory");
    }

    /// Host to device. The source may change at once; the copy runs in the order of the stream.
    pub fn upload(device: *Device, to: driver.Pointer, from: []const u8) Error!void {
        const what = "copying to the GPU";
        try device.expectNoCapture(what);
        const api = &device.api;
        var at: usize = 0;
        while (at < from.len) : (at += staging_bytes) {
            const part = from[at..@min(at + staging_bytes, from.len)];
            const slot = device.uploads % upload_slots;
            const buffer = device.staging + slot * staging_bytes;
            // The copy that used this slot before may still be reading it.
            if (device.uploads >= upload_slots)
                try api.check(api.EventSynchronize(device.copied[slot]), what);
            device.uploads += 1;
            @memcpy(buffer[0..part.len], part);
            const copied = api.MemcpyHtoDAsync_v2(to + at, buffer, part.len, device.stream);
            try api.check(copied, what);
            try api.check(api.EventRecord(device.copied[slot], device.stream), what);
        }
    }

    /// Device to host; waits for the device, and raises what kernels have reported.
    pub fn download(device: *Device, to: []u8, from: driver.Pointer) Error!void {
        try device.expectNoCapture("copying from the GPU");
        var at: usize = 0;
        while (at < to.len) : (at += staging_bytes) {
            const part = to[at..@min(at + staging_bytes, to.len)];
            try device.fetch(part, from + at);
        }
        try device.raise();
    }

    fn fetch(device: *Device, to: []u8, from: driver.Pointer) Error!void {
        const what = "copying from the GPU";
        const buffer = device.staging + upload_slots * staging_bytes;
        const copied = device.api.MemcpyDtoHAsync_v2(buffer, from, to.len, device.stream);
        try device.api.check(copied, what);
        try device.wait(what);
        @memcpy(to, buffer[0..to.len]);
    }

    fn expectNoCapture(device: *Device, comptime what: []const u8) Error!void {
        if (device.memory.capture != null) return status.fail(
            .unsupported,
            what ++ " inside a captured step: values cannot be read or written there",
            .{},
        );
    }

    pub fn wait(device: *Device, comptime what: []const u8) Error!void {
        try device.expectNoCapture(what);
        try device.api.check(device.api.StreamSynchronize(device.stream), what);
        if (device.guard) |guard| try guard();
    }

    /// Waits for everything, and raises what kernels have reported.
    pub fn synchronize(device: *Device) Error!void {
        try device.wait("synchronize");
        try device.raise();
    }

    /// Fails when a kernel has met an index outside of its table since the last call.
    fn raise(device: *Device) Error!void {
        var fault: Fault = undefined;
        try device.fetch(std.mem.asBytes(&fault), device.fault);
        if (fault.code == 0) return;
        try device.clear(device.fault, @sizeOf(Fault));
        const wrong = if (fault.low < 0) fault.low else fault.high;
        return status.invalid(
            "an earlier operation was given ids that contain {d}, expected 0 to {d}",
            .{ wrong, fault.limit -| 1 },
        );
    }

    /// Blocks for a grid-strided loop over `count` items: enough to fill the chip, no more.
    pub fn blocks(device: *const Device, count: u64, per_block: u64) u64 {
        const most = @as(u64, device.facts.multiprocessors) * 16;
        return @max(1, @min(most, std.math.divCeil(u64, count, per_block) catch unreachable));
    }
};

pub fn unsupported(comptime name: []const u8, dtype: DType) error{Failed} {
    return status.fail(
        .unsupported,
        name ++ ": not available for {t} tensors on cuda; use f32 or bf16, or the CPU",
        .{dtype},
    );
}

fn probe(api: *const driver.Api, ordinal: c_int, emulated: bool) Error!Facts {
    try api.check(api.Init(0), "CUDA");
    var version: c_int = 0;
    try api.check(api.DriverGetVersion(&version), "CUDA");
    if (version < 12080) return status.fail(
        .unsupported,
        "the NVIDIA driver is for CUDA {d}.{d}; 12.8 or newer is needed",
        .{ @divTrunc(version, 1000), @mod(@divTrunc(version, 10), 100) },
    );
    var count: c_int = 0;
    try api.check(api.DeviceGetCount(&count), "CUDA");
    if (ordinal < 0 or ordinal >= count)
        return status.invalid("GPU {d} does not exist; there are {d}", .{ ordinal, count });
    var id: c_int = 0;
    try api.check(api.DeviceGet(&id, ordinal), "CUDA");
    var facts: Facts = .{ .driver_version = @intCast(version), .emulated = emulated };
    try api.check(api.DeviceGetName(&facts.name, facts.name.len - 1, id), "CUDA");
    var major: c_int = 0;
    var minor: c_int = 0;
    var units: c_int = 0;
    try api.check(api.DeviceGetAttribute(&major, driver.attribute.major, id), "CUDA");
    try api.check(api.DeviceGetAttribute(&minor, driver.attribute.minor, id), "CUDA");
    try api.check(api.DeviceGetAttribute(&units, driver.attribute.multiprocessors, id), "CUDA");
    const wanted = driver.attribute.shared_per_block;
    try api.check(api.DeviceGetAttribute(&facts.shared_bytes, wanted, id), "CUDA");
    facts.capability = @intCast(major * 10 + minor);
    facts.multiprocessors = @intCast(units);
    try api.check(api.DeviceTotalMem_v2(&facts.total_bytes, id), "CUDA");
    if (facts.capability < 80) return status.fail(
        .unsupported,
        "{s} has compute capability {d}.{d}; 8.0 or newer is needed",
        .{ facts.label(), major, minor },
    );
    return facts;
}
