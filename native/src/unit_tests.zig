//! Every file with tests. The tidy test checks that none is missing.

test {
    _ = @import("dtype.zig");
    _ = @import("abi/handles.zig");
    _ = @import("abi/status.zig");
    _ = @import("cuda/cublaslt_choice.zig");
    _ = @import("runtime/arena.zig");
    _ = @import("runtime/pool.zig");
    _ = @import("test_comm.zig");
    _ = @import("test_comm_faults.zig");
    _ = @import("test_conv.zig");
    _ = @import("test_copy.zig");
    _ = @import("test_elementwise.zig");
    _ = @import("test_index.zig");
    _ = @import("test_loss.zig");
    _ = @import("test_loss_linear.zig");
    _ = @import("test_matmul.zig");
    _ = @import("test_matmul_parts.zig");
    _ = @import("test_mesh.zig");
    _ = @import("test_mlstm.zig");
    _ = @import("test_norm.zig");
    _ = @import("test_optimizer.zig");
    _ = @import("test_random.zig");
    _ = @import("test_random_sample.zig");
    _ = @import("test_reduce.zig");
    _ = @import("test_safetensors.zig");
    _ = @import("test_safetensors_table.zig");
    _ = @import("test_slstm.zig");
    _ = @import("test_softmax.zig");
}
