//! Reading and adding rows by index, arg-max, top-k. models.md §2.1, mesh.md §8.5.
//!
//! Every index must lie inside its dimension: operations call `rangeCheck` first and reject others.
//! Sums over equal indices are made in A, in the order of the indices, by one owner per element.

/// Smallest and largest id among the valid ones. Without a valid id: low = 0, high = −1.
pub const RangeCheck = extern struct {
    ids: *const anyopaque, // i32 [count]
    mask: ?*const anyopaque, // u8 [count]; ids where it is 0 are skipped
    weights: ?*const anyopaque, // A [count]; ids where it is 0 are skipped
    low: *anyopaque, // i32 [1]
    high: *anyopaque, // i32 [1]
    count: u64,
    /// Ids lie in [0, limit). On CUDA nothing waits for the answer: `low` and `high` are not
    /// written, a bad id is recorded on the device and raised where the host reads values.
    limit: u64 = 0,
    pub const storage = .{ f32, f64 }; // S = A, the type of `weights`; f32 where there are none
};

/// y[r] = table[ids[r]], rounded to S.
pub const EmbeddingForward = extern struct {
    table: *const anyopaque, // [vocab, width], of `table_dtype`
    ids: *const anyopaque, // i32 [rows]
    y: *anyopaque, // [rows, width]
    rows: u64,
    vocab: u64,
    width: u64,
    table_dtype: i32, // dtype.DType: that of S, or that of A
};

/// dtable[ids[r]] += dy[r].
pub const EmbeddingBackward = extern struct {
    dy: *const anyopaque, // [rows, width]
    ids: *const anyopaque, // i32 [rows]
    dtable: *anyopaque, // A [vocab, width]; `+=`
    rows: u64,
    vocab: u64,
    width: u64,
};

/// y[r] = x[indices[r]]. Elements are copied as bits, so i32 data may go through the f32 column.
pub const GatherRows = extern struct {
    x: *const anyopaque, // [count, width]
    indices: *const anyopaque, // i32 [rows]
    y: *anyopaque, // [rows, width]
    count: u64,
    rows: u64,
    width: u64,
};

/// y[indices[r]] += x[r].
pub const ScatterAddRows = extern struct {
    x: *const anyopaque, // [rows, width]
    indices: *const anyopaque, // i32 [rows]
    y: *anyopaque, // A [count, width]; `+=`
    count: u64,
    rows: u64,
    width: u64,
};

/// y[o, s] = x[o, indices[s]] over a middle dim. Elements are copied as bits.
pub const IndexSelect = extern struct {
    x: *const anyopaque, // [outer, count, inner]
    indices: *const anyopaque, // i32 [selected]
    y: *anyopaque, // [outer, selected, inner]
    outer: u64,
    count: u64,
    selected: u64,
    inner: u64,
};

/// dx[o, indices[s]] += dy[o, s]: the gradient of IndexSelect.
pub const IndexAdd = extern struct {
    dy: *const anyopaque, // [outer, selected, inner]
    indices: *const anyopaque, // i32 [selected]
    dx: *anyopaque, // A [outer, count, inner]; `+=`
    outer: u64,
    count: u64,
    selected: u64,
    inner: u64,
};

/// y[r, j] = x[r, indices[r, j]]. Elements are copied as bits.
pub const TakeAlong = extern struct {
    x: *const anyopaque, // [rows, width]
    indices: *const anyopaque, // i32 [rows, picks]
    y: *anyopaque, // [rows, picks]
    rows: u64,
    width: u64,
    picks: u64,
};

/// dx[r, i] = Σ over j with indices[r, j] = i of dy[r, j]; 0 where there is none.
pub const TakeAlongBackward = extern struct {
    dy: *const anyopaque, // [rows, picks]
    indices: *const anyopaque, // i32 [rows, picks]
    dx: *anyopaque, // A [rows, width]; `=`
    rows: u64,
    width: u64,
    picks: u64,
};

/// Position of the largest element of each row. The lowest index wins ties; NaN loses against every
/// number, −Inf included; a row of NaN gives 0.
pub const Argmax = extern struct {
    x: *const anyopaque, // [rows, width], width ≥ 1
    indices: *anyopaque, // i32 [rows]
    values: ?*anyopaque, // [rows]
    rows: u64,
    width: u64,
};

/// The k largest of each row, descending; equal values by ascending index; NaN after every number.
pub const TopK = extern struct {
    x: *const anyopaque, // [rows, width]
    values: *anyopaque, // [rows, k]
    indices: *anyopaque, // i32 [rows, k]
    rows: u64,
    width: u64,
    k: u64, // 1 ≤ k ≤ width
};

pub const kernels = .{
    .{ "rangeCheck", RangeCheck },
    .{ "embeddingForward", EmbeddingForward },
    .{ "embeddingBackward", EmbeddingBackward },
    .{ "gatherRows", GatherRows },
    .{ "scatterAddRows", ScatterAddRows },
    .{ "indexSelect", IndexSelect },
    .{ "indexAdd", IndexAdd },
    .{ "takeAlong", TakeAlong },
    .{ "takeAlongBackward", TakeAlongBackward },
    .{ "argmax", Argmax },
    .{ "topK", TopK },
};
