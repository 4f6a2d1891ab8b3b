//! Element-wise operations, copies and casts, reductions, gated activations, sums of squares.
//! kernels.md §10, models.md §2.6-2.7, mesh.md §15.
//!
//! Views: `rank` ≤ 8 dims, sizes in `shape`, strides in elements (never negative, 0 repeats an
//! element). Only the first `rank` entries are read; rank 0 is a single element. Any size may be 0.

const DType = @import("../dtype.zig").DType;

pub const max_rank = 8;
pub const Dims = [max_rank]u64;

/// y = f(x). Append only: the numbers are shared with the CUDA kernels and with TypeScript.
pub const Unary = enum(u32) {
    neg = 0, // −x
    abs = 1,
    exp = 2,
    log = 3,
    sqrt = 4,
    rsqrt = 5, // 1/√x
    square = 6, // x²
    reciprocal = 7, // 1/x
    sigmoid = 8, // 1/(1 + e^−x)
    tanh = 9,
    silu = 10, // x·σ(x)
    gelu_erf = 11, // x·Φ(x)
    gelu_tanh = 12, // 0.5x(1 + tanh(√(2/π)(x + 0.044715x³)))
    relu = 13, // max(x, 0)
    relu2 = 14, // max(x, 0)²
    selu = 15, // λx above 0, λα(e^x − 1) below
    softplus = 16, // ln(1 + e^x)
    log_sigmoid = 17, // −ln(1 + e^−x)
    sin = 18,
    cos = 19,
    soft_cap = 20, // p·tanh(x/p)
    scale = 21, // x·p
    add_scalar = 22, // x + p
    pow_scalar = 23, // x^p
    clamp_min = 24, // max(x, p)
    clamp_max = 25, // min(x, p)

    /// What `unaryBackward` wants to see: the output where the derivative is a product of it (no
    /// new transcendental, no cancellation), nothing where it is constant, else the input. tanh
    /// and sigmoid take the input: 1 − y² of a saturated bf16 y would be 0.
    pub fn saved(op: Unary) Saved {
        return switch (op) {
            .exp, .sqrt, .rsqrt, .reciprocal => .output,
            .neg, .scale, .add_scalar => .nothing,
            else => .input,
        };
    }
};

pub const Saved = enum { input, output, nothing };

/// y = f(x) of a view, row-major result.
pub const UnaryForward = extern struct {
    x: *const anyopaque,
    y: *anyopaque, // contiguous
    shape: Dims,
    x_strides: Dims,
    rank: u64,
    parameter: f64, // p
    op: Unary,
};

/// dx = dy·f'(x), all contiguous. At a kink the derivative is that of the constant side: 0 for abs
/// at 0 and relu at 0; 1 for a clamp at x = p; λα for selu at 0.
pub const UnaryBackward = extern struct {
    dy: *const anyopaque,
    saved: ?*const anyopaque, // x, y or null: see `Unary.saved`
    dx: *anyopaque, // may be dy
    count: u64,
    parameter: f64,
    op: Unary,
};

/// y = a ∘ b. Comparisons give 1 or 0 (0 when an operand is NaN). maximum, minimum: NaN wins.
pub const Binary = enum(u32) {
    add = 0,
    sub = 1,
    mul = 2,
    div = 3,
    maximum = 4,
    minimum = 5,
    eq = 6,
    lt = 7,
    le = 8,
    gt = 9,
    ge = 10,
};

/// Two views of one shape (broadcasting is a stride of 0), row-major result.
pub const BinaryForward = extern struct {
    a: *const anyopaque,
    b: *const anyopaque,
    y: *anyopaque, // contiguous; may be a or b when that is contiguous
    shape: Dims,
    a_strides: Dims,
    b_strides: Dims,
    rank: u64,
    op: Binary,
};

/// y = mask ≠ 0 ? a : b.
pub const Where = extern struct {
    mask: *const anyopaque, // u8
    a: *const anyopaque,
    b: *const anyopaque,
    y: *anyopaque, // contiguous
    shape: Dims,
    mask_strides: Dims,
    a_strides: Dims,
    b_strides: Dims,
    rank: u64,
};

