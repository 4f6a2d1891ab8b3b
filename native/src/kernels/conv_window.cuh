// Causal convolution with 2, 3 or 4 taps. A thread walks along the tokens of a tile, V channels at
// once; the K inputs that its taps meet slide through registers. A border zeroes the older ones.
//
// Backward: du_t goes to the K inputs of its window; the gradient of the oldest is complete then.
// Each tile recomputes du of the K − 1 tokens that follow it. A block holds the tiles of 8 warps;
// it adds their dw and db in order into one row of partials.
#pragma once
#include "conv_source.cuh"

namespace conv {

constexpr int block_threads = 256;
constexpr int block_tiles = block_threads / warp_size;
/// Tokens whose loads are on their way at the same time.
constexpr int together = 4;

/// The part of a thread: channels of one tile of one batch row.
struct Place {
  uint64_t block;  // of tiles: row of partials
  uint64_t row, channel;
  int64_t first, end;  // tokens
  bool active;
};

template <int V, typename Plan> DEVICE Place place_of(const Plan& p) {
  const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  const auto& a = p.call;
  const uint64_t packs = a.channels / V, columns = (packs + warp_size - 1) / warp_size;
  const uint64_t pack = blockIdx.x % columns * warp_size + lane, block = blockIdx.x / columns;
  const int64_t length = (int64_t)a.length, tile = (int64_t)p.tile;
  const int64_t first = ((int64_t)(block % p.row_blocks) * block_tiles + warp) * tile;
  const int64_t end = first + tile < length ? first + tile : length;
  return {block, block / p.row_blocks, pack * V, first, end, pack < packs && first < length};
}

/// Taps and bias of the thread's channels.
template <int K, int V> struct Weights {
  float tap[K][V], bias[V];

  template <typename Args> DEVICE Weights(const Args& a, uint64_t channel) {
#pragma unroll
    for (int i = 0; i < V; i++) {
      bias[i] = a.bias ? ((const float*)a.bias)[channel + i] : 0.f;
#pragma unroll
      for (int j = 0; j < K; j++) tap[j][i] = ((const float*)a.weight)[(channel + i) * K + j];
    }
  }
};

template <int K, int V> struct Window {
  float x[K][V];  // x[j] is extended position t + j
  int visible;    // inputs up to the last token that no border hides

  template <typename S> DEVICE void start(const Source<S>& source, int64_t t, uint64_t channel) {
    visible = source.visible_before(t);
#pragma unroll
    for (int j = 0; j < K - 1; j++) {
      source.template load<V>(t + j, channel, x[j]);
      if (K - 1 - j > visible) clear(j);
    }
  }

  DEVICE void clear(int j) {
#pragma unroll
    for (int i = 0; i < V; i++) x[j][i] = 0;
  }

  DEVICE void push(const float (&next)[V], bool is_border) {
    if (is_border) {
#pragma unroll
      for (int j = 0; j < K - 1; j++) clear(j);
      visible = 0;
    }
    visible = visible < K ? visible + 1 : K;
#pragma unroll
    for (int i = 0; i < V; i++) x[K - 1][i] = next[i];
  }

  DEVICE float sum(const Weights<K, V>& weights, int i) const {
    float u = weights.bias[i];
#pragma unroll
    for (int j = 0; j < K; j++) u = fmaf(weights.tap[j][i], x[j][i], u);
    return u;
  }
};

/// v[0] leaves, the others move down.
template <int K, int V> DEVICE void slide(float (&v)[K][V]) {
#pragma unroll
  for (int j = 0; j + 1 < K; j++)
#pragma unroll
    for (int i = 0; i < V; i++) v[j][i] = v[j + 1][i];
}

template <typename S, int V>
DEVICE void zero_tokens(S* y, uint64_t stride, int64_t t, int64_t end) {
  const float zeros[V] = {};
  for (; t < end; t++) store_pack<V>(y + (uint64_t)t * stride, zeros);
}

template <typename S, int K, int V> DEVICE void forward_tile(const ConvForwardPlan& p) {
  const Place place = place_of<V>(p);
  if (!place.active) return;
  const auto& a = p.call;
  const Source<S> source(a, place.row);
  const Weights<K, V> weights(a, place.channel);
  S* y = (S*)a.y + place.row * a.length * a.channels + place.channel;
  const int64_t run = place.end < source.length ? place.end : source.length;
  Window<K, V> window;
  window.start(source, place.first, place.channel);
  for (int64_t base = place.first; base < run; base += together) {
    float next[together][V];
#pragma unroll
    for (int n = 0; n < together; n++)
      if (base + n < run) source.template load<V>(base + n + K - 1, place.channel, next[n]);
#pragma unroll
    for (int n = 0; n < together; n++) {
      const int64_t t = base + n;
      if (t >= run) break;
      window.push(next[n], source.is_border(t));
      float out[V];
#pragma unroll
      for (int i = 0; i < V; i++) {
        const float u = window.sum(weights, i);
        out[i] = a.silu ? u * sigmoid(u) : u;
      }
      store_pack<V>(y + (uint64_t)t * a.channels, out);
      slide<K, V>(window.x);
    }
  }
  zero_tokens<S, V>(y, a.channels, run > place.first ? run : place.first, place.end);
}

/// What a thread carries along its tile on the way back.
template <typename S, int K, int V> struct Back {
  const ConvBackward& a;
  const Place& place;
  const Source<S>& source;
  const Weights<K, V>& weights;
  Window<K, V> window;
  float pending[K][V];  // gradients of the inputs in the window
  float dw[K][V], db[V];

  /// Token t < length: its share of every sum.
  DEVICE void token(int64_t t, const float (&x)[V], const float (&dy)[V]) {
    window.push(x, source.is_border(t));
    const bool own = t < place.end;
#pragma unroll
    for (int i = 0; i < V; i++) {
      const float du = a.silu ? dy[i] * silu_slope(window.sum(weights, i)) : dy[i];
      if (own) db[i] += du;
#pragma unroll
      for (int j = 0; j < K; j++) {
        if (own) dw[j][i] = fmaf(du, window.x[j][i], dw[j][i]);
        if (j >= K - window.visible) pending[j][i] = fmaf(weights.tap[j][i], du, pending[j][i]);
      }
    }
    slide<K, V>(window.x);
  }

  /// Writes the gradient of extended position t, which nothing reads after token t.
  DEVICE void emit(int64_t t) {
    const int64_t after = t - source.length, token = t - (K - 1);
    if (after >= 0 && a.dlast && after >= K - 1 - window.visible) {
      float more[V];
      const uint64_t at = (place.row * (K - 1) + (uint64_t)after) * a.channels;
      load_pack<V>((const S*)a.dlast + at + place.channel, more);
#pragma unroll
      for (int i = 0; i < V; i++) pending[0][i] += more[i];
    }
    if (token >= place.first) {
      const uint64_t at = (place.row * a.length + (uint64_t)token) * a.dx_stride;
      store_pack<V>((S*)a.dx + at + place.channel, pending[0]);
    } else if (token < 0 && place.first == 0 && a.dstate) {
      const uint64_t at = (place.row * (K - 1) + (uint64_t)t) * a.channels;
      store_pack<V>((S*)a.dstate + at + place.channel, pending[0]);
    }
    slide<K, V>(pending);
#pragma unroll
    for (int i = 0; i < V; i++) pending[K - 1][i] = 0;
  }

  /// The tokens of the tile, and K − 1 steps more: of the next tile, or past the last token.
  DEVICE void walk() {
    const int64_t length = source.length;
    const int64_t stop = (place.end < length ? place.end : length) + K - 1;
    const S* dy = (const S*)a.dy + place.row * a.length * a.channels + place.channel;
    window.start(source, place.first, place.channel);
    for (int64_t base = place.first; base < stop; base += together) {
      float x[together][V], d[together][V];
#pragma unroll
      for (int n = 0; n < together; n++) {
        const int64_t t = base + n;
        if (t >= stop || t >= length) continue;
        source.template load<V>(t + K - 1, place.channel, x[n]);
        load_pack<V>(dy + (uint64_t)t * a.channels, d[n]);
      }
#pragma unroll
      for (int n = 0; n < together; n++) {
        const int64_t t = base + n;
        if (t >= stop) break;
        if (t < length) token(t, x[n], d[n]);
        emit(t);
      }
    }
  }
};

/// One sum of every tile of the block, added in the order of the tiles; out[i·step] of the block's
/// i-th channel, of which there are `count`.
template <int V>
DEVICE void add_tiles(const float (&value)[V], float* shared, float* out, uint64_t step,
                      uint64_t count) {
  const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  constexpr int width = warp_size * V;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < V; i++) shared[warp * width + lane * V + i] = value[i];
  __syncthreads();
  if (threadIdx.x >= width || threadIdx.x >= count) return;
  float total = 0;
  for (int n = 0; n < block_tiles; n++) total += shared[n * width + threadIdx.x];
  out[threadIdx.x * step] = total;
}

