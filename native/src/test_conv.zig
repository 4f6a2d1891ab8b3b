test {
    _ = @import("cpu/conv.zig");
}
