// 512 keys with the scores that dQ has left: S of dK is that of dQ, transposed. No warpgroup makes
// scores; the two of the state have its registers. After H^T = C^T Q^T over its half of the keys,
// each keeps 32 tokens and gives the sums of the others to the other one; then both go on as with
// fewer keys. The rows of a chunk leave in the shadow of the next chunk's products.
//
// A block and chunk: 2,240 cycles of the tensor cores, 380 KB of shared memory or 3,000 cycles,
// 90 KB of L2.
#pragma once

// Of Q·C: the sums of the other's 32 tokens, by thread of the reader, which has the same columns
// of V. Then o = those of its own tokens over all keys, times alpha.
template <class C>
DEVICE void StateWarps<C>::give_tokens(int c) {
  const int mine = sweep.group, other = mine ^ 1;
  ptx::barrier_wait(Sweep<C>::at(&shared.split.empty_half[other]), (c & 1) ^ 1);
#pragma unroll
  for (int n = 0; n < 4; n++) {
    float4& to = shared.split.halves[other][n][sweep.thread];
    const float* upper = &h[16 + n * 4];
    const float* lower = &h[n * 4];
    to = mine ? float4{lower[0], lower[1], lower[2], lower[3]}
              : float4{upper[0], upper[1], upper[2], upper[3]};
  }
  sweep.release(&shared.split.full_half[other]);
}
template <class C>
DEVICE void StateWarps<C>::take_tokens(int c) {
  const int mine = sweep.group;
  const float* record = sweep.record_of(c);
  const float* rows = &record[C::row + mine * 32 + (sweep.lane & 3) * 4];
  const float factor = record[C::row_factor];
  ptx::barrier_wait(Sweep<C>::at(&shared.split.full_half[mine]), c & 1);
#pragma unroll
  for (int n = 0; n < 4; n++) {
    const float4 x = shared.split.halves[mine][n][sweep.thread];
    const float2 row = *(const float2*)&rows[turned(n * 8)];
    const float alpha[2] = {row.x * factor, row.y * factor};
    const float other[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
    for (int e = 0; e < 4; e++) {
      const float own = mine ? h[16 + n * 4 + e] : h[n * 4 + e];
      o[n * 4 + e] = (own + other[e]) * alpha[e & 1];
    }
  }
  sweep.release(&shared.split.empty_half[mine]);
}

// H^T += V^T S^T: here S^T as it lies, the tokens of the sum in rows.
template <class C>
DEVICE void StateWarps<C>::add_given_scores(uint32_t v, int c) {
  const int stage = c % C::s_stages;
  const uint32_t tile = Sweep<C>::at(&shared.s[stage][0][0]) + sweep.group * (CHUNK * 64);
  const uint64_t values = ptx::descriptor(v, 8192), scores = ptx::descriptor_32(tile);
  ptx::barrier_wait(Sweep<C>::at(&shared.full_s[stage]), Sweep<C>::parity(c, C::s_stages));
  ptx::mma_fence();
#pragma unroll
  for (int step = 0; step < 4; step++) {
    ptx::mma32_transposed<false>(o, ptx::advance(values, step * 2048),
                                 ptx::advance(scores, step * 1024));
  }
  ptx::mma_commit();
}

// A part of what output() does with other widths: 16 of 32 tokens, rounded, in the place of x, and
// x·O, from f32; in the end, the tile is complete. The other slices are empty.
template <class C>
DEVICE void StateWarps<C>::output_slice(int slice) {
  if (slice == 1 || slice == 3) {
    const int n = slice - 1;
    const float* x = &o[n * 4];
    const int token = sweep.group * 32 + n * 8;
    const uint32_t to = transposed(Sweep<C>::at(&shared.o[0][0][0]), token);
    uint32_t other[4];
    ptx::load_transposed(other, to);
    dot(x, token, other, shared.dots[0][sweep.warp]);
    ptx::store_transposed(to, ptx::pack(x[0], x[1]), ptx::pack(x[2], x[3]), ptx::pack(x[4], x[5]),
                          ptx::pack(x[6], x[7]));
  } else if (slice == 5) {
    ptx::fence_async();
    sweep.release(&shared.split.full_o);
  }
}
template <class C>
DEVICE void StateWarps<C>::output_last() {
  ptx::barrier_wait(Sweep<C>::at(&shared.full_x[0]), (sweep.chunks - 1) & 1);
#pragma unroll
  for (int slice = 0; slice < 6; slice++) output_slice(slice);
}

template <class C>
DEVICE void StateWarps<C>::clear_all(int c, uint32_t v) const {
  sweep.clear(v, sweep.valid(c));
#pragma unroll 1
  for (int p = first_part(); p < first_part() + C::own_parts; p++) {
    sweep.wait_k(c, p);
    for (int i = 0; i < C::part_blocks; i++) {
      sweep.clear(sweep.tile_q(c, p) + i * C::q_pitch, sweep.valid(c));
      sweep.clear(sweep.tile_k(c, p) + i * C::k_pitch, sweep.valid(c));
    }
  }
  sweep.cleared();
}

template <class C>
template <bool FIRST>
DEVICE void StateWarps<C>::given_step(int c) {
  const int v_stage = c % C::v_stages;
  const uint32_t v = ptx::opaque(Sweep<C>::at(&shared.v[0][v_stage][0][0]));
  for (int p = 0; p < C::own_parts; p++) sweep.wait_q(c, first_part() + p);
  sweep.wait_record(c);
  if constexpr (!FIRST) ptx::barrier_wait(Sweep<C>::at(&shared.full_x[0]), (c - 1) & 1);
  if (sweep.a.lengths && sweep.valid(c) < CHUNK) clear_all(c, v);
  const float* record = sweep.record_of(c);
  from_state<!FIRST>(c, record[C::At::gamma]);
  give_tokens(c);
  uint32_t x[4][4];
  scaled_values(x, v, record);
  take_tokens(c);
  for (int p = 0; p < C::own_parts; p++) sweep.wait_k(c, first_part() + p);
  add_given_scores(v, c);
  update(x, c);
  ptx::mma_wait<1>();
  sweep.release(&shared.empty_s[c % C::s_stages]);
  sweep.release(&shared.empty_v[0][v_stage]);
  ptx::mma_wait<0>();
#pragma unroll
  for (int p = 0; p < C::own_parts; p++) sweep.release_k(c, first_part() + p);
}
