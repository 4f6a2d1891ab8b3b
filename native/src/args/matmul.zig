//! Matrix products of views. native.md §13.

/// C[b] = alpha·A[b]·B[b] (+ C[b]) (+ bias) (+ residual[b]), A [m, k] and B [k, n] by any strides
/// (a transpose is a pair of swapped strides, a batch stride of 0 repeats an operand), C and
/// residual
/// row-major in their last dim. The arithmetic type of the column S accumulates: f32 for any mix of
/// f32 and bf16, f64 for f64 only. k = 0 gives 0 (+ …). C is not read unless `accumulate`.
pub const Matmul = extern struct {
    a: *const anyopaque, // of `a_dtype`
    b: *const anyopaque, // of `b_dtype`
    c: *anyopaque, // of `c_dtype`
    bias: ?*const anyopaque, // A [n]
    residual: ?*const anyopaque, // of `c_dtype`, strides of C
    batch: u64,
    m: u64,
    n: u64,
    k: u64,
    a_batch_stride: u64,
    a_row_stride: u64,
    a_column_stride: u64,
    b_batch_stride: u64,
    b_row_stride: u64, // from k to k + 1
    b_column_stride: u64, // from n to n + 1
    c_batch_stride: u64,
    c_row_stride: u64,
    alpha: f64,
    a_dtype: i32, // dtype.DType
    b_dtype: i32,
    c_dtype: i32,
    accumulate: u32, // 1: C is added to
    pub const storage = .{ f32, f64 };
};

pub const kernels = .{
    .{ "matmul", Matmul },
};
