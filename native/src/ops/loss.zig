//! Cross entropy on logits, and fused with the language-model head: checks and the kernel call.
//! The loss is the sum over valid tokens, the count comes beside it (training.md §3.1).

const Context = @import("../runtime/context.zig").Context;
const Tensor = @import("../runtime/tensor.zig").Tensor;
const scratch = @import("../abi/scratch.zig");
const checkRange = @import("index.zig").checkRange;
const op = @import("call.zig");
const Call = op.Call;
const Error = op.Error;

/// Scratch floats 0..3: soft cap (0 = none), label smoothing, z-loss, gradient scale.
const Options = struct { soft_cap: f64, smoothing: f64, z_loss: f64, grad_scale: f64 };

fn options(call: *Call) Error!Options {
    const f = &scratch.block.floats;
    if (!(f[0] >= 0)) return call.invalid(
        "soft cap {d}: expected a positive number, or null for off",
        .{f[0]},
    );
    if (!(f[1] >= 0 and f[1] < 1)) return call.invalid(
        "label smoothing {d} is not in [0, 1)",
        .{f[1]},
    );
    if (!(f[2] >= 0)) return call.invalid("z-loss factor {d} is negative", .{f[2]});
    return .{ .soft_cap = f[0], .smoothing = f[1], .z_loss = f[2], .grad_scale = f[3] };
}

const Labels = struct { targets: Tensor, mask: ?Tensor };

fn labels(call: *Call, targets_: i32, mask_: i32, rows: usize, vocab: usize) Error!Labels {
    const targets = try call.input("targets", targets_);
    try call.expectDType("targets", targets, .i32);
    const mask: ?Tensor = if (mask_ == 0) null else try call.inputAs("mask", mask_, .u8);
    if (targets.count() != rows) return call.invalid(
        "targets have shape {f}, expected {d} elements",
        .{ op.show(targets.dims()), rows },
    );
    if (mask) |m| if (m.count() != rows) return call.invalid(
        "the mask has shape {f}, expected {d} elements",
        .{ op.show(m.dims()), rows },
    );
    try checkRange(call, "targets", targets, mask, null, vocab);
    return .{ .targets = targets, .mask = mask };
}

fn vocabulary(call: *Call, comptime what: []const u8, x: Tensor) Error!usize {
    try call.expectFloat(what, x);
    if (x.rank < 2 or x.back(0) == 0) return call.invalid(
        what ++ " has shape {f}, expected [.., vocabulary]",
        .{op.show(x.dims())},
    );
    return x.back(0);
}

/// Outputs: loss sum A [], count i32 [], correct i32 [], loss per row A, logsumexp per row A.
pub fn crossEntropy(context: *Context, logits_: i32, targets_: i32, mask_: i32) Error!void {
    var call = Call.begin(context, "crossEntropy");
    defer call.end();
    const o = try options(&call);
    const logits = try call.input("logits", logits_);
    const vocab = try vocabulary(&call, "logits", logits);
    const rows = logits.count() / vocab;
    const l = try labels(&call, targets_, mask_, rows, vocab);
    const A = op.arithmetic(logits.dtype);
    const shape = logits.dims()[0 .. logits.rank - 1];
    const loss = try call.output(A, &.{});
    const count = try call.output(.i32, &.{});
    const correct = try call.output(.i32, &.{});
    const loss_rows = try call.output(A, shape);
    const lse = try call.output(A, shape);
    try call.run("crossEntropyForward", logits.dtype, .{
        .logits = logits.data(),
        .targets = l.targets.data(),
        .mask = op.pointer(l.mask),
        .weights = null,
        .loss = loss.data(),
        .count = count.data(),
        .weight_sum = null,
        .correct = correct.data(),
        .loss_rows = loss_rows.data(),
        .lse = lse.data(),
        .rows = rows,
        .vocab = vocab,
        .soft_cap = o.soft_cap,
        .label_smoothing = o.smoothing,
        .z_loss = o.z_loss,
    });
    try call.commit();
}

