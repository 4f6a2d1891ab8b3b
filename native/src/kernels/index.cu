// Kernels of args/index.zig.
//
//     select        y[o, s] = x[o, indices[s]]        add     dx[o, indices[s]] = Σ dy[o, s]
//     takeAlong     y[r, j] = x[r, indices[r, j]]     argmax, topK: by value, then by index
// Embeddings and row gathers are selects with outer = 1. Floor: rows once in, once out. Sums are
// made in f32 in the order of the indices by one owner per element, those of more than 128 equal
// indices from parts. An index outside of its table has been recorded by rangeCheck when these run:
// they read row 0 for it and add it nowhere. Equal to cpu/index.zig and cpu/index_order.zig.
#include "index_add.cuh"
#include "index_sums.cuh"
#include "index_top.cuh"
#include "walk.cuh"

struct Range {
  int32_t low, high;
};

DEVICE Range joined(Range a, Range b) {
  return {a.low < b.low ? a.low : b.low, a.high > b.high ? a.high : b.high};
}

DEVICE Range no_range() { return {2147483647, -2147483647 - 1}; }

/// Every thread gets the range of the block.
DEVICE Range range_of_block(Range range) {
  __shared__ Range warps[warp_size];
  const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  for (int step = warp_size / 2; step > 0; step /= 2) {
    const Range other = {__shfl_xor_sync(full_mask, range.low, step),
                         __shfl_xor_sync(full_mask, range.high, step)};
    range = joined(range, other);
  }
  if (lane == 0) warps[warp] = range;
  __syncthreads();
  range = warps[0];
  for (int k = 1; k < (int)blockDim.x / warp_size; k++) range = joined(range, warps[k]);
  return range;
}

/// The first fault stays until the host has read it.
DEVICE void report(const RangePlan& a, Range range) {
  Fault* fault = static_cast<Fault*>(a.fault);
  const bool is_outside =
      range.low <= range.high && (range.low < 0 || (uint64_t)range.high >= a.limit);
  if (!is_outside || fault->code != 0) return;
  const uint32_t limit = a.limit < 0xffffffffull ? (uint32_t)a.limit : 0xffffffffu;
  *fault = {1, limit, range.low, range.high};
}

/// Every block leaves a part; a single block reports at once.
KERNEL(1024, range_check, RangePlan) {
  const int32_t* ids = static_cast<const int32_t*>(a.ids);
  const uint8_t* mask = static_cast<const uint8_t*>(a.mask);
  const float* weights = static_cast<const float*>(a.weights);
  Range range = no_range();
  for (uint64_t i = grid_thread(); i < a.count; i += grid_threads()) {
    if (mask && mask[i] == 0) continue;
    if (weights && weights[i] == 0.f) continue;
    const int32_t id = ids[i];
    range = joined(range, {id, id});
    if (a.kept) static_cast<int32_t*>(a.kept)[i] = id < 0 || (uint64_t)id >= a.limit ? -1 : id;
  }
  range = range_of_block(range);
  if (threadIdx.x != 0) return;
  if (gridDim.x == 1) report(a, range);
  else static_cast<Range*>(a.parts)[blockIdx.x] = range;
}

KERNEL(1024, range_join, RangePlan) {
  const Range* parts = static_cast<const Range*>(a.parts);
  Range range = no_range();
  for (uint64_t i = threadIdx.x; i < a.part_count; i += blockDim.x) range = joined(range, parts[i]);
  range = range_of_block(range);
  if (threadIdx.x == 0) report(a, range);
}

/// Rows of `inner` units of T.
template <typename T> DEVICE void select_rows(const SelectPlan& a) {
  const T* x = static_cast<const T*>(a.x);
  T* y = static_cast<T*>(a.y);
  const int32_t* indices = static_cast<const int32_t*>(a.indices);
  const uint64_t total = a.outer * a.selected * a.inner;
  for (uint64_t i = grid_thread(); i < total; i += grid_threads()) {
    const uint64_t row = quotient(i, a.inner), column = i - row * a.inner;
    const uint64_t outer = quotient(row, a.selected);
    const uint64_t from = safe_index(indices[row - outer * a.selected], a.count);
    y[i] = x[(outer * a.count + from) * a.inner + column];
  }
}

