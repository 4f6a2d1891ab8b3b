//! Exports: groups of ranks.

const row = @import("row.zig").row;
const comm = @import("../ops/comm.zig");
const nccl = @import("../ops/comm_nccl.zig");
const groups = @import("../ops/comm_open.zig");

pub const table = .{
    row(
        "xl_comm_segment",
        groups.makeSegment,
        &.{"size"},
        "Makes the shared memory of a group. Numbers: this process, the descriptor.",
    ),
    row(
        "xl_comm_open_shared",
        groups.openShared,
        &.{ "pid", "fd", "size", "rank", "name_length" },
        "Opens a group on shared memory; global ranks in ints, name in text. Number: the group.",
    ),
    row(
        "xl_comm_open_fake",
        groups.openFake,
        &.{ "size", "rank", "name_length" },
        "Opens a group whose other ranks do not exist; as xl_comm_open_shared.",
    ),
    row(
        "xl_comm_check_fakes",
        groups.checkFakes,
        &.{"count"},
        "Compares what groups in ints, one per rank that does not exist, have called.",
    ),
    row(
        "xl_comm_nccl_library",
        nccl.openLibrary,
        &.{"path_length"},
        "Opens the NCCL library whose path is in scratch text. Number: its version.",
    ),
    row("xl_comm_nccl_id", nccl.makeId, &.{}, "A new id of 128 bytes into scratch text."),
    row(
        "xl_comm_open_nccl",
        nccl.open,
        &.{ "size", "rank", "name_length" },
        "Opens a group on GPUs: id, then name in text, global ranks in ints. Number: the group.",
    ),
    row(
        "xl_comm_split",
        nccl.split,
        &.{ "group", "color", "key", "name_length" },
        "Splits a group. Numbers: the new one or 0, the place in it, its size; ranks in ints.",
    ),
    row("xl_comm_watch", nccl.watch, &.{"group"}, "Processes to watch, by group rank, in ints."),
    row("xl_comm_poll", groups.poll, &.{"group"}, "Numbers: 1 when usable; missing, in ints."),
    row(
        "xl_comm_set_limit",
        groups.setLimit,
        &.{ "group", "seconds" },
        "How long a call may wait for the others.",
    ),
    row(
        "xl_comm_abort",
        groups.abort,
        &.{ "group", "reason_length" },
        "Gives a group up; reason in scratch text.",
    ),
    row("xl_comm_close", groups.close, &.{"group"}, "Lets go of a group."),
    row("xl_comm_close_all", groups.closeAll, &.{}, "Lets go of all groups."),
    row("xl_comm_set_step", groups.setStep, &.{"step"}, "Step of later flight record entries."),
    row(
        "xl_comm_record",
        groups.printRecord,
        &.{"first"},
        "Flight record as JSON lines in text. Numbers: bytes, next entry, entries so far.",
    ),
    row(
        "xl_comm_all_reduce",
        comm.allReduce,
        &.{ "group", "x", "reduction", "site_length" },
        "Sum (0), maximum (1) or minimum (2); site in text. Number: ticket for join, or 0.",
    ),
    row(
        "xl_comm_all_gather",
        comm.allGather,
        &.{ "group", "x", "site_length" },
        "Everybody's x along dim 0; site in text. Number: ticket for join, or 0.",
    ),
    row(
        "xl_comm_reduce_scatter",
        comm.reduceScatter,
        &.{ "group", "x", "site_length" },
        "This rank's part of the sum along dim 0; site in text. Number: ticket for join, or 0.",
    ),
    row(
        "xl_comm_all_to_all",
        comm.allToAll,
        &.{ "group", "x", "site_length" },
        "This rank's part of everybody's x along dim 0; site in text.",
    ),
    row(
        "xl_comm_broadcast",
        comm.broadcast,
        &.{ "group", "x", "root", "site_length" },
        "The root's values into everybody's x, in place; site in text.",
    ),
    row("xl_comm_join", comm.join, &.{"ticket"}, "Later work of the device comes after a ticket."),
    row("xl_comm_barrier", comm.barrier, &.{ "group", "site_length" }, "Meets all ranks."),
    row(
        "xl_comm_exchange",
        comm.exchange,
        &.{
            "group",          "x", "to", "site_out_length", "from", "rank", "dtype",
            "site_in_length",
        },
        "Sends x (0: nothing), receives (from -1: nothing) a shape in ints; sites in text.",
    ),
};
