// Kernels of args/elementwise.zig.
//
//     unary      y = f(x)                        binary     y = a ∘ b
//     backward   dx = dy·f'(saved)               where      y = mask ≠ 0 ? a : b
//     gated      y = f(gate) ⊙ up;  dgate = dy ⊙ up ⊙ f'(gate), dup = dy ⊙ f(gate)
//     copy       to = from, converted            fill, arange
// Views have up to 8 dims; outputs but those of copies are contiguous. Floor: every operand's bytes
// once, 10 to 60 FLOPs per element. Equal to cpu/elementwise*.zig and reference/elementwise.zig.
#include "elementwise_copy.cuh"
#include "elementwise_functions.cuh"
#include "walk.cuh"

// The code of an operation is known at launch only. The switch stands inside of the loops, where it
// costs a jump per pack: outside, every operation would bring its own loops (megabytes of code).

struct ApplyUnary {
  Unary op;
  double p;

  template <int n> DEVICE void each(float (&x)[1][n]) const {
    switch (op) {
#define CASE(name) \
  case Unary_##name: return of<Unary_##name>(x[0]);
      UNARY_OPERATIONS(CASE)
#undef CASE
    }
  }

  template <Unary which, int n> DEVICE void of(float (&x)[n]) const {
#pragma unroll
    for (int i = 0; i < n; i++) x[i] = value<which>(x[i], p);
  }
};

/// d[i] ← d[i]·f'(s[i]).
struct ApplyDerivative {
  Unary op;
  double p;

  template <int n> DEVICE void each(float (&x)[2][n]) const {
    switch (op) {
#define CASE(name) \
  case Unary_##name: return of<Unary_##name>(x[0], x[1]);
      UNARY_OPERATIONS(CASE)
#undef CASE
    }
  }

  template <Unary which, int n> DEVICE void of(float (&d)[n], const float (&s)[n]) const {
#pragma unroll
    for (int i = 0; i < n; i++) d[i] *= derivative<which>(s[i], p);
  }
};

struct ApplyBinary {
  Binary op;

  template <int n> DEVICE void each(float (&x)[2][n]) const {
    switch (op) {
#define CASE(name) \
  case Binary_##name: return of<Binary_##name>(x[0], x[1]);
      BINARY_OPERATIONS(CASE)
#undef CASE
    }
  }

  template <Binary which, int n> DEVICE void of(float (&a)[n], const float (&b)[n]) const {
#pragma unroll
    for (int i = 0; i < n; i++) a[i] = combine<which>(a[i], b[i]);
  }
};

template <typename S> DEVICE void unary(const UnaryPlan& a) {
  const S* const x[] = {static_cast<const S*>(a.x)};
  map(a.walk, x, static_cast<S*>(a.y), ApplyUnary{a.op, a.parameter});
}

/// A tensor that need not be saved is not read.
template <typename S> DEVICE void unary_backward(const UnaryBackwardPlan& a) {
  const S* dy = static_cast<const S*>(a.dy);
  const S* const x[] = {dy, a.saved ? static_cast<const S*>(a.saved) : dy};
  map(a.walk, x, static_cast<S*>(a.dx), ApplyDerivative{a.op, a.parameter});
}

template <typename S> DEVICE void binary(const BinaryPlan& a) {
  const S* const x[] = {static_cast<const S*>(a.a), static_cast<const S*>(a.b)};
  map(a.walk, x, static_cast<S*>(a.y), ApplyBinary{a.op});
}

/// Elements are moved as they are: no rounding, NaN bits kept.
template <typename S> DEVICE void where_select(const WherePlan& a) {
  const uint8_t* mask = static_cast<const uint8_t*>(a.mask);
  const S *x = static_cast<const S*>(a.a), *z = static_cast<const S*>(a.b);
  S* y = static_cast<S*>(a.y);
  constexpr int n = pack_width<S>;
  const uint64_t packs = a.walk.pack > 1 ? a.walk.count / n : 0;
  uint64_t at[3];
  for (uint64_t pack = grid_thread(); pack < packs; pack += grid_threads()) {
    locate(a.walk, pack * n, at);
    const Pack<uint8_t, n> m = pack_along<n>(mask + at[0], repeats(a.walk, 0));
    const Pack<S, n> then = pack_along<n>(x + at[1], repeats(a.walk, 1));
    Pack<S, n> out = pack_along<n>(z + at[2], repeats(a.walk, 2));
#pragma unroll
    for (int i = 0; i < n; i++)
      if (m.at[i] != 0) out.at[i] = then.at[i];
    *reinterpret_cast<Pack<S, n>*>(y + pack * n) = out;
  }
  for (uint64_t i = packs * n + grid_thread(); i < a.walk.count; i += grid_threads()) {
    locate(a.walk, i, at);
    y[i] = mask[at[0]] != 0 ? x[at[1]] : z[at[2]];
  }
}

/// A thread's place in [rows, width]: `n` neighbours of one row.
struct RowPlace {
  uint64_t row, column;
};

