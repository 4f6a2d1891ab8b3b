//! What every transport must do, as one list of cases over a harness that runs a body on ranks.
//! `test_comm.zig` instantiates it for threads and for shared memory.

const std = @import("std");
const boards = @import("board.zig");
const dtypes = @import("../dtype.zig");
const harness = @import("conformance_harness.zig");
const operation = @import("operation.zig");
const DType = dtypes.DType;
const Kind = harness.Kind;
const Transport = @import("transport.zig").Transport;
const gpa = std.testing.allocator;

/// Small, so that few elements are several slices.
const layout: boards.Layout = .{ .size = 0, .slice_bytes = 1024, .part_bytes = 192 };

/// Element `i` of rank `rank`'s input: whole numbers of both signs and fractions that round.
fn valueOf(dtype: DType, rank: usize, i: usize) f64 {
    const mixed = (rank *% 2654435761) ^ (i *% 40503) ^ 0x9e37;
    const hash: f64 = @floatFromInt(mixed % 2003);
    return switch (dtype) {
        .f32, .f64 => (hash - 1000) / 3,
        .bf16, .f16 => @floor((hash - 1000) / 10),
        .i32 => (hash - 1000) * 2e6, // sums wrap
        .u8 => @floatFromInt(mixed % 251),
    };
}

fn put(dtype: DType, buffer: [*]u8, i: usize, value: f64) void {
    const at = buffer + i * dtype.size();
    switch (dtype) {
        .f32 => at[0..4].* = @bitCast(@as(f32, @floatCast(value))),
        .f64 => at[0..8].* = @bitCast(value),
        .f16 => at[0..2].* = @bitCast(@as(f16, @floatCast(value))),
        .bf16 => at[0..2].* = @bitCast(dtypes.toBf16(@floatCast(value))),
        .i32 => at[0..4].* = @bitCast(@as(i32, @intFromFloat(value))),
        .u8 => at[0] = @intFromFloat(value),
    }
}

fn fill(dtype: DType, rank: usize, buffer: []u8) void {
    for (0..buffer.len / dtype.size()) |i| put(dtype, buffer.ptr, i, valueOf(dtype, rank, i));
}

/// The stated order, by its definition: the left part is the largest power of two below n.
fn tree(comptime A: type, values: []const A, reduction: operation.Reduction) A {
    if (values.len == 1) return values[0];
    var left: usize = 1;
    while (left * 2 < values.len) left *= 2;
    const a = tree(A, values[0..left], reduction);
    const b = tree(A, values[left..], reduction);
    return switch (reduction) {
        .sum => if (@typeInfo(A) == .float) a + b else a +% b,
        .max => @max(a, b),
        .min => @min(a, b),
    };
}

/// What element `i` of all inputs reduces to, as bytes.
fn reduced(dtype: DType, size: usize, i: usize, reduction: operation.Reduction, to: [*]u8) void {
    switch (dtype) {
        inline .f32, .f64, .bf16, .f16, .i32, .u8 => |known| {
            const A = switch (known) {
                .f64 => f64,
                .i32 => i32,
                .u8 => u8,
                else => f32,
            };
            var values: [16]A = undefined;
            for (values[0..size], 0..) |*value, rank| {
                const exact = valueOf(known, rank, i);
                value.* = if (@typeInfo(A) == .float) @floatCast(exact) else @intFromFloat(exact);
            }
            const total = tree(A, values[0..size], reduction);
            switch (known) {
                .i32 => to[0..4].* = @bitCast(total),
                .u8 => to[0] = total,
                else => put(known, to, 0, total),
            }
        },
    }
}

const Buffers = struct {
    memory: []u8,
    input: []u8,
    output: []u8,

    /// At odd addresses; the output poisoned.
    fn init(input: usize, output: usize) !Buffers {
        const memory = try gpa.alloc(u8, input + output + 2);
        @memset(memory, 0xff);
        return .{
            .memory = memory,
            .input = memory[1..][0..input],
            .output = memory[input + 2 ..][0..output],
        };
    }

    fn deinit(buffers: Buffers) void {
        gpa.free(buffers.memory);
    }
};

fn expectBytes(want: []const u8, got: []const u8) !void {
    return if (std.mem.eql(u8, want, got)) {} else error.WrongBytes;
}

