// Kernels of args/optimizer.zig: one pass over parameter, gradient and moments, in place.
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

/// √v̂ + eps.
DEVICE float root(const OptimizerPlan& a, float v) { return sqrtf(v * a.now.correction2) + a.eps; }

/// u of the rule, weight decay included; the moments are updated.
template <uint32_t rule>
DEVICE float direction(const OptimizerPlan& a, float p, float g, Moments& m) {
  float u = g;
  if constexpr (rule == Rule_momentum || rule == Rule_nesterov) {
    m.first = fmaf(a.beta1, m.first, g);
    u = rule == Rule_momentum ? m.first : fmaf(a.beta1, m.first, g);
  } else if constexpr (rule == Rule_adamax) {
    m.first = average(a.beta1, a.rest1, m.first, g);
    m.second = fmaxf(fabsf(g) + a.eps, a.beta2 * m.second);
    u = m.first * a.now.correction1 / m.second;
  } else if constexpr (rule != Rule_sgd) {
    m.first = average(a.beta1, a.rest1, m.first, g);
    m.second = average(a.beta2, a.rest2, m.second, g * g);
    const float corrected = m.first * a.now.correction1;
    if constexpr (rule == Rule_nadam) {
      u = fmaf(m.first, a.now.ahead, g * a.now.now) / root(a, m.second);
    } else if constexpr (rule == Rule_radam) {
      u = a.now.rectifier == 0.f ? corrected : a.now.rectifier * corrected / root(a, m.second);
    } else if constexpr (rule == Rule_ademamix) {
      m.third = average(a.now.beta3, a.now.rest3, m.third, g);
      u = fmaf(a.now.alpha, m.third, corrected) / root(a, m.second);
    } else {
      u = corrected / root(a, m.second);
    }
  }
  return fmaf(a.decay, p, u);
}

