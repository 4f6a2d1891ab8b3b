// wgmma: D[64][N] (+)= A[64][16] B[16][N], bf16 operands, f32 accumulators, asynchronous.
//
// A comes from registers or from shared memory by descriptor, B by descriptor. "Transposed" means
// that the operand lies in memory with its k index outermost. A thread of the warpgroup holds
// D[16·warp + lane/4 + 8·(e/2)][8n + 2·(lane%4) + e%2] in d[4n + e]; A in registers has the same
// shape, so accumulators packed pairwise are the A operand of a later product.
//
// `FIRST` overwrites D. Its own text instead of a run-time flag: D need not be initialised.
#pragma once
#include "ptx.cuh"

#ifndef XL_HOPPER_HOST
namespace ptx {

// 128-byte swizzle, tiles of rows of 64 columns at multiples of 1,024 bytes. `pitch`: bytes from
// one tile of 64 columns to the next, for transposed operands wider than that.
DEVICE uint64_t descriptor(uint32_t address, uint32_t pitch) {
  return (uint64_t)((address & 0x3FFFF) >> 4) | ((uint64_t)(pitch >> 4) << 16) |
     ((uint64_t)(1024 >> 4) << 32) | (1ull << 62);
}
// Tiles of rows of 32 columns, 64-byte swizzle, at multiples of 512 bytes.
DEVICE uint64_t descriptor_32(uint32_t address) {
  return (uint64_t)((address & 0x3FFFF) >> 4) | (1ull << 16) | ((uint64_t)(512 >> 4) << 32) |
     (2ull << 62);
}
// The same tile, further on.
DEVICE uint64_t advance(uint64_t descriptor, uint32_t bytes) {
  return descriptor + (bytes >> 4);
}
DEVICE void mma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
DEVICE void mma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int PENDING>
DEVICE void mma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

#define XL_D4(io, i) io(d[i]), io(d[i + 1]), io(d[i + 2]), io(d[i + 3])
#define XL_D16(io, i) XL_D4(io, i), XL_D4(io, i + 4), XL_D4(io, i + 8), XL_D4(io, i + 12)
#define XL_D4_ONLY(io) XL_D4(io, 0)
#define XL_D16_ONLY(io) XL_D16(io, 0)
#define XL_D20(io) XL_D16(io, 0), XL_D4(io, 16)
#define XL_D32(io) XL_D16(io, 0), XL_D16(io, 16)
#define XL_D36(io) XL_D32(io), XL_D4(io, 32)
#define XL_D64(io) XL_D16(io, 0), XL_D16(io, 16), XL_D16(io, 32), XL_D16(io, 48)
#define XL_N4 "%0,%1,%2,%3"
#define XL_N16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define XL_N20 XL_N16 ",%16,%17,%18,%19"
#define XL_N32 XL_N16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define XL_N36 XL_N32 ",%32,%33,%34,%35"
#define XL_N64                                                                              \
  XL_N36 ",%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55," \
     "%56,%57,%58,%59,%60,%61,%62,%63"
#define XL_FROM_SHARED() "l"(a), "l"(b)
#define XL_FROM_REGISTERS() "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)

#define XL_WGMMA(keep, io, D, names, shape, operands, tail, inputs)                          \
  asm volatile("{.reg .pred p; setp.ne.b32 p, " keep ", 0;\n"                              \
        "wgmma.mma_async.sync.aligned." shape ".f32.bf16.bf16 {" names "}, " operands \
        ", p, 1, 1, " tail ";}"                                                     \
        : D(io)                                                                     \
        : inputs())
#define XL_PRODUCT(name, count, A, D, names, shape, operands, tail, inputs)                  \
  template <bool FIRST>                                                                    \
  DEVICE void name(float (&d)[count], A a, uint64_t b) {                                \
    if constexpr (FIRST) {                                                               \
      XL_WGMMA("0", "=f", D, names, shape, operands, tail, inputs);                    \
    } else {                                                                             \
      XL_WGMMA("1", "+f", D, names, shape, operands, tail, inputs);                    \
    }                                                                                    \
  }

typedef const uint32_t (&Fragment)[4];

// Both operands in shared memory, k innermost.
XL_PRODUCT(mma32, 16, uint64_t, XL_D16_ONLY, XL_N16, "m64n32k16", "%16, %17", "0, 0",
     XL_FROM_SHARED)
XL_PRODUCT(mma40, 20, uint64_t, XL_D20, XL_N20, "m64n40k16", "%20, %21", "0, 0", XL_FROM_SHARED)
XL_PRODUCT(mma64, 32, uint64_t, XL_D32, XL_N32, "m64n64k16", "%32, %33", "0, 0", XL_FROM_SHARED)
XL_PRODUCT(mma72, 36, uint64_t, XL_D36, XL_N36, "m64n72k16", "%36, %37", "0, 0", XL_FROM_SHARED)
// A transposed.
XL_PRODUCT(mma8_transposed_a, 4, uint64_t, XL_D4_ONLY, XL_N4, "m64n8k16", "%4, %5", "1, 0",
     XL_FROM_SHARED)
XL_PRODUCT(mma64_transposed_a, 32, uint64_t, XL_D32, XL_N32, "m64n64k16", "%32, %33", "1, 0",
     XL_FROM_SHARED)
// Both.
XL_PRODUCT(mma32_transposed, 16, uint64_t, XL_D16_ONLY, XL_N16, "m64n32k16", "%16, %17", "1, 1",
     XL_FROM_SHARED)
// A in registers.
XL_PRODUCT(mma64_registers, 32, Fragment, XL_D32, XL_N32, "m64n64k16", "{%32,%33,%34,%35}, %36",
     "0", XL_FROM_REGISTERS)
// A in registers, B transposed.
XL_PRODUCT(mma32_transposed_b, 16, Fragment, XL_D16_ONLY, XL_N16, "m64n32k16",
     "{%16,%17,%18,%19}, %20", "1", XL_FROM_REGISTERS)
XL_PRODUCT(mma64_transposed_b, 32, Fragment, XL_D32, XL_N32, "m64n64k16", "{%32,%33,%34,%35}, %36",
     "1", XL_FROM_REGISTERS)
XL_PRODUCT(mma128_transposed_b, 64, Fragment, XL_D64, XL_N64, "m64n128k16",
     "{%64,%65,%66,%67}, %68", "1", XL_FROM_REGISTERS)

}  // namespace ptx
#endif
