//! Exports: norms, losses, optimisers.

const row = @import("row.zig").row;
const norm = @import("../ops/norm.zig");
const loss = @import("../ops/loss.zig");
const optimizer = @import("../ops/optimizer.zig");

pub const table = .{
    row(
        "xl_norm",
        norm.forward,
        &.{ "x", "residual", "scale", "bias", "groups", "center", "eps", "scale_offset" },
        "RMSNorm, LayerNorm.",
    ),
    row(
        "xl_norm_backward",
        norm.backward,
        &.{ "dy", "x", "scale", "mean", "rstd", "dsum", "groups", "center", "has_bias", "scale_offset" },
        "Its gradients.",
    ),
    row(
        "xl_head_norm_gate",
        norm.headNormGate,
        &.{ "h", "o", "scale", "bias", "groups", "center", "eps", "scale_offset" },
        "sigmoid(o) * norm(h).",
    ),
    row(
        "xl_head_norm_gate_backward",
        norm.headNormGateBackward,
        &.{ "groups", "center", "eps", "scale_offset" },
        "Its gradients.",
    ),
    row("xl_softmax", norm.softmax, &.{ "x", "logarithm" }, "Over the last dim."),
    row(
        "xl_softmax_backward",
        norm.softmaxBackward,
        &.{ "dy", "y", "logarithm" },
        "Its gradient.",
    ),
    row(
        "xl_cross_entropy",
        loss.crossEntropy,
        &.{ "logits", "targets", "mask" },
        "Loss sum and count.",
    ),
    row(
        "xl_cross_entropy_backward",
        loss.crossEntropyBackward,
        &.{ "logits", "targets", "mask", "lse", "dloss", "drows" },
        "Its gradient.",
    ),
    row(
        "xl_linear_cross_entropy",
        loss.linearCrossEntropy,
        &.{ "hidden", "weight", "targets", "mask", "gradients" },
        "Head and loss in chunks.",
    ),
    row(
        "xl_optimizer_step",
        optimizer.step,
        &.{ "rule", "parameter", "gradient", "first", "second", "third", "factor" },
        "One update in place.",
    ),
    row(
        "xl_clip_factor",
        optimizer.clipFactor,
        &.{ "sums", "max_norm" },
        "Global norm and clip factor.",
    ),
};
