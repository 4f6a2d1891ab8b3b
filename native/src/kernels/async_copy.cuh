// Copies from global into shared memory that pass no registers: a thread asks for pieces several
// steps ahead and reads only what it asked for itself, so that no barrier stands between. The bytes
// on their way are bounded by shared memory instead of registers.
#pragma once
#include "common.cuh"

/// Asks for 16 bytes, or 8; both addresses are multiples of that.
template <int bytes> DEVICE void copy_async(void* to, const void* from) {
  static_assert(bytes == 16 || bytes == 8, "sizes of one copy");
#ifdef XL_EMULATED
  *(Pack<float, bytes / 4>*)to = *(const Pack<float, bytes / 4>*)from;
#else
  const uint32_t shared = (uint32_t)__cvta_generic_to_shared(to);
  if constexpr (bytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(from) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(shared), "l"(from) : "memory");
  }
#endif
}

/// Ends a group of copies; a thread's groups arrive in order.
DEVICE void commit_copies() {
#ifndef XL_EMULATED
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/// Waits until at most `groups` groups of this thread are on their way.
template <int groups> DEVICE void wait_copies() {
#ifndef XL_EMULATED
  asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
#endif
}
