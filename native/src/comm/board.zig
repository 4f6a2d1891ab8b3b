//! The memory that the ranks of a group share, in one process or in several: who is there, who has
//! arrived at which call, why the group was given up, and the slots that data passes through.
//!
//! All ranks pass barriers in one order. The last one to arrive compares what everybody calls
//! before it lets them go: a rank that calls something else is found before any data moves.

const std = @import("std");
const clock = @import("clock.zig");
const operation = @import("operation.zig");
const Word = clock.Word;
const Description = operation.Description;

const magic = 0x314d4d4f434c58; // "XLCOMM1"
pub const most_ranks = @import("reduce.zig").most_ranks;

/// A word that waiters sleep on, alone in its cache line.
const Bell = extern struct { word: Word align(64) = .init(0), padding: [60]u8 = @splat(0) };

pub const State = enum(u32) { absent, present, left, _ };

/// What a rank tells the others.
const Line = extern struct {
    pid: Word align(64) = .init(0),
    state: std.atomic.Value(State) = .init(.absent),
    /// Barriers that this rank has come to.
    arrivals: Word = .init(0),
    reserved: u32 = 0,
    /// Where its buffers are, for ranks of the same process.
    input: u64 = 0,
    output: u64 = 0,
    call: Description,
    /// Rung when a message or room for one comes.
    bell: Bell = .{},
};

/// Messages from one rank to another: `head` of them have been put in, `tail` taken out.
pub const Channel = extern struct {
    head: Word align(64) = .init(0),
    tail: Word align(64) = .init(0),
};

/// A part of a message on its way.
pub const Part = extern struct {
    call: Description align(64),
    offset: u64,
    bytes: u64,
};

const Header = extern struct {
    magic: u64 align(64),
    layout: u64,
    size: u64,
    slice_bytes: u64,
    part_bytes: u64,
    present: Word, // ranks that have mapped the memory
    arrived: Bell,
    generation: Bell,
    /// 0: the group works, 1: somebody writes the reason, 2: it is written.
    aborted: Bell,
    reason_length: u32,
    reason: [1500]u8,
};

pub const Layout = struct {
    size: usize,
    /// Bytes of a slot of a collective; every rank has two of them, used in turn.
    slice_bytes: usize = 4 << 20,
    /// Bytes of a part of a message; every ordered pair of ranks has two slots for them.
    part_bytes: usize = 512 << 10,

    /// Changes with the structures above: both sides must have been built alike.
    const version = @sizeOf(Header) * 1000 + @sizeOf(Line);

    fn lines(_: Layout) usize {
        return @sizeOf(Header);
    }

    fn channels(layout: Layout) usize {
        return layout.lines() + layout.size * @sizeOf(Line);
    }

    fn slots(layout: Layout) usize {
        const end = layout.channels() + layout.size * layout.size * @sizeOf(Channel);
        return std.mem.alignForward(usize, end, 4096);
    }

    fn parts(layout: Layout) usize {
        return layout.slots() + layout.size * 2 * layout.slice_bytes;
    }

    fn partStride(layout: Layout) usize {
        return @sizeOf(Part) + std.mem.alignForward(usize, layout.part_bytes, 64);
    }

    pub fn bytes(layout: Layout) usize {
        const end = layout.parts() + layout.size * layout.size * 2 * layout.partStride();
        return std.mem.alignForward(usize, end, 4096);
    }
};