KERNEL(256, select_2, SelectPlan) { select_rows<uint16_t>(a); }
KERNEL(256, select_4, SelectPlan) { select_rows<uint32_t>(a); }
KERNEL(256, select_16, SelectPlan) { select_rows<Pack<uint32_t, 4>>(a); }

/// bf16 rows of an f32 table, `n` columns per thread.
template <int n> DEVICE void embed_rounded(const SelectPlan& a) {
  const float* table = static_cast<const float*>(a.x);
  bf16* y = static_cast<bf16*>(a.y);
  const int32_t* ids = static_cast<const int32_t*>(a.indices);
  const uint64_t units = a.inner / n;
  for (uint64_t i = grid_thread(); i < a.selected * units; i += grid_threads()) {
    const uint64_t row = quotient(i, units), column = (i - row * units) * n;
    float values[n];
    load_pack(table + safe_index(ids[row], a.count) * a.inner + column, values);
    store_pack(y + row * a.inner + column, values);
  }
}

KERNEL(256, embed_rounded_1, SelectPlan) { embed_rounded<1>(a); }
KERNEL(256, embed_rounded_4, SelectPlan) { embed_rounded<4>(a); }

template <typename T> DEVICE void take_along(const TakeAlong& a) {
  const T* x = static_cast<const T*>(a.x);
  T* y = static_cast<T*>(a.y);
  const int32_t* indices = static_cast<const int32_t*>(a.indices);
  for (uint64_t i = grid_thread(); i < a.rows * a.picks; i += grid_threads()) {
    const uint64_t row = quotient(i, a.picks);
    y[i] = x[row * a.width + safe_index(indices[i], a.width)];
  }
}

KERNEL(256, take_along_f32, TakeAlong) { take_along<uint32_t>(a); }
KERNEL(256, take_along_bf16, TakeAlong) { take_along<uint16_t>(a); }

/// 32 picks of one row: the first lane of each index adds those of its equals, in order.
DEVICE void add_picks(float* row, uint64_t width, int32_t index, float value, int lane) {
  bool is_first = index >= 0 && (uint64_t)index < width;
  float sum = is_first ? row[index] : 0.f;
  for (int k = 0; k < warp_size; k++) {
    const int32_t other = __shfl_sync(full_mask, index, k);
    const float term = __shfl_sync(full_mask, value, k);
    if (other != index) continue;
    if (k < lane) is_first = false;
    sum += term;
  }
  if (is_first) row[index] = sum;
  // The next 32 picks read what these have written.
  __syncwarp();
}

/// A warp per row.
template <typename S> DEVICE void take_along_backward(const TakeAlongBackward& a) {
  const int lane = threadIdx.x % warp_size;
  const S* dy = static_cast<const S*>(a.dy);
  const int32_t* indices = static_cast<const int32_t*>(a.indices);
  const uint64_t warps = grid_threads() / warp_size;
  for (uint64_t r = grid_thread() / warp_size; r < a.rows; r += warps) {
    float* row = static_cast<float*>(a.dx) + r * a.width;
    for (uint64_t i = lane; i < a.width; i += warp_size) row[i] = 0.f;
    __syncwarp();
    for (uint64_t low = 0; low < a.picks; low += warp_size) {
      const bool is_pick = low + lane < a.picks;
      const uint64_t at = r * a.picks + low + lane;
      add_picks(row, a.width, is_pick ? indices[at] : -1, is_pick ? to_float(dy[at]) : 0.f, lane);
    }
  }
}

KERNEL(256, take_along_backward_f32, TakeAlongBackward) { take_along_backward<float>(a); }
KERNEL(256, take_along_backward_bf16, TakeAlongBackward) { take_along_backward<bf16>(a); }
