// Every sweep, gate kernel and gradient of the fast mLSTM path against f64, then times at 65,536
// tokens. On a GPU of sm_90a:
//   nvcc -std=c++17 -O3 -gencode arch=compute_90a,code=sm_90a -o sweep_check check/sweep_check.cu
// On a processor, slowly and without times (hopper_host.hpp):
//   g++ -std=c++17 -O2 -DXL_HOPPER_HOST -I. -Icheck -x c++ check/sweep_check.cu -o sweep_check
// Arguments: words that the names of the wanted cases contain; none: all.
#ifdef XL_HOPPER_HOST
#include "hopper_host.hpp"
#define XL_EMULATED
#include "../mlstm_gates.cu"
#undef XL_EMULATED
#else
#include "../mlstm_gates.cu"
#endif
#include "../mlstm_sweep_backward.cu"
#include "../mlstm_sweep_forward.cu"
#include "../mlstm_sweep_split.cu"

#include <algorithm>
#include "check_device.hpp"
#include "check_numbers.hpp"
#include "sweep_problem.hpp"
#include "sweep_reference.hpp"

struct Inputs {
  std::vector<uint16_t> q, k, v, dh;  // [batch][length][heads][width]
  std::vector<float> i, f, c0, n0, m0, dc;
  std::vector<uint8_t> borders;
  std::vector<int32_t> lengths;

  static std::vector<uint16_t> halves(size_t count, uint64_t seed) {
    std::vector<uint16_t> x(count);
    for (size_t e = 0; e < count; e++) x[e] = to_bf16((float)normal(seed * 1000003 + e));
    return x;
  }
  static std::vector<float> floats(size_t count, uint64_t seed, double mean, double spread) {
    std::vector<float> x(count);
    for (size_t e = 0; e < count; e++)
      x[e] = (float)(mean + spread * normal(seed * 1000003 + e));
    return x;
  }
  explicit Inputs(const Shape& s) {
    const size_t tokens = (size_t)s.batch * s.length, units = (size_t)s.batch * s.heads;
    q = halves(tokens * s.heads * s.qk, 1), k = halves(tokens * s.heads * s.qk, 2);
    v = halves(tokens * s.heads * s.v, 3), dh = halves(tokens * s.heads * s.v, 4);
    i = floats(tokens * s.heads, 5, 0, s.steep ? 300 : 1);
    f = floats(tokens * s.heads, 6, 3, s.steep ? 60 : 1);
    lengths.assign(s.batch, s.length);
    borders.assign(tokens, 0);
    if (s.ragged)
      for (int b = 0; b < s.batch; b++)
        lengths[b] = std::max(0, b == 0 ? s.length / 3 : s.length - 65 * b);
    if (s.reset)
      for (size_t t = 0; t < tokens; t++) borders[t] = normal(7000 + t) > 1.8;
    if (s.reset && s.length > 130)  // adjacent, first of a chunk, last of a chunk
      borders[64] = borders[70] = borders[71] = borders[127] = 1;
    if (!s.states) return;
    c0 = floats(units * s.qk * s.v, 8, 0, 1), dc = floats(units * s.qk * s.v, 9, 0, 1);
    n0 = floats(units * s.qk, 10, 0, 1), m0 = floats(units, 11, 0, 1);
  }
  // What lies behind a row's length must not matter.
  void poison(const Shape& s) {
    for (int b = 0; b < s.batch; b++)
      for (size_t t = lengths[b]; t < (size_t)s.length; t++) {
        const size_t token = ((size_t)b * s.length + t) * s.heads;
        for (size_t e = 0; e < (size_t)s.heads * s.qk; e++)
          q[token * s.qk + e] = k[token * s.qk + e] = 0x7fc0;
        for (size_t e = 0; e < (size_t)s.heads * s.v; e++)
          v[token * s.v + e] = dh[token * s.v + e] = 0x7fc0;
        for (int e = 0; e < s.heads; e++) i[token + e] = f[token + e] = NAN;
      }
  }
  UnitInput unit(const Shape& s, int u) const {
    UnitInput x;
    const int b = u / s.heads, head = u % s.heads;
    x.tokens = lengths[b], x.qk = s.qk, x.v = s.v, x.eps = 1e-6;
    x.sigmoid = s.sigmoid, x.normalize = s.normalize;
    for (int t = 0; t < x.tokens; t++) {
      const size_t token = ((size_t)b * s.length + t) * s.heads + head;
      for (int d = 0; d < s.qk; d++) {
        x.q.push_back(of_bf16(q[token * s.qk + d]));
        x.k.push_back(of_bf16(k[token * s.qk + d]));
      }
      for (int d = 0; d < s.v; d++) {
        x.values.push_back(of_bf16(v[token * s.v + d]));
        x.dh.push_back(of_bf16(dh[token * s.v + d]));
      }
      const bool border = borders[(size_t)b * s.length + t];
      x.i.push_back(i[token]);
      x.f.push_back(border && s.reset == reset_soft ? -25 : f[token]);
      x.border.push_back(border && s.reset == reset_exact);
    }
    if (s.states) {
      const size_t state = (size_t)s.qk * s.v;
      x.c0.assign(c0.begin() + u * state, c0.begin() + (u + 1) * state);
      x.dc.assign(dc.begin() + u * state, dc.begin() + (u + 1) * state);
      if (s.normalize) x.n0.assign(n0.begin() + u * s.qk, n0.begin() + (u + 1) * s.qk);
      x.m0 = m0[u];
    }
    return x;
  }
  void send(const Problem& p) const {
    const Shape& s = p.s;
    rows(p.q, q, s.heads * s.qk, p.qk_step), rows(p.k, k, s.heads * s.qk, p.qk_step);
    rows(p.v, v, s.heads * s.v, p.v_step), rows(p.dh, dh, s.heads * s.v, s.heads * s.v);
    to_device(p.i, i.data(), i.size() * 4), to_device(p.f, f.data(), f.size() * 4);
    if (p.borders) to_device(p.borders, borders.data(), borders.size());
    if (p.lengths) to_device(p.lengths, lengths.data(), lengths.size() * 4);
    if (!s.states) return;
    to_device(p.c0, c0.data(), c0.size() * 4), to_device(p.dc, dc.data(), dc.size() * 4);
    if (p.n0) to_device(p.n0, n0.data(), n0.size() * 4);
    if (p.m0) to_device(p.m0, m0.data(), m0.size() * 4);
  }
  static void rows(uint16_t* to, const std::vector<uint16_t>& x, size_t width, size_t step) {
    if (step == width) return to_device(to, x.data(), x.size() * 2);
    for (size_t r = 0; r * width < x.size(); r++)
      to_device(to + r * step, &x[r * width], width * 2);
  }
};