pub const Board = struct {
    base: [*]align(4096) u8,
    layout: Layout,
    /// Whether all ranks are threads of this process: they read each other's buffers directly.
    is_private: bool,

    /// Fresh memory, all zero.
    pub fn init(base: [*]align(4096) u8, layout: Layout, is_private: bool) Board {
        const board: Board = .{ .base = base, .layout = layout, .is_private = is_private };
        const head = board.header();
        head.layout = Layout.version;
        head.size = layout.size;
        head.slice_bytes = layout.slice_bytes;
        head.part_bytes = layout.part_bytes;
        @atomicStore(u64, &head.magic, magic, .release);
        return board;
    }

    /// The layout of memory that another rank has made, or null where it is something else.
    pub fn layoutOf(base: [*]align(4096) const u8) ?Layout {
        const head: *const Header = @ptrCast(base);
        if (@atomicLoad(u64, &head.magic, .acquire) != magic or head.layout != Layout.version)
            return null;
        return .{
            .size = head.size,
            .slice_bytes = head.slice_bytes,
            .part_bytes = head.part_bytes,
        };
    }

    pub const header_bytes = @sizeOf(Header);

    fn header(board: Board) *Header {
        return @ptrCast(board.base);
    }

    pub fn line(board: Board, rank: usize) *Line {
        const all: [*]Line = @ptrCast(@alignCast(board.base + board.layout.lines()));
        return &all[rank];
    }

    pub fn channel(board: Board, from: usize, to: usize) *Channel {
        const all: [*]Channel = @ptrCast(@alignCast(board.base + board.layout.channels()));
        return &all[from * board.layout.size + to];
    }

    pub fn slot(board: Board, rank: usize, turn: u64) [*]u8 {
        const number = rank * 2 + (turn & 1);
        return board.base + board.layout.slots() + number * board.layout.slice_bytes;
    }

    pub fn part(board: Board, from: usize, to: usize, number: u32) *Part {
        const pair = from * board.layout.size + to;
        const at = (pair * 2 + (number & 1)) * board.layout.partStride();
        return @ptrCast(@alignCast(board.base + board.layout.parts() + at));
    }

    pub fn partData(made: *Part) [*]u8 {
        return @as([*]u8, @ptrCast(made)) + @sizeOf(Part);
    }

    pub fn join(board: Board, rank: usize, pid: u32) void {
        board.line(rank).pid.store(pid, .monotonic);
        board.line(rank).state.store(.present, .release);
        _ = board.header().present.fetchAdd(1, .acq_rel);
    }

    pub fn isComplete(board: Board) bool {
        return board.header().present.load(.acquire) == board.layout.size;
    }

    /// Others that wait for this rank learn that it will not come.
    pub fn leave(board: Board, rank: usize) void {
        board.line(rank).state.store(.left, .release);
        board.wakeAll();
    }

    pub fn hasCome(board: Board, rank: usize) bool {
        return board.line(rank).state.load(.acquire) != .absent;
    }

    pub fn hasLeft(board: Board, rank: usize) bool {
        return board.line(rank).state.load(.acquire) == .left;
    }

    /// Comes to the barrier; true for the last rank, which then has everybody's calls before it and
    /// must `release` the others, or abort.
    pub fn arrive(board: Board, rank: usize) bool {
        _ = board.line(rank).arrivals.fetchAdd(1, .release);
        return board.header().arrived.word.fetchAdd(1, .acq_rel) + 1 == board.layout.size;
    }

    pub fn release(board: Board) void {
        board.header().arrived.word.store(0, .monotonic);
        _ = board.generation().fetchAdd(1, .release);
        clock.wake(board.generation(), board.is_private);
    }

    pub fn generation(board: Board) *Word {
        return &board.header().generation.word;
    }

    pub fn ring(board: Board, rank: usize) void {
        const bell = &board.line(rank).bell.word;
        _ = bell.fetchAdd(1, .release);
        clock.wake(bell, board.is_private);
    }

    /// Gives the group up, from any thread of any rank; the first reason stays.
    pub fn abort(board: Board, why: []const u8) void {
        const head = board.header();
        if (head.aborted.word.cmpxchgStrong(0, 1, .acq_rel, .acquire) == null) {
            const length = @min(why.len, head.reason.len);
            @memcpy(head.reason[0..length], why[0..length]);
            head.reason_length = @intCast(length);
            head.aborted.word.store(2, .release);
        }
        board.wakeAll();
    }

    fn wakeAll(board: Board) void {
        clock.wake(board.generation(), board.is_private);
        for (0..board.layout.size) |rank| clock.wake(&board.line(rank).bell.word, board.is_private);
    }

    /// Why the group was given up; null while it works.
    pub fn reason(board: Board) ?[]const u8 {
        const head = board.header();
        const word = &head.aborted.word;
        if (word.load(.acquire) == 0) return null;
        // Whoever writes it may die in between.
        for (0..100) |_| if (word.load(.acquire) != 2) clock.sleep(1_000_000) else break;
        return head.reason[0..@min(head.reason_length, head.reason.len)];
    }

    /// Ranks that have come to fewer barriers than `rank`.
    pub fn behind(board: Board, rank: usize, set: *[most_ranks]bool) []const bool {
        const mine = board.line(rank).arrivals.load(.acquire);
        for (set[0..board.layout.size], 0..) |*is_behind, other| {
            const theirs = board.line(other).arrivals.load(.acquire);
            is_behind.* = @as(i32, @bitCast(theirs -% mine)) < 0;
        }
        return set[0..board.layout.size];
    }

    /// Whether all ranks call the same. Only for the rank that arrived last.
    pub fn agree(board: Board) bool {
        const hash = board.line(0).call.hash;
        for (1..board.layout.size) |rank| {
            if (board.line(rank).call.hash != hash) return false;
        }
        return true;
    }

    /// `rank 3 called X while ranks 0, 1 called Y while …`.
    pub fn disagreement(board: Board, group: []const u8, global: []const u32) Disagreement {
        return .{ .board = board, .group = group, .global = global };
    }

    pub const Disagreement = struct {
        board: Board,
        group: []const u8,
        global: []const u32,

        /// The smallest sides first: most often one rank is wrong.
        pub fn format(it: Disagreement, writer: *std.Io.Writer) std.Io.Writer.Error!void {
            const size = it.board.layout.size;
            var told: [most_ranks]bool = @splat(false);
            for (0..4) |side| {
                const call = it.smallest(&told) orelse return;
                var set: [most_ranks]bool = @splat(false);
                for (set[0..size], told[0..size], 0..) |*is_in, *done, rank| {
                    is_in.* = it.board.line(rank).call.hash == call.hash;
                    done.* = done.* or is_in.*;
                }
                const ranks: operation.Ranks = .{ .set = set[0..size], .global = it.global };
                const link = if (side == 0) "" else " while ";
                try writer.print("{s}{f} called {f}", .{ link, ranks, call.in(it.group) });
            }
        }

        fn smallest(it: Disagreement, told: *const [most_ranks]bool) ?*const Description {
            var best: ?*const Description = null;
            var fewest: usize = std.math.maxInt(usize);
            for (0..it.board.layout.size) |rank| {
                if (told[rank]) continue;
                const call = &it.board.line(rank).call;
                var count: usize = 0;
                for (0..it.board.layout.size) |other|
                    count += @intFromBool(it.board.line(other).call.hash == call.hash);
                if (count >= fewest) continue;
                fewest = count;
                best = call;
            }
            return best;
        }
    };
};
