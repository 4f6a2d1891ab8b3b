// The warpgroup of the scores: S = Q Kᵀ, gated, to bf16 in shared memory; sigma and n.
#pragma once

template <class C>
struct ScoreWarps {
  static constexpr int COLUMNS = C::score_columns;
  Sweep<C>& sweep;
  SweepShared<C>& shared;

  DEVICE ScoreWarps(Sweep<C>& s) : sweep(s), shared(s.shared) {}

  // Of S a thread has rows `row` and 8 on, of every 8 columns `column` and the next. Found again
  // where they are needed: beside S there are no registers to keep them.
  static DEVICE uint32_t row_here() {
    const uint32_t thread = ptx::thread_index() % 128;
    return thread / 32 * 16 + thread % 32 / 4;
  }
  static DEVICE uint32_t column_here() { return ptx::thread_index() % 4 * 2; }

  // The first token whose column of S this block makes.
  static DEVICE uint32_t first_token() {
    return C::shares_scores ? Sweep<C>::rank() * C::score_tokens : 0;
  }

  // S += Q Kᵀ over part p of the keys; S = for the first. Once Q and K are there.
  DEVICE void multiply(float (&s)[COLUMNS], int c, int p) const {
    sweep.wait_q(c, p);
    sweep.wait_k(c, p);
    const uint64_t q = ptx::descriptor(ptx::opaque(sweep.tile_q(c, p)), 16);
    const uint32_t first = sweep.tile_k(c, p) + first_token() * 128;
    const uint64_t k = ptx::descriptor(ptx::opaque(first), 16);
    ptx::mma_fence();
#pragma unroll
    for (int step = 0; step < C::part_blocks * 4; step++) {
      const uint32_t inside = (step & 3) * 32;
      const uint64_t rows = ptx::advance(q, (step >> 2) * C::q_pitch + inside);
      const uint64_t columns = ptx::advance(k, (step >> 2) * C::k_pitch + inside);
      if (p + step == 0) {
        add<true>(s, rows, columns);
      } else {
        add<false>(s, rows, columns);
      }
    }
    ptx::mma_commit();
  }
  template <bool FIRST>
  static DEVICE void add(float (&s)[COLUMNS], uint64_t rows, uint64_t columns) {
    if constexpr (C::shares_scores && C::norm) {
      ptx::mma40<FIRST>(s, rows, columns);
    } else if constexpr (C::shares_scores) {
      ptx::mma32<FIRST>(s, rows, columns);
    } else if constexpr (C::norm) {
      ptx::mma72<FIRST>(s, rows, columns);
    } else {
      ptx::mma64<FIRST>(s, rows, columns);
    }
  }

