//! Which instruction-set level of the CPU kernels runs here.

const std = @import("std");
const build_options = @import("build_options");
const args = @import("../args.zig");

pub const Level = enum(i32) { plain = 0, avx2 = 1, avx512 = 2 };

extern const xl_cpu_plain: args.Table;
extern const xl_cpu_avx2: args.Table;
extern const xl_cpu_avx512: args.Table;

pub fn table(level: Level) *const args.Table {
    // The generator of the bindings is linked without kernels, and calls none.
    if (build_options.bindings_only) unreachable;
    return switch (level) {
        .plain => &xl_cpu_plain,
        .avx2 => &xl_cpu_avx2,
        .avx512 => &xl_cpu_avx512,
    };
}

/// The best level that both the processor and the kernel (saved registers) support.
pub fn best() Level {
    const one = cpuid(1, 0);
    if (!bit(one.ecx, 27) or !bit(one.ecx, 12)) return .plain; // OSXSAVE, FMA
    const saved = xgetbv();
    if (saved & 0x6 != 0x6) return .plain;
    if (cpuid(0, 0).eax < 7) return .plain;
    const seven = cpuid(7, 0);
    const extended = cpuid(0x80000001, 0);
    const v3 = bit(seven.ebx, 5) and bit(seven.ebx, 3) and bit(seven.ebx, 8) and // AVX2 BMI1 BMI2
        bit(one.ecx, 29) and bit(one.ecx, 22) and bit(extended.ecx, 5); // F16C MOVBE LZCNT
    if (!v3) return .plain;
    const wide = [_]u5{ 16, 17, 28, 30, 31 }; // AVX-512 F DQ CD BW VL
    for (wide) |index| if (!bit(seven.ebx, index)) return .avx2;
    return if (saved & 0xe6 == 0xe6) .avx512 else .avx2;
}

fn bit(word: u32, index: u5) bool {
    return (word >> index) & 1 == 1;
}

const Registers = struct { eax: u32, ebx: u32, ecx: u32, edx: u32 };

fn cpuid(leaf: u32, subleaf: u32) Registers {
    var eax: u32 = undefined;
    var ebx: u32 = undefined;
    var ecx: u32 = undefined;
    var edx: u32 = undefined;
    asm volatile ("cpuid"
        : [a] "={eax}" (eax),
          [b] "={ebx}" (ebx),
          [c] "={ecx}" (ecx),
          [d] "={edx}" (edx),
        : [leaf] "{eax}" (leaf),
          [subleaf] "{ecx}" (subleaf),
    );
    return .{ .eax = eax, .ebx = ebx, .ecx = ecx, .edx = edx };
}

fn xgetbv() u32 {
    return asm volatile ("xgetbv"
        : [a] "={eax}" (-> u32),
        : [c] "{ecx}" (@as(u32, 0)),
        : .{ .edx = true });
}
