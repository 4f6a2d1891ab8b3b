// sLSTM forward pass and decode step. kernels.md §7.1: raw_g = wx_g + y_{t−1}·R_g + b_g.
// A block owns one head and 1 or 4 batch rows for all tokens. States live in shared memory, R there
// too when it fits, else it streams from the L2 cache. A thread owns columns of [4, DH].
// Per token, row and head 8·DH² FLOPs; bytes: 4·DH wx, DH y, 6·DH saved (f32).
// The step has one block per 32 columns, which 8 warps share by inputs, and a pass over units.
// Equals cpu/slstm_forward.zig, cpu/slstm_step.zig, reference/slstm.zig.
#pragma once
#include "slstm_cell.cuh"

namespace slstm {

constexpr int step_rows = 4;

template <int rows> struct Memory {
  float *y, *c, *n, *m, *raw;  // [rows, padded]; raw [rows, 4, DH]
  const float* r;              // R of this head, [4, in, out]
  size_t r_gate;               // from gate to gate
};

template <int rows>
DEVICE Memory<rows> memory_of(const SlstmForwardPlan& a, const Group& g, float* shared) {
  const int width = (int)a.width, size = rows * padded(width);
  Memory<rows> x;
  x.y = shared;
  x.c = shared + size;
  x.n = shared + 2 * size;
  x.m = shared + 3 * size;
  x.raw = shared + 4 * size;
  x.r = a.r + g.head * a.width * a.width;
  x.r_gate = a.heads * a.width * a.width;
  if (!a.staged) return x;
  float* const staged = x.raw + 4 * size;
  for (int gate = 0; gate < 4; gate++)
    for (int n = threadIdx.x; n < width * width; n += blockDim.x)
      staged[gate * width * width + n] = x.r[gate * x.r_gate + n];
  x.r = staged;
  x.r_gate = (size_t)width * width;
  return x;
}

template <int rows>
DEVICE void load_states(const SlstmForwardPlan& a, const Group& g, const Memory<rows>& x) {
  const int pitch = padded((int)a.width), size = rows * pitch;
  for (int n = threadIdx.x; n < 4 * size; n += blockDim.x) {
    const int part = n / size, row = n % size / pitch, d = n % pitch;
    const bool given = a.initial && row < g.count && d < (int)a.width;
    // The plain LSTM has no n and no m.
    const bool exists = part < 2 || a.function == 0;
    x.y[n] = given && exists ? a.initial[state_of(a, g.first + row, part, g.head) + d] : 0;
  }
}

template <int rows>
DEVICE void store_states(const SlstmForwardPlan& a, const Group& g, const Memory<rows>& x) {
  const int pitch = padded((int)a.width), size = rows * pitch;
  for (int n = threadIdx.x; n < 4 * size; n += blockDim.x) {
    const int part = n / size, row = n % size / pitch, d = n % pitch;
    if (row < g.count && d < (int)a.width)
      a.last[state_of(a, g.first + row, part, g.head) + d] = x.y[n];
  }
}

template <int rows>
DEVICE void reset_states(const SlstmForwardPlan& a, const Group& g, const Memory<rows>& x,
                         uint64_t t) {
  const int pitch = padded((int)a.width), size = rows * pitch;
  for (int row = 0; row < g.count; row++) {
    if (!is_active(a, g.first + row, t) || !is_border(a, g.first + row, t)) continue;
    for (int n = threadIdx.x; n < 4 * pitch; n += blockDim.x)
      x.y[n / pitch * size + row * pitch + n % pitch] = 0;
  }
  __syncthreads();
}

/// raw of all columns and rows.
template <typename S, int rows>
DEVICE void pre_activations(const SlstmForwardPlan& a, const Group& g, const Memory<rows>& x,
                            uint64_t t) {
  const int width = (int)a.width;
  const S* const wx = (const S*)a.wx;
  for (int column = threadIdx.x; column < 4 * width; column += blockDim.x) {
    const int gate = column / width, d = column % width;
    const float bias = a.b[(gate * a.heads + g.head) * a.width + d];
    float sums[rows], inputs[rows] = {};
#pragma unroll
    for (int b = 0; b < rows; b++)
      if (b < g.count && is_active(a, g.first + b, t))
        inputs[b] = to_float(wx[gate_of(a, g.first + b, t, gate, g.head) + d]) + bias;
    products<rows>(sums, x.y, padded(width), x.r + gate * x.r_gate + d, a.width, width);
#pragma unroll
    for (int b = 0; b < rows; b++) x.raw[b * 4 * width + column] = sums[b] + inputs[b];
  }
  __syncthreads();
}

template <typename S>
DEVICE void store_token(const SlstmForwardPlan& a, size_t token, int d, float y,
                        const float* saved) {
  ((S*)a.y)[token * a.width + d] = from_float<S>(y);
  if (!a.saved) return;
  float* const to = a.saved + token * saved_planes * a.width + d;
#pragma unroll
  for (int k = 0; k < saved_planes; k++) to[k * a.width] = saved ? saved[k] : 0;
}

template <typename S, int rows>
DEVICE void units(const SlstmForwardPlan& a, const Group& g, const Memory<rows>& x, uint64_t t) {
  const int width = (int)a.width;
  for (int n = threadIdx.x; n < g.count * width; n += blockDim.x) {
    const int row = n / width, d = n % width, at = row * padded(width) + d;
    const size_t token = token_of(a, g.first + row, t, g.head);
    if (!is_active(a, g.first + row, t)) {
      store_token<S>(a, token, d, 0, nullptr);
      continue;
    }
    float raw[4];
    for (int gate = 0; gate < 4; gate++) raw[gate] = x.raw[(row * 4 + gate) * width + d];
    const Cell now = cell(a.function, raw, x.c[at], x.n[at], x.m[at], a.clip);
    x.y[at] = now.y;
    x.c[at] = now.c;
    x.n[at] = now.n;
    x.m[at] = now.m;
    store_token<S>(a, token, d, now.y, now.saved);
  }
  __syncthreads();
}

template <typename S, int rows> DEVICE void forward(const SlstmForwardPlan& a) {
  SHARED(float, shared);
  const Group g = group_of<rows>(a);
  const Memory<rows> x = memory_of<rows>(a, g, shared);
  load_states(a, g, x);
  __syncthreads();
  for (uint64_t t = 0; t < a.length; t++) {
    if (a.borders) reset_states(a, g, x, t);
    pre_activations<S>(a, g, x, t);
    units<S>(a, g, x, t);
  }
  if (a.last) store_states(a, g, x);
}

/// Whether a row's slot was outside of the state, which is reported: its y is 0.
DEVICE bool is_homeless(const SlstmStepPlan& a, uint64_t row) {
  return a.slots && a.slots[row] < 0;
}

/// The first slot for a row without one, to read from.
DEVICE uint64_t slot_of(const SlstmStepPlan& a, uint64_t row) {
  return is_homeless(a, row) ? 0 : a.slots ? (uint64_t)a.slots[row] : row;
}

/// raw [rows, 4, NH, DH]: 32 columns of one gate and head, for 4 rows.
template <typename S> DEVICE void step_raw(const SlstmStepPlan& a) {
  __shared__ float partial[lanes_of_sum][step_rows][warp_size];
  const uint64_t blocks = (a.width + warp_size - 1) / warp_size;
  const uint64_t d = blockIdx.x % blocks * warp_size + threadIdx.x % warp_size;
  const uint64_t matrix = blockIdx.x / blocks % (4 * a.heads);  // gate, head
  const uint64_t first = blockIdx.x / blocks / (4 * a.heads) * step_rows, head = matrix % a.heads;
  const int warp = threadIdx.x / warp_size, lane = threadIdx.x % warp_size;
  const int count = a.rows - first < (uint64_t)step_rows ? (int)(a.rows - first) : step_rows;
  const float* const r = a.r + matrix * a.width * a.width;
  const float* y[step_rows];
  float sums[step_rows] = {};
  for (int b = 0; b < step_rows; b++)
    y[b] = a.state + state_of(a, slot_of(a, first + (b < count ? b : 0)), 0, head);
  for (uint64_t in = warp; d < a.width && in < a.width; in += lanes_of_sum)
#pragma unroll
    for (int b = 0; b < step_rows; b++) sums[b] = fmaf(y[b][in], r[in * a.width + d], sums[b]);
  for (int b = 0; b < step_rows; b++) partial[warp][b][lane] = sums[b];
  __syncthreads();
  if (warp >= count || d >= a.width) return;
  float sum = partial[0][warp][lane];
  for (int w = 1; w < lanes_of_sum; w++) sum += partial[w][warp][lane];
  const uint64_t at = ((first + warp) * 4 * a.heads + matrix) * a.width + d;
  a.raw[at] = sum + (to_float(((const S*)a.wx)[at]) + a.b[matrix * a.width + d]);
}

/// One unit of one row per thread.
template <typename S> DEVICE void step_units(const SlstmStepPlan& a) {
  const uint64_t index = grid_thread(), across = a.heads * a.width;
  if (index >= a.rows * across) return;
  const uint64_t row = index / across, unit = index % across;
  if (is_homeless(a, row)) {
    ((S*)a.y)[index] = from_float<S>(0.f);
    return;
  }
  float* const state = a.state + slot_of(a, row) * 4 * across + unit;
  float raw[4];
  for (int gate = 0; gate < 4; gate++) raw[gate] = a.raw[(row * 4 + gate) * across + unit];
  const Cell now =
      cell(a.function, raw, state[across], state[2 * across], state[3 * across], a.clip);
  state[0] = now.y;
  state[across] = now.c;
  state[2 * across] = now.n;
  state[3 * across] = now.m;
  ((S*)a.y)[index] = from_float<S>(now.y);
}

}  // namespace slstm
