//! Norms, head norm with output gate, softmax: checks and the call of the kernel.

const Context = @import("../runtime/context.zig").Context;
const Tensor = @import("../runtime/tensor.zig").Tensor;
const rowsOf = @import("elementwise.zig").rowsOf;
const op = @import("call.zig");
const Call = op.Call;
const Error = op.Error;

/// [.., groups·width]: a plain norm has one group; a head norm normalises groups apart.
const Layout = struct { rows: usize, groups: usize, width: usize };

fn layout(call: *Call, x: Tensor, groups: i32) Error!Layout {
    try call.expectFloat("x", x);
    if (x.rank < 1) return call.invalid("x is a scalar", .{});
    const n: usize = if (groups < 1) 0 else @intCast(groups);
    const last = x.back(0);
    if (n == 0 or last % n != 0) return call.invalid(
        "{d} groups do not divide the last dim of shape {f}",
        .{ groups, op.show(x.dims()) },
    );
    if (last == 0) return call.invalid("the last dim of shape {f} is empty", .{op.show(x.dims())});
    return .{ .rows = x.count() / last, .groups = n, .width = last / n };
}

fn scaleOf(
    call: *Call,
    comptime what: []const u8,
    handle: i32,
    x: Tensor,
    l: Layout,
) Error!?Tensor {
    const tensor = try call.optionalAs(what, handle, op.arithmetic(x.dtype)) orelse return null;
    if (tensor.count() != l.groups * l.width) return call.invalid(
        what ++ " has shape {f}, expected {d} elements for x of shape {f}",
        .{ op.show(tensor.dims()), l.groups * l.width, op.show(x.dims()) },
    );
    return tensor;
}

/// Outputs: y, mean (empty unless centred), rstd; with a residual also the sum.
pub fn forward(
    context: *Context,
    x_: i32,
    residual_: i32,
    scale_: i32,
    bias_: i32,
    groups: i32,
    center: i32,
    eps: f64,
    scale_offset: f64,
) Error!void {
    var call = Call.begin(context, if (center != 0) "layerNorm" else "rmsNorm");
    defer call.end();
    const x = try call.input("x", x_);
    const l = try layout(&call, x, groups);
    const residual = try call.optionalAs("residual", residual_, x.dtype);
    if (residual) |r| try call.expectShape("residual", r, x.dims());
    const scale = try scaleOf(&call, "scale", scale_, x, l);
    const bias = try scaleOf(&call, "bias", bias_, x, l);
    const A = op.arithmetic(x.dtype);
    const y = try call.outputLike(x);
    const mean = try call.output(A, &.{ if (center != 0) l.rows else 0, l.groups });
    const rstd = try call.output(A, &.{ l.rows, l.groups });
    const sum = try call.optionalOutput(residual != null, x.dtype, x.dims());
    if (l.rows > 0) try call.run("normForward", x.dtype, .{
        .x = x.data(),
        .residual = op.pointer(residual),
        .scale = op.pointer(scale),
        .bias = op.pointer(bias),
        .y = y.data(),
        .sum = op.pointer(sum),
        .mean = if (center != 0) mean.data() else null,
        .rstd = rstd.data(),
        .rows = l.rows,
        .groups = l.groups,
        .width = l.width,
        .eps = eps,
        .scale_offset = scale_offset,
        .center = @intCast(center),
    });
    try call.commit();
}

/// Outputs: dx, dscale, dbias (empty where there is no scale or bias).
pub fn backward(
    context: *Context,
    dy_: i32,
    x_: i32,
    scale_: i32,
    mean_: i32,
    rstd_: i32,
    dsum_: i32,
    groups: i32,
    center: i32,
    has_bias: i32,
    scale_offset: f64,
) Error!void {
    var call = Call.begin(context, "normBackward");
    defer call.end();
    const x = try call.input("x", x_);
    const l = try layout(&call, x, groups);
    const A = op.arithmetic(x.dtype);
    const dy = try call.inputAs("dy", dy_, x.dtype);
    try call.expectShape("dy", dy, x.dims());
    const scale = try scaleOf(&call, "scale", scale_, x, l);
    const mean = try call.inputAs("mean", mean_, A);
    const rstd = try call.inputAs("rstd", rstd_, A);
    const dsum = try call.optionalAs("dsum", dsum_, x.dtype);
    if (dsum) |d| try call.expectShape("dsum", d, x.dims());
    const dx = try call.outputLike(x);
    const width = l.groups * l.width;
    const dscale = try call.output(A, &.{if (scale != null) width else 0});
    const dbias = try call.output(A, &.{if (has_bias != 0) width else 0});
    try call.run("normBackward", x.dtype, .{
        .dy = dy.data(),
        .x = x.data(),
        .scale = op.pointer(scale),
        .mean = if (center != 0) mean.data() else null,
        .rstd = rstd.data(),
        .dsum = op.pointer(dsum),
        .dx = dx.data(),
        .dscale = if (scale != null) dscale.data() else null,
        .dbias = if (has_bias != 0) dbias.data() else null,
        .rows = l.rows,
        .groups = l.groups,
        .width = l.width,
        .scale_offset = scale_offset,
        .center = @intCast(center),
    });
    try call.commit();
}

