//! Exports: ceilings and the choice of the product.

const row = @import("row.zig").row;
const bench = @import("../ops/bench.zig");

pub const table = .{
    row("xl_ceiling", bench.ceiling, &.{"loops"}, "Peak multiply-add rate; numbers: FLOP done."),
    row("xl_use_blas", bench.useBlas, &.{"path_length"}, "CBLAS library by path in scratch."),
};
