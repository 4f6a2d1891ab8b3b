// One token of the mLSTM for every row, the state updated in place. kernels.md §2.1, §6.
// step_gates, one block per row and head: m, F, I, n ← F n + I k, σ = s·q·n, 1/(N + eps).
// step, one block per row, head and 128 columns, or, of few rows, 32: C ← F C + I k vᵀ,
// h = s·qᵀC/(N + eps); C is read and written once: 8·DQK·DV bytes. A column is summed in the same
// order either way. Equals cpu/mlstm_step.zig.
#pragma once
#include "mlstm_scan.cuh"

namespace mlstm {

constexpr int step_rows = 256;  // of k and q in shared memory at a time
constexpr int step_warps = threads / warp_size;

/// Whether a head's slot was outside of the state, which is reported: its h is 0.
DEVICE bool is_homeless(const MlstmStepPlan& a, uint64_t index) {
  return a.slots && a.slots[index / a.heads] < 0;
}

/// Which head of the state tensors a head of the call uses.
DEVICE uint64_t held(const MlstmStepPlan& a, uint64_t index) {
  const uint64_t row = index / a.heads;
  return (a.slots ? (uint64_t)a.slots[row] : row) * a.heads + index % a.heads;
}

template <typename S>
DEVICE const S* head_of(const MlstmStepPlan& a, const void* base, const Strides& strides,
                        uint64_t index) {
  return (const S*)base + index / a.heads * strides.batch + index % a.heads * strides.head;
}

/// F, I and the floor of N. The new m is rounded first: all three belong to what is stored.
DEVICE void factors(const MlstmStepPlan& a, uint64_t index, float* forget, float* input,
                    float* floor, float* m) {
  const double lf = log_sigmoid_wide(a.f[index]);
  if (a.sigmoid) {
    *forget = (float)exp(lf);
    *input = (float)exp(log_sigmoid_wide(a.i[index]));
    *floor = 1;
    return;
  }
  const double i = a.i[index], decayed = lf + *m;
  *m = (float)fmax(decayed, i);
  *forget = (float)exp(decayed - *m);
  *input = (float)exp(i - *m);
  *floor = expf(fminf(-*m, 80.f));
}

template <typename S> DEVICE void step_gates(const MlstmStepPlan& a) {
  __shared__ float scratch[32];
  const uint64_t index = blockIdx.x, where = held(a, index);
  if (is_homeless(a, index)) return;
  float forget, input, floor, m = a.m ? a.m[where] : 0;
  factors(a, index, &forget, &input, &floor, &m);
  float inverse = 1;
  if (a.normalize) {
    const S* const q = head_of<S>(a, a.q, a.q_strides, index);
    const S* const k = head_of<S>(a, a.k, a.k_strides, index);
    float* const n = a.n + where * a.width_qk;
    float sum = 0;
    for (uint64_t r = threadIdx.x; r < a.width_qk; r += blockDim.x) {
      const float now = fmaf(input, to_float(k[r]), forget * n[r]);
      n[r] = now;
      sum = fmaf(to_float(q[r]) * a.scale, now, sum);
    }
    inverse = 1 / (fmaxf(fabsf(block_sum(sum, scratch)), floor) + a.eps);
  }
  // Every thread has read m by now.
  __syncthreads();
  if (threadIdx.x != 0) return;
  if (a.m) a.m[where] = a.sigmoid ? 0 : m;
  a.factors[3 * index] = forget;
  a.factors[3 * index + 1] = input;
  a.factors[3 * index + 2] = inverse;
}

/// Rows r of C, every eighth one, in `each` columns 32 apart; of few blocks each has more of them
/// under way: one row and 256 x 512 took 0.023 ms for 0.009.
template <int each>
DEVICE void advance(float* c, size_t width, int rows, int columns, float forget, const float* k,
                    const float* q, const float (&v)[each], float (&sums)[each]) {
  constexpr int depth = each == 1 ? 16 : 1;
  const int lane = threadIdx.x % warp_size;
  for (int first = threadIdx.x / warp_size; first < rows; first += depth * step_warps) {
    float old[depth][each];
#pragma unroll
    for (int d = 0; d < depth; d++)
#pragma unroll
      for (int i = 0; i < each; i++) {
        const int r = first + d * step_warps, column = lane + i * warp_size;
        old[d][i] = r < rows && column < columns ? c[r * width + column] : 0;
      }
#pragma unroll
    for (int d = 0; d < depth; d++)
#pragma unroll
      for (int i = 0; i < each; i++) {
        const int r = first + d * step_warps, column = lane + i * warp_size;
        if (r >= rows || column >= columns) continue;
        const float now = fmaf(k[r], v[i], forget * old[d][i]);
        c[r * width + column] = now;
        sums[i] = fmaf(q[r], now, sums[i]);
      }
  }
}

/// `each` columns for a lane. Follows step_gates, which writes the factors and no other input.
template <typename S, int each> DEVICE void step(const MlstmStepPlan& a) {
  constexpr int step_columns = each * warp_size;
  __shared__ float keys[step_rows], queries[step_rows], partial[step_warps * step_columns];
  const uint64_t parts = (a.width_v + step_columns - 1) / step_columns;
  const uint64_t index = blockIdx.x / parts, first = blockIdx.x % parts * step_columns;
  const int columns = least(a.width_v - first, step_columns), lane = threadIdx.x % warp_size;
  S* const h = (S*)a.h + index * a.width_v + first;
  if (is_homeless(a, index)) {
    follow();
    if ((int)threadIdx.x < columns) h[threadIdx.x] = from_float<S>(0.f);
    return;
  }
  float* c = a.c + held(a, index) * a.width_qk * a.width_v + first;
  if (each == 1 && columns == step_columns && a.width_v % 4 == 0 && is_aligned(c))
    for (uint64_t r = threadIdx.x; r < a.width_qk; r += threads)
      ask(c + r * a.width_v, step_columns * sizeof(float));
  follow();
  const float forget = a.factors[3 * index], input = a.factors[3 * index + 1];
  const S* const q = head_of<S>(a, a.q, a.q_strides, index);
  const S* const k = head_of<S>(a, a.k, a.k_strides, index);
  const S* const values = head_of<S>(a, a.v, a.v_strides, index) + first;
  float v[each], sums[each] = {};
  for (int i = 0; i < each; i++) {
    const int column = lane + i * warp_size;
    v[i] = column < columns ? to_float(values[column]) : 0;
  }
  for (uint64_t row = 0; row < a.width_qk; row += step_rows) {
    const int rows = least(a.width_qk - row, step_rows);
    __syncthreads();
    for (int r = threadIdx.x; r < rows; r += threads) {
      keys[r] = input * to_float(k[row + r]);
      queries[r] = to_float(q[row + r]) * a.scale;
    }
    __syncthreads();
    advance<each>(c + row * a.width_v, a.width_v, rows, columns, forget, keys, queries, v, sums);
  }
  for (int i = 0; i < each; i++)
    partial[threadIdx.x / warp_size * step_columns + lane + i * warp_size] = sums[i];
  __syncthreads();
  if ((int)threadIdx.x >= columns) return;
  float sum = 0;
  for (int w = 0; w < step_warps; w++) sum += partial[w * step_columns + threadIdx.x];
  h[threadIdx.x] = from_float<S>(sum * a.factors[3 * index + 2]);
}

}  // namespace mlstm
