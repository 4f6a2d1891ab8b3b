// Forward passes of the norms for lines of any width and place. args/norm.zig: NormForward,
// HeadNormGateForward.
#pragma once
#include "norm_line.cuh"

namespace norms {

template <typename S, typename Args> DEVICE const S* input_of(const Args& a) {
  if constexpr (gated<Args>) {
    return (const S*)a.h;
  } else {
    return (const S*)a.x;
  }
}

/// One tile of x + residual, rounded to S: what is normalised is what `sum` holds.
template <typename S, int P>
DEVICE void add_residual(const NormForward& a, const Team& team, uint64_t at, uint64_t first,
                         uint64_t width, float (&x)[held<P>]) {
#pragma unroll
  for (int k = 0; k < held<P> / P; k++) {
    const uint64_t c = column<P>(team, first, k);
    if (c >= width) continue;
    float other[P];
    load_pack<P>((const S*)a.residual + at + c, other);
#pragma unroll
    for (int i = 0; i < P; i++) {
      other[i] = to_float(from_float<S>(x[k * P + i] + other[i]));
      x[k * P + i] = other[i];
    }
    store_pack<P>((S*)a.sum + at + c, other);
  }
}

template <typename S, int P, typename Args>
DEVICE void write_tile(const Args& a, const Team& team, uint64_t line, uint64_t first,
                       uint64_t width, float mean, float rstd, const float (&x)[held<P>]) {
  const uint64_t row = line / a.groups, group = line - row * a.groups;
#pragma unroll
  for (int k = 0; k < held<P> / P; k++) {
    const uint64_t c = column<P>(team, first, k);
    if (c >= width) continue;
    float g[P], b[P], y[P];
    load_gain<P>(a.scale, group * a.width + c, (float)a.scale_offset, g);
    load_bias<P>(a.bias, group * a.width + c, b);
#pragma unroll
    for (int i = 0; i < P; i++) y[i] = fmaf((x[k * P + i] - mean) * rstd, g[i], b[i]);
    if constexpr (gated<Args>) {
      float o[P];
      load_pack<P>((const S*)a.o + row * a.o_stride + group * a.width + c, o);
#pragma unroll
      for (int i = 0; i < P; i++) y[i] *= gates(o[i]).open;
    }
    store_pack<P>((S*)a.y + line * a.width + c, y);
  }
}

/// Two passes for the statistics, a third for y. Teams beyond the last line have an empty one.
template <typename S, int P, typename Args>
DEVICE void forward_line(const Args& a, const Team& team, uint64_t line, float* scratch) {
  const bool active = line < a.rows * a.groups;
  const uint64_t width = active ? a.width : 0, at = line * a.width, step = tile_width<P>(team);
  const bool fits = a.width <= step;
  const S* source = input_of<S>(a) + at;
  float x[held<P>], total = 0, squares = 0;
  for (uint64_t first = 0; first < a.width; first += step) {
    load_tile<P>(team, source, first, width, 0.f, x);
    if constexpr (!gated<Args>) {
      if (a.residual) add_residual<S, P>(a, team, at, first, width, x);
    }
#pragma unroll
    for (int i = 0; i < held<P>; i++) total += x[i];
  }
  if constexpr (!gated<Args>) {
    if (a.residual) source = (const S*)a.sum + at;
  }
  const float mean = a.center ? team_sum(team, total, scratch) / (float)a.width : 0.f;
  for (uint64_t first = 0; first < a.width; first += step) {
    // Zeros past the end of the line would not stay zeros.
    if (!fits) load_tile<P>(team, source, first, width, mean, x);
#pragma unroll
    for (int i = 0; i < held<P>; i++) {
      const float d = column<P>(team, first, i / P) < width ? x[i] - mean : 0.f;
      squares = fmaf(d, d, squares);
    }
  }
  const float variance = team_sum(team, squares, scratch) / (float)a.width;
  const float rstd = 1.f / sqrtf(variance + (float)a.eps);
  if (active && team.rank == 0) {
    if (a.mean) ((float*)a.mean)[line] = mean;
    if (a.rstd) ((float*)a.rstd)[line] = rstd;
  }
  for (uint64_t first = 0; first < a.width; first += step) {
    if (!fits) load_tile<P>(team, source, first, width, 0.f, x);
    write_tile<S, P>(a, team, line, first, width, mean, rstd, x);
  }
}

template <typename S, typename Args> DEVICE bool packs(const Args& a) {
  bool yes = a.width % pack_width<S> == 0 && aligned(input_of<S>(a)) && aligned(a.y);
  yes = yes && aligned(a.scale) && aligned(a.bias);
  if constexpr (gated<Args>) {
    return yes && aligned(a.o) && a.o_stride % pack_width<S> == 0;
  } else {
    return yes && aligned(a.residual) && aligned(a.sum);
  }
}

template <typename S, int P, typename Args>
DEVICE void forward_lines(const Args& a, float* scratch) {
  const Team team = team_of<P>(a.width);
  const uint64_t lines = a.rows * a.groups, step = (uint64_t)gridDim.x * team.count;
  // The bound is that of the block's first team: all threads meet at the sums.
  for (uint64_t base = (uint64_t)blockIdx.x * team.count; base < lines; base += step)
    forward_line<S, P>(a, team, base + team.number, scratch);
}

template <typename S, typename Args> DEVICE void forward(const Args& a) {
  __shared__ float scratch[warp_size];
  if (packs<S>(a)) {
    forward_lines<S, pack_width<S>>(a, scratch);
  } else {
    forward_lines<S, 1>(a, scratch);
  }
}

}  // namespace norms
