//! Ceilings of the processor, measured beside what is compared with them.

/// Independent fused multiply-adds on every thread: 2·`chains`·lanes FLOP per loop and task.
pub const Ceiling = extern struct {
    out: *anyopaque, // A [tasks]: a value that keeps the loop alive
    tasks: u64,
    loops: u64,
    pub const storage = .{f32};
};

/// Vectors in flight: enough to hide the latency of two multiply-adds a cycle.
pub const chains = 12;

pub const kernels = .{
    .{ "ceiling", Ceiling },
};
