//! mLSTM cell. kernels.md §2-6, models.md §3.1-3.3.
//!
//! q is scaled by s = DQK^(−1/2), k is not; C = Σ k vᵀ has one row per component of k. The gate
//! soft cap, biases and projections are outside of the cell. q, k, v may be views into one
//! projection: innermost dim contiguous, any strides else.

/// Distances in elements between neighbours of one dim.
pub const Strides = extern struct { batch: u64, step: u64, head: u64 };

pub const input_gate = struct {
    pub const exp = 0;
    pub const sigmoid = 1; // m ≡ 0, li = log σ(i)
};

pub const reset = struct {
    pub const none = 0;
    /// The state before a border token is the fresh one: C = 0, n = 0, m = 0.
    pub const exact = 1;
    /// f := `reset_value` at border tokens; no gradient flows into f there.
    pub const soft = 2;
};

pub const form = struct {
    pub const chunkwise = 0;
    pub const parallel = 1; // one chunk of the whole length
    pub const recurrent = 2; // token by token; its backward pass is the chunkwise one
};

/// lf = −softplus(−f), m_t = max(lf_t + m_{t−1}, i_t), F = e^(lf + m_{t−1} − m_t), I = e^(i − m_t),
/// C_t = F C_{t−1} + I k vᵀ, n_t = F n_{t−1} + I k, σ_t = s·q·n_t,
/// h_t = s·qᵀC_t / (max(|σ_t|, e^(−m_t)) + eps). Sigmoid gate: I = σ(i), F = σ(f), m ≡ 0, and
/// without `normalize` h_t = s·qᵀC_t, no n.
///
/// Tokens from `lengths` on give h = σ = m = 0 and leave the state as it is; their inputs are not
/// read.
pub const MlstmForward = extern struct {
    q: *const anyopaque, // [B, S, NH, DQK], `q_strides`
    k: *const anyopaque, // [B, S, NH, DQK], `k_strides`
    v: *const anyopaque, // [B, S, NH, DV], `v_strides`
    i: *const anyopaque, // A [B, S, NH] pre-activations
    f: *const anyopaque, // A [B, S, NH] pre-activations
    c0: ?*const anyopaque, // A [B, NH, DQK, DV]; zeros when null
    n0: ?*const anyopaque, // A [B, NH, DQK]; zeros when null
    m0: ?*const anyopaque, // A [B, NH], finite; zeros when null; ignored by the sigmoid gate
    borders: ?*const anyopaque, // u8 [B, S], 1 = first token of a document
    lengths: ?*const anyopaque, // i32 [B], 0..S
    h: *anyopaque, // [B, S, NH, DV]
    sigma: ?*anyopaque, // A [B, S, NH]; the backward pass needs it (0 without `normalize`)
    m: ?*anyopaque, // A [B, S, NH] (0 with the sigmoid gate)
    c_last: ?*anyopaque, // A [B, NH, DQK, DV]; may be c0
    n_last: ?*anyopaque, // A [B, NH, DQK]; may be n0; 0 without `normalize`
    m_last: ?*anyopaque, // A [B, NH]; may be m0; 0 with the sigmoid gate
    records: ?*anyopaque, // f32: what the backward pass of the same backend wants of the gates
    q_strides: Strides,
    k_strides: Strides,
    v_strides: Strides,
    batch: u64,
    length: u64, // S >= 1
    heads: u64,
    width_qk: u64, // DQK >= 1
    width_v: u64, // DV >= 1
    chunk: u64, // L >= 1; every L gives the same values
    eps: f64,
    reset_value: f64,
    input_gate: u32,
    normalize: u32, // 1 with the exp gate
    reset: u32, // acts only with `borders`
    form: u32,
};

pub const grad_mode = struct {
    /// N and m are constants: what the public kernels compute.
    pub const frozen = 0;
    /// The full derivative, through N too.
    pub const exact = 1;
};

/// Gradients of `MlstmForward` for the cotangent dh (and dC, dn, dm of the last state): kernels.md
/// §3. m and the states are recomputed; keep q, k, v, i, f, h, σ and the initial state.
///
/// Tokens from `lengths` on get zero gradients; their inputs are not read.
pub const MlstmBackward = extern struct {
    q: *const anyopaque, // as in the forward pass, down to `lengths`
    k: *const anyopaque,
    v: *const anyopaque,
    i: *const anyopaque,
    f: *const anyopaque,
    c0: ?*const anyopaque,
    n0: ?*const anyopaque,
    m0: ?*const anyopaque,
    borders: ?*const anyopaque,
    lengths: ?*const anyopaque,
    h: ?*const anyopaque, // [B, S, NH, DV]; may be null in frozen mode and without `normalize`
    sigma: ?*const anyopaque, // A [B, S, NH] of the forward pass; may be null without `normalize`
    records: ?*const anyopaque, // f32, of the forward pass; may be null
    dh: *const anyopaque, // [B, S, NH, DV]
    dc_last: ?*const anyopaque, // A [B, NH, DQK, DV]; zeros when null
    dn_last: ?*const anyopaque, // A [B, NH, DQK]; zeros when null; null without `normalize`
    dm_last: ?*const anyopaque, // A [B, NH]: a loss on the stabilised triple itself; null: m is
    // bookkeeping and gets no gradient; null with the sigmoid gate
    dq: *anyopaque, // [B, S, NH, DQK]
    dk: *anyopaque, // [B, S, NH, DQK]
    dv: *anyopaque, // [B, S, NH, DV]
    di: *anyopaque, // A [B, S, NH]
    df: *anyopaque, // A [B, S, NH]
    dc0: ?*anyopaque, // A [B, NH, DQK, DV]; may be dc_last
    dn0: ?*anyopaque, // A [B, NH, DQK]; may be dn_last; 0 without `normalize`
    dm0: ?*anyopaque, // A [B, NH]; may be dm_last; 0 with the sigmoid gate
    q_strides: Strides,
    k_strides: Strides,
    v_strides: Strides,
    batch: u64,
    length: u64,
    heads: u64,
    width_qk: u64,
    width_v: u64,
    chunk: u64,
    eps: f64,
    reset_value: f64,
    input_gate: u32,
    normalize: u32,
    reset: u32,
    form: u32,
    mode: u32, // of `grad_mode`
    eps_term: u32, // exact mode with the exp gate: 1 adds the derivative of eps·e^m
};

/// One token for every row; the state is updated in place.
pub const MlstmStep = extern struct {
    q: *const anyopaque, // [rows, NH, DQK]; of the strides `batch` is the row's, `step` is unused
    k: *const anyopaque, // [rows, NH, DQK]
    v: *const anyopaque, // [rows, NH, DV]
    i: *const anyopaque, // A [rows, NH]
    f: *const anyopaque, // A [rows, NH]
    slots: ?*const anyopaque, // i32 [rows], distinct: row r uses state slots[r]; null: state r
    c: *anyopaque, // A [slots, NH, DQK, DV]
    n: ?*anyopaque, // A [slots, NH, DQK]; null without `normalize`
    m: ?*anyopaque, // A [slots, NH]; null with the sigmoid gate
    h: *anyopaque, // [rows, NH, DV]
    q_strides: Strides,
    k_strides: Strides,
    v_strides: Strides,
    rows: u64,
    heads: u64,
    width_qk: u64,
    width_v: u64,
    eps: f64,
    input_gate: u32,
    normalize: u32,
};

pub const kernels = .{
    .{ "mlstmForward", MlstmForward },
    .{ "mlstmBackward", MlstmBackward },
    .{ "mlstmStep", MlstmStep },
};
