//! sLSTM cell: checks and the call of the kernel. kernels.md §7.

const Context = @import("../runtime/context.zig").Context;
const Tensor = @import("../runtime/tensor.zig").Tensor;
const DType = @import("../dtype.zig").DType;
const scratch = @import("../abi/scratch.zig");
const planes = @import("../args/slstm.zig").saved_planes;
const op = @import("call.zig");
const Call = op.Call;
const Error = op.Error;

const Sizes = struct { batch: usize, length: usize, heads: usize, width: usize };

/// wx [B, T, 4, NH, DH].
fn sizesOf(call: *Call, wx: Tensor) Error!Sizes {
    try call.expectFloat("wx", wx);
    if (wx.rank != 5 or wx.shape[2] != 4 or wx.count() == 0) return call.invalid(
        "wx has shape {f}, expected [B, T, 4, heads, width] without empty dims",
        .{op.show(wx.dims())},
    );
    return .{
        .batch = wx.shape[0],
        .length = wx.shape[1],
        .heads = wx.shape[3],
        .width = wx.shape[4],
    };
}

const Weights = struct { r: Tensor, b: Tensor };

fn weights(call: *Call, r_: i32, b_: i32, A: DType, s: Sizes) Error!Weights {
    const r = try call.inputAs("r", r_, A);
    const b = try call.inputAs("b", b_, A);
    try call.expectShape("r", r, &.{ 4, s.heads, s.width, s.width });
    try call.expectShape("b", b, &.{ 4, s.heads, s.width });
    return .{ .r = r, .b = b };
}

pub const Rows = struct { borders: ?Tensor, lengths: ?Tensor };

/// Document borders u8 [B, T] and lengths i32 [B] of right-padded rows.
pub fn rowsOf(call: *Call, borders_: i32, lengths_: i32, batch: usize, length: usize) Error!Rows {
    const borders: ?Tensor = if (borders_ == 0) null else try call.inputAs(
        "borders",
        borders_,
        .u8,
    );
    if (borders) |t| try call.expectShape("borders", t, &.{ batch, length });
    const lengths: ?Tensor = if (lengths_ == 0) null else try call.input("lengths", lengths_);
    if (lengths) |t| {
        try call.expectDType("lengths", t, .i32);
        try call.expectShape("lengths", t, &.{batch});
        try @import("index.zig").checkRange(call, "lengths", t, null, null, length + 1);
    }
    return .{ .borders = borders, .lengths = lengths };
}

fn state(call: *Call, comptime what: []const u8, handle: i32, A: DType, s: Sizes) Error!?Tensor {
    const tensor = try call.optionalAs(what, handle, A) orelse return null;
    try call.expectShape(what, tensor, &.{ s.batch, 4, s.heads, s.width });
    return tensor;
}

/// Scratch floats: 0 clip of y (0 = off), 1 clip of the recurrent gradient (0 = off), 2 cut it.
/// Outputs: y, last state, and what the backward pass needs (empty when `save` is 0).
pub fn forward(
    context: *Context,
    wx_: i32,
    r_: i32,
    b_: i32,
    initial_: i32,
    borders_: i32,
    lengths_: i32,
    function: i32,
    save: i32,
) Error!void {
    var call = Call.begin(context, "slstm");
    defer call.end();
    const wx = try call.input("wx", wx_);
    const s = try sizesOf(&call, wx);
    const A = op.arithmetic(wx.dtype);
    const w = try weights(&call, r_, b_, A, s);
    const initial = try state(&call, "initial", initial_, A, s);
    const rows = try rowsOf(&call, borders_, lengths_, s.batch, s.length);
    if (function != 0 and function != 1) return call.invalid(
        "function {d} is not 0 or 1",
        .{function},
    );
    const y = try call.output(wx.dtype, &.{ s.batch, s.length, s.heads, s.width });
    const last = try call.output(A, &.{ s.batch, 4, s.heads, s.width });
    const kept: usize = if (save != 0) s.length else 0;
    const saved = try call.output(A, &.{ s.batch, kept, s.heads, planes, s.width });
    try call.run("slstmForward", wx.dtype, .{
        .wx = wx.data(),
        .r = w.r.data(),
        .b = w.b.data(),
        .initial = op.pointer(initial),
        .borders = op.pointer(rows.borders),
        .lengths = op.pointer(rows.lengths),
        .y = y.data(),
        .saved = if (save != 0) saved.data() else null,
        .last = last.data(),
        .batch = s.batch,
        .length = s.length,
        .heads = s.heads,
        .width = s.width,
        .function = @intCast(function),
        .clip = scratch.block.floats[0],
    });
    try call.commit();
}

