// The warpgroups that keep C^T: H^T = C^T Q^T + V^T S^T, then C^T <- gamma C^T + (V diag beta)^T K.
#pragma once

template <class C>
struct StateWarps {
  Sweep<C>& sweep;
  SweepShared<C>& shared;
  SweepState<C::own_keys> state;
  float h[32];
  float o[C::given ? 16 : 1];  // given: of 32 tokens
  static constexpr int elements = C::own_keys / 2;

  DEVICE StateWarps(Sweep<C>& s) : sweep(s), shared(s.shared) {}

  // Of a transposed tile: the rows and columns that this lane addresses for 16 tokens from `from`.
  DEVICE uint32_t transposed(uint32_t tile, int from) const {
    const int i = from + (sweep.lane & 7) + ((sweep.lane >> 4) << 3);
    const int j = sweep.warp * 2 + ((sweep.lane >> 3) & 1);
    return tile + i * 128 + ((j ^ (i & 7)) << 4);
  }

  // Its columns of V, in blocks of 64.
  DEVICE int column(const SweepPlace& w) const {
    return w.column + (C::split ? 0 : sweep.group);
  }

  // ---- C between the accumulators and memory.

  // Element i: key column and value row.
  DEVICE size_t index(const SweepPlace& w, int i, bool& inside) const {
    const MlstmSweep& a = sweep.a;
    const uint32_t first = C::split ? sweep.group * C::own_keys : 0;
    const uint32_t d = first + (i >> 2) * 8 + (sweep.lane & 3) * 2 + (i & 1);
    const uint32_t v = column(w) * 64 + sweep.warp * 16 + (sweep.lane >> 2) + ((i & 2) << 2);
    inside = d < a.key_width && v < a.value_width;
    return (size_t)w.unit * a.key_width * a.value_width + (size_t)d * a.key_stride +
           (size_t)v * a.value_stride;
  }
  DEVICE void read() {
    const float* from = sweep.a.state_in;
    const SweepPlace w = sweep.where();
#pragma unroll
    for (int i = 0; i < elements; i++) {
      state[i] = 0.f;
      if (from) {
        bool inside;
        const size_t at = index(w, i, inside);
        if (inside) state[i] = from[at];
      }
    }
  }
  DEVICE void write() {
    float* to = sweep.a.state_out;
    if (!to) return;
    const SweepPlace w = sweep.where();
#pragma unroll
    for (int i = 0; i < elements; i++) {
      bool inside;
      const size_t at = index(w, i, inside);
      if (inside) to[at] = state[i];
    }
  }

  // The first part of a step's keys that this warpgroup multiplies.
  DEVICE int first_part() const { return C::split ? sweep.group * C::own_parts : 0; }

  // ---- H^T = C^T Q^T: two k steps at a time, two in flight. Then C^T *= gamma, which is 1 but
  // for one chunk in eight (Record).
  // With OUTPUT, the last chunk's rows leave meanwhile (given).
  template <bool OUTPUT = false>
  DEVICE void from_state(int c, float gamma) {
    constexpr int groups = C::own_keys / 32, in_part = groups / C::own_parts;
    uint64_t q = 0;
#pragma unroll
    for (int g = 0; g < groups; g++) {
      if (g % in_part == 0) {
        q = ptx::descriptor(ptx::opaque(sweep.tile_q(c, first_part() + g / in_part)), 16);
      }
      uint32_t fragment[2][4];
#pragma unroll
      for (int e = 0; e < 2; e++) {
#pragma unroll
        for (int p = 0; p < 4; p++) {
          const int i = (g * 2 + e) * 8 + 2 * p;
          fragment[e][p] = ptx::pack(state[i], state[i + 1]);
        }
      }
      ptx::mma_fence();
#pragma unroll
      for (int e = 0; e < 2; e++) {
        const int step = g % in_part * 2 + e;
        const uint64_t tokens = ptx::advance(q, (step >> 2) * C::q_pitch + (step & 3) * 32);
        if (g + e == 0) {
          ptx::mma64_registers<true>(h, fragment[e], tokens);
        } else {
          ptx::mma64_registers<false>(h, fragment[e], tokens);
        }
      }
      ptx::mma_commit();
      if constexpr (OUTPUT) output_slice(g);
      if constexpr (C::in_place) {
        if (g == 2) free_place(c);
      }
      if (g < groups - 1) {
        ptx::mma_wait<1>();
        if (g > 0 && g % in_part == 0) sweep.release_q(c, first_part() + g / in_part - 1);
      } else {
        ptx::mma_wait<0>();
      }
    }
    sweep.release_q(c, first_part() + C::own_parts - 1);
    if (gamma != 1.f) {
#pragma unroll
      for (int i = 0; i < elements; i++) state[i] *= gamma;
    }
  }

