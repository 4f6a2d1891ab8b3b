// What every kernel stands on: argument structs, storage types, vector loads, sums in fixed order.
// A kernel takes one struct by value, named `a`; the same sources are compiled for the host by the
// emulator (XL_EMULATED), which runs each thread of a block as a fiber.
#pragma once
#include "args.h"

#ifdef XL_EMULATED
#include "emulator.hpp"
#else
#define XL_FOLLOWER(bounds, name, Args)                                                      \
  DEVICE void name##_body(const Args& a);                                                    \
  extern "C" __global__ void __launch_bounds__ bounds name(const __grid_constant__ Args a) { \
    follow();                                                                                \
    name##_body(a);                                                                          \
  }                                                                                          \
  DEVICE void name##_body(const Args& a)
#define KERNEL(threads, name, Args) XL_FOLLOWER((threads), name, Args)
// `blocks` blocks of `threads` threads fit a multiprocessor: bounds registers.
#define RESIDENT_KERNEL(threads, blocks, name, Args) XL_FOLLOWER((threads, blocks), name, Args)
// Says `follow` itself, behind what it reads of older kernels than the one before it.
#define KERNEL_AHEAD(threads, name, Args) \
  extern "C" __global__ void __launch_bounds__(threads) name(const __grid_constant__ Args a)
#define SHARED(type, name) extern __shared__ __align__(1024) type name[]
#endif

#define DEVICE __device__ __forceinline__
#include "quick.cuh"

/// On Hopper a kernel may be launched while the one before it still runs (cuda/device.zig): as soon
/// as all blocks of that have said this. What that writes is there behind `follow`; what kernels
/// before that wrote is there at once, for that has followed them.
DEVICE void follow() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait; griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// Asks the second-level cache, which all kernels share, for `bytes` from an address on, both
/// multiples of 16. Nothing is read, so this may come before `follow`.
DEVICE void ask([[maybe_unused]] const void* from, [[maybe_unused]] uint32_t bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  const size_t at = __cvta_generic_to_global(from);
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(at), "r"(bytes) : "memory");
#endif
}

constexpr int warp_size = 32;
constexpr unsigned full_mask = 0xffffffffu;

/// bfloat16 storage; arithmetic is float.
struct bf16 {
  uint16_t bits;
};

DEVICE float to_float(float x) { return x; }
DEVICE float to_float(bf16 x) { return __uint_as_float((uint32_t)x.bits << 16); }

template <typename S> DEVICE S from_float(float x);
template <> DEVICE float from_float<float>(float x) { return x; }
/// To nearest, ties to even; NaN stays NaN.
template <> DEVICE bf16 from_float<bf16>(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  bf16 y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
#else
  const uint32_t bits = __float_as_uint(x);
  if (x != x) return {(uint16_t)((bits >> 16) | 0x40)};
  return {(uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
#endif
}

/// N neighbours, moved by one instruction when their bytes are 4, 8 or 16 and aligned.
template <typename S, int N> struct alignas(sizeof(S) * N) Pack {
  S at[N];
#ifdef XL_EMULATED
  XL_CHECKED_COPIES(Pack, for (int i = 0; i < N; i++) at[i] = from.at[i];)
#endif
};

template <typename S> constexpr int pack_width = 16 / (int)sizeof(S);

template <int N, typename S> DEVICE void load_pack(const S* from, float (&to)[N]) {
  const Pack<S, N> pack = *reinterpret_cast<const Pack<S, N>*>(from);
#pragma unroll
  for (int i = 0; i < N; i++) to[i] = to_float(pack.at[i]);
}

template <int N, typename S> DEVICE void store_pack(S* to, const float (&from)[N]) {
  Pack<S, N> pack;
#pragma unroll
  for (int i = 0; i < N; i++) pack.at[i] = from_float<S>(from[i]);
  *reinterpret_cast<Pack<S, N>*>(to) = pack;
}

template <typename S> DEVICE bool is_aligned(const S* p) {
  return (reinterpret_cast<uintptr_t>(p) & 15) == 0;
}

/// Number of this thread in the whole grid, and how many there are: for strided loops.
DEVICE uint64_t grid_thread() { return (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; }
DEVICE uint64_t grid_threads() { return (uint64_t)gridDim.x * blockDim.x; }

/// Every lane gets the sum of the warp; a butterfly, the same order in every run.
template <typename T> DEVICE T warp_sum(T x) {
#pragma unroll
  for (int step = warp_size / 2; step > 0; step /= 2) x += __shfl_xor_sync(full_mask, x, step);
  return x;
}

DEVICE float warp_max(float x) {
#pragma unroll
  for (int step = warp_size / 2; step > 0; step /= 2)
    x = fmaxf(x, __shfl_xor_sync(full_mask, x, step));
  return x;
}

/// Every thread gets the sum of the block. `scratch` holds 32 elements; all threads call.
template <typename T> DEVICE T block_sum(T x, T* scratch) {
  const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  const int warps = (blockDim.x + warp_size - 1) / warp_size;
  x = warp_sum(x);
  __syncthreads();  // The scratch may still be read by the call before.
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  return warp_sum(lane < warps ? scratch[lane] : T(0));
}

DEVICE float block_max(float x, float* scratch) {
  const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  const int warps = (blockDim.x + warp_size - 1) / warp_size;
  x = warp_max(x);
  __syncthreads();
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  return warp_max(lane < warps ? scratch[lane] : -INFINITY);
}

DEVICE float sigmoid(float x) {
  // Both branches have an exponent that is not positive: no overflow, no cancellation.
  const float e = expf(-fabsf(x));
  return (x >= 0 ? 1.f : e) / (1.f + e);
}

DEVICE float softplus(float x) { return fmaxf(x, 0.f) + log1pf(expf(-fabsf(x))); }
DEVICE float log_sigmoid(float x) { return -softplus(-x); }
