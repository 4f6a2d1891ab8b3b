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

/// CUDA translation units under `src/kernels/` for every GPU: a cubin for Hopper, PTX for others.
const portable_units = [_][]const u8{
    "elementwise", "reduce",    "matmul", "mlstm", "slstm", "conv", "norm", "loss", "index",
    "random",      "optimizer",
};
/// Sources of the emulator, `src/emulator/*.cpp`.
const emulator_files = [_][]const u8{
    "driver", "faults", "fibers", "graph", "launch", "memory", "nccl", "shared", "state", "stream",
};
const emulator_flags = [_][]const u8{
    "-std=c++17",        "-fno-exceptions",     "-fno-rtti",
    "-ffp-contract=off", "-fno-fast-math",      "-nostdinc++",
    "-DXL_EMULATED",     "-fvisibility=hidden", "-Wall",
    "-Wextra",           "-Werror",             "-Wno-unused-const-variable",
};
/// Kernels only: the traps become launch errors (src/emulator/faults.cpp).
const emulated_kernel_flags = emulator_flags ++ [_][]const u8{
    "-fsanitize=alignment,bounds", "-fsanitize-trap=alignment,bounds",
};

/// Units that need wgmma and TMA.
const hopper_only_units = [_][]const u8{
    "mlstm_gates",    "mlstm_sweep_forward", "mlstm_sweep_backward", "mlstm_sweep_split",
    "slstm_resident",
};
const hopper_units = portable_units ++ hopper_only_units;

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
    addUnits(options);
    const root = libraryModule(b, base, target, optimize, options);
    if (cuda) {
        for (hopper_units) |unit| embedKernels(b, root, nvcc, unit, .cubin);
        for (portable_units) |unit| embedKernels(b, root, nvcc, unit, .ptx);
    }
    b.installArtifact(b.addLibrary(.{ .name = "xl", .linkage = .dynamic, .root_module = root }));

    const run_tests = b.addRunArtifact(b.addTest(.{ .root_module = root }));
    run_tests.addPassthruArgs();
    b.step("test", "Run the native unit tests").dependOn(&run_tests.step);
    b.step("fmt", "Check formatting").dependOn(&b.addFmt(.{
        .paths = b.pathList(&.{ "src", "build.zig" }),
        .check = true,
    }).step);
    addBindings(b);
    addEmulator(b, target);
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

fn addUnits(options: *std.Build.Step.Options) void {
    options.addOption([]const []const u8, "hopper_units", &hopper_units);
    options.addOption([]const []const u8, "portable_units", &portable_units);
}

/// The CUDA driver of the tests, with the kernels of every portable unit inside: src/emulator.
fn addEmulator(b: *std.Build, target: std.Build.ResolvedTarget) void {
    const module = emulatorModule(b, target);
    inline for (portable_units) |unit| module.addCSourceFile(.{
        .file = b.path("src/kernels/" ++ unit ++ ".cu"),
        .flags = &emulated_kernel_flags,
        .language = .cpp,
    });
    const library = b.addLibrary(.{
        .name = "xl_emulator",
        .linkage = .dynamic,
        .root_module = module,
    });
    b.step("emulator", "Build the CUDA emulator").dependOn(
        &b.addInstallArtifact(library, .{}).step,
    );

    const selftest = emulatorModule(b, target);
    selftest.addCSourceFile(.{
        .file = b.path("src/emulator/selftest.cpp"),
        .flags = &emulated_kernel_flags,
        .language = .cpp,
    });
    const program = b.addExecutable(.{ .name = "emulator_selftest", .root_module = selftest });
    b.step("emulator-test", "Test the CUDA emulator itself").dependOn(
        &b.addRunArtifact(program).step,
    );
}

fn emulatorModule(b: *std.Build, target: std.Build.ResolvedTarget) *std.Build.Module {
    const module = b.createModule(.{
        .target = target,
        .optimize = .fast,
        .link_libc = true,
        .pic = true,
        .strip = true,
        .sanitize_c = .off, // the flags choose their checks
    });
    inline for (.{ "src/kernels", "src/emulator" }) |path| module.addIncludePath(b.path(path));
    inline for (emulator_files) |file| module.addCSourceFile(.{
        .file = b.path("src/emulator/" ++ file ++ ".cpp"),
        .flags = &emulator_flags,
        .language = .cpp,
    });
    return module;
}

const Code = enum { cubin, ptx };

/// Compiles a unit; its bytes are embedded under the name `unit.cubin` or `unit.ptx`.
fn embedKernels(
    b: *std.Build,
    root: *std.Build.Module,
    nvcc: []const u8,
    unit: []const u8,
    code: Code,
) void {
    const name = b.fmt("{s}.{t}", .{ unit, code });
    const run = b.addSystemCommand(&.{ nvcc, "-std=c++17", "-O3", "-Werror=all-warnings" });
    run.setName(b.fmt("nvcc {s}", .{name}));
    run.addArgs(switch (code) {
        .cubin => &.{ "-cubin", "-gencode=arch=compute_90a,code=sm_90a", "-lineinfo" },
        .ptx => &.{ "-ptx", "-arch=compute_80" },
    });
    run.addArgs(&.{ "-MMD", "-MF" });
    _ = run.addDepFileOutputArg2(b.fmt("{s}.d", .{name}), .{}); // headers become inputs
    run.addArg("-o");
    const output = run.addOutputFileArg2(name, .{});
    run.addFileArg2(b.path(b.fmt("src/kernels/{s}.cu", .{unit})), .{});
    root.addAnonymousImport(name, .{ .root_source_file = output });
}

fn addBindings(b: *std.Build) void {
    const options = b.addOptions();
    options.addOption(bool, "cuda", false);
    options.addOption(bool, "bindings_only", true);
    addUnits(options);
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

    const header = b.addExecutable(.{ .name = "args_header", .root_module = b.createModule(.{
        .root_source_file = b.path("src/tools/args_header.zig"),
        .target = b.graph.host,
        .optimize = .debug,
        .imports = &.{.{ .name = "native", .module = native }},
    }) });
    const args = b.addRunArtifact(header).captureStdOut(.{});
    b.step(
        "args",
        "Write zig-out/abi/args.h",
    ).dependOn(&b.addInstallFile(args, "abi/args.h").step);
}
