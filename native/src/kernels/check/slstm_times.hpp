// The resident sLSTM at full size: against the simple kernels, twice for the same bits, and the
// times of both. Floor: 10 bytes a unit and token forward, 28 more backward, at copy bandwidth.
#pragma once

struct FillNormal {
  uint16_t* halves;
  float* floats;
  uint64_t count, seed;
  float spread;
};
KERNEL(256, fill_normal, FillNormal) {
  for (uint64_t e = grid_thread(); e < a.count; e += grid_threads()) {
    uint64_t x = (e + a.seed) * 0x9e3779b97f4a7c15ull;
    float sum = -6;
    for (int r = 0; r < 12; r++) {
      x ^= x >> 31, x *= 0xbf58476d1ce4e5b9ull, x ^= x >> 29;
      sum += (float)(x >> 40) * 0x1p-24f;
    }
    if (a.halves) a.halves[e] = from_float<bf16>(a.spread * sum).bits;
    if (a.floats) a.floats[e] = a.spread * sum;
  }
}

template <typename Work> static double median_ms(const Work& work) {
  constexpr int runs = 21;
  cudaEvent_t events[runs + 1];
  for (auto& e : events) CHECK(cudaEventCreate(&e));
  for (int r = 0; r < 2; r++) work();
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
  return times[runs / 2];
}

// GB/s, read and written, of a device copy.
static double copy_bandwidth() {
  static double found = 0;
  if (found > 0) return found;
  const size_t bytes = 1 << 30;
  void *from = device_alloc(bytes), *to = device_alloc(bytes);
  device_fill(from, 1, bytes);
  found = 2 * bytes * 1e-6 / median_ms([&] {
            CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice));
          });
  device_free(from), device_free(to);
  cudaDeviceProp properties;
  CHECK(cudaGetDeviceProperties(&properties, 0));
  printf("%s, copy %.0f GB/s\n", properties.name, found);
  return found;
}

struct Outputs {
  std::vector<uint16_t> y, dwx;
  std::vector<float> last, dr, db, dinitial;
  explicit Outputs(const Problem& p) {
    y = fetch(p.y, p.s.cells()), dwx = fetch(p.dwx, 4 * p.s.cells());
    last = fetch(p.last, 4 * p.s.units()), dinitial = fetch(p.dinitial, 4 * p.s.units());
    dr = fetch(p.dr, p.s.weights()), db = fetch(p.db, (size_t)4 * p.s.heads * p.s.width);
  }
  static void compare(const char* shape, const char* name, const std::vector<float>& x,
                      const std::vector<float>& want, double bar) {
    Error e{name, bar};
    for (size_t n = 0; n < x.size(); n++) e.add(x[n], want[n]);
    e.report(shape, false);
  }
  static void compare(const char* shape, const char* name, const std::vector<uint16_t>& x,
                      const std::vector<uint16_t>& want, double bar) {
    Error e{name, bar};
    for (size_t n = 0; n < x.size(); n++) e.add(of_bf16(x[n]), of_bf16(want[n]));
    e.report(shape, false);
  }
  void compare(const char* shape, const Outputs& want) const {
    compare(shape, "y", y, want.y, 5e-3), compare(shape, "dwx", dwx, want.dwx, 2e-2);
    compare(shape, "last", last, want.last, 1e-2), compare(shape, "dR", dr, want.dr, 2e-2);
    compare(shape, "db", db, want.db, 2e-2);
    compare(shape, "dinitial", dinitial, want.dinitial, 2e-2);
  }
  bool operator==(const Outputs& o) const {
    return y == o.y && dwx == o.dwx && last == o.last && dr == o.dr && db == o.db &&
           dinitial == o.dinitial;
  }
};

static void resident(const Problem& p) {
  p.forward(true);
  p.backward();
  p.weights();
}

static void time_passes(const Shape& s) {
  const double copy = copy_bandwidth();
  printf("%s: %d x %d, %d heads of %d\n", s.name, s.batch, s.length, s.heads, s.width);
  fflush(stdout);
  Problem p(s);
  LAUNCH(fill_normal, 1024, 1, 256, 0, (FillNormal{p.wx, nullptr, 4 * s.cells(), 0, 1}));
  LAUNCH(fill_normal, 1024, 1, 256, 0, (FillNormal{p.dy, nullptr, s.cells(), 1ull << 32, 1}));
  LAUNCH(fill_normal, 1024, 1, 256, 0,
         (FillNormal{nullptr, p.r, s.weights(), 2ull << 32, 0.5f / sqrtf((float)s.width)}));
  LAUNCH(fill_normal, 1024, 1, 256, 0,
         (FillNormal{nullptr, p.b, (uint64_t)4 * s.heads * s.width, 3ull << 32, 1}));
  resident(p);
  finish("resident");
  const Outputs one(p);
  p.spoil();
  resident(p);
  finish("resident");
  if (!(Outputs(p) == one)) printf("  %s: DIFFERENT BITS, WRONG\n", s.name), failures++;
  p.spoil();
  p.simple_forward(true);
  p.simple_backward();
  finish("simple");
  one.compare(s.name, Outputs(p));

  const double floor = 10e-6 * s.cells() / copy, both_floor = 38e-6 * s.cells() / copy;
  const double inference = median_ms([&] { p.forward(false); });
  const double forward = median_ms([&] { p.forward(true); });
  const double backward = median_ms([&] { p.backward(); });
  const double weights = median_ms([&] { p.weights(); });
  const double both = median_ms([&] { resident(p); });
  const double old_forward = median_ms([&] { p.simple_forward(false); });
  const double old_both = median_ms([&] {
    p.simple_forward(true);
    p.simple_backward();
  });
  const double step = 1e3 / s.length;
  printf("  %s: forward %.4f ms (%.3f us/step), saving %.4f, backward %.4f (%.3f us/step), "
         "dR %.4f, both %.4f; simple %.3f, %.3f; floor %.4f, %.4f\n",
         s.name, inference, inference * step, forward, backward, backward * step, weights, both,
         old_forward, old_both, floor, both_floor);
  fflush(stdout);
}
