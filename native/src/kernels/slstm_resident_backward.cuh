// The backward pass of slstm_resident.cu, tokens in reverse: ȳ = Σ_g R_g·d raw_g of the token
// after, then the unit. All four gates of a unit are neighbours in the operand, k = 4·unit + gate:
// a lane puts its four there at once. d raw is linear in d = dy + ȳ, so that all but five
// operations of a step are done while its product runs. The pass leaves d raw (bf16), the y that
// every token started from (bf16), and db of its 4 rows.
#pragma once
#include "slstm_resident.cuh"

namespace slstm {

/// Factors of one token and unit: d raw = these times c̄, n̄ and d.
struct Slopes {
  float c_by_d, n_by_d;  // c̄ and n̄ from d
  float input, forget, f, z, c, n, zz, oy;
  float y;  // before the clamp
  bool clipped;

  DEVICE Slopes(const Kept& now, float c_before, float n_before) {
    const float lesser = ptx::low_half(now.gates), mark = ptx::high_half(now.gates);
    const bool input_is_lesser = now.gates & 0x8000u;
    const float o = kept_o(now.values), share = quick_inverse(now.n);
    z = kept_z(now.values);
    input = input_is_lesser ? fabsf(lesser) : 1;
    f = input_is_lesser ? 1 : lesser;
    clipped = (int)now.gates < 0;
    c_by_d = o * share;
    y = c_by_d * now.c;
    n_by_d = y * share;
    forget = f * fabsf(mark);
    c = c_before;
    n = n_before;
    zz = input * fmaf(-z, z, 1.f);
    oy = fmaf(-o, y, y);
  }
};

template <typename S> struct BackwardShared {
  static constexpr int kept_bytes = S::warps * warp_size * 16;
  static constexpr int dy_bytes = S::warps * tile_rows * warp_units * 2;
  Operand<S, 4 * S::width> operand;
  alignas(16) unsigned char kept[stages][kept_bytes];  // [warp][lane]
  alignas(16) unsigned char dy[stages][dy_bytes];      // [warp][row][8 units]
};

template <typename S> struct BackwardPass {
  using Memory = BackwardShared<S>;
  const SlstmResidentPlan& a;
  const Lane<S> at;
  Memory& shared;
  Products<4 * S::width, 1> products;
  float carry_y, carry_c, carry_n;
  float db[4] = {};
  uint32_t draw[2] = {};  // bf16: i and f, z and o
  Kept now;
  bool active = false;  // the token after is one of the row
  int fresh = 0;        // it begins a document
  // Of the token that is asked for, stored and looked at next; and from token to token.
  const Kept* kept;
  const uint16_t* dy;
  uint16_t *dwx, *past;
  const uint8_t* border;
  uint32_t across;
  uint32_t x_from, x_to, kept_at, dy_from, dy_to;  // in shared memory

  DEVICE BackwardPass(const SlstmResidentPlan& plan, Memory& memory)
      : a(plan), at(plan), shared(memory) {
    const bool given = a.dlast && at.exists;
    carry_y = given ? state(a.dlast, 0) : 0;
    carry_c = given ? state(a.dlast, 1) : 0;
    carry_n = given ? state(a.dlast, 2) : 0;
    const uint64_t t = a.length - 1;
    const size_t token = token_of(a, at.row, t, at.head) * S::width;
    kept = (const Kept*)a.saved + token + at.unit;
    dy = (const uint16_t*)a.dy + token + at.first;
    past = (uint16_t*)a.past + token + at.unit;
    dwx = (uint16_t*)a.dwx + gate_of(a, at.row, t, 0, at.head) + at.unit;
    border = a.borders + at.row * a.length;
    across = ptx::opaque((uint32_t)(a.heads * S::width));
    kept_at = ptx::opaque(ptx::shared_address(shared.kept[0]) + threadIdx.x * 16);
    const uint32_t ring = ptx::shared_address(shared.dy[0]) + at.warp * 64;
    dy_from = ptx::opaque(ring + at.q * 16 + at.g * 2);
    dy_to = ptx::opaque(ring + at.q * 16);
    x_from = ptx::opaque(shared.operand.read(at.lane));
    x_to = ptx::opaque(ptx::shared_address(shared.operand.x[0]) +
                       shared.operand.place(at.q, 4 * at.unit));
    // k = 4·output + gate: lanes with even q have gates i and f, the others z and o.
    const size_t gate_step = a.heads * S::width * S::width;
    const float* const r = a.r + (at.head * S::width + at.unit) * S::width + at.q / 2 +
                           at.q % 2 * 2 * gate_step;
    products.load([&](int, int k, int next) { return r[next * gate_step + k / 4]; });
  }
  DEVICE float state(const float* from, int part) const {
    return from[state_of(a, at.row, part, at.head) + at.unit];
  }
  DEVICE void start() {
    for (int s = 0; s + 1 < stages; s++) request(s);
    shared.operand.init();
    shared.operand.meet();
    wait_copies<stages - 2>();
    now = load_kept(0);
  }
  /// Step s is token T − 1 − s. A lane asks for its own unit, lanes 0 to 3 for the warp's dy.
  DEVICE void request(int step) {
    const bool exists = step < (int)a.length;
    ptx::copy_or_zero(kept_at + step % stages * Memory::kept_bytes, kept, exists);
    if (at.lane < tile_rows)
      ptx::copy_or_zero(dy_to + step % stages * Memory::dy_bytes, dy, exists);
    commit_copies();
    kept -= across;
    dy -= across;
  }
  DEVICE Kept load_kept(int step) const {
    uint32_t x[4];
    ptx::load_words(x, kept_at + step % stages * Memory::kept_bytes);
    return {__uint_as_float(x[0]), __uint_as_float(x[1]), x[2], x[3]};
  }
  /// Waits for ȳ of the step.
  DEVICE void receive(int step, float (&sums)[4]) {
    shared.operand.wait(step);
    products.multiply(sums, x_from + step % 2 * shared.operand.bytes);
  }
  /// ȳ and what the token after ends.
  template <bool PLAIN> DEVICE void flow(const float (&sums)[4]) {
    const float total = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    const float next = within(a.recurrent_cut ? 0 : total, a.recurrent_clip);
    if (PLAIN || active) carry_y = next;
    if (!PLAIN && active && fresh) carry_y = carry_c = carry_n = 0;
  }
  /// d raw and the carries of one token.
  template <bool PLAIN> DEVICE void unit(const Slopes& s, float dy) {
    const float d = s.clipped ? 0 : dy + carry_y;
    const float c = fmaf(d, s.c_by_d, carry_c), n = fmaf(-d, s.n_by_d, carry_n);
    float raw[4] = {s.input * fmaf(s.z, c, n), s.forget * fmaf(c, s.c, n * s.n), c * s.zz,
                    s.oy * d};
    for (int gate = 0; gate < 4; gate++)
      if (!PLAIN && !active) raw[gate] = 0;
    draw[0] = ptx::pack(raw[0], raw[1]);
    draw[1] = ptx::pack(raw[2], raw[3]);
    if (PLAIN || active) carry_c = s.f * c;
    if (PLAIN || active) carry_n = s.f * n;
    for (int gate = 0; gate < 4; gate++) db[gate] += raw[gate];
  }
  DEVICE void publish(int step) {
    if (S::blocks == 1)
      return ptx::store_words(x_to + step % 2 * shared.operand.bytes, draw);
    // Two units are 16 bytes, which two lanes have: each sends to every other block.
    const uint32_t other[2] = {__shfl_xor_sync(full_mask, draw[0], 4),
                               __shfl_xor_sync(full_mask, draw[1], 4)};
    const bool odd = at.g & 1;
    const uint32_t words[4] = {odd ? other[0] : draw[0], odd ? other[1] : draw[1],
                               odd ? draw[0] : other[0], odd ? draw[1] : other[1]};
#pragma unroll
    for (int block = 0; block < S::blocks; block += 2)
      shared.operand.send(step, at.q, 4 * (at.unit - odd), block + odd, words);
  }
  /// d raw of a token, and y that it started from: anything finite where it has no d raw.
  template <bool PLAIN> DEVICE void store(float y) {
    if (PLAIN || at.exists) {
      *(bf16*)past = from_float<bf16>(PLAIN || (active && !fresh) ? y : 0);
      for (int gate = 0; gate < 4; gate++)
        dwx[gate * across] = (uint16_t)(draw[gate / 2] >> gate % 2 * 16);
    }
    past -= across;
    dwx -= 4 * across;
  }
  /// One token, of which `fresh_now` says whether it begins a document. With the token after it:
  /// its sums.
  template <bool PLAIN, bool FIRST>
  DEVICE void token(int step, const float (&sums)[4], int fresh_now) {
    const int t = (int)a.length - 1 - step;
    wait_copies<stages - 3>();
    __syncwarp();
    const uint32_t dy_bits = ptx::load_half(dy_from + step % stages * Memory::dy_bytes);
    Kept before = load_kept(step + 1);
    request(step + stages - 1);
    if (t == 0 && a.initial) before.c = state(a.initial, 1), before.n = state(a.initial, 2);
    const bool cleared = !PLAIN && fresh_now;
    const Slopes slopes(now, cleared ? 0 : before.c, cleared ? 0 : before.n);
    if (!FIRST) store<PLAIN>(within(slopes.y, a.clip));
    if (!FIRST) flow<PLAIN>(sums);
    active = t < at.limit;
    fresh = fresh_now;
    now = before;
    unit<PLAIN>(slopes, __uint_as_float(dy_bits << 16));
    publish(step + 1);
  }
  template <bool PLAIN> DEVICE void walk() {
    const int length = (int)a.length;
    const bool resets = !PLAIN && a.borders;
    float sums[4] = {};
    int coming = resets && length > 1 ? border[length - 2] : 0;
    token<PLAIN, true>(0, sums, resets ? border[length - 1] : 0);
    for (int step = 1; step < length; step++) {
      receive(step, sums);
      const int fresh_now = coming, t = length - 1 - step;
      if (resets) coming = t > 0 ? border[t - 1] : 0;
      token<PLAIN, false>(step, sums, fresh_now);
    }
    receive(length, sums);
    const float y = a.initial ? state(a.initial, 0) : 0;
    store<PLAIN>(y);
    flow<PLAIN>(sums);
  }
  /// db of the rows together.
  DEVICE void store_db() {
    for (int gate = 0; gate < 4; gate++) {
      db[gate] += __shfl_xor_sync(full_mask, db[gate], 1);
      db[gate] += __shfl_xor_sync(full_mask, db[gate], 2);
      const size_t to = ((at.tile * 4 + gate) * a.heads + at.head) * S::width + at.unit;
      if (at.q == 0) a.db[to] = db[gate];
    }
  }
  DEVICE void store_state() const {
    if (!a.dinitial || !at.exists) return;
    const float c = a.initial ? state(a.initial, 1) : 0, n = a.initial ? state(a.initial, 2) : 0;
    const float parts[4] = {carry_y, carry_c, carry_n, c * carry_c + n * carry_n};
    for (int part = 0; part < 4; part++)
      a.dinitial[state_of(a, at.row, part, at.head) + at.unit] = parts[part];
  }
};

template <typename S> DEVICE void resident_backward(const SlstmResidentPlan& a) {
  BackwardPass<S> pass(a, *(BackwardShared<S>*)ptx::dynamic_shared());
  pass.start();
  if (pass.at.plain) pass.template walk<true>();
  else pass.template walk<false>();
  pass.store_db();
  pass.store_state();
  if (S::blocks > 1) ptx::cluster_barrier();
}

}  // namespace slstm
