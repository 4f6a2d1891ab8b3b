//! Exports: norms, losses, optimisers.

const row = @import("row.zig").row;
const conv = @import("../ops/conv.zig");
const mlstm = @import("../ops/mlstm.zig");
const norm = @import("../ops/norm.zig");
const slstm = @import("../ops/slstm.zig");
const loss = @import("../ops/loss.zig");
const loss_split = @import("../ops/loss_split.zig");
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
        &.{
            "dy",
            "x",
            "scale",
            "mean",
            "rstd",
            "dsum",
            "groups",
            "center",
            "has_bias",
            "scale_offset",
        },
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
        "xl_split_softmax_sums",
        loss_split.sums,
        &.{ "logits", "columns", "top", "parts", "wants_total" },
        "Of the ids that a rank has: sums of powers, logits of columns, sums of logits.",
    ),
    row(
        "xl_split_softmax_slopes",
        loss_split.slopes,
        &.{ "logits", "columns", "top", "scale", "rest", "own" },
        "Their gradients, in place.",
    ),
    row(
        "xl_optimizer_schedule",
        optimizer.schedule,
        &.{"target"},
        "Coefficients of a captured update, from scratch floats.",
    ),
    row(
        "xl_optimizer_update",
        optimizer.update,
        &.{ "rule", "count", "factor", "schedule" },
        "One update of tensors in scratch, in place.",
    ),
    row(
        "xl_clip_factor",
        optimizer.clipFactor,
        &.{ "sums", "max_norm" },
        "Global norm and clip factor.",
    ),
    row("xl_mlstm", mlstm.forward, &.{}, "mLSTM cell; everything in scratch."),
    row("xl_mlstm_backward", mlstm.backward, &.{}, "Its gradients."),
    row("xl_mlstm_step", mlstm.step, &.{}, "One token, the state in place."),
    row(
        "xl_slstm",
        slstm.forward,
        &.{ "wx", "r", "b", "initial", "borders", "lengths", "function", "save" },
        "sLSTM cell.",
    ),
    row("xl_slstm_backward", slstm.backward, &.{"function"}, "Its gradients; handles in scratch."),
    row(
        "xl_slstm_step",
        slstm.step,
        &.{ "wx", "r", "b", "slots", "state", "function" },
        "One token, the state in place.",
    ),
    row(
        "xl_conv",
        conv.forward,
        &.{ "x", "weight", "bias", "state", "borders", "lengths", "silu" },
        "Causal depthwise convolution.",
    ),
    row("xl_conv_backward", conv.backward, &.{"silu"}, "Its gradients; handles in scratch."),
    row(
        "xl_conv_step",
        conv.step,
        &.{ "x", "weight", "bias", "slots", "state", "silu" },
        "One token, the state in place.",
    ),
    row("xl_headwise", conv.headwise, &.{ "x", "weight", "bias" }, "Block-diagonal linear map."),
    row(
        "xl_headwise_backward",
        conv.headwiseBackward,
        &.{ "dy", "x", "weight", "has_bias" },
        "Its gradients.",
    ),
};
