//! Groups out of groups: every rank of the parent names a color, and those of one color form a
//! group, ordered by key and then by their rank in the parent.

const std = @import("std");
const clock = @import("clock.zig");
const peers = @import("peer.zig");
const segments = @import("segment.zig");
const Peer = peers.Peer;
const Shared = @import("threads.zig").Shared;
const Error = @import("../abi/status.zig").Error;

/// What a rank tells the others; the first rank of a color also tells where its memory is.
pub const Wish = extern struct {
    color: i32,
    key: i32,
    fd: i32 = -1,
    pid: u32 = 0,
    address: u64 = 0,
};

/// Order of `members` (parent ranks of one color) in the new group.
fn before(wishes: []const Wish, a: u32, b: u32) bool {
    if (wishes[a].key != wishes[b].key) return wishes[a].key < wishes[b].key;
    return a < b;
}

pub fn run(parent: *Peer, color: i32, key: i32, name: []const u8) Error!?*Peer {
    const gpa = parent.gpa;
    const size = parent.group.size();
    const wishes = try gpa.alloc(Wish, size);
    defer gpa.free(wishes);
    const members = try gpa.alloc(u32, size);
    defer gpa.free(members);
    var wish: Wish = .{ .color = color, .key = key };
    try share(parent, &wish, wishes, name);
    const chosen = membersOf(wishes, color, members);
    const group = try groupOf(gpa, parent.group, chosen, name);
    defer gpa.free(group.ranks);
    const is_first = color >= 0 and group.rank == 0;
    if (is_first) try provide(parent, &wish, chosen.len);
    try share(parent, &wish, wishes, name);
    if (color < 0) {
        try parent.collective(.{ .kind = .split, .site = name });
        return null;
    }
    const made = try join(parent, wish, wishes[chosen[0]], group);
    errdefer made.close();
    // The maker's descriptor must live until all have opened it.
    try parent.collective(.{ .kind = .split, .site = name });
    made.limit = parent.limit;
    return if (try made.poll()) made else unreachable; // all ranks have joined before the barrier
}

fn share(parent: *Peer, wish: *const Wish, wishes: []Wish, name: []const u8) Error!void {
    return parent.collective(.{
        .kind = .all_gather,
        .count = @sizeOf(Wish),
        .input = std.mem.asBytes(wish),
        .output = std.mem.sliceAsBytes(wishes).ptr,
        .site = name,
    });
}

pub fn membersOf(wishes: []const Wish, color: i32, buffer: []u32) []u32 {
    var count: usize = 0;
    for (wishes, 0..) |wish, rank| {
        if (wish.color != color) continue;
        buffer[count] = @intCast(rank);
        count += 1;
    }
    std.mem.sort(u32, buffer[0..count], wishes, before);
    return buffer[0..count];
}

/// Group of the members of a parent. The caller frees `ranks`.
pub fn groupOf(
    gpa: std.mem.Allocator,
    parent: peers.Group,
    members: []const u32,
    name: []const u8,
) error{OutOfMemory}!peers.Group {
    const ranks = try gpa.alloc(u32, members.len);
    var rank: u32 = 0;
    for (members, ranks, 0..) |member, *global, i| {
        global.* = parent.ranks[member];
        if (member == parent.rank) rank = @intCast(i);
    }
    return .{ .name = name, .ranks = ranks, .rank = rank };
}

/// Makes the new group's memory.
fn provide(parent: *Peer, wish: *Wish, size: usize) Error!void {
    var layout = parent.board.layout;
    layout.size = size;
    switch (parent.memory) {
        .threads => wish.address = @intFromPtr(try Shared.create(parent.gpa, layout)),
        .segment => {
            wish.fd = try segments.create(layout);
            wish.pid = @intCast(std.os.linux.getpid());
        },
    }
}

fn join(parent: *Peer, own: Wish, first: Wish, group: peers.Group) Error!*Peer {
    switch (parent.memory) {
        .threads => {
            const shared: *Shared = @ptrFromInt(first.address);
            return shared.open(parent.gpa, group, parent.recorder);
        },
        .segment => {
            const pid = if (own.fd >= 0) 0 else first.pid;
            return segments.open(parent.gpa, pid, first.fd, group, parent.recorder);
        },
    }
}
