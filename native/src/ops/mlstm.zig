//! mLSTM cell: checks and the call of the kernel. kernels.md §2-6.

const Context = @import("../runtime/context.zig").Context;
const Tensor = @import("../runtime/tensor.zig").Tensor;
const DType = @import("../dtype.zig").DType;
const kinds = @import("../args/mlstm.zig");
const cuda = @import("../cuda/mlstm_sweep.zig");
const scratch = @import("../abi/scratch.zig");
const slstm = @import("slstm.zig");
const op = @import("call.zig");
const Call = op.Call;
const Error = op.Error;

/// Options as TypeScript writes them, scratch ints from 32: input gate, normalize, reset, form,
/// chunk, gradient mode, eps term, whether the last state is wanted and a backward pass will come.
/// Scratch floats: eps, reset value.
const Options = struct {
    input_gate: u32,
    normalize: bool,
    reset: u32,
    form: u32,
    chunk: usize,
    mode: u32,
    eps_term: u32,
    wants_state: bool,
    keeps: bool,
    eps: f64,
    reset_value: f64,
};

fn options(call: *Call) Error!Options {
    const n = scratch.block.ints[32..41].*;
    const f = scratch.block.floats[0..2].*;
    const most = [_]i32{ 1, 1, 2, 2 };
    for (n[0..4], most, 0..) |value, top, i| {
        if (value < 0 or value > top) return call.invalid("option {d} is {d}", .{ i, value });
    }
    if (n[4] < 1) return call.invalid("a chunk of {d} tokens, expected at least 1", .{n[4]});
    if (!(f[0] >= 0)) return call.invalid("eps {d} is negative", .{f[0]});
    return .{
        .input_gate = @intCast(n[0]),
        .normalize = n[1] != 0 or n[0] == kinds.input_gate.exp,
        .reset = @intCast(n[2]),
        .form = @intCast(n[3]),
        .chunk = @intCast(n[4]),
        .mode = @intFromBool(n[5] != 0),
        .eps_term = @intFromBool(n[6] != 0),
        .wants_state = n[7] != 0,
        .keeps = n[8] != 0,
        .eps = f[0],
        .reset_value = f[1],
    };
}

const Sizes = struct { batch: usize, length: usize, heads: usize, qk: usize, v: usize };

/// The inputs, seen by strides; copied only when the innermost dim is not contiguous.
const Inputs = struct {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor,
    f: Tensor,
    c0: ?Tensor,
    n0: ?Tensor,
    m0: ?Tensor,
    rows: slstm.Rows,
    sizes: Sizes,
    A: DType,
};

fn strided(call: *Call, comptime what: []const u8, handle: i32, rank: usize) Error!Tensor {
    const x = try call.view(what, handle);
    try call.expectFloat(what, x);
    try call.expectRank(what, x, rank);
    if (x.back(0) <= 1 or x.strides[rank - 1] == 1) return x;
    return call.contiguous(x);
}

fn stridesOf(x: Tensor) kinds.Strides {
    return if (x.rank == 4)
        .{ .batch = x.strides[0], .step = x.strides[1], .head = x.strides[2] }
    else
        .{ .batch = x.strides[0], .step = 0, .head = x.strides[1] };
}

/// Handles in scratch ints: q, k, v, i, f, c0, n0, m0, borders, lengths.
fn inputs(call: *Call, handles: [10]i32, o: Options) Error!Inputs {
    const q = try strided(call, "q", handles[0], 4);
    const k = try strided(call, "k", handles[1], 4);
    const v = try strided(call, "v", handles[2], 4);
    try call.expectDType("k", k, q.dtype);
    try call.expectDType("v", v, q.dtype);
    const s: Sizes = .{
        .batch = q.shape[0],
        .length = q.shape[1],
        .heads = q.shape[2],
        .qk = q.shape[3],
        .v = v.shape[3],
    };
    if (q.count() == 0 or v.count() == 0) return call.invalid(
        "q has shape {f} and v {f}: no dim may be empty",
        .{ op.show(q.dims()), op.show(v.dims()) },
    );
    try call.expectShape("k", k, q.dims());
    try call.expectShape("v", v, &.{ s.batch, s.length, s.heads, s.v });
    const A = op.arithmetic(q.dtype);
    const gates = [_]usize{ s.batch, s.length, s.heads };
    const i = try call.inputAs("i", handles[3], A);
    const f = try call.inputAs("f", handles[4], A);
    try call.expectShape("i", i, &gates);
    try call.expectShape("f", f, &gates);
    const c0 = try call.optionalAs("c0", handles[5], A);
    const n0 = try call.optionalAs("n0", handles[6], A);
    const m0 = try call.optionalAs("m0", handles[7], A);
    try checkState(call, c0, n0, m0, s, o);
    return .{
        .q = q,
        .k = k,
        .v = v,
        .i = i,
        .f = f,
        .c0 = c0,
        .n0 = n0,
        .m0 = m0,
        .rows = try slstm.rowsOf(call, handles[8], handles[9], s.batch, s.length),
        .sizes = s,
        .A = A,
    };
}

