// The resident sLSTM against f64, then (on a GPU) against the simple kernels, with times of both.
// On a GPU of sm_90a:
//   nvcc -std=c++17 -O3 -gencode arch=compute_90a,code=sm_90a -o slstm_check check/slstm_check.cu
// On a processor, slowly and without times (hopper_host.hpp):
//   g++ -std=c++17 -O2 -DXL_HOPPER_HOST -I. -Icheck -x c++ check/slstm_check.cu -o slstm_check
// Arguments: words that the names of the wanted cases contain; none: all.
#ifdef XL_HOPPER_HOST
#include "hopper_host.hpp"
#define XL_EMULATED
#include "../slstm_resident.cu"
#undef XL_EMULATED
#else
#include "../slstm.cu"
#include "../slstm_resident.cu"
#endif

#include <algorithm>
#include "check_device.hpp"
#include "check_numbers.hpp"
#include "slstm_problem.hpp"
#include "slstm_reference.hpp"

struct Inputs {
  std::vector<uint16_t> wx, dy;
  std::vector<float> r, b, initial, dlast;
  std::vector<uint8_t> borders;
  std::vector<int32_t> lengths;

  template <typename F> static std::vector<float> floats(size_t count, const F& make) {
    std::vector<float> x(count);
    for (size_t e = 0; e < count; e++) x[e] = (float)make(e);
    return x;
  }
  explicit Inputs(const Shape& s) {
    const size_t tokens = (size_t)s.batch * s.length, across = (size_t)s.heads * s.width;
    const double spread = s.steep ? 15 : 1;
    wx.resize(4 * s.cells()), dy.resize(s.cells());
    for (size_t e = 0; e < wx.size(); e++) wx[e] = to_bf16((float)(spread * normal(e)));
    for (size_t e = 0; e < dy.size(); e++) dy[e] = to_bf16((float)normal(e + (1ull << 40)));
    r = floats(s.weights(), [&](size_t e) { return normal(e + (2ull << 40)) / sqrt(s.width); });
    b = floats(4 * across, [&](size_t e) {
      return normal(e + (3ull << 40)) + (e / across == 1 ? 2 : 0);
    });
    lengths.assign(s.batch, s.length), borders.assign(tokens, 0);
    if (s.ragged)
      for (int n = 0; n < s.batch; n++) lengths[n] = n == 1 ? 0 : std::max(1, s.length - 3 * n);
    if (s.reset)
      for (size_t t = 0; t < tokens; t++)
        borders[t] = normal(t + (4ull << 40)) > 1 || (t % s.length == 0 && t / s.length % 2);
    if (!s.states) return;
    initial = floats(4 * s.units(), [&](size_t e) {
      const size_t part = e / across % 4, unit = e - part * across;
      const bool fresh = normal(unit + (5ull << 40)) > 1;  // n_0 = 0 in part of the units
      const double x = normal(e + (6ull << 40));
      return part == 2 ? (fresh ? 0 : fabs(x) + 0.5) : part == 1 && fresh ? 0 : x / 2;
    });
    dlast = floats(4 * s.units(), [&](size_t e) { return normal(e + (7ull << 40)); });
  }
  // What lies behind a row's length must not matter.
  void poison(const Shape& s) {
    const size_t across = (size_t)s.heads * s.width;
    for (int n = 0; n < s.batch; n++)
      for (size_t t = lengths[n]; t < (size_t)s.length; t++) {
        const size_t token = (size_t)n * s.length + t;
        std::fill_n(wx.begin() + token * 4 * across, 4 * across, 0x7fc0);
        std::fill_n(dy.begin() + token * across, across, 0x7fc0);
      }
  }
  void send(const Problem& p) const {
    to_device(p.wx, wx.data(), wx.size() * 2), to_device(p.dy, dy.data(), dy.size() * 2);
    to_device(p.r, r.data(), r.size() * 4), to_device(p.b, b.data(), b.size() * 4);
    if (p.borders) to_device(p.borders, borders.data(), borders.size());
    if (p.lengths) to_device(p.lengths, lengths.data(), lengths.size() * 4);
    if (p.initial) to_device(p.initial, initial.data(), initial.size() * 4);
    if (p.dlast) to_device(p.dlast, dlast.data(), dlast.size() * 4);
  }
  RowInput row(const Shape& s, int n, int head) const {
    RowInput x;
    const size_t w = s.width, across = s.heads * w;
    x.tokens = lengths[n], x.width = s.width;
    x.clip = s.clip, x.recurrent_clip = s.recurrent_clip, x.cut = s.cut;
    for (int t = 0; t < x.tokens; t++) {
      const size_t token = (size_t)n * s.length + t;
      x.border.push_back(borders[token]);
      for (size_t e = 0; e < 4 * w; e++)
        x.wx.push_back(of_bf16(wx[(token * 4 + e / w) * across + head * w + e % w]));
      for (size_t d = 0; d < w; d++) x.dy.push_back(of_bf16(dy[token * across + head * w + d]));
    }
    for (size_t g = 0; g < 4; g++) {
      const auto from = r.begin() + (g * s.heads + head) * w * w;
      x.r.insert(x.r.end(), from, from + w * w);
      const auto bias = b.begin() + g * across + head * w;
      x.b.insert(x.b.end(), bias, bias + w);
    }
    x.initial.assign(4 * w, 0), x.dlast.assign(4 * w, 0);
    for (size_t e = 0; s.states && e < 4 * w; e++) {
      const size_t at = ((size_t)n * 4 + e / w) * across + head * w + e % w;
      x.initial[e] = initial[at], x.dlast[e] = dlast[at];
    }
    return x;
  }
};

