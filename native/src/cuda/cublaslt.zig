//! cuBLASLt, opened at run time: matrix products of bf16 and f32 with f32 accumulation. native.md
//! §9.
//!
//! The library is column-major: C = A·B of row-major matrices is computed as Cᵀ = Bᵀ·Aᵀ, which
//! costs nothing. One plan (descriptors and algorithm) per shape is made at its first use and kept.
//!
//! The algorithm is the fastest of those that the library proposes, timed once
//! (cublaslt_choice.zig); inside of a capture nothing can be timed, there the library's first
//! proposal serves for now. None of them adds in an order that depends on time.

const std = @import("std");
const library = @import("../runtime/library.zig");
const status = @import("../abi/status.zig");
const driver = @import("driver.zig");
const choice = @import("cublaslt_choice.zig");
const args = @import("../args.zig");
const Device = @import("device.zig").Device;
const DType = @import("../dtype.zig").DType;
const Error = status.Error;

const Handle = ?*opaque {};
const Desc = ?*opaque {};
const Layout = ?*opaque {};
const Preference = ?*opaque {};
const Result = c_int;
pub const Algorithm = extern struct { data: [8]u64 };
const Heuristic = extern struct {
    algorithm: Algorithm,
    workspace: usize,
    state: Result,
    waves: f32,
    reserved: [4]c_int,
};

comptime {
    std.debug.assert(@sizeOf(Heuristic) == 96);
}

const real32 = 0; // CUDA_R_32F
const bfloat16 = 14; // CUDA_R_16BF
const compute32 = 68; // CUBLAS_COMPUTE_32F
const transpose_a = 3;
const transpose_b = 4;
const batch_count = 5;
const batch_offset = 6;
const max_workspace = 1;
const reduction_mask = 3;
/// Parts of a sum along k go to the workspace in f32 and are added by a launch of their own. The
/// other schemes add in the output as blocks finish, or round the parts to bf16.
const reduced_apart: u32 = 2;
const first_alignment = 5; // of A, then B, C, D

/// What cuBLASLt recommends for Hopper.
pub const workspace_bytes = 32 << 20;

const Api = struct {
    Create: *const fn (*Handle) callconv(.c) Result,
    GetVersion: *const fn () callconv(.c) usize,
    MatmulDescCreate: *const fn (*Desc, c_int, c_int) callconv(.c) Result,
    MatmulDescDestroy: *const fn (Desc) callconv(.c) Result,
    MatmulDescSetAttribute: *const fn (Desc, c_int, *const anyopaque, usize) callconv(.c) Result,
    MatrixLayoutCreate: *const fn (*Layout, c_int, u64, u64, i64) callconv(.c) Result,
    MatrixLayoutDestroy: *const fn (Layout) callconv(.c) Result,
    MatrixLayoutSetAttribute: *const fn (
        Layout,
        c_int,
        *const anyopaque,
        usize,
    ) callconv(.c) Result,
    MatmulPreferenceCreate: *const fn (*Preference) callconv(.c) Result,
    MatmulPreferenceDestroy: *const fn (Preference) callconv(.c) Result,
    MatmulPreferenceSetAttribute: *const fn (
        Preference,
        c_int,
        *const anyopaque,
        usize,
    ) callconv(.c) Result,
    MatmulAlgoGetHeuristic: *const fn (
        Handle,
        Desc,
        Layout,
        Layout,
        Layout,
        Layout,
        Preference,
        c_int,
        [*]Heuristic,
        *c_int,
    ) callconv(.c) Result,
    MatmulAlgoCheck: *const fn (
        Handle,
        Desc,
        Layout,
        Layout,
        Layout,
        Layout,
        *const Algorithm,
        *Heuristic,
    ) callconv(.c) Result,
    Matmul: *const fn (
        Handle,
        Desc,
        *const anyopaque,
        *const anyopaque,
        Layout,
        *const anyopaque,
        Layout,
        *const anyopaque,
        *const anyopaque,
        Layout,
        *anyopaque,
        Layout,
        *const Algorithm,
        ?*anyopaque,
        usize,
        driver.Stream,
    ) callconv(.c) Result,
};

/// Everything that the choice of an algorithm depends on.
pub const Key = extern struct {
    m: u64,
    n: u64,
    k: u64,
    batch: u64,
    a_ld: u64,
    b_ld: u64,
    c_ld: u64,
    a_batch: u64,
    b_batch: u64,
    c_batch: u64,
    input: i32,
    output: i32,
    a_transposed: u32,
    b_transposed: u32,
    alignment: u32,
    accumulate: u32,
};

pub const Plan = struct {
    desc: Desc,
    a: Layout,
    b: Layout,
    c: Layout,
    /// The library's favourite first.
    candidates: [8]Heuristic,
    count: usize,
    /// Of the candidates, or from an earlier process.
    algorithm: Algorithm,
    /// Whether `algorithm` stays.
    is_final: bool,
};

