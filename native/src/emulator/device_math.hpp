// CUDA's arithmetic helpers that C does not have: bit casts, bit counting, rounded operations,
// min and max over exactly the argument types nvcc accepts, integer atomics and fences.
//
// Results equal the GPU's only where both are exactly rounded; expf and its like differ in the last
// places there as well.

#pragma once

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

namespace xl {

template <typename To, typename From> inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

}  // namespace xl

static inline unsigned __float_as_uint(float x) { return xl::bit_cast<unsigned>(x); }
static inline int __float_as_int(float x) { return xl::bit_cast<int>(x); }
static inline float __uint_as_float(unsigned x) { return xl::bit_cast<float>(x); }
static inline float __int_as_float(int x) { return xl::bit_cast<float>(x); }
static inline long long __double_as_longlong(double x) { return xl::bit_cast<long long>(x); }
static inline double __longlong_as_double(long long x) { return xl::bit_cast<double>(x); }

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
static inline int __clzll(long long x) {
  return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x));
}
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline unsigned __brev(unsigned x) { return __builtin_bitreverse32(x); }

static inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<unsigned long long>(a) * b >> 32);
}
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}

#define rsqrtf xl_rsqrtf  // C23 headers declare the names
#define rsqrt xl_rsqrt
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline float __double2float_rn(double x) { return static_cast<float>(x); }
static inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
static inline float __int2float_rn(int x) { return static_cast<float>(x); }

// Without these a call with a float would silently round to int.
static inline float abs(float x) { return fabsf(x); }
static inline double abs(double x) { return fabs(x); }

#define XL_MIN_MAX(result, first, second) \
  static inline result min(first a, second b) { \
    const result x = static_cast<result>(a), y = static_cast<result>(b); \
    return y < x ? y : x; \
  } \
  static inline result max(first a, second b) { \
    const result x = static_cast<result>(a), y = static_cast<result>(b); \
    return x < y ? y : x; \
  }
#define XL_MIN_MAX_INTEGERS(signed_type, unsigned_type) \
  XL_MIN_MAX(signed_type, signed_type, signed_type) \
  XL_MIN_MAX(unsigned_type, unsigned_type, unsigned_type) \
  XL_MIN_MAX(unsigned_type, signed_type, unsigned_type) \
  XL_MIN_MAX(unsigned_type, unsigned_type, signed_type)
XL_MIN_MAX_INTEGERS(int, unsigned)
XL_MIN_MAX_INTEGERS(long, unsigned long)
XL_MIN_MAX_INTEGERS(long long, unsigned long long)
#undef XL_MIN_MAX_INTEGERS
#undef XL_MIN_MAX

// Of a NaN and a number they give the number, as fminf and fmaxf do.
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }

template <typename T> static inline T __ldg(const T* from) { return *from; }
template <typename T> static inline T __ldcs(const T* from) { return *from; }
template <typename T> static inline void __stcs(T* to, T value) { *to = value; }
static inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

// Blocks run on several OS threads. There is none for float: sums have a fixed order in this house.
namespace xl {

template <typename T, typename Change> inline T update(T* at, Change change) {
  T old = __atomic_load_n(at, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(at, &old, change(old), false, __ATOMIC_SEQ_CST,
                                      __ATOMIC_RELAXED)) {
  }
  return old;
}

}  // namespace xl

#define XL_ATOMICS(T) \
  static inline T atomicAdd(T* at, T x) { return __atomic_fetch_add(at, x, __ATOMIC_SEQ_CST); } \
  static inline T atomicOr(T* at, T x) { return __atomic_fetch_or(at, x, __ATOMIC_SEQ_CST); } \
  static inline T atomicAnd(T* at, T x) { return __atomic_fetch_and(at, x, __ATOMIC_SEQ_CST); } \
  static inline T atomicXor(T* at, T x) { return __atomic_fetch_xor(at, x, __ATOMIC_SEQ_CST); } \
  static inline T atomicExch(T* at, T x) { \
    return __atomic_exchange_n(at, x, __ATOMIC_SEQ_CST); \
  } \
  static inline T atomicMin(T* at, T x) { \
    return xl::update(at, [=](T old) { return x < old ? x : old; }); \
  } \
  static inline T atomicMax(T* at, T x) { \
    return xl::update(at, [=](T old) { return old < x ? x : old; }); \
  } \
  static inline T atomicCAS(T* at, T expected, T x) { \
    __atomic_compare_exchange_n(at, &expected, x, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
    return expected; \
  }
XL_ATOMICS(int)
XL_ATOMICS(unsigned)
XL_ATOMICS(unsigned long long)
#undef XL_ATOMICS
