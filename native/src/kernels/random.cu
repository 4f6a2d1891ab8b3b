// Kernels of args/random.zig: Philox4x32-10 counters, one per thread and step, four words each.
//
//     bits       x                                       x = word e & 3 of counter e>>2
//     uniform    low + (high − low)·(x>>8)·2⁻²⁴
//     normal     mean + std·√(−2 ln u₁)·(cos, sin)(2πu₂), u = (x + ½)·2⁻³², pairs (0,1), (2,3)
//     truncated  mean + std·Φ⁻¹(½ + (u − ½)·(2Φ(2) − 1))
//     dropout    x/keep where word f & 3 of counter (f>>2, position, sample, 0) < ⌊keep·2³²⌋
// y [count] = elements first … first + count − 1 of an endless tensor. Floor: the output once;
// about 100 integer and (normal) 150 f64 operations per counter. Same bits as cpu/random*.zig,
// equal to reference/random.zig.
#include "random_exact.cuh"
#include "random_sample.cuh"

template <typename S> DEVICE S rounded(Real x) { return from_float<S>((float)x.x); }

/// y ← the four values that `f` makes of each counter's words.
template <typename S, typename A, typename F> DEVICE void generate_words(const A& a, const F& f) {
  S* y = static_cast<S*>(a.y);
  const uint64_t first = a.first, last = first + a.count;
  const uint64_t begin = first / 4, groups = (last - 1) / 4 - begin + 1;
  // Only a first element at a multiple of four leaves the packs aligned.
  const bool packed = first % 4 == 0 && is_aligned(y);
  for (uint64_t i = grid_thread(); i < groups; i += grid_threads()) {
    const uint64_t group = begin + i;
    const Words words =
        philox((uint32_t)group, (uint32_t)(group >> 32), 0, 0, a.key_low, a.key_high);
    Pack<S, 4> out;
    f(words, out.at);
    if (packed && 4 * group + 4 <= last) {
      *reinterpret_cast<Pack<S, 4>*>(y + (4 * group - first)) = out;
      continue;
    }
#pragma unroll
    for (int k = 0; k < 4; k++) {
      const uint64_t e = 4 * group + k;
      if (e >= first && e < last) y[e - first] = out.at[k];
    }
  }
}

struct Raw {
  DEVICE void operator()(const Words& words, uint32_t (&out)[4]) const {
#pragma unroll
    for (int k = 0; k < 4; k++) out[k] = words.at[k];
  }
};

template <typename S> struct Uniform {
  Real low, width;
  DEVICE void operator()(const Words& words, S (&out)[4]) const {
#pragma unroll
    for (int k = 0; k < 4; k++) {
      const Real unit = real((double)(words.at[k] >> 8)) * real(5.9604644775390625e-08);
      out[k] = rounded<S>(low + width * unit);
    }
  }
};

template <typename S> struct Normals {
  Real mean, deviation;
  DEVICE void operator()(const Words& words, S (&out)[4]) const {
#pragma unroll
    for (int k = 0; k < 4; k += 2) {
      const Real radius = real(sqrt((real(-2.0) * exact_ln(inside(words.at[k]))).x));
      const Turned turned = cos_sin_turns(inside(words.at[k + 1]));
      out[k] = rounded<S>(mean + deviation * (radius * turned.cosine));
      out[k + 1] = rounded<S>(mean + deviation * (radius * turned.sine));
    }
  }
};

template <typename S> struct Truncated {
  Real mean, deviation;
  DEVICE void operator()(const Words& words, S (&out)[4]) const {
#pragma unroll
    for (int k = 0; k < 4; k++) {
      // 2Φ(2) − 1: the probability between −2 and 2.
      const Real q = (inside(words.at[k]) - real(0.5)) * real(0.95449973610364158560);
      const double z = inverse_normal(q).x, cut = z < -2.0 ? -2.0 : z > 2.0 ? 2.0 : z;
      out[k] = rounded<S>(mean + deviation * real(cut));
    }
  }
};

template <typename S> DEVICE void uniform(const RandomUniform& a) {
  generate_words<S>(a, Uniform<S>{real(a.low), real(a.high) - real(a.low)});
}

KERNEL(256, random_bits, RandomBits) { generate_words<uint32_t>(a, Raw{}); }
KERNEL(256, random_uniform_f32, RandomUniform) { uniform<float>(a); }
KERNEL(256, random_uniform_bf16, RandomUniform) { uniform<bf16>(a); }
KERNEL(256, random_normal_f32, RandomNormal) {
  generate_words<float>(a, Normals<float>{real(a.mean), real(a.std)});
}
KERNEL(256, random_normal_bf16, RandomNormal) {
  generate_words<bf16>(a, Normals<bf16>{real(a.mean), real(a.std)});
}
KERNEL(256, random_truncated_f32, RandomTruncatedNormal) {
  generate_words<float>(a, Truncated<float>{real(a.mean), real(a.std)});
}
KERNEL(256, random_truncated_bf16, RandomTruncatedNormal) {
  generate_words<bf16>(a, Truncated<bf16>{real(a.mean), real(a.std)});
}

/// A thread takes the four features of a counter.
template <typename S> DEVICE void dropout(const DropoutForward& a) {
  const S* x = static_cast<const S*>(a.x);
  S* y = static_cast<S*>(a.y);
  // 2³² for keep = 1: one more than any word, hence 64 bits.
  const uint64_t threshold = (uint64_t)floor(a.keep * 4294967296.0);
  const float scale = (float)(1.0 / a.keep);
  const uint64_t last = a.first_feature + a.features, begin = a.first_feature / 4;
  const uint64_t groups = (last - 1) / 4 - begin + 1, rows = a.samples * a.positions;
  const bool packed = (a.first_feature | a.features) % 4 == 0 && is_aligned(x) && is_aligned(y);
  for (uint64_t i = grid_thread(); i < rows * groups; i += grid_threads()) {
    const uint64_t row = quotient(i, groups), group = begin + (i - row * groups);
    const uint64_t sample = quotient(row, a.positions);
    const uint32_t position = (uint32_t)(a.first_position + row - sample * a.positions);
    const Words words = philox((uint32_t)group, position, (uint32_t)(a.first_sample + sample), 0,
                               a.key_low, a.key_high);
    const uint64_t base = row * a.features, feature = 4 * group;
    if (packed) {
      float values[4];
      load_pack(x + base + feature - a.first_feature, values);
#pragma unroll
      for (int k = 0; k < 4; k++) values[k] = words.at[k] < threshold ? values[k] * scale : 0.f;
      store_pack(y + base + feature - a.first_feature, values);
      continue;
    }
#pragma unroll
    for (int k = 0; k < 4; k++) {
      if (feature + k < a.first_feature || feature + k >= last) continue;
      const uint64_t at = base + feature + k - a.first_feature;
      y[at] = from_float<S>(words.at[k] < threshold ? to_float(x[at]) * scale : 0.f);
    }
  }
}

KERNEL(256, dropout_f32, DropoutForward) { dropout<float>(a); }
KERNEL(256, dropout_bf16, DropoutForward) { dropout<bf16>(a); }

KERNEL(1024, categorical_sample_f32, SamplePlan) { categorical_sample<float>(a); }
KERNEL(1024, categorical_sample_bf16, SamplePlan) { categorical_sample<bf16>(a); }