pub const Lt = struct {
    gpa: std.mem.Allocator,
    api: Api,
    handle: Handle,
    version: u64,
    workspace: driver.Pointer,
    plans: std.AutoHashMapUnmanaged(Key, Plan) = .empty,
    choices: choice.Choices = .{},

    pub fn open(gpa: std.mem.Allocator, path: [*:0]const u8, workspace: driver.Pointer) Error!Lt {
        const opened = switch (library.open(path)) {
            .handle => |handle| handle,
            .reason => |reason| return status.fail(.library_missing, "cuBLASLt: {s}", .{reason}),
        };
        var api: Api = undefined;
        const info = @typeInfo(Api).@"struct";
        inline for (info.field_names, info.field_types) |name, F| {
            @field(api, name) = library.symbol(F, opened, "cublasLt" ++ name) orelse
                return status.fail(.library_missing, "{s} has no cublasLt" ++ name, .{path});
        }
        var handle: Handle = null;
        try check(api.Create(&handle), "cublasLtCreate");
        return .{
            .gpa = gpa,
            .api = api,
            .handle = handle,
            .version = api.GetVersion(),
            .workspace = workspace,
        };
    }

    /// Whether the library takes the product as it is: two operands of one type, rows or columns
    /// contiguous.
    pub fn fits(a: *const args.matmul.Matmul) bool {
        if (a.bias != null or a.residual != null) return false;
        if (a.a_dtype != a.b_dtype or a.k == 0) return false;
        _ = leading(a.a_row_stride, a.a_column_stride, a.m, a.k) orelse return false;
        _ = leading(a.b_row_stride, a.b_column_stride, a.k, a.n) orelse return false;
        return a.batch <= std.math.maxInt(i32);
    }

    pub fn multiply(lt: *Lt, device: *Device, a: *const args.matmul.Matmul) Error!void {
        const key = keyOf(a);
        const plan = try lt.find(&key);
        if (!plan.is_final) try choice.settle(lt, device, &key, plan, a);
        try check(lt.launch(device.stream, plan, &plan.algorithm, a, a.c), "cublasLtMatmul");
    }

    /// The product with any of the plan's algorithms, into `c`.
    pub fn launch(
        lt: *Lt,
        stream: driver.Stream,
        plan: *const Plan,
        algorithm: *const Algorithm,
        a: *const args.matmul.Matmul,
        c: *anyopaque,
    ) Result {
        const alpha: f32 = @floatCast(a.alpha);
        const beta: f32 = if (a.accumulate != 0) 1 else 0;
        return lt.api.Matmul(
            lt.handle,
            plan.desc,
            &alpha,
            a.b,
            plan.b,
            a.a,
            plan.a,
            &beta,
            c,
            plan.c,
            c,
            plan.c,
            algorithm,
            @ptrFromInt(lt.workspace),
            workspace_bytes,
            stream,
        );
    }

    /// Whether the library runs the product with an algorithm of an earlier process.
    fn accepts(lt: *Lt, plan: *const Plan, algorithm: *const Algorithm) bool {
        var found: Heuristic = undefined;
        const result = lt.api.MatmulAlgoCheck(
            lt.handle,
            plan.desc,
            plan.b,
            plan.a,
            plan.c,
            plan.c,
            algorithm,
            &found,
        );
        return result == 0 and found.state == 0 and found.workspace <= workspace_bytes;
    }

    fn find(lt: *Lt, key: *const Key) Error!*Plan {
        const entry = try lt.plans.getOrPut(lt.gpa, key.*);
        if (!entry.found_existing) entry.value_ptr.* = lt.makePlan(key) catch |err| {
            lt.plans.removeByPtr(entry.key_ptr);
            return err;
        };
        return entry.value_ptr;
    }

    fn makePlan(lt: *Lt, key: *const Key) Error!Plan {
        var made = try lt.propose(key);
        made.algorithm = made.candidates[0].algorithm;
        made.is_final = false;
        const earlier = lt.choices.known.getPtr(key.*) orelse return made;
        if (!lt.accepts(&made, earlier)) return made;
        made.algorithm = earlier.*;
        made.is_final = true;
        return made;
    }

    /// Descriptors and candidates. Operands are swapped: the library's A is our B.
    fn propose(lt: *Lt, key: *const Key) Error!Plan {
        const api = &lt.api;
        var made: Plan = undefined;
        try check(api.MatmulDescCreate(&made.desc, compute32, real32), "matmul descriptor");
        errdefer _ = api.MatmulDescDestroy(made.desc);
        const flags = [_]i32{ @intCast(key.b_transposed), @intCast(key.a_transposed) };
        try check(api.MatmulDescSetAttribute(made.desc, transpose_a, &flags[0], 4), "transpose");
        try check(api.MatmulDescSetAttribute(made.desc, transpose_b, &flags[1], 4), "transpose");
        made.a = try lt.layout(key.input, key.k, key.m, .{
            .transposed = key.a_transposed != 0,
            .ld = key.a_ld,
        }, .{ .count = key.batch, .step = key.a_batch });
        errdefer _ = api.MatrixLayoutDestroy(made.a);
        made.b = try lt.layout(key.input, key.n, key.k, .{
            .transposed = key.b_transposed != 0,
            .ld = key.b_ld,
        }, .{ .count = key.batch, .step = key.b_batch });
        errdefer _ = api.MatrixLayoutDestroy(made.b);
        made.c = try lt.layout(key.output, key.n, key.m, .{
            .transposed = false,
            .ld = key.c_ld,
        }, .{ .count = key.batch, .step = key.c_batch });
        errdefer _ = api.MatrixLayoutDestroy(made.c);
        var preference: Preference = null;
        try check(api.MatmulPreferenceCreate(&preference), "matmul preference");
        defer _ = api.MatmulPreferenceDestroy(preference);
        const most: u64 = workspace_bytes;
        const set = api.MatmulPreferenceSetAttribute;
        try check(set(preference, max_workspace, &most, 8), "workspace");
        try check(set(preference, reduction_mask, &reduced_apart, 4), "reduction scheme");
        for (first_alignment..first_alignment + 4) |attribute| try check(
            set(preference, @intCast(attribute), &key.alignment, 4),
            "alignment",
        );
        var found: c_int = 0;
        try check(api.MatmulAlgoGetHeuristic(
            lt.handle,
            made.desc,
            made.b,
            made.a,
            made.c,
            made.c,
            preference,
            made.candidates.len,
            &made.candidates,
            &found,
        ), "choosing a matmul algorithm");
        if (found < 1) return status.fail(
            .cublas,
            "cuBLASLt has no algorithm for a product of [{d}, {d}] and [{d}, {d}]",
            .{ key.m, key.k, key.k, key.n },
        );
        made.count = @intCast(found);
        return made;
    }

    const Batch = struct { count: u64, step: u64 };

    fn layout(
        lt: *Lt,
        dtype: i32,
        rows: u64,
        columns: u64,
        memory: Leading,
        batch: Batch,
    ) Error!Layout {
        const kind: c_int = if (dtype == @backingInt(DType.bf16)) bfloat16 else real32;
        var made: Layout = null;
        const height = if (memory.transposed) columns else rows;
        const width = if (memory.transposed) rows else columns;
        try check(
            lt.api.MatrixLayoutCreate(&made, kind, height, width, @intCast(memory.ld)),
            "matrix layout",
        );
        errdefer _ = lt.api.MatrixLayoutDestroy(made);
        if (batch.count == 1) return made;
        const count: i32 = @intCast(batch.count);
        const step: i64 = @intCast(batch.step);
        const set = lt.api.MatrixLayoutSetAttribute;
        try check(set(made, batch_count, &count, 4), "matrix layout");
        try check(set(made, batch_offset, &step, 8), "matrix layout");
        return made;
    }
};

