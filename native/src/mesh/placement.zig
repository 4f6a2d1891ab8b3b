//! Which part of a tensor lies on a rank of an axis that splits it (mesh.md §8.6): per dim a list
//! of runs of the global dim, whose product lies here.

const std = @import("std");
const status = @import("../abi/status.zig");
const Error = status.Error;

pub const Run = struct { start: u64, length: u64 };
pub const Runs = std.ArrayList(Run);
pub const max_rank = 8;

/// Part `part` of a length that is cut into `parts`: equal parts of ⌈length / parts⌉, of which the
/// last ones are shorter, or empty, when that does not divide.
pub fn cut(length: u64, part: u32, parts: u32) Run {
    const size = std.math.divCeil(u64, length, parts) catch unreachable; // parts > 0
    const start = @min(part * size, length);
    return .{ .start = start, .length = @min(size, length - start) };
}

/// Appends the runs of a dim that consists of `segments`, each of which is cut into `parts`.
pub fn cutSegments(
    gpa: std.mem.Allocator,
    runs: *Runs,
    segments: []const u64,
    part: u32,
    parts: u32,
) error{OutOfMemory}!void {
    const first = runs.items.len;
    var offset: u64 = 0;
    for (segments) |length| {
        const piece = cut(length, part, parts);
        try appendRun(gpa, runs, first, .{
            .start = offset + piece.start,
            .length = piece.length,
        });
        offset += length;
    }
    if (runs.items.len == first) try runs.append(gpa, .{ .start = 0, .length = 0 });
}

/// Appends a run, or makes the last one longer that ends where it starts.
fn appendRun(
    gpa: std.mem.Allocator,
    runs: *Runs,
    first: usize,
    run: Run,
) error{OutOfMemory}!void {
    if (run.length == 0) return;
    if (runs.items.len > first) {
        const last = &runs.items[runs.items.len - 1];
        if (last.start + last.length == run.start) {
            last.length += run.length;
            return;
        }
    }
    try runs.append(gpa, run);
}

/// One dim of a box: the size of the global dim, and what of it lies here.
pub const Dim = struct {
    size: u64,
    runs: []const Run,

    fn local(dim: Dim) u64 {
        var total: u64 = 0;
        for (dim.runs) |run| total += run.length;
        return total;
    }

    fn isWhole(dim: Dim) bool {
        return dim.local() == dim.size;
    }

    const At = struct { global: u64, left: u64 };

    /// Global position of a local one, and how many follow it without a gap, itself included.
    fn find(dim: Dim, position: u64) At {
        var before: u64 = 0;
        for (dim.runs) |run| {
            const inside = position - before;
            if (inside < run.length)
                return .{ .global = run.start + inside, .left = run.length - inside };
            before += run.length;
        }
        unreachable; // positions are below the local size
    }
};

/// Number of elements of the box.
pub fn localSize(dims: []const Dim) u64 {
    var product: u64 = 1;
    for (dims) |dim| product *= dim.local();
    return product;
}

/// Appends maximal runs of row-major element numbers of the global tensor, for the local elements
/// [from, to) of a box, in local order.
pub fn elementRuns(
    gpa: std.mem.Allocator,
    runs: *Runs,
    dims: []const Dim,
    from: u64,
    to: u64,
) Error!void {
    const size = localSize(dims);
    if (from > to or to > size) return status.invalid(
        "elementRuns: elements {d} to {d} of a part of {d} elements",
        .{ from, to, size },
    );
    // Dims after the last one that is cut are whole: one step there is `inner` elements.
    var outer = dims.len;
    var inner: u64 = 1;
    while (outer > 0 and dims[outer - 1].isWhole()) : (outer -= 1) inner *= dims[outer - 1].size;
    const first = runs.items.len;
    var position = from;
    while (position < to) {
        const at = locate(dims[0..outer], position, inner);
        const length = @min(at.left, to - position);
        try appendRun(gpa, runs, first, .{ .start = at.global, .length = length });
        position += length;
    }
}

fn locate(dims: []const Dim, position: u64, inner: u64) Dim.At {
    if (dims.len == 0) return .{ .global = position, .left = std.math.maxInt(u64) };
    var rest = position / inner;
    var global: u64 = position % inner;
    var left: u64 = undefined;
    var stride = inner;
    var i = dims.len;
    while (i > 0) : (i -= 1) {
        const dim = dims[i - 1];
        const length = dim.local();
        const at = dim.find(rest % length);
        if (i == dims.len) left = at.left * inner - position % inner;
        global += at.global * stride;
        stride *= dim.size;
        rest /= length;
    }
    return .{ .global = global, .left = left };
}
