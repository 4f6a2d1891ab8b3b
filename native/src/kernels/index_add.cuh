// dx[o, indices[s]] += dy[o, s], sums over equal indices in the order of s, one owner per element.
//
// Short index lists: a block looks at the whole list for the equals of its position s and stops if
// one comes before. Long ones are sorted first, stably, by passes over 8 bits of the index: per run
// of 256 positions a histogram, a scan over all of them, and a scatter. Then equal indices are
// neighbours, in order. Work: (outer·selected·inner) additions; the sort moves 8 bytes per
// position and pass.
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
  float sum[n];
  bool is_used;

  DEVICE AddColumns(const AddPlan& a, uint64_t index, uint64_t unit) {
    const uint64_t element = unit * n, outer = quotient(element, a.inner);
    const uint64_t column = element - outer * a.inner;
    is_used = element < a.outer * a.inner;
    stride = a.inner;
    dy = static_cast<const S*>(a.dy) + outer * a.selected * a.inner + column;
    dx = static_cast<float*>(a.dx) + (outer * a.count + index) * a.inner + column;
    if (is_used) load_pack(dx, sum);
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

/// A place of the order: its position, and the index there; −1 outside of the list.
struct Place {
  int32_t position, index;

  DEVICE Place(const AddPlan& a, uint64_t place) {
    const bool is_inside = place < a.selected;
    position = is_inside ? static_cast<const int32_t*>(a.order)[place] : 0;
    index = is_inside ? static_cast<const int32_t*>(a.indices)[position] : -1;
  }
};

/// Adds the equals of `index` from the warp's lane `lane` on, whose places follow each other.
/// Returns whether the last lane is one of them, so that more may follow.
template <typename S, int n>
DEVICE bool add_equals(AddColumns<S, n>& columns, const Place& near, int32_t index, int lane) {
  const unsigned others = ~(__ballot_sync(full_mask, near.index == index) >> lane);
  const int end = others == 0 ? warp_size : min(lane + __ffs((int)others) - 1, warp_size);
  // Independent loads: the sum alone is a chain.
#pragma unroll 8
  for (; lane < end; lane++) {
    const int32_t position = __shfl_sync(full_mask, near.position, lane);
    if (columns.is_used) columns.add((uint64_t)position);
  }
  return end == warp_size;
}

/// Sorted lists: block = place in the order × tile of columns; the first place of an index owns it.
/// A warp looks at 32 places at once, one before its own first: two loads after each other, where a
/// search for the last equal would be thirty.
template <typename S, int n> DEVICE void add_sorted(const AddPlan& a) {
  const int lane = threadIdx.x % warp_size;
  const uint64_t blocks = a.selected * a.tiles;
  for (uint64_t i = blockIdx.x; i < blocks; i += gridDim.x) {
    const uint64_t place = quotient(i, a.tiles), tile = i - place * a.tiles;
    Place near(a, place - 1 + lane);
    const int32_t before = __shfl_sync(full_mask, near.index, 0);
    const int32_t index = __shfl_sync(full_mask, near.index, 1);
    if (index < 0 || (uint64_t)index >= a.count || before == index) continue;
    AddColumns<S, n> columns(a, (uint64_t)index, tile * blockDim.x + threadIdx.x);
    uint64_t next = place - 1 + warp_size;
    for (int first = 1; add_equals(columns, near, index, first); first = 0, next += warp_size)
      near = Place(a, next + lane);
    columns.store();
  }
}

KERNEL(256, add_scanning_1_f32, AddPlan) { add_scanning<float, 1>(a); }
KERNEL(256, add_scanning_1_bf16, AddPlan) { add_scanning<bf16, 1>(a); }
KERNEL(256, add_scanning_4_f32, AddPlan) { add_scanning<float, 4>(a); }
KERNEL(256, add_scanning_4_bf16, AddPlan) { add_scanning<bf16, 4>(a); }
KERNEL(256, add_sorted_1_f32, AddPlan) { add_sorted<float, 1>(a); }
KERNEL(256, add_sorted_1_bf16, AddPlan) { add_sorted<bf16, 1>(a); }
KERNEL(256, add_sorted_4_f32, AddPlan) { add_sorted<float, 4>(a); }
KERNEL(256, add_sorted_4_bf16, AddPlan) { add_sorted<bf16, 4>(a); }

constexpr int digits = 256;
constexpr int run_length = 256;

DEVICE int32_t position_at(const SortPlan& a, uint64_t place) {
  return a.from ? static_cast<const int32_t*>(a.from)[place] : (int32_t)place;
}

/// Walks the warp's run of places, 32 at a time: `counts` holds how many of each digit came before.
/// With `to`, writes each position to its place. Lanes of equal digit find each other by votes.
DEVICE void sort_run(const SortPlan& a, uint64_t run, uint32_t* counts, int32_t* to) {
  const int lane = threadIdx.x % warp_size;
  const int32_t* indices = static_cast<const int32_t*>(a.indices);
  for (int step = 0; step < run_length; step += warp_size) {
    const uint64_t place = run * run_length + step + lane;
    const bool is_inside = place < a.count;
    const int32_t position = is_inside ? position_at(a, place) : 0;
    const unsigned digit = is_inside ? ((uint32_t)indices[position] >> a.shift) & 255 : 0;
    unsigned equals = __ballot_sync(full_mask, is_inside);
    for (int bit = 0; bit < 8; bit++) {
      const unsigned votes = __ballot_sync(full_mask, (digit >> bit) & 1);
      equals &= (digit >> bit) & 1 ? votes : ~votes;
    }
    const int before = __popc(equals & ((1u << lane) - 1));
    const uint32_t base = is_inside ? counts[digit] : 0;
    if (is_inside && to) to[base + before] = position;
    __syncwarp();
    if (is_inside && before == 0) counts[digit] = base + __popc(equals);
    __syncwarp();
  }
}

/// counts [digits, runs] ← histogram of each run; a warp per run.
KERNEL(256, sort_count, SortPlan) {
  __shared__ uint32_t counts[8][digits];
  const int warp = threadIdx.x / warp_size, lane = threadIdx.x % warp_size;
  const uint64_t run = blockIdx.x * (uint64_t)8 + warp;
  for (int i = lane; i < digits; i += warp_size) counts[warp][i] = 0;
  __syncwarp();
  if (run >= a.runs) return;
  sort_run(a, run, counts[warp], nullptr);
  for (int i = lane; i < digits; i += warp_size)
    static_cast<uint32_t*>(a.counts)[i * a.runs + run] = counts[warp][i];
}

/// counts ← sum of all counts before, in place. Each of 1024 threads adds a stretch.
KERNEL(1024, sort_scan, SortPlan) {
  __shared__ uint32_t sums[1024];
  uint32_t* counts = static_cast<uint32_t*>(a.counts);
  const uint64_t total = digits * a.runs, stretch = (total + 1023) / 1024;
  const uint64_t low = threadIdx.x * stretch;
  const uint64_t high = low + stretch < total ? low + stretch : total;
  uint32_t sum = 0;
  for (uint64_t i = low; i < high; i++) sum += counts[i];
  sums[threadIdx.x] = sum;
  __syncthreads();
  for (int step = 1; step < 1024; step *= 2) {
    const uint32_t other = (int)threadIdx.x >= step ? sums[threadIdx.x - step] : 0;
    __syncthreads();
    sums[threadIdx.x] += other;
    __syncthreads();
  }
  uint32_t before = sums[threadIdx.x] - sum;
  constexpr int batch = 8;  // loads that do not wait for the stores before them
  for (uint64_t first = low; first < high; first += batch) {
    uint32_t count[batch];
#pragma unroll
    for (int j = 0; j < batch; j++) count[j] = first + j < high ? counts[first + j] : 0;
#pragma unroll
    for (int j = 0; j < batch; j++) {
      if (first + j < high) counts[first + j] = before;
      before += count[j];
    }
  }
}

KERNEL(256, sort_scatter, SortPlan) {
  __shared__ uint32_t counts[8][digits];
  const int warp = threadIdx.x / warp_size, lane = threadIdx.x % warp_size;
  const uint64_t run = blockIdx.x * (uint64_t)8 + warp;
  if (run >= a.runs) return;
  for (int i = lane; i < digits; i += warp_size)
    counts[warp][i] = static_cast<const uint32_t*>(a.counts)[i * a.runs + run];
  __syncwarp();
  sort_run(a, run, counts[warp], static_cast<int32_t*>(a.to));
}