fn keyOf(a: *const args.matmul.Matmul) Key {
    const left = leading(a.a_row_stride, a.a_column_stride, a.m, a.k).?;
    const right = leading(a.b_row_stride, a.b_column_stride, a.k, a.n).?;
    return .{
        .m = a.m,
        .n = a.n,
        .k = a.k,
        .batch = a.batch,
        .a_ld = left.ld,
        .b_ld = right.ld,
        .c_ld = a.c_row_stride,
        .a_batch = a.a_batch_stride,
        .b_batch = a.b_batch_stride,
        .c_batch = a.c_batch_stride,
        .input = a.a_dtype,
        .output = a.c_dtype,
        .a_transposed = @intFromBool(left.transposed),
        .b_transposed = @intFromBool(right.transposed),
        .alignment = alignmentOf(a),
        .accumulate = a.accumulate,
    };
}

/// The largest power of two up to 256 that divides every address.
fn alignmentOf(a: *const args.matmul.Matmul) u32 {
    const bits = @intFromPtr(a.a) | @intFromPtr(a.b) | @intFromPtr(a.c) | 256;
    return @as(u32, 1) << @intCast(@ctz(bits));
}

const Leading = struct { ld: u64, transposed: bool };

/// Row-major with rows `ld` apart, or its transpose; null when neither dim is contiguous.
fn leading(row: u64, column: u64, rows: u64, columns: u64) ?Leading {
    if ((column == 1 or columns == 1) and (row >= columns or rows == 1))
        return .{ .ld = if (rows == 1) columns else row, .transposed = false };
    if ((row == 1 or rows == 1) and (column >= rows or columns == 1))
        return .{ .ld = if (columns == 1) rows else column, .transposed = true };
    return null;
}

fn check(result: Result, comptime what: []const u8) Error!void {
    if (result == 0) return;
    return status.fail(.cublas, "cuBLASLt: " ++ what ++ " failed with status {d}", .{result});
}
