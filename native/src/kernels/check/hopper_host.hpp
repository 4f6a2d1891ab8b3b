// ptx.cuh and ptx_wgmma.cuh for a processor: blocks of fibers, mbarriers, a copy engine and matrix
// units that answer late and out of order, so that a kernel that waits for too little goes wrong.
// What it checks: bytes expected, phases, arrival counts, addresses, swizzles, deadlocks. A check
// program's tool; the product never runs it.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <functional>
#include <vector>

#define DEVICE __device__ __forceinline__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__
#define HOPPER_KERNEL(threads, name, Args) void name(const Args& a)
#define KERNEL(threads, name, Args) void name(const Args& a)
#define KERNEL_AHEAD(threads, name, Args) void name(const Args& a)
#define RESIDENT_KERNEL(threads, blocks, name, Args) void name(const Args& a)
#define __shared__ static

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(64) TensorMap {
  uint64_t opaque[16];  // base, 5 extents, 4 pitches in bytes, 5 box sizes
};

namespace host {

struct Index {
  unsigned x, y, z;
};
struct Block;
struct Fiber {
  void* stack_pointer;
  Block* block;
  Index thread;
  bool done;
  const char* at;  // what it waits for
  std::vector<size_t> stores;
};
struct Meeting {  // threads wait for each other
  int arrived = 0, threads = 0;
  uint64_t generation = 0;
  uint64_t data[2][32];
};
struct Product {
  int columns, issued = 0;
  bool first, from_registers, a_transposed, b_transposed;
  uint64_t a, b;
  float* d[128];
  uint32_t fragment[128][4];
};
struct MatrixUnit {
  std::vector<Product> queue;
  std::vector<size_t> groups;  // ends of committed groups
  size_t done = 0, next[128] = {}, commits[128] = {};
  Meeting meeting;
};
struct Transfer {
  Block* block;  // whose shared memory `run` means
  std::function<void()> run;
  bool done = false;
  uint64_t due = 0;  // round
};
struct Block {
  unsigned char* shared = nullptr;
  Index index;
  int live;
  Meeting meeting, warps[32], named[16];
  MatrixUnit units[4];
  int pause[4] = {};  // rounds that a warpgroup sleeps
};

constexpr size_t stack_bytes = 256 << 10, shared_bytes = 227 << 10;
inline Block blocks[8];  // a cluster
inline Block* active = nullptr;
inline Meeting cluster_meeting;
inline int cluster_threads = 0;
inline std::vector<Fiber> fibers;
inline Fiber* current = nullptr;
inline void* scheduler;
inline char* stacks = nullptr;
inline Index block_size, grid_size;
inline std::function<void()> body;
inline std::vector<Transfer> transfers;
inline size_t first_transfer = 0;
inline uint64_t progress = 0, round = 0, seed = 1;
inline const char* kernel_name = "";

inline uint32_t random() {
  seed = seed * 6364136223846793005ull + 1442695040888963407ull;
  return seed >> 33;
}
[[noreturn]] inline void fail(const char* what) {
  printf("EMULATOR %s block %u thread %d: %s\n", kernel_name, active ? active->index.x : 0,
         current ? (int)current->thread.x : -1, what);
  fflush(stdout);
  abort();
}

extern "C" void host_switch(void** from, void* to);
asm(R"(
.text
.globl host_switch
host_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
)");

__attribute__((noinline)) inline void yield(const char* at) {
  current->at = at;
  Fiber* me = current;
  host_switch(&me->stack_pointer, scheduler);
}
inline void entry() {
  body();
  current->done = true;
  current->block->live--;
  progress++;
  yield("exit");
  abort();
}

inline void transfer_some(bool all) {
  while (first_transfer < transfers.size() && transfers[first_transfer].done) first_transfer++;
  for (size_t i = first_transfer; i < transfers.size(); i++) {
    if (!transfers[i].due) transfers[i].due = round + 1 + random() % (1 << random() % 10);
    if (transfers[i].done || (!all && transfers[i].due > round)) continue;
    transfers[i].done = true;
    active = transfers[i].block;
    const std::function<void()> run = transfers[i].run;
    run();
    progress++;
  }
}

inline void prepare_block(Block& b, unsigned index, unsigned row, int threads) {
  if (!b.shared) b.shared = (unsigned char*)aligned_alloc(1 << 18, 1 << 18);
  memset(b.shared, 0xff, shared_bytes);
  b.index = {index, row, 0};
  b.live = threads;
  b.meeting = Meeting{};
  for (auto& m : b.warps) m = Meeting{};
  for (auto& m : b.named) m = Meeting{};
  for (auto& u : b.units) u = MatrixUnit{};
  for (int i = 0; i < threads; i++) {
    Fiber f{};
    f.block = &b;
    f.thread = {(unsigned)i, 0, 0};
    void** top = (void**)(stacks + stack_bytes * (fibers.size() + 1)) - 8;
    for (int r = 0; r < 6; r++) top[r] = nullptr;
    top[6] = (void*)entry;
    f.stack_pointer = top;
    fibers.push_back(f);
  }
}
// Warpgroups fall asleep now and then, so that the others run ahead.
inline bool run_round() {
  bool alive = false;
  round++;
  for (auto& b : blocks)
    for (int& pause : b.pause) {
      if (pause > 0) {
        pause--;
        progress++;
      } else if (random() % 128 == 0) {
        pause = random() % 400;
        progress++;
      }
    }
  for (auto& f : fibers) {
    if (f.done) continue;
    alive = true;
    if (f.block->pause[f.thread.x / 128 % 4] > 0) continue;
    current = &f;
    active = f.block;
    host_switch(&scheduler, f.stack_pointer);
  }
  current = nullptr;
  return alive;
}
// The blocks of one cluster, from `first` on.
inline void run_cluster(unsigned first, unsigned row, int threads, int cluster) {
  if (!stacks)
    stacks = (char*)mmap(0, stack_bytes * 1024, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  fibers.clear();
  transfers.clear();
  first_transfer = 0;
  cluster_meeting = Meeting{};
  cluster_threads = threads * cluster;
  for (int b = 0; b < cluster; b++) prepare_block(blocks[b], first + b, row, threads);
  for (;;) {
    const uint64_t before = progress;
    if (!run_round()) break;
    transfer_some(false);
    if (progress != before) continue;
    transfer_some(true);
    if (progress != before) continue;
    for (auto& f : fibers)
      if (!f.done && f.thread.x % 32 == 0)
        printf("  block %u thread %u waits: %s\n", f.block->index.x, f.thread.x, f.at);
    fail("deadlock");
  }
  transfer_some(true);
  for (int b = 0; b < cluster; b++)
    for (auto& u : blocks[b].units)
      if (u.done != u.queue.size()) fail("products nobody waited for");
}

inline void meet(Meeting& m, int threads, const char* at) {
  const uint64_t generation = m.generation;
  if (++m.arrived == threads) {
    m.arrived = 0;
    m.generation++;
    progress++;
    return;
  }
  while (m.generation == generation) yield(at);
}

template <typename T>
T exchange(T x, int from) {
  Meeting& m = active->warps[current->thread.x / 32];
  const int slot = m.generation & 1, lane = current->thread.x % 32;
  memcpy(&m.data[slot][lane], &x, sizeof(T));
  meet(m, 32, "shuffle");
  T y;
  memcpy(&y, &m.data[slot][from], sizeof(T));
  return y;
}

inline float bf16_float(uint32_t x) {
  const uint32_t bits = x << 16;
  float y;
  memcpy(&y, &bits, 4);
  return y;
}
inline uint32_t float_bf16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if (x != x) return bits >> 16 | 0x40;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
inline uint32_t swizzled(uint32_t address) { return address ^ ((address >> 7 & 7) << 4); }
inline uint32_t swizzled_32(uint32_t address) { return address ^ ((address >> 7 & 3) << 4); }
inline uint16_t& half_at(uint32_t address) { return *(uint16_t*)(active->shared + address); }

// mbarrier: 16 bits of arrivals missing, 16 of the count, a phase bit, 31 of bytes missing.
struct Barrier {
  uint16_t missing, count;
  int32_t bytes : 31;
  uint32_t phase : 1;
};
inline Barrier& barrier_at(uint32_t address) {
  if (address % 8) fail("barrier not aligned");
  return *(Barrier*)(active->shared + address);
}
inline void settle(Barrier& b) {
  if (b.missing || b.bytes) return;
  b.missing = b.count;
  b.phase ^= 1;
  progress++;
}

// A or B of a product: element (row of the 64 or N, k).
inline float operand(uint64_t d, bool transposed, int row, int k) {
  const uint32_t start = (d & 0x3fff) << 4, pitch = (d >> 16 & 0x3fff) << 4;
  const uint32_t stride = (d >> 32 & 0x3fff) << 4;
  if (d >> 62 == 2 && stride == 512) {  // rows of 32 columns
    const int line = transposed ? k : row, column = transposed ? row : k;
    return bf16_float(half_at(swizzled_32(start + line / 8 * stride + line % 8 * 64 + column * 2)));
  }
  if (d >> 62 != 1 || stride != 1024) fail("descriptor");
  const uint32_t at = transposed
                          ? start + row / 64 * pitch + k / 8 * stride + k % 8 * 128 + row % 64 * 2
                          : start + row / 8 * stride + row % 8 * 128 + k * 2;
  return bf16_float(half_at(swizzled(at)));
}
inline void multiply(Product& p) {
  static float a[64][16], b[256][16];
  for (int row = 0; row < 64; row++)
    for (int k = 0; k < 16; k++) {
      if (!p.from_registers) {
        a[row][k] = operand(p.a, p.a_transposed, row, k);
        continue;
      }
      const int thread = row / 16 * 32 + row % 8 * 4 + k % 8 / 2;
      const uint32_t pair = p.fragment[thread][row % 16 / 8 + k / 8 * 2];
      a[row][k] = bf16_float(k % 2 ? pair >> 16 : pair & 0xffff);
    }
  for (int n = 0; n < p.columns; n++)
    for (int k = 0; k < 16; k++) b[n][k] = operand(p.b, p.b_transposed, n, k);
  for (int t = 0; t < 128; t++)
    for (int i = 0; i < p.columns / 2; i++) {
      const int row = t / 32 * 16 + t % 32 / 4 + i % 4 / 2 * 8, n = i / 4 * 8 + t % 4 * 2 + i % 2;
      float sum = 0;
      for (int k = 0; k < 16; k++) sum += a[row][k] * b[n][k];
      p.d[t][i] = p.first ? sum : p.d[t][i] + sum;
    }
}
inline MatrixUnit& unit() { return active->units[current->thread.x / 128]; }
inline void issue(Product p, float* d, const uint32_t* fragment) {
  MatrixUnit& u = unit();
  const int t = current->thread.x % 128;
  if (u.next[t] == u.queue.size()) u.queue.push_back(p);
  Product& q = u.queue[u.next[t]++];
  if (q.a != p.a || q.b != p.b || q.columns != p.columns) fail("threads differ in a product");
  q.d[t] = d;
  if (fragment) memcpy(q.fragment[t], fragment, 16);
  // At once, or as late as the waits allow.
  if (++q.issued == 128 && u.done == u.next[t] - 1 && random() % 2) {
    multiply(q);
    u.done++;
  }
}
inline void commit() {
  MatrixUnit& u = unit();
  const int t = current->thread.x % 128;
  if (u.commits[t]++ == u.groups.size()) u.groups.push_back(u.next[t]);
  if (u.groups[u.commits[t] - 1] != u.next[t]) fail("threads differ in a group");
}
inline void wait_groups(size_t pending) {
  MatrixUnit& u = unit();
  const uint64_t generation = u.meeting.generation;
  if (++u.meeting.arrived == 128) {
    const size_t groups = u.groups.size() > pending ? u.groups.size() - pending : 0;
    for (const size_t end = groups ? u.groups[groups - 1] : 0; u.done < end; u.done++)
      multiply(u.queue[u.done]);
    u.meeting.arrived = 0;
    u.meeting.generation++;
    progress++;
    return;
  }
  while (u.meeting.generation == generation) yield("products");
}

}  // namespace host

#define threadIdx (host::current->thread)
#define blockIdx (host::active->index)
#define blockDim (host::block_size)
#define gridDim (host::grid_size)
#include "hopper_host_ptx.hpp"
