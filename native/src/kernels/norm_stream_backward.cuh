// Backward passes of the norms for lines that fit registers. norm_stream.cuh
//
// A block owns a fixed range of rows, so the parameters' gradients are sums in registers; the block
// adds those of its teams in order into one row of partials, and `partial_sum` adds the rows.
#pragma once
#include "norm_stream.cuh"

namespace norms {

/// Inputs by their place in the ring.
enum Input { slope_input, line_input, other_input, inputs };

template <typename S, int V, typename Args> struct StreamBackward {
  static constexpr int P = pack_width<S>, N = V / P, warps = stream_warps<V>;
  static constexpr int depth = stages<N>;
  const Args& a;
  const Course& course;
  Ring<S, inputs, V> ring;
  float* scratch;
  float share;    // 1/width
  uint64_t high;  // end of the block's rows
  float gain[V], bias[V];
  float scale_sum[V], bias_sum[V];  // over the rows: dy∘x̂ and dy, through the gate if there is one
  float next_mean, next_rstd;
  int turn;

  DEVICE void ask(uint64_t base, int stage) const {
    const uint64_t row = base + course.offset;
    if (row >= high) return;
    const int width = (int)a.width;
    const uint64_t at = (row * a.groups + course.group) * width;
    ring.ask(course.team, width, stage, slope_input, (const S*)a.dy + at);
    ring.ask(course.team, width, stage, line_input, input_of<S>(a) + at);
    if constexpr (gated<Args>) {
      const S* o = (const S*)a.o + row * a.o_stride + course.group * width;
      ring.ask(course.team, width, stage, other_input, o);
    } else {
      if (a.dsum) ring.ask(course.team, width, stage, other_input, (const S*)a.dsum + at);
    }
  }

  /// Statistics of the row that comes next: known by the time it is needed.
  DEVICE void look_ahead(uint64_t base) {
    const uint64_t row = base + course.offset, index = row * a.groups + course.group;
    if (row >= high) return;
    if (a.center) next_mean = ((const float*)a.mean)[index];
    next_rstd = ((const float*)a.rstd)[index];
  }

  DEVICE void hats(int stage, int k, float mean, float rstd, float (&hat)[P]) const {
    load_pack<P>(ring.at(stage, line_input, k), hat);
#pragma unroll
    for (int i = 0; i < P; i++) hat[i] = (hat[i] - mean) * rstd;
  }

  /// d becomes dy∘σ(o); writes the gate's gradient.
  DEVICE void through_gate(int stage, int k, uint64_t row, int c, const float (&hat)[P],
                           float (&d)[P]) const {
    float o[P];
    load_pack<P>(ring.at(stage, other_input, k), o);
#pragma unroll
    for (int i = 0; i < P; i++) {
      const Gates gate = gates(o[i]);
      d[i] *= gate.open;
      o[i] = d[i] * gate.shut * fmaf(hat[i], gain[k * P + i], bias[k * P + i]);
    }
    store_pack<P>((S*)a.do_ + row * a.do_stride + course.group * a.width + c, o);
  }

  DEVICE void line(uint64_t base, int stage) {
    const uint64_t row = base + course.offset, index = row * a.groups + course.group;
    const int width = row < high ? (int)a.width : 0;
    const float mean = next_mean, rstd = next_rstd;
    look_ahead(base + course.step);
    float slope[V], sums[2] = {};
#pragma unroll
    for (int k = 0; k < N; k++) {
      const int c = own_column<P>(course.team, k);
#pragma unroll
      for (int i = 0; i < P; i++) slope[k * P + i] = 0;
      if (c >= width) continue;
      float d[P], hat[P];
      load_pack<P>(ring.at(stage, slope_input, k), d);
      hats(stage, k, mean, rstd, hat);
      if constexpr (gated<Args>) through_gate(stage, k, row, c, hat, d);
#pragma unroll
      for (int i = 0; i < P; i++) {
        const int e = k * P + i;
        slope[e] = d[i] * gain[e];
        scale_sum[e] = fmaf(d[i], hat[i], scale_sum[e]);
        bias_sum[e] += d[i];
        sums[0] += slope[e];
        sums[1] = fmaf(slope[e], hat[i], sums[1]);
      }
    }
    line_sums<2, warps>(course.team, sums, scratch, turn);
    if constexpr (gated<Args>) {
      if (a.inner && course.team.rank == 0 && width)
        ((float*)a.inner)[index] = sums[1] * (float)a.eps * rstd * rstd;
    }
    write(stage, index * a.width, width, mean, rstd, a.center ? sums[0] * share : 0.f,
          sums[1] * share, slope);
  }

  DEVICE void write(int stage, uint64_t at, int width, float mean, float rstd,
                    float mean_slope, float mean_product, const float (&slope)[V]) const {
#pragma unroll
    for (int k = 0; k < N; k++) {
      const int c = own_column<P>(course.team, k);
      if (c >= width) continue;
      float dx[P];
      hats(stage, k, mean, rstd, dx);
#pragma unroll
      for (int i = 0; i < P; i++)
        dx[i] = rstd * (slope[k * P + i] - mean_slope - dx[i] * mean_product);
      if constexpr (gated<Args>) {
        store_pack<P>((S*)a.dh + at + c, dx);
      } else {
        float more[P] = {};
        if (a.dsum) load_pack<P>(ring.at(stage, other_input, k), more);
#pragma unroll
        for (int i = 0; i < P; i++) dx[i] += more[i];
        store_pack<P>((S*)a.dx + at + c, dx);
      }
    }
  }
};

/// One parameter's sums of the teams that share a group, in their order; `out` is the first column
/// of the block's groups. `shared` holds V floats for every thread.
template <int P, int V>
DEVICE void add_course(const Course& course, int width, const float (&sums)[V], float* shared,
                       float* out) {
  const Team& team = course.team;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < V; i++) {
    const int c = own_column<P>(team, i / P) + i % P;
    if (c < width) shared[team.number * width + c] = sums[i];
  }
  __syncthreads();
  const int columns = (int)course.span * width, teams = (int)course.step;
  for (int c = (int)threadIdx.x; c < columns; c += (int)blockDim.x) {
    float total = 0;
    for (int i = 0; i < teams; i++) total += shared[i * columns + c];
    out[c] = total;
  }
}

