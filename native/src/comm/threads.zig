//! Ranks as threads of one process: the board lies in plain memory and data goes from buffer to
//! buffer.

const std = @import("std");
const boards = @import("board.zig");
const peers = @import("peer.zig");
const Board = boards.Board;
const Recorder = @import("recorder.zig").Recorder;

/// The board's memory; whoever leaves last frees it.
pub const Shared = struct {
    memory: []align(4096) u8,
    owners: std.atomic.Value(u32),
    layout: boards.Layout,

    /// For `layout.size` ranks; each of them must `open` it once.
    pub fn create(gpa: std.mem.Allocator, layout: boards.Layout) error{OutOfMemory}!*Shared {
        const shared = try gpa.create(Shared);
        errdefer gpa.destroy(shared);
        const memory = try gpa.alignedAlloc(u8, .fromByteUnits(4096), layout.bytes());
        @memset(memory, 0);
        _ = Board.init(memory.ptr, layout, true);
        shared.* = .{ .memory = memory, .owners = .init(@intCast(layout.size)), .layout = layout };
        return shared;
    }

    pub fn open(
        shared: *Shared,
        gpa: std.mem.Allocator,
        group: peers.Group,
        recorder: *Recorder,
    ) error{OutOfMemory}!*peers.Peer {
        const board: Board = .{
            .base = shared.memory.ptr,
            .layout = shared.layout,
            .is_private = true,
        };
        return peers.Peer.create(gpa, board, .{ .threads = shared }, group, recorder);
    }

    pub fn release(shared: *Shared, gpa: std.mem.Allocator) void {
        if (shared.owners.fetchSub(1, .acq_rel) > 1) return;
        gpa.free(shared.memory);
        gpa.destroy(shared);
    }
};