/// The plan with the coefficients of this step: a captured graph reads them from memory.
DEVICE OptimizerPlan current(const OptimizerPlan& a) {
  OptimizerPlan plan = a;
  if (a.schedule) plan.now = *static_cast<const Schedule*>(a.schedule);
  return plan;
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

template <typename S> DEVICE bool can_pack(const OptimizerPlan& a) {
  return (((uintptr_t)a.parameter | (uintptr_t)a.first | (uintptr_t)a.second |
           (uintptr_t)a.third) & 15) == 0 &&
         ((uintptr_t)a.gradient & (4 * sizeof(S) - 1)) == 0 && ((uintptr_t)a.shadow & 7) == 0;
}

/// Moments of n neighbours from `i` on; those that the rule does not keep stay 0.
template <uint32_t rule, int n>
DEVICE void load_moments(const OptimizerPlan& a, uint64_t i, float (&m)[3][n]) {
  constexpr int kept = moments_of<rule>;
#pragma unroll
  for (int k = 0; k < n; k++) m[0][k] = m[1][k] = m[2][k] = 0.f;
  if (kept > 0) load_pack(static_cast<const float*>(a.first) + i, m[0]);
  if (kept > 1) load_pack(static_cast<const float*>(a.second) + i, m[1]);
  if (kept > 2) load_pack(static_cast<const float*>(a.third) + i, m[2]);
}

template <uint32_t rule, int n>
DEVICE void store_moments(const OptimizerPlan& a, uint64_t i, const float (&m)[3][n]) {
  constexpr int kept = moments_of<rule>;
  if (kept > 0) store_pack(static_cast<float*>(a.first) + i, m[0]);
  if (kept > 1) store_pack(static_cast<float*>(a.second) + i, m[1]);
  if (kept > 2) store_pack(static_cast<float*>(a.third) + i, m[2]);
}

template <int n> DEVICE void store_parameter(const OptimizerPlan& a, uint64_t i, float (&p)[n]) {
  store_pack(static_cast<float*>(a.parameter) + i, p);
  if (a.shadow) store_pack(static_cast<bf16*>(a.shadow) + i, p);
}

template <typename S, uint32_t rule, int n>
DEVICE void update(const OptimizerPlan& a, uint64_t i, float scale) {
  float p[n], g[n], m[3][n];
  load_pack(static_cast<const float*>(a.parameter) + i, p);
  load_pack(static_cast<const S*>(a.gradient) + i, g);
  load_moments<rule>(a, i, m);
#pragma unroll
  for (int k = 0; k < n; k++) {
    Moments kept = {m[0][k], m[1][k], m[2][k]};
    const float u = direction<rule>(a, p[k], clipped(a, g[k], scale), kept);
    m[0][k] = kept.first;
    m[1][k] = kept.second;
    m[2][k] = kept.third;
    p[k] = fmaf(-a.now.rate, u, p[k]);
  }
  store_moments<rule>(a, i, m);
  store_parameter(a, i, p);
}

template <typename S, uint32_t rule> DEVICE void step(const OptimizerPlan& a) {
  const float scale = scale_of(a);
  const uint64_t packs = can_pack<S>(a) ? a.count / 4 : 0;
  for (uint64_t pack = grid_thread(); pack < packs; pack += grid_threads())
    update<S, rule, 4>(a, pack * 4, scale);
  for (uint64_t i = packs * 4 + grid_thread(); i < a.count; i += grid_threads())
    update<S, rule, 1>(a, i, scale);
}

template <typename S> DEVICE void optimizer_step(const OptimizerPlan& given) {
  if (is_skipped(given)) return;
  const OptimizerPlan a = current(given);
  switch (a.rule) {
    case Rule_sgd: return step<S, Rule_sgd>(a);
    case Rule_momentum: return step<S, Rule_momentum>(a);
    case Rule_nesterov: return step<S, Rule_nesterov>(a);
    case Rule_adam: return step<S, Rule_adam>(a);
    case Rule_nadam: return step<S, Rule_nadam>(a);
    case Rule_adamax: return step<S, Rule_adamax>(a);
    case Rule_radam: return step<S, Rule_radam>(a);
    case Rule_ademamix: return step<S, Rule_ademamix>(a);
  }
}

KERNEL(256, optimizer_step_f32, OptimizerPlan) { optimizer_step<float>(a); }
KERNEL(256, optimizer_step_bf16, OptimizerPlan) { optimizer_step<bf16>(a); }

constexpr int lamb_block = 4096;

/// Updates n neighbours' moments; adds p² and w² in f64.
template <typename S, int n>
DEVICE void lamb_moments(const OptimizerPlan& a, uint64_t i, float scale, Twice& sum) {
  float p[n], g[n], m[3][n];
  load_pack(static_cast<const float*>(a.parameter) + i, p);
  load_pack(static_cast<const S*>(a.gradient) + i, g);
  load_moments<Rule_lamb>(a, i, m);
#pragma unroll
  for (int k = 0; k < n; k++) {
    Moments kept = {m[0][k], m[1][k], 0.f};
    const float w = direction<Rule_lamb>(a, p[k], clipped(a, g[k], scale), kept);
    m[0][k] = kept.first;
    m[1][k] = kept.second;
    sum.first += (double)p[k] * p[k];
    sum.second += (double)w * w;
  }
  store_moments<Rule_lamb>(a, i, m);
}

/// parts[i] ← {Σp², Σw²} of 4096 elements.
template <typename S> DEVICE void lamb_parts(const OptimizerPlan& given) {
  if (is_skipped(given)) return;
  const OptimizerPlan a = current(given);
  __shared__ double scratch[warp_size];
  const float scale = scale_of(a);
  const bool packed = can_pack<S>(a);
  const uint64_t blocks = (a.count + lamb_block - 1) / lamb_block;
  for (uint64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
    const uint64_t low = block * lamb_block, left = a.count - low;
    const int count = (int)(left < lamb_block ? left : lamb_block);
    const int packs = packed ? count / 4 : 0;
    Twice sum = {0.0, 0.0};
    for (int pack = threadIdx.x; pack < packs; pack += blockDim.x)
      lamb_moments<S, 4>(a, low + pack * 4, scale, sum);
    for (int i = packs * 4 + threadIdx.x; i < count; i += blockDim.x)
      lamb_moments<S, 1>(a, low + i, scale, sum);
    sum.first = block_sum(sum.first, scratch);
    sum.second = block_sum(sum.second, scratch);
    if (threadIdx.x == 0) static_cast<Twice*>(a.parts)[block] = sum;
  }
}

KERNEL(256, lamb_parts_f32, OptimizerPlan) { lamb_parts<float>(a); }
KERNEL(256, lamb_parts_bf16, OptimizerPlan) { lamb_parts<bf16>(a); }

/// norms ← sum of the parts, in order. One block.
KERNEL(256, lamb_norms, OptimizerPlan) {
  if (is_skipped(a)) return;
  __shared__ Twice staging[staged_rows];
  const uint64_t blocks = (a.count + lamb_block - 1) / lamb_block;
  const Twice sum = ordered_sum(static_cast<const Twice*>(a.parts), blocks, staging);
  if (threadIdx.x == 0) *static_cast<Twice*>(a.norms) = sum;
}

/// w from moments that are up to date.
template <int n> DEVICE void lamb_apply(const OptimizerPlan& a, uint64_t i, float rate) {
  float p[n], m[3][n];
  load_pack(static_cast<const float*>(a.parameter) + i, p);
  load_moments<Rule_lamb>(a, i, m);
#pragma unroll
  for (int k = 0; k < n; k++) {
    const float u = m[0][k] * a.now.correction1 / root(a, m[1][k]);
    p[k] = fmaf(-rate, fmaf(a.decay, p[k], u), p[k]);
  }
  store_parameter(a, i, p);
}

/// The gradient is not read: f32 stands for every type of it.
KERNEL(256, lamb_update, OptimizerPlan) {
  if (is_skipped(a)) return;
  const OptimizerPlan plan = current(a);
  const Twice norms = *static_cast<const Twice*>(a.norms);
  const bool is_defined = norms.first != 0.0 && norms.second != 0.0;
  const double ratio = is_defined ? sqrt(norms.first) / sqrt(norms.second) : 1.0;
  const float rate = (float)(plan.now.learning_rate * ratio);
  const uint64_t packs = can_pack<float>(a) ? a.count / 4 : 0;
  for (uint64_t pack = grid_thread(); pack < packs; pack += grid_threads())
    lamb_apply<4>(plan, pack * 4, rate);
  for (uint64_t i = packs * 4 + grid_thread(); i < a.count; i += grid_threads())
    lamb_apply<1>(plan, i, rate);
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
