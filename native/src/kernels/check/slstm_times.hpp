// The resident sLSTM at full size: against the simple kernels, twice for the same bits, and the
// times of both. Floor: 10 bytes a unit and token forward, 28 more backward, at copy bandwidth.
#pragma once

#include "check_times.hpp"

template <typename Work> static double median_ms(const Work& work) {
  return time_of(work, 21).median;
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
  fill(p.wx, 4 * s.cells(), 0);
  fill(p.dy, s.cells(), 1);
  fill(p.r, s.weights(), 2, 0, 0.5f / sqrtf((float)s.width));
  fill(p.b, (uint64_t)4 * s.heads * s.width, 3, 0, 1);
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
