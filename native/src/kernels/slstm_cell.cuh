// One unit of the sLSTM (and the plain LSTM with the same memory layout). kernels.md §7.
//   l = m + logσ(raw_f);  m' = raw_i where n = 0, else max(raw_i, l)
//   i' = e^(raw_i − m'), f' = e^(l − m') (0 where n = 0): one is 1, the other e^(−|raw_i − l|)
//   c' = f'c + i'·tanh(raw_z)    n' = f'n + i'    y = σ(raw_o)·c'/n'
// LSTM: c' = σ(raw_f)c + σ(raw_i)·tanh(raw_z), y = σ(raw_o)·tanh(c'). Equals cpu/slstm_gates.zig.
#pragma once
#include "common.cuh"

namespace slstm {

struct Cell {
  float c, n, m, y;
  float saved[saved_planes];
};

struct Pair {
  float plus, minus;
};

/// σ(x) and σ(−x), both accurate relative to themselves.
DEVICE Pair sigmoids(float x) {
  const float e = expf(-fabsf(x)), large = 1 / (1 + e), small = e * large;
  return x < 0 ? Pair{small, large} : Pair{large, small};
}

/// y before the clip, from saved quantities: the same bits as in the forward pass.
DEVICE float output(uint32_t function, float c, float n, float o) {
  return function == 1 ? o * n : o * c / n;
}

/// Clamps to [−bound, bound]; +Inf is no bound, NaN stays NaN.
DEVICE float clamped(float x, float bound) { return x > bound ? bound : x < -bound ? -bound : x; }

DEVICE Cell slstm_cell(const float (&raw)[4], float c, float n, float m) {
  const float l = m + log_sigmoid(raw[1]);
  // +Inf makes the input gate win with f' = 0, which is the first-step rule.
  const float lead = n == 0 ? INFINITY : raw[0] - l;
  const bool wins = lead >= 0;
  const float lesser = expf(-fabsf(lead));
  const float i = wins ? 1 : lesser, f = wins ? lesser : 1;
  const float z = tanhf(raw[2]), o = sigmoids(raw[3]).plus;
  Cell now;
  now.c = fmaf(f, c, i * z);
  now.n = fmaf(f, n, i);
  now.m = wins ? raw[0] : l;
  now.y = output(0, now.c, now.n, o);
  now.saved[0] = now.c;
  now.saved[1] = now.n;
  now.saved[2] = wins ? lesser : -lesser;
  now.saved[3] = z;
  now.saved[4] = o;
  now.saved[5] = sigmoids(raw[1]).minus;
  return now;
}

DEVICE Cell lstm_cell(const float (&raw)[4], float c) {
  const Pair f = sigmoids(raw[1]);
  const float i = sigmoids(raw[0]).plus, z = tanhf(raw[2]), o = sigmoids(raw[3]).plus;
  Cell now;
  now.c = fmaf(f.plus, c, i * z);
  now.n = now.m = 0;
  const float bounded = tanhf(now.c);
  now.y = output(1, now.c, bounded, o);
  now.saved[0] = now.c;
  now.saved[1] = bounded;
  now.saved[2] = i;
  now.saved[3] = z;
  now.saved[4] = o;
  now.saved[5] = f.minus;
  return now;
}

DEVICE Cell cell(uint32_t function, const float (&raw)[4], float c, float n, float m, float clip) {
  Cell now = function == 1 ? lstm_cell(raw, c) : slstm_cell(raw, c, n, m);
  now.y = clamped(now.y, clip);
  return now;
}

struct Draw {
  float raw[4], carry_c, carry_n;
};

/// Gradients of the pre-activations from the whole gradient of y, and the carries for the token
/// before. `saved` is of the forward pass, c and n are those before the token.
DEVICE Draw cell_gradient(uint32_t function, const float (&saved)[saved_planes], float c, float n,
                          float dy, float carry_c, float carry_n, float clip) {
  const float z = saved[3], o = saved[4], f_minus = saved[5];
  const float y = output(function, saved[0], saved[1], o);
  const float d = fabsf(y) > clip ? 0 : dy;
  Draw out;
  out.raw[3] = (1 - o) * y * d;
  if (function == 1) {
    const float i = saved[2], f = 1 - f_minus;
    const float dc = fmaf(d * o, 1 - saved[1] * saved[1], carry_c), dz = dc * i;
    out.raw[0] = dz * z * (1 - i);
    out.raw[1] = dc * c * f * f_minus;
    out.raw[2] = dz * (1 - z * z);
    out.carry_c = dc * f;
    out.carry_n = 0;
    return out;
  }
  const bool input_is_lesser = __float_as_uint(saved[2]) >> 31;
  const float lesser = fabsf(saved[2]);
  const float i = input_is_lesser ? lesser : 1, f = input_is_lesser ? 1 : lesser;
  const float share = d / saved[1];
  const float dc = fmaf(share, o, carry_c), dn = carry_n - share * y;
  out.raw[0] = i * fmaf(z, dc, dn);
  out.raw[1] = f * fmaf(dc, c, dn * n) * f_minus;
  out.raw[2] = dc * i * (1 - z * z);
  out.carry_c = f * dc;
  out.carry_n = f * dn;
  return out;
}

/// Index of a token and head in tensors [B, T, NH, …].
template <typename Plan>
DEVICE size_t token_of(const Plan& a, uint64_t row, uint64_t t, uint64_t head) {
  return (row * a.length + t) * a.heads + head;
}

/// First unit of one gate in tensors [B, T, 4, NH, DH].
template <typename Plan>
DEVICE size_t gate_of(const Plan& a, uint64_t row, uint64_t t, int gate, uint64_t head) {
  return (((row * a.length + t) * 4 + gate) * a.heads + head) * a.width;
}

/// First unit of one part in states [B, 4, NH, DH].
template <typename Plan>
DEVICE size_t state_of(const Plan& a, uint64_t row, int part, uint64_t head) {
  return ((row * 4 + part) * a.heads + head) * a.width;
}

template <typename Plan> DEVICE bool is_active(const Plan& a, uint64_t row, uint64_t t) {
  return !a.lengths || (int64_t)t < a.lengths[row];
}

template <typename Plan> DEVICE bool is_border(const Plan& a, uint64_t row, uint64_t t) {
  return a.borders && a.borders[row * a.length + t] != 0;
}

/// The head and the batch rows of a block; rows beyond the batch do not exist.
struct Group {
  uint64_t head, first;
  int count;
};

template <int rows, typename Plan> DEVICE Group group_of(const Plan& a) {
  const uint64_t groups = (a.batch + rows - 1) / rows;
  Group g;
  g.head = blockIdx.x / groups;
  g.first = blockIdx.x % groups * rows;
  g.count = a.batch - g.first < (uint64_t)rows ? (int)(a.batch - g.first) : rows;
  return g;
}

/// Partial sums of every product with R: inputs p, p + 8, … go to sum p, and these are added in
/// order. The step's eight warps do the same, so a step has the bits of the whole pass.
constexpr int lanes_of_sum = 8;

/// sums[b] = Σ_p x[b·x_pitch + p]·matrix[p·m_pitch] for `count` positions p; x is aligned to 16
/// bytes.
template <int rows>
DEVICE void products(float (&sums)[rows], const float* x, int x_pitch, const float* matrix,
                     size_t m_pitch, int count) {
  float parts[lanes_of_sum][rows] = {};
  int p = 0;
  for (; p + lanes_of_sum <= count; p += lanes_of_sum) {
    float m[lanes_of_sum];
#pragma unroll
    for (int i = 0; i < lanes_of_sum; i++) m[i] = matrix[(p + i) * m_pitch];
#pragma unroll
    for (int b = 0; b < rows; b++) {
      float four[2][4];
      load_pack<4>(x + b * x_pitch + p, four[0]);
      load_pack<4>(x + b * x_pitch + p + 4, four[1]);
#pragma unroll
      for (int i = 0; i < lanes_of_sum; i++)
        parts[i][b] = fmaf(four[i / 4][i % 4], m[i], parts[i][b]);
    }
  }
#pragma unroll
  for (int i = 0; i < lanes_of_sum; i++) {
    if (p + i >= count) continue;
    const float m = matrix[(p + i) * m_pitch];
#pragma unroll
    for (int b = 0; b < rows; b++)
      parts[i][b] = fmaf(x[b * x_pitch + p + i], m, parts[i][b]);
  }
#pragma unroll
  for (int b = 0; b < rows; b++) {
    sums[b] = parts[0][b];
#pragma unroll
    for (int i = 1; i < lanes_of_sum; i++) sums[b] += parts[i][b];
  }
}

/// A row of units in shared memory, padded for loads of four.
DEVICE int padded(int width) { return (width + 3) / 4 * 4; }

}  // namespace slstm
