//! Causal depthwise convolution and head-wise linear maps: checks and the call of the kernel.
//! kernels.md §8, models.md §2.4.

const Context = @import("../runtime/context.zig").Context;
const Tensor = @import("../runtime/tensor.zig").Tensor;
const scratch = @import("../abi/scratch.zig");
const strided = @import("elementwise.zig").rowsOf;
const slstm = @import("slstm.zig");
const op = @import("call.zig");
const Call = op.Call;
const Error = op.Error;

const Layer = struct { weight: Tensor, bias: ?Tensor, channels: usize, taps: usize };

fn layer(call: *Call, x: Tensor, weight_: i32, bias_: i32) Error!Layer {
    const A = op.arithmetic(x.dtype);
    const weight = try call.inputAs("weight", weight_, A);
    try call.expectRank("weight", weight, 2);
    const bias = try call.optionalAs("bias", bias_, A);
    const channels = if (x.rank > 0) x.back(0) else 0;
    if (weight.shape[0] != channels or weight.shape[1] < 1) return call.invalid(
        "weight has shape {f}, expected [{d}, taps] for x of shape {f}",
        .{ op.show(weight.dims()), channels, op.show(x.dims()) },
    );
    if (bias) |b| try call.expectShape("bias", b, &.{channels});
    return .{ .weight = weight, .bias = bias, .channels = channels, .taps = weight.shape[1] };
}

/// x [B, T, C] → y and the last inputs [B, K − 1, C].
pub fn forward(
    context: *Context,
    x_: i32,
    weight_: i32,
    bias_: i32,
    state_: i32,
    borders_: i32,
    lengths_: i32,
    silu: i32,
) Error!void {
    var call = Call.begin(context, "causalConv");
    defer call.end();
    const rows = try strided(&call, try call.view("x", x_));
    const x = rows.tensor;
    try call.expectFloat("x", x);
    try call.expectRank("x", x, 3);
    const l = try layer(&call, x, weight_, bias_);
    const state = try call.optionalAs("state", state_, x.dtype);
    const tail = [_]usize{ x.shape[0], l.taps - 1, l.channels };
    if (state) |t| try call.expectShape("state", t, &tail);
    const masks = try slstm.rowsOf(&call, borders_, lengths_, x.shape[0], x.shape[1]);
    const y = try call.outputLike(x);
    const last = try call.output(x.dtype, &tail);
    try call.run("convForward", x.dtype, .{
        .x = x.data(),
        .weight = l.weight.data(),
        .bias = op.pointer(l.bias),
        .state = op.pointer(state),
        .borders = op.pointer(masks.borders),
        .lengths = op.pointer(masks.lengths),
        .y = y.data(),
        .last = last.data(),
        .batch = x.shape[0],
        .length = x.shape[1],
        .channels = l.channels,
        .taps = l.taps,
        .x_stride = rows.stride,
        .silu = @intFromBool(silu != 0),
    });
    try call.commit();
}

/// Handles in scratch ints: dy, x, weight, bias, state, borders, lengths, dlast. Outputs: dx,
/// dweight, dbias (empty without a bias), dstate.
pub fn backward(context: *Context, silu: i32) Error!void {
    var call = Call.begin(context, "causalConvBackward");
    defer call.end();
    const ints = scratch.block.ints[0..8].*;
    const rows = try strided(&call, try call.view("x", ints[1]));
    const x = rows.tensor;
    try call.expectFloat("x", x);
    try call.expectRank("x", x, 3);
    const dy = try call.inputAs("dy", ints[0], x.dtype);
    try call.expectShape("dy", dy, x.dims());
    const l = try layer(&call, x, ints[2], ints[3]);
    const tail = [_]usize{ x.shape[0], l.taps - 1, l.channels };
    const state = try call.optionalAs("state", ints[4], x.dtype);
    if (state) |t| try call.expectShape("state", t, &tail);
    const masks = try slstm.rowsOf(&call, ints[5], ints[6], x.shape[0], x.shape[1]);
    const dlast = try call.optionalAs("dlast", ints[7], x.dtype);
    if (dlast) |t| try call.expectShape("dlast", t, &tail);
    const A = op.arithmetic(x.dtype);
    const dx = try call.outputLike(x);
    const dweight = try call.output(A, l.weight.dims());
    const dbias = try call.output(A, &.{if (l.bias != null) l.channels else 0});
    const dstate = try call.output(x.dtype, &tail);
    try call.run("convBackward", x.dtype, .{
        .dy = dy.data(),
        .x = x.data(),
        .weight = l.weight.data(),
        .bias = op.pointer(l.bias),
        .state = op.pointer(state),
        .borders = op.pointer(masks.borders),
        .lengths = op.pointer(masks.lengths),
        .dlast = op.pointer(dlast),
        .dx = dx.data(),
        .dweight = dweight.data(),
        .dbias = if (l.bias != null) dbias.data() else null,
        .dstate = dstate.data(),
        .batch = x.shape[0],
        .length = x.shape[1],
        .channels = l.channels,
        .taps = l.taps,
        .x_stride = rows.stride,
        .dx_stride = l.channels,
        .silu = @intFromBool(silu != 0),
    });
    try call.commit();
}

