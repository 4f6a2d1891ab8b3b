// The functions of CUDA C++, ptx.cuh and ptx_wgmma.cuh over hopper_host.hpp.
#pragma once

inline void __syncthreads() { host::meet(host::active->meeting, host::active->live, "block"); }
inline void __syncwarp() {
  host::meet(host::active->warps[threadIdx.x / 32], 32, "warp");
}
template <typename T>
T __shfl_xor_sync(unsigned, T x, int step) {
  return host::exchange(x, (threadIdx.x % 32) ^ step);
}
template <typename T>
T __shfl_sync(unsigned, T x, int lane) {
  return host::exchange(x, lane);
}
template <typename T>
T __shfl_up_sync(unsigned, T x, int step) {
  const int lane = threadIdx.x % 32;
  return host::exchange(x, lane >= step ? lane - step : lane);
}
template <typename T>
T __shfl_down_sync(unsigned, T x, int step) {
  const int lane = threadIdx.x % 32;
  return host::exchange(x, lane + step < 32 ? lane + step : lane);
}
inline unsigned __ballot_sync(unsigned, bool x) {
  unsigned all = 0;
  for (int lane = 0; lane < 32; lane++) all |= host::exchange((unsigned)x, lane) << lane;
  return all;
}
inline int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline float __uint_as_float(uint32_t x) {
  float y;
  memcpy(&y, &x, 4);
  return y;
}
inline uint32_t __float_as_uint(float x) {
  uint32_t y;
  memcpy(&y, &x, 4);
  return y;
}
inline float __int_as_float(int x) { return __uint_as_float(x); }

