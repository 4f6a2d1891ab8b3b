//! Exports: element-wise, reductions, products, indexing, random numbers.

const row = @import("row.zig").row;
const elementwise = @import("../ops/elementwise.zig");
const matmul = @import("../ops/matmul.zig");
const index = @import("../ops/index.zig");
const random = @import("../ops/random.zig");

pub const table = .{
    row("xl_unary", elementwise.unary, &.{ "x", "op", "parameter" }, "Element-wise function."),
    row(
        "xl_unary_backward",
        elementwise.unaryBackward,
        &.{ "dy", "saved", "op", "parameter" },
        "Its gradient.",
    ),
    row("xl_binary", elementwise.binary, &.{ "a", "b", "op" }, "Element-wise with broadcasting."),
    row("xl_where", elementwise.where, &.{ "mask", "a", "b" }, "mask ? a : b."),
    row(
        "xl_reduce",
        elementwise.reduce,
        &.{ "x", "op", "dims", "keep" },
        "Reduction over dims in scratch.",
    ),
    row("xl_sum_to", elementwise.sumTo, &.{ "x", "rank" }, "Sums a broadcast gradient back."),
    row(
        "xl_gated_activation",
        elementwise.gatedActivation,
        &.{ "gate", "up", "op" },
        "act(gate) * up.",
    ),
    row(
        "xl_gated_activation_backward",
        elementwise.gatedActivationBackward,
        &.{ "dy", "gate", "up", "op" },
        "Its gradients.",
    ),
    row(
        "xl_global_sum_squares",
        elementwise.globalSumSquares,
        &.{"count"},
        "Sums of squares of tensors.",
    ),
    row(
        "xl_matmul",
        matmul.matmul,
        &.{ "a", "b", "transpose_a", "transpose_b", "bias", "dtype" },
        "Batched product.",
    ),
    row(
        "xl_linear_input_gradient",
        matmul.linearInputGradient,
        &.{ "count", "x", "parts" },
        "Sum of dy W over pairs in scratch.",
    ),
    row(
        "xl_linear_in_parts",
        matmul.linearInParts,
        &.{ "x", "weight", "bias", "parts", "count" },
        "x W^T, added as ranks share it.",
    ),
    row(
        "xl_linear_weight_gradient",
        matmul.linearWeightGradient,
        &.{ "dy", "x", "dtype" },
        "dy^T x.",
    ),
    row("xl_embedding", index.embedding, &.{ "table", "ids", "dtype" }, "Rows of a table."),
    row(
        "xl_embedding_backward",
        index.embeddingBackward,
        &.{ "dy", "ids", "vocabulary" },
        "Its gradient.",
    ),
    row("xl_index_select", index.indexSelect, &.{ "x", "indices", "dim" }, "Positions of a dim."),
    row("xl_index_add", index.indexAdd, &.{ "dy", "indices", "dim", "count" }, "Its gradient."),
    row("xl_take_along", index.takeAlong, &.{ "x", "indices" }, "Picks along the last dim."),
    row(
        "xl_take_along_backward",
        index.takeAlongBackward,
        &.{ "dy", "indices", "width" },
        "Its gradient.",
    ),
    row("xl_argmax", index.argmax, &.{"x"}, "Largest element of the last dim."),
    row("xl_top_k", index.topK, &.{ "x", "k" }, "k largest elements of the last dim."),
    row(
        "xl_random",
        random.random,
        &.{ "kind", "rank", "dtype", "key_low", "key_high" },
        "Random tensor.",
    ),
    row(
        "xl_random_into",
        random.randomInto,
        &.{ "kind", "y", "key_low", "key_high", "first" },
        "The same in place.",
    ),
    row(
        "xl_dropout",
        random.dropout,
        &.{
            "x",            "keep",           "key_low",       "key_high",
            "first_sample", "first_position", "first_feature",
        },
        "Dropout.",
    ),
    row("xl_sample", random.sample, &.{ "logits", "settings", "draws" }, "One token per row."),
};
