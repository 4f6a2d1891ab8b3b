// Order of the elements of a row: by value descending, then by index; NaN after every number.
//
// An element is one 64-bit key, unique in its row: the value's bits in numeric order above the
// complement of its index. Comparisons only, results are exact.
#pragma once
#include "walk.cuh"

typedef unsigned long long Key;

/// Larger keys come first. NaN has the lowest value; ±0 are equal.
DEVICE Key key_of(float x, uint64_t index) {
  uint32_t order = 0;
  if (x == x) {
    const uint32_t bits = __float_as_uint(x + 0.f);
    order = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  }
  return (Key)order << 32 | (0xffffffffu - (uint32_t)index);
}

DEVICE uint64_t index_of(Key key) { return 0xffffffffu - (uint32_t)key; }

DEVICE Key warp_most(Key key) {
#pragma unroll
  for (int step = warp_size / 2; step > 0; step /= 2) {
    const Key other = __shfl_xor_sync(full_mask, key, step);
    if (other > key) key = other;
  }
  return key;
}

/// Every thread gets the largest key of the block. `scratch` holds 32.
DEVICE Key block_most(Key key, Key* scratch) {
  key = warp_most(key);
  __syncthreads();
  if (threadIdx.x % warp_size == 0) scratch[threadIdx.x / warp_size] = key;
  __syncthreads();
  for (int k = 0; k < (int)blockDim.x / warp_size; k++)
    if (scratch[k] > key) key = scratch[k];
  return key;
}

/// Largest key below `limit` among this thread's elements; 0 where there is none.
template <typename S>
DEVICE Key most_below(const S* row, uint64_t width, Key limit, int thread, int threads) {
  Key most = 0;
  for (uint64_t i = thread; i < width; i += threads) {
    const Key key = key_of(to_float(row[i]), i);
    if (key < limit && key > most) most = key;
  }
  return most;
}

constexpr Key no_limit = ~0ull;

/// Before this thread: how many of the block's threads say yes; `total` of all.
DEVICE int place_in_block(bool yes, int* warps, int* total) {
  const int warp = threadIdx.x / warp_size;
  const unsigned votes = __ballot_sync(full_mask, yes);
  __syncthreads();
  if (threadIdx.x % warp_size == 0) warps[warp] = __popc(votes);
  __syncthreads();
  int before = __popc(votes & ((1u << threadIdx.x % warp_size) - 1));
  *total = 0;
  for (int k = 0; k < (int)blockDim.x / warp_size; k++) {
    if (k < warp) before += warps[k];
    *total += warps[k];
  }
  return before;
}

/// Sorts `size` (a power of two) items of `items` in the block, those that come first first.
template <typename T, typename Before>
DEVICE void sort_in_block(T* items, uint64_t size, const Before& before) {
  for (uint64_t width = 2; width <= size; width *= 2) {
    for (uint64_t step = width / 2; step > 0; step /= 2) {
      __syncthreads();
      for (uint64_t i = threadIdx.x; i < size / 2; i += blockDim.x) {
        const uint64_t low = i / step * 2 * step + i % step, high = low + step;
        const T x = items[low], y = items[high];
        const bool is_falling = (low & width) == 0;
        if (is_falling ? before(y, x) : before(x, y)) {
          items[low] = y;
          items[high] = x;
        }
      }
    }
  }
  __syncthreads();
}

struct LargerKey {
  DEVICE bool operator()(Key a, Key b) const { return a > b; }
};
