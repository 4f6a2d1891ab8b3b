//! Groups of ranks on the CPU: the conformance cases for threads and shared memory. Also the root
//! of the tests inside of `comm`.

const std = @import("std");
const conformance = @import("comm/conformance.zig");

test {
    _ = @import("comm/clock.zig");
    _ = @import("comm/operation.zig");
    _ = @import("comm/processes.zig");
    _ = @import("comm/recorder.zig");
    _ = @import("comm/reduce.zig");
}

test "threads: collectives, dtypes, sizes, in place and not" {
    try conformance.collectives(.threads, 8);
}

test "shared memory: collectives, dtypes, sizes, in place and not" {
    try conformance.collectives(.shm, 8);
}

test "a gathered scattered sum is the sum" {
    try conformance.gatherOfScatter(.threads);
    try conformance.gatherOfScatter(.shm);
}

test "permutations by messages" {
    try conformance.permutations(.threads, 5);
    try conformance.permutations(.shm, 5);
}

test "splits" {
    try conformance.splits(.threads, 8);
    try conformance.splits(.shm, 8);
}

test "thousands of calls of several groups" {
    try conformance.mixture(.threads, 10_000);
    try conformance.mixture(.shm, 10_000);
}
