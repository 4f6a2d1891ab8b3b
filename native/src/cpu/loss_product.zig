//! The three matrix products of the fused head, and scratch memory they share between chunks.
//!
//!     logits [rows, V] = hidden·weightᵀ;  dhidden [rows, D] = dlogits·weight;
//!     dweight [V, D] (+)= dlogitsᵀ·hidden
//! hidden, dhidden in S, logits, dlogits and dweight in A, weight in either.

const dtype = @import("../dtype.zig");
const simd = @import("simd.zig");
const products = @import("matmul.zig");
const args = @import("../args/matmul.zig");
const Parallel = @import("../parallel.zig").Parallel;
const Body = @import("../parallel.zig").Body;

const Failure = error{OutOfMemory};

pub const Size = struct { rows: usize, width: usize, vocab: usize };

/// The head's weight [vocab, width]; `dtype` is a dtype.DType code.
pub const Weight = struct { values: *const anyopaque, dtype: i32 };

/// out [rows, vocab] = hidden [rows, width]·weightᵀ.
pub fn logits(
    comptime S: type,
    parallel: *const Parallel,
    size: Size,
    hidden: [*]const S,
    weight: Weight,
    out: [*]simd.Arithmetic(S),
) Failure!void {
    // By tiles even where few rows are valid: a rank with a part of the ids does not leave any out.
    try multiply(S, parallel, .{
        .tiled = true,
        .a = .{ .values = hidden, .dtype = codeOf(S), .row = size.width, .column = 1 },
        .b = .{ .values = weight.values, .dtype = weight.dtype, .row = 1, .column = size.width },
        .c = out,
        .c_dtype = codeOf(simd.Arithmetic(S)),
        .m = size.rows,
        .n = size.vocab,
        .k = size.width,
        .accumulate = false,
    });
}

/// out [rows, width] = dlogits [rows, vocab]·weight.
pub fn dhidden(
    comptime S: type,
    parallel: *const Parallel,
    size: Size,
    dlogits: [*]const simd.Arithmetic(S),
    weight: Weight,
    out: [*]S,
) Failure!void {
    const A = simd.Arithmetic(S);
    // The ids may be cut between ranks: the sum over them is made as theirs is.
    if (S == A) return products.matmulParts(A, parallel, &.{
        .terms = &args.Term{
            .a = dlogits,
            .b = weight.values,
            .k = size.vocab,
            .a_row_stride = size.vocab,
            .b_row_stride = size.width,
            .b_column_stride = 1,
        },
        .c = out,
        .bias = null,
        .count = 1,
        .m = size.rows,
        .n = size.width,
        .parts = args.most_parts,
    });
    try multiply(S, parallel, .{
        .a = .{ .values = dlogits, .dtype = codeOf(A), .row = size.vocab, .column = 1 },
        .b = .{ .values = weight.values, .dtype = weight.dtype, .row = size.width, .column = 1 },
        .c = out,
        .c_dtype = codeOf(S),
        .m = size.rows,
        .n = size.width,
        .k = size.vocab,
        .accumulate = false,
    });
}

/// out [vocab, width] = or += dlogitsᵀ·hidden.
pub fn dweight(
    comptime S: type,
    parallel: *const Parallel,
    size: Size,
    dlogits: [*]const simd.Arithmetic(S),
    hidden: [*]const S,
    out: [*]simd.Arithmetic(S),
    accumulate: bool,
) Failure!void {
    const A = simd.Arithmetic(S);
    try multiply(S, parallel, .{
        .a = .{ .values = dlogits, .dtype = codeOf(A), .row = 1, .column = size.vocab },
        .b = .{ .values = hidden, .dtype = codeOf(S), .row = size.width, .column = 1 },
        .c = out,
        .c_dtype = codeOf(A),
        .m = size.vocab,
        .n = size.width,
        .k = size.rows,
        .accumulate = accumulate,
    });
}

/// A matrix by its strides in elements.
const Operand = struct { values: *const anyopaque, dtype: i32, row: usize, column: usize };

