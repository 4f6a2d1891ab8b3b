//! Root of the shared library: exports come from `abi/exports.zig` and nowhere else.

const std = @import("std");
const linux = std.os.linux;

pub const exports = @import("abi/exports.zig");
pub const scratch = @import("abi/scratch.zig");
pub const Status = @import("abi/status.zig").Status;
pub const DType = @import("dtype.zig").DType;
pub const Device = @import("runtime/tensor.zig").Device;
pub const args = @import("args.zig");
pub const cuda_plans = @import("cuda/table.zig").plans;
pub const elementwise = @import("args/elementwise.zig");
pub const optimizer = @import("args/optimizer.zig");

comptime {
    _ = exports;
}

/// A panic is a bug of this library, never of its user: say so before the process ends.
pub const panic = std.debug.FullPanic(struct {
    fn call(message: []const u8, _: ?usize) noreturn {
        _ = linux.write(2, "xl native panic: ", 17);
        _ = linux.write(2, message.ptr, message.len);
        _ = linux.write(2, " (not a Bun bug)\n", 17);
        std.c.abort();
    }
}.call);

test {
    _ = @import("unit_tests.zig");
}
