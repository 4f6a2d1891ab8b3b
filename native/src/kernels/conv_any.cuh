// Causal convolution with any number of taps, element by element; the last inputs; one decoding
// step. The backward pass keeps du [B, T, C] in memory.
#pragma once
#include "conv_source.cuh"

namespace conv {

/// The sum u of token t, tap by tap.
template <typename S, typename Args>
DEVICE float sum_at(const Args& a, const Source<S>& source, int64_t t, uint64_t channel) {
  float u = a.bias ? ((const float*)a.bias)[channel] : 0.f;
  const float* w = (const float*)a.weight + channel * a.taps;
  const int visible = source.borders ? source.visible_before(t) : (int)source.taps;
  const int64_t seen = source.is_border(t) ? 1 : visible + 1;
  for (int64_t j = source.taps > seen ? source.taps - seen : 0; j < source.taps; j++) {
    float x[1];
    source.template load<1>(t + j, channel, x);
    u = fmaf(w[j], x[0], u);
  }
  return u;
}

/// Index i of [B, tokens, C] as row, position and channel.
struct At {
  uint64_t row, channel;
  int64_t position;

  DEVICE At(uint64_t i, uint64_t positions, uint64_t channels)
      : row(i / channels / positions),
        channel(i % channels),
        position((int64_t)(i / channels % positions)) {}
};

template <typename S> DEVICE void any_forward(const ConvForward& a) {
  const uint64_t count = a.batch * a.length * a.channels;
  for (uint64_t i = grid_thread(); i < count; i += grid_threads()) {
    const At at(i, a.length, a.channels);
    const Source<S> source(a, at.row);
    float y = 0;
    if (at.position < source.length) {
      const float u = sum_at(a, source, at.position, at.channel);
      y = a.silu ? u * sigmoid(u) : u;
    }
    ((S*)a.y)[i] = from_float<S>(y);
  }
}

/// The last K − 1 inputs, of the last document only.
template <typename S> DEVICE void last_inputs(const ConvForward& a) {
  const uint64_t count = a.batch * (a.taps - 1) * a.channels;
  for (uint64_t i = grid_thread(); i < count; i += grid_threads()) {
    const At at(i, a.taps - 1, a.channels);
    const Source<S> source(a, at.row);
    const int64_t e = source.length + at.position;
    float x[1] = {};
    if (!source.is_cut(e, source.length - 1)) source.template load<1>(e, at.channel, x);
    ((S*)a.last)[i] = from_float<S>(x[0]);
  }
}

/// du = dy·silu'(u); 0 beyond the length.
template <typename S> DEVICE void any_slopes(const ConvBackwardPlan& p) {
  const auto& a = p.call;
  const uint64_t count = a.batch * a.length * a.channels;
  for (uint64_t i = grid_thread(); i < count; i += grid_threads()) {
    const At at(i, a.length, a.channels);
    const Source<S> source(a, at.row);
    float du = 0;
    if (at.position < source.length) {
      du = to_float(((const S*)a.dy)[i]);
      if (a.silu) du *= silu_slope(sum_at(a, source, at.position, at.channel));
    }
    ((float*)p.slopes)[i] = du;
  }
}

/// Gradient of every extended position: of the state, then of the tokens.
template <typename S> DEVICE void any_inputs(const ConvBackwardPlan& p) {
  const auto& a = p.call;
  const uint64_t kept = a.taps - 1, positions = a.length + kept;
  const uint64_t count = a.batch * positions * a.channels;
  for (uint64_t i = grid_thread(); i < count; i += grid_threads()) {
    const At at(i, positions, a.channels);
    const Source<S> source(a, at.row);
    const int64_t e = at.position, token = e - (int64_t)kept, length = source.length;
    const float* du = (const float*)p.slopes + at.row * a.length * a.channels + at.channel;
    const float* w = (const float*)a.weight + at.channel * a.taps;
    float total = 0;
    for (int64_t t = token > 0 ? token : 0; t <= e && t < length; t++) {
      if (t > token && source.is_border(t)) break;
      total = fmaf(w[e - t], du[(uint64_t)t * a.channels], total);
    }
    const int64_t after = e - length;
    if (a.dlast && after >= 0 && after < (int64_t)kept && !source.is_cut(e, length - 1)) {
      const uint64_t from = (at.row * kept + (uint64_t)after) * a.channels + at.channel;
      total += to_float(((const S*)a.dlast)[from]);
    }
    if (token >= 0) {
      const uint64_t to = (at.row * a.length + (uint64_t)token) * a.dx_stride + at.channel;
      ((S*)a.dx)[to] = from_float<S>(total);
    } else if (a.dstate) {
      ((S*)a.dstate)[(at.row * kept + (uint64_t)e) * a.channels + at.channel] =
          from_float<S>(total);
    }
  }
}

/// dw and db: one row of partials for each batch row and `tile` of its tokens.
template <typename S> DEVICE void any_weights(const ConvBackwardPlan& p) {
  const auto& a = p.call;
  const uint64_t count = a.batch * p.row_blocks * (a.taps + 1) * a.channels;
  for (uint64_t i = grid_thread(); i < count; i += grid_threads()) {
    const At at(i, a.taps + 1, a.channels);  // Its row is one of the partials.
    const uint64_t row = at.row / p.row_blocks;
    const Source<S> source(a, row);
    const int64_t first = (int64_t)(at.row % p.row_blocks * p.tile);
    const int64_t rest = source.length - first, tile = (int64_t)p.tile;
    const bool is_bias = at.position == source.taps;
    const float* du = (const float*)p.slopes + row * a.length * a.channels + at.channel;
    float total = 0;
    for (int64_t t = first; t < first + (rest < tile ? rest : tile); t++) {
      float x[1] = {1.f};
      if (!is_bias) {
        if (source.is_cut(t + at.position, t)) continue;
        source.template load<1>(t + at.position, at.channel, x);
      }
      total = fmaf(du[(uint64_t)t * a.channels], x[0], total);
    }
    if (!is_bias) {
      const uint64_t column = at.channel * a.taps + (uint64_t)at.position;
      ((float*)p.weight_partial)[at.row * a.channels * a.taps + column] = total;
    } else if (a.dbias) {
      ((float*)p.bias_partial)[at.row * a.channels + at.channel] = total;
    }
  }
}

/// One token of every row. A thread owns a channel of its row's state. A slot below 0 was outside
/// of the state, which is reported: y is 0.
template <typename S> DEVICE void step(const ConvStep& a) {
  const uint64_t count = a.rows * a.channels, kept = a.taps - 1;
  for (uint64_t i = grid_thread(); i < count; i += grid_threads()) {
    const uint64_t row = i / a.channels, channel = i % a.channels;
    const int64_t slot = a.slots ? ((const int*)a.slots)[row] : (int64_t)row;
    if (slot < 0) {
      ((S*)a.y)[i] = from_float<S>(0.f);
      continue;
    }
    S* state = (S*)a.state + slot * kept * a.channels + channel;
    const float* w = (const float*)a.weight + channel * a.taps;
    const S x = ((const S*)a.x)[row * a.x_stride + channel];
    float u = a.bias ? ((const float*)a.bias)[channel] : 0.f;
    for (uint64_t j = 0; j < kept; j++) {
      const S before = state[j * a.channels];
      u = fmaf(w[j], to_float(before), u);
      if (j > 0) state[(j - 1) * a.channels] = before;
    }
    u = fmaf(w[kept], to_float(x), u);
    if (kept > 0) state[(kept - 1) * a.channels] = x;
    ((S*)a.y)[i] = from_float<S>(a.silu ? u * sigmoid(u) : u);
  }
}

}  // namespace conv