namespace ptx {

struct Box {
  int column, token, block, head, batch;
};

inline unsigned char* dynamic_shared() { return host::active->shared; }
inline uint32_t shared_address(const void* p) {
  const size_t at = (const unsigned char*)p - host::active->shared;
  if (at >= host::shared_bytes) host::fail("not in shared memory");
  return at;
}
inline uint32_t opaque(uint32_t x) { return x; }
inline uint32_t thread_index() { return threadIdx.x; }

inline void barrier_init(uint32_t at, int count) {
  host::barrier_at(at) = {(uint16_t)count, (uint16_t)count, 0, 0};
}
inline void barrier_init_fence() {}
inline void barrier_arrive(uint32_t at) {
  host::Barrier& b = host::barrier_at(at);
  if (b.missing == 0) host::fail("more arrivals than a barrier expects");
  b.missing--;
  host::settle(b);
}
inline void barrier_expect(uint32_t at, int bytes) {
  host::Barrier& b = host::barrier_at(at);
  if (b.missing == 0) host::fail("more arrivals than a barrier expects");
  b.bytes += bytes;
  b.missing--;
  host::settle(b);
}
inline void barrier_wait(uint32_t at, int parity) {
  while (host::barrier_at(at).phase == (unsigned)parity) host::yield("mbarrier");
}
inline void named_barrier(int id, int threads) {
  host::Meeting& m = host::active->named[id];
  if (m.threads != 0 && m.threads != threads) host::fail("a named barrier of two sizes");
  m.threads = threads;
  host::meet(m, threads, "named barrier");
}
inline void fence_async() {}
inline void cluster_barrier() {
  host::meet(host::cluster_meeting, host::cluster_threads, "cluster");
}
inline void barrier_arrive_remote(uint32_t at, int block) {
  host::Block* const mine = host::active;
  host::active = &host::blocks[block];
  barrier_arrive(at);
  host::active = mine;
}

inline void landed(uint32_t barrier, int bytes) {
  host::Barrier& b = host::barrier_at(barrier);
  b.bytes -= bytes;
  host::settle(b);
}
inline void store_remote(uint32_t to, uint32_t barrier, int block, const uint32_t (&x)[4]) {
  if (to % 16) host::fail("store not aligned");
  const std::vector<uint32_t> words(x, x + 4);
  host::transfers.push_back({&host::blocks[block], [=] {
    memcpy(host::active->shared + to, words.data(), 16);
    landed(barrier, 16);
  }});
}
// Every element of a box: `visit(shared address, global address or null)`.
template <typename Visit>
void visit_box(const TensorMap* map, uint32_t tile, Box b, const Visit& visit) {
  const uint64_t* m = map->opaque;
  const int64_t from[5] = {b.column, b.token, b.block, b.head, b.batch};
  if (tile % 1024) host::fail("tile not aligned to the swizzle");
  for (uint64_t block = 0; block < m[12]; block++)
    for (uint64_t row = 0; row < m[11]; row++)
      for (uint64_t column = 0; column < m[10]; column++) {
        const int64_t at[5] = {from[0] + (int64_t)column, from[1] + (int64_t)row,
                               from[2] + (int64_t)block, from[3], from[4]};
        char* global = (char*)m[0] + at[0] * 2;
        bool inside = true;
        for (int d = 0; d < 5; d++) {
          inside = inside && at[d] >= 0 && at[d] < (int64_t)m[1 + d];
          if (d) global += at[d] * (int64_t)m[5 + d];
        }
        const uint32_t to = tile + (uint32_t)((block * m[11] + row) * 128 + column * 2);
        visit(host::swizzled(to), inside ? (uint16_t*)global : nullptr);
      }
}
inline void tensor_load(
    uint32_t to, const TensorMap* map, uint32_t barrier, Box b, host::Block* block = host::active) {
  host::transfers.push_back({block, [=] {
    visit_box(map, to, b, [](uint32_t at, const uint16_t* from) {
      host::half_at(at) = from ? *from : 0;
    });
    landed(barrier, (int)(map->opaque[10] * map->opaque[11] * map->opaque[12] * 2));
  }});
}
inline void tensor_load_both(uint32_t to, const TensorMap* map, uint32_t barrier, Box b) {
  for (int block = 0; block < 2; block++) tensor_load(to, map, barrier, b, &host::blocks[block]);
}
inline void tensor_store(const TensorMap* map, uint32_t from, Box b) {
  host::current->stores.push_back(host::transfers.size());
  host::transfers.push_back({host::active, [=] {
    visit_box(map, from, b, [](uint32_t at, uint16_t* to) {
      if (to) *to = host::half_at(at);
    });
  }});
}
inline void bulk_load(uint32_t to, const void* from, int bytes, uint32_t barrier) {
  if (to % 16 || (uintptr_t)from % 16 || bytes % 16) host::fail("bulk copy not aligned");
  host::transfers.push_back({host::active, [=] {
    memcpy(host::active->shared + to, from, bytes);
    landed(barrier, bytes);
  }});
}
inline void store_remote(uint32_t to, uint32_t barrier, int block, float x) {
  if (to % 4) host::fail("store not aligned");
  host::transfers.push_back({&host::blocks[block], [=] {
    memcpy(host::active->shared + to, &x, 4);
    landed(barrier, 4);
  }});
}
inline void give(uint32_t at, int bytes, uint32_t barrier, int block) {
  if (at % 16 || bytes % 16) host::fail("copy not aligned");
  host::Block* const from = host::active;
  host::transfers.push_back({&host::blocks[block], [=] {
    memcpy(host::active->shared + at, from->shared + at, bytes);
    landed(barrier, bytes);
  }});
}
inline void stores_read() {
  for (size_t i : host::current->stores)
    while (!host::transfers[i].done) host::yield("stores");
  host::current->stores.clear();
}
inline void stores_done() { stores_read(); }

// Lane 8i + r addresses row r of matrix i; lane l holds elements (l/4, 2·(l%4)) and the next.
inline void rows_of(uint32_t address, uint32_t (&rows)[32]) {
  for (int lane = 0; lane < 32; lane++) rows[lane] = host::exchange(address, lane);
}
inline void load_fragments(uint32_t (&r)[4], uint32_t from, bool transposed) {
  uint32_t rows[32];
  rows_of(from, rows);
  const int lane = threadIdx.x % 32, row = lane / 4, column = lane % 4 * 2;
  for (int i = 0; i < 4; i++) {
    uint32_t x[2];
    for (int e = 0; e < 2; e++)
      x[e] = host::half_at(transposed ? rows[8 * i + column + e] + row * 2
                                      : rows[8 * i + row] + (column + e) * 2);
    r[i] = x[0] | x[1] << 16;
  }
  __syncwarp();
}
inline void load_transposed(uint32_t (&r)[4], uint32_t from) { load_fragments(r, from, true); }
inline void load_matrices(uint32_t (&r)[4], uint32_t from) { load_fragments(r, from, false); }
inline void store_fragments(uint32_t to, const uint32_t (&r)[4], bool transposed) {
  uint32_t rows[32];
  rows_of(to, rows);
  const int lane = threadIdx.x % 32, row = lane / 4, column = lane % 4 * 2;
  for (int i = 0; i < 4; i++)
    for (int e = 0; e < 2; e++) {
      const uint32_t at = transposed ? rows[8 * i + column + e] + row * 2
                                     : rows[8 * i + row] + (column + e) * 2;
      host::half_at(at) = e ? r[i] >> 16 : r[i] & 0xffff;
    }
  __syncwarp();
}
inline void store_matrices(uint32_t to, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  store_fragments(to, {a, b, c, d}, false);
}
inline void store_transposed(uint32_t to, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  store_fragments(to, {a, b, c, d}, true);
}
inline void store_word(uint32_t to, uint32_t x) { *(uint32_t*)(host::active->shared + to) = x; }
inline void store_words(uint32_t to, const uint32_t (&x)[2]) {
  if (to % 8) host::fail("store not aligned");
  memcpy(host::active->shared + to, x, 8);
}
inline void load_words(uint32_t (&x)[4], uint32_t from) {
  if (from % 16) host::fail("load not aligned");
  memcpy(x, host::active->shared + from, 16);
}
inline float select_at_most(uint32_t x, uint32_t limit, float value, float otherwise) {
  return x <= limit ? value : otherwise;
}

inline float low_half(uint32_t x) { return host::bf16_float(x & 0xffff); }
inline float high_half(uint32_t x) { return host::bf16_float(x >> 16); }
inline uint32_t pack(float low, float high) {
  return host::float_bf16(low) | host::float_bf16(high) << 16;
}
inline uint32_t multiply_pairs(uint32_t a, uint32_t b) {
  return pack(low_half(a) * low_half(b), high_half(a) * high_half(b));
}
template <int COUNT>
void registers_less() {}
template <int COUNT>
void registers_more() {}

inline uint64_t descriptor(uint32_t address, uint32_t pitch) {
  return (uint64_t)(address >> 4) | (uint64_t)(pitch >> 4) << 16 | 64ull << 32 | 1ull << 62;
}
inline uint64_t descriptor_32(uint32_t address) {
  return (uint64_t)(address >> 4) | 1ull << 16 | 32ull << 32 | 2ull << 62;
}
inline uint64_t advance(uint64_t descriptor, uint32_t bytes) { return descriptor + (bytes >> 4); }
inline void mma_fence() {}
inline void mma_commit() { host::commit(); }
template <int PENDING>
void mma_wait() {
  host::wait_groups(PENDING);
}

#define HOST_PRODUCT(name, columns, from_shared, a_transposed, b_transposed, A)                  \
  template <bool FIRST>                                                                          \
  void name(float (&d)[columns / 2], A a, uint64_t b) {                                          \
    host::Product p{columns, 0, FIRST, !from_shared, a_transposed, b_transposed, 0, b, {}, {}};  \
    host::issue(p, a, d);                                                                        \
  }
}  // namespace ptx