  // V^T diag(beta), as the A operand of the state's update.
  DEVICE void scaled_values(uint32_t (&x)[4][4], uint32_t v, const float* record) const {
    const float* columns = &record[C::column + (sweep.lane & 3) * 4];
    const float factor = record[C::column_factor];
#pragma unroll
    for (int step = 0; step < 4; step++) {
      ptx::load_transposed(x[step], transposed(v, step * 16));
      const float4 b = *(const float4*)&columns[step * 16];
      const uint32_t betas[2] = {ptx::pack(b.x * factor, b.y * factor),
                                 ptx::pack(b.z * factor, b.w * factor)};
#pragma unroll
      for (int i = 0; i < 4; i++) x[step][i] = ptx::multiply_pairs(x[step][i], betas[i / 2]);
    }
  }

  // H^T = H^T diag(factor) + V^T S^T.
  DEVICE void add_scores(const float* factor, uint32_t v, uint32_t s) {
#pragma unroll
    for (int n = 0; n < 8; n++) {
      const float2 f = *(const float2*)&factor[n * 8 + (sweep.lane & 3) * 2];
      h[n * 4] *= f.x;
      h[n * 4 + 1] *= f.y;
      h[n * 4 + 2] *= f.x;
      h[n * 4 + 3] *= f.y;
    }
    const uint64_t values = ptx::descriptor(v, 8192);
    const uint64_t scores = C::shares_scores ? ptx::descriptor_32(s) : ptx::descriptor(s, 16);
    ptx::mma_fence();
#pragma unroll
    for (int step = 0; step < 4; step++) {
      const uint32_t at = C::shares_scores ? step / 2 * 4096 + step % 2 * 32 : step * 32;
      ptx::mma64_transposed_a<false>(h, ptx::advance(values, step * 2048),
                                     ptx::advance(scores, at));
    }
    ptx::mma_commit();
  }
  DEVICE void update(const uint32_t (&x)[4][4], int c) {
    constexpr int tiles = C::own_keys / 128;
    uint64_t k[tiles + 1];  // and a last one of 64 columns
#pragma unroll
    for (int tile = 0; tile < tiles + 1; tile++) {
      const int p = C::split ? first_part() + tile : 0, block = C::split ? 0 : 2 * tile;
      k[tile] = ptx::descriptor(sweep.tile_k(c, p) + block * C::k_pitch, C::k_pitch);
    }
#pragma unroll
    for (int step = 0; step < 4; step++) {
#pragma unroll
      for (int tile = 0; tile < tiles; tile++) {
        ptx::mma128_transposed_b<false>(state.wide[tile], x[step],
                                        ptx::advance(k[tile], step * 2048));
      }
      if constexpr (SweepState<C::own_keys>::narrow) {
        ptx::mma64_transposed_b<false>(state.rest, x[step], ptx::advance(k[tiles], step * 2048));
      }
    }
    ptx::mma_commit();
  }

