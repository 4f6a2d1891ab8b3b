//! Turns an operation `fn (*Context, a, b, …) Error!void` into a C function `(a, b, …) → Status`.

const context = @import("../runtime/context.zig");
const status = @import("status.zig");
const Status = status.Status;

/// `Wrap(name, f).call` is the C function. Operations take i32, u32, f64, u64 and pointers only
/// (the
/// bindings generator checks that), twelve at most: longer lists go through the scratch block.
pub fn Wrap(comptime name: []const u8, comptime f: anytype) type {
    const P = @typeInfo(@TypeOf(f)).@"fn".param_types;
    const T = struct {
        fn at(comptime i: usize) type {
            return P[i].?;
        }
        fn go(arguments: anytype) Status {
            const current = context.get() catch |err| return status.finish(err, name);
            return status.finish(@call(.auto, f, .{current} ++ arguments), name);
        }
    };
    return switch (P.len - 1) {
        0 => struct {
            pub fn call() callconv(.c) Status {
                return T.go(.{});
            }
        },
        1 => struct {
            pub fn call(a0: T.at(1)) callconv(.c) Status {
                return T.go(.{a0});
            }
        },
        2 => struct {
            pub fn call(a0: T.at(1), a1: T.at(2)) callconv(.c) Status {
                return T.go(.{ a0, a1 });
            }
        },
        3 => struct {
            pub fn call(a0: T.at(1), a1: T.at(2), a2: T.at(3)) callconv(.c) Status {
                return T.go(.{ a0, a1, a2 });
            }
        },
        4 => struct {
            pub fn call(a0: T.at(1), a1: T.at(2), a2: T.at(3), a3: T.at(4)) callconv(.c) Status {
                return T.go(.{ a0, a1, a2, a3 });
            }
        },
        5 => struct {
            pub fn call(
                a0: T.at(1),
                a1: T.at(2),
                a2: T.at(3),
                a3: T.at(4),
                a4: T.at(5),
            ) callconv(.c) Status {
                return T.go(.{ a0, a1, a2, a3, a4 });
            }
        },
        6 => struct {
            pub fn call(
                a0: T.at(1),
                a1: T.at(2),
                a2: T.at(3),
                a3: T.at(4),
                a4: T.at(5),
                a5: T.at(6),
            ) callconv(.c) Status {
                return T.go(.{ a0, a1, a2, a3, a4, a5 });
            }
        },
        7 => struct {
            pub fn call(
                a0: T.at(1),
                a1: T.at(2),
                a2: T.at(3),
                a3: T.at(4),
                a4: T.at(5),
                a5: T.at(6),
                a6: T.at(7),
            ) callconv(.c) Status {
                return T.go(.{ a0, a1, a2, a3, a4, a5, a6 });
            }
        },
        8 => struct {
            pub fn call(
                a0: T.at(1),
                a1: T.at(2),
                a2: T.at(3),
                a3: T.at(4),
                a4: T.at(5),
                a5: T.at(6),
                a6: T.at(7),
                a7: T.at(8),
            ) callconv(.c) Status {
                return T.go(.{ a0, a1, a2, a3, a4, a5, a6, a7 });
            }
        },
        9 => struct {
            pub fn call(
                a0: T.at(1),
                a1: T.at(2),
                a2: T.at(3),
                a3: T.at(4),
                a4: T.at(5),
                a5: T.at(6),
                a6: T.at(7),
                a7: T.at(8),
                a8: T.at(9),
            ) callconv(.c) Status {
                return T.go(.{ a0, a1, a2, a3, a4, a5, a6, a7, a8 });
            }
        },
        10 => struct {
            pub fn call(
                a0: T.at(1),
                a1: T.at(2),
                a2: T.at(3),
                a3: T.at(4),
                a4: T.at(5),
                a5: T.at(6),
                a6: T.at(7),
                a7: T.at(8),
                a8: T.at(9),
                a9: T.at(10),
            ) callconv(.c) Status {
                return T.go(.{ a0, a1, a2, a3, a4, a5, a6, a7, a8, a9 });
            }
        },
        11 => struct {
            pub fn call(
                a0: T.at(1),
                a1: T.at(2),
                a2: T.at(3),
                a3: T.at(4),
                a4: T.at(5),
                a5: T.at(6),
                a6: T.at(7),
                a7: T.at(8),
                a8: T.at(9),
                a9: T.at(10),
                a10: T.at(11),
            ) callconv(.c) Status {
                return T.go(.{ a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10 });
            }
        },
        12 => struct {
            pub fn call(
                a0: T.at(1),
                a1: T.at(2),
                a2: T.at(3),
                a3: T.at(4),
                a4: T.at(5),
                a5: T.at(6),
                a6: T.at(7),
                a7: T.at(8),
                a8: T.at(9),
                a9: T.at(10),
                a10: T.at(11),
                a11: T.at(12),
            ) callconv(.c) Status {
                return T.go(.{ a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11 });
            }
        },
        else => @compileError(name ++ ": too many arguments: pass them through the scratch block"),
    };
}
