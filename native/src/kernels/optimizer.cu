// Kernels of args/optimizer.zig: one pass over parameters, gradients and moments, in place.
// A launch takes up to 48 tensors in blocks of 4096 elements: small ones cost no launch each, large
// ones no last round of a grid. One kernel per rule: its registers are those the rule needs.
//
//     g ← clip(gradient·scale·factor, ±limit);  m ← β₁m + (1−β₁)g;  v ← β₂v + (1−β₂)g²
//     sgd        u = g                                        momentum   m ← g + β₁m; u = m
//     nesterov   m ← g + β₁m; u = g + β₁m                     adam       u = m̂/(√v̂ + eps)
//     nadam      u = (β₁m/(1−β₁ᵗ⁺¹) + (1−β₁)g/(1−β₁ᵗ))/(√v̂ + eps)
//     adamax     a ← max(|g| + eps, β₂a); u = m̂/a
//     radam      u = r·m̂/(√v̂ + eps) where ρ ≥ 5, else m̂
//     ademamix   m₂ ← β₃m₂ + (1−β₃)g; u = (m̂ + α·m₂)/(√v̂ + eps)
//     lamb       w as adam; p ← p − η·(‖p‖/‖w‖)·w
// and p ← p − η·(u + λp). All [count], the gradient S, the rest f32. Floor of adam: 28 bytes per
// element with an f32 gradient. Coefficients are made in f64 on the host (cuda/optimizer.zig).
// Equal to cpu/optimizer*.zig and reference/optimizer.zig.
#include "ordered_sum.cuh"

struct Moments {
  float first, second, third;
};

template <uint32_t rule>
constexpr int moments_of = rule == Rule_sgd                                 ? 0
                           : rule == Rule_momentum || rule == Rule_nesterov ? 1
                           : rule == Rule_ademamix                          ? 3
                                                                            : 2;

/// β·m + (1 − β)·x.
DEVICE float average(float beta, float rest, float m, float x) { return fmaf(beta, m, rest * x); }

constexpr int optimizer_block = 4096;

/// Elements [low, low + count) of a tensor: one block of the launch.
struct Span {
  const OptimizerTensor& tensor;
  uint64_t low;
  int count;
};

/// Block `i`: of the last tensor whose first block is not after it.
DEVICE Span span_of(const OptimizerPlan& a, uint32_t i) {
  uint32_t first = 0, end = a.count;
  while (end - first > 1) {
    const uint32_t middle = (first + end) / 2;
    if (a.tensors[middle].first_block <= i) first = middle;
    else end = middle;
  }
  const OptimizerTensor& t = a.tensors[first];
  const uint64_t low = (uint64_t)(i - t.first_block) * optimizer_block, left = t.count - low;
  return {t, low, (int)(left < optimizer_block ? left : optimizer_block)};
}

/// √v̂ + eps.
DEVICE float root(const OptimizerPlan& a, const Schedule& now, float v) {
  return sqrtf(v * now.correction2) + a.eps;
}

/// u of the rule, weight decay included; the moments are updated.
template <uint32_t rule>
DEVICE float direction(const OptimizerPlan& a, const Schedule& now, float decay, float p, float g,
                       Moments& m) {
  float u = g;
  if constexpr (rule == Rule_momentum || rule == Rule_nesterov) {
    m.first = fmaf(a.beta1, m.first, g);
    u = rule == Rule_momentum ? m.first : fmaf(a.beta1, m.first, g);
  } else if constexpr (rule == Rule_adamax) {
    m.first = average(a.beta1, a.rest1, m.first, g);
    m.second = fmaxf(fabsf(g) + a.eps, a.beta2 * m.second);
    u = m.first * now.correction1 / m.second;
  } else if constexpr (rule != Rule_sgd) {
    m.first = average(a.beta1, a.rest1, m.first, g);
    m.second = average(a.beta2, a.rest2, m.second, g * g);
    const float corrected = m.first * now.correction1;
    if constexpr (rule == Rule_nadam) {
      u = fmaf(m.first, now.ahead, g * now.now) / root(a, now, m.second);
    } else if constexpr (rule == Rule_radam) {
      u = now.rectifier == 0.f ? corrected : now.rectifier * corrected / root(a, now, m.second);
    } else if constexpr (rule == Rule_ademamix) {
      m.third = average(now.beta3, now.rest3, m.third, g);
      u = fmaf(now.alpha, m.third, corrected) / root(a, now, m.second);
    } else {
      u = corrected / root(a, now, m.second);
    }
  }
  return fmaf(decay, p, u);
}

/// The coefficients of this step: a captured graph reads them from memory.
DEVICE Schedule current(const OptimizerPlan& a) {
  return a.schedule ? *static_cast<const Schedule*>(a.schedule) : a.now;
}

/// Where a gradient was not finite the factor is NaN: nothing is changed.
DEVICE bool is_skipped(const OptimizerPlan& a) {
  return a.factor && isnan(*static_cast<const double*>(a.factor));
}