/// One token: x [rows, C]; state [slots, K − 1, C] in place.
pub fn step(
    context: *Context,
    x_: i32,
    weight_: i32,
    bias_: i32,
    slots_: i32,
    state_: i32,
    silu: i32,
) Error!void {
    var call = Call.begin(context, "causalConvStep");
    defer call.end();
    const rows = try strided(&call, try call.view("x", x_));
    const x = rows.tensor;
    try call.expectFloat("x", x);
    try call.expectRank("x", x, 2);
    const l = try layer(&call, x, weight_, bias_);
    const held = try slstm.slotted(&call, state_, slots_, x.shape[0], x.dtype);
    try call.expectShape("state", held.state, &.{ held.state.shape[0], l.taps - 1, l.channels });
    const y = try call.outputLike(x);
    if (x.count() > 0) try call.run("convStep", x.dtype, .{
        .x = x.data(),
        .weight = l.weight.data(),
        .bias = op.pointer(l.bias),
        .slots = op.pointer(held.slots),
        .state = held.state.data(),
        .y = y.data(),
        .rows = x.shape[0],
        .channels = l.channels,
        .taps = l.taps,
        .x_stride = rows.stride,
        .silu = @intFromBool(silu != 0),
    });
    try call.commit();
}

const Blocks = struct { weight: Tensor, n: usize, a: usize, b: usize };

/// weight [n, b, a]: block h maps a inputs to b outputs.
fn blocksOf(call: *Call, x: Tensor, weight_: i32) Error!Blocks {
    try call.expectFloat("x", x);
    const weight = try call.inputAs("weight", weight_, op.arithmetic(x.dtype));
    try call.expectRank("weight", weight, 3);
    const n = weight.shape[0];
    const a = weight.shape[2];
    if (x.rank < 1 or x.back(0) != n * a) return call.invalid(
        "weight {f} takes {d} inputs, x has shape {f}",
        .{ op.show(weight.dims()), n * a, op.show(x.dims()) },
    );
    return .{ .weight = weight, .n = n, .a = a, .b = weight.shape[1] };
}

/// x [.., n·a] → [.., n·b].
pub fn headwise(context: *Context, x_: i32, weight_: i32, bias_: i32) Error!void {
    var call = Call.begin(context, "headwiseLinear");
    defer call.end();
    const rows = try strided(&call, try call.view("x", x_));
    const x = rows.tensor;
    const w = try blocksOf(&call, x, weight_);
    const bias = try call.optionalAs("bias", bias_, op.arithmetic(x.dtype));
    if (bias) |t| if (t.count() != w.n * w.b) return call.invalid(
        "bias has shape {f}, expected {d} elements",
        .{ op.show(t.dims()), w.n * w.b },
    );
    var shape = x.shape;
    shape[x.rank - 1] = w.n * w.b;
    const y = try call.output(x.dtype, shape[0..x.rank]);
    if (y.count() > 0) try call.run("headwiseForward", x.dtype, .{
        .x = x.data(),
        .weight = w.weight.data(),
        .bias = op.pointer(bias),
        .y = y.data(),
        .rows = rows.rows,
        .blocks = w.n,
        .inputs = w.a,
        .outputs = w.b,
        .x_stride = rows.stride,
        .y_stride = w.n * w.b,
    });
    try call.commit();
}

/// Outputs: dx, dweight, dbias (empty without a bias).
pub fn headwiseBackward(
    context: *Context,
    dy_: i32,
    x_: i32,
    weight_: i32,
    has_bias: i32,
) Error!void {
    var call = Call.begin(context, "headwiseLinearBackward");
    defer call.end();
    const rows = try strided(&call, try call.view("x", x_));
    const x = rows.tensor;
    const w = try blocksOf(&call, x, weight_);
    const dy = try strided(&call, try call.view("dy", dy_));
    try call.expectDType("dy", dy.tensor, x.dtype);
    if (dy.width != w.n * w.b or dy.rows != rows.rows) return call.invalid(
        "dy has shape {f} for x of shape {f}",
        .{ op.show(dy.tensor.dims()), op.show(x.dims()) },
    );
    const A = op.arithmetic(x.dtype);
    const dx = try call.outputLike(x);
    const dweight = try call.output(A, w.weight.dims());
    const dbias = try call.output(A, &.{ if (has_bias != 0) w.n else 0, w.b });
    try call.run("headwiseBackward", x.dtype, .{
        .dy = dy.tensor.data(),
        .x = x.data(),
        .weight = w.weight.data(),
        .dx = dx.data(),
        .dweight = dweight.data(),
        .dbias = if (has_bias != 0) dbias.data() else null,
        .rows = rows.rows,
        .blocks = w.n,
        .inputs = w.a,
        .outputs = w.b,
        .x_stride = rows.stride,
        .y_stride = dy.stride,
        .dx_stride = w.n * w.a,
    });
    try call.commit();
}