template <typename S, int V, typename Plan> DEVICE void stream_backward(const Plan& p) {
  SHARED(unsigned char, places);
  __shared__ __align__(16) float scratch[scratch_size<V>];
  clear_scratch<V>(scratch);
  using Args = decltype(p.call);
  constexpr int P = pack_width<S>;
  const auto& a = p.call;
  const Course course = course_of<V>((int)a.width, (uint32_t)a.groups);
  const uint64_t low = (uint64_t)course.block * p.per_block;
  const uint64_t high = low + p.per_block < a.rows ? low + p.per_block : a.rows;
  const float share = 1.f / (float)a.width;
  StreamBackward<S, V, Args> work = {
    a, course, Ring<S, inputs, V>(places), scratch, share, high, {}, {}, {}, {}, 0.f, 0.f, 0};
  load_parameters<S, V>(a, course, work.gain, work.bias);
  work.look_ahead(low);
  stream(work, low, high, course.step);
  const uint64_t columns = course.span * a.width;
  const uint64_t at = ((uint64_t)course.block * course.chunks + course.chunk) * columns;
  float *shared = (float*)places, *scale = (float*)p.scale_partial + at;
  float* bias = (float*)p.bias_partial + at;
  if (a.dscale) add_course<P>(course, (int)a.width, work.scale_sum, shared, scale);
  if (a.dbias) add_course<P>(course, (int)a.width, work.bias_sum, shared, bias);
}

}  // namespace norms
