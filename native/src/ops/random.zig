//! Random tensors, dropout, sampling: checks and the call of the kernel.

const Context = @import("../runtime/context.zig").Context;
const Tensor = @import("../runtime/tensor.zig").Tensor;
const scratch = @import("../abi/scratch.zig");
const create = @import("create.zig");
const op = @import("call.zig");
const Call = op.Call;
const Error = op.Error;

/// Scratch floats 0 and 1: scale and offset. Kinds: 0 uniform in [offset, offset + scale), 1 normal
/// and 2 truncated normal with std scale and mean offset, 3 raw words (i32).
fn fill(
    call: *Call,
    kind: i32,
    y: Tensor,
    key_low: u32,
    key_high: u32,
    first: u64,
    values: [2]f64,
) Error!void {
    if (y.count() == 0) return;
    const scale = values[0];
    const offset = values[1];
    switch (kind) {
        0 => try call.run("randomUniform", y.dtype, .{
            .y = y.data(),
            .first = first,
            .count = y.count(),
            .key_low = key_low,
            .key_high = key_high,
            .low = offset,
            .high = offset + scale,
        }),
        1 => try call.run("randomNormal", y.dtype, .{
            .y = y.data(),
            .first = first,
            .count = y.count(),
            .key_low = key_low,
            .key_high = key_high,
            .mean = offset,
            .std = scale,
        }),
        2 => try call.run("randomTruncatedNormal", y.dtype, .{
            .y = y.data(),
            .first = first,
            .count = y.count(),
            .key_low = key_low,
            .key_high = key_high,
            .mean = offset,
            .std = scale,
        }),
        3 => {
            try call.expectDType("y", y, .i32);
            try call.run("randomBits", .f32, .{
                .y = y.data(),
                .first = first,
                .count = y.count(),
                .key_low = key_low,
                .key_high = key_high,
            });
        },
        else => return call.invalid("distribution code {d} is not one of 0 to 3", .{kind}),
    }
}

pub fn random(
    context: *Context,
    kind: i32,
    rank: i32,
    dtype: i32,
    key_low: u32,
    key_high: u32,
) Error!void {
    var call = Call.begin(context, "random");
    defer call.end();
    const values = scratch.block.floats[0..2].*;
    const shape = try op.scratchShape(&call, rank, 0);
    const y = try call.output(try create.dtypeOf(&call, dtype), shape);
    try fill(&call, kind, y, key_low, key_high, 0, values);
    try call.commit();
}

/// In place; y[0] is global element `first`.
pub fn randomInto(
    context: *Context,
    kind: i32,
    y_: i32,
    key_low: u32,
    key_high: u32,
    first: u64,
) Error!void {
    var call = Call.begin(context, "random");
    defer call.end();
    const y = try call.view("y", y_);
    if (!y.isContiguous()) return call.invalid("y is a strided view; fill its base", .{});
    try fill(&call, kind, y, key_low, key_high, first, scratch.block.floats[0..2].*);
    try context.wrote(y);
}

/// x [samples, .., features]: the mask depends on (key, sample, position, feature) only. The firsts
/// are the global numbers of x[0, .., 0].
pub fn dropout(
    context: *Context,
    x_: i32,
    keep: f64,
    key_low: u32,
    key_high: u32,
    first_sample: u64,
    first_position: u64,
    first_feature: u64,
) Error!void {
    var call = Call.begin(context, "dropout");
    defer call.end();
    const x = try call.input("x", x_);
    try call.expectFloat("x", x);
    if (!(keep > 0 and keep <= 1)) return call.invalid(
        "a rate of {d} is not in [0, 1)",
        .{1 - keep},
    );
    if (x.rank < 1) return call.invalid("x is a scalar", .{});
    const y = try call.outputLike(x);
    const samples = if (x.rank > 1) x.shape[0] else 1;
    const features = x.back(0);
    if (x.count() > 0) try call.run("dropoutForward", x.dtype, .{
        .x = x.data(),
        .y = y.data(),
        .samples = samples,
        .positions = x.count() / samples / features,
        .features = features,
        .first_sample = first_sample,
        .first_position = first_position,
        .first_feature = first_feature,
        .keep = keep,
        .key_low = key_low,
        .key_high = key_high,
    });
    try call.commit();
}

/// One token per row of logits [rows, vocab]; settings f64 [rows, 4], draws i32 [rows, 6].
pub fn sample(context: *Context, logits_: i32, settings_: i32, draws_: i32) Error!void {
    var call = Call.begin(context, "sample");
    defer call.end();
    const logits = try call.input("logits", logits_);
    try call.expectFloat("logits", logits);
    try call.expectRank("logits", logits, 2);
    const rows = logits.shape[0];
    if (logits.shape[1] == 0) return call.invalid(
        "logits have shape {f}",
        .{op.show(logits.dims())},
    );
    const settings = try call.inputAs("settings", settings_, .f64);
    try call.expectShape("settings", settings, &.{ rows, 4 });
    const draws = try call.input("draws", draws_);
    try call.expectDType("draws", draws, .i32);
    try call.expectShape("draws", draws, &.{ rows, 6 });
    const tokens = try call.output(.i32, &.{rows});
    if (rows > 0) try call.run("categoricalSample", logits.dtype, .{
        .logits = logits.data(),
        .settings = settings.data(),
        .draws = draws.data(),
        .tokens = tokens.data(),
        .rows = rows,
        .vocab = logits.shape[1],
    });
    try call.commit();
}
