// Sums of {value, value} rows in their order, by one block: the others stage what one thread adds.
// A tree would be faster but depend on how many rows there are.
#pragma once
#include "common.cuh"

struct Twice {
  double first, second;
};

constexpr int staged_rows = 1024;

/// Thread 0 gets the sum of rows[0 … count), added one after the other. All threads call.
/// `staging` is shared and holds `staged_rows`.
DEVICE Twice ordered_sum(const Twice* rows, uint64_t count, Twice* staging) {
  Twice sum = {0.0, 0.0};
  for (uint64_t low = 0; low < count; low += staged_rows) {
    const int n = (int)(count - low < staged_rows ? count - low : staged_rows);
    for (int i = threadIdx.x; i < n; i += blockDim.x) staging[i] = rows[low + i];
    __syncthreads();
    if (threadIdx.x == 0) {
#pragma unroll 8
      for (int i = 0; i < n; i++) {
        sum.first += staging[i].first;
        sum.second += staging[i].second;
      }
    }
    __syncthreads();
  }
  return sum;
}
