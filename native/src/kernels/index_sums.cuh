// dx ← sums over the lists of index_lists.cuh; every row is written, one without a position too.
// Floor: dy once in, dx once out.
//
// A warp takes a slice of the columns of several neighbouring rows: their short lists lie together,
// so that loads of the next positions do not wait for the row before. Long lists are cut into
// chunks, a warp per slice of each; the warp that ends last joins the parts in order.
#pragma once
#include "async_copy.cuh"
#include "index_lists.cuh"

constexpr int units = 2;      // packs of columns of a lane
constexpr int sum_warps = 8;  // of a block
/// Positions on their way at once.
template <typename S> constexpr int ahead = 16 / (int)sizeof(S);

/// Columns of one lane: `units` packs of the [outer, inner] elements of a position. A list has
/// thousands of positions, so that their elements, and rows times slices, are numbered by 32 bits.
template <typename S, int n> struct LaneColumns {
  const S* dy[units];  // of position 0
  float* to[units];    // of the first row
  uint32_t inner;
  bool is_used[units];

  DEVICE static uint32_t element(uint32_t slice, int unit) {
    return ((slice * units + unit) * warp_size + threadIdx.x % warp_size) * n;
  }

  DEVICE LaneColumns(const ListPlan& a, uint32_t row, uint32_t slice) {
    inner = (uint32_t)a.inner;
#pragma unroll
    for (int u = 0; u < units; u++) {
      const uint32_t at = element(slice, u);
      const uint64_t outer = at / inner;
      is_used[u] = outer < a.outer;
      dy[u] = static_cast<const S*>(a.dy) + outer * (a.selected - 1) * inner + at;
      to[u] = static_cast<float*>(a.dx) + (outer * (a.count - 1) + row) * inner + at;
    }
  }

  /// Sums go into part `number` instead.
  DEVICE void into_part(const ListPlan& a, uint64_t number, uint32_t slice) {
    float* part = static_cast<float*>(a.parts) + number * a.outer * inner;
#pragma unroll
    for (int u = 0; u < units; u++) to[u] = part + element(slice, u);
  }

  DEVICE void load(uint32_t position, Pack<S, n> (&x)[units]) const {
#pragma unroll
    for (int u = 0; u < units; u++) {
      const S* from = dy[u] + position * (uint64_t)inner;
      if (is_used[u]) x[u] = *reinterpret_cast<const Pack<S, n>*>(from);
    }
  }

  /// Stores the sums of a row and begins anew.
  DEVICE void end_row(int row, bool is_written, float (&sum)[units][n]) const {
#pragma unroll
    for (int u = 0; u < units; u++) {
      if (is_used[u] && is_written) store_pack(to[u] + row * (uint64_t)inner, sum[u]);
#pragma unroll
      for (int i = 0; i < n; i++) sum[u][i] = 0.f;
    }
  }
};

/// Lists of `rows` rows that follow each other from place `low` on.
struct Lists {
  uint32_t row, low, total;
  uint32_t size;     // of list number `lane`
  uint32_t written;  // a bit per row
  int rows;

  /// The short ones of a group of neighbouring rows.
  DEVICE static Lists of_group(const ListPlan& a, uint32_t group) {
    const int lane = threadIdx.x % warp_size;
    const uint32_t row = group * a.rows;
    const bool is_row = lane < (int)a.rows && row + lane < a.count;
    const uint32_t size = is_row ? static_cast<const uint32_t*>(a.sizes)[row + lane] : 0;
    const uint32_t start = is_row ? static_cast<const uint32_t*>(a.starts)[row + lane] : 0;
    const uint32_t taken = size <= few ? size : 0;
    const uint32_t written = __ballot_sync(full_mask, is_row && size <= few);
    const uint32_t low = __shfl_sync(full_mask, start, written ? __ffs((int)written) - 1 : 0);
    return {row, low, warp_sum(taken), taken, written, (int)a.rows};
  }

  DEVICE static Lists of_chunk(const Chunk& chunk) {
    return {chunk.row, chunk.low, chunk.size, chunk.size, 1, 1};
  }
};