/// Handles in scratch ints: dy, dlast, r, initial, borders, lengths, saved. Outputs: dwx, dr, db,
/// dinitial.
pub fn backward(context: *Context, function: i32) Error!void {
    var call = Call.begin(context, "slstmBackward");
    defer call.end();
    const ints = scratch.block.ints[0..7].*;
    const f = scratch.block.floats[0..3].*;
    const dy = try call.input("dy", ints[0]);
    try call.expectFloat("dy", dy);
    try call.expectRank("dy", dy, 4);
    const s: Sizes = .{
        .batch = dy.shape[0],
        .length = dy.shape[1],
        .heads = dy.shape[2],
        .width = dy.shape[3],
    };
    const A = op.arithmetic(dy.dtype);
    const dlast = try state(&call, "dlast", ints[1], A, s);
    const r = try call.inputAs("r", ints[2], A);
    try call.expectShape("r", r, &.{ 4, s.heads, s.width, s.width });
    const initial = try state(&call, "initial", ints[3], A, s);
    const rows = try rowsOf(&call, ints[4], ints[5], s.batch, s.length);
    const saved = try call.inputAs("saved", ints[6], A);
    try call.expectShape("saved", saved, &.{ s.batch, s.length, s.heads, planes, s.width });
    const dwx = try call.output(dy.dtype, &.{ s.batch, s.length, 4, s.heads, s.width });
    const dr = try call.output(A, &.{ 4, s.heads, s.width, s.width });
    const db = try call.output(A, &.{ 4, s.heads, s.width });
    const dinitial = try call.output(A, &.{ s.batch, 4, s.heads, s.width });
    try call.run("slstmBackward", dy.dtype, .{
        .dy = dy.data(),
        .dlast = op.pointer(dlast),
        .r = r.data(),
        .initial = op.pointer(initial),
        .borders = op.pointer(rows.borders),
        .lengths = op.pointer(rows.lengths),
        .saved = saved.data(),
        .dwx = dwx.data(),
        .dr = dr.data(),
        .db = db.data(),
        .dinitial = dinitial.data(),
        .batch = s.batch,
        .length = s.length,
        .heads = s.heads,
        .width = s.width,
        .function = @intCast(function),
        .clip = f[0],
        .recurrent_cut = @intFromBool(f[2] != 0),
        .recurrent_clip = f[1],
    });
    try call.commit();
}

/// One token: wx [rows, 4, NH, DH]; state [slots, 4, NH, DH] in place; slots i32 [rows] or 0.
pub fn step(
    context: *Context,
    wx_: i32,
    r_: i32,
    b_: i32,
    slots_: i32,
    state_: i32,
    function: i32,
) Error!void {
    var call = Call.begin(context, "slstmStep");
    defer call.end();
    const wx = try call.input("wx", wx_);
    try call.expectFloat("wx", wx);
    if (wx.rank != 4 or wx.shape[1] != 4) return call.invalid(
        "wx has shape {f}, expected [rows, 4, heads, width]",
        .{op.show(wx.dims())},
    );
    const s: Sizes = .{
        .batch = wx.shape[0],
        .length = 1,
        .heads = wx.shape[2],
        .width = wx.shape[3],
    };
    const A = op.arithmetic(wx.dtype);
    const w = try weights(&call, r_, b_, A, s);
    const held = try slotted(&call, state_, slots_, s.batch, A);
    try call.expectShape("state", held.state, &.{ held.state.shape[0], 4, s.heads, s.width });
    const y = try call.output(wx.dtype, &.{ s.batch, s.heads, s.width });
    if (s.batch > 0) try call.run("slstmStep", wx.dtype, .{
        .wx = wx.data(),
        .r = w.r.data(),
        .b = w.b.data(),
        .slots = op.pointer(held.slots),
        .state = held.state.data(),
        .y = y.data(),
        .rows = s.batch,
        .heads = s.heads,
        .width = s.width,
        .function = @intCast(function),
        .clip = scratch.block.floats[0],
    });
    try call.commit();
}

pub const Held = struct { state: Tensor, slots: ?Tensor };

/// A state that is updated in place, and which of its rows the call's rows use.
pub fn slotted(call: *Call, state_: i32, slots_: i32, rows: usize, A: DType) Error!Held {
    const held = try stateOf(call, state_, A);
    if (slots_ == 0) {
        if (held.shape[0] != rows) return call.invalid(
            "a state of {d} rows for {d} tokens; give slots to use some of its rows",
            .{ held.shape[0], rows },
        );
        return .{ .state = held, .slots = null };
    }
    if (held.shape[0] == 0 and rows > 0)
        return call.invalid("a state without rows for {d} tokens", .{rows});
    const slots = try @import("index.zig").guarded(call, "slots", slots_, held.shape[0]);
    try call.expectShape("slots", slots, &.{rows});
    return .{ .state = held, .slots = slots };
}

/// A state that is updated in place.
pub fn stateOf(call: *Call, handle: i32, A: DType) Error!Tensor {
    const held = try call.view("state", handle);
    try call.expectDType("state", held, A);
    if (!held.isContiguous()) return call.invalid("the state is a strided view", .{});
    if (held.rank < 1) return call.invalid("the state is a scalar", .{});
    return held;
}
