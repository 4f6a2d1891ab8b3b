// Backward passes of the norms for lines of any width and place. A block owns a fixed range of rows
// of one group. A thread meets the same columns in every row, so the parameters' gradients are sums
// in its registers; the block adds those of its teams in order into one row of partials, and
// `partial_sum` adds the rows.
#pragma once
#include "norm_forward.cuh"

namespace norms {

/// The line that a team works on.
struct Line {
  uint64_t row, group, at, width;  // at: its first element; width: 0 past the last row
  float mean, rstd;
  bool fits;   // its slopes stay in registers between the passes
  bool fresh;  // the first one of its block
};

/// Sums over the rows of dy∘x̂ and dy (through the gate, where there is one).
template <int P> struct Sums {
  float scale[held<P>], bias[held<P>];
};

/// Lines too long for registers collect in memory; a column has one thread, so the order is fixed.
template <int P>
DEVICE void collect(void* partial, const Line& line, uint64_t at, const float (&more)[P]) {
  float* to = (float*)partial + at;
#pragma unroll
  for (int i = 0; i < P; i++) to[i] = line.fresh ? more[i] : to[i] + more[i];
}

/// Slope a and x̂ of one tile. The first visit also collects the parameters' sums; the last one
/// writes the gate's gradient, since that may replace the gate.
template <typename S, int P, typename Plan>
DEVICE void visit(const Plan& p, const Team& team, const Line& line, uint64_t first, bool again,
                  Sums<P>& sums, float (&slope)[held<P>], float (&hat)[held<P>]) {
  const auto& a = p.call;
  using Args = decltype(p.call);
  const uint64_t columns = a.groups * a.width, block = blockIdx.x / a.groups;
#pragma unroll
  for (int k = 0; k < held<P> / P; k++) {
    const uint64_t c = column<P>(team, first, k), place = line.group * a.width + c;
#pragma unroll
    for (int i = 0; i < P; i++) slope[k * P + i] = hat[k * P + i] = 0;
    if (c >= line.width) continue;
    float d[P], x[P], g[P], product[P];
    load_pack<P>((const S*)a.dy + line.at + c, d);
    load_pack<P>(input_of<S>(a) + line.at + c, x);
    load_gain<P>(a.scale, place, (float)a.scale_offset, g);
#pragma unroll
    for (int i = 0; i < P; i++) x[i] = (x[i] - line.mean) * line.rstd;
    if constexpr (gated<Args>) {
      float o[P], b[P];
      load_pack<P>((const S*)a.o + line.row * a.o_stride + place, o);
      load_bias<P>(a.bias, place, b);
#pragma unroll
      for (int i = 0; i < P; i++) {
        const Gates gate = gates(o[i]);
        d[i] *= gate.open;
        o[i] = d[i] * gate.shut * fmaf(x[i], g[i], b[i]);
      }
      if (again || line.fits)
        store_pack<P>((S*)a.do_ + line.row * a.do_stride + place, o);
    }
#pragma unroll
    for (int i = 0; i < P; i++) {
      hat[k * P + i] = x[i];
      slope[k * P + i] = d[i] * g[i];
      product[i] = d[i] * x[i];
      if (line.fits) {
        sums.scale[k * P + i] += product[i];
        sums.bias[k * P + i] += d[i];
      }
    }
    if (line.fits || again) continue;
    if (a.dscale) collect<P>(p.scale_partial, line, block * columns + place, product);
    if (a.dbias) collect<P>(p.bias_partial, line, block * columns + place, d);
  }
}

template <typename S, int P, typename Args>
DEVICE void write_gradient(const Args& a, const Team& team, const Line& line, uint64_t first,
                           float mean_slope, float mean_product, const float (&slope)[held<P>],
                           const float (&hat)[held<P>]) {
#pragma unroll
  for (int k = 0; k < held<P> / P; k++) {
    const uint64_t c = column<P>(team, first, k);
    if (c >= line.width) continue;
    float dx[P];
#pragma unroll
    for (int i = 0; i < P; i++) {
      const int e = k * P + i;
      dx[i] = line.rstd * (slope[e] - mean_slope - hat[e] * mean_product);
    }
    if constexpr (gated<Args>) {
      store_pack<P>((S*)a.dh + line.at + c, dx);
    } else {
      float more[P] = {};
      if (a.dsum) load_pack<P>((const S*)a.dsum + line.at + c, more);
#pragma unroll
      for (int i = 0; i < P; i++) dx[i] += more[i];
      store_pack<P>((S*)a.dx + line.at + c, dx);
    }
  }
}

template <typename S, int P, typename Plan>
DEVICE void backward_line(const Plan& p, const Team& team, const Line& line, Sums<P>& sums,
                          float* scratch) {
  const auto& a = p.call;
  using Args = decltype(p.call);
  const uint64_t step = tile_width<P>(team);
  float slope[held<P>], hat[held<P>], total = 0, product = 0;
  for (uint64_t first = 0; first < a.width; first += step) {
    visit<S, P>(p, team, line, first, false, sums, slope, hat);
#pragma unroll
    for (int i = 0; i < held<P>; i++) {
      total += slope[i];
      product = fmaf(slope[i], hat[i], product);
    }
  }
  if (a.center) total = team_sum(team, total, scratch);
  product = team_sum(team, product, scratch);
  if constexpr (gated<Args>) {
    if (a.inner && team.rank == 0 && line.width)
      ((float*)a.inner)[line.row * a.groups + line.group] =
          product * (float)a.eps * line.rstd * line.rstd;
  }
  const float width = (float)a.width, mean_slope = a.center ? total / width : 0.f;
  for (uint64_t first = 0; first < a.width; first += step) {
    if (!line.fits) visit<S, P>(p, team, line, first, true, sums, slope, hat);
    write_gradient<S, P>(a, team, line, first, mean_slope, product / width, slope, hat);
  }
}

/// The teams' sums of one parameter, added in the order of the teams. `shared` holds the columns
/// of every team: at most threads·held floats.
template <int P>
DEVICE void add_teams(const Team& team, uint64_t width, const float (&sums)[held<P>], float* shared,
                      float* out) {
  __syncthreads();
#pragma unroll
  for (int i = 0; i < held<P>; i++) {
    const uint64_t c = column<P>(team, 0, i / P) + i % P;
    if (c < width) shared[team.number * width + c] = sums[i];
  }
  __syncthreads();
  for (uint64_t c = threadIdx.x; c < width; c += blockDim.x) {
    float total = 0;
    for (int t = 0; t < team.count; t++) total += shared[t * width + c];
    out[c] = total;
  }
}

template <typename S, int P, typename Plan>
DEVICE void backward_rows(const Plan& p, float* scratch, float* shared) {
  const auto& a = p.call;
  const Team team = team_of<P>(a.width);
  const uint64_t block = blockIdx.x / a.groups, group = blockIdx.x % a.groups;
  const uint64_t low = block * p.per_block, columns = a.groups * a.width;
  const uint64_t high = low + p.per_block < a.rows ? low + p.per_block : a.rows;
  const bool fits = a.width <= tile_width<P>(team);
  Sums<P> sums;
#pragma unroll
  for (int i = 0; i < held<P>; i++) sums.scale[i] = sums.bias[i] = 0;
  for (uint64_t base = low; base < high; base += team.count) {
    const uint64_t row = base + team.number, index = row * a.groups + group;
    Line line = {row, group, index * a.width, 0, 0.f, 0.f, fits, base == low};
    if (row < high) {
      line.width = a.width;
      if (a.center) line.mean = ((const float*)a.mean)[index];
      line.rstd = ((const float*)a.rstd)[index];
    }
    backward_line<S, P>(p, team, line, sums, scratch);
  }
  if (!fits) return;
  const uint64_t at = block * columns + group * a.width;
  if (a.dscale) add_teams<P>(team, a.width, sums.scale, shared, (float*)p.scale_partial + at);
  if (a.dbias) add_teams<P>(team, a.width, sums.bias, shared, (float*)p.bias_partial + at);
}

template <typename S, typename Args> DEVICE bool backward_packs(const Args& a) {
  constexpr int P = pack_width<S>;
  const bool yes = a.width % P == 0 && aligned(input_of<S>(a)) && aligned(a.dy) && aligned(a.scale);
  if constexpr (gated<Args>) {
    return yes && aligned(a.o) && aligned(a.do_) && aligned(a.dh) && aligned(a.bias) &&
           a.o_stride % P == 0 && a.do_stride % P == 0;
  } else {
    return yes && aligned(a.dx) && aligned(a.dsum);
  }
}

template <typename S, typename Plan> DEVICE void backward(const Plan& p) {
  __shared__ float scratch[warp_size];
  __shared__ float shared[block_threads * held<pack_width<S>>];
  if (backward_packs<S>(p.call)) {
    backward_rows<S, pack_width<S>>(p, scratch, shared);
  } else {
    backward_rows<S, 1>(p, scratch, shared);
  }
}

}  // namespace norms
