//! How the sLSTM is cut into tasks: one head and a group of batch rows, over all tokens.

/// Batch rows of a group. By the batch alone; at most 16 groups bound the sums over groups.
pub fn groupRows(batch: usize) usize {
    return @max(8, @divCeil(batch, 16));
}

/// One head of some batch rows, and where their elements lie. `Args` is the struct of the kernel.
pub fn Group(comptime Args: type) type {
    return struct {
        a: *const Args,
        head: usize,
        first: usize, // batch index of row 0
        count: usize,

        const Self = @This();

        /// Group `index` of all heads and groups of `rows` batch rows.
        pub fn of(a: *const Args, rows: usize, index: usize) Self {
            const groups = @divCeil(a.batch, rows);
            const first = (index % groups) * rows;
            return .{
                .a = a,
                .head = index / groups,
                .first = first,
                .count = @min(rows, a.batch - first),
            };
        }

        /// Whether token t lies within the row's length.
        pub fn active(self: Self, row: usize, t: usize) bool {
            const given = self.a.lengths orelse return true;
            const lengths: [*]const i32 = @ptrCast(@alignCast(given));
            return t < lengths[self.first + row];
        }

        pub fn border(self: Self, row: usize, t: usize) bool {
            const borders: [*]const u8 = @ptrCast(self.a.borders orelse return false);
            return borders[(self.first + row) * self.a.length + t] != 0;
        }

        /// Index of a token and head in tensors [B, T, NH, …].
        pub fn token(self: Self, row: usize, t: usize) usize {
            return ((self.first + row) * self.a.length + t) * self.a.heads + self.head;
        }

        /// Offset of one gate's units in tensors [B, T, 4, NH, DH].
        pub fn gate(self: Self, row: usize, t: usize, g: usize) usize {
            const at = ((self.first + row) * self.a.length + t) * 4 + g;
            return (at * self.a.heads + self.head) * self.a.width;
        }

        /// Offset of one part's units in states [B, 4, NH, DH].
        pub fn state(self: Self, row: usize, part: usize) usize {
            return (((self.first + row) * 4 + part) * self.a.heads + self.head) * self.a.width;
        }
    };
}
