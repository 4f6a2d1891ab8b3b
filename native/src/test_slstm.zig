test {
    _ = @import("cpu/slstm.zig");
}
