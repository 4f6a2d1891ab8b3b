// The positions s of each index, in order: the lists that index_sums.cuh adds up.
//
// Four launches: how many positions an index has, and the arrival of each among them; where its
// list begins; positions into their lists; lists into order. Integer atomics decide who arrives
// first and where a list lies, nothing else: the lists come out the same in every run. Short lists
// of 1024 neighbouring indices lie together. Work: a few words of L2 per position and index.
#pragma once
#include "walk.cuh"

/// Positions of a short list: each counts those before it. Longer ones are put in order through a
/// map of bytes, and summed in chunks.
constexpr uint32_t few = 32;
constexpr uint32_t shortest_chunk = 128;
constexpr uint32_t most_chunks = 128;  // of one list

/// Takers of places, all 0 at the start.
struct Cursors {
  uint32_t places, longs, chunks, parts, split;
};

/// A piece of the list of `row`. Those of several chunks have their sums in parts[first …], and a
/// number, `split`, among their like.
struct Chunk {
  uint32_t row, low, size, number, count, first, split;
};

/// Depends on nothing but the length of the list, and so do sums.
DEVICE uint32_t chunk_size(uint32_t positions) {
  const uint32_t share = (positions + most_chunks - 1) / most_chunks;
  return share < shortest_chunk ? shortest_chunk : share;
}

/// The index at a position; −1 outside of the list or of the table.
DEVICE int32_t index_at(const ListPlan& a, uint64_t position) {
  if (position >= a.selected) return -1;
  const int32_t index = static_cast<const int32_t*>(a.indices)[position];
  return index >= 0 && (uint64_t)index < a.count ? index : -1;
}

/// sizes[i] ← positions of index i; order[s] ← how many of its equals have arrived before s.
/// Lanes of one index arrive together. Positions are taken from the end, so that lists are out of
/// order even where blocks run one after the other (the emulator).
KERNEL(256, list_sizes, ListPlan) {
  const int lane = threadIdx.x % warp_size;
  const uint64_t position = a.selected - 1 - grid_thread();
  const int32_t index = index_at(a, position);
  uint32_t before = 0, equals = 0;
  int first = warp_size;
  for (int k = 0; k < warp_size; k++) {
    if (__shfl_sync(full_mask, index, k) != index) continue;
    if (first == warp_size) first = k;
    if (k < lane) before++;
    equals++;
  }
  uint32_t arrived = 0;
  if (index >= 0 && lane == first)
    arrived = atomicAdd(static_cast<uint32_t*>(a.sizes) + index, equals);
  arrived = __shfl_sync(full_mask, arrived, first) + before;
  if (index >= 0) static_cast<uint32_t*>(a.order)[position] = arrived;
}

/// Sum over the threads of the block before this one; `total` of all. `warps` holds 32.
DEVICE uint32_t sum_before(uint32_t x, uint32_t* warps, uint32_t* total) {
  const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  uint32_t sum = x;
#pragma unroll
  for (int step = 1; step < warp_size; step *= 2) {
    const uint32_t other = __shfl_up_sync(full_mask, sum, step);
    if (lane >= step) sum += other;
  }
  __syncthreads();
  if (lane == warp_size - 1) warps[warp] = sum;
  __syncthreads();
  uint32_t before = sum - x;
  *total = 0;
  for (int k = 0; k < (int)blockDim.x / warp_size; k++) {
    if (k < warp) before += warps[k];
    *total += warps[k];
  }
  return before;
}

/// Where the list of an index with many positions begins; its chunks.
DEVICE uint32_t place_long(const ListPlan& a, uint32_t index, uint32_t size) {
  Cursors* cursors = static_cast<Cursors*>(a.cursors);
  const uint32_t start = atomicAdd(&cursors->places, size);
  static_cast<uint32_t*>(a.longs)[atomicAdd(&cursors->longs, 1u)] = index;
  const uint32_t most = chunk_size(size), count = (size + most - 1) / most;
  Chunk chunk = {index, start, most, 0, count, 0, 0};
  if (count > 1) {
    chunk.first = atomicAdd(&cursors->parts, count);
    chunk.split = atomicAdd(&cursors->split, 1u);
  }
  Chunk* chunks = static_cast<Chunk*>(a.chunks) + atomicAdd(&cursors->chunks, count);
  for (; chunk.number < count; chunk.number++, chunk.low += most) {
    if (chunk.number == count - 1) chunk.size = start + size - chunk.low;
    chunks[chunk.number] = chunk;
  }
  return start;
}

