// What check programs share to time kernels on a GPU: random inputs in place, medians of events, and
// the bandwidth of a copy.
#pragma once

struct FillNormal {
  uint16_t* halves;
  float* floats;
  uint64_t count, seed;
  float mean, spread;
};
KERNEL(256, fill_normal, FillNormal) {
  for (uint64_t e = grid_thread(); e < a.count; e += grid_threads()) {
    uint64_t x = (e + a.seed) * 0x9e3779b97f4a7c15ull;
    float sum = -6;
    for (int r = 0; r < 12; r++) {
      x ^= x >> 31, x *= 0xbf58476d1ce4e5b9ull, x ^= x >> 29;
      sum += (float)(x >> 40) * 0x1p-24f;
    }
    const float value = a.mean + a.spread * sum;
    if (a.halves) a.halves[e] = from_float<bf16>(value).bits;
    if (a.floats) a.floats[e] = value;
  }
}
static void fill(uint16_t* halves, uint64_t count, uint64_t seed) {
  LAUNCH(fill_normal, 1024, 1, 256, 0, (FillNormal{halves, nullptr, count, seed << 32, 0, 1}));
}
static void fill(float* floats, uint64_t count, uint64_t seed, float mean, float spread) {
  LAUNCH(fill_normal, 1024, 1, 256, 0,
         (FillNormal{nullptr, floats, count, seed << 32, mean, spread}));
}

// Milliseconds of one launch after another.
struct Quantiles {
  double median, p20, p80;
};
template <typename Work> static Quantiles time_of(const Work& work, int runs) {
  std::vector<cudaEvent_t> events(runs + 1);
  for (auto& e : events) CHECK(cudaEventCreate(&e));
  for (int r = 0; r < 3; r++) work();
  finish("warm-up");
  CHECK(cudaEventRecord(events[0]));
  for (int r = 0; r < runs; r++) {
    work();
    CHECK(cudaEventRecord(events[r + 1]));
  }
  finish("timed runs");
  std::vector<float> times(runs);
  for (int r = 0; r < runs; r++)
    CHECK(cudaEventElapsedTime(&times[r], events[r], events[r + 1]));
  for (auto& e : events) CHECK(cudaEventDestroy(e));
  std::sort(times.begin(), times.end());
  return {times[runs / 2], times[runs / 5], times[runs * 4 / 5]};
}

// GB/s, read and written, of a device copy.
static double copy_bandwidth() {
  static double found = 0;
  if (found > 0) return found;
  const size_t bytes = 1 << 30;
  void *from = device_alloc(bytes), *to = device_alloc(bytes);
  device_fill(from, 1, bytes);
  const auto copy = [&] { CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice)); };
  found = 2 * bytes / time_of(copy, 21).median * 1e-6;
  device_free(from), device_free(to);
  cudaDeviceProp properties;
  CHECK(cudaGetDeviceProperties(&properties, 0));
  printf("%s, copy %.0f GB/s\n", properties.name, found);
  return found;
}