template <typename S, int K, int V> DEVICE void backward_tile(const ConvBackwardPlan& p) {
  __shared__ float shared[block_tiles * warp_size * V];
  const auto& a = p.call;
  const Place place = place_of<V>(p);
  float dw[K][V] = {}, db[V] = {};
  if (place.active) {
    const Source<S> source(a, place.row);
    const Weights<K, V> weights(a, place.channel);
    Back<S, K, V> back = {a, place, source, weights, {}, {}, {}, {}};
    // A tile beyond the length has no tokens, but the first one owns the state's gradient.
    if (place.first == 0 || place.first < source.length) back.walk();
#pragma unroll
    for (int i = 0; i < V; i++) {
      db[i] = back.db[i];
#pragma unroll
      for (int j = 0; j < K; j++) dw[j][i] = back.dw[j][i];
    }
    S* dx = (S*)a.dx + place.row * a.length * a.dx_stride + place.channel;
    const int64_t from = source.length > place.first ? source.length : place.first;
    zero_tokens<S, V>(dx, a.dx_stride, from, place.end);
  }
  const uint64_t first = place.channel - threadIdx.x % warp_size * V;
  const uint64_t left = a.channels - first;
  float* to = (float*)p.weight_partial + (place.block * a.channels + first) * K;
#pragma unroll
  for (int j = 0; j < K; j++) add_tiles<V>(dw[j], shared, to + j, K, left);
  if (a.dbias)
    add_tiles<V>(db, shared, (float*)p.bias_partial + place.block * a.channels + first, 1, left);
}

template <typename S, int V> DEVICE void forward(const ConvForwardPlan& p) {
  if (p.call.taps == 4) return forward_tile<S, 4, V>(p);
  if (p.call.taps == 3) return forward_tile<S, 3, V>(p);
  forward_tile<S, 2, V>(p);
}

template <typename S, int V> DEVICE void backward(const ConvBackwardPlan& p) {
  if (p.call.taps == 4) return backward_tile<S, 4, V>(p);
  if (p.call.taps == 3) return backward_tile<S, 3, V>(p);
  backward_tile<S, 2, V>(p);
}

}  // namespace conv
