// The mLSTM and its gradients (frozen denominator) for one unit, in f64, from the definition:
// pairs of tokens weighed by e^(B_t - B_j + li_j - m_t). kernels.md §2.1, §2.2, §3.
#pragma once
#include <math.h>
#include <vector>

struct UnitInput {
  int tokens, qk, v;  // tokens: those that exist
  bool sigmoid, normalize;
  double eps;
  std::vector<double> q, k, values, dh;  // [tokens][width]
  std::vector<double> i, f;              // pre-activations
  std::vector<int> border;               // exact resets
  std::vector<double> c0, n0, dc;        // empty: zeros; [qk][v]
  double m0 = 0;
};

inline double log_sigmoid_of(double x) { return x > 0 ? -log1p(exp(-x)) : x - log1p(exp(x)); }
inline double sigmoid_of(double x) { return 1 / (1 + exp(-x)); }

struct UnitReference {
  const UnitInput& x;
  double scale, m_last = 0;
  std::vector<double> sums, li, m, sigma, denominator, n;  // n: of the last state
  std::vector<int> start;

  explicit UnitReference(const UnitInput& input) : x(input), scale(1 / sqrt((double)input.qk)) {
    const int S = x.tokens;
    sums.resize(S), li.resize(S), m.resize(S), sigma.resize(S), denominator.resize(S);
    start.resize(S);
    n = x.n0.empty() ? std::vector<double>(x.qk, 0.) : x.n0;
    double before = x.sigmoid ? 0 : x.m0, total = 0;
    int first = -1;  // no border yet: the initial state is visible
    for (int t = 0; t < S; t++) {
      const double lf = log_sigmoid_of(x.f[t]);
      li[t] = x.sigmoid ? log_sigmoid_of(x.i[t]) : x.i[t];
      if (x.border[t]) {
        first = t, before = 0;
        for (double& e : n) e = 0;
      }
      total += lf, sums[t] = total, start[t] = first;
      m[t] = x.sigmoid ? 0 : fmax(lf + before, li[t]);
      const double forget = exp(lf + before - m[t]), input_gate = exp(li[t] - m[t]);
      double dot = 0;
      for (int d = 0; d < x.qk; d++) {
        n[d] = forget * n[d] + input_gate * x.k[(size_t)t * x.qk + d];
        dot += n[d] * x.q[(size_t)t * x.qk + d];
      }
      sigma[t] = x.normalize ? scale * dot : 0;
      denominator[t] = x.normalize ? fmax(fabs(sigma[t]), exp(-m[t])) + x.eps : 1;
      before = m[t];
    }
    m_last = before;
  }

  const double* q(int t) const { return &x.q[(size_t)t * x.qk]; }
  const double* k(int t) const { return &x.k[(size_t)t * x.qk]; }
  const double* v(int t) const { return &x.values[(size_t)t * x.v]; }
  const double* dh(int t) const { return &x.dh[(size_t)t * x.v]; }
  static double dot(const double* a, const double* b, int n) {
    double sum = 0;
    for (int d = 0; d < n; d++) sum += a[d] * b[d];
    return sum;
  }
  double pair(int t, int j) const {
    return j > t || j < start[t] ? 0 : scale * exp(sums[t] - sums[j] + li[j] - m[t]);
  }
  // Of the initial state for token t; of token j, and of the initial state, for the last state.
  double from_initial(int t) const {
    return start[t] >= 0 ? 0 : scale * exp(sums[t] + (x.sigmoid ? 0 : x.m0) - m[t]);
  }
  double to_last(int j) const {
    return j < start[x.tokens - 1] ? 0 : exp(sums[x.tokens - 1] - sums[j] + li[j] - m_last);
  }
  double initial_to_last() const {
    if (x.tokens == 0) return 1;
    return start[x.tokens - 1] >= 0
               ? 0
               : exp(sums[x.tokens - 1] + (x.sigmoid ? 0 : x.m0) - m_last);
  }