namespace host {
inline void issue(Product p, uint64_t a, float* d) {
  p.a = a;
  issue(p, d, nullptr);
}
inline void issue(Product p, const uint32_t* fragment, float* d) { issue(p, d, fragment); }
}  // namespace host

namespace ptx {
typedef const uint32_t (&Fragment)[4];
HOST_PRODUCT(mma32, 32, true, false, false, uint64_t)
HOST_PRODUCT(mma40, 40, true, false, false, uint64_t)
HOST_PRODUCT(mma64, 64, true, false, false, uint64_t)
HOST_PRODUCT(mma72, 72, true, false, false, uint64_t)
HOST_PRODUCT(mma8_transposed_a, 8, true, true, false, uint64_t)
HOST_PRODUCT(mma64_transposed_a, 64, true, true, false, uint64_t)
HOST_PRODUCT(mma32_transposed, 32, true, true, true, uint64_t)
HOST_PRODUCT(mma64_registers, 64, false, false, false, Fragment)
HOST_PRODUCT(mma32_transposed_b, 32, false, false, true, Fragment)
HOST_PRODUCT(mma64_transposed_b, 64, false, false, true, Fragment)
HOST_PRODUCT(mma128_transposed_b, 128, false, false, true, Fragment)
}  // namespace ptx
