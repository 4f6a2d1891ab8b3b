// Kernels of the emulator's own test: what must work, and mistakes that must be found.

#pragma once

#include "common.cuh"

struct TestArgs {
  const float* in;
  float* out;
  uint32_t* counter;
  uint64_t count;
  uint32_t mode;
};

/// Sum of each block's share, then of the blocks by whoever is last: shuffles, barriers, atomics.
KERNEL(256, test_sum, TestArgs) {
  __shared__ float scratch[32];
  __shared__ unsigned last;
  float sum = 0;
  for (uint64_t i = grid_thread(); i < a.count; i += grid_threads()) sum += a.in[i];
  sum = block_sum(sum, scratch);
  if (threadIdx.x == 0) {
    a.out[1 + blockIdx.x] = sum;
    __threadfence();
    last = atomicAdd(a.counter, 1u) + 1 == gridDim.x;
  }
  __syncthreads();
  if (!last) return;
  float total = 0;
  for (unsigned i = threadIdx.x; i < gridDim.x; i += blockDim.x) total += a.out[1 + i];
  total = block_sum(total, scratch);
  if (threadIdx.x == 0) a.out[0] = total;
}

/// Every warp operation once; each lane writes its own results.
KERNEL(64, test_warp, TestArgs) {
  const int lane = threadIdx.x % 32;
  float* out = a.out + threadIdx.x * 8;
  const double wide = lane * 1.5;
  out[0] = __shfl_up_sync(full_mask, static_cast<float>(lane), 3);
  out[1] = __shfl_down_sync(full_mask, static_cast<float>(lane), 3, 8);
  out[2] = static_cast<float>(__shfl_sync(full_mask, wide, 9, 8));
  out[3] = static_cast<float>(__shfl_xor_sync(full_mask, lane, 5));
  out[4] = __uint_as_float(__ballot_sync(full_mask, lane % 3 == 0));
  out[5] = static_cast<float>(__any_sync(full_mask, lane == 31));
  out[6] = static_cast<float>(__all_sync(full_mask, lane != 31));
  __syncwarp();
  // Odd lanes leave: the even ones still meet, and read 0xFF bytes from those who have left.
  if (lane % 2 == 1) {
    out[7] = 0;
    return;
  }
  out[7] = __shfl_xor_sync(full_mask, 1.0f, lane == 0 ? 2 : 1);
}

/// Index arithmetic in three dimensions, and the order of shared memory uses between barriers.
KERNEL(1024, test_index, TestArgs) {
  SHARED(float, reversed);
  const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  for (int round = 0; round < 3; round++) {
    reversed[thread] = static_cast<float>(block * threads + thread + round);
    __syncthreads();
    a.out[block * threads + thread] = reversed[threads - 1 - thread];
    __syncthreads();
  }
}

/// Shared memory nobody has written.
KERNEL(32, test_uninitialised, TestArgs) {
  __shared__ float fixed[40];
  SHARED(float, dynamic);
  a.out[2 * blockIdx.x] = fixed[threadIdx.x];
  a.out[2 * blockIdx.x + 1] = dynamic[threadIdx.x];
  __syncthreads();
  fixed[threadIdx.x] = dynamic[threadIdx.x] = 1;
}

namespace test {

constexpr uint32_t lines = 0, missing = 1, partial = 2, past_memory = 3, past_shared = 4, null = 5,
                   misaligned = 6, stack = 7, division = 8, trips = 9, freed = 10, index = 11;

/// Leaves through recursion the compiler cannot turn into a loop.
__attribute__((noinline)) static int deep(volatile int* from, int depth) {
  volatile int frame[256];
  frame[depth % 256] = from[0];
  return depth == 0 ? frame[0] : deep(frame, depth - 1) + frame[depth % 256];
}

}  // namespace test

/// One mistake per mode.
KERNEL(64, test_mistake, TestArgs) {
  SHARED(float, dynamic);
  const unsigned lane = threadIdx.x % 32;
  volatile int number = static_cast<int>(a.count);
  switch (a.mode) {
    case test::lines:
      if (lane < 16)
        __syncwarp();
      else
        __syncwarp();
      break;
    case test::missing:
      if (threadIdx.x < 40)
        __syncthreads();
      else
        __syncwarp();
      break;
    case test::partial: __shfl_xor_sync(0xffffu, 1.0f, 1); break;
    case test::past_memory: a.out[a.count] = 1; break;
    case test::past_shared: dynamic[16] = 1; break;
    case test::null: *reinterpret_cast<volatile float*>(a.counter) = 1; break;
    case test::misaligned: {
      const float4 value = *reinterpret_cast<const float4*>(a.out + 1);
      a.out[0] = value.x + value.y + value.z + value.w;
      break;
    }
    case test::stack: a.out[0] = static_cast<float>(test::deep(&number, 1000)); break;
    case test::division: number = 7 / (number - static_cast<int>(a.count)); break;
    case test::trips:
      for (unsigned i = lane; i < 40; i += 32) a.out[lane] = warp_sum(a.out[lane]);
      __syncwarp();
      break;
    case test::index: {
      float few[4] = {1, 2, 3, 4};
      few[lane % 4] = 0;
      a.out[threadIdx.x] = few[lane / 4];
      break;
    }
    case test::freed: a.out[threadIdx.x] = a.in[threadIdx.x]; break;
  }
}
