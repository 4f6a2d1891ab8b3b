//! One call of a norm or of the gated head norm with everything it takes and gives, random and
//! poisoned, for the norm tests.

const std = @import("std");
const args = @import("../args/norm.zig");
const cpu = @import("../cpu/norm.zig");
const h = @import("kernel_test.zig");
const simd = @import("../cpu/simd.zig");

const gpa = h.gpa;

/// Everything that one norm takes and gives, at storage type S. `gated` adds the output gate.
pub fn Case(comptime S: type) type {
    const A = simd.Arithmetic(S);
    return struct {
        const Self = @This();
        setup: Setup,
        arena: std.heap.ArenaAllocator,
        x: []S,
        o: []S, // rows o_stride apart
        residual: []S,
        dy: []S,
        dsum: []S,
        scale: []A,
        bias: []A,
        y: []S,
        sum: []S,
        mean: []A,
        rstd: []A,
        dx: []S,
        do: []S,
        dscale: []A,
        dbias: []A,
        inner: []A,

        pub fn init(setup: Setup, random: std.Random) !Self {
            var self: Self = undefined;
            self.setup = setup;
            self.arena = .init(gpa);
            const columns = setup.groups * setup.width;
            const n = setup.rows * columns;
            const lines = setup.rows * setup.groups;
            self.x = try self.drawn(S, random, n, setup.size);
            self.residual = try self.drawn(S, random, n, setup.size);
            self.o = try self.drawn(S, random, setup.rows * setup.oStride(), 3);
            self.dy = try self.drawn(S, random, n, 1);
            self.dsum = try self.drawn(S, random, n, 1);
            self.scale = try self.drawn(A, random, columns, 1);
            self.bias = try self.drawn(A, random, columns, 1);
            inline for (.{ "y", "sum", "dx" }) |name| {
                @field(self, name) = try self.poison(S, n);
            }
            self.do = try self.poison(S, self.o.len);
            inline for (.{ "mean", "rstd", "inner" }) |name| {
                @field(self, name) = try self.poison(A, lines);
            }
            inline for (.{ "dscale", "dbias" }) |name| {
                @field(self, name) = try self.poison(A, columns);
            }
            return self;
        }

        pub fn deinit(self: *Self) void {
            self.arena.deinit();
        }

        fn drawn(self: *Self, comptime T: type, random: std.Random, n: usize, size: f64) ![]T {
            const data = try self.arena.allocator().alloc(T, n);
            for (data) |*value| value.* = h.fromF64(T, size * (random.floatNorm(f64) + 0.3));
            return data;
        }

        fn poison(self: *Self, comptime T: type, n: usize) ![]T {
            const data = try self.arena.allocator().alloc(T, n);
            h.poison(T, data);
            return data;
        }

        pub fn forward(self: *Self) !void {
            const s = &self.setup;
            const scale: ?*const anyopaque = if (s.scaled) self.scale.ptr else null;
            const bias: ?*const anyopaque = if (s.biased) self.bias.ptr else null;
            const mean: ?*anyopaque = if (s.center) self.mean.ptr else null;
            const outputs = .{
                h.bytes(S, self.y),
                h.bytes(A, self.rstd),
                h.bytes(A, self.mean),
                h.bytes(S, self.sum),
            };
            if (s.gated) return h.run(cpu.headNormGateForward, S, &args.HeadNormGateForward{
                .h = self.x.ptr,
                .o = self.o.ptr,
                .scale = scale,
                .bias = bias,
                .y = self.y.ptr,
                .mean = mean,
                .rstd = self.rstd.ptr,
                .rows = s.rows,
                .groups = s.groups,
                .width = s.width,
                .o_stride = s.oStride(),
                .eps = s.eps,
                .scale_offset = s.offset,
                .center = @intFromBool(s.center),
            }, &outputs);
            return h.run(cpu.normForward, S, &args.NormForward{
                .x = self.x.ptr,
                .residual = if (s.residual) self.residual.ptr else null,
                .scale = scale,
                .bias = bias,
                .y = self.y.ptr,
                .sum = if (s.residual) self.sum.ptr else null,
                .mean = mean,
                .rstd = self.rstd.ptr,
                .rows = s.rows,
                .groups = s.groups,
                .width = s.width,
                .eps = s.eps,
                .scale_offset = s.offset,
                .center = @intFromBool(s.center),
            }, &outputs);
        }

        pub fn backward(self: *Self) !void {
            const s = &self.setup;
            const scale: ?*const anyopaque = if (s.scaled) self.scale.ptr else null;
            const mean: ?*const anyopaque = if (s.center) self.mean.ptr else null;
            const x: *const anyopaque = if (s.residual and !s.gated) self.sum.ptr else self.x.ptr;
            const outputs = .{
                h.bytes(S, self.dx),    h.bytes(S, self.do),    h.bytes(A, self.dscale),
                h.bytes(A, self.dbias), h.bytes(A, self.inner),
            };
            if (s.gated) return h.run(cpu.headNormGateBackward, S, &args.HeadNormGateBackward{
                .dy = self.dy.ptr,
                .h = x,
                .o = self.o.ptr,
                .scale = scale,
                .bias = if (s.biased) self.bias.ptr else null,
                .mean = mean,
                .rstd = self.rstd.ptr,
                .dh = self.dx.ptr,
                .do = self.do.ptr,
                .dscale = self.dscale.ptr,
                .dbias = self.dbias.ptr,
                .inner = self.inner.ptr,
                .rows = s.rows,
                .groups = s.groups,
                .width = s.width,
                .o_stride = s.oStride(),
                .do_stride = s.oStride(),
                .eps = s.eps,
                .scale_offset = s.offset,
                .center = @intFromBool(s.center),
            }, &outputs);
            return h.run(cpu.normBackward, S, &args.NormBackward{
                .dy = self.dy.ptr,
                .x = x,
                .scale = scale,
                .mean = mean,
                .rstd = self.rstd.ptr,
                .dsum = if (s.residual) self.dsum.ptr else null,
                .dx = self.dx.ptr,
                .dscale = self.dscale.ptr,
                .dbias = self.dbias.ptr,
                .rows = s.rows,
                .groups = s.groups,
                .width = s.width,
                .scale_offset = s.offset,
                .center = @intFromBool(s.center),
            }, &outputs);
        }
    };
}

pub const Setup = struct {
    rows: usize,
    groups: usize,
    width: usize,
    center: bool,
    gated: bool,
    residual: bool = false,
    scaled: bool = true,
    biased: bool = false,
    offset: f64 = 0,
    eps: f64 = 1e-6,
    size: f64 = 1,

    pub fn oStride(s: Setup) usize {
        return s.groups * s.width + 5;
    }
};

pub fn randomSetup(random: std.Random, rows: usize, groups: usize, width: usize) Setup {
    const gated = random.boolean();
    return .{
        .rows = rows,
        .groups = groups,
        .width = width,
        .center = random.boolean(),
        .gated = gated,
        .residual = !gated and random.boolean(),
        .scaled = random.uintLessThan(u8, 4) > 0,
        .biased = random.boolean(),
        .offset = if (random.boolean()) 1 else 0,
        .eps = if (random.boolean()) 1e-6 else 1e-5,
        // Tiny inputs, as behind an input gate of e^−10: var is then below eps.
        .size = if (random.uintLessThan(u8, 4) == 0) 1e-4 else 1,
    };
}
