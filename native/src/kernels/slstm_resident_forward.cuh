// The forward pass of slstm_resident.cu: raw = wx + R·y + b, then the unit. A lane's four gates of
// its unit and row come out of the product in its own registers.
#pragma once
#include "slstm_resident.cuh"

namespace slstm {

constexpr float log2_e = 1.4426950408889634f, ln_2 = 0.6931471805599453f;

/// A unit's state; m is in units of log 2.
struct State {
  float y, c, n, m;
};

/// What the sums of a gate are multiplied by, in the order i, f, z, o: cell() as powers of two.
DEVICE float scale_of(int gate) {
  return gate < 2 ? log2_e : gate == 2 ? -2 * log2_e : -log2_e;
}

/// slstm_cell on scaled sums. 7 special functions: σ(raw_o), tanh(raw_z) and σ(−raw_f) share a
/// reciprocal.
DEVICE Kept resident_cell(const float (&raw)[4], State& s, float clip) {
  const float i = raw[0], f = raw[1];
  const float e = quick_power(-fabsf(f)), e1 = 1 + e;
  const float l = s.m + (fminf(f, 0.f) - quick_logarithm(e1));
  const float lead = s.n == 0 ? INFINITY : i - l;  // cell() says why
  const bool wins = lead >= 0;
  const float lesser = quick_power(-fabsf(lead));
  // Beyond 2^60 nothing changes, and no product of three overflows.
  const float z1 = quick_power(ptx::least(raw[2], 60.f));
  const float o1 = 1 + quick_power(ptx::least(raw[3], 60.f));
  const float zo = (1 + z1) * o1, shared = quick_inverse(zo * e1);
  const float share = shared * e1;
  const float z = (1 - z1) * o1 * share, o = (1 + z1) * share;
  const float f_minus = (f < 0 ? 1.f : e) * (zo * shared);
  const float i_gate = wins ? 1 : lesser, f_gate = wins ? lesser : 1;
  s.c = fmaf(f_gate, s.c, i_gate * z);
  s.n = fmaf(f_gate, s.n, i_gate);
  s.m = wins ? i : l;
  const float y = o * s.c * quick_inverse(s.n);
  s.y = within(y, clip);
  const float mark = fabsf(y) > clip ? -f_minus : f_minus;
  return {s.c, s.n, ptx::pack(wins ? lesser : -lesser, mark), keep_values(z, o)};
}

template <typename S> struct ForwardShared {
  static constexpr int wx_bytes = S::warps * 4 * tile_rows * warp_units * 2;  // of a step
  Operand<S, S::width> operand;
  alignas(16) unsigned char wx[stages][wx_bytes];  // [warp][gate][row][8 units]
};

template <typename S> struct ForwardPass {
  using Memory = ForwardShared<S>;
  const SlstmForwardPlan& a;
  const Lane<S> at;
  Memory& shared;
  Products<S::width, 4> products;
  State state;
  float bias[4];
  float done = 0;  // y of the last token, and the rest of it
  Kept kept = {};
  // Of the token that is asked for, stored and looked at next; and from token to token.
  const bf16* wx;
  bf16* y_to;
  Kept* kept_to;
  const uint8_t* border;
  uint32_t across;
  uint32_t x_from, x_to, wx_from, wx_to;  // in shared memory

  DEVICE ForwardPass(const SlstmForwardPlan& plan, Memory& memory)
      : a(plan), at(plan), shared(memory) {
    for (int gate = 0; gate < 4; gate++)
      bias[gate] = scale_of(gate) * a.b[(gate * a.heads + at.head) * S::width + at.unit];
    // Lanes 0 to 15 ask for 8 units of one gate and row each, for their warp.
    wx = (const bf16*)a.wx + gate_of(a, at.row, 0, at.g % 4, at.head) + at.first;
    const size_t to = token_of(a, at.row, 0, at.head) * S::width + at.unit;
    y_to = (bf16*)a.y + to;
    kept_to = (Kept*)a.saved + to;
    border = a.borders + at.row * a.length;
    across = ptx::opaque((uint32_t)(a.heads * S::width));
    const uint32_t ring = ptx::shared_address(shared.wx[0]) + at.warp * 256;
    wx_from = ptx::opaque(ring + at.q * 16 + at.g * 2);
    wx_to = ptx::opaque(ring + at.g % 4 * 64 + at.q * 16);
    x_from = ptx::opaque(shared.operand.read(at.lane));
    x_to = ptx::opaque(ptx::shared_address(shared.operand.x[0]) +
                       shared.operand.place(at.q, at.unit));
    const bool fresh = at.limit > 0 && is_border(a, at.row, 0);
    const bool given = a.initial && at.exists && !fresh;
    state.y = given ? initial(at.row, 0, at.unit) : 0;
    state.c = given ? initial(at.row, 1, at.unit) : 0;
    state.n = given ? initial(at.row, 2, at.unit) : 0;
    state.m = given ? initial(at.row, 3, at.unit) * log2_e : 0;
    const float* const r = a.r + (at.head * S::width + 2 * at.q) * S::width + at.unit;
    const size_t gate_step = a.heads * S::width * S::width;
    products.load([&](int gate, int k, int next) {
      return scale_of(gate) * r[gate * gate_step + (k + next) * S::width];
    });
  }
  DEVICE float initial(uint64_t row, int part, int unit) const {
    return a.initial[state_of(a, row, part, at.head) + unit];
  }
  /// y before the first token, of all units: every block reads them for itself.
  DEVICE void start() {
    for (int t = 0; t + 1 < stages; t++) request(t);
    shared.operand.init();
    const uint32_t x = ptx::shared_address(shared.operand.x[0]);
    for (int n = threadIdx.x; n < tile_rows * S::width; n += S::threads) {
      const int index = n / S::width, unit = n % S::width;
      const uint64_t row = at.row_of(a, index);
      const bool given = a.initial && !(is_active(a, row, 0) && is_border(a, row, 0));
      const float y = given ? initial(row, 0, unit) : 0;
      ptx::store_half(x + shared.operand.place(index, unit), from_float<bf16>(y).bits);
    }
    shared.operand.meet();
  }
  /// y of the next step's product.
  DEVICE void publish(int step) {
    const uint32_t mine = from_float<bf16>(state.y).bits;
    if (S::blocks == 1) return ptx::store_half(x_to + step % 2 * shared.operand.bytes, mine);
    // The warp's 8 units of a row are 16 bytes, which each of its 8 lanes sends to one block.
    const uint32_t other = __shfl_xor_sync(full_mask, mine, 4);
    const uint32_t two = at.g & 1 ? other | mine << 16 : mine | other << 16;
    const uint32_t next = __shfl_xor_sync(full_mask, two, 8);
    const uint32_t low = at.g & 2 ? next : two, high = at.g & 2 ? two : next;
    const uint32_t far_low = __shfl_xor_sync(full_mask, low, 16);
    const uint32_t far_high = __shfl_xor_sync(full_mask, high, 16);
    const bool upper = at.g & 4;
    const uint32_t words[4] = {upper ? far_low : low, upper ? far_high : high,
                               upper ? low : far_low, upper ? high : far_high};
    if (at.g < S::blocks) shared.operand.send(step, at.q, at.first, at.g, words);
  }
  DEVICE void request(int t) {
    if (at.lane < 16)
      ptx::copy_or_zero(wx_to + t % stages * Memory::wx_bytes, wx, t < (int)a.length);
    commit_copies();
    wx += 4 * across;
  }
  DEVICE void add_inputs(int t, float (&raw)[4]) {
    wait_copies<stages - 2>();
    __syncwarp();
    const uint32_t from = wx_from + t % stages * Memory::wx_bytes;
#pragma unroll
    for (int gate = 0; gate < 4; gate++) {
      const float x = __uint_as_float(ptx::load_half(from + gate * 64) << 16);
      raw[gate] += fmaf(x, scale_of(gate), bias[gate]);
    }
    request(t + stages - 1);
  }
  /// The state becomes that after token t, or the fresh one of the next document.
  template <bool PLAIN> DEVICE void advance(int t, const float (&raw)[4], bool fresh) {
    State next = state;
    kept = resident_cell(raw, next, a.clip);
    done = next.y;
    if (PLAIN || t < at.limit) state = next;
    if (PLAIN) return;
    if (t >= at.limit) done = 0, kept = {};
    if (fresh && t + 1 < at.limit) state = {};
  }
  template <bool PLAIN> DEVICE void store() {
    if (PLAIN || at.exists) {
      *y_to = from_float<bf16>(done);
      if (a.saved) *kept_to = kept;
    }
    y_to += across;
    kept_to += across;
  }
  template <bool PLAIN> DEVICE void walk() {
    const int length = (int)a.length;
    const bool resets = !PLAIN && a.borders;
    int fresh = resets && length > 1 ? border[1] : 0;  // token t + 1 begins a document
    for (int t = 0; t < length; t++) {
      if (t > 0) shared.operand.wait(t);
      float raw[4];
      products.multiply(raw, x_from + t % 2 * shared.operand.bytes);
      if (t > 0) store<PLAIN>();
      int fresh_after = 0;
      if (resets && t + 2 < length) fresh_after = border[t + 2];
      add_inputs(t, raw);
      advance<PLAIN>(t, raw, fresh);
      fresh = fresh_after;
      if (t + 1 < length) publish(t + 1);
    }
    store<PLAIN>();
  }
  DEVICE void store_state() const {
    if (!a.last || !at.exists) return;
    // A row without tokens keeps the bits of its m.
    const bool given = a.initial && at.limit <= 0;
    const float m = given ? initial(at.row, 3, at.unit) : state.m * ln_2;
    const float parts[4] = {state.y, state.c, state.n, m};
    for (int part = 0; part < 4; part++)
      a.last[state_of(a, at.row, part, at.head) + at.unit] = parts[part];
  }
};

template <typename S> DEVICE void resident_forward(const SlstmForwardPlan& a) {
  ForwardPass<S> pass(a, *(ForwardShared<S>*)ptx::dynamic_shared());
  pass.start();
  if (pass.at.plain) pass.template walk<true>();
  else pass.template walk<false>();
  pass.store_state();
  if (S::blocks > 1) ptx::cluster_barrier();
}

}  // namespace slstm