fn checkState(call: *Call, c: ?Tensor, n: ?Tensor, m: ?Tensor, s: Sizes, o: Options) Error!void {
    if (c) |t| try call.expectShape("c", t, &.{ s.batch, s.heads, s.qk, s.v });
    if (n) |t| try call.expectShape("n", t, &.{ s.batch, s.heads, s.qk });
    if (m) |t| try call.expectShape("m", t, &.{ s.batch, s.heads });
    if (n != null and !o.normalize)
        return call.invalid("n is given, but there is no normaliser", .{});
}

/// Handles in scratch ints (see `inputs`), options in scratch. Outputs: h; where it is wanted the
/// last state c, n, m, which training does not write; for the backward pass, records of the gates
/// (rank 1) where this backend's wants them, and sigma (rank 3) where it, or the simple path that a
/// gradient of the last state takes, does.
pub fn forward(context: *Context) Error!void {
    var call = Call.begin(context, "mlstm");
    defer call.end();
    const o = try options(&call);
    const x = try inputs(&call, scratch.block.ints[0..10].*, o);
    const s = x.sizes;
    const h = try call.output(x.q.dtype, &.{ s.batch, s.length, s.heads, s.v });
    const c = [_]usize{ s.batch, s.heads, s.qk, s.v };
    const c_last = try call.optionalOutput(o.wants_state, x.A, &c);
    const n_last = try call.optionalOutput(o.wants_state, x.A, c[0..3]);
    const m_last = try call.optionalOutput(o.wants_state, x.A, c[0..2]);
    var arguments: kinds.MlstmForward = .{
        .q = x.q.data(),
        .k = x.k.data(),
        .v = x.v.data(),
        .i = x.i.data(),
        .f = x.f.data(),
        .c0 = op.pointer(x.c0),
        .n0 = op.pointer(x.n0),
        .m0 = op.pointer(x.m0),
        .borders = op.pointer(x.rows.borders),
        .lengths = op.pointer(x.rows.lengths),
        .h = h.data(),
        .sigma = null,
        .m = null,
        .c_last = op.pointer(c_last),
        .n_last = op.pointer(n_last),
        .m_last = op.pointer(m_last),
        .records = null,
        .q_strides = stridesOf(x.q),
        .k_strides = stridesOf(x.k),
        .v_strides = stridesOf(x.v),
        .batch = s.batch,
        .length = s.length,
        .heads = s.heads,
        .width_qk = s.qk,
        .width_v = s.v,
        .chunk = o.chunk,
        .eps = o.eps,
        .reset_value = o.reset_value,
        .input_gate = o.input_gate,
        .normalize = @intFromBool(o.normalize),
        .reset = o.reset,
        .form = o.form,
    };
    if (o.keeps) try keep(&call, &arguments, x, o);
    try call.run("mlstmForward", x.q.dtype, arguments);
    try call.commit();
}

/// Outputs that only the backward pass reads.
fn keep(call: *Call, a: *kinds.MlstmForward, x: Inputs, o: Options) Error!void {
    const count = if (call.context.device == .cuda)
        cuda.recordFloats(call.context.gpu.?, x.q.dtype, a, o.mode)
    else
        0;
    if (count > 0) a.records = (try call.output(.f32, &.{count})).data();
    const tokens = [_]usize{ x.sizes.batch, x.sizes.length, x.sizes.heads };
    const wants_sigma = o.normalize and (count == 0 or o.wants_state);
    a.sigma = op.pointer(try call.optionalOutput(wants_sigma, x.A, &tokens));
}