static void check(const Shape& s) {
  printf("%s: %d x %d, %d heads %d/%d\n", s.name, s.batch, s.length, s.heads, s.qk, s.v);
  fflush(stdout);
  Inputs in(s);
  Problem p(s);
  in.poison(s);
  in.send(p);
  p.forward();
  finish("forward");
  p.backward();
  finish("backward");
  const size_t tokens = (size_t)p.tokens * s.heads, state = (size_t)s.qk * s.v;
  const auto h = fetch(p.h, tokens * s.v), dv = fetch(p.dv, tokens * s.v);
  const auto dq = fetch(p.dq, tokens * s.qk), dk = fetch(p.dk, tokens * s.qk);
  const auto m = fetch(p.m, tokens), sigma = fetch(p.sigma, tokens);
  const auto di = fetch(p.di, tokens), df = fetch(p.df, tokens);
  const auto c = fetch(p.c_last, p.units * state), dc0 = fetch(p.dc0, p.units * state);
  const auto n = fetch(p.n_last, p.units * s.qk), m_last = fetch(p.m_last, p.units);
  Error eh{"h", 7e-3}, edv{"dv", 7e-3}, edq{"dq", 7e-3}, edk{"dk", 7e-3}, em{"m", 1e-6};
  Error es{"sigma", 3e-3}, ei{"di", 1e-2}, ef{"df", s.states || s.steep ? 1e-1 : 2e-2};
  Error ec{"c_last", 5e-3};
  Error edc{"dc0", 5e-3}, en{"n_last", 1e-4}, eml{"m_last", 1e-6};
  for (int u = 0; u < p.units; u++) {
    const UnitInput x = in.unit(s, u);
    const UnitReference r(x);
    std::vector<double> rdi, rdf;
    r.gates(rdi, rdf);
    for (int t = 0; t < s.length; t++) {
      const size_t at = ((size_t)(u / s.heads) * s.length + t) * s.heads + u % s.heads;
      const bool real = t < x.tokens;
      const std::vector<double> zero(s.qk > s.v ? s.qk : s.v, 0.);
      const auto rh = real ? r.h(t) : zero, rv = real ? r.dv(t) : zero;
      const auto rq = real ? r.dq(t) : zero, rk = real ? r.dk(t) : zero;
      for (int d = 0; d < s.v; d++) eh.add(of_bf16(h[at * s.v + d]), rh[d]);
      for (int d = 0; d < s.v; d++) edv.add(of_bf16(dv[at * s.v + d]), rv[d]);
      for (int d = 0; d < s.qk; d++) edq.add(of_bf16(dq[at * s.qk + d]), rq[d]);
      for (int d = 0; d < s.qk; d++) edk.add(of_bf16(dk[at * s.qk + d]), rk[d]);
      em.add(m[at], real ? r.m[t] : 0), es.add(sigma[at], real ? r.sigma[t] : 0);
      ei.add(di[at], real ? rdi[t] : 0), ef.add(df[at], real ? rdf[t] : 0);
    }
    const auto rc = r.c_last(), rdc = r.dc0();
    for (size_t e = 0; e < state; e++) ec.add(c[u * state + e], rc[e]);
    for (size_t e = 0; e < state; e++) edc.add(dc0[u * state + e], rdc[e]);
    for (int d = 0; d < s.qk && s.normalize; d++) en.add(n[u * s.qk + d], r.n[d]);
    eml.add(m_last[u], r.m_last);
  }
  const Error* all[] = {&eh, &es, &em, &ec, &en, &eml, &edq, &edk, &edv, &ei, &ef, &edc};
  for (const Error* e : all) e->report(s.name, false);
  fflush(stdout);
}

#include "sweep_cases.hpp"
#ifndef XL_HOPPER_HOST
#include "sweep_times.hpp"
#endif

int main(int count, char** words) {
#ifdef XL_HOPPER_HOST
  if (getenv("SEED")) host::seed = atoi(getenv("SEED"));
#endif
  for (const Shape& s : small_cases)
    if (wanted(s.name, count, words)) check(s);
#ifndef XL_HOPPER_HOST
  for (const Shape& s : timed_cases)
    if (wanted(s.name, count, words)) time_passes(s);
#endif
  return verdict();
}
