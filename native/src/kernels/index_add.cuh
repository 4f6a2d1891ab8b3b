// dx[o, indices[s]] = Σ dy[o, s], sums over equal indices in the order of s, one owner per element.
//
// Short index lists: a block looks at the whole list for the equals of its position s and stops if
// one comes before; dx has been cleared. Long ones: index_lists.cuh and index_sums.cuh.
#pragma once
#include "walk.cuh"

/// Row 0 for an index outside of the table.
DEVICE uint64_t safe_index(int32_t index, uint64_t count) {
  return index >= 0 && (uint64_t)index < count ? (uint64_t)index : 0;
}

/// Columns of one thread: `n` neighbours of the [outer, inner] elements of a position.
template <typename S, int n> struct AddColumns {
  const S* dy;  // of position 0
  float* dx;    // of the owned index
  uint64_t stride;
  float sum[n] = {};
  bool is_used;

  DEVICE AddColumns(const AddPlan& a, uint64_t index, uint64_t unit) {
    const uint64_t element = unit * n, outer = quotient(element, a.inner);
    const uint64_t column = element - outer * a.inner;
    is_used = element < a.outer * a.inner;
    stride = a.inner;
    dy = static_cast<const S*>(a.dy) + outer * a.selected * a.inner + column;
    dx = static_cast<float*>(a.dx) + (outer * a.count + index) * a.inner + column;
  }

  DEVICE void add(uint64_t position) {
    float x[n];
    load_pack(dy + position * stride, x);
#pragma unroll
    for (int i = 0; i < n; i++) sum[i] += x[i];
  }

  DEVICE void store() {
    if (is_used) store_pack(dx, sum);
  }
};

/// Whether any thread of the block of 256 says so; `warps` holds the votes.
DEVICE bool any_of_block(bool x, unsigned* warps) {
  const unsigned votes = __ballot_sync(full_mask, x);
  __syncthreads();
  if (threadIdx.x % warp_size == 0) warps[threadIdx.x / warp_size] = votes;
  __syncthreads();
  unsigned all = 0;
  for (int k = 0; k < 8; k++) all |= warps[k];
  return all != 0;
}

/// Short lists: block = position × tile of columns.
template <typename S, int n> DEVICE void add_scanning(const AddPlan& a) {
  __shared__ unsigned warps[8];
  const int32_t* indices = static_cast<const int32_t*>(a.indices);
  const uint64_t position = blockIdx.x / a.tiles, tile = blockIdx.x % a.tiles;
  const int32_t index = indices[position];
  if (index < 0 || (uint64_t)index >= a.count) return;
  bool is_before = false;
  for (uint64_t s = threadIdx.x; s < position; s += blockDim.x)
    is_before = is_before || indices[s] == index;
  if (any_of_block(is_before, warps)) return;
  AddColumns<S, n> columns(a, (uint64_t)index, tile * blockDim.x + threadIdx.x);
  for (uint64_t low = position; low < a.selected; low += blockDim.x) {
    const uint64_t s = low + threadIdx.x;
    if (!any_of_block(s < a.selected && indices[s] == index, warps)) continue;
    for (int warp = 0; warp < 8; warp++)
      for (unsigned votes = warps[warp]; votes != 0; votes &= votes - 1)
        if (columns.is_used) columns.add(low + warp * warp_size + __ffs((int)votes) - 1);
  }
  columns.store();
}

KERNEL(256, add_scanning_1_f32, AddPlan) { add_scanning<float, 1>(a); }
KERNEL(256, add_scanning_1_bf16, AddPlan) { add_scanning<bf16, 1>(a); }
KERNEL(256, add_scanning_4_f32, AddPlan) { add_scanning<float, 4>(a); }
KERNEL(256, add_scanning_4_bf16, AddPlan) { add_scanning<bf16, 4>(a); }