/// Handles in scratch ints: the ten of `inputs`, then h, sigma, dh, dc, dn, records. Outputs: dq,
/// dk, dv, di, df, and the gradients of c0 and n0 where they are given.
pub fn backward(context: *Context) Error!void {
    var call = Call.begin(context, "mlstmBackward");
    defer call.end();
    const o = try options(&call);
    const more = scratch.block.ints[10..16].*;
    const x = try inputs(&call, scratch.block.ints[0..10].*, o);
    const s = x.sizes;
    const wide = [_]usize{ s.batch, s.length, s.heads, s.v };
    const h = try call.inputAs("h", more[0], x.q.dtype);
    const records = try call.optionalAs("records", more[5], .f32);
    const sigma = if (!o.normalize)
        null
    else if (records == null)
        try call.inputAs("sigma", more[1], x.A)
    else
        try call.optionalAs("sigma", more[1], x.A);
    var dh = try call.inputAs("dh", more[2], x.q.dtype);
    if (records != null and @intFromPtr(dh.data()) % 16 != 0) { // their path loads 16 bytes at once
        const moved = try call.temporary(dh.dtype, dh.dims());
        try op.copyInto(context, dh, moved);
        dh = moved;
    }
    try call.expectShape("h", h, &wide);
    if (sigma) |t| try call.expectShape("sigma", t, wide[0..3]);
    try call.expectShape("dh", dh, &wide);
    const dc = try call.optionalAs("dc", more[3], x.A);
    const dn = if (o.normalize) try call.optionalAs("dn", more[4], x.A) else null;
    try checkState(&call, dc, dn, null, s, o);
    const dq = try call.output(x.q.dtype, x.q.dims());
    const dk = try call.output(x.q.dtype, x.q.dims());
    const dv = try call.output(x.q.dtype, &wide);
    const di = try call.output(x.A, wide[0..3]);
    const df = try call.output(x.A, wide[0..3]);
    const c = [_]usize{ s.batch, s.heads, s.qk, s.v };
    const dc0 = try call.optionalOutput(x.c0 != null, x.A, &c);
    const dn0 = try call.optionalOutput(x.n0 != null, x.A, c[0..3]);
    try call.run("mlstmBackward", x.q.dtype, .{
        .q = x.q.data(),
        .k = x.k.data(),
        .v = x.v.data(),
        .i = x.i.data(),
        .f = x.f.data(),
        .c0 = op.pointer(x.c0),
        .n0 = op.pointer(x.n0),
        .m0 = op.pointer(x.m0),
        .borders = op.pointer(x.rows.borders),
        .lengths = op.pointer(x.rows.lengths),
        .h = h.data(),
        .sigma = op.pointer(sigma),
        .records = op.pointer(records),
        .dh = dh.data(),
        .dc_last = op.pointer(dc),
        .dn_last = op.pointer(dn),
        .dm_last = null,
        .dq = dq.data(),
        .dk = dk.data(),
        .dv = dv.data(),
        .di = di.data(),
        .df = df.data(),
        .dc0 = op.pointer(dc0),
        .dn0 = op.pointer(dn0),
        .dm0 = null,
        .q_strides = stridesOf(x.q),
        .k_strides = stridesOf(x.k),
        .v_strides = stridesOf(x.v),
        .batch = s.batch,
        .length = s.length,
        .heads = s.heads,
        .width_qk = s.qk,
        .width_v = s.v,
        .chunk = o.chunk,
        .eps = o.eps,
        .reset_value = o.reset_value,
        .input_gate = o.input_gate,
        .normalize = @intFromBool(o.normalize),
        .reset = o.reset,
        .form = o.form,
        .mode = o.mode,
        .eps_term = o.eps_term,
    });
    try call.commit();
}

/// One token: q, k [rows, NH, DQK], v [rows, NH, DV], gates [rows, NH] in scratch ints 0..4, then
/// slots, c, n, m (the state, in place). Output: h.
pub fn step(context: *Context) Error!void {
    var call = Call.begin(context, "mlstmStep");
    defer call.end();
    const o = try options(&call);
    const list = scratch.block.ints[0..9].*;
    const q = try strided(&call, "q", list[0], 3);
    const k = try strided(&call, "k", list[1], 3);
    const v = try strided(&call, "v", list[2], 3);
    try call.expectDType("k", k, q.dtype);
    try call.expectDType("v", v, q.dtype);
    try call.expectShape("k", k, q.dims());
    const rows = q.shape[0];
    const heads = q.shape[1];
    try call.expectShape("v", v, &.{ rows, heads, v.shape[2] });
    const A = op.arithmetic(q.dtype);
    const i = try call.inputAs("i", list[3], A);
    const f = try call.inputAs("f", list[4], A);
    try call.expectShape("i", i, &.{ rows, heads });
    try call.expectShape("f", f, &.{ rows, heads });
    const c = try slstm.slotted(&call, list[6], list[5], rows, A);
    const slots = c.state.shape[0];
    try call.expectShape("c", c.state, &.{ slots, heads, q.shape[2], v.shape[2] });
    const n: ?Tensor = if (o.normalize) try slstm.stateOf(&call, list[7], A) else null;
    if (n) |t| try call.expectShape("n", t, &.{ slots, heads, q.shape[2] });
    const exp = o.input_gate == kinds.input_gate.exp;
    const m: ?Tensor = if (exp) try slstm.stateOf(&call, list[8], A) else null;
    if (m) |t| try call.expectShape("m", t, &.{ slots, heads });
    const h = try call.output(q.dtype, v.dims());
    if (h.count() > 0) try call.run("mlstmStep", q.dtype, .{
        .q = q.data(),
        .k = k.data(),
        .v = v.data(),
        .i = i.data(),
        .f = f.data(),
        .slots = op.pointer(c.slots),
        .c = c.state.data(),
        .n = op.pointer(n),
        .m = op.pointer(m),
        .h = h.data(),
        .q_strides = stridesOf(q),
        .k_strides = stridesOf(k),
        .v_strides = stridesOf(v),
        .rows = rows,
        .heads = heads,
        .width_qk = q.shape[2],
        .width_v = v.shape[2],
        .eps = o.eps,
        .input_gate = o.input_gate,
        .normalize = @intFromBool(o.normalize),
    });
    try call.commit();
}
