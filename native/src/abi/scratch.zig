//! The scratch block: 8 KiB of native memory that TypeScript maps once. Lists of numbers go in and
//! results come out through it, so that calls take plain i32 and f64 and return only a status.

const tensor = @import("../runtime/tensor.zig");

pub const max_outputs = 16;

/// One result tensor, written by native code and read by TypeScript after the call.
pub const Record = extern struct {
    handle: i32,
    dtype: i32,
    rank: i32,
    device: i32,
    shape: [tensor.max_rank]i32,
    reserved: [4]i32,
};

pub const Scratch = extern struct {
    outputs: [max_outputs]Record, // bytes 0..1023
    numbers: [64]f64, // results that are not tensors, 1024..1535
    output_count: i32, // 1536
    padding: [127]i32,
    ints: [512]i32, // arguments: shapes, dims, handles, 2048..4095
    floats: [128]f64, // arguments, 4096..5119
    text: [3072]u8, // names, 5120..8191
};

comptime {
    const std = @import("std");
    std.debug.assert(@sizeOf(Record) == 64);
    std.debug.assert(@sizeOf(Scratch) == 8192);
    std.debug.assert(@offsetOf(Scratch, "ints") == 2048);
    std.debug.assert(@offsetOf(Scratch, "floats") == 4096);
    std.debug.assert(@offsetOf(Scratch, "text") == 5120);
}

pub var block: Scratch align(64) = undefined;

pub fn address() callconv(.c) *anyopaque {
    return &block;
}
