const std = @import("std");
const builtin = @import("builtin");

comptime {
    const have = builtin.zig_version;
    if (have.major != 0 or have.minor != 17)
        @compileError("this project is pinned to Zig 0.17, found " ++ builtin.zig_version_string);
}

/// One object per instruction-set level, from the same source; picked by cpuid at start.
const Level = struct {
    name: []const u8,
    model: *const std.Target.Cpu.Model,
    lanes_f32: u32,
    /// float64 serves references and gradient checks: one level has it, for all (compile time).
    f64: bool = false,
};
const levels = [_]Level{
    .{ .name = "plain", .model = &std.Target.x86.cpu.x86_64_v2, .lanes_f32 = 4, .f64 = true },
    .{ .name = "avx2", .model = &std.Target.x86.cpu.x86_64_v3, .lanes_f32 = 8 },
    .{ .name = "avx512", .model = &std.Target.x86.cpu.x86_64_v4, .lanes_f32 = 16 },
};

/// CUDA translation units under `src/kernels/`; each becomes one embedded cubin.
const cuda_units = [_][]const u8{};

pub fn build(b: *std.Build) void {
    const base: std.Target.Query = .{
        .cpu_arch = .x86_64,
        .os_tag = .linux,
        .abi = .gnu,
        .glibc_version = .{ .major = 2, .minor = 31, .patch = 0 }, // loads on older distributions
        .cpu_model = .{ .explicit = &std.Target.x86.cpu.x86_64_v2 },
    };
    const target = b.standardTargetOptions(.{ .default_target = base });
    const optimize = b.standardOptimizeOption(.{});
    const cuda = b.option(
        bool,
        "cuda",
        "Compile and embed the CUDA kernels (needs nvcc)",
    ) orelse false;
    const nvcc = b.option([]const u8, "nvcc", "nvcc executable") orelse "nvcc";

    const options = b.addOptions();
    options.addOption(bool, "cuda", cuda);
    options.addOption(bool, "bindings_only", false);
    const root = libraryModule(b, base, target, optimize, options);
    if (cuda) for (cuda_units) |unit| root.addAnonymousImport(
        b.fmt("{s}.cubin", .{unit}),
        .{ .root_source_file = compileCubin(b, nvcc, unit) },
    );
    b.installArtifact(b.addLibrary(.{ .name = "xl", .linkage = .dynamic, .root_module = root }));

    const run_tests = b.addRunArtifact(b.addTest(.{ .root_module = root }));
    run_tests.addPassthruArgs();
    b.step("test", "Run the native unit tests").dependOn(&run_tests.step);
    b.step("fmt", "Check formatting").dependOn(&b.addFmt(.{
        .paths = b.pathList(&.{ "src", "build.zig" }),
        .check = true,
    }).step);
    addBindings(b);
}

fn libraryModule(
    b: *std.Build,
    base: std.Target.Query,
    target: std.Build.ResolvedTarget,
    optimize: std.builtin.OptimizeMode,
    options: *std.Build.Step.Options,
) *std.Build.Module {
    const root = b.createModule(.{
        .root_source_file = b.path("src/root.zig"),
        .target = target,
        .optimize = optimize,
        .link_libc = true, // dlopen(3)
        .pic = true,
        .strip = optimize != .debug, // debug information is 50 MB, and slow to make
    });
    root.addOptions("build_options", options);
    for (levels) |level| {
        var query = base;
        query.cpu_model = .{ .explicit = level.model };
        query.cpu_features_sub.addFeature(@backingInt(std.Target.x86.Feature.prefer_256_bit));
        const level_options = b.addOptions();
        level_options.addOption([]const u8, "suffix", level.name);
        level_options.addOption(u32, "lanes_f32", level.lanes_f32);
        level_options.addOption(bool, "f64", level.f64);
        const module = b.createModule(.{
            .root_source_file = b.path("src/cpu_level.zig"),
            .target = b.resolveTargetQuery(query),
            .optimize = if (optimize == .debug) .debug else .fast,
            .link_libc = true,
            .pic = true,
            .strip = optimize != .debug,
        });
        module.addOptions("level", level_options);
        root.addObject(
            b.addObject(.{ .name = b.fmt("cpu_{s}", .{level.name}), .root_module = module }),
        );
    }
    return root;
}

fn compileCubin(b: *std.Build, nvcc: []const u8, unit: []const u8) std.Build.LazyPath {
    const run = b.addSystemCommand(&.{
        nvcc,  "-cubin",    "-gencode=arch=compute_90a,code=sm_90a", "-std=c++17",
        "-O3", "-lineinfo", "-Werror=all-warnings",
    });
    run.setName(b.fmt("nvcc {s}.cu", .{unit}));
    run.addArgs(&.{ "-MMD", "-MF" });
    _ = run.addDepFileOutputArg2(b.fmt("{s}.d", .{unit}), .{}); // headers become inputs
    run.addArg("-o");
    const cubin = run.addOutputFileArg2(b.fmt("{s}.cubin", .{unit}), .{});
    run.addFileArg2(b.path(b.fmt("src/kernels/{s}.cu", .{unit})), .{});
    return cubin;
}

fn addBindings(b: *std.Build) void {
    const options = b.addOptions();
    options.addOption(bool, "cuda", false);
    options.addOption(bool, "bindings_only", true);
    const native = b.createModule(.{
        .root_source_file = b.path("src/root.zig"),
        .target = b.graph.host,
        .optimize = .debug,
        .link_libc = true,
    });
    native.addOptions("build_options", options);
    const generator = b.addExecutable(.{ .name = "bindings", .root_module = b.createModule(.{
        .root_source_file = b.path("src/tools/bindings.zig"),
        .target = b.graph.host,
        .optimize = .debug,
        .imports = &.{.{ .name = "native", .module = native }},
    }) });
    const symbols = b.addRunArtifact(generator).captureStdOut(.{});
    b.step(
        "bindings",
        "Write zig-out/abi/symbols.ts",
    ).dependOn(&b.addInstallFile(symbols, "abi/symbols.ts").step);
}
