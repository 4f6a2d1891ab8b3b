// The Hopper instructions that C++ has no words for: mbarrier, the bulk tensor copy engine, the
// matrix fragments in shared memory, register budgets. wgmma is in ptx_wgmma.cuh.
//
// Shared memory is addressed by 32-bit offsets, as the instructions do. A check program replaces
// this file by check/hopper_host.hpp (XL_HOPPER_HOST), which runs the same kernels on a processor.
#pragma once
#include <stdint.h>

#ifdef XL_HOPPER_HOST
#include "check/hopper_host.hpp"
#include "quick.cuh"
#else

#define DEVICE __device__ __forceinline__
#include "quick.cuh"
// One block per multiprocessor: the roles of its warpgroups share all registers.
#define HOPPER_KERNEL(threads, name, Args) \
  extern "C" __global__ void __launch_bounds__(threads, 1) name(const __grid_constant__ Args a)

// What cuTensorMapEncodeTiled writes.
struct alignas(64) TensorMap {
  uint64_t opaque[16];
};

namespace ptx {

DEVICE unsigned char* dynamic_shared() {
  extern __shared__ __align__(1024) unsigned char buffer[];
  return buffer;
}
DEVICE uint32_t shared_address(const void* p) {
  return (uint32_t)__cvta_generic_to_shared(p);
}

// Keeps what is computed from x inside the loop: hoisted, it would cost registers.
DEVICE uint32_t opaque(uint32_t x) {
  asm volatile("" : "+r"(x));
  return x;
}

// Read again where it is needed: kept, it would cost registers.
DEVICE uint32_t thread_index() {
  uint32_t x;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
  return x;
}

// mbarrier

DEVICE void barrier_init(uint32_t barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count));
}
DEVICE void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
DEVICE void barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// 16 bytes into the same place of another block of the cluster, and to its barrier.
DEVICE void store_remote(uint32_t to, uint32_t barrier, int block, const uint32_t (&x)[4]) {
  asm volatile(
    "{.reg .b32 a, b; mapa.shared::cluster.u32 a, %0, %2; mapa.shared::cluster.u32 b, %1, %2;"
    "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [a], {%3, %4, %5, %6}, [b];}"
    ::"r"(to), "r"(barrier), "r"(block), "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3])
    : "memory");
}
// The same, 4 bytes.
DEVICE void store_remote(uint32_t to, uint32_t barrier, int block, float x) {
  asm volatile(
    "{.reg .b32 a, b; mapa.shared::cluster.u32 a, %0, %2; mapa.shared::cluster.u32 b, %1, %2;"
    "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [a], %3, [b];}"
    ::"r"(to), "r"(barrier), "r"(block), "r"(__float_as_uint(x))
    : "memory");
}
// In another block of the cluster. In the default scope: a release at cluster scope costs 1,000
// cycles.
DEVICE void barrier_arrive_remote(uint32_t barrier, int block) {
  asm volatile(
    "{.reg .b32 r; mapa.shared::cluster.u32 r, %0, %1;"
    "mbarrier.arrive.shared::cluster.b64 _, [r];}" ::"r"(barrier),
    "r"(block)
    : "memory");
}
DEVICE void barrier_expect(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
        : "memory");
}
DEVICE bool barrier_try(uint32_t barrier, int parity) {
  uint32_t done;
  asm volatile(
    "{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
    : "=r"(done)
    : "r"(barrier), "r"(parity)
    : "memory");
  return done;
}
// Nothing but spinning: with a trap in here ptxas ignores the register budgets of the roles.
DEVICE void barrier_wait(uint32_t barrier, int parity) {
  while (!barrier_try(barrier, parity)) {
  }
}
DEVICE void named_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
DEVICE void cluster_barrier() {
  asm volatile("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;" ::: "memory");
}
// Writes of this thread become visible to the copy engine and to wgmma.
DEVICE void fence_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Copy engine. Tensors have five dims: columns, tokens, column blocks, heads, batch rows.

struct Box {
  int column, token, block, head, batch;
};

