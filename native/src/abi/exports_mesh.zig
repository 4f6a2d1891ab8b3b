//! Exports: the mesh of ranks, and what lies where on it. Pure functions.

const row = @import("row.zig").row;
const mesh = @import("../ops/mesh.zig");
const plan = @import("../ops/mesh_plan.zig");

pub const table = .{
    row(
        "xl_mesh_write",
        mesh.write,
        &.{ "first", "length" },
        "Numbers from floats at a place of the list of the next call; the list ends there.",
    ),
    row("xl_mesh_read", mesh.read, &.{"first"}, "Numbers of the last call's list from a place on."),
    row(
        "xl_mesh_sizes",
        mesh.sizes,
        &.{"ranks"},
        "Checks a mesh: sizes by axis and order in ints. Numbers: the sizes, -1 replaced.",
    ),
    row(
        "xl_mesh_coordinates",
        mesh.coordinates,
        &.{ "ranks", "rank" },
        "Numbers: coordinates by axis.",
    ),
    row("xl_mesh_rank", mesh.rankOf, &.{"ranks"}, "Number: the rank at coordinates in ints."),
    row(
        "xl_mesh_group",
        mesh.group,
        &.{ "ranks", "rank", "axes" },
        "List: the ranks that differ from this one on some axes only.",
    ),
    row(
        "xl_mesh_place",
        mesh.place,
        &.{ "part", "parts" },
        "Part of a dim whose segments are the list. List: start and length of every run.",
    ),
    row(
        "xl_mesh_element_runs",
        mesh.elementRuns,
        &.{ "rank", "from", "to" },
        "Elements of a box, which is the list. List: their runs in the global tensor.",
    ),
    row(
        "xl_mesh_flat_unit",
        mesh.flatUnit,
        &.{"shards"},
        "Lays out parameters whose sizes are the list. List: chunk, total, every start.",
    ),
    row(
        "xl_mesh_owned",
        mesh.owned,
        &.{ "chunk", "start", "size", "part" },
        "Numbers: elements of a parameter that a rank owns, first and end.",
    ),
    row(
        "xl_mesh_schedule",
        mesh.schedule,
        &.{ "stages", "microbatches", "chunks", "stage" },
        "List: kind, microbatch, chunk of every op of a pipeline stage.",
    ),
    row(
        "xl_plan_write_names",
        plan.writeNames,
        &.{ "first", "length" },
        "Bytes from text at a place of the names of the next call; they end there.",
    ),
    row(
        "xl_plan_read_text",
        plan.readText,
        &.{"first"},
        "The last call's text from a byte on. Number: bytes.",
    ),
    row(
        "xl_plan_rule",
        plan.rule,
        &.{ "kind", "rank", "residual", "name_length" },
        "Numbers: dim that tp splits (-1: R, -2: I), 1 where it has segments. Name in text.",
    ),
    row(
        "xl_plan_issues",
        plan.issues,
        &.{"ranks"},
        "Text: what keeps a model (list, names) off a mesh (ints). Number: bytes.",
    ),
    row(
        "xl_plan_check",
        plan.check,
        &.{"ranks"},
        "Fails unless the operations of all ranks end and all gradients become complete.",
    ),
    row(
        "xl_plan_parameters",
        plan.parameters,
        &.{"ranks"},
        "List: stage, parameter, state on tp, vector, elements on a rank of tp and of fsdp.",
    ),
    row("xl_plan_bytes", plan.bytes, &.{"ranks"}, "List: bytes by cause of every stage."),
    row(
        "xl_plan_calls",
        plan.calls,
        &.{"ranks"},
        "List: stage, cause, kind, axes, calls, bytes on the wire of a rank.",
    ),
    row(
        "xl_plan_operations",
        plan.operations,
        &.{ "ranks", "rank" },
        "Text: the operations of a rank, one a line. Number: bytes.",
    ),
};
