// Element number → place in each operand of a strided view (cuda/view.zig), and maps over them.
// Floor of a map: its operands' bytes once. Contiguous operands move 16 bytes per thread and step.
#pragma once
#include "common.cuh"

// Long functions are called, not repeated for every element of a pack.
#ifdef XL_EMULATED
#define OUTLINED inline __device__
#else
#define OUTLINED static __device__ __noinline__
#endif

OUTLINED uint64_t long_quotient(uint64_t a, uint64_t b) { return a / b; }

/// a/b by the 32-bit divider where that is exact: a 64-bit division costs a hundred instructions.
DEVICE uint64_t quotient(uint64_t a, uint64_t b) {
  if (((a | b) >> 32) == 0) return (uint32_t)a / (uint32_t)b;
  return long_quotient(a, b);
}

/// at[k] ← position of row-major element `i` in operand k.
template <int operands>
DEVICE void locate(const Walk& walk, uint64_t i, uint64_t (&at)[operands]) {
#pragma unroll
  for (int k = 0; k < operands; k++) at[k] = 0;
  uint64_t rest = i;
#pragma unroll 1
  for (int dim = (int)walk.rank - 1; dim > 0; dim--) {
    const uint64_t up = quotient(rest, walk.shape[dim]);
    const uint64_t coordinate = rest - up * walk.shape[dim];
#pragma unroll
    for (int k = 0; k < operands; k++) at[k] += coordinate * walk.strides[max_rank * k + dim];
    rest = up;
  }
#pragma unroll
  for (int k = 0; k < operands; k++) at[k] += rest * walk.strides[max_rank * k];
}

DEVICE uint64_t locate_one(const Walk& walk, uint64_t i) {
  uint64_t at[1];
  locate(walk, i, at);
  return at[0];
}

DEVICE bool repeats(const Walk& walk, int operand) {
  return walk.strides[max_rank * operand + walk.rank - 1] == 0;
}

/// N neighbours along the last dim, or one element N times.
template <int N, typename S>
DEVICE void load_along(const S* from, bool is_repeated, float (&to)[N]) {
  if (!is_repeated) return load_pack<N>(from, to);
  const float x = to_float(*from);
#pragma unroll
  for (int i = 0; i < N; i++) to[i] = x;
}

/// y[i] ← f of the operands' elements, y contiguous. `f.each` leaves n results in the first row of
/// its [operands][n] values, switching over the operation once per pack. An input may be y where
/// its walk is that of y.
template <typename S, int operands, typename F>
DEVICE void map(const Walk& walk, const S* const (&x)[operands], S* y, const F& f) {
  constexpr int n = pack_width<S>;
  const uint64_t packs = walk.pack > 1 ? walk.count / n : 0;
  uint64_t at[operands];
  for (uint64_t pack = grid_thread(); pack < packs; pack += grid_threads()) {
    locate(walk, pack * n, at);
    float values[operands][n];
#pragma unroll
    for (int k = 0; k < operands; k++) load_along(x[k] + at[k], repeats(walk, k), values[k]);
    f.each(values);
    store_pack(y + pack * n, values[0]);
  }
  for (uint64_t i = packs * n + grid_thread(); i < walk.count; i += grid_threads()) {
    locate(walk, i, at);
    float values[operands][1];
#pragma unroll
    for (int k = 0; k < operands; k++) values[k][0] = to_float(x[k][at[k]]);
    f.each(values);
    y[i] = from_float<S>(values[0][0]);
  }
}
