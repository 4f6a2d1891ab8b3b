// Products of 64 x 64 tiles in shared memory, in f32: each of 256 threads owns 4 x 4 elements.
// Per thread and inner position 32 FLOPs and 8 floats from shared memory.
#pragma once
#include "common.cuh"

namespace tile {

constexpr int side = 64;     // rows and columns
constexpr int depth = 32;    // inner positions that lie in shared memory at a time
constexpr int pitch = 68;    // an operand's row: keeps 16-byte loads aligned, spreads turned stores
constexpr int threads = 256;

/// Rows `step` elements apart.
template <typename S> struct View {
  const S* base;
  size_t step;
};

/// Where a thread's 4 x 4 elements start.
DEVICE int tile_row() { return threadIdx.x / 16 * 4; }
DEVICE int tile_column() { return threadIdx.x % 16 * 4; }

DEVICE int least(uint64_t a, int b) { return a < (uint64_t)b ? (int)a : b; }

/// to[p][x] = scale[p]·from[p·step + x] for `rows` positions p and `columns` x; 0 in the rest of
/// [depth, 64]. No scale: 1.
template <typename S>
DEVICE void load_straight(float* to, View<S> from, int rows, uint64_t columns,
                          const float* scale = nullptr) {
  const int width = least(columns, side);
  for (int n = threadIdx.x; n < depth * side; n += threads) {
    const int p = n / side, x = n % side;
    float value = 0;
    if (p < rows && x < width) {
      value = to_float(from.base[p * from.step + x]);
      if (scale) value *= scale[p];
    }
    to[p * pitch + x] = value;
  }
}

/// to[p][x] = scale[x]·from[x·step + p] for `rows` x and `columns` positions p, likewise. Lanes
/// cover 8 positions of 4 rows: whole sectors are read, and stores meet no bank twice.
template <typename S>
DEVICE void load_turned(float* to, View<S> from, uint64_t rows, uint64_t columns,
                        const float* scale = nullptr) {
  const int height = least(rows, side), width = least(columns, depth);
  for (int n = threadIdx.x; n < depth * side; n += threads) {
    const int p = n % 8 + n / 32 % 4 * 8, x = n / 8 % 4 + n / 128 * 4;
    float value = 0;
    if (p < width && x < height) {
      value = to_float(from.base[x * from.step + p]);
      if (scale) value *= scale[x];
    }
    to[p * pitch + x] = value;
  }
}

template <typename S> DEVICE View<S> moved(View<S> view, size_t rows, size_t columns) {
  return {view.base + rows * view.step + columns, view.step};
}

struct Accumulator {
  float at[4][4];
};

DEVICE void clear(Accumulator& acc) {
#pragma unroll
  for (int r = 0; r < 4; r++)
#pragma unroll
    for (int c = 0; c < 4; c++) acc.at[r][c] = 0;
}

/// acc += aᵀ b for a, b [count, 64].
DEVICE void multiply(Accumulator& acc, const float* a, const float* b, int count) {
  a += tile_row();
  b += tile_column();
#pragma unroll 8
  for (int p = 0; p < count; p++) {
    float left[4], right[4];
    load_pack<4>(a + p * pitch, left);
    load_pack<4>(b + p * pitch, right);
#pragma unroll
    for (int r = 0; r < 4; r++)
#pragma unroll
      for (int c = 0; c < 4; c++) acc.at[r][c] = fmaf(left[r], right[c], acc.at[r][c]);
  }
}

/// Rows of the accumulator times scale; 0 where scale is: what lies behind it may be hidden.
DEVICE void scale_rows(Accumulator& acc, const float* scale) {
#pragma unroll
  for (int r = 0; r < 4; r++) {
    const float factor = scale[tile_row() + r];
#pragma unroll
    for (int c = 0; c < 4; c++) acc.at[r][c] = factor == 0 ? 0 : acc.at[r][c] * factor;
  }
}

/// A tile into `room` rows of a view; those from `tokens` on become zeros.
template <typename S>
DEVICE void store_rows(const Accumulator& acc, View<S> view, int tokens, int room,
                       uint64_t columns) {
  S* const to = const_cast<S*>(view.base);
  for (int r = 0; r < 4; r++)
    for (int c = 0; c < 4; c++) {
      const int row = tile_row() + r, column = tile_column() + c;
      if (row >= room || (uint64_t)column >= columns) continue;
      to[row * view.step + column] = from_float<S>(row < tokens ? acc.at[r][c] : 0.f);
    }
}

}  // namespace tile
