//! An optional CBLAS library. It multiplies only after it has proved itself here: some builds take
//! new
//! processors for others and compute wrong results. Never the default: the in-tree product has the
//! same bits for every number of threads.

const std = @import("std");
const library = @import("library.zig");
const args = @import("../args/matmul.zig");
const Parallel = @import("../parallel.zig").Parallel;

const Gemm = *const fn (
    order: i32,
    transpose_a: i32,
    transpose_b: i32,
    m: i32,
    n: i32,
    k: i32,
    alpha: f32,
    a: [*]const f32,
    lda: i32,
    b: [*]const f32,
    ldb: i32,
    beta: f32,
    c: [*]f32,
    ldc: i32,
) callconv(.c) void;

const row_major = 101;
const plain = 111;
const transposed = 112;

pub const Blas = struct {
    gemm: Gemm,
    setThreads: ?*const fn (i32) callconv(.c) void,

    pub const Failure = union(enum) { reason: [*:0]const u8, symbol, mismatch: f64 };

    /// Symbol prefixes: that of SciPy's package, then none.
    pub fn open(path: [*:0]const u8, failure: *Failure) ?Blas {
        const handle = switch (library.open(path)) {
            .handle => |handle| handle,
            .reason => |reason| {
                failure.* = .{ .reason = reason };
                return null;
            },
        };
        const gemm = library.symbol(Gemm, handle, "scipy_cblas_sgemm") orelse
            library.symbol(Gemm, handle, "cblas_sgemm") orelse {
            failure.* = .symbol;
            return null;
        };
        const Set = *const fn (i32) callconv(.c) void;
        return .{
            .gemm = gemm,
            .setThreads = library.symbol(Set, handle, "scipy_openblas_set_num_threads") orelse
                library.symbol(Set, handle, "openblas_set_num_threads"),
        };
    }

    /// Whether this product is one that CBLAS can do: f32, one batch, one stride of 1 per operand.
    pub fn fits(a: *const args.Matmul) bool {
        const f32_only = a.a_dtype == 0 and a.b_dtype == 0 and a.c_dtype == 0;
        const strided = (a.a_row_stride == 1 or a.a_column_stride == 1) and
            (a.b_row_stride == 1 or a.b_column_stride == 1);
        const small = @max(a.m, a.n, a.k) < std.math.maxInt(i32);
        return f32_only and strided and small and a.batch == 1 and a.bias == null and
            a.residual == null and a.m > 1 and a.n > 1 and a.k > 0;
    }

    pub fn multiply(blas: Blas, a: *const args.Matmul) void {
        const flip_a = a.a_column_stride != 1;
        const flip_b = a.b_column_stride != 1;
        blas.gemm(
            row_major,
            if (flip_a) transposed else plain,
            if (flip_b) transposed else plain,
            @intCast(a.m),
            @intCast(a.n),
            @intCast(a.k),
            @floatCast(a.alpha),
            @ptrCast(@alignCast(a.a)),
            @intCast(@max(if (flip_a) a.a_column_stride else a.a_row_stride, 1)),
            @ptrCast(@alignCast(a.b)),
            @intCast(@max(if (flip_b) a.b_column_stride else a.b_row_stride, 1)),
            @floatFromInt(a.accumulate),
            @ptrCast(@alignCast(a.c)),
            @intCast(a.c_row_stride),
        );
    }
};
