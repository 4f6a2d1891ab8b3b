//! The kernels inside the library: exact code for Hopper (sm_90a), and PTX for other GPUs from
//! sm_80 on, which the driver translates when the device is opened. The emulator brings its own.

const build_options = @import("build_options");

pub const Set = []const [*]align(64) const u8;

/// Whether the library was built with nvcc.
pub const present = build_options.cuda;

const hopper = embed(build_options.hopper_units, ".cubin");
const portable = embed(build_options.portable_units, ".ptx");
const nothing align(64) = [_]u8{0};

/// Most images one device loads.
pub const most = @max(1, hopper.len, portable.len);

/// The images for a GPU; empty when none fits.
pub fn choose(capability: u32, emulated: bool) Set {
    if (emulated) return &.{&nothing};
    if (capability == 90) return &hopper;
    return if (capability >= 80) &portable else &.{};
}

fn embed(
    comptime units: []const []const u8,
    comptime suffix: []const u8,
) [if (present) units.len else 0][*]align(64) const u8 {
    var made: [if (present) units.len else 0][*]align(64) const u8 = undefined;
    inline for (&made, units[0..made.len]) |*to, unit| to.* = Embedded(unit ++ suffix).bytes;
    return made;
}

fn Embedded(comptime name: []const u8) type {
    return struct {
        // PTX is text: the driver reads up to a zero byte.
        const content align(64) = (@embedFile(name) ++ "\x00").*;
        const bytes: [*]align(64) const u8 = &content;
    };
}