  std::vector<double> h(int t) const {
    std::vector<double> out(x.v, 0.);
    for (int j = start[t] < 0 ? 0 : start[t]; j <= t; j++) {
      const double weight = pair(t, j) * dot(q(t), k(j), x.qk);
      for (int d = 0; d < x.v; d++) out[d] += weight * v(j)[d];
    }
    if (!x.c0.empty() && from_initial(t) != 0)
      for (int e = 0; e < x.qk; e++)
        for (int d = 0; d < x.v; d++)
          out[d] += from_initial(t) * q(t)[e] * x.c0[(size_t)e * x.v + d];
    for (double& e : out) e /= denominator[t];
    return out;
  }
  std::vector<double> dq(int t) const {
    std::vector<double> out(x.qk, 0.);
    for (int j = start[t] < 0 ? 0 : start[t]; j <= t; j++) {
      const double weight = pair(t, j) * dot(dh(t), v(j), x.v) / denominator[t];
      for (int d = 0; d < x.qk; d++) out[d] += weight * k(j)[d];
    }
    if (!x.c0.empty() && from_initial(t) != 0)
      for (int e = 0; e < x.qk; e++)
        out[e] += from_initial(t) / denominator[t] * dot(dh(t), &x.c0[(size_t)e * x.v], x.v);
    return out;
  }
  int end(int j) const {  // of its document
    int t = j + 1;
    while (t < x.tokens && start[t] <= j) t++;
    return t;
  }
  std::vector<double> dk(int j) const {
    std::vector<double> out(x.qk, 0.);
    for (int t = j; t < end(j); t++) {
      const double weight = pair(t, j) * dot(dh(t), v(j), x.v) / denominator[t];
      for (int d = 0; d < x.qk; d++) out[d] += weight * q(t)[d];
    }
    if (!x.dc.empty() && to_last(j) != 0)
      for (int e = 0; e < x.qk; e++) out[e] += to_last(j) * dot(&x.dc[(size_t)e * x.v], v(j), x.v);
    return out;
  }
  std::vector<double> dv(int j) const {
    std::vector<double> out(x.v, 0.);
    for (int t = j; t < end(j); t++) {
      const double weight = pair(t, j) * dot(q(t), k(j), x.qk) / denominator[t];
      for (int d = 0; d < x.v; d++) out[d] += weight * dh(t)[d];
    }
    if (!x.dc.empty() && to_last(j) != 0)
      for (int e = 0; e < x.qk; e++)
        for (int d = 0; d < x.v; d++)
          out[d] += to_last(j) * k(j)[e] * x.dc[(size_t)e * x.v + d];
    return out;
  }

  std::vector<double> c_last() const {
    std::vector<double> c((size_t)x.qk * x.v, 0.);
    if (!x.c0.empty())
      for (size_t e = 0; e < c.size(); e++) c[e] = initial_to_last() * x.c0[e];
    for (int j = 0; j < x.tokens; j++) {
      const double weight = to_last(j);
      if (weight == 0) continue;
      for (int e = 0; e < x.qk; e++)
        for (int d = 0; d < x.v; d++) c[(size_t)e * x.v + d] += weight * k(j)[e] * v(j)[d];
    }
    return c;
  }
  std::vector<double> dc0() const {
    std::vector<double> c((size_t)x.qk * x.v, 0.);
    if (!x.dc.empty())
      for (size_t e = 0; e < c.size(); e++) c[e] = initial_to_last() * x.dc[e];
    for (int t = 0; t < x.tokens; t++) {
      const double weight = from_initial(t) / denominator[t];
      if (weight == 0) continue;
      for (int e = 0; e < x.qk; e++)
        for (int d = 0; d < x.v; d++) c[(size_t)e * x.v + d] += weight * q(t)[e] * dh(t)[d];
    }
    return c;
  }
  // di and df of all tokens.
  void gates(std::vector<double>& di, std::vector<double>& df) const {
    di.assign(x.tokens, 0.), df.assign(x.tokens, 0.);
    double sum = 0;
    if (!x.dc.empty()) sum = dot(c_last().data(), x.dc.data(), x.qk * x.v);
    for (int t = x.tokens - 1; t >= 0; t--) {
      const double row = dot(q(t), dq(t).data(), x.qk), column = dot(k(t), dk(t).data(), x.qk);
      sum += row - column;
      di[t] = column * (x.sigmoid ? sigmoid_of(-x.i[t]) : 1);
      df[t] = x.border[t] ? 0 : sum * sigmoid_of(-x.f[t]);
      if (x.border[t]) sum = 0;
    }
  }
};