/// c [m, n] = or += a [m, k]·b [k, n], c row-major.
const Product = struct {
    tiled: bool = false,
    a: Operand,
    b: Operand,
    c: *anyopaque,
    c_dtype: i32,
    m: usize,
    n: usize,
    k: usize,
    accumulate: bool,
};

fn codeOf(comptime S: type) i32 {
    return @backingInt(switch (S) {
        f32 => dtype.DType.f32,
        f64 => dtype.DType.f64,
        u16 => dtype.DType.bf16,
        else => @compileError("no product of " ++ @typeName(S)),
    });
}

fn multiply(comptime S: type, parallel: *const Parallel, p: Product) Failure!void {
    const A = simd.Arithmetic(S);
    const call: args.Matmul = .{
        .a = p.a.values,
        .b = p.b.values,
        .c = p.c,
        .bias = null,
        .residual = null,
        .batch = 1,
        .m = p.m,
        .n = p.n,
        .k = p.k,
        .a_batch_stride = 0,
        .a_row_stride = p.a.row,
        .a_column_stride = p.a.column,
        .b_batch_stride = 0,
        .b_row_stride = p.b.row,
        .b_column_stride = p.b.column,
        .c_batch_stride = 0,
        .c_row_stride = p.n,
        .alpha = 1,
        .a_dtype = p.a.dtype,
        .b_dtype = p.b.dtype,
        .c_dtype = p.c_dtype,
        .accumulate = @intFromBool(p.accumulate),
    };
    if (p.tiled) return products.blocked(A, parallel, &call);
    return products.matmul(A, parallel, &call);
}

/// Scratch that starts over for every product. A kernel's scratch lives until the kernel ends, so
/// without this each chunk would add the products' packing buffers of the whole weight.
pub const Scratch = struct {
    outer: *const Parallel,
    blocks: [most]Block = @splat(.{ .bytes = 0, .start = undefined }),
    used: usize = 0,

    const most = 16;
    const Block = struct { bytes: usize, start: [*]align(64) u8 };

    pub fn init(outer: *const Parallel) Scratch {
        return .{ .outer = outer };
    }

    /// Ends the life of every block handed out so far.
    pub fn reset(scratch: *Scratch) void {
        scratch.used = 0;
    }

    /// The outer pool with this scratch. Valid while `scratch` stays where it is.
    pub fn parallel(scratch: *Scratch) Parallel {
        const threads = scratch.outer.threads;
        return .{ .owner = scratch, .run = run, .scratch = alloc, .threads = threads };
    }

    fn run(owner: *anyopaque, count: u32, context: *const anyopaque, body: Body) callconv(.c) void {
        const scratch: *Scratch = @ptrCast(@alignCast(owner));
        scratch.outer.run(scratch.outer.owner, count, context, body);
    }

    /// The smallest free block that is large enough; a new one where there is none.
    fn alloc(owner: *anyopaque, bytes: usize) callconv(.c) ?[*]align(64) u8 {
        const scratch: *Scratch = @ptrCast(@alignCast(owner));
        if (scratch.used == most) return scratch.outer.scratch(scratch.outer.owner, bytes);
        var best: ?usize = null;
        for (scratch.blocks[scratch.used..], scratch.used..) |block, i| {
            if (block.bytes < bytes) continue;
            if (best == null or block.bytes < scratch.blocks[best.?].bytes) best = i;
        }
        const at = best orelse scratch.grow(bytes) orelse return null;
        const taken = scratch.blocks[at];
        scratch.blocks[at] = scratch.blocks[scratch.used];
        scratch.blocks[scratch.used] = taken;
        scratch.used += 1;
        return taken.start;
    }

    /// Replaces the smallest free block by a new one of `bytes`.
    fn grow(scratch: *Scratch, bytes: usize) ?usize {
        const start = scratch.outer.scratch(scratch.outer.owner, bytes) orelse return null;
        var smallest = scratch.used;
        for (scratch.blocks[scratch.used..], scratch.used..) |block, i| {
            if (block.bytes < scratch.blocks[smallest].bytes) smallest = i;
        }
        scratch.blocks[smallest] = .{ .bytes = bytes, .start = start };
        return smallest;
    }
};
