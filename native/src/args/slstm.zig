//! sLSTM cell (and the plain LSTM with the same memory layout). kernels.md §7, models.md §3.4.
//!
//! Gates are in the order i, f, z, o; states in the order y, c, n, m. Every head owns DH units, and
//! R couples the units of one head only.

/// raw_g = wx_g + y_{t−1}·R_g + b_g, then per unit (function 0)
/// m = raw_i where n_{t−1} = 0, else max(raw_i, l), l = m_{t−1} + logσ(raw_f);
/// i' = e^(raw_i − m), f' = e^(l − m) (0 where n_{t−1} = 0);
/// c = f'c + i'·tanh(raw_z); n = f'n + i'; y = σ(raw_o)·c/n.
/// Function 1: c = σ(raw_f)c + σ(raw_i)·tanh(raw_z), y = σ(raw_o)·tanh(c), n = m = 0.
pub const SlstmForward = extern struct {
    wx: *const anyopaque, // [B, T, 4, NH, DH]
    r: *const anyopaque, // A [4, NH, DHin, DHout]
    b: *const anyopaque, // A [4, NH, DH]
    initial: ?*const anyopaque, // A [B, 4, NH, DH]; zeros when null. c must be 0 where n is 0
    borders: ?*const anyopaque, // u8 [B, T]; the state is zeroed before tokens with a flag
    lengths: ?*const anyopaque, // i32 [B], 0..T; later rows give y = 0 and leave the state as it is
    y: *anyopaque, // [B, T, NH, DH]
    saved: ?*anyopaque, // A [B, T, NH, saved_planes, DH], as the path wants it; null: no backward
    last: ?*anyopaque, // A [B, 4, NH, DH]; may be `initial`
    batch: u64,
    length: u64,
    heads: u64,
    width: u64, // DH
    function: u32, // 0 sLSTM, 1 LSTM
    clip: f64, // y is clamped to [−clip, clip]; 0: off
};

/// What the forward pass keeps per unit and token, in this order: c, n, gate, tanh(raw_z),
/// σ(raw_o), σ(−raw_f). One of i', f' is always 1: `gate` is the other, with a minus sign (−0
/// included) when it is i'. LSTM: c, tanh c, σ(raw_i), tanh(raw_z), σ(raw_o), σ(−raw_f).
/// All are 0 beyond `lengths`.
pub const saved_planes = 6;

/// Equations of kernels.md §7.2. The m part of `dlast` is ignored: m is bookkeeping.
pub const SlstmBackward = extern struct {
    dy: *const anyopaque, // [B, T, NH, DH]
    dlast: ?*const anyopaque, // A [B, 4, NH, DH]; zeros when null
    r: *const anyopaque, // A [4, NH, DHin, DHout]
    initial: ?*const anyopaque, // A [B, 4, NH, DH]
    borders: ?*const anyopaque, // u8 [B, T]
    lengths: ?*const anyopaque, // i32 [B]
    saved: *const anyopaque, // A [B, T, NH, saved_planes, DH]
    dwx: *anyopaque, // [B, T, 4, NH, DH]; 0 beyond `lengths`
    dr: *anyopaque, // A [4, NH, DHin, DHout]
    db: *anyopaque, // A [4, NH, DH]
    dinitial: ?*anyopaque, // A [B, 4, NH, DH]; its m part is c_0·dc_0 + n_0·dn_0
    batch: u64,
    length: u64,
    heads: u64,
    width: u64,
    function: u32,
    clip: f64, // as in the forward pass
    recurrent_cut: u32, // 1: no gradient flows from a token to the y before it (dr is unchanged)
    recurrent_clip: f64, // that gradient is clamped to [−clip, clip]; 0: off
};

/// One token for every row; the state is updated in place.
pub const SlstmStep = extern struct {
    wx: *const anyopaque, // [rows, 4, NH, DH]
    r: *const anyopaque, // A [4, NH, DHin, DHout]
    b: *const anyopaque, // A [4, NH, DH]
    slots: ?*const anyopaque, // i32 [rows], distinct: row r uses state slots[r]; null: state r
    state: *anyopaque, // A [slots, 4, NH, DH]
    y: *anyopaque, // [rows, NH, DH]
    rows: u64,
    heads: u64,
    width: u64,
    function: u32,
    clip: f64,
};

pub const kernels = .{
    .{ "slstmForward", SlstmForward },
    .{ "slstmBackward", SlstmBackward },
    .{ "slstmStep", SlstmStep },
};
