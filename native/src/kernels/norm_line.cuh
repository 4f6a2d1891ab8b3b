// A line (one row of one group) and the threads that share it. Narrow lines belong to a part of a
// warp, wide ones to the block; what a thread reads of its line stays in its registers as long as
// the line fits.
#pragma once
#include "common.cuh"

namespace norms {

constexpr int block_threads = 256;
/// Elements of a line that a thread keeps; fewer where it loads them one by one.
template <int P> constexpr int held = P == 1 ? 8 : 32;

struct Team {
  int size;    // a power of two up to a warp, or the block
  int rank;    // of this thread in its team
  int number;  // of the team in its block
  int count;   // teams in the block
};

/// The smallest team whose threads have work at every pack they hold.
template <int P> DEVICE Team team_of(uint64_t width) {
  int size = 1;
  if (width > warp_size * held<P>) {
    size = blockDim.x;
  } else {
    while (size < warp_size && (uint64_t)size * P < width) size *= 2;
  }
  const int thread = threadIdx.x, threads = blockDim.x;
  return {size, thread % size, thread / size, threads / size};
}

/// Every thread of the team gets the sum. All threads of the block call.
DEVICE float team_sum(const Team& team, float x, float* scratch) {
  if (team.size > warp_size) return block_sum(x, scratch);
  for (int step = team.size / 2; step > 0; step /= 2) x += __shfl_xor_sync(full_mask, x, step);
  return x;
}

DEVICE float team_max(const Team& team, float x, float* scratch) {
  if (team.size > warp_size) return block_max(x, scratch);
  for (int step = team.size / 2; step > 0; step /= 2)
    x = fmaxf(x, __shfl_xor_sync(full_mask, x, step));
  return x;
}

/// Elements that a team holds at once. A longer line is read again in every pass.
template <int P> DEVICE uint64_t tile_width(const Team& team) {
  return (uint64_t)team.size * held<P>;
}

/// Column of pack k of this thread in the tile that starts at `first`.
template <int P> DEVICE uint64_t column(const Team& team, uint64_t first, int k) {
  return first + (uint64_t)(k * team.size + team.rank) * P;
}

/// Elements past the end of the line become `rest`.
template <int P, typename S>
DEVICE void load_tile(const Team& team, const S* x, uint64_t first, uint64_t width, float rest,
                      float (&to)[held<P>]) {
#pragma unroll
  for (int k = 0; k < held<P> / P; k++) {
    const uint64_t c = column<P>(team, first, k);
    float pack[P];
#pragma unroll
    for (int i = 0; i < P; i++) pack[i] = rest;
    if (c < width) load_pack<P>(x + c, pack);
#pragma unroll
    for (int i = 0; i < P; i++) to[k * P + i] = pack[i];
  }
}

/// P floats in loads of 16 bytes: P of them may be wider than any load.
template <int P> DEVICE void load_floats(const float* from, float (&to)[P]) {
  constexpr int N = P < 4 ? P : 4;
#pragma unroll
  for (int i = 0; i < P; i += N) {
    float part[N];
    load_pack<N>(from + i, part);
#pragma unroll
    for (int j = 0; j < N; j++) to[i + j] = part[j];
  }
}

/// g = scale + offset, or 1 without a scale.
template <int P>
DEVICE void load_gain(const void* scale, uint64_t at, float offset, float (&g)[P]) {
#pragma unroll
  for (int i = 0; i < P; i++) g[i] = 1.f - offset;
  if (scale) load_floats<P>((const float*)scale + at, g);
#pragma unroll
  for (int i = 0; i < P; i++) g[i] = scale ? g[i] + offset : 1.f;
}

template <int P> DEVICE void load_bias(const void* bias, uint64_t at, float (&b)[P]) {
#pragma unroll
  for (int i = 0; i < P; i++) b[i] = 0;
  if (bias) load_floats<P>((const float*)bias + at, b);
}

DEVICE bool aligned(const void* p) { return is_aligned((const char*)p); }

struct Gates {
  float open, shut;  // σ(o), σ(−o)
};

/// 1/x of a number from 1 to 2, to within an ulp: a division would branch for the other numbers.
DEVICE float inverse(float x) {
  const float y = quick_inverse(x);
  return fmaf(y, fmaf(-x, y, 1.f), y);
}

/// Both from one exponential and one division, neither by a difference.
DEVICE Gates gates(float o) {
  const float e = expf(-fabsf(o)), large = inverse(1.f + e), small = e * large;
  return o < 0 ? Gates{small, large} : Gates{large, small};
}

/// Whether the kernel's arguments are those of the head norm with output gate.
template <typename Args> constexpr bool gated = false;
template <> constexpr bool gated<HeadNormGateForward> = true;
template <> constexpr bool gated<HeadNormGateBackward> = true;
/// Whether they hold a bias.
template <typename Args> constexpr bool has_bias = true;
template <> constexpr bool has_bias<NormBackward> = false;

}  // namespace norms