KERNEL(1024, list_starts, ListPlan) {
  __shared__ uint32_t warps[warp_size];
  __shared__ uint32_t base;
  const uint64_t index = grid_thread();
  const uint32_t size = index < a.count ? static_cast<const uint32_t*>(a.sizes)[index] : 0;
  uint32_t total;
  const uint32_t before = sum_before(size > few ? 0 : size, warps, &total);
  if (threadIdx.x == 0) base = atomicAdd(&static_cast<Cursors*>(a.cursors)->places, total);
  __syncthreads();
  if (index >= a.count) return;
  const uint32_t start = size > few ? place_long(a, (uint32_t)index, size) : base + before;
  static_cast<uint32_t*>(a.starts)[index] = start;
}

KERNEL(256, list_fill, ListPlan) {
  const uint64_t position = grid_thread();
  const int32_t index = index_at(a, position);
  if (index < 0) return;
  const uint32_t arrived = static_cast<const uint32_t*>(a.order)[position];
  const uint32_t start = static_cast<const uint32_t*>(a.starts)[index];
  static_cast<uint32_t*>(a.list)[start + arrived] = (uint32_t)position;
}

constexpr uint32_t marked = 1 << 15;  // positions of a map

/// Writes the marked positions, `first` added, in order to `to`; returns how many there are. The
/// block's 8 warps take an eighth of the map each.
DEVICE uint32_t read_off(const uint32_t* map, uint32_t first, uint32_t* to, uint32_t* warps) {
  constexpr int words = marked / 4 / 8;
  const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  uint32_t found = 0, total;
  for (int i = lane; i < words; i += warp_size) found += __popc(map[warp * words + i]);
  uint32_t place = sum_before(found, warps, &total);
  // Places of the warp follow each other: those of lane 0 come first.
  place = __shfl_sync(full_mask, place, 0);
  for (int i = lane; i < words; i += warp_size) {
    const uint32_t word = map[warp * words + i];
    uint32_t last = __popc(word);
#pragma unroll
    for (int step = 1; step < warp_size; step *= 2) {
      const uint32_t other = __shfl_up_sync(full_mask, last, step);
      if (lane >= step) last += other;
    }
    uint32_t at = place + last - __popc(word);
#pragma unroll
    for (uint32_t k = 0; k < 4; k++)
      if (word >> 8 * k & 1) to[at++] = first + (warp * words + i) * 4 + k;
    place += __shfl_sync(full_mask, last, warp_size - 1);
  }
  return total;
}

/// A long list into order, by a block.
DEVICE void order_long(const ListPlan& a, uint32_t index, uint32_t* map, uint32_t* warps) {
  const uint32_t size = static_cast<const uint32_t*>(a.sizes)[index];
  const uint32_t start = static_cast<const uint32_t*>(a.starts)[index];
  const uint32_t* list = static_cast<const uint32_t*>(a.list) + start;
  uint32_t* order = static_cast<uint32_t*>(a.order) + start;
  for (uint64_t first = 0; first < a.selected; first += marked) {
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < marked / 4; i += blockDim.x) map[i] = 0;
    __syncthreads();
#pragma unroll 4
    for (uint32_t i = threadIdx.x; i < size; i += blockDim.x) {
      const uint32_t at = list[i] - (uint32_t)first;
      if (at < marked) reinterpret_cast<uint8_t*>(map)[at] = 1;
    }
    __syncthreads();
    order += read_off(map, (uint32_t)first, order, warps);
  }
}

/// A position of a short list into order, by a thread.
DEVICE void order_position(const ListPlan& a, uint64_t position) {
  const int32_t index = index_at(a, position);
  if (index < 0) return;
  const uint32_t size = static_cast<const uint32_t*>(a.sizes)[index];
  const uint32_t start = static_cast<const uint32_t*>(a.starts)[index];
  if (size > few) return;
  const uint32_t* list = static_cast<const uint32_t*>(a.list) + start;
  uint32_t before = 0;
#pragma unroll 4
  for (uint32_t i = 0; i < size; i++) before += list[i] < (uint32_t)position;
  static_cast<uint32_t*>(a.order)[start + before] = (uint32_t)position;
}

/// The first `long_blocks` blocks take the long lists.
KERNEL(256, list_order, ListPlan) {
  __shared__ uint32_t map[marked / 4];
  __shared__ uint32_t warps[warp_size];
  if (blockIdx.x >= a.long_blocks)
    return order_position(a, (blockIdx.x - a.long_blocks) * (uint64_t)blockDim.x + threadIdx.x);
  const uint32_t longs = static_cast<const Cursors*>(a.cursors)->longs;
  for (uint32_t i = blockIdx.x; i < longs; i += a.long_blocks)
    order_long(a, static_cast<const uint32_t*>(a.longs)[i], map, warps);
}
