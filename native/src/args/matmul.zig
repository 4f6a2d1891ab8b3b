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

/// One product of a sum of products.
pub const Term = extern struct {
    a: *const anyopaque, // S [m, k], steps of k at distance 1
    b: *const anyopaque, // S [k, n] by any strides
    k: u64,
    a_row_stride: u64,
    b_row_stride: u64, // from k to k + 1
    b_column_stride: u64, // from n to n + 1
};

/// C = Σ A·B over terms (+ bias), in an order that does not depend on how many ranks share it.
/// Run p of a term is its steps [p·k/parts, (p+1)·k/parts); the runs p of all terms are one chain,
/// and the chains are added in a balanced binary tree. A rank with an aligned 1/t of the steps of
/// every term makes a subtree of it with parts/t.
pub const MatmulParts = extern struct {
    terms: *const anyopaque, // Term [count]
    c: *anyopaque, // S [m, n]
    bias: ?*const anyopaque, // S [n]
    count: u64,
    m: u64,
    n: u64,
    parts: u64, // a power of two up to `most_parts`
    pub const storage = .{ f32, f64 };
};

/// Into how many runs `MatmulParts` cuts a sum at most: the most ranks that share one.
pub const most_parts = 8;

pub const kernels = .{
    .{ "matmul", Matmul },
    .{ "matmulParts", MatmulParts },
};
