// Sums of {value, value} rows in an order that depends on nothing but their number, by one block:
// runs of 32 rows, one thread each, then the runs one after the other. One thread alone would take
// longer over the parts of a large tensor than all blocks that made them.
#pragma once
#include "common.cuh"

struct Twice {
  double first, second;
};

constexpr int staged_rows = 1024;
constexpr int run_rows = 32;

DEVICE void add_rows(Twice& sum, const Twice* rows, int count) {
#pragma unroll 8
  for (int i = 0; i < count; i++) {
    sum.first += rows[i].first;
    sum.second += rows[i].second;
  }
}

/// Thread 0 gets the sum of rows[0 … count). All threads call, at most `staged_rows` of them.
/// `staging` is shared and holds `staged_rows`.
DEVICE Twice ordered_sum(const Twice* rows, uint64_t count, Twice* staging) {
  const uint64_t runs = (count + run_rows - 1) / run_rows;
  Twice sum = {0.0, 0.0};
  for (uint64_t first = 0; first < runs; first += blockDim.x) {
    const uint64_t run = first + threadIdx.x, low = run * run_rows;
    if (run < runs) {
      Twice part = {0.0, 0.0};
      add_rows(part, rows + low, (int)(count - low < run_rows ? count - low : run_rows));
      staging[threadIdx.x] = part;
    }
    __syncthreads();
    const uint64_t left = runs - first;
    if (threadIdx.x == 0) add_rows(sum, staging, (int)(left < blockDim.x ? left : blockDim.x));
    __syncthreads();
  }
  return sum;
}