/// One collective of `count` elements on one rank, against element by element.
fn check(
    transport: Transport,
    kind: operation.Kind,
    reduction: operation.Reduction,
    dtype: DType,
    count: usize,
    in_place: bool,
) !void {
    const group = transport.group();
    const n = group.size();
    const bytes = count * dtype.size();
    const wide_in = kind == .reduce_scatter or kind == .all_to_all;
    const wide_out = kind == .all_gather or kind == .all_to_all;
    const buffers = try Buffers.init(
        if (wide_in) n * bytes else bytes,
        if (wide_out) n * bytes else bytes,
    );
    defer buffers.deinit();
    fill(dtype, group.rank, buffers.input);
    var input = buffers.input;
    var output = buffers.output;
    if (in_place) switch (kind) {
        .all_reduce, .broadcast => output = input,
        .reduce_scatter => output = input[group.rank * bytes ..][0..bytes],
        .all_gather => {
            input = output[group.rank * bytes ..][0..bytes];
            @memcpy(input, buffers.input);
        },
        else => {},
    };
    const root: u32 = @intCast(count % n);
    try transport.collective(.{
        .kind = kind,
        .reduction = reduction,
        .dtype = dtype,
        .count = count,
        .root = root,
        .input = input.ptr,
        .output = output.ptr,
        .site = "conformance",
    });
    var want: [8]u8 = undefined;
    const size = dtype.size();
    for (0..output.len / size) |i| {
        const part = i / @max(count, 1);
        switch (kind) {
            .all_reduce => reduced(dtype, n, i, reduction, &want),
            .reduce_scatter => reduced(dtype, n, group.rank * count + i, reduction, &want),
            .all_gather => put(dtype, &want, 0, valueOf(dtype, part, i % count)),
            .all_to_all => put(
                dtype,
                &want,
                0,
                valueOf(dtype, part, group.rank * count + i % count),
            ),
            .broadcast => put(dtype, &want, 0, valueOf(dtype, root, i)),
            else => unreachable,
        }
        try expectBytes(want[0..size], output[i * size ..][0..size]);
    }
}

/// Every collective, dtype and size: empty, one, odd, around a slice and several slices.
pub fn collectives(kind: Kind, most: usize) !void {
    for (1..most + 1) |size| try harness.run(kind, layout, size, {}, struct {
        fn body(transport: Transport, _: void) anyerror!void {
            for (std.enums.values(DType)) |dtype| {
                const slice = layout.slice_bytes / dtype.size();
                const sizes = [_]usize{ 0, 1, 37, slice - 1, slice, slice + 1, 2 * slice + 5 };
                for (sizes, 0..) |count, i| {
                    const reduction = std.enums.values(operation.Reduction)[i % 3];
                    const in_place = i % 2 == 1;
                    try check(transport, .all_reduce, .sum, dtype, count, !in_place);
                    try check(transport, .all_reduce, reduction, dtype, count, in_place);
                    const part = count / transport.group().size();
                    try check(transport, .reduce_scatter, reduction, dtype, part, in_place);
                    try check(transport, .all_gather, .sum, dtype, count, in_place);
                    try check(transport, .all_to_all, .sum, dtype, part, false);
                    try check(transport, .broadcast, .sum, dtype, count, in_place);
                }
            }
        }
    }.body);
}

/// Gathering the scattered sum gives the sum.
pub fn gatherOfScatter(kind: Kind) !void {
    for ([_]usize{ 2, 3, 5 }) |size| try harness.run(kind, layout, size, {}, struct {
        fn body(transport: Transport, _: void) anyerror!void {
            const n = transport.group().size();
            const count = 300;
            const whole = n * count * 4;
            const buffers = try Buffers.init(whole, whole);
            defer buffers.deinit();
            fill(.f32, transport.group().rank, buffers.input);
            const sum = try gpa.alloc(u8, whole);
            defer gpa.free(sum);
            const mine = sum[transport.group().rank * count * 4 ..];
            try transport.collective(.{
                .kind = .reduce_scatter,
                .dtype = .f32,
                .count = count,
                .input = buffers.input.ptr,
                .output = mine.ptr,
            });
            try transport.collective(.{
                .kind = .all_gather,
                .dtype = .f32,
                .count = count,
                .input = mine.ptr,
                .output = sum.ptr,
            });
            try transport.collective(.{
                .kind = .all_reduce,
                .dtype = .f32,
                .count = n * count,
                .input = buffers.input.ptr,
                .output = buffers.output.ptr,
            });
            try expectBytes(buffers.output, sum);
        }
    }.body);
}