template <typename S, int n>
DEVICE void sum_lists(const ListPlan& a, const LaneColumns<S, n>& columns, const Lists& lists) {
  const int lane = threadIdx.x % warp_size;
  const uint32_t* order = static_cast<const uint32_t*>(a.order) + lists.low;
  float sum[units][n] = {};
  int row = 0;
  uint32_t left = __shfl_sync(full_mask, lists.size, 0);
  for (uint32_t window = 0; window < lists.total; window += warp_size) {
    const int steps = (int)min(lists.total - window, (unsigned)warp_size);
    const uint32_t position = lane < steps ? order[window + lane] : 0;
    for (int step = 0; step < steps; step += ahead<S>) {
      Pack<S, n> x[ahead<S>][units];
#pragma unroll
      for (int k = 0; k < ahead<S>; k++) {
        const uint32_t next = __shfl_sync(full_mask, position, step + k);
        if (step + k < steps) columns.load(next, x[k]);
      }
#pragma unroll
      for (int k = 0; k < ahead<S>; k++) {
        if (step + k >= steps) continue;
        for (; left == 0; left = __shfl_sync(full_mask, lists.size, row)) {
          columns.end_row(row, lists.written >> row & 1, sum);
          row++;
        }
#pragma unroll
        for (int u = 0; u < units; u++)
#pragma unroll
          for (int i = 0; i < n; i++) sum[u][i] += to_float(x[k][u].at[i]);
        left--;
      }
    }
  }
  for (; row < lists.rows; row++) columns.end_row(row, lists.written >> row & 1, sum);
}

/// Adds the parts of a list in order once all of its chunks have ended.
template <typename S, int n>
DEVICE void join_parts(const ListPlan& a, const Chunk& chunk, uint32_t slice) {
  __threadfence();
  __syncwarp();
  uint32_t* finished = static_cast<uint32_t*>(a.finished) + chunk.split * a.slices + slice;
  uint32_t ended = 0;
  if (threadIdx.x % warp_size == 0) ended = atomicAdd(finished, 1u);
  if (__shfl_sync(full_mask, ended, 0) != chunk.count - 1) return;
  __threadfence();
  const LaneColumns<S, n> columns(a, chunk.row, slice);
  const uint64_t elements = a.outer * a.inner;
#pragma unroll
  for (int u = 0; u < units; u++) {
    if (!columns.is_used[u]) continue;
    const float* part = static_cast<const float*>(a.parts) + chunk.first * elements;
    part += columns.element(slice, u);
    float sum[n] = {};
#pragma unroll 4
    for (uint32_t k = 0; k < chunk.count; k++, part += elements) {
      float x[n];
      load_pack(part, x);
#pragma unroll
      for (int i = 0; i < n; i++) sum[i] += x[i];
    }
    store_pack(columns.to[u], sum);
  }
}

/// The first `chunk_blocks` blocks take the chunks: they are the longest work.
template <typename S, int n> DEVICE void add_lists(const ListPlan& a) {
  const bool is_chunks = blockIdx.x < a.chunk_blocks;
  const uint32_t blocks = is_chunks ? a.chunk_blocks : gridDim.x - a.chunk_blocks;
  const uint32_t block = is_chunks ? blockIdx.x : blockIdx.x - a.chunk_blocks;
  const uint32_t slices = (uint32_t)a.slices;
  const uint32_t pieces = is_chunks ? static_cast<const Cursors*>(a.cursors)->chunks
                                    : ((uint32_t)a.count + a.rows - 1) / a.rows;
  uint32_t item = block * sum_warps + threadIdx.x / warp_size;
  for (; item < pieces * slices; item += blocks * sum_warps) {
    const uint32_t piece = item / slices, slice = item % slices;
    const Chunk* chunk = static_cast<const Chunk*>(a.chunks) + piece;
    const Lists lists = is_chunks ? Lists::of_chunk(*chunk) : Lists::of_group(a, piece);
    LaneColumns<S, n> columns(a, lists.row, slice);
    const bool is_part = is_chunks && chunk->count > 1;
    if (is_part) columns.into_part(a, chunk->first + chunk->number, slice);
    sum_lists(a, columns, lists);
    if (is_part) join_parts<S, n>(a, *chunk, slice);
  }
}

RESIDENT_KERNEL(256, 3, add_lists_1_f32, ListPlan) { add_lists<float, 1>(a); }
RESIDENT_KERNEL(256, 3, add_lists_1_bf16, ListPlan) { add_lists<bf16, 1>(a); }
RESIDENT_KERNEL(256, 3, add_lists_4_f32, ListPlan) { add_lists<float, 4>(a); }
RESIDENT_KERNEL(256, 3, add_lists_4_bf16, ListPlan) { add_lists<bf16, 4>(a); }
