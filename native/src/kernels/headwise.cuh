// Head-wise linear maps: y[r, h, o] = Σ_i w[h, o, i]·x[r, h, i] (+ bias[h, o]).
//
// Square blocks of 2, 4 or 8: a thread owns a block h and walks along rows with its weights in
// registers; neighbouring threads own neighbouring blocks. Every other size: small matrix products
// in tiles of 64×64, operands in shared memory. dw and dbias are sums over fixed ranges of rows,
// one row of partials each.
#pragma once
#include "common.cuh"

namespace headwise {

constexpr int block_threads = 256;
constexpr int block_warps = block_threads / warp_size;
constexpr int together = 4;

/// N neighbours, in loads of at most 16 bytes.
template <int N, typename S> DEVICE void load_unit(const S* from, float (&to)[N]) {
  constexpr int P = N < pack_width<S> ? N : pack_width<S>;
#pragma unroll
  for (int i = 0; i < N; i += P) {
    float part[P];
    load_pack<P>(from + i, part);
#pragma unroll
    for (int j = 0; j < P; j++) to[i + j] = part[j];
  }
}

template <int N, typename S> DEVICE void store_unit(S* to, const float (&from)[N]) {
  constexpr int P = N < pack_width<S> ? N : pack_width<S>;
#pragma unroll
  for (int i = 0; i < N; i += P) {
    float part[P];
#pragma unroll
    for (int j = 0; j < P; j++) part[j] = from[i + j];
    store_pack<P>(to + i, part);
  }
}

/// A thread's block h, and the rows of its thread block.
struct Unit {
  uint64_t h, part, low, high;
  bool active;
};

template <typename Args> DEVICE Unit unit_of(const Args& a, uint64_t per_block) {
  const uint64_t columns = (a.blocks + warp_size - 1) / warp_size;
  const uint64_t h = blockIdx.x % columns * warp_size + threadIdx.x % warp_size;
  const uint64_t part = blockIdx.x / columns, low = part * per_block;
  const uint64_t high = low + per_block < a.rows ? low + per_block : a.rows;
  return {h, part, low, high, h < a.blocks};
}

template <int N> DEVICE void load_weights(const void* weight, uint64_t h, float (&w)[N][N]) {
#pragma unroll
  for (int o = 0; o < N; o++) load_unit<N>((const float*)weight + (h * N + o) * N, w[o]);
}

template <typename S, int N> DEVICE void small_forward(const HeadwiseForwardPlan& p) {
  const auto& a = p.call;
  const Unit unit = unit_of(a, p.per_block);
  if (!unit.active) return;
  float w[N][N], bias[N] = {};
  load_weights<N>(a.weight, unit.h, w);
  if (a.bias) load_unit<N>((const float*)a.bias + unit.h * N, bias);
  const S* x = (const S*)a.x + unit.h * N;
  S* y = (S*)a.y + unit.h * N;
  const uint64_t warp = threadIdx.x / warp_size;
  for (uint64_t base = unit.low + warp; base < unit.high; base += block_warps * together) {
    float in[together][N];
#pragma unroll
    for (int n = 0; n < together; n++) {
      const uint64_t r = base + n * block_warps;
      if (r < unit.high) load_unit<N>(x + r * a.x_stride, in[n]);
    }
#pragma unroll
    for (int n = 0; n < together; n++) {
      const uint64_t r = base + n * block_warps;
      if (r >= unit.high) break;
      float out[N];
#pragma unroll
      for (int o = 0; o < N; o++) {
        out[o] = bias[o];
#pragma unroll
        for (int i = 0; i < N; i++) out[o] = fmaf(w[o][i], in[n][i], out[o]);
      }
      store_unit<N>(y + r * a.y_stride, out);
    }
  }
}

/// One number of every thread, added over the warps in order: out[lane·step].
DEVICE void add_warps(float value, float* shared, float* out, uint64_t step, bool active) {
  __syncthreads();
  shared[threadIdx.x] = value;
  __syncthreads();
  if (threadIdx.x >= warp_size || !active) return;
  float total = 0;
  for (int n = 0; n < block_warps; n++) total += shared[n * warp_size + threadIdx.x];
  out[threadIdx.x * step] = total;
}

template <typename S, int N> struct SmallBack {
  float w[N][N], dw[N][N], db[N];

  DEVICE void row(const HeadwiseBackward& a, uint64_t h, uint64_t r) {
    float dy[N], x[N], dx[N] = {};
    load_unit<N>((const S*)a.dy + r * a.y_stride + h * N, dy);
    load_unit<N>((const S*)a.x + r * a.x_stride + h * N, x);
#pragma unroll
    for (int o = 0; o < N; o++) {
      db[o] += dy[o];
#pragma unroll
      for (int i = 0; i < N; i++) {
        dw[o][i] = fmaf(dy[o], x[i], dw[o][i]);
        dx[i] = fmaf(w[o][i], dy[o], dx[i]);
      }
    }
    if (a.dx) store_unit<N>((S*)a.dx + r * a.dx_stride + h * N, dx);
  }
};

template <typename S, int N> DEVICE void small_backward(const HeadwiseBackwardPlan& p) {
  __shared__ float shared[block_threads];
  const auto& a = p.call;
  const Unit unit = unit_of(a, p.per_block);
  SmallBack<S, N> back = {};
  if (unit.active) {
    load_weights<N>(a.weight, unit.h, back.w);
    for (uint64_t r = unit.low + threadIdx.x / warp_size; r < unit.high; r += block_warps)
      back.row(a, unit.h, r);
  }
  const uint64_t first = unit.part * a.blocks + unit.h - threadIdx.x % warp_size;
  float* dw = (float*)p.weight_partial + first * N * N;
#pragma unroll
  for (int o = 0; o < N; o++)
#pragma unroll
    for (int i = 0; i < N; i++)
      add_warps(back.dw[o][i], shared, dw + o * N + i, N * N, unit.active);
  if (!a.dbias) return;
#pragma unroll
  for (int o = 0; o < N; o++)
    add_warps(back.db[o], shared, (float*)p.bias_partial + first * N + o, N, unit.active);
}

template <typename S> DEVICE void small_forward_of(const HeadwiseForwardPlan& p) {
  if (p.call.inputs == 4) return small_forward<S, 4>(p);
  if (p.call.inputs == 8) return small_forward<S, 8>(p);
  small_forward<S, 2>(p);
}

template <typename S> DEVICE void small_backward_of(const HeadwiseBackwardPlan& p) {
  if (p.call.inputs == 4) return small_backward<S, 4>(p);
  if (p.call.inputs == 8) return small_backward<S, 8>(p);
  small_backward<S, 2>(p);
}

constexpr int tile = 64, tile_depth = 16, tile_pad = 4;

/// One operand of a tile, [depth][index]; `index` counts rows of A or columns of B.
template <typename T>
DEVICE void load_operand(const T* from, uint64_t first, uint64_t count, uint64_t step,
                         uint64_t low, uint64_t high, uint64_t depth_step,
                         float (&to)[tile_depth][tile + tile_pad]) {
  // Neighbouring threads read along the dim whose elements are neighbours.
  const bool is_deep = depth_step == 1;
#pragma unroll
  for (int n = 0; n < tile * tile_depth / block_threads; n++) {
    const int item = n * block_threads + (int)threadIdx.x;
    const int d = is_deep ? item % tile_depth : item / tile;
    const int i = is_deep ? item / tile_depth : item % tile;
    const bool is_inside = first + i < count && low + d < high;
    to[d][i] = is_inside ? to_float(from[(first + i) * step + (low + d) * depth_step]) : 0.f;
  }
}

/// C[m, n] = Σ_k A[m, k]·B[k, n] (+ bias[n]) for one block h and one range of k. With `sums`, also
/// Σ_k A[m, k].
template <typename SA, typename SB, typename SC> DEVICE void product(const HeadwiseProduct& a) {
  __shared__ float left[tile_depth][tile + tile_pad];
  __shared__ float right[tile_depth][tile + tile_pad];
  const uint64_t tiles_m = (a.m + tile - 1) / tile, tiles_n = (a.n + tile - 1) / tile;
  uint64_t rest = blockIdx.x;
  const uint64_t n0 = rest % tiles_n * tile, h = (rest /= tiles_n) % a.blocks;
  const uint64_t m0 = (rest /= a.blocks) % tiles_m * tile, part = rest / tiles_m;
  const uint64_t low = part * a.share, high = low + a.share < a.k ? low + a.share : a.k;
  const int tm = (int)threadIdx.x / 16 * 4, tn = (int)threadIdx.x % 16 * 4;
  float sum[4][4] = {}, total[4] = {};
  for (uint64_t k = low; k < high; k += tile_depth) {
    __syncthreads();
    load_operand((const SA*)a.a + h * a.a_block, m0, a.m, a.a_row, k, high, a.a_depth, left);
    load_operand((const SB*)a.b + h * a.b_block, n0, a.n, a.b_column, k, high, a.b_depth, right);
    __syncthreads();
#pragma unroll
    for (int d = 0; d < tile_depth; d++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        total[i] += left[d][tm + i];
#pragma unroll
        for (int j = 0; j < 4; j++)
          sum[i][j] = fmaf(left[d][tm + i], right[d][tn + j], sum[i][j]);
      }
    }
  }
  SC* c = (SC*)a.c + part * a.c_part + h * a.c_block;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const uint64_t m = m0 + tm + i;
    if (m >= a.m) continue;
    if (a.sums && n0 + tn == 0) ((float*)a.sums)[(part * a.blocks + h) * a.m + m] = total[i];
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const uint64_t n = n0 + tn + j;
      if (n >= a.n) continue;
      const float bias = a.bias ? ((const float*)a.bias)[h * a.n + n] : 0.f;
      c[m * a.c_row + n] = from_float<SC>(sum[i][j] + bias);
    }
  }
}

}  // namespace headwise