  // ---- x·O of 16 tokens from `first`, summed over this warp's 16 value rows; from f32, before O
  // is rounded.
  DEVICE void dot(const float* both, int first, const uint32_t (&x)[4], float (&dots)[CHUNK]) {
    float sum[4];
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const float* o = both + e * 4;
      sum[2 * e] = o[0] * ptx::low_half(x[2 * e]) + o[2] * ptx::low_half(x[2 * e + 1]);
      sum[2 * e + 1] = o[1] * ptx::high_half(x[2 * e]) + o[3] * ptx::high_half(x[2 * e + 1]);
    }
    // Eight lanes hold parts of the same tokens: they halve what they keep, then add.
    const bool upper = sweep.lane & 16, odd = sweep.lane & 8;
    float keep[2];
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const float send = upper ? sum[e] : sum[2 + e];
      keep[e] = (upper ? sum[2 + e] : sum[e]) + __shfl_xor_sync(~0u, send, 16);
    }
    float total = (odd ? keep[1] : keep[0]) + __shfl_xor_sync(~0u, odd ? keep[0] : keep[1], 8);
    total += __shfl_xor_sync(~0u, total, 4);
    const int token = first + upper * 8 + (sweep.lane & 3) * 2 + odd;
    if (!(sweep.lane & 4)) dots[token] = total;
  }
  DEVICE void write_dots(int c) const {
    const MlstmSweep& a = sweep.a;
    const SweepPlace w = sweep.where();
    const int part = column(w), t = sweep.thread;
    if (t >= CHUNK || part * 64 >= a.value_width) return;
    const auto& warps = shared.dots[sweep.group];
    const float sum = (warps[0][t] + warps[1][t]) + (warps[2][t] + warps[3][t]);
    const size_t row = ((size_t)part * a.units + w.unit) * a.chunks + sweep.place(c);
    a.dots[row * CHUNK + t] = sum;
  }

  // H^T, transposed and rounded, through shared memory to O.
  DEVICE void output(int c) {
    const uint32_t tile =
        C::in_place ? values(c) : ptx::opaque(Sweep<C>::at(&shared.o[sweep.group][0][0]));
    if constexpr (C::dot) ptx::barrier_wait(Sweep<C>::at(&shared.full_x[sweep.group]), c & 1);
#pragma unroll
    for (int n = 0; n < 8; n += 2) {
      const float* x = &h[n * 4];
      const uint32_t to = transposed(tile, n * 8);
      if constexpr (C::dot) {
        uint32_t other[4];
        ptx::load_transposed(other, to);
        dot(x, n * 8, other, shared.dots[sweep.group][sweep.warp]);
      }
      ptx::store_transposed(to, ptx::pack(x[0], x[1]), ptx::pack(x[2], x[3]),
                            ptx::pack(x[4], x[5]), ptx::pack(x[6], x[7]));
    }
    ptx::fence_async();
    ptx::named_barrier(1 + sweep.group, 128);
    if (sweep.thread == 0) {
      const SweepPlace w = sweep.where();
      if (column(w) * 64 < sweep.a.value_width) {
        ptx::tensor_store(&sweep.a.o, tile, sweep.box(w, sweep.a.v_columns, c, column(w)));
      }
    }
    if constexpr (C::dot) write_dots(c);
  }

  // The tile of O is free for this chunk: the store before has been read.
  DEVICE void wait_for_place() const {
    if constexpr (!C::dot) {
      if (sweep.thread == 0) ptx::stores_read();
    }
    ptx::named_barrier(1 + sweep.group, 128);
  }
  // The tile of O may take the next chunk's x: the store before has been read.
  DEVICE void request_x(int c) const {
    if (sweep.thread != 0) return;
    ptx::stores_read();
    if constexpr (C::producer) {
      ptx::barrier_arrive(Sweep<C>::at(&shared.empty_x[sweep.group]));
    } else {
      sweep.load_x(sweep.where(), c, sweep.group);
    }
  }

  // The place of V of the chunk before, which O took: the store has read it.
  DEVICE void free_place(int c) const {
    if (c == 0 || ptx::thread_index() % 128 != 0) return;
    ptx::stores_read();
    ptx::barrier_arrive(Sweep<C>::at(&shared.empty_v[sweep.group][(c - 1) % C::v_stages]));
  }
  // Found again where nothing is left to keep them in.
  DEVICE int v_stage(int c) const {
    return (C::in_place ? (int)ptx::opaque(c) : c) % C::v_stages;
  }
  DEVICE uint32_t full_values(int c) const {
    return Sweep<C>::at(&shared.full_v[sweep.group][v_stage(c)]);
  }
  DEVICE uint32_t values(int c) const {
    return ptx::opaque(Sweep<C>::at(&shared.v[sweep.group][v_stage(c)][0][0]));
  }

  DEVICE void step(int c) {
    const int s_stage = c % C::s_stages;
    const uint32_t full_early = full_values(c), early = values(c);
    sweep.wait_q(c, 0);
    sweep.wait_k(c, 0);
    if (sweep.a.lengths && sweep.valid(c) < CHUNK) {
      ptx::barrier_wait(full_values(c), Sweep<C>::parity(c, C::v_stages));
      sweep.clear(values(c), sweep.valid(c));
      sweep.cleared();
    }
    const float* record = sweep.record_of(c);
    from_state(c, record[C::At::gamma]);
    if constexpr (C::dot) request_x(c);
    ptx::barrier_wait(C::in_place ? full_values(c) : full_early, Sweep<C>::parity(c, C::v_stages));
    const uint32_t v = C::in_place ? values(c) : early;
    uint32_t x[4][4];
    scaled_values(x, v, record);
    ptx::barrier_wait(Sweep<C>::at(&shared.full_s[s_stage]), Sweep<C>::parity(c, C::s_stages));
    add_scores(shared.factor[c & 1], v, Sweep<C>::at(&shared.s[s_stage][0][0]));
    update(x, c);
    if constexpr (!C::in_place) wait_for_place();
    ptx::mma_wait<1>();
    if constexpr (C::in_place) ptx::named_barrier(1 + sweep.group, 128);  // V is multiplied
    if constexpr (C::shares_scores) {
      sweep.release_both(&shared.empty_s[s_stage]);
    } else {
      sweep.release(&shared.empty_s[s_stage]);
    }
    if constexpr (C::feeds_values && !C::in_place) {
      sweep.release(&shared.empty_v[sweep.group][c % C::v_stages]);
    }
    output(c);
    if constexpr (!C::feeds_values) {
      if (sweep.thread == 0) sweep.load_v(sweep.where(), c + C::v_stages, sweep.group);
    }
    ptx::mma_wait<0>();
    sweep.release_k(c, 0);
  }
  // ---- Split keys: mlstm_sweep_split.cuh.
  DEVICE void give_half(int c);
  DEVICE void split_step(int c);

  // ---- And scores from memory: mlstm_sweep_given.cuh.
  DEVICE void give_tokens(int c);
  DEVICE void take_tokens(int c);
  DEVICE void add_given_scores(uint32_t v, int c);
  DEVICE void output_slice(int slice);
  DEVICE void output_last();
  DEVICE void clear_all(int c, uint32_t v) const;
  template <bool FIRST>
  DEVICE void given_step(int c);
};

template <class C>
DEVICE void Sweep<C>::consume() {
  StateWarps<C> warps(*this);
  if constexpr (!C::feeds_values) {
    if (thread == 0) {
      for (int c = 0; c < C::v_stages; c++) load_v(where(), c, group);
    }
  }
  warps.read();
  for (int c = 0; c < chunks; c++) {
    if constexpr (C::given) {
      if (c == 0) {
        warps.template given_step<true>(c);
      } else {
        warps.template given_step<false>(c);
      }
    } else if constexpr (C::split) {
      warps.split_step(c);
    } else {
      warps.step(c);
    }
  }
  if constexpr (C::given) {
    if (chunks > 0) warps.output_last();
  }
  warps.write();
  if (!C::split && thread == 0) ptx::stores_done();
}