/// out = σ(o) ∘ (g ∘ x̂ (+ b)). Outputs: y, mean, rstd.
pub fn headNormGate(
    context: *Context,
    h_: i32,
    o_: i32,
    scale_: i32,
    bias_: i32,
    groups: i32,
    center: i32,
    eps: f64,
    scale_offset: f64,
) Error!void {
    var call = Call.begin(context, "headNormGate");
    defer call.end();
    const h = try call.input("h", h_);
    const l = try layout(&call, h, groups);
    const o = try rowsOf(&call, try call.view("o", o_));
    try call.expectDType("o", o.tensor, h.dtype);
    try call.expectShape("o", o.tensor, h.dims());
    const scale = try scaleOf(&call, "scale", scale_, h, l);
    const bias = try scaleOf(&call, "bias", bias_, h, l);
    const A = op.arithmetic(h.dtype);
    const y = try call.outputLike(h);
    const mean = try call.output(A, &.{ if (center != 0) l.rows else 0, l.groups });
    const rstd = try call.output(A, &.{ l.rows, l.groups });
    if (l.rows > 0) try call.run("headNormGateForward", h.dtype, .{
        .h = h.data(),
        .o = o.tensor.data(),
        .scale = op.pointer(scale),
        .bias = op.pointer(bias),
        .y = y.data(),
        .mean = if (center != 0) mean.data() else null,
        .rstd = rstd.data(),
        .rows = l.rows,
        .groups = l.groups,
        .width = l.width,
        .o_stride = o.stride,
        .eps = eps,
        .scale_offset = scale_offset,
        .center = @intCast(center),
    });
    try call.commit();
}

/// Outputs: dh, do, dscale, dbias. The handles dy, h, o, scale, bias, mean, rstd are in scratch
/// ints.
pub fn headNormGateBackward(
    context: *Context,
    groups: i32,
    center: i32,
    eps: f64,
    scale_offset: f64,
) Error!void {
    var call = Call.begin(context, "headNormGateBackward");
    defer call.end();
    const ints = @import("../abi/scratch.zig").block.ints[0..7].*;
    const h = try call.input("h", ints[1]);
    const l = try layout(&call, h, groups);
    const A = op.arithmetic(h.dtype);
    const dy = try call.inputAs("dy", ints[0], h.dtype);
    try call.expectShape("dy", dy, h.dims());
    const o = try rowsOf(&call, try call.view("o", ints[2]));
    try call.expectShape("o", o.tensor, h.dims());
    const scale = try scaleOf(&call, "scale", ints[3], h, l);
    const bias = try scaleOf(&call, "bias", ints[4], h, l);
    const mean = try call.inputAs("mean", ints[5], A);
    const rstd = try call.inputAs("rstd", ints[6], A);
    const dh = try call.outputLike(h);
    const do = try call.outputLike(h);
    const width = l.groups * l.width;
    const dscale = try call.output(A, &.{if (scale != null) width else 0});
    const dbias = try call.output(A, &.{if (bias != null) width else 0});
    try call.run("headNormGateBackward", h.dtype, .{
        .dy = dy.data(),
        .h = h.data(),
        .o = o.tensor.data(),
        .scale = op.pointer(scale),
        .bias = op.pointer(bias),
        .mean = if (center != 0) mean.data() else null,
        .rstd = rstd.data(),
        .dh = dh.data(),
        .do = do.data(),
        .dscale = if (scale != null) dscale.data() else null,
        .dbias = if (bias != null) dbias.data() else null,
        .inner = null,
        .rows = l.rows,
        .groups = l.groups,
        .width = l.width,
        .o_stride = o.stride,
        .do_stride = width,
        .eps = eps,
        .scale_offset = scale_offset,
        .center = @intCast(center),
    });
    try call.commit();
}

/// Over the last dim.
pub fn softmax(context: *Context, x_: i32, logarithm: i32) Error!void {
    var call = Call.begin(context, if (logarithm != 0) "logSoftmax" else "softmax");
    defer call.end();
    const x = try call.input("x", x_);
    const l = try layout(&call, x, 1);
    const y = try call.outputLike(x);
    if (l.rows > 0) {
        if (logarithm != 0)
            try call.run(
                "logSoftmaxForward",
                x.dtype,
                .{ .x = x.data(), .y = y.data(), .rows = l.rows, .width = l.width },
            )
        else
            try call.run(
                "softmaxForward",
                x.dtype,
                .{ .x = x.data(), .y = y.data(), .rows = l.rows, .width = l.width },
            );
    }
    try call.commit();
}

pub fn softmaxBackward(context: *Context, dy_: i32, y_: i32, logarithm: i32) Error!void {
    var call = Call.begin(context, "softmaxBackward");
    defer call.end();
    const y = try call.input("y", y_);
    const dy = try call.inputAs("dy", dy_, y.dtype);
    try call.expectShape("dy", dy, y.dims());
    const l = try layout(&call, y, 1);
    const dx = try call.outputLike(y);
    const a: @import("../args.zig").Args("softmaxBackward") = .{
        .dy = dy.data(),
        .y = y.data(),
        .dx = dx.data(),
        .rows = l.rows,
        .width = l.width,
    };
    if (l.rows > 0) {
        if (logarithm != 0) try call.run(
            "logSoftmaxBackward",
            y.dtype,
            a,
        ) else try call.run("softmaxBackward", y.dtype, a);
    }
    try call.commit();
}
