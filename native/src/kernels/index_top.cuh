// Arg-max and the k largest of each row, by the keys of index_order.cuh. Up to 64 are found one by
// one; more by halving the range of keys until k lie above, gathering those and sorting them in the
// block (bitonic).
#pragma once
#include "index_order.cuh"

/// Rows of a thousand elements or less: a warp each. Longer ones: a block.
template <typename S, bool by_warp> DEVICE void argmax_rows(const Argmax& a) {
  __shared__ Key scratch[warp_size];
  const int threads = by_warp ? warp_size : blockDim.x, thread = threadIdx.x % threads;
  const uint64_t teams = by_warp ? grid_threads() / warp_size : gridDim.x;
  for (uint64_t r = by_warp ? grid_thread() / warp_size : blockIdx.x; r < a.rows; r += teams) {
    const S* row = static_cast<const S*>(a.x) + r * a.width;
    Key most = most_below(row, a.width, no_limit, thread, threads);
    most = by_warp ? warp_most(most) : block_most(most, scratch);
    if (thread != 0) continue;
    static_cast<int32_t*>(a.indices)[r] = (int32_t)index_of(most);
    if (a.values) static_cast<S*>(a.values)[r] = row[index_of(most)];
  }
}

KERNEL(256, argmax_warps_f32, Argmax) { argmax_rows<float, true>(a); }
KERNEL(256, argmax_warps_bf16, Argmax) { argmax_rows<bf16, true>(a); }
KERNEL(256, argmax_blocks_f32, Argmax) { argmax_rows<float, false>(a); }
KERNEL(256, argmax_blocks_bf16, Argmax) { argmax_rows<bf16, false>(a); }

template <typename S> DEVICE void leave_pick(const TopKPlan& a, uint64_t r, uint64_t j, Key key) {
  const uint64_t index = index_of(key);
  static_cast<int32_t*>(a.indices)[r * a.k + j] = (int32_t)index;
  static_cast<S*>(a.values)[r * a.k + j] = static_cast<const S*>(a.x)[r * a.width + index];
}

template <typename S> DEVICE void top_few(const TopKPlan& a) {
  __shared__ Key scratch[warp_size];
  for (uint64_t r = blockIdx.x; r < a.rows; r += gridDim.x) {
    const S* row = static_cast<const S*>(a.x) + r * a.width;
    Key last = no_limit;
    for (uint64_t j = 0; j < a.k; j++) {
      last = block_most(most_below(row, a.width, last, threadIdx.x, blockDim.x), scratch);
      if (threadIdx.x == 0) leave_pick<S>(a, r, j, last);
    }
  }
}

/// Largest limit with at least k keys on or above it: the k-th key.
template <typename S>
DEVICE Key key_number(const S* row, uint64_t width, uint64_t k, int* scratch) {
  Key limit = 0;
  for (int bit = 63; bit >= 0; bit--) {
    const Key raised = limit | (1ull << bit);
    int count = 0;
    for (uint64_t i = threadIdx.x; i < width; i += blockDim.x)
      count += key_of(to_float(row[i]), i) >= raised;
    if ((uint64_t)block_sum(count, scratch) >= k) limit = raised;
  }
  return limit;
}

template <typename S> DEVICE void top_many(const TopKPlan& a) {
  __shared__ int scratch[warp_size];
  Key* keys = static_cast<Key*>(a.keys) + blockIdx.x * a.padded;
  for (uint64_t r = blockIdx.x; r < a.rows; r += gridDim.x) {
    const S* row = static_cast<const S*>(a.x) + r * a.width;
    const Key last = key_number(row, a.width, a.k, scratch);
    uint64_t found = 0;
    for (uint64_t low = 0; low < a.width; low += blockDim.x) {
      const uint64_t i = low + threadIdx.x;
      const Key key = i < a.width ? key_of(to_float(row[i]), i) : 0;
      int total;
      const int place = place_in_block(i < a.width && key >= last, scratch, &total);
      if (i < a.width && key >= last) keys[found + place] = key;
      found += total;
    }
    for (uint64_t i = a.k + threadIdx.x; i < a.padded; i += blockDim.x) keys[i] = 0;
    sort_in_block(keys, a.padded, LargerKey{});
    for (uint64_t j = threadIdx.x; j < a.k; j += blockDim.x) leave_pick<S>(a, r, j, keys[j]);
    __syncthreads();
  }
}

KERNEL(1024, top_few_f32, TopKPlan) { top_few<float>(a); }
KERNEL(1024, top_few_bf16, TopKPlan) { top_few<bf16>(a); }
KERNEL(1024, top_many_f32, TopKPlan) { top_many<float>(a); }
KERNEL(1024, top_many_bf16, TopKPlan) { top_many<bf16>(a); }