/// Any view into any view of the same shape, converting. Floats to integers: towards zero, the
/// range's end beyond it, NaN to 0. To narrower floats: to nearest, ties to even, one rounding.
/// The destination must not overlap the source and must not repeat elements.
pub const Copy = extern struct {
    pub const storage = .{f32};
    from: *const anyopaque,
    to: *anyopaque,
    shape: Dims,
    from_strides: Dims,
    to_strides: Dims,
    rank: u64,
    from_dtype: DType,
    to_dtype: DType,
};

/// y = value, converted as in `Copy`.
pub const Fill = extern struct {
    pub const storage = .{f32};
    y: *anyopaque, // contiguous
    count: u64,
    value: f64,
    dtype: DType,
};

/// y[i] = start + i·step, computed in f64 and converted once.
pub const Arange = extern struct {
    pub const storage = .{f32};
    y: *anyopaque, // contiguous
    count: u64,
    start: f64,
    step: f64,
    dtype: DType,
};

/// Over nothing: sum and sum_squares give 0, mean NaN, max and logsumexp −Inf, min +Inf.
/// max and min of anything with a NaN are NaN.
pub const Reduction = enum(u32) {
    sum = 0,
    mean = 1,
    max = 2,
    min = 3,
    sum_squares = 4,
    logsumexp = 5,
};

/// y[kept] = reduction over the reduced dims of x. The order of additions depends on the shapes
/// and strides only. y is row-major over the kept dims.
pub const Reduce = extern struct {
    x: *const anyopaque,
    y: *anyopaque, // S, or A when `wide`
    kept_shape: Dims,
    kept_strides: Dims,
    reduced_shape: Dims,
    reduced_strides: Dims,
    kept_rank: u64,
    reduced_rank: u64,
    op: Reduction,
    wide: u32, // 1: y has the arithmetic type (differs from S for bf16 only)
};

/// y = f(gate) ⊙ up, f without parameter. Rows may lie apart: gate and up can be the halves of one
/// [rows, 2·width] matrix.
pub const GatedActivationForward = extern struct {
    gate: *const anyopaque, // [rows, width]
    up: *const anyopaque, // [rows, width]
    y: *anyopaque, // [rows, width], contiguous
    rows: u64,
    width: u64,
    gate_stride: u64, // from row to row, in elements
    up_stride: u64,
    op: Unary, // sigmoid, silu, gelu_erf, gelu_tanh, relu, relu2, selu, tanh
};

/// dgate = dy ⊙ up ⊙ f'(gate), dup = dy ⊙ f(gate); f(gate) is recomputed.
pub const GatedActivationBackward = extern struct {
    dy: *const anyopaque, // [rows, width], contiguous
    gate: *const anyopaque,
    up: *const anyopaque,
    dgate: *anyopaque, // may be gate
    dup: *anyopaque, // may be up
    rows: u64,
    width: u64,
    gate_stride: u64,
    up_stride: u64,
    dgate_stride: u64,
    dup_stride: u64,
    op: Unary,
};

/// Per tensor: Σx² in f64 over fixed blocks of 4096 elements, added in block order, and the number
/// of elements that are Inf or NaN. Row `tensors` holds the totals, added in tensor order.
pub const GlobalSumSquares = extern struct {
    data: [*]const *const anyopaque, // [tensors] addresses, each contiguous
    counts: [*]const u64, // [tensors] numbers of elements
    out: *anyopaque, // f64 [tensors + 1, 2]: sum of squares, non-finite elements
    tensors: u64,
};

pub const kernels = .{
    .{ "unary", UnaryForward },
    .{ "unaryBackward", UnaryBackward },
    .{ "binary", BinaryForward },
    .{ "where", Where },
    .{ "copy", Copy },
    .{ "fill", Fill },
    .{ "arange", Arange },
    .{ "reduce", Reduce },
    .{ "gatedActivationForward", GatedActivationForward },
    .{ "gatedActivationBackward", GatedActivationBackward },
    .{ "globalSumSquares", GlobalSumSquares },
};
