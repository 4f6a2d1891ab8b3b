//! Which function computes a kernel of args.zig on the GPU.

const args = @import("../args.zig");
const status = @import("../abi/status.zig");
const DType = @import("../dtype.zig").DType;
const Device = @import("device.zig").Device;

/// Same subjects as `args.subjects`; a kernel without a function here is for the CPU alone.
const subjects = .{
    @import("elementwise.zig"),
    @import("reduce.zig"),
    @import("matmul.zig"),
    @import("mlstm.zig"),
    @import("slstm.zig"),
    @import("conv.zig"),
    @import("norm.zig"),
    @import("loss.zig"),
    @import("index.zig"),
    @import("random.zig"),
    @import("optimizer.zig"),
};

/// Launch plans of every subject, for `kernels/args.h`.
pub const plans = .{
    .{.{ "Fault", @import("device.zig").Fault }},
    subjects[0].plans,
    subjects[1].plans,
    subjects[2].plans,
    subjects[3].plans,
    subjects[4].plans,
    subjects[5].plans,
    subjects[6].plans,
    subjects[7].plans,
    subjects[8].plans,
    subjects[9].plans,
    subjects[10].plans,
};

pub fn run(
    device: *Device,
    comptime name: []const u8,
    dtype: DType,
    arguments: *const args.Args(name),
) status.Error!void {
    defer device.releaseTemporaries();
    inline for (subjects) |subject| {
        if (comptime @hasDecl(subject, name))
            return @field(subject, name)(device, dtype, arguments);
    }
    return status.fail(.unsupported, name ++ ": not available on cuda", .{});
}
