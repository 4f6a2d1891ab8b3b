//! Norms over the last dim, head norm with output gate, softmax. kernels.md §9, models.md §2.2-2.3.
//! Statistics and parameter gradients are in A.

/// y = x̂·g (+ b), x̂ = (x − mean)·rstd (LayerNorm) or x·rstd (RMSNorm), rstd = 1/√(var + eps), var
/// biased (RMSNorm: mean of x²). With `residual`: x + residual is written to `sum`, rounded to S,
/// and takes the place of x.
pub const NormForward = extern struct {
    x: *const anyopaque, // [rows, groups, width]
    residual: ?*const anyopaque, // [rows, groups, width]; needs `sum`
    scale: ?*const anyopaque, // A [groups, width]
    bias: ?*const anyopaque, // A [groups, width]
    y: *anyopaque, // [rows, groups, width]; may be x
    sum: ?*anyopaque, // [rows, groups, width]; may be x or residual
    mean: ?*anyopaque, // A [rows, groups]; LayerNorm only, where the backward pass needs it
    rstd: ?*anyopaque, // A [rows, groups]; null when no backward pass follows
    rows: u64,
    groups: u64, // 1 for a plain norm, the number of heads for a head norm
    width: u64,
    eps: f64,
    scale_offset: f64, // 0, or 1 when the stored scale is w and g = 1 + w
    center: u32, // 1: LayerNorm, 0: RMSNorm
};

/// a = dy·g; dx = rstd·(a − mean(a) − x̂·mean(a∘x̂)) (+ dsum); RMSNorm without mean(a).
/// dscale = Σ_rows dy∘x̂, dbias = Σ_rows dy, in fixed blocks of rows.
pub const NormBackward = extern struct {
    dy: *const anyopaque, // [rows, groups, width]
    x: *const anyopaque, // the normalised input (after the residual sum)
    scale: ?*const anyopaque, // A
    mean: ?*const anyopaque, // A; LayerNorm only
    rstd: *const anyopaque, // A
    dsum: ?*const anyopaque, // [rows, groups, width]: gradient that arrives at the residual sum
    dx: *anyopaque, // [rows, groups, width]; may be dy or dsum
    dscale: ?*anyopaque, // A [groups, width]
    dbias: ?*anyopaque, // A [groups, width]
    rows: u64,
    groups: u64,
    width: u64,
    scale_offset: f64,
    center: u32,
};

/// out = σ(o) ∘ (g∘x̂ (+ b)), x̂ as in `NormForward` for every row and head. kernels.md §9.
pub const HeadNormGateForward = extern struct {
    h: *const anyopaque, // [rows, groups, width]
    o: *const anyopaque, // gate pre-activation [rows, groups·width], rows `o_stride` apart
    scale: ?*const anyopaque, // A [groups, width]
    bias: ?*const anyopaque, // A [groups, width]
    y: *anyopaque, // [rows, groups·width]
    mean: ?*anyopaque, // A [rows, groups]; LayerNorm only
    rstd: ?*anyopaque, // A [rows, groups]
    rows: u64,
    groups: u64,
    width: u64,
    o_stride: u64, // in elements
    eps: f64,
    scale_offset: f64,
    center: u32,
};

/// a = dy∘σ(o)∘g; dh as dx in `NormBackward`; do = dy∘(g∘x̂ + b)∘σ(o)(1 − σ(o));
/// dscale = Σ dy∘σ(o)∘x̂, dbias = Σ dy∘σ(o); inner = ⟨dh, h⟩ = (Σ_d a_d x̂_d)·eps·rstd².
pub const HeadNormGateBackward = extern struct {
    dy: *const anyopaque, // [rows, groups·width]
    h: *const anyopaque,
    o: *const anyopaque,
    scale: ?*const anyopaque, // A
    bias: ?*const anyopaque, // A
    mean: ?*const anyopaque, // A; LayerNorm only
    rstd: *const anyopaque, // A
    dh: *anyopaque, // [rows, groups, width]; may be dy
    do: *anyopaque, // [rows, groups·width], rows `do_stride` apart; may be o
    dscale: ?*anyopaque, // A [groups, width]
    dbias: ?*anyopaque, // A [groups, width]
    inner: ?*anyopaque, // A [rows, groups], without cancellation; exact for RMSNorm, and for
    // LayerNorm because Σ dh = 0 makes ⟨dh, h⟩ = ⟨dh, h − mean⟩
    rows: u64,
    groups: u64,
    width: u64,
    o_stride: u64,
    do_stride: u64,
    eps: f64,
    scale_offset: f64,
    center: u32,
};

/// y = e^(x − max) / Σ e^(x − max) over the last dim. An all −Inf row gives NaN.
pub const SoftmaxForward = extern struct {
    x: *const anyopaque, // [rows, width]
    y: *anyopaque, // [rows, width]; may be x
    rows: u64,
    width: u64,
};

/// dx = y∘(dy − Σ dy∘y).
pub const SoftmaxBackward = extern struct {
    dy: *const anyopaque, // [rows, width]
    y: *const anyopaque, // [rows, width]
    dx: *anyopaque, // [rows, width]; may be dy
    rows: u64,
    width: u64,
};

/// y = x − logsumexp(x) over the last dim; the backward pass is dx = dy − e^y·Σ dy.
pub const LogSoftmaxForward = SoftmaxForward;
pub const LogSoftmaxBackward = SoftmaxBackward;

pub const kernels = .{
    .{ "normForward", NormForward },
    .{ "normBackward", NormBackward },
    .{ "headNormGateForward", HeadNormGateForward },
    .{ "headNormGateBackward", HeadNormGateBackward },
    .{ "softmaxForward", SoftmaxForward },
    .{ "softmaxBackward", SoftmaxBackward },
    .{ "logSoftmaxForward", LogSoftmaxForward },
    .{ "logSoftmaxBackward", LogSoftmaxBackward },
};