/// Gradient scale and clip factor, rounded once.
DEVICE float scale_of(const OptimizerPlan& a) {
  const double factor = a.factor ? *static_cast<const double*>(a.factor) : 1.0;
  return (float)(a.gradient_scale * factor);
}

/// The gradient the rule sees. NaN stays NaN.
DEVICE float clipped(const OptimizerPlan& a, float gradient, float scale) {
  const float g = gradient * scale, low = g < -a.limit ? -a.limit : g;
  return g > a.limit ? a.limit : low;
}

/// Packs of four in a span: none where a tensor is not aligned for them.
template <typename S> DEVICE int packs_of(const Span& span) {
  const OptimizerTensor& t = span.tensor;
  const uintptr_t wide = (uintptr_t)t.parameter | (uintptr_t)t.first | (uintptr_t)t.second |
                         (uintptr_t)t.third;
  const bool is_packed = (wide & 15) == 0 && ((uintptr_t)t.gradient & (4 * sizeof(S) - 1)) == 0 &&
                         ((uintptr_t)t.shadow & 7) == 0;
  return is_packed ? span.count / 4 : 0;
}

/// Moments of n neighbours from `i` on; those that the rule does not keep stay 0.
template <uint32_t rule, int n>
DEVICE void load_moments(const OptimizerTensor& t, uint64_t i, float (&m)[3][n]) {
  constexpr int kept = moments_of<rule>;
#pragma unroll
  for (int k = 0; k < n; k++) m[0][k] = m[1][k] = m[2][k] = 0.f;
  if (kept > 0) load_pack(static_cast<const float*>(t.first) + i, m[0]);
  if (kept > 1) load_pack(static_cast<const float*>(t.second) + i, m[1]);
  if (kept > 2) load_pack(static_cast<const float*>(t.third) + i, m[2]);
}

template <uint32_t rule, int n>
DEVICE void store_moments(const OptimizerTensor& t, uint64_t i, const float (&m)[3][n]) {
  constexpr int kept = moments_of<rule>;
  if (kept > 0) store_pack(static_cast<float*>(t.first) + i, m[0]);
  if (kept > 1) store_pack(static_cast<float*>(t.second) + i, m[1]);
  if (kept > 2) store_pack(static_cast<float*>(t.third) + i, m[2]);
}

template <int n> DEVICE void store_parameter(const OptimizerTensor& t, uint64_t i, float (&p)[n]) {
  store_pack(static_cast<float*>(t.parameter) + i, p);
  if (t.shadow) store_pack(static_cast<bf16*>(t.shadow) + i, p);
}

template <typename S, uint32_t rule, int n>
DEVICE void update(const OptimizerPlan& a, const OptimizerTensor& t, const Schedule& now,
                   uint64_t i, float scale) {
  float p[n], g[n], m[3][n];
  load_pack(static_cast<const float*>(t.parameter) + i, p);
  load_pack(static_cast<const S*>(t.gradient) + i, g);
  load_moments<rule>(t, i, m);
#pragma unroll
  for (int k = 0; k < n; k++) {
    Moments kept = {m[0][k], m[1][k], m[2][k]};
    const float u = direction<rule>(a, now, t.decay, p[k], clipped(a, g[k], scale), kept);
    m[0][k] = kept.first;
    m[1][k] = kept.second;
    m[2][k] = kept.third;
    p[k] = fmaf(-now.rate, u, p[k]);
  }
  store_moments<rule>(t, i, m);
  store_parameter(t, i, p);
}

template <typename S, uint32_t rule> DEVICE void step(const OptimizerPlan& a) {
  if (is_skipped(a)) return;
  const Schedule now = current(a);
  const float scale = scale_of(a);
  for (uint32_t block = blockIdx.x; block < a.blocks; block += gridDim.x) {
    const Span span = span_of(a, block);
    const int packs = packs_of<S>(span);
    for (int pack = threadIdx.x; pack < packs; pack += blockDim.x)
      update<S, rule, 4>(a, span.tensor, now, span.low + pack * 4, scale);
    for (int i = packs * 4 + threadIdx.x; i < span.count; i += blockDim.x)
      update<S, rule, 1>(a, span.tensor, now, span.low + i, scale);
  }
}