/// Everybody sends to the rank `step` on, messages of no, one and several parts.
pub fn permutations(kind: Kind, most: usize) !void {
    for (2..most + 1) |size| try harness.run(kind, layout, size, {}, struct {
        fn body(transport: Transport, _: void) anyerror!void {
            const n = transport.group().size();
            const me = transport.group().rank;
            for (1..n) |step| for ([_]usize{ 0, 1, 48, 49, 401 }) |count| {
                const to: u32 = @intCast((me + step) % n);
                const from: u32 = @intCast((me + n - step) % n);
                const buffers = try Buffers.init(count * 4, count * 4);
                defer buffers.deinit();
                fill(.f32, me, buffers.input);
                try transport.exchange(.{
                    .peer = to,
                    .dtype = .f32,
                    .count = count,
                    .data = buffers.input.ptr,
                    .site = "ring",
                }, .{
                    .peer = from,
                    .dtype = .f32,
                    .count = count,
                    .data = buffers.output.ptr,
                    .site = "ring",
                });
                fill(.f32, from, buffers.input);
                try expectBytes(buffers.input, buffers.output);
            };
        }
    }.body);
}

/// Every factorisation of the world into two axes, rows and columns, in both orders of the ranks;
/// a split of a split; ranks without a color.
pub fn splits(kind: Kind, most: usize) !void {
    for (2..most + 1) |size| try harness.run(kind, layout, size, {}, struct {
        fn body(transport: Transport, _: void) anyerror!void {
            const n: i32 = @intCast(transport.group().size());
            const me: i32 = @intCast(transport.group().rank);
            var width: i32 = 1;
            while (width <= n) : (width += 1) {
                if (@mod(n, width) != 0) continue;
                for ([_]i32{ 1, -1 }) |order| {
                    const row = (try transport.split(@divTrunc(me, width), order * me, "row")).?;
                    defer row.close();
                    const column = (try transport.split(@mod(me, width), order * me, "column")).?;
                    defer column.close();
                    try expectRanks(row, @divTrunc(me, width) * width, 1, width, order);
                    const height = @divTrunc(n, width);
                    try expectRanks(column, @mod(me, width), width, height, order);
                    try check(row, .all_reduce, .sum, .i32, 100, false);
                    try check(column, .all_gather, .sum, .f32, 31, false);
                    const one = (try row.split(@intCast(row.group().rank), 0, "one")).?;
                    defer one.close();
                    try check(one, .all_reduce, .sum, .f64, 9, true);
                }
            }
            const half = try transport.split(if (@mod(me, 2) == 0) -1 else 4, 0, "odd");
            defer if (half) |odd| odd.close();
            if ((half == null) != (@mod(me, 2) == 0)) return error.WrongColor;
            if (half) |odd| try check(odd, .all_reduce, .max, .f32, 5, false);
        }
    }.body);
}

fn expectRanks(transport: Transport, first: i32, step: i32, count: i32, order: i32) !void {
    const group = transport.group();
    if (group.ranks.len != count) return error.WrongSize;
    for (group.ranks, 0..) |rank, i| {
        const at: i32 = @intCast(if (order > 0) i else group.ranks.len - 1 - i);
        // Global ranks of the harness are 10 more than the places.
        if (rank != first + at * step + 10) return error.WrongRanks;
    }
}

/// Thousands of calls of several groups in one order, drawn from one seed on every rank.
pub fn mixture(kind: Kind, calls: usize) !void {
    try harness.run(kind, layout, 4, calls, struct {
        fn body(transport: Transport, number: usize) anyerror!void {
            const me: i32 = @intCast(transport.group().rank);
            const row = (try transport.split(@divTrunc(me, 2), me, "row")).?;
            defer row.close();
            const column = (try transport.split(@mod(me, 2), me, "column")).?;
            defer column.close();
            var prng: std.Random.DefaultPrng = .init(20260211);
            const random = prng.random();
            for (0..number) |_| {
                const groups = [_]Transport{ transport, row, column };
                const on = groups[random.uintLessThan(usize, groups.len)];
                const dtype = random.enumValue(DType);
                const count = random.uintLessThan(usize, 90);
                const reduction = random.enumValue(operation.Reduction);
                const in_place = random.boolean();
                const kinds = [_]operation.Kind{
                    .all_reduce,
                    .reduce_scatter,
                    .all_gather,
                    .all_to_all,
                    .broadcast,
                };
                const which = kinds[random.uintLessThan(usize, kinds.len)];
                try check(on, which, reduction, dtype, count, in_place);
            }
        }
    }.body);
}
