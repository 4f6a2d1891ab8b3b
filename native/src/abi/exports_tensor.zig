//! Exports: tensors, memory, views.

const row = @import("row.zig").row;
const system = @import("system.zig");
const create = @import("../ops/create.zig");
const view = @import("../ops/view.zig");

pub const table = .{
    row(
        "xl_memory",
        system.memory,
        &.{},
        "Numbers: tensors, bytes, peak, cached, calls, threads, level.",
    ),
    row("xl_reset_peak", system.resetPeak, &.{}, "Sets the peak to what is live now."),
    row("xl_trim", system.trim, &.{}, "Returns cached memory to the system."),
    row("xl_limit_memory", system.limitMemory, &.{"bytes"}, "Bytes that tensors may take."),
    row("xl_dispose", system.dispose, &.{"tensor"}, "Releases a handle."),
    row("xl_dispose_many", system.disposeMany, &.{"count"}, "Releases handles in scratch ints."),
    row("xl_cell", system.cell, &.{"tensor"}, "Numbers: address of a cell for the deallocator."),
    row("xl_panic", system.panic, &.{}, "Panics, for the test of the panic handler."),
    row("xl_empty", create.empty, &.{ "rank", "dtype" }, "Undefined contents; shape in scratch."),
    row("xl_full", create.full, &.{ "rank", "dtype", "value" }, "One value; shape in scratch."),
    row(
        "xl_arange",
        create.arange,
        &.{ "count", "dtype", "start", "step" },
        "start, start + step, …",
    ),
    row(
        "xl_from_bytes",
        create.fromBytes,
        &.{ "rank", "dtype", "data", "bytes" },
        "Copies data in.",
    ),
    row("xl_to_bytes", create.toBytes, &.{ "x", "target", "offset", "bytes" }, "Copies data out."),
    row(
        "xl_write_bytes",
        create.writeBytes,
        &.{ "x", "data", "offset", "bytes" },
        "Overwrites data.",
    ),
    row("xl_reshape", view.reshape, &.{ "x", "rank" }, "Same elements, shape in scratch."),
    row("xl_permute", view.permute, &.{ "x", "rank" }, "Dims reordered, order in scratch."),
    row("xl_slice", view.slice, &.{ "x", "dim", "start", "end", "step" }, "A range of one dim."),
    row("xl_expand", view.expand, &.{ "x", "rank" }, "Broadcast view, shape in scratch."),
    row(
        "xl_concat",
        view.concat,
        &.{ "count", "dim" },
        "Joins tensors whose handles are in scratch.",
    ),
    row("xl_assign", view.assign, &.{ "target", "source" }, "Writes source into target in place."),
    row("xl_copy", view.copy, &.{ "x", "dtype" }, "Row-major copy; dtype -1 keeps it."),
    row("xl_alias", view.alias, &.{"x"}, "Another handle on the same memory."),
};
