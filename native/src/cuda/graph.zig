//! A captured sequence of launches, replayed by one call. Addresses are part of a graph: its memory
//! belongs to it (memory.zig), and what it reads must stay where it is.

const std = @import("std");
const driver = @import("driver.zig");
const Device = @import("device.zig").Device;
const Memory = @import("memory.zig").Memory;
const status = @import("../abi/status.zig");
const Error = status.Error;

/// Relaxed: the allocator may ask for more memory during a capture.
const relaxed = 2;

pub const Graph = struct {
    exec: driver.GraphExec = null,
    reserved: Memory.Reserved = .{},
    launches: u64 = 0,
    /// Launches of the device before the recording.
    started: u64 = 0,

    /// From here on the stream records instead of running.
    pub fn begin(device: *Device) Error!*Graph {
        if (device.memory.capture != null)
            return status.invalid("capture: a capture is running already", .{});
        const graph = try device.gpa.create(Graph);
        errdefer device.gpa.destroy(graph);
        graph.* = .{ .started = device.launches };
        const api = &device.api;
        try api.check(api.StreamBeginCapture_v2(device.stream, relaxed), "capture");
        device.memory.capture = &graph.reserved;
        return graph;
    }

    /// Ends the recording; on a failure the graph is gone.
    pub fn end(graph: *Graph, device: *Device) Error!void {
        errdefer graph.destroy(device);
        device.memory.capture = null;
        const api = &device.api;
        var recorded: driver.Graph = null;
        try api.check(api.StreamEndCapture(device.stream, &recorded), "capture");
        defer _ = api.GraphDestroy(recorded);
        try api.check(api.GraphInstantiateWithFlags(&graph.exec, recorded, 0), "capture");
        graph.launches = device.launches - graph.started;
    }

    pub fn replay(graph: *Graph, device: *Device) Error!void {
        try device.api.check(device.api.GraphLaunch(graph.exec, device.stream), "replay");
        return device.shadows.replayed(device, graph.started);
    }

    /// Waits for the device: a replay may still be running.
    pub fn destroy(graph: *Graph, device: *Device) void {
        if (device.memory.capture == &graph.reserved) device.memory.capture = null;
        _ = device.api.StreamSynchronize(device.stream);
        if (graph.exec != null) _ = device.api.GraphExecDestroy(graph.exec);
        device.memory.giveBack(&graph.reserved);
        device.gpa.destroy(graph);
    }
};