  // Selected, never multiplied by 0: what is not visible may overflow. Step c.
  DEVICE void gate(float (&s)[COLUMNS], int c) const {
    const uint32_t row = row_here(), column = column_here() + first_token();
    using At = Exponents<C::norm>;
    // Opaque: else the loads move ahead of the choice.
    const float* const from = sweep.exponents_of(ptx::opaque(c));
    const float* const rows = from + (C::reverse ? At::w : At::u);
    const float* const columns = from + (C::reverse ? At::u : At::w) + turned(column);
    const uint32_t* const lows = (const uint32_t*)from + At::low;
    float u[2], low[2];
    uint32_t start[2], span[2];  // visible are the tokens `column - start` + 0..span
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const uint32_t i = row + 8 * e, edge = ((const uint32_t*)from)[At::edge + i];
      u[e] = rows[turned(i)];
      low[e] = half<!C::reverse>(lows[turned(i)]);
      start[e] = C::reverse ? column - row - 8 * e : column - edge % CHUNK;
      span[e] = C::reverse ? edge / CHUNK - i : i - edge % CHUNK;
    }
#pragma unroll
    for (int n = 0; n < C::score_tokens / 8; n++) {
      const float2 w = *(const float2*)&columns[turned(n * 8)];
      const uint2 both = *(const uint2*)&lows[turned(column) + turned(n * 8)];
#pragma unroll
      for (int x = 0; x < 4; x++) {
        const int e = x / 2, f = x % 2;
        const float other = half<C::reverse>(f ? both.y : both.x);
        const bool visible = start[e] + (8 * n + f) <= span[e];
        float& score = s[n * 4 + x];
        score = visible ? quick_power((u[e] + (f ? w.y : w.x)) + (low[e] + other)) * score : 0.f;
      }
    }
  }
  template <bool HIGH>
  static DEVICE float half(uint32_t x) {
    return HIGH ? ptx::high_half(x) : ptx::low_half(x);
  }
  // All that is causal is visible, and the record holds powers: Record::plain.
  DEVICE void gate_plain(float (&s)[COLUMNS], const float* record) const {
    const uint32_t row = row_here(), column = column_here() + first_token();
    const float* rows = &record[C::row + turned(row)];
    const float u[2] = {rows[0], rows[2]};
    const uint32_t ahead = CHUNK + row - column;
    const float* first = &record[C::column + turned(column)];
#pragma unroll
    for (int n = 0; n < C::score_tokens / 8; n += 2) {
      const float4 w = *(const float4*)&first[n * 8];
      const float columns[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
      for (int x = 0; x < 8; x++) {
        const int e = x / 2 % 2, f = x / 4 * 2 + x % 2;
        // Of the column, on the scale where that of token `row` is `ahead`.
        const uint32_t at = CHUNK + 8 * (n + x / 4) + x % 2 - 8 * e;
        const float weight = u[e] * columns[f];
        s[n * 4 + x] *= C::reverse ? ptx::select_at_most(ahead, at, weight, 0.f)
                                   : ptx::select_at_most(at, ahead, weight, 0.f);
      }
    }
  }

  // Of the rows of this thread, over the columns that this block makes; sigma: from the state.
  DEVICE void sum_rows(const float (&s)[COLUMNS], float (&sigma)[2]) const {
#pragma unroll
    for (int e = 0; e < 2; e++) {
      float sum = sigma[e];
#pragma unroll
      for (int n = 0; n < C::score_tokens / 8; n++) sum += s[n * 4 + 2 * e] + s[n * 4 + 2 * e + 1];
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
      sigma[e] = sum;
    }
  }
  // Adds what the other block has. A block is at most one chunk ahead: it waits for these too.
  DEVICE void exchange_sums(float (&sigma)[2], int c, uint32_t row) const {
    const uint32_t full = Sweep<C>::at(&shared.full_sums[c & 1]);
    if (sweep.thread == 0) ptx::barrier_expect(full, CHUNK * 4);
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const uint32_t place = Sweep<C>::at(&shared.row_sums[c & 1][row + 8 * e]);
      if ((sweep.lane & 3) == 0) ptx::store_remote(place, full, Sweep<C>::rank() ^ 1, sigma[e]);
    }
    ptx::barrier_wait(full, c >> 1 & 1);
#pragma unroll
    for (int e = 0; e < 2; e++) sigma[e] += shared.row_sums[c & 1][row + 8 * e];
  }
  // Divides the scores by the denominator of their row, and alpha too.
  DEVICE void normalise(float (&s)[COLUMNS], float (&alpha)[2], float (&inverse)[2],
                        const float (&sigma)[2], const float* record, uint32_t row) const {
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const float floor = record[C::At::floor + row + 8 * e];
      inverse[e] = quick_inverse(fmaxf(fabsf(sigma[e]), floor) + sweep.a.eps);
#pragma unroll
      for (int n = 0; n < C::score_tokens / 8; n++) {
        s[n * 4 + 2 * e] *= inverse[e];
        s[n * 4 + 2 * e + 1] *= inverse[e];
      }
      alpha[e] *= inverse[e];
    }
  }
  // Rows over their denominators, for the backward pass: lanes 4i and 4i + 1 have the two of this
  // thread, so that a warp writes 64 bytes at once.
  DEVICE void keep_rows(const float* record, const float (&inverse)[2], int c) const {
    float* const to = *(float* const volatile*)&shared.where.kept;
    if (!to || (sweep.lane & 2) != 0) return;
    const bool second = sweep.lane & 1;
    const int at = turned(row_here() + 8 * second);
    const float factor = second ? inverse[1] : inverse[0];
    const size_t chunk = sweep.place(c);
    to[chunk * Record<false>::pitch + Record<false>::row + at] = record[C::row + at] * factor;
    if (!((const int*)record)[C::At::plain]) keep_exponent(at, factor, c);
  }
  DEVICE void keep_exponent(int at, float inverse, int c) const {
    using At = Exponents<C::norm>;
    const float* const from = sweep.exponents_of(c) + at;
    const float u = from[At::u];
    const uint32_t lows = ((const uint32_t*)from)[At::low];
    const float log = quick_logarithm(inverse), moved = u + log, part = moved - u;
    const float lost = (u - (moved - part)) + (log - part) + ptx::high_half(lows);
    const size_t chunk = sweep.chunk_of(sweep.where(), c);
    float* const to = sweep.a.kept_exponents + chunk * sweep.a.exponent_pitch + at;
    to[Exponents<false>::u] = moved;
    ((uint32_t*)to)[Exponents<false>::low] = ptx::pack(ptx::low_half(lows), lost);
  }
  DEVICE void write_sigma(const float (&sigma)[2], int c, uint32_t row) const {
    float* const to = *(float* const volatile*)&shared.where.sigma;
    if (!to || (sweep.lane & 3) != 0) return;
    const int tokens = *(const volatile int*)&shared.where.place.tokens;
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const int token = sweep.place(c) * CHUNK + row + 8 * e;
      if (token < tokens) to[(uint64_t)(uint32_t)token * sweep.a.heads] = sigma[e];
    }
  }

  DEVICE void write(const float (&s)[COLUMNS], uint32_t tile) const {
    const uint32_t thread = ptx::thread_index() % 128;
#pragma unroll
    for (int n = 0; n < 8; n += 2) {
      const float* x = &s[n * 4];
      const uint32_t i = thread / 32 * 16 + thread % 16, j = n + thread / 16 % 2;
      ptx::store_matrices(tile + i * 128 + ((j ^ (i & 7)) << 4), ptx::pack(x[0], x[1]),
                          ptx::pack(x[2], x[3]), ptx::pack(x[4], x[5]), ptx::pack(x[6], x[7]));
    }
  }

  // This block's columns to both blocks: a tile of 32 columns, where 16 bytes of row i stand at
  // their place ^ (i / 2 % 4).
  DEVICE void share(const float (&s)[COLUMNS], int stage) const {
    constexpr int bytes = CHUNK * C::score_tokens * 2;
    const uint32_t tile = Sweep<C>::at(&shared.s[stage][0][0]) + sweep.rank() * bytes;
    const uint32_t full = Sweep<C>::at(&shared.full_s[stage]);
    const uint32_t thread = ptx::thread_index() % 128, i = thread / 32 * 16 + thread % 16;
#pragma unroll
    for (int n = 0; n < 4; n += 2) {
      const float* x = &s[n * 4];
      const uint32_t j = n + thread / 16 % 2;
      ptx::store_matrices(tile + i * 64 + ((j ^ (i >> 1 & 3)) << 4), ptx::pack(x[0], x[1]),
                          ptx::pack(x[2], x[3]), ptx::pack(x[4], x[5]), ptx::pack(x[6], x[7]));
    }
    ptx::fence_async();
    ptx::named_barrier(6, 128);
    if (sweep.thread == 0) {
      ptx::barrier_expect(full, bytes);  // the other block's
      ptx::give(tile, bytes, full, sweep.rank() ^ 1);
    }
  }

  // ---- One step.

  DEVICE void step(int c) {
    if (sweep.a.lengths && sweep.valid(c) < CHUNK) clear(c);
    float s[COLUMNS];
    multiply(s, c, 0);
    const float* record = sweep.record_of(c);
    const bool has_n = C::norm && Sweep<C>::has_n();
    if constexpr (C::norm) {
      if (has_n) KeySums<C>(sweep).write_betas(record);
    }
    ptx::mma_wait<0>();
    sweep.release_q(c, 0);
    finish(s, record, c);
    if constexpr (C::norm) {
      if (has_n) return KeySums<C>(sweep).add(c, record[C::At::gamma]);
    }
    sweep.release_k(c, 0);
  }
  DEVICE void clear(int c) const {
#pragma unroll 1
    for (int p = 0; p < C::parts; p++) {
      sweep.wait_q(c, p);
      sweep.wait_k(c, p);
      for (int i = 0; i < C::part_blocks; i++) {
        sweep.clear(sweep.tile_q(c, p) + i * C::q_pitch, sweep.valid(c));
        sweep.clear(sweep.tile_k(c, p) + i * C::k_pitch, sweep.valid(c));
      }
    }
    sweep.cleared();
  }

  DEVICE void finish(float (&s)[COLUMNS], const float* record, int c) const {
    float sigma[2], alpha[2], inverse[2];
    if constexpr (C::norm) {  // before the weights: they need the registers
      read_alpha(alpha, record);
      const float* products = &s[C::score_tokens / 2];
      const bool has_n = Sweep<C>::has_n();
      sigma[0] = has_n ? alpha[0] * (products[0] + products[1]) : 0.f;
      sigma[1] = has_n ? alpha[1] * (products[2] + products[3]) : 0.f;
    }
    weigh(s, record, c);
    const uint32_t row = row_here();
    read_alpha(alpha, record);
    if constexpr (C::norm) {
      sum_rows(s, sigma);
      if constexpr (C::shares_scores) exchange_sums(sigma, c, row);
      normalise(s, alpha, inverse, sigma, record, row);
    }
    const int s_stage = c % C::s_stages;
    ptx::barrier_wait(Sweep<C>::at(&shared.empty_s[s_stage]),
                      Sweep<C>::parity(c, C::s_stages) ^ 1);
    if ((sweep.lane & 3) == 0) {
      shared.factor[c & 1][row] = alpha[0];
      shared.factor[c & 1][row + 8] = alpha[1];
    }
    if constexpr (C::shares_scores) {
      share(s, s_stage);
    } else {
      write(s, ptx::opaque(Sweep<C>::at(&shared.s[s_stage][0][0])));
      ptx::fence_async();
      sweep.release(&shared.full_s[s_stage]);
    }
    if constexpr (C::norm) {  // not before: the fence would wait for them
      keep_rows(record, inverse, c);
      write_sigma(sigma, c, row);
    }
  }
  DEVICE void weigh(float (&s)[COLUMNS], const float* record, int c) const {
    if (((const int*)record)[C::At::plain]) {
      gate_plain(s, record);
    } else {
      gate(s, c);
    }
  }
  // Of the rows of this thread.
  static DEVICE void read_alpha(float (&alpha)[2], const float* record) {
    const float* rows = &record[C::row + turned(row_here())];
    const float factor = record[C::row_factor];
    alpha[0] = rows[0] * factor;
    alpha[1] = rows[2] * factor;
  }

  // ---- Split keys: mlstm_sweep_split.cuh.

  typedef uint32_t Scores[2][4];  // half of S: the A operands of two products over 16 tokens
  static DEVICE uint32_t other_first_token() { return CHUNK / 2 - first_token(); }
  DEVICE void multiply_parts(float (&s)[COLUMNS], int c) const;
  static DEVICE void round(Scores& scores, const float (&s)[COLUMNS]);
  DEVICE void keep_scores(const Scores& scores, int c) const;
  DEVICE void give_scores(const Scores& scores, int c) const;
  DEVICE void take_scores(Scores& scores, int c) const;
  template <bool FIRST>
  DEVICE void add_values(
      float (&o)[16], const Scores& scores, uint32_t token, int first, int c) const;
  DEVICE void add_halves(float (&o)[16], const float (&alpha)[2], int first) const;
  DEVICE void put(const float (&o)[16], float (&dot)[2], int first) const;
  DEVICE void put_dot(float (&dot)[2]) const;
  DEVICE void split_step(int c) const;
};

template <class C>
DEVICE void Sweep<C>::score() {
  ScoreWarps<C> warps(*this);
  const SweepPlace w = where();
  if constexpr (!C::producer) {
    if (thread == 0) load_first(w);
    __syncwarp();
  }
  if constexpr (C::norm) {
    if (has_n()) KeySums<C>(*this).read();
  }
  for (int c = 0; c < chunks; c++) {
    warps.step(c);
    if constexpr (!C::producer) {
      if (thread == 0) load_ahead(w, c);
      __syncwarp();
    }
  }
  if constexpr (C::norm) {
    if (has_n()) KeySums<C>(*this).write();
  }
}
