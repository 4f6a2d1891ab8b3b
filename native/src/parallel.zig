//! How a compute kernel reaches the thread pool: a C-shaped value, so that objects compiled for
//! different instruction sets and optimise modes agree on its layout.
//!
//! Work is split by problem shape only, never by thread count or timing: each output element has
//! one owner and one order of additions, so results have the same bits for any number of threads.

pub const Body = *const fn (context: *const anyopaque, index: u32) callconv(.c) void;

pub const Parallel = extern struct {
    /// The pool, opaque to kernels.
    owner: *anyopaque,
    /// Calls `body(context, i)` once for every i below `count`, on the caller and the workers.
    run: *const fn (
        owner: *anyopaque,
        count: u32,
        context: *const anyopaque,
        body: Body,
    ) callconv(.c) void,
    /// Scratch memory for the duration of one kernel, 64-byte aligned; null when memory is out.
    /// Only from the calling thread, outside of `each`. Freed by the caller of the kernel.
    scratch: *const fn (owner: *anyopaque, bytes: usize) callconv(.c) ?[*]align(64) u8,
    /// Workers including the caller; for sizing per-thread scratch, and for splits that change no
    /// order of additions.
    threads: u32,

    /// Calls `body(context.*, i)` for every i below `count`. Not reentrant; no allocation inside.
    pub fn each(
        parallel: *const Parallel,
        count: usize,
        context: anytype,
        comptime body: fn (@TypeOf(context), usize) void,
    ) void {
        const Context = @TypeOf(context);
        const shim = struct {
            fn call(erased: *const anyopaque, index: u32) callconv(.c) void {
                body(@as(*const Context, @ptrCast(@alignCast(erased))).*, index);
            }
        };
        if (count == 0) return;
        if (count == 1) return body(context, 0);
        parallel.run(parallel.owner, @intCast(count), @ptrCast(&context), shim.call);
    }

    /// `count` elements of scratch; an error when memory is out.
    pub fn alloc(
        parallel: *const Parallel,
        comptime T: type,
        count: usize,
    ) error{OutOfMemory}![]align(64) T {
        const bytes = @max(count * @sizeOf(T), 1);
        const raw = parallel.scratch(parallel.owner, bytes) orelse return error.OutOfMemory;
        const typed: [*]align(64) T = @ptrCast(raw);
        return typed[0..count];
    }
};
