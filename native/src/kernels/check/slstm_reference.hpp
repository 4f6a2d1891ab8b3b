// One row and head of the sLSTM in f64: kernels.md §7.1 and §7.2, written down as they are there.
#pragma once
#include <math.h>
#include <algorithm>
#include <vector>

struct RowInput {
  int tokens, width;
  std::vector<double> wx;  // [tokens][4][width]
  std::vector<double> r;   // [4][in][out]
  std::vector<double> b;   // [4][width]
  std::vector<double> initial, dlast;  // [4][width]
  std::vector<double> dy;              // [tokens][width]
  std::vector<int> border;
  double clip = 0, recurrent_clip = 0;  // 0: off
  bool cut = false;
};

inline double clamp_to(double x, double bound) {
  return bound > 0 ? std::max(-bound, std::min(bound, x)) : x;
}

struct RowReference {
  const RowInput& x;
  std::vector<double> y, last;             // [tokens][width], [4][width]
  std::vector<double> dwx, dr, db, dinitial;

  explicit RowReference(const RowInput& input) : x(input) {
    forward();
    backward();
  }

 private:
  struct Token {
    double i, f, z, o, f_minus, c, n, whole, c_before, n_before, y_before;
  };
  std::vector<Token> kept;

  static double sigmoid(double v) { return 1 / (1 + exp(-v)); }
  void forward() {
    const int w = x.width;
    last = x.initial;
    y.resize((size_t)x.tokens * w), kept.resize((size_t)x.tokens * w);
    for (int t = 0; t < x.tokens; t++) {
      if (x.border[t]) std::fill(last.begin(), last.end(), 0.);
      const std::vector<double> before = last;
      for (int d = 0; d < w; d++) {
        double raw[4];
        for (int g = 0; g < 4; g++) {
          raw[g] = x.wx[((size_t)t * 4 + g) * w + d] + x.b[g * w + d];
          for (int in = 0; in < w; in++) raw[g] += before[in] * x.r[((size_t)g * w + in) * w + d];
        }
        const double c = before[w + d], n = before[2 * w + d], m = before[3 * w + d];
        const double l = m - (raw[1] > 0 ? log1p(exp(-raw[1])) : log1p(exp(raw[1])) - raw[1]);
        const double m_now = n == 0 ? raw[0] : std::max(raw[0], l);
        Token& k = kept[(size_t)t * w + d];
        k.i = exp(raw[0] - m_now), k.f = n == 0 ? 0 : exp(l - m_now);
        k.z = tanh(raw[2]), k.o = sigmoid(raw[3]), k.f_minus = sigmoid(-raw[1]);
        k.c = k.f * c + k.i * k.z, k.n = k.f * n + k.i, k.whole = k.o * k.c / k.n;
        k.c_before = c, k.n_before = n, k.y_before = before[d];
        last[d] = y[(size_t)t * w + d] = clamp_to(k.whole, x.clip);
        last[w + d] = k.c, last[2 * w + d] = k.n, last[3 * w + d] = m_now;
      }
    }
  }
  void backward() {
    const int w = x.width;
    std::vector<double> carry(x.dlast.begin(), x.dlast.begin() + 3 * w);
    dwx.resize((size_t)x.tokens * 4 * w), dr.assign((size_t)4 * w * w, 0), db.assign(4 * w, 0);
    for (int t = x.tokens; t-- > 0;) {
      double* const draw = &dwx[(size_t)t * 4 * w];
      for (int u = 0; u < w; u++) {
        const Token& k = kept[(size_t)t * w + u];
        double d = x.dy[(size_t)t * w + u] + carry[u];
        if (x.clip > 0 && fabs(k.whole) > x.clip) d = 0;
        const double c = carry[w + u] + d * k.o / k.n, n = carry[2 * w + u] - d * k.whole / k.n;
        draw[u] = k.i * (k.z * c + n);
        draw[w + u] = k.f * (c * k.c_before + n * k.n_before) * k.f_minus;
        draw[2 * w + u] = c * k.i * (1 - k.z * k.z);
        draw[3 * w + u] = (1 - k.o) * k.whole * d;
        carry[w + u] = k.f * c, carry[2 * w + u] = k.f * n;
      }
      for (int in = 0; in < w; in++) {
        double sum = 0;
        for (int g = 0; g < 4; g++)
          for (int out = 0; out < w; out++) {
            const size_t at = ((size_t)g * w + in) * w + out;
            sum += x.r[at] * draw[g * w + out];
            dr[at] += kept[(size_t)t * w + in].y_before * draw[g * w + out];
          }
        carry[in] = x.cut ? 0 : clamp_to(sum, x.recurrent_clip);
      }
      for (int e = 0; e < 4 * w; e++) db[e] += draw[e];
      if (x.border[t]) std::fill(carry.begin(), carry.end(), 0.);
    }
    dinitial = carry;
    for (int u = 0; u < w; u++)
      dinitial.push_back(x.initial[w + u] * carry[w + u] + x.initial[2 * w + u] * carry[2 * w + u]);
  }
};
