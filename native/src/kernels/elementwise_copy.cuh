// Copies and casts between any two views of one shape, fill and arange. The host sorts the dims by
// the destination's strides, so that it is written front to back. Where the source is contiguous
// along another dim, 32 × 32 tiles go through shared memory, so that both sides are coalesced.
// Elements of one size without conversion share a kernel.
#pragma once
#include "elementwise_convert.cuh"
#include "walk.cuh"

/// N neighbours along the last dim, or one element N times, as they are.
template <int N, typename T> DEVICE Pack<T, N> pack_along(const T* from, bool is_repeated) {
  if (!is_repeated) return *reinterpret_cast<const Pack<T, N>*>(from);
  Pack<T, N> pack;
#pragma unroll
  for (int i = 0; i < N; i++) pack.at[i] = *from;
  return pack;
}

template <typename From, typename To> DEVICE void copy_view(const CopyPlan& a) {
  const From* from = static_cast<const From*>(a.from);
  To* to = static_cast<To*>(a.to);
  constexpr int n = 16 / (sizeof(From) > sizeof(To) ? sizeof(From) : sizeof(To));
  const uint64_t packs = a.walk.pack > 1 ? a.walk.count / n : 0;
  uint64_t at[2];
  for (uint64_t pack = grid_thread(); pack < packs; pack += grid_threads()) {
    locate(a.walk, pack * n, at);
    const Pack<From, n> in = pack_along<n>(from + at[0], repeats(a.walk, 0));
    Pack<To, n> out;
#pragma unroll
    for (int i = 0; i < n; i++) out.at[i] = Convert<To, From>::of(in.at[i]);
    *reinterpret_cast<Pack<To, n>*>(to + at[1]) = out;
  }
  for (uint64_t i = packs * n + grid_thread(); i < a.walk.count; i += grid_threads()) {
    locate(a.walk, i, at);
    to[at[1]] = Convert<To, From>::of(from[at[0]]);
  }
}

/// A tile of `rows` (contiguous in the source) × `columns` (contiguous in the destination) per
/// block and step; 256 threads move 8 lines of 32 at a time.
template <typename From, typename To> DEVICE void transpose(const TransposePlan& a) {
  __shared__ To tile[32][33];  // 33: a column of the tile lies in 32 different banks.
  const int lane = threadIdx.x % 32, line = threadIdx.x / 32;
  const uint64_t across = (a.columns + 31) / 32, down = (a.rows + 31) / 32;
  const uint64_t tiles = a.outer.count * across * down;
  for (uint64_t i = blockIdx.x; i < tiles; i += gridDim.x) {
    const uint64_t column = i % across * 32, row = i / across % down * 32;
    uint64_t at[2];
    locate(a.outer, i / across / down, at);
    const From* from = static_cast<const From*>(a.from) + at[0];
    To* to = static_cast<To*>(a.to) + at[1];
#pragma unroll
    for (int k = line; k < 32; k += 8)
      if (row + lane < a.rows && column + k < a.columns)
        tile[k][lane] =
            Convert<To, From>::of(from[(column + k) * a.from_column_stride + row + lane]);
    __syncthreads();
#pragma unroll
    for (int k = line; k < 32; k += 8)
      if (row + k < a.rows && column + lane < a.columns)
        to[(row + k) * a.to_row_stride + column + lane] = tile[lane][k];
    __syncthreads();
  }
}

/// y[i] ← value(i), contiguous.
template <typename T, typename F> DEVICE void generate(T* y, uint64_t count, const F& f) {
  constexpr int n = pack_width<T>;
  const uint64_t packs = is_aligned(y) ? count / n : 0;
  for (uint64_t pack = grid_thread(); pack < packs; pack += grid_threads()) {
    Pack<T, n> out;
#pragma unroll
    for (int i = 0; i < n; i++) out.at[i] = f(pack * n + i);
    *reinterpret_cast<Pack<T, n>*>(y + pack * n) = out;
  }
  for (uint64_t i = packs * n + grid_thread(); i < count; i += grid_threads()) y[i] = f(i);
}

template <typename T> struct Constant {
  T value;
  DEVICE T operator()(uint64_t) const { return value; }
};

/// The product is rounded before the sum, as on the CPU: a fused one would differ in the last bit.
template <typename T> struct Progression {
  double start, step;
  DEVICE T operator()(uint64_t i) const {
#ifdef XL_EMULATED
    return from_double<T>(start + (double)i * step);
#else
    return from_double<T>(__dadd_rn(start, __dmul_rn((double)i, step)));
#endif
  }
};

template <typename T> DEVICE void fill(const Fill& a) {
  generate(static_cast<T*>(a.y), a.count, Constant<T>{from_double<T>(a.value)});
}

template <typename T> DEVICE void arange(const Arange& a) {
  generate(static_cast<T*>(a.y), a.count, Progression<T>{a.start, a.step});
}

#define COPIES(name, From) \
  KERNEL(256, copy_##name##_f32, CopyPlan) { copy_view<From, float>(a); } \
  KERNEL(256, copy_##name##_bf16, CopyPlan) { copy_view<From, bf16>(a); } \
  KERNEL(256, copy_##name##_f16, CopyPlan) { copy_view<From, f16>(a); } \
  KERNEL(256, copy_##name##_f64, CopyPlan) { copy_view<From, double>(a); } \
  KERNEL(256, copy_##name##_i32, CopyPlan) { copy_view<From, int32_t>(a); } \
  KERNEL(256, copy_##name##_u8, CopyPlan) { copy_view<From, uint8_t>(a); }
COPIES(f32, float)
COPIES(bf16, bf16)
COPIES(f16, f16)
COPIES(f64, double)
COPIES(i32, int32_t)
COPIES(u8, uint8_t)
#undef COPIES

KERNEL(256, transpose_1, TransposePlan) { transpose<uint8_t, uint8_t>(a); }
KERNEL(256, transpose_2, TransposePlan) { transpose<uint16_t, uint16_t>(a); }
KERNEL(256, transpose_4, TransposePlan) { transpose<uint32_t, uint32_t>(a); }
KERNEL(256, transpose_8, TransposePlan) { transpose<uint64_t, uint64_t>(a); }
KERNEL(256, transpose_f32_bf16, TransposePlan) { transpose<float, bf16>(a); }
KERNEL(256, transpose_bf16_f32, TransposePlan) { transpose<bf16, float>(a); }

#define VALUES(name, T) \
  KERNEL(256, fill_##name, Fill) { fill<T>(a); } \
  KERNEL(256, arange_##name, Arange) { arange<T>(a); }
VALUES(f32, float)
VALUES(bf16, bf16)
VALUES(f16, f16)
VALUES(f64, double)
VALUES(i32, int32_t)
VALUES(u8, uint8_t)
#undef VALUES
