//! Causal depthwise convolution over time and head-wise (block-diagonal) linear maps.
//! kernels.md §8, models.md §2.4-2.5.

/// u_t = b + Σ_j w_j·x_e[t + j], x_e = [state, x] along time; y = u, or u·σ(u) with `silu`.
pub const ConvForward = extern struct {
    x: *const anyopaque, // [B, T, C], tokens `x_stride` apart (a batch row is T tokens long)
    weight: *const anyopaque, // A [C, K]; tap K − 1 meets the current token
    bias: ?*const anyopaque, // A [C]
    state: ?*const anyopaque, // [B, K − 1, C]: the inputs before the first; zeros when null
    borders: ?*const anyopaque, // u8 [B, T]; taps from before a token with a non-zero flag read 0
    lengths: ?*const anyopaque, // i32 [B], 0..T; y = 0 beyond
    y: *anyopaque, // [B, T, C]
    last: ?*anyopaque, // [B, K − 1, C]: the last inputs, 0 before the last border; not `state`
    batch: u64,
    length: u64,
    channels: u64,
    taps: u64, // K >= 1
    x_stride: u64, // in elements, >= C
    silu: u32,
};

/// du = dy (·silu'(u), u recomputed); dx_e[t + j] += w_j·du_t; dw_j = Σ_{B,t} du_t·x_e[t + j];
/// db = Σ du. Taps cut by a border carry nothing. `dlast` adds to the inputs that `last` held.
pub const ConvBackward = extern struct {
    dy: *const anyopaque, // [B, T, C]
    x: *const anyopaque, // [B, T, C], tokens `x_stride` apart
    weight: *const anyopaque, // A [C, K]
    bias: ?*const anyopaque, // A [C]
    state: ?*const anyopaque, // [B, K − 1, C]
    borders: ?*const anyopaque, // u8 [B, T]
    lengths: ?*const anyopaque, // i32 [B]
    dlast: ?*const anyopaque, // [B, K − 1, C]
    dx: *anyopaque, // [B, T, C], tokens `dx_stride` apart; 0 beyond `lengths`
    dweight: *anyopaque, // A [C, K]
    dbias: ?*anyopaque, // A [C]
    dstate: ?*anyopaque, // [B, K − 1, C]
    batch: u64,
    length: u64,
    channels: u64,
    taps: u64,
    x_stride: u64,
    dx_stride: u64,
    silu: u32,
};

/// One token for every row: y as above, then the state moves on by one.
pub const ConvStep = extern struct {
    x: *const anyopaque, // [rows, C], rows `x_stride` apart
    weight: *const anyopaque, // A [C, K]
    bias: ?*const anyopaque, // A [C]
    slots: ?*const anyopaque, // i32 [rows], distinct: row r uses state slots[r]; null: state r
    state: *anyopaque, // [slots, K − 1, C]
    y: *anyopaque, // [rows, C]
    rows: u64,
    channels: u64,
    taps: u64,
    x_stride: u64,
    silu: u32,
};

/// y[r, h, o] = Σ_i w[h, o, i]·x[r, h, i] (+ bias[h, o]).
pub const HeadwiseForward = extern struct {
    x: *const anyopaque, // [rows, n, a], rows `x_stride` apart
    weight: *const anyopaque, // A [n, b, a]
    bias: ?*const anyopaque, // A [n, b]
    y: *anyopaque, // [rows, n, b], rows `y_stride` apart
    rows: u64,
    blocks: u64, // n
    inputs: u64, // a
    outputs: u64, // b
    x_stride: u64, // in elements, >= n·a
    y_stride: u64, // in elements, >= n·b
};

/// dx[r, h, i] = Σ_o w[h, o, i]·dy[r, h, o]; dw[h, o, i] = Σ_r dy[r, h, o]·x[r, h, i];
/// dbias = Σ_r dy. Sums over rows are made in fixed blocks of rows, added in order.
pub const HeadwiseBackward = extern struct {
    dy: *const anyopaque, // [rows, n, b], rows `y_stride` apart
    x: *const anyopaque, // [rows, n, a], rows `x_stride` apart
    weight: *const anyopaque, // A [n, b, a]
    dx: ?*anyopaque, // [rows, n, a], rows `dx_stride` apart; null when not needed
    dweight: *anyopaque, // A [n, b, a]
    dbias: ?*anyopaque, // A [n, b]
    rows: u64,
    blocks: u64,
    inputs: u64,
    outputs: u64,
    x_stride: u64,
    y_stride: u64,
    dx_stride: u64,
};

pub const kernels = .{
    .{ "convForward", ConvForward },
    .{ "convBackward", ConvBackward },
    .{ "convStep", ConvStep },
    .{ "headwiseForward", HeadwiseForward },
    .{ "headwiseBackward", HeadwiseBackward },
};
