//! The contract between operations and backends: one `extern struct` of arguments per compute
//! kernel. `ops/*` fills it after every check; `cpu/*` (once per instruction-set level) and
//! `cuda/*` compute it. Both sides use the same names.
//!
//! To add a kernel: write its struct in `args/<subject>.zig`, list it below, implement a function
//! of the same name in `cpu/<subject>.zig` (and `cuda/<subject>.zig`).
//!
//! Conventions: pointers are `*const anyopaque` (inputs) and `*anyopaque` (outputs), optional where
//! the tensor is; the element type is the kernel's storage type S unless the field's comment says
//! A, the arithmetic type (f32 for f32 and bf16, f64 for f64), i32 or u8. Sizes are u64 counts of
//! elements. Tensors are contiguous unless strides are given. Outputs never alias inputs unless
//! the comment allows it. A kernel writes every element of its outputs (`=`) unless the comment
//! says `+=`. Kernels take S from {f32, f64, bf16}; a struct may declare `pub const storage` to
//! restrict it.

pub const elementwise = @import("args/elementwise.zig");
pub const matmul = @import("args/matmul.zig");
pub const mlstm = @import("args/mlstm.zig");
pub const slstm = @import("args/slstm.zig");
pub const conv = @import("args/conv.zig");
pub const norm = @import("args/norm.zig");
pub const loss = @import("args/loss.zig");
pub const index = @import("args/index.zig");
pub const random = @import("args/random.zig");
pub const optimizer = @import("args/optimizer.zig");
pub const bench = @import("args/bench.zig");

/// Every subject, in the order of the kernel table.
pub const subjects = .{
    elementwise, matmul, mlstm, slstm, conv, norm, loss, index, random, optimizer, bench,
};

pub const count = blk: {
    var n: usize = 0;
    for (subjects) |subject| n += subject.kernels.len;
    break :blk n;
};

/// Position of a kernel in the table; a compile error for an unknown name.
pub fn indexOf(comptime name: []const u8) usize {
    @setEvalBranchQuota(100_000);
    var n: usize = 0;
    for (subjects) |subject| for (subject.kernels) |row| {
        if (std.mem.eql(u8, row[0], name)) return n;
        n += 1;
    };
    @compileError("no kernel named " ++ name);
}

pub fn Args(comptime name: []const u8) type {
    @setEvalBranchQuota(100_000);
    for (subjects) |subject| for (subject.kernels) |row| {
        if (std.mem.eql(u8, row[0], name)) return row[1];
    };
    @compileError("no kernel named " ++ name);
}

/// Storage types a kernel exists for, in the order of the table's columns.
pub const columns = .{ f32, f64, u16 };

pub fn supports(comptime A: type, comptime S: type) bool {
    if (!@hasDecl(A, "storage")) return true;
    for (A.storage) |T| if (T == S) return true;
    return false;
}

/// One kernel at one storage type. Returns 0, or 1 when scratch memory is out.
pub const Entry = *const fn (parallel: *const Parallel, args: *const anyopaque) callconv(.c) i32;

/// What one instruction-set level exports.
pub const Table = extern struct {
    lanes_f32: u32,
    entries: [count * columns.len]?Entry,
};

const std = @import("std");
const Parallel = @import("parallel.zig").Parallel;
