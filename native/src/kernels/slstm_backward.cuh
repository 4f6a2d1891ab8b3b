// sLSTM backward pass. kernels.md §7.2. A block owns one head and 1 or 4 batch rows, tokens in
// reverse: d raw from the saved gates and the carries ȳ, c̄, n̄, then ȳ = Σ_g d raw_g·R_gᵀ, from
// R turned to [4, out, in]. Then over all tokens dR_g = Σ y_{t−1}ᵀ·d raw_g and db = Σ d raw, by
// fixed ranges of tokens, added in order. y_{t−1} comes from saved gates: bf16 y costs dR nothing.
// Per token, row and head 16·DH² FLOPs; bytes: 6·DH saved (f32, read twice), DH dy, 4·DH dwx.
// Equals cpu/slstm_backward.zig, reference/slstm.zig.
#pragma once
#include "slstm_cell.cuh"
#include "tile.cuh"

namespace slstm {

/// y, c and n that a token started from.
struct Past {
  float y, c, n;
};

DEVICE Past past_of(const SlstmBackwardPlan& a, uint64_t row, uint64_t t, uint64_t head,
                    uint64_t d) {
  if (is_border(a, row, t) || (t == 0 && !a.initial)) return {0, 0, 0};
  if (t == 0) {
    const float* const from = a.initial + d;
    return {from[state_of(a, row, 0, head)], from[state_of(a, row, 1, head)],
            from[state_of(a, row, 2, head)]};
  }
  const float* const saved = a.saved + token_of(a, row, t - 1, head) * saved_planes * a.width + d;
  const float c = saved[0], n = saved[a.width];
  return {clamped(output(a.function, c, n, saved[4 * a.width]), a.clip), c, n};
}

/// R [4, NH, in, out] as [NH, 4, out, in].
DEVICE void turn(const SlstmBackwardPlan& a) {
  const uint64_t size = a.width * a.width, count = 4 * a.heads * size;
  for (uint64_t n = grid_thread(); n < count; n += grid_threads()) {
    const uint64_t in = n % a.width, out = n / a.width % a.width, matrix = n / size;
    const uint64_t gate = matrix % 4, head = matrix / 4;
    a.turned[n] = a.r[((gate * a.heads + head) * a.width + in) * a.width + out];
  }
}

template <int rows> struct Carries {
  float *y, *c, *n;  // [rows, DH]
  float* draw;       // [rows, 4, padded]
  float* partial;    // [rows, 4, DH]: Σ over one gate's units
  const float* r;    // [4, out, in]
};

template <int rows>
DEVICE Carries<rows> carries_of(const SlstmBackwardPlan& a, const Group& g, float* shared) {
  const int width = (int)a.width, size = rows * width, pitch = padded(width);
  Carries<rows> x;
  x.draw = shared;
  x.y = shared + 4 * rows * pitch;
  x.c = x.y + size;
  x.n = x.c + size;
  x.partial = x.n + size;
  x.r = a.turned + g.head * 4 * a.width * a.width;
  for (int n = threadIdx.x; n < 4 * rows * pitch; n += blockDim.x) x.draw[n] = 0;
  for (int n = threadIdx.x; n < 3 * size; n += blockDim.x) {
    const int part = n / size, row = n % size / width, d = n % width;
    const bool given = a.dlast && row < g.count && (part < 2 || a.function == 0);
    x.y[n] = given ? a.dlast[state_of(a, g.first + row, part, g.head) + d] : 0;
  }
  if (!a.staged) return x;
  float* const staged = x.partial + 4 * size;
  for (int n = threadIdx.x; n < 4 * width * width; n += blockDim.x) staged[n] = x.r[n];
  x.r = staged;
  return x;
}

template <typename S>
DEVICE void store_draw(const SlstmBackwardPlan& a, uint64_t row, uint64_t t, uint64_t head, int d,
                       const float (&raw)[4]) {
  for (int gate = 0; gate < 4; gate++) {
    const size_t at = gate_of(a, row, t, gate, head) + d;
    ((S*)a.dwx)[at] = from_float<S>(raw[gate]);
    if (sizeof(S) < sizeof(float)) a.draw[at] = raw[gate];
  }
}

template <typename S, int rows>
DEVICE void unit_gradients(const SlstmBackwardPlan& a, const Group& g, const Carries<rows>& x,
                           uint64_t t) {
  const int width = (int)a.width, pitch = padded(width);
  for (int at = threadIdx.x; at < g.count * width; at += blockDim.x) {
    const int b = at / width, d = at % width;
    const uint64_t row = g.first + b;
    Draw out = {};
    if (is_active(a, row, t)) {
      const size_t token = token_of(a, row, t, g.head);
      const Past past = past_of(a, row, t, g.head, d);
      float saved[saved_planes];
      for (int k = 0; k < saved_planes; k++)
        saved[k] = a.saved[(token * saved_planes + k) * a.width + d];
      const float dy = to_float(((const S*)a.dy)[token * a.width + d]) + x.y[at];
      out = cell_gradient(a.function, saved, past.c, past.n, dy, x.c[at], x.n[at], a.clip);
      x.c[at] = out.carry_c;
      x.n[at] = out.carry_n;
    }
    store_draw<S>(a, row, t, g.head, d, out.raw);
    for (int gate = 0; gate < 4; gate++) x.draw[(b * 4 + gate) * pitch + d] = out.raw[gate];
  }
  __syncthreads();
}

/// ȳ of all rows, and what borders end.
template <int rows>
DEVICE void flow_back(const SlstmBackwardPlan& a, const Group& g, const Carries<rows>& x,
                      uint64_t t) {
  const int width = (int)a.width, pitch = padded(width);
  for (int n = threadIdx.x; !a.recurrent_cut && n < 4 * width; n += blockDim.x) {
    const int gate = n / width, in = n % width;
    float sums[rows];
    products<rows>(sums, x.draw + gate * pitch, 4 * pitch,
                   x.r + (size_t)gate * width * width + in, a.width, width);
    for (int b = 0; b < rows; b++) x.partial[(b * 4 + gate) * width + in] = sums[b];
  }
  __syncthreads();
  for (int at = threadIdx.x; at < g.count * width; at += blockDim.x) {
    const int b = at / width, in = at % width;
    if (!is_active(a, g.first + b, t)) continue;
    float total = 0;
    for (int gate = 0; !a.recurrent_cut && gate < 4; gate++)
      total += x.partial[(b * 4 + gate) * width + in];
    x.y[at] = clamped(total, a.recurrent_clip);
    if (is_border(a, g.first + b, t)) x.y[at] = x.c[at] = x.n[at] = 0;
  }
}

template <typename S, int rows> DEVICE void backward(const SlstmBackwardPlan& a) {
  SHARED(float, shared);
  const Group g = group_of<rows>(a);
  const Carries<rows> x = carries_of<rows>(a, g, shared);
  __syncthreads();
  for (uint64_t t = a.length; t-- > 0;) {
    unit_gradients<S>(a, g, x, t);
    flow_back(a, g, x, t);
  }
  if (!a.dinitial) return;
  const int width = (int)a.width;
  for (int at = threadIdx.x; at < g.count * width; at += blockDim.x) {
    const uint64_t row = g.first + at / width;
    const int d = at % width;
    const bool given = a.initial && a.function == 0;
    const float c = given ? a.initial[state_of(a, row, 1, g.head) + d] : 0;
    const float n = given ? a.initial[state_of(a, row, 2, g.head) + d] : 0;
    const float values[4] = {x.y[at], x.c[at], x.n[at], c * x.c[at] + n * x.n[at]};
    for (int part = 0; part < 4; part++)
      a.dinitial[state_of(a, row, part, g.head) + d] = values[part];
  }
}

/// What one block of `weights` sums: tokens from `first` to `end`, 64 x 64 elements of one matrix.
struct Patch {
  uint64_t range, first, end;
  uint64_t gate, head, in, out;
};

DEVICE Patch patch_of(const SlstmBackwardPlan& a) {
  const uint64_t sides = (a.width + tile::side - 1) / tile::side;
  uint64_t index = blockIdx.x;
  Patch p;
  p.out = index % sides * tile::side;
  index /= sides;
  p.in = index % sides * tile::side;
  index /= sides;
  p.gate = index % 4;
  index /= 4;
  p.head = index % a.heads;
  p.range = index / a.heads;
  p.first = p.range * a.range;
  p.end = p.first + a.range < a.batch * a.length ? p.first + a.range : a.batch * a.length;
  return p;
}

/// y_{t−1} and d raw of 32 tokens; 0 where there is none.
DEVICE void load_operands(const SlstmBackwardPlan& a, const Patch& p, uint64_t first, float* left,
                          float* right) {
  for (int n = threadIdx.x; n < tile::depth * tile::side; n += tile::threads) {
    const uint64_t token = first + n / tile::side, in = p.in + n % tile::side;
    const uint64_t out = p.out + n % tile::side, row = token / a.length, t = token % a.length;
    const bool exists = token < p.end && is_active(a, row, t);
    const int at = n / tile::side * tile::pitch + n % tile::side;
    left[at] = exists && in < a.width ? past_of(a, row, t, p.head, in).y : 0;
    right[at] =
        exists && out < a.width ? a.draw[gate_of(a, row, t, (int)p.gate, p.head) + out] : 0;
  }
}

/// dR and db of one range of tokens.
DEVICE void weights(const SlstmBackwardPlan& a) {
  SHARED(float, shared);
  float* const left = shared;
  float* const right = shared + tile::depth * tile::pitch;
  const Patch p = patch_of(a);
  tile::Accumulator acc;
  tile::clear(acc);
  float bias = 0;
  for (uint64_t first = p.first; first < p.end; first += tile::depth) {
    __syncthreads();
    load_operands(a, p, first, left, right);
    __syncthreads();
    tile::multiply(acc, left, right, tile::depth);
    if (p.in == 0 && threadIdx.x < tile::side)
      for (int t = 0; t < tile::depth; t++) bias += right[t * tile::pitch + threadIdx.x];
  }
  const uint64_t matrix = (p.range * 4 + p.gate) * a.heads + p.head;
  const tile::View<float> to = {
      a.dr + (matrix * a.width + p.in) * a.width + p.out, a.width};
  const int inside = tile::least(a.width - p.in, tile::side);
  tile::store_rows(acc, to, inside, inside, a.width - p.out);
  if (p.in == 0 && threadIdx.x < tile::side && p.out + threadIdx.x < a.width)
    a.db[matrix * a.width + p.out + threadIdx.x] = bias;
}

/// The ranges' sums, in order.
DEVICE void add_ranges(const SlstmSumPlan& a) {
  for (uint64_t n = grid_thread(); n < a.count; n += grid_threads()) {
    float sum = a.parts[n];
    for (uint64_t range = 1; range < a.ranges; range++) sum += a.parts[range * a.count + n];
    a.to[n] = sum;
  }
}

}  // namespace slstm
