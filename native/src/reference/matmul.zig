//! The obvious product in float64: the judge of cpu/matmul.zig.

/// c[i, j] = Σ_k a[i, k]·b[k, j] of strided operands, k ascending.
pub fn matmul(
    m: usize,
    n: usize,
    k: usize,
    a: []const f64,
    a_strides: [2]usize,
    b: []const f64,
    b_strides: [2]usize,
    c: []f64,
) void {
    for (0..m) |i| for (0..n) |j| {
        var sum: f64 = 0;
        for (0..k) |l| {
            sum += a[i * a_strides[0] + l * a_strides[1]] * b[l * b_strides[0] + j * b_strides[1]];
        }
        c[i * n + j] = sum;
    };
}
