//! Cross entropy over the vocabulary, alone and fused with the language-model head.
//! training.md §3.1, mesh.md §6 and §9, models.md §2.6 and §2.8.
//!
//! For row i with logits r, target y, weight w = [mask ≠ 0]·weights, cap c, smoothing ε, z-loss λ:
//!     z = c·tanh(r/c) (z = r without a cap);  lse = ln Σⱼ e^zⱼ
//!     lossᵢ = w·( lse − (1−ε)·z_y − (ε/V)·Σⱼ zⱼ + λ·lse² )
//! A row with w = 0 is not valid: its target is never read, its loss and gradient are 0.
//! The loss is the SUM over rows. Gradients are multiplied by `grad_scale` (1 / valid tokens of the
//! whole step).

/// Writes (`=`) the sums and, where asked for, values per row.
pub const CrossEntropyForward = extern struct {
    logits: *const anyopaque, // [rows, vocab]
    targets: *const anyopaque, // i32 [rows]; 0 ≤ target < vocab on every valid row
    mask: ?*const anyopaque, // u8 [rows]; 0 = not valid; null = all valid
    weights: ?*const anyopaque, // A [rows]; null = 1; 0 = not valid
    loss: *anyopaque, // A [1]; Σ lossᵢ, added in f64 in row order
    count: *anyopaque, // i32 [1]; number of valid rows
    weight_sum: ?*anyopaque, // A [1]; Σ w
    correct: ?*anyopaque, // i32 [1]; valid rows whose arg-max (lowest id wins ties) is the target
    loss_rows: ?*anyopaque, // A [rows]; lossᵢ, already weighted
    lse: ?*anyopaque, // A [rows]; 0 on rows that are not valid. CrossEntropyBackward needs it
    rows: u64,
    vocab: u64,
    soft_cap: f64, // 0 = none
    label_smoothing: f64, // ε in [0, 1)
    z_loss: f64, // λ ≥ 0
};

/// dr = grad_scale·(dloss + dloss_rowsᵢ)·w·( p·(1 + 2λ·lse) − q )·(1 − (z/c)²),
/// p = e^(z − lse), q = (1−ε)·[j = y] + ε/V.
pub const CrossEntropyBackward = extern struct {
    logits: *const anyopaque, // [rows, vocab], as in the forward pass
    targets: *const anyopaque, // i32 [rows]
    mask: ?*const anyopaque, // u8 [rows]
    weights: ?*const anyopaque, // A [rows]
    lse: *const anyopaque, // A [rows], from the forward pass
    dloss: ?*const anyopaque, // A [1]; gradient of `loss`. null: 1, or 0 if dloss_rows is given
    dloss_rows: ?*const anyopaque, // A [rows]; gradient of `loss_rows`
    dlogits: *anyopaque, // [rows, vocab]; may be `logits` itself
    rows: u64,
    vocab: u64,
    soft_cap: f64,
    label_smoothing: f64,
    z_loss: f64,
    grad_scale: f64,
};

/// logits = hidden·weightᵀ in A, then the loss above; with `dhidden`/`dweight`, its gradients in
/// the same pass. Never holds more than one chunk of logits.
pub const LinearCrossEntropy = extern struct {
    hidden: *const anyopaque, // [rows, width]
    weight: *const anyopaque, // [vocab, width], of `weight_dtype`
    targets: *const anyopaque, // i32 [rows]; 0 ≤ target < vocab on every valid row
    mask: ?*const anyopaque, // u8 [rows]
    weights: ?*const anyopaque, // A [rows]
    loss: *anyopaque, // A [1]
    count: *anyopaque, // i32 [1]
    weight_sum: ?*anyopaque, // A [1]
    correct: ?*anyopaque, // i32 [1]
    loss_rows: ?*anyopaque, // A [rows]
    lse: ?*anyopaque, // A [rows]
    dhidden: ?*anyopaque, // [rows, width]; `=`, 0 on rows that are not valid
    dweight: ?*anyopaque, // A [vocab, width]; `=`, or `+=` with accumulate_dweight
    rows: u64,
    width: u64,
    vocab: u64,
    soft_cap: f64,
    label_smoothing: f64,
    z_loss: f64,
    grad_scale: f64, // multiplies dhidden and dweight, not the loss
    accumulate_dweight: u32,
    weight_dtype: i32, // dtype.DType: that of S, or that of A
};

/// The softmax of rows of which a rank has some columns, z of which the largest of all ranks' is
/// `top`. Columns of targets that lie elsewhere may be any; a rank's own are told apart by weights.
pub const SplitSoftmaxSums = extern struct {
    logits: *const anyopaque, // [rows, vocab]
    columns: *const anyopaque, // i32 [rows]; 0 ≤ column < vocab
    top: *const anyopaque, // A [rows]
    sums: *anyopaque, // A [2 or 3, rows]: Σⱼ e^(zⱼ−top), the column's logit, Σⱼ zⱼ
    rows: u64,
    vocab: u64,
    soft_cap: f64,
    parts: u32, // on a CPU Σ is made over each of so many equal parts, 1, 2, 4 or 8, and a tree
    wants_total: u32, // the third row
};

/// r ← ( e^(z−top)·scale − rest − own·[j = column] )·(1 − (z/c)²), in place; 0 where all three are.
pub const SplitSoftmaxSlopes = extern struct {
    logits: *anyopaque, // [rows, vocab]
    columns: *const anyopaque, // i32 [rows]
    top: *const anyopaque, // A [rows]
    scale: *const anyopaque, // A [rows]
    rest: *const anyopaque, // A [rows]
    own: *const anyopaque, // A [rows]; 0 where the target lies elsewhere
    rows: u64,
    vocab: u64,
    soft_cap: f64,
};

pub const kernels = .{
    .{ "crossEntropyForward", CrossEntropyForward },
    .{ "crossEntropyBackward", CrossEntropyBackward },
    .{ "linearCrossEntropy", LinearCrossEntropy },
    .{ "splitSoftmaxSums", SplitSoftmaxSums },
    .{ "splitSoftmaxSlopes", SplitSoftmaxSlopes },
};