DEVICE void tensor_load(uint32_t to, const TensorMap* map, uint32_t barrier, Box b) {
  asm volatile(
    "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes "
    "[%0], [%1, {%3, %4, %5, %6, %7}], [%2];" ::"r"(to),
    "l"(map), "r"(barrier), "r"(b.column), "r"(b.token), "r"(b.block), "r"(b.head), "r"(b.batch)
    : "memory");
}
// Into the same place of both blocks of a cluster, and the bytes to the barrier of each.
DEVICE void tensor_load_both(uint32_t to, const TensorMap* map, uint32_t barrier, Box b) {
  asm volatile(
    "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes"
    ".multicast::cluster [%0], [%1, {%3, %4, %5, %6, %7}], [%2], %8;" ::"r"(to),
    "l"(map), "r"(barrier), "r"(b.column), "r"(b.token), "r"(b.block), "r"(b.head), "r"(b.batch),
    "h"((uint16_t)3)
    : "memory");
}
DEVICE void tensor_store(const TensorMap* map, uint32_t from, Box b) {
  asm volatile(
    "cp.async.bulk.tensor.5d.global.shared::cta.bulk_group "
    "[%0, {%2, %3, %4, %5, %6}], [%1];" ::"l"(map),
    "r"(from), "r"(b.column), "r"(b.token), "r"(b.block), "r"(b.head), "r"(b.batch)
    : "memory");
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
DEVICE void bulk_load(uint32_t to, const void* from, int bytes, uint32_t barrier) {
  asm volatile(
    "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
      "r"(to),
    "l"(from), "r"(bytes), "r"(barrier)
    : "memory");
}
// From this block's shared memory to the same place of another block of the cluster.
DEVICE void give(uint32_t at, int bytes, uint32_t barrier, int block) {
  asm volatile(
    "{.reg .b32 to, bar; mapa.shared::cluster.u32 to, %0, %3; mapa.shared::cluster.u32 bar, %2, %3;"
    "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [to], [%0], %1, [bar];}"
    ::"r"(at), "r"(bytes), "r"(barrier), "r"(block)
    : "memory");
}
// This thread's stores have left shared memory.
DEVICE void stores_read() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}
DEVICE void stores_done() {
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

// Fragments: four 8x8 matrices of bf16, a row address per lane.

DEVICE void load_transposed(uint32_t (&r)[4], uint32_t from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
        : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
        : "r"(from)
        : "memory");
}
DEVICE void load_matrices(uint32_t (&r)[4], uint32_t from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
        : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
        : "r"(from)
        : "memory");
}
DEVICE void store_matrices(uint32_t to, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to),
        "r"(a), "r"(b), "r"(c), "r"(d)
        : "memory");
}
DEVICE void store_transposed(uint32_t to, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to),
        "r"(a), "r"(b), "r"(c), "r"(d)
        : "memory");
}
DEVICE void store_word(uint32_t to, uint32_t x) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(x) : "memory");
}
DEVICE void store_words(uint32_t to, const uint32_t (&x)[2]) {
  asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(to), "r"(x[0]), "r"(x[1]) : "memory");
}
DEVICE void load_words(uint32_t (&x)[4], uint32_t from) {
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(from));
}

// Numbers

DEVICE uint32_t pack(float low, float high) {
  uint32_t x;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(x) : "f"(high), "f"(low));
  return x;
}
DEVICE uint32_t multiply_pairs(uint32_t a, uint32_t b) {
  uint32_t x;
  asm("mul.bf16x2 %0, %1, %2;" : "=r"(x) : "r"(a), "r"(b));
  return x;
}
DEVICE float low_half(uint32_t x) {
  return __uint_as_float(x << 16);
}
DEVICE float high_half(uint32_t x) {
  return __uint_as_float(x & 0xffff0000u);
}
// A select even where the compiler would rather jump around what the value takes to compute: jumps
// would make the steps of a long row of values wait for each other.
DEVICE float select_at_most(uint32_t x, uint32_t limit, float value, float otherwise) {
  float y;
  asm("{.reg .pred p; setp.le.u32 p, %1, %2; selp.f32 %0, %3, %4, p;}"
      : "=f"(y)
      : "r"(x), "r"(limit), "f"(value), "f"(otherwise));
  return y;
}
template <int COUNT>
DEVICE void registers_less() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}
template <int COUNT>
DEVICE void registers_more() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}

}  // namespace ptx
#endif
