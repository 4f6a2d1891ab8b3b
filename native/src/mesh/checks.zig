//! Whether a model and a batch fit a mesh (mesh.md §3): everything that does not is said at once,
//! with the numbers.

const std = @import("std");
const axes = @import("axes.zig");
const models = @import("model.zig");
const table = @import("table.zig");
const Model = models.Model;

pub const Facts = struct {
    /// Rows of a step on all ranks.
    batch: u64,
    /// Heads of mLSTM and sLSTM blocks, 0 where there are none.
    mlstm_heads: u32,
    slstm_heads: u32,
    /// Of the block-diagonal maps of paper blocks; 0 where there are none.
    block_size: u32,
};

const Writer = std.Io.Writer;

/// Writes a line `setting<tab>sentence` for everything that is wrong.
pub fn write(
    writer: *Writer,
    model: *const Model,
    mesh: *const axes.Mesh,
    facts: Facts,
) Writer.Error!void {
    try checkBatch(writer, model, mesh, facts);
    if (mesh.size(.tp) > 1) try checkLayers(writer, model, mesh.size(.tp), facts);
    try checkStages(writer, model, mesh.size(.pp));
    if (mesh.size(.cp) > 1) try writer.print(
        "mesh.cp\t{d}: no model passes its state between pieces of a sequence yet; use cp 1\n",
        .{mesh.size(.cp)},
    );
    if (model.settings.residual == .feature) try writer.print(
        "residual\tfeature: no model offers it yet; use sequence or replicated\n",
        .{},
    );
}

fn checkBatch(
    writer: *Writer,
    model: *const Model,
    mesh: *const axes.Mesh,
    facts: Facts,
) Writer.Error!void {
    const dp = mesh.size(.dp);
    const fsdp = mesh.size(.fsdp);
    const microbatches = model.settings.microbatches;
    const share = @as(u64, dp) * fsdp * microbatches;
    if (share > 0 and facts.batch >= share and facts.batch % share == 0) return;
    try writer.print(
        "batch\t{d} rows are not divisible by dp {d} × fsdp {d} × microbatches {d} = {d}\n",
        .{ facts.batch, dp, fsdp, microbatches, share },
    );
}

fn expect(
    writer: *Writer,
    setting: []const u8,
    value: u64,
    what: []const u8,
    ranks: u32,
) Writer.Error!void {
    if (value % ranks == 0) return;
    const format = "{s}\t{d} {s} are not divisible by tp {d}\n";
    try writer.print(format, .{ setting, value, what, ranks });
}

fn checkLayers(writer: *Writer, model: *const Model, ranks: u32, facts: Facts) Writer.Error!void {
    const settings = &model.settings;
    if (facts.mlstm_heads > 0)
        try expect(writer, "mlstm.numHeads", facts.mlstm_heads, "heads", ranks);
    if (facts.slstm_heads > 0)
        try expect(writer, "slstm.numHeads", facts.slstm_heads, "heads", ranks);
    try checkColumns(writer, model, ranks);
    try checkBlocks(writer, model, facts);
    switch (settings.residual) {
        .sequence => try expect(writer, "context", settings.length, "tokens per row", ranks),
        .feature => try expect(writer, "embeddingDim", settings.dim, "features", ranks),
        .replicated => {},
    }
}

/// The columns of each kind of FFN once.
fn checkColumns(writer: *Writer, model: *const Model, ranks: u32) Writer.Error!void {
    var seen: [2]bool = @splat(false);
    for (model.kinds, 0..) |kind, block| {
        const up = model.find(@intCast(block), "ffn.up.weight") orelse continue;
        const is_slstm = kind == .slstm;
        if (seen[@intFromBool(is_slstm)]) continue;
        seen[@intFromBool(is_slstm)] = true;
        const setting = if (is_slstm) "slstmFfn.hiddenDim" else "ffn.hiddenDim";
        try expect(writer, setting, model.parameters[up].shape[0], "columns", ranks);
    }
}

/// Heads of a paper block begin where blocks of its head-wise maps begin.
fn checkBlocks(writer: *Writer, model: *const Model, facts: Facts) Writer.Error!void {
    const paper = std.mem.indexOfScalar(table.Kind, model.kinds, .paper) orelse return;
    const up = model.find(@intCast(paper), "mixer.up.weight") orelse return;
    const inner = model.parameters[up].shape[0];
    const unit = @as(u64, facts.mlstm_heads) * facts.block_size;
    if (unit == 0 or inner % unit == 0) return;
    try writer.print(
        "mlstm.qkvBlockSize\tan inner width of {d} is not divisible by heads {d} × blocks of {d}\n",
        .{ inner, facts.mlstm_heads, facts.block_size },
    );
}

fn checkStages(writer: *Writer, model: *const Model, count: u32) Writer.Error!void {
    const blocks = model.kinds.len;
    if (blocks < count) return writer.print(
        "mesh.pp\t{d} blocks are fewer than the {d} stages of pp\n",
        .{ blocks, count },
    );
    var total: u64 = 0;
    for (model.stages) |size| total += size;
    if (model.stages.len == count and total == blocks and
        std.mem.indexOfScalar(u32, model.stages, 0) == null) return;
    try writer.print(
        "stages\t{d} stages with {d} blocks; expected {d} (pp) with {d}, one or more on each\n",
        .{ model.stages.len, total, count, blocks },
    );
}
