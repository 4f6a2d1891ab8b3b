// The device side of the emulator: what nvcc gives to kernels, for a host compiler. Included by
// common.cuh when XL_EMULATED is defined; kernels include nothing else.
//
// Differences a kernel can notice: dynamic shared memory is full of 0xFF (float NaN) when a block
// starts, static shared memory in the first and last blocks of a launch (launch.cpp); barriers and
// warp operations check that the threads of the block, or all lanes of the warp, meet at the same
// line; partial masks are refused; lanes that have returned do not count, and a shuffle that reads
// one of them gives 0xFF bytes. Waiting for another block never ends.

#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "device_math.hpp"
#include "device_types.hpp"
#include "fibers.hpp"
#include "kernel.hpp"

#pragma clang diagnostic ignored "-Wduplicate-decl-specifier"

// Internal: with nvcc each translation unit is a program of its own, so two of them may have
// different functions of one name. An inline function would be merged with its namesake.
#define __device__ __attribute__((internal_linkage)) inline
#define __host__
#define __global__
#define __forceinline__ __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __constant__ static const
#define __align__(bytes) __attribute__((aligned(bytes)))

// One copy per OS thread, and a worker runs one block at a time. The section lets the emulator
// find and spoil all static shared memory before a block (shared.cpp).
#define __shared__ static thread_local __attribute__((section("xl_shared")))
#define SHARED(type, name) type* const name = reinterpret_cast<type*>(xl::worker().shared)

#define threadIdx (static_cast<const uint3&>(xl::seat().thread))
#define blockIdx (static_cast<const uint3&>(xl::worker().block))
#define blockDim (static_cast<const uint3&>(xl::worker().block_size))
#define gridDim (static_cast<const uint3&>(xl::worker().grid_size))
constexpr int warpSize = 32;

#define KERNEL(threads, name, Args) \
  static void name##_body(const Args& a); \
  extern "C" __attribute__((visibility("default"))) void name(const void* arguments) { \
    name##_body(*static_cast<const Args*>(arguments)); \
  } \
  __attribute__((constructor)) static void name##_register() { \
    static_assert(alignof(Args) <= 128 && sizeof(Args) <= 4096, "more than a launch takes"); \
    static xl::Kernel kernel = {#name, &name, (threads), sizeof(Args), \
                                xl::default_shared_bytes, nullptr}; \
    xl::add_kernel(&kernel); \
  } \
  static void name##_body([[maybe_unused]] const Args& a)
#define KERNEL_AHEAD(threads, name, Args) KERNEL(threads, name, Args)
#define RESIDENT_KERNEL(threads, blocks, name, Args) KERNEL(threads, name, Args)

// Where a barrier is written: default arguments are evaluated at the call.
#define XL_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(XL_SITE) { xl::meet_block({"__syncthreads", file, line}); }

inline void __syncwarp(unsigned mask = ~0u, XL_SITE) {
  xl::meet(mask, 0, false, {"__syncwarp", file, line});
}

inline unsigned __ballot_sync(unsigned mask, int predicate, XL_SITE) {
  return xl::meet(mask, 0, predicate != 0, {"__ballot_sync", file, line}).votes;
}

inline int __any_sync(unsigned mask, int predicate, XL_SITE) {
  return xl::meet(mask, 0, predicate != 0, {"__any_sync", file, line}).votes != 0;
}

inline int __all_sync(unsigned mask, int predicate, XL_SITE) {
  const xl::Meeting met = xl::meet(mask, 0, predicate != 0, {"__all_sync", file, line});
  return met.votes == met.present;
}

namespace xl {

/// One lane's side of a shuffle: `source` maps (lane, first lane of the segment, last one) to the
/// lane to read; outside of [0, last] the lane keeps its own value.
template <typename T, typename Source>
inline T shuffle(unsigned mask, T value, int width, Site site, Source source) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  const Meeting met = meet(mask, bits, false, site);
  const int lane = static_cast<int>(met.lane), first = lane & ~(width - 1);
  const int last = first + width - 1, from = source(lane, first, last);
  const int chosen = from < 0 || from > last ? lane : from;
  bits = met.present >> chosen & 1 ? met.values[chosen] : ~uint64_t(0);
  T result;
  memcpy(&result, &bits, sizeof(T));
  return result;
}

}  // namespace xl

template <typename T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, XL_SITE) {
  return xl::shuffle(mask, value, width, {"__shfl_sync", file, line},
                     [=](int, int first, int) { return first + (source & (width - 1)); });
}

template <typename T>
inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, XL_SITE) {
  return xl::shuffle(mask, value, width, {"__shfl_xor_sync", file, line},
                     [=](int lane, int, int) { return lane ^ lanes; });
}

template <typename T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, XL_SITE) {
  return xl::shuffle(
      mask, value, width, {"__shfl_up_sync", file, line}, [=](int lane, int first, int) {
        return lane - static_cast<int>(delta) < first ? lane : lane - static_cast<int>(delta);
      });
}

template <typename T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, XL_SITE) {
  return xl::shuffle(mask, value, width, {"__shfl_down_sync", file, line},
                     [=](int lane, int, int) { return lane + static_cast<int>(delta); });
}
