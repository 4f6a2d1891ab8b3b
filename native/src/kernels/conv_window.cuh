// Causal convolution with 2, 3 or 4 taps. A thread walks along the tokens of a tile, V channels at
// once; the K inputs that its taps meet slide through registers. A border zeroes the older ones.
// Two groups of four tokens are on their way meanwhile (conv_feed.cuh): 32 to 64 KB for each
// multiprocessor, whose two or three blocks are bounded by registers.
//
// Backward: du_t goes to the K inputs of its window; the gradient of the oldest is complete then.
// Each tile recomputes du of the K − 1 tokens that follow it. A block holds the tiles of 8 warps;
// it adds their dw and db in order into one row of partials.
#pragma once
#include "conv_feed.cuh"
#include "conv_source.cuh"

namespace conv {

constexpr int block_tiles = block_threads / warp_size;

/// The part of a thread: channels of one tile of one batch row.
struct Place {
  uint64_t block;  // of tiles: row of partials
  uint64_t row, channel;
  int first, end;  // tokens
  bool active;
};

template <int V, typename Plan> DEVICE Place place_of(const Plan& p) {
  const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  const auto& a = p.call;
  const uint64_t packs = a.channels / V, columns = (packs + warp_size - 1) / warp_size;
  const uint64_t pack = blockIdx.x % columns * warp_size + lane, block = blockIdx.x / columns;
  const int length = (int)a.length, tile = (int)p.tile;
  const int first = ((int)(block % p.row_blocks) * block_tiles + warp) * tile;
  const int end = first + tile < length ? first + tile : length;
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

/// `split`: there may be borders.
template <int K, int V, bool split> struct Window {
  float x[K][V];  // x[j] is extended position t + j
  int visible;    // inputs up to the last token that no border hides

  template <typename S> DEVICE void start(const Source<S>& source, int64_t t, uint64_t channel) {
    visible = split ? source.visible_before(t) : K;
#pragma unroll
    for (int j = 0; j < K - 1; j++) {
      source.template load<V>(t + j, channel, x[j]);
      if (sees(K - 1 - j)) continue;
      clear(j);
    }
  }

  /// Whether the input `back` tokens before the next one counts; before a push.
  DEVICE bool sees(int back) const { return !split || back <= visible; }

  DEVICE void clear(int j) {
#pragma unroll
    for (int i = 0; i < V; i++) x[j][i] = 0;
  }

  DEVICE void push(const float (&next)[V], bool is_border) {
    if (split && is_border) {
#pragma unroll
      for (int j = 0; j < K - 1; j++) clear(j);
      visible = 0;
    }
    if (split) visible = visible < K ? visible + 1 : K;
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
DEVICE void zero_tokens(S* y, uint64_t stride, int t, int end) {
  const float zeros[V] = {};
  for (; t < end; t++) store_pack<V>(y + (uint64_t)t * stride, zeros);
}

template <typename S, int K, int V, bool split>
DEVICE void forward_tile(const ConvForwardPlan& p, unsigned char* shared) {
  const Place place = place_of<V>(p);
  if (!place.active) return;
  const auto& a = p.call;
  const Source<S> source(a, place.row);
  const int length = (int)source.length, run = place.end < length ? place.end : length;
  Feed<S, V, 1> feed = {{source.x + place.channel}, {a.x_stride}, run};
  feed.begin(place.first, shared);
  const Weights<K, V> weights(a, place.channel);
  S* y = (S*)a.y + place.row * a.length * a.channels + place.channel;
  Window<K, V, split> window;
  window.start(source, place.first, place.channel);
  for (int base = place.first; base < run; base += together) {
    feed.next(base);
#pragma unroll
    for (int n = 0; n < together; n++) {
      const int t = base + n;
      if (t >= run) break;
      float x[V], out[V];
      feed.get(0, n, x);
      window.push(x, split && source.is_border(t));
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
template <typename S, int K, int V, bool split> struct Back {
  const ConvBackward& a;
  const Place& place;
  const Source<S>& source;
  const int length;  // tokens that count
  const Weights<K, V>& weights;
  Window<K, V, split> window;
  float pending[K][V];  // gradients of the inputs in the window
  float dw[K][V], db[V];

  /// Token t < length: its share of every sum.
  DEVICE void token(int t, const float (&x)[V], const float (&dy)[V]) {
    window.push(x, split && source.is_border(t));
    const bool own = t < place.end;
#pragma unroll
    for (int i = 0; i < V; i++) {
      const float du = a.silu ? dy[i] * silu_slope(window.sum(weights, i)) : dy[i];
      if (own) db[i] += du;
#pragma unroll
      for (int j = 0; j < K; j++) {
        if (own) dw[j][i] = fmaf(du, window.x[j][i], dw[j][i]);
        if (window.sees(K - j)) pending[j][i] = fmaf(weights.tap[j][i], du, pending[j][i]);
      }
    }
    slide<K, V>(window.x);
  }

  /// Writes the gradient of extended position t, which nothing reads after token t.
  DEVICE void emit(int t) {
    const int after = t - length, token = t - (K - 1);
    if (after >= 0 && a.dlast && window.sees(K - 1 - after)) {
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
  DEVICE void walk(unsigned char* shared) {
    const int stop = (place.end < length ? place.end : length) + K - 1;
    const S* slopes = (const S*)a.dy + place.row * a.length * a.channels + place.channel;
    Feed<S, V, 2> feed = {{source.x + place.channel, slopes},
                          {a.x_stride, a.channels},
                          stop < length ? stop : length};
    feed.begin(place.first, shared);
    window.start(source, place.first, place.channel);
    for (int base = place.first; base < stop; base += together) {
      feed.next(base);
#pragma unroll
      for (int n = 0; n < together; n++) {
        const int t = base + n;
        if (t >= stop) break;
        if (t < length) {
          float x[V], dy[V];
          feed.get(0, n, x);
          feed.get(1, n, dy);
          token(t, x, dy);
        }
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

template <typename S, int K, int V, bool split>
DEVICE void backward_tile(const ConvBackwardPlan& p, unsigned char* places) {
  const auto& a = p.call;
  const Place place = place_of<V>(p);
  float dw[K][V] = {}, db[V] = {};
  if (place.active) {
    const Source<S> source(a, place.row);
    const Weights<K, V> weights(a, place.channel);
    Back<S, K, V, split> back = {a, place, source, (int)source.length, weights, {}, {}, {}, {}};
    // A tile beyond the length has no tokens, but the first one owns the state's gradient.
    if (place.first == 0 || place.first < source.length) back.walk(places);
#pragma unroll
    for (int i = 0; i < V; i++) {
      db[i] = back.db[i];
#pragma unroll
      for (int j = 0; j < K; j++) dw[j][i] = back.dw[j][i];
    }
    S* dx = (S*)a.dx + place.row * a.length * a.dx_stride + place.channel;
    const int length = (int)source.length, from = length > place.first ? length : place.first;
    zero_tokens<S, V>(dx, a.dx_stride, from, place.end);
  }
  float* shared = (float*)places;
  const uint64_t first = place.channel - threadIdx.x % warp_size * V;
  const uint64_t left = a.channels - first;
  float* to = (float*)p.weight_partial + (place.block * a.channels + first) * K;
#pragma unroll
  for (int j = 0; j < K; j++) add_tiles<V>(dw[j], shared, to + j, K, left);
  if (a.dbias)
    add_tiles<V>(db, shared, (float*)p.bias_partial + place.block * a.channels + first, 1, left);
}

template <typename S, int V, bool split>
DEVICE void forward_taps(const ConvForwardPlan& p, unsigned char* shared) {
  if (p.call.taps == 4) return forward_tile<S, 4, V, split>(p, shared);
  if (p.call.taps == 3) return forward_tile<S, 3, V, split>(p, shared);
  forward_tile<S, 2, V, split>(p, shared);
}

template <typename S, int V> DEVICE void forward(const ConvForwardPlan& p) {
  SHARED(unsigned char, shared);
  if (p.call.borders) return forward_taps<S, V, true>(p, shared);
  forward_taps<S, V, false>(p, shared);
}

template <typename S, int V, bool split>
DEVICE void backward_taps(const ConvBackwardPlan& p, unsigned char* shared) {
  if (p.call.taps == 4) return backward_tile<S, 4, V, split>(p, shared);
  if (p.call.taps == 3) return backward_tile<S, 3, V, split>(p, shared);
  backward_tile<S, 2, V, split>(p, shared);
}

template <typename S, int V> DEVICE void backward(const ConvBackwardPlan& p) {
  SHARED(unsigned char, shared);
  if (p.call.borders) return backward_taps<S, V, true>(p, shared);
  backward_taps<S, V, false>(p, shared);
}

}  // namespace conv
