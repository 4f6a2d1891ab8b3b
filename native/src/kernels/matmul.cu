// C[b] = alpha·A[b]·B[b] (+ C[b]) (+ bias) (+ residual[b]) for any strides and any mix of f32 and
// bf16, accumulated in f32 in the order of k. Equals cpu/matmul.zig, reference/matmul.zig.
//
// Floor: 2mnk FLOPs of plain multiply-adds. Tiles of 64 x 64, 16 deep, through shared memory; each
// of 256 threads owns 4 x 4 elements. This is the path for what cuBLASLt does not take (odd
// strides, mixed types, epilogues) and for machines without it, not the fast path. Products of few
// rows with a stored weight: matmul_skinny.cuh.
#include "matmul_element.cuh"
#include "matmul_skinny.cuh"

namespace {

constexpr int tile = 64, depth = 16, side = 4;

struct Operand {
  const void* data;
  int32_t dtype;
  uint64_t start, wide_stride, k_stride;  // from row of A (column of B) to the next, along k
  uint64_t wide, k;
};

/// 64 rows (or columns) by 16 of k into shared memory, zero beyond the edges. Neighbouring threads
/// read neighbouring addresses whichever dim is contiguous.
DEVICE void load_tile(float (&to)[depth][tile + side], const Operand& x, uint64_t w0, uint64_t k0) {
  const bool k_first = x.k_stride == 1;
  for (int i = threadIdx.x; i < depth * tile; i += 256) {
    const int k = k_first ? i % depth : i / tile;
    const int w = k_first ? i / depth : i % tile;
    const bool inside = w0 + w < x.wide && k0 + k < x.k;
    const uint64_t at = x.start + (w0 + w) * x.wide_stride + (k0 + k) * x.k_stride;
    to[k][w] = inside ? load_as(x.data, x.dtype, at) : 0.f;
  }
}

}  // namespace

KERNEL(256, matmul, Matmul) {
  __shared__ float left[depth][tile + side];
  __shared__ float right[depth][tile + side];
  const uint64_t columns = (a.n + tile - 1) / tile;
  const uint64_t m0 = blockIdx.x / columns * tile, n0 = blockIdx.x % columns * tile;
  const int row = threadIdx.x / 16 * side, column = threadIdx.x % 16 * side;
  for (uint64_t batch = blockIdx.z; batch < a.batch; batch += gridDim.z) {
    const Operand x = {a.a, a.a_dtype, batch * a.a_batch_stride, a.a_row_stride,
                       a.a_column_stride, a.m, a.k};
    const Operand y = {a.b, a.b_dtype, batch * a.b_batch_stride, a.b_column_stride,
                       a.b_row_stride, a.n, a.k};
    float sum[side][side] = {};
    for (uint64_t k0 = 0; k0 < a.k; k0 += depth) {
      load_tile(left, x, m0, k0);
      load_tile(right, y, n0, k0);
      __syncthreads();
#pragma unroll
      for (int k = 0; k < depth; k++)
#pragma unroll
        for (int i = 0; i < side; i++)
#pragma unroll
          for (int j = 0; j < side; j++)
            sum[i][j] = fmaf(left[k][row + i], right[k][column + j], sum[i][j]);
      __syncthreads();
    }
    for (int i = 0; i < side; i++)
      for (int j = 0; j < side; j++)
        if (m0 + row + i < a.m && n0 + column + j < a.n)
          epilogue(a, batch, m0 + row + i, n0 + column + j, sum[i][j]);
  }
}

SKINNY(1)
SKINNY(2)
SKINNY(4)
SKINNY(8)
