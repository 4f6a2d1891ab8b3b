//! What the ranks of a mesh tell each other in a step, as data (mesh.md §5): one list per rank, in
//! program order.

const std = @import("std");
const axes = @import("axes.zig");
const comm = @import("../comm/operation.zig");
const DType = @import("../dtype.zig").DType;
const AxisSet = axes.AxisSet;

pub const Kind = enum(u8) {
    all_gather,
    reduce_scatter,
    all_reduce,
    all_to_all,
    /// Messages between neighbours of a pipeline; an exchange is one of each direction.
    send,
    receive,
    exchange,

    pub fn isMessage(kind: Kind) bool {
        return @backingInt(kind) >= @backingInt(Kind.send);
    }
};

/// What the bytes are for.
pub const Cause = enum(u8) {
    weights,
    gradients,
    layers,
    loss,
    pipeline,
    scalars,
};

/// Which tensor it is: names the site in errors and in flight records.
pub const Site = struct {
    what: What,
    /// Vector, unit, block, microbatch or axis.
    number: u32 = 0,
    is_gradient: bool = false,

    pub const What = enum(u8) {
        weights,
        unit_gradients,
        whole_gradients,
        embedding_out,
        mixer_in,
        mixer_out,
        mixer_gates,
        ffn_in,
        ffn_out,
        head_in,
        head_max,
        head_sums,
        axis_gradients,
        tied_gradient,
        norm_blocks,
        norm,
        valid_targets,
        loss,
        x,
        dx,
    };

    fn code(site: Site) u64 {
        return @as(u64, site.number) << 16 | @as(u64, @backingInt(site.what)) << 8 |
            @intFromBool(site.is_gradient);
    }
};

pub const Operation = struct {
    kind: Kind,
    /// Its group: the ranks that equal this one on all other axes.
    over: AxisSet,
    reduction: comm.Reduction = .sum,
    dtype: DType,
    /// Elements of the whole tensor (all_reduce, messages), or of one rank's part of the larger
    /// one.
    count: u64,
    site: Site,
    cause: Cause,
    /// Group ranks of messages.
    to: u32 = 0,
    from: u32 = 0,
    /// What an exchange receives; `site` is what it sends.
    received: Site = .{ .what = .dx },
    /// Parameters whose gradients it sums over `over`.
    sums: []const u32 = &.{},

    /// What all members must agree on.
    pub fn hash(operation: *const Operation) u64 {
        var hasher: std.hash.Wyhash = .init(operation.over.bits.mask);
        const facts = [_]u64{
            @backingInt(operation.kind),
            @backingInt(operation.reduction),
            @intCast(@backingInt(operation.dtype)),
            operation.count,
            operation.site.code(),
        };
        hasher.update(std.mem.sliceAsBytes(&facts));
        return hasher.final();
    }

    /// Bytes that a rank of a group of `ranks` puts on the wire.
    pub fn wireBytes(operation: *const Operation, ranks: u32) u64 {
        const bytes = operation.count * operation.dtype.size();
        return switch (operation.kind) {
            .all_gather, .reduce_scatter, .all_to_all => (ranks - 1) * bytes,
            .all_reduce => 2 * (ranks - 1) * bytes / ranks,
            .send, .exchange => bytes,
            .receive => 0,
        };
    }
};

pub const List = std.ArrayList(Operation);

/// The name of a group: `dp+fsdp`.
pub const GroupName = struct {
    over: AxisSet,

    pub fn format(name: GroupName, writer: *std.Io.Writer) std.Io.Writer.Error!void {
        var is_first = true;
        for (axes.default_order) |axis| {
            if (!name.over.contains(axis)) continue;
            try writer.print("{s}{t}", .{ if (is_first) "" else "+", axis });
            is_first = false;
        }
    }
};
