//! The tests of the mesh, for `zig test` alone.

test {
    _ = @import("mesh/axes_test.zig");
    _ = @import("mesh/placement_test.zig");
    _ = @import("mesh/schedule_test.zig");
    _ = @import("mesh/layout_test.zig");
    _ = @import("mesh/order_check_test.zig");
    _ = @import("mesh/plan_test.zig");
}
