//! Exports: safetensors files.

const row = @import("row.zig").row;
const file = @import("../ops/file.zig");

pub const table = .{
    row(
        "xl_file_open",
        file.open,
        &.{"path_length"},
        "Path in scratch text. Numbers: file, tensors, metadata pairs.",
    ),
    row(
        "xl_file_entry",
        file.entry,
        &.{ "file", "index" },
        "Name in scratch text. Numbers: its length, dtype, rank, dims, begin, end.",
    ),
    row(
        "xl_file_metadata",
        file.metadata,
        &.{ "file", "index", "offset" },
        "Piece of key NUL value in scratch text. Numbers: whole, key and piece length.",
    ),
    row(
        "xl_file_load",
        file.load,
        &.{ "file", "index", "dtype" },
        "Reads a tensor; dtype -1 keeps the type of the file.",
    ),
    row("xl_file_close", file.close, &.{"file"}, "Closes a file."),
};
