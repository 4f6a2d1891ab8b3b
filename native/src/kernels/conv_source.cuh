// Where the taps of a causal convolution read. Extended positions: e < K − 1 are the rows of the
// state, token t is e = t + K − 1. Token t reads e = t … t + K − 1, of which a border at p <= t
// hides those below p + K − 1.
#pragma once
#include "common.cuh"

namespace conv {

/// The inputs of one batch row.
template <typename S> struct Source {
  const S* x;              // the first token
  const S* state;          // [K − 1, C] or null
  const uint8_t* borders;  // [T] or null
  uint64_t stride, channels;
  int64_t taps, length;  // length: tokens of this row that count

  /// `a` has the fields of ConvForward or ConvBackward.
  template <typename Args>
  DEVICE Source(const Args& a, uint64_t row)
      : x((const S*)a.x + row * a.length * a.x_stride),
        state(a.state ? (const S*)a.state + row * (a.taps - 1) * a.channels : nullptr),
        borders(a.borders ? (const uint8_t*)a.borders + row * a.length : nullptr),
        stride(a.x_stride),
        channels(a.channels),
        taps((int64_t)a.taps),
        length(a.lengths ? ((const int*)a.lengths)[row] : (int64_t)a.length) {}

  template <int V> DEVICE void load(int64_t e, uint64_t channel, float (&to)[V]) const {
    if (e >= taps - 1) return load_pack<V>(x + (uint64_t)(e - taps + 1) * stride + channel, to);
    if (state) return load_pack<V>(state + (uint64_t)e * channels + channel, to);
#pragma unroll
    for (int i = 0; i < V; i++) to[i] = 0;
  }

  DEVICE bool is_border(int64_t t) const { return borders && borders[t] != 0; }

  /// Whether a border after the token of position e, up to token t, cuts e off from t.
  DEVICE bool is_cut(int64_t e, int64_t t) const {
    if (!borders) return false;
    const int64_t token = e - (taps - 1);
    for (int64_t p = token + 1 > 0 ? token + 1 : 0; p <= t; p++)
      if (borders[p]) return true;
    return false;
  }

  /// Of the K − 1 tokens before t, those that no border hides from t; K where there is none.
  DEVICE int visible_before(int64_t t) const {
    for (int64_t back = 1; back < taps && back <= t; back++)
      if (is_border(t - back)) return (int)back;
    return (int)taps;
  }
};

DEVICE float silu_slope(float u) {
  const float e = expf(-fabsf(u)), large = 1.f / (1.f + e), small = e * large;
  return (u < 0 ? small : large) * fmaf(u, u < 0 ? large : small, 1.f);
}

}  // namespace conv
