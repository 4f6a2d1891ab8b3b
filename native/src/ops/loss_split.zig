//! What a rank makes of the softmax over a vocabulary of which it has some ids (mesh.md §9): checks
//! and the kernel calls. The head and the sums over the ranks: lib/nn/vocabulary_loss.ts.

const Context = @import("../runtime/context.zig").Context;
const Tensor = @import("../runtime/tensor.zig").Tensor;
const scratch = @import("../abi/scratch.zig");
const checkRange = @import("index.zig").checkRange;
const most_parts = @import("../args/matmul.zig").most_parts;
const op = @import("call.zig");
const Call = op.Call;
const Error = op.Error;

/// Logits [rows, ids of this rank], the column of every row's target, the largest capped logit of
/// all ranks.
const Rows = struct { logits: Tensor, columns: Tensor, top: Tensor, cap: f64 };

fn rowsOf(call: *Call, logits_: i32, columns_: i32, top_: i32) Error!Rows {
    const logits = try call.view("logits", logits_);
    try call.expectFloat("logits", logits);
    try call.expectRank("logits", logits, 2);
    const columns = try call.inputAs("columns", columns_, .i32);
    try call.expectShape("columns", columns, logits.dims()[0..1]);
    try checkRange(call, "columns", columns, null, null, logits.shape[1]);
    const cap = scratch.block.floats[0];
    if (!(cap >= 0)) return call.invalid(
        "soft cap {d}: expected a positive number, or null for off",
        .{cap},
    );
    const top = try vector(call, "top", top_, logits);
    return .{ .logits = logits, .columns = columns, .top = top, .cap = cap };
}

/// A number for every row of the logits.
fn vector(call: *Call, comptime what: []const u8, handle: i32, logits: Tensor) Error!Tensor {
    const x = try call.inputAs(what, handle, op.arithmetic(logits.dtype));
    try call.expectShape(what, x, logits.dims()[0..1]);
    return x;
}

/// Scratch float 0: the soft cap, 0 for none. Output: A [2, rows], with `wants_total` [3, rows].
pub fn sums(
    context: *Context,
    logits_: i32,
    columns_: i32,
    top_: i32,
    parts: i32,
    wants_total: i32,
) Error!void {
    var call = Call.begin(context, "splitSoftmaxSums");
    defer call.end();
    const r = try rowsOf(&call, logits_, columns_, top_);
    if (parts < 1 or @mod(most_parts, parts) != 0)
        return call.invalid("{d} parts do not divide {d}", .{ parts, most_parts });
    const logits = try call.contiguous(r.logits);
    const rows = logits.shape[0];
    const shape = [2]usize{ if (wants_total != 0) 3 else 2, rows };
    const out = try call.output(op.arithmetic(logits.dtype), &shape);
    if (rows > 0) try call.run("splitSoftmaxSums", logits.dtype, .{
        .logits = logits.data(),
        .columns = r.columns.data(),
        .top = r.top.data(),
        .sums = out.data(),
        .rows = rows,
        .vocab = logits.shape[1],
        .soft_cap = r.cap,
        .parts = @intCast(parts),
        .wants_total = @intFromBool(wants_total != 0),
    });
    try call.commit();
}

/// Logits become their gradients. Scratch float 0: the soft cap, 0 for none.
pub fn slopes(
    context: *Context,
    logits_: i32,
    columns_: i32,
    top_: i32,
    scale_: i32,
    rest_: i32,
    own_: i32,
) Error!void {
    var call = Call.begin(context, "splitSoftmaxSlopes");
    defer call.end();
    const r = try rowsOf(&call, logits_, columns_, top_);
    if (!r.logits.isContiguous()) return call.invalid(
        "the logits are a strided view; gradients take their place, so give them whole",
        .{},
    );
    const scale = try vector(&call, "scale", scale_, r.logits);
    const rest = try vector(&call, "rest", rest_, r.logits);
    const own = try vector(&call, "own", own_, r.logits);
    if (r.logits.shape[0] > 0) try call.run("splitSoftmaxSlopes", r.logits.dtype, .{
        .logits = r.logits.data(),
        .columns = r.columns.data(),
        .top = r.top.data(),
        .scale = scale.data(),
        .rest = rest.data(),
        .own = own.data(),
        .rows = r.logits.shape[0],
        .vocab = r.logits.shape[1],
        .soft_cap = r.cap,
    });
    try context.wrote(r.logits);
}
