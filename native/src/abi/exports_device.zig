//! Exports: the GPU.

const row = @import("row.zig").row;
const create = @import("../ops/create.zig");
const device = @import("../ops/device.zig");

pub const table = .{
    row(
        "xl_open_device",
        device.open,
        &.{ "path_length", "ordinal", "synchronous" },
        "Opens a GPU through the driver whose path is in scratch text.",
    ),
    row(
        "xl_use_cublaslt",
        device.useCublasLt,
        &.{"path_length"},
        "Opens the cuBLASLt library whose path is in scratch text.",
    ),
    row(
        "xl_import_algorithms",
        device.importAlgorithms,
        &.{ "text_length", "timing" },
        "Takes choices of cuBLASLt's algorithms from scratch text; timing: whether to make others.",
    ),
    row(
        "xl_export_algorithms",
        device.exportAlgorithms,
        &.{"first"},
        "New choices into scratch text. Numbers: its bytes, how many.",
    ),
    row("xl_use_device", device.use, &.{"device"}, "Where new tensors go."),
    row("xl_device_facts", device.facts, &.{}, "Name in scratch text; numbers: ops/device.zig."),
    row("xl_to_device", create.move, &.{ "x", "device" }, "The tensor on another device."),
    row("xl_synchronize", device.synchronize, &.{}, "Waits for the GPU."),
    row("xl_capture_begin", device.captureBegin, &.{}, "Records launches instead of running them."),
    row("xl_capture_end", device.captureEnd, &.{"keep"}, "Numbers: the graph, its launches."),
    row("xl_replay", device.replay, &.{"graph"}, "Runs a captured graph."),
    row("xl_destroy_graph", device.destroyGraph, &.{"graph"}, "Releases a captured graph."),
    row("xl_mark", device.mark, &.{"which"}, "Puts a time mark (0 or 1) into the stream."),
    row("xl_elapsed", device.elapsed, &.{}, "Numbers: milliseconds between the marks."),
};
