// slstm_ptx.cuh over hopper_host.hpp.
#pragma once

namespace host {
struct WarpProduct {
  uint32_t a[32][4], b[32][2];
};
}  // namespace host

namespace ptx {

inline void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  static host::WarpProduct products[8][32][2];
  const int thread = threadIdx.x, lane = thread % 32;
  host::Meeting& warp = host::active->warps[thread / 32];
  host::WarpProduct& p =
      products[host::active - host::blocks][thread / 32][warp.generation & 1];
  for (int i = 0; i < 4; i++) p.a[lane][i] = a[i];
  p.b[lane][0] = b0, p.b[lane][1] = b1;
  host::meet(warp, 32, "product");
  for (int e = 0; e < 4; e++) {
    const int row = lane / 4 + e / 2 * 8, column = lane % 4 * 2 + e % 2;
    for (int k = 0; k < 16; k++) {
      const uint32_t x = p.a[row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2];
      const uint32_t y = p.b[column * 4 + k % 8 / 2][k / 8];
      d[e] += (k % 2 ? high_half(x) : low_half(x)) * (k % 2 ? high_half(y) : low_half(y));
    }
  }
}
inline void load_two_matrices(uint32_t (&r)[2], uint32_t from) {
  uint32_t x[4];
  load_fragments(x, from, false);
  r[0] = x[0], r[1] = x[1];
}
inline void copy_or_zero(uint32_t to, const void* from, bool exists) {
  if (to % 16 || (uintptr_t)from % 16) host::fail("copy not aligned");
  if (exists) memcpy(host::active->shared + to, from, 16);
  else memset(host::active->shared + to, 0, 16);
}
inline float least(float x, float y) { return x != x || x < y ? x : y; }
inline float greatest(float x, float y) { return x != x || x > y ? x : y; }
inline uint32_t load_half(uint32_t from) { return host::half_at(from); }
inline void store_half(uint32_t to, uint32_t x) { host::half_at(to) = (uint16_t)x; }

}  // namespace ptx
