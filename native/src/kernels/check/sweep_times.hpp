// Times of the sweeps at 65,536 tokens, after a check of some rows of the first and last unit.
// Floor: the bytes that a pass must read and write, over this GPU's copy bandwidth.
#pragma once

#include "check_times.hpp"

struct Finite {
  const uint16_t* halves;
  uint32_t* wrong;
  uint64_t count;
};
KERNEL(256, find_not_finite, Finite) {
  for (uint64_t e = grid_thread(); e < a.count; e += grid_threads())
    if ((a.halves[e] & 0x7f80) == 0x7f80) *a.wrong = 1;
}

template <typename Work>
static void time_one(const Shape& s, const char* what, double bytes, const Work& work) {
  static const int runs = getenv("RUNS") ? atoi(getenv("RUNS")) : 100;
  const Quantiles ms = time_of(work, runs);
  const double floor = bytes / copy_bandwidth() * 1e-6;
  printf("  %-18s %-14s %.4f ms (%.4f-%.4f)  floor %.3f  x %.2f\n", s.name, what, ms.median,
         ms.p20, ms.p80, floor, ms.median / floor);
  fflush(stdout);
}

static std::vector<double> rows_of(const uint16_t* from, const Shape& s, int u, int width) {
  const size_t row = (size_t)s.heads * width;
  const auto all = fetch(from + (size_t)(u / s.heads) * s.length * row, s.length * row);
  std::vector<double> x((size_t)s.length * width);
  for (int t = 0; t < s.length; t++)
    for (int d = 0; d < width; d++)
      x[(size_t)t * width + d] = of_bf16(all[t * row + u % s.heads * width + d]);
  return x;
}
static void check_rows(const Problem& p, int u, Error (&errors)[4]) {
  const Shape& s = p.s;
  UnitInput x;
  x.tokens = s.length, x.qk = s.qk, x.v = s.v, x.eps = 1e-6;
  x.sigmoid = s.sigmoid, x.normalize = s.normalize;
  x.q = rows_of(p.q, s, u, s.qk), x.k = rows_of(p.k, s, u, s.qk);
  x.values = rows_of(p.v, s, u, s.v), x.dh = rows_of(p.dh, s, u, s.v);
  const size_t from = (size_t)(u / s.heads) * s.length * s.heads;
  const auto i = fetch(p.i + from, (size_t)s.length * s.heads);
  const auto f = fetch(p.f + from, (size_t)s.length * s.heads);
  for (int t = 0; t < s.length; t++) {
    x.i.push_back(i[(size_t)t * s.heads + u % s.heads]);
    x.f.push_back(f[(size_t)t * s.heads + u % s.heads]);
  }
  x.border.assign(s.length, 0);
  const UnitReference r(x);
  const auto h = rows_of(p.h, s, u, s.v), dv = rows_of(p.dv, s, u, s.v);
  const auto dq = rows_of(p.dq, s, u, s.qk), dk = rows_of(p.dk, s, u, s.qk);
  for (int t : {0, 1, 63, 64, 1000, 4096, 7777, s.length - 1}) {
    const std::vector<double> want[4] = {r.h(t), r.dv(t), r.dq(t), r.dk(t)};
    const double* got[4] = {&h[(size_t)t * s.v], &dv[(size_t)t * s.v], &dq[(size_t)t * s.qk],
                            &dk[(size_t)t * s.qk]};
    for (int e = 0; e < 4; e++)
      for (size_t d = 0; d < want[e].size(); d++) errors[e].add(got[e][d], want[e][d]);
  }
}

static void time_passes(const Shape& s) {
  copy_bandwidth();
  printf("%s: %d x %d, %d heads %d/%d\n", s.name, s.batch, s.length, s.heads, s.qk, s.v);
  Problem p(s);
  const uint64_t rows = p.tokens * s.heads;
  uint16_t* halves[] = {p.q, p.k, p.v, p.dh};
  for (int e = 0; e < 4; e++) fill(halves[e], rows * (e < 2 ? s.qk : s.v), e);
  fill(p.i, rows, 5, 0, 1);
  fill(p.f, rows, 6, 3, 1);
  p.forward();
  finish("forward");
  p.backward();
  finish("backward");
  uint32_t* wrong = p.alloc<uint32_t>(1);
  device_fill(wrong, 0, 4);
  const uint16_t* outputs[] = {p.h, p.dv, p.dq, p.dk};
  for (int e = 0; e < 4; e++)
    LAUNCH(find_not_finite, 1024, 1, 256, 0,
           (Finite{outputs[e], wrong, rows * (e < 2 ? s.v : s.qk)}));
  if (fetch(wrong, 1)[0]) printf("  NOT FINITE\n"), failures++;
  Error errors[4] = {{"h", 7e-3}, {"dv", 7e-3}, {"dq", 7e-3}, {"dk", 7e-3}};
  check_rows(p, 0, errors);
  check_rows(p, p.units - 1, errors);
  for (const Error& e : errors) e.report(s.name, false);

  // Nothing but h and the gradients, as in training.
  p.m = p.sigma = p.c_last = p.n_last = p.m_last = p.dc0 = nullptr;
  const double row = 2.0 * rows, wide = row * (2 * s.qk + 2 * s.v);
  time_one(s, "gates", 8.0 * rows, [&] { p.gates(); });
  const MlstmSweep arguments[4] = {p.arguments(forward_pass), p.arguments(dv_pass),
                                   p.arguments(dq_pass), p.arguments(dk_pass)};
  const char* names[] = {"forward", "dV", "dQ", "dK"};
  time_one(s, names[0], wide, [&] { p.sweep(forward_pass, arguments[0]); });
  for (int e = 1; e < 4; e++)
    time_one(s, names[e], wide + (e > 1 ? row * s.qk : 0),
             [&] { p.sweep((Pass)e, arguments[e]); });
  time_one(s, "gate gradients", 24.0 * rows, [&] { p.gate_gradients(); });
  time_one(s, "gates, forward", wide, [&] { p.gates(); p.sweep(forward_pass, arguments[0]); });
  time_one(s, "all", 4 * wide + 2 * row * s.qk, [&] {
    p.gates();
    p.sweep(forward_pass, arguments[0]);
    p.sweep_back(arguments);
    p.gate_gradients();
  });
}