/// Output: dlogits for the gradients of the sum (or 0) and of the rows (or 0).
pub fn crossEntropyBackward(
    context: *Context,
    logits_: i32,
    targets_: i32,
    mask_: i32,
    lse_: i32,
    dloss_: i32,
    drows_: i32,
) Error!void {
    var call = Call.begin(context, "crossEntropyBackward");
    defer call.end();
    const o = try options(&call);
    const logits = try call.input("logits", logits_);
    const vocab = try vocabulary(&call, "logits", logits);
    const rows = logits.count() / vocab;
    const l = try labels(&call, targets_, mask_, rows, vocab);
    const A = op.arithmetic(logits.dtype);
    const lse = try call.inputAs("lse", lse_, A);
    const dloss = try call.optionalAs("dloss", dloss_, A);
    const drows = try call.optionalAs("drows", drows_, A);
    if (lse.count() != rows or (drows != null and drows.?.count() != rows) or
        (dloss != null and dloss.?.count() != 1))
        return call.invalid("gradients do not fit logits of shape {f}", .{op.show(logits.dims())});
    const dlogits = try call.outputLike(logits);
    try call.run("crossEntropyBackward", logits.dtype, .{
        .logits = logits.data(),
        .targets = l.targets.data(),
        .mask = op.pointer(l.mask),
        .weights = null,
        .lse = lse.data(),
        .dloss = op.pointer(dloss),
        .dloss_rows = op.pointer(drows),
        .dlogits = dlogits.data(),
        .rows = rows,
        .vocab = vocab,
        .soft_cap = o.soft_cap,
        .label_smoothing = o.smoothing,
        .z_loss = o.z_loss,
        .grad_scale = o.grad_scale,
    });
    try call.commit();
}

/// hidden [.., D], weight [V, D]. Outputs: loss sum, count, correct, loss per row; with gradients
/// also dhidden and dweight (A) of the sum, times the gradient scale.
pub fn linearCrossEntropy(
    context: *Context,
    hidden_: i32,
    weight_: i32,
    targets_: i32,
    mask_: i32,
    gradients: i32,
) Error!void {
    var call = Call.begin(context, "linearCrossEntropy");
    defer call.end();
    const o = try options(&call);
    const hidden = try call.input("hidden", hidden_);
    try call.expectFloat("hidden", hidden);
    const weight = try call.input("weight", weight_);
    try call.expectRank("weight", weight, 2);
    const A = op.arithmetic(hidden.dtype);
    if (weight.dtype != A and weight.dtype != hidden.dtype)
        return call.invalid("a {t} weight for {t} activations", .{ weight.dtype, hidden.dtype });
    const width = if (hidden.rank > 0) hidden.back(0) else 0;
    if (width == 0 or width != weight.shape[1] or weight.shape[0] == 0) return call.invalid(
        "hidden has shape {f} and weight {f}: their last dims must agree",
        .{ op.show(hidden.dims()), op.show(weight.dims()) },
    );
    const rows = hidden.count() / width;
    const l = try labels(&call, targets_, mask_, rows, weight.shape[0]);
    const loss = try call.output(A, &.{});
    const count = try call.output(.i32, &.{});
    const correct = try call.output(.i32, &.{});
    const loss_rows = try call.output(A, hidden.dims()[0 .. hidden.rank - 1]);
    const dhidden = try call.optionalOutput(gradients != 0, hidden.dtype, hidden.dims());
    const dweight = try call.optionalOutput(gradients != 0, A, weight.dims());
    try call.run("linearCrossEntropy", hidden.dtype, .{
        .hidden = hidden.data(),
        .weight = weight.data(),
        .targets = l.targets.data(),
        .mask = op.pointer(l.mask),
        .weights = null,
        .loss = loss.data(),
        .count = count.data(),
        .weight_sum = null,
        .correct = correct.data(),
        .loss_rows = loss_rows.data(),
        .lse = null,
        .dhidden = op.pointer(dhidden),
        .dweight = op.pointer(dweight),
        .rows = rows,
        .width = width,
        .vocab = weight.shape[0],
        .soft_cap = o.soft_cap,
        .label_smoothing = o.smoothing,
        .z_loss = o.z_loss,
        .grad_scale = o.grad_scale,
        .accumulate_dweight = 0,
        .weight_dtype = @backingInt(weight.dtype),
    });
    try call.commit();
}
