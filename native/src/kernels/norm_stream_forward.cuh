// Forward passes of the norms for lines that fit registers. norm_stream.cuh
#pragma once
#include "norm_stream.cuh"

namespace norms {

template <typename S, int V, typename Args> struct StreamForward {
  static constexpr int P = pack_width<S>, N = V / P, warps = stream_warps<V>;
  static constexpr int depth = stages<N>;
  const Args& a;
  const Course& course;
  Ring<S, 2, V> ring;
  float* scratch;
  float share;  // 1/width
  float gain[V], bias[V];
  int turn;

  DEVICE void ask(uint64_t base, int stage) const {
    const uint64_t row = base + course.offset;
    if (row >= a.rows) return;
    const uint64_t at = (row * a.groups + course.group) * a.width;
    ring.ask(course.team, (int)a.width, stage, 0, input_of<S>(a) + at);
    if constexpr (gated<Args>) {
      const S* o = (const S*)a.o + row * a.o_stride + course.group * a.width;
      ring.ask(course.team, (int)a.width, stage, 1, o);
    } else {
      if (a.residual) ring.ask(course.team, (int)a.width, stage, 1, (const S*)a.residual + at);
    }
  }

  /// The line, with its residual: what is normalised is what `sum` holds, rounded to S.
  DEVICE void take(int stage, uint64_t at, int width, float (&x)[V]) const {
#pragma unroll
    for (int k = 0; k < N; k++) {
      const int c = own_column<P>(course.team, k);
      float pack[P] = {};
      if (c < width) {
        load_pack<P>(ring.at(stage, 0, k), pack);
        if constexpr (!gated<Args>) {
          if (a.residual) {
            float other[P];
            load_pack<P>(ring.at(stage, 1, k), other);
#pragma unroll
            for (int i = 0; i < P; i++) pack[i] = to_float(from_float<S>(pack[i] + other[i]));
            store_pack<P>((S*)a.sum + at + c, pack);
          }
        }
      }
#pragma unroll
      for (int i = 0; i < P; i++) x[k * P + i] = pack[i];
    }
  }

  DEVICE float mean_of(const float (&x)[V]) {
    float total[1] = {};
#pragma unroll
    for (int i = 0; i < V; i++) total[0] += x[i];
    line_sums<1, warps>(course.team, total, scratch, turn);
    return total[0] * share;
  }

  DEVICE float rstd_of(const float (&x)[V], float mean, int width) {
    float squares[1] = {};
#pragma unroll
    for (int i = 0; i < V; i++) {
      // Zeros past the end of the line would not stay zeros.
      const float d = own_column<P>(course.team, i / P) < width ? x[i] - mean : 0.f;
      squares[0] = fmaf(d, d, squares[0]);
    }
    line_sums<1, warps>(course.team, squares, scratch, turn);
    return 1.f / sqrtf(fmaf(squares[0], share, (float)a.eps));
  }

  DEVICE void line(uint64_t base, int stage) {
    const uint64_t row = base + course.offset, index = row * a.groups + course.group;
    const uint64_t at = index * a.width;
    const int width = row < a.rows ? (int)a.width : 0;
    float x[V];
    take(stage, at, width, x);
    const float mean = a.center ? mean_of(x) : 0.f, rstd = rstd_of(x, mean, width);
    if (course.team.rank == 0 && width) {
      if (a.mean) ((float*)a.mean)[index] = mean;
      if (a.rstd) ((float*)a.rstd)[index] = rstd;
    }
#pragma unroll
    for (int k = 0; k < N; k++) {
      const int c = own_column<P>(course.team, k);
      if (c >= width) continue;
      float y[P];
#pragma unroll
      for (int i = 0; i < P; i++) {
        const int e = k * P + i;
        y[i] = fmaf((x[e] - mean) * rstd, gain[e], bias[e]);
      }
      if constexpr (gated<Args>) {
        float o[P];
        load_pack<P>(ring.at(stage, 1, k), o);
#pragma unroll
        for (int i = 0; i < P; i++) y[i] *= gates(o[i]).open;
      }
      store_pack<P>((S*)a.y + at + c, y);
    }
  }
};

template <typename S, int V, typename Args> DEVICE void stream_forward(const Args& a) {
  SHARED(unsigned char, places);
  __shared__ __align__(16) float scratch[scratch_size<V>];
  clear_scratch<V>(scratch);
  const Course course = course_of<V>((int)a.width, (uint32_t)a.groups);
  const float share = 1.f / (float)a.width;
  StreamForward<S, V, Args> work = {a, course, Ring<S, 2, V>(places), scratch, share, {}, {}, 0};
  load_parameters<S, V>(a, course, work.gain, work.bias);
  const uint64_t blocks = gridDim.x / course.chunks;
  stream(work, (uint64_t)course.block * course.step, a.rows, blocks * course.step);
}

}  // namespace norms