DEVICE RowPlace row_place(uint64_t i, uint64_t units, int n) {
  const uint64_t row = quotient(i, units);
  return {row, (i - row * units) * n};
}

/// f(gate) and, where asked, f'(gate) of n neighbours.
template <bool wants_derivative, int n>
DEVICE void gates(Unary op, const float (&gate)[n], float (&y)[n], float (&dy)[n]) {
  switch (op) {
#define CASE(name) \
  case Unary_##name: \
    for (int i = 0; i < n; i++) { \
      y[i] = value<Unary_##name>(gate[i], 0.0); \
      if (wants_derivative) dy[i] = derivative<Unary_##name>(gate[i], 0.0); \
    } \
    return;
    GATES(CASE)
#undef CASE
    default: return;
  }
}

template <typename S, int n> DEVICE void gated_forward_rows(const GatedActivationForward& a) {
  const uint64_t units = a.width / n;
  for (uint64_t i = grid_thread(); i < a.rows * units; i += grid_threads()) {
    const RowPlace place = row_place(i, units, n);
    float gate[n], up[n], y[n], none[n];
    load_pack(static_cast<const S*>(a.gate) + place.row * a.gate_stride + place.column, gate);
    load_pack(static_cast<const S*>(a.up) + place.row * a.up_stride + place.column, up);
    gates<false>(a.op, gate, y, none);
#pragma unroll
    for (int k = 0; k < n; k++) y[k] *= up[k];
    store_pack(static_cast<S*>(a.y) + place.row * a.width + place.column, y);
  }
}

template <typename S> DEVICE void gated_forward(const GatedActivationForward& a) {
  constexpr int n = pack_width<S>;
  const bool packed = (a.width | a.gate_stride | a.up_stride) % n == 0 &&
                      is_aligned(static_cast<const S*>(a.gate)) &&
                      is_aligned(static_cast<const S*>(a.up)) && is_aligned(static_cast<S*>(a.y));
  if (packed) gated_forward_rows<S, n>(a);
  else gated_forward_rows<S, 1>(a);
}

/// Everything is read before anything is written: dgate may be gate, dup may be up.
template <typename S, int n> DEVICE void gated_backward_rows(const GatedActivationBackward& a) {
  const uint64_t units = a.width / n;
  for (uint64_t i = grid_thread(); i < a.rows * units; i += grid_threads()) {
    const RowPlace place = row_place(i, units, n);
    float d[n], gate[n], up[n], y[n], slope[n];
    load_pack(static_cast<const S*>(a.dy) + place.row * a.width + place.column, d);
    load_pack(static_cast<const S*>(a.gate) + place.row * a.gate_stride + place.column, gate);
    load_pack(static_cast<const S*>(a.up) + place.row * a.up_stride + place.column, up);
    gates<true>(a.op, gate, y, slope);
#pragma unroll
    for (int k = 0; k < n; k++) {
      slope[k] = d[k] * up[k] * slope[k];
      y[k] = d[k] * y[k];
    }
    store_pack(static_cast<S*>(a.dgate) + place.row * a.dgate_stride + place.column, slope);
    store_pack(static_cast<S*>(a.dup) + place.row * a.dup_stride + place.column, y);
  }
}

template <typename S> DEVICE void gated_backward(const GatedActivationBackward& a) {
  constexpr int n = pack_width<S>;
  const uint64_t sizes = a.width | a.gate_stride | a.up_stride | a.dgate_stride | a.dup_stride;
  const bool packed = sizes % n == 0 && is_aligned(static_cast<const S*>(a.dy)) &&
                      is_aligned(static_cast<const S*>(a.gate)) &&
                      is_aligned(static_cast<const S*>(a.up)) &&
                      is_aligned(static_cast<S*>(a.dgate)) && is_aligned(static_cast<S*>(a.dup));
  if (packed) gated_backward_rows<S, n>(a);
  else gated_backward_rows<S, 1>(a);
}

KERNEL(256, unary_f32, UnaryPlan) { unary<float>(a); }
KERNEL(256, unary_bf16, UnaryPlan) { unary<bf16>(a); }
KERNEL(256, unary_backward_f32, UnaryBackwardPlan) { unary_backward<float>(a); }
KERNEL(256, unary_backward_bf16, UnaryBackwardPlan) { unary_backward<bf16>(a); }
KERNEL(256, binary_f32, BinaryPlan) { binary<float>(a); }
KERNEL(256, binary_bf16, BinaryPlan) { binary<bf16>(a); }
KERNEL(256, where_f32, WherePlan) { where_select<float>(a); }
KERNEL(256, where_bf16, WherePlan) { where_select<bf16>(a); }
KERNEL(256, gated_forward_f32, GatedActivationForward) { gated_forward<float>(a); }
KERNEL(256, gated_forward_bf16, GatedActivationForward) { gated_forward<bf16>(a); }
KERNEL(256, gated_backward_f32, GatedActivationBackward) { gated_backward<float>(a); }
KERNEL(256, gated_backward_bf16, GatedActivationBackward) { gated_backward<bf16>(a); }