static void check(const Shape& s) {
  printf("%s: %d x %d, %d heads of %d\n", s.name, s.batch, s.length, s.heads, s.width);
  fflush(stdout);
  Inputs in(s);
  Problem p(s);
  in.poison(s);
  in.send(p);
  p.forward(true);
  finish("forward");
  p.backward();
  finish("backward");
  p.weights();
  finish("weights");
  const size_t w = s.width, across = s.heads * w;
  const auto y = fetch(p.y, s.cells()), dwx = fetch(p.dwx, 4 * s.cells());
  const auto last = fetch(p.last, 4 * s.units()), dinitial = fetch(p.dinitial, 4 * s.units());
  const auto dr = fetch(p.dr, s.weights()), db = fetch(p.db, 4 * across);
  Error ey{"y", 5e-3}, ex{"dwx", 2e-2}, er{"dR", 2e-2}, eb{"db", 2e-2}, ed{"dinitial", 2e-2};
  Error el{"last", 1e-2}, em{"m", 1e-2};
  std::vector<double> want_r(s.weights()), want_b(4 * across);
  for (int n = 0; n < s.batch; n++)
    for (int head = 0; head < s.heads; head++) {
      const RowInput x = in.row(s, n, head);
      const RowReference want(x);
      for (int t = 0; t < s.length; t++)
        for (size_t e = 0; e < 5 * w; e++) {
          const size_t token = (size_t)n * s.length + t, g = e / w, d = e % w;
          const bool real = t < x.tokens;
          if (g == 4) {
            ey.add(of_bf16(y[token * across + head * w + d]), real ? want.y[t * w + d] : 0);
          } else {
            ex.add(of_bf16(dwx[(token * 4 + g) * across + head * w + d]),
                   real ? want.dwx[(t * 4 + g) * w + d] : 0);
          }
        }
      for (size_t e = 0; e < 4 * w; e++) {
        const size_t at = ((size_t)n * 4 + e / w) * across + head * w + e % w;
        (e / w == 3 ? em : el).add(last[at], want.last[e]);
        ed.add(dinitial[at], want.dinitial[e]);
        want_b[e / w * across + head * w + e % w] += want.db[e];
      }
      for (size_t e = 0; e < 4 * w * w; e++)
        want_r[(e / (w * w) * s.heads + head) * w * w + e % (w * w)] += want.dr[e];
    }
  for (size_t e = 0; e < want_r.size(); e++) er.add(dr[e], want_r[e]);
  for (size_t e = 0; e < want_b.size(); e++) eb.add(db[e], want_b[e]);
  for (const Error& e : {ey, el, em, ex, er, eb, ed}) e.report(s.name, false);
}

#ifndef XL_HOPPER_HOST
#include "slstm_times.hpp"
#endif
#include "slstm_cases.hpp"

int main(int count, char** words) {
  for (const Shape& s : cases)
    if (wanted(s.name, count, words)) check(s);
#ifndef XL_HOPPER_HOST
  for (const Shape& s : timed)
    if (wanted(s.name, count, words)) time_passes(s);
#endif
  return verdict();
}