#define STEP(rule) \
  KERNEL(256, optimizer_##rule##_f32, OptimizerPlan) { step<float, Rule_##rule>(a); } \
  KERNEL(256, optimizer_##rule##_bf16, OptimizerPlan) { step<bf16, Rule_##rule>(a); }

STEP(sgd)
STEP(momentum)
STEP(nesterov)
STEP(adam)
STEP(nadam)
STEP(adamax)
STEP(radam)
STEP(ademamix)

/// Updates n neighbours' moments; adds p² and w² in f64.
template <typename S, int n>
DEVICE void lamb_moments(const OptimizerPlan& a, const OptimizerTensor& t, const Schedule& now,
                         uint64_t i, float scale, Twice& sum) {
  float p[n], g[n], m[3][n];
  load_pack(static_cast<const float*>(t.parameter) + i, p);
  load_pack(static_cast<const S*>(t.gradient) + i, g);
  load_moments<Rule_lamb>(t, i, m);
#pragma unroll
  for (int k = 0; k < n; k++) {
    Moments kept = {m[0][k], m[1][k], 0.f};
    const float g_now = clipped(a, g[k], scale);
    const float w = direction<Rule_lamb>(a, now, t.decay, p[k], g_now, kept);
    m[0][k] = kept.first;
    m[1][k] = kept.second;
    sum.first += (double)p[k] * p[k];
    sum.second += (double)w * w;
  }
  store_moments<Rule_lamb>(t, i, m);
}

/// parts[i] ← {Σp², Σw²} of block i.
template <typename S> DEVICE void lamb_parts(const OptimizerPlan& a) {
  if (is_skipped(a)) return;
  const Schedule now = current(a);
  __shared__ double scratch[warp_size];
  const float scale = scale_of(a);
  for (uint32_t block = blockIdx.x; block < a.blocks; block += gridDim.x) {
    const Span span = span_of(a, block);
    const int packs = packs_of<S>(span);
    Twice sum = {0.0, 0.0};
    for (int pack = threadIdx.x; pack < packs; pack += blockDim.x)
      lamb_moments<S, 4>(a, span.tensor, now, span.low + pack * 4, scale, sum);
    for (int i = packs * 4 + threadIdx.x; i < span.count; i += blockDim.x)
      lamb_moments<S, 1>(a, span.tensor, now, span.low + i, scale, sum);
    sum.first = block_sum(sum.first, scratch);
    sum.second = block_sum(sum.second, scratch);
    if (threadIdx.x == 0) static_cast<Twice*>(a.parts)[block] = sum;
  }
}

KERNEL(256, lamb_parts_f32, OptimizerPlan) { lamb_parts<float>(a); }
KERNEL(256, lamb_parts_bf16, OptimizerPlan) { lamb_parts<bf16>(a); }

/// norms ← sum of a tensor's parts, in order. One block per tensor.
KERNEL(256, lamb_norms, OptimizerPlan) {
  if (is_skipped(a)) return;
  __shared__ Twice staging[staged_rows];
  const uint32_t k = blockIdx.x, first = a.tensors[k].first_block;
  const uint32_t end = k + 1 < a.count ? a.tensors[k + 1].first_block : a.blocks;
  const Twice sum = ordered_sum(static_cast<const Twice*>(a.parts) + first, end - first, staging);
  if (threadIdx.x == 0) *static_cast<Twice*>(a.tensors[k].norms) = sum;
}

/// w from moments that are up to date.
template <int n>
DEVICE void lamb_apply(const OptimizerPlan& a, const OptimizerTensor& t, const Schedule& now,
                       uint64_t i, float rate) {
  float p[n], m[3][n];
  load_pack(static_cast<const float*>(t.parameter) + i, p);
  load_moments<Rule_lamb>(t, i, m);
#pragma unroll
  for (int k = 0; k < n; k++) {
    const float u = m[0][k] * now.correction1 / root(a, now, m[1][k]);
    p[k] = fmaf(-rate, fmaf(t.decay, p[k], u), p[k]);
  }
  store_parameter(t, i, p);
}

/// The gradient is not read: f32 stands for every type of it.
KERNEL(256, lamb_update, OptimizerPlan) {
  if (is_skipped(a)) return;
  const Schedule now = current(a);
  for (uint32_t block = blockIdx.x; block < a.blocks; block += gridDim.x) {
    const Span span = span_of(a, block);
    const Twice norms = *static_cast<const Twice*>(span.tensor.norms);
    const bool is_defined = norms.first != 0.0 && norms.second != 0.0;
    const double ratio = is_defined ? sqrt(norms.first) / sqrt(norms.second) : 1.0;
    const float rate = (float)(now.learning_rate * ratio);
    const int packs = packs_of<float>(span);
    for (int pack = threadIdx.x; pack < packs; pack += blockDim.x)
      lamb_apply<4>(a, span.tensor, now, span.low + pack * 4, rate);
    for (int i = packs * 4 + threadIdx.x; i < span.count; i += blockDim.x)
      lamb_apply<1>(a, span.tensor, now, span.low + i, rate);
  }
}

/// norm = √Σ squares, added in order; factor = max_norm/norm where that is below 1.
KERNEL(32, clip_factor, ClipFactor) {
  if (threadIdx.x != 0) return;
  const double* squares = static_cast<const double*>(a.squares);
  double total = 0.0;
#pragma unroll 8
  for (uint64_t i = 0; i < a.count; i++) total += squares[i];
  const double norm = sqrt(total);
  const bool clips = a.max_norm > 0.0 && norm - norm == 0.0 && norm > a.max_norm;
  *static_cast<double*>(a.norm) = norm;
  const bool bad = a.bad && *static_cast<const double*>(a.bad) != 0.0;
  *static_cast<double*>(a.factor) = bad ? NAN : clips ? a.max_norm / norm : 1.0;
}
