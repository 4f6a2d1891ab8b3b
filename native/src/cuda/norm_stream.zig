//! Which norms stream their lines (kernels/norm_stream.cuh), and with which blocks. Everything that
//! sums depend on follows from the shape alone.

const norm = @import("norm.zig");
const DType = @import("../dtype.zig").DType;
const device_file = @import("device.zig");
const Device = device_file.Device;

const lanes = 32;
const team_threads = 256;
/// Multiprocessors of a large GPU: a fixed number, so that sums do not depend on the GPU.
const usual_multiprocessors = 132;
/// What a kernel takes of shared memory besides its places for lines.
const static_shared = 2048;

/// A call as the choice sees it.
pub const Call = struct {
    dtype: DType,
    inputs: u32, // places in shared memory for each line
    rows: u64,
    groups: u64,
    width: u64,
    strides: []const u64,
    pointers: []const ?*const anyopaque,
};

pub const Stream = struct {
    values: u32, // of a line that a thread holds: 8 or 16
    shape: device_file.Shape,
    chunks: u64, // blocks that share the groups of a row
    step: u64, // rows that a block meets at a time
    resident: u64, // blocks of a multiprocessor

    /// Null where lines are too long or not aligned for whole packs.
    pub fn of(device: *const Device, call: Call) ?Stream {
        if (call.dtype != .f32 and call.dtype != .bf16) return null;
        const pack = 16 / call.dtype.size();
        if (call.width == 0 or call.width > 8192 or call.width % pack != 0) return null;
        for (call.strides) |stride| if (stride % pack != 0) return null;
        for (call.pointers) |pointer| if (@intFromPtr(pointer) % 16 != 0) return null;
        const stream = ofShape(call);
        const most: u64 = @intCast(device.facts.shared_bytes);
        return if (stream.shape.shared + static_shared > most) null else stream;
    }

    fn ofShape(call: Call) Stream {
        const in_warp = call.width <= 512;
        const values: u32 = if (call.width <= 256) 8 else if (in_warp) 16 else //
            if (call.width <= 2048) 8 else 16;
        const threads: u32 = if (in_warp) team_threads else //
            @intCast(norm.divCeil(call.width, values * lanes) * lanes);
        const teams = if (in_warp) threads / teamSize(call.width, values) else 1;
        const span = @min(teams, call.groups & (~call.groups +% 1));
        const packs: u32 = @intCast(values * call.dtype.size() / 16);
        const stages: u32 = if (packs == 1) 4 else if (packs == 2) 3 else 2;
        const warps: u64 = if (values == 8) 24 else 16;
        return .{
            .values = values,
            .shape = .{
                .x = 1,
                .threads = threads,
                .shared = stages * call.inputs * packs * 16 * threads,
            },
            .chunks = call.groups / span,
            .step = teams / span,
            .resident = warps / (threads / lanes),
        };
    }

    /// Blocks that stay, and share the rows evenly.
    pub fn forwardShape(stream: Stream, device: *const Device, rows: u64) device_file.Shape {
        const places = @as(u64, device.facts.multiprocessors) * stream.resident;
        const most = @max(1, places / stream.chunks);
        var shape = stream.shape;
        shape.x = stream.chunks * @min(most, norm.divCeil(rows, stream.step));
        return shape;
    }

    /// Rows per row of partials. A few steps at least: partials would outweigh the input.
    pub fn rowsPerBlock(stream: Stream, rows: u64) u64 {
        const places = usual_multiprocessors * stream.resident;
        const most = @max(1, places / stream.chunks);
        const least = @max(4 * stream.step, norm.divCeil(rows, most));
        return norm.divCeil(least, stream.step) * stream.step;
    }
};

/// Threads of a line that is narrower than a warp's: a power of two.
fn teamSize(width: u64, values: u64) u32 {
    var size: u32 = 1;
    while (size * values < width) size *= 2;
    return size;
}
