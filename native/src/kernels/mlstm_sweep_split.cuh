// 512 keys. C^T of 64 value columns fills the accumulators of two warpgroups, half of the keys
// each; neither sees the scores. They leave Q·C over their half in shared memory, f32, in the
// shadow of the state's update. The third warpgroup makes S, multiplies it with V straight from
// registers, adds both halves and rounds O; a warp beside the producer moves O, x and x·O:
//
//   O_i = S_i V + alpha_i (half_0 + half_1)_i       tokens in rows here, not H^T
//
// So the recurrence waits for nothing but its tiles and the place of the last halves. Two blocks of
// a cluster, neighbours in V, have the same Q, K and S: each loads half of every part of Q and K
// for both, makes 32 columns of S and gives them to the other, register by register. The first
// cluster of a unit leaves S for dK (mlstm_sweep_given.cuh).
//
// A block and chunk: 3,000 cycles of the tensor cores (S 768, bound by its operands in shared
// memory, C^T Q^T 1,024, S V 128, update 1,024), 480 KB of shared memory or 3,800 cycles, 82 KB of
// L2. Power bounds it: see docs/experiments.md.
#pragma once

// The halves' columns of V, shuffled by token in eights: no bank is met twice when the state's
// warps write (8 columns of 4 tokens at once) nor when the others read (4 pairs of 4 tokens).
static DEVICE uint32_t half_column(uint32_t token, uint32_t column) {
  return column ^ (((token ^ token >> 2) & 1) | (token & 2)) << 3;
}

template <class C>
DEVICE void StateWarps<C>::give_half(int c) {
  ptx::barrier_wait(Sweep<C>::at(&shared.split.empty_half[sweep.group]), (c & 1) ^ 1);
  const uint32_t token = (sweep.lane & 3) * 2, column = sweep.warp * 16 + (sweep.lane >> 2);
  float(&half)[CHUNK][64] = shared.split.halves[sweep.group];
#pragma unroll
  for (int x = 0; x < 4; x++) {
    const uint32_t i = token + (x & 1);
    float* const to = &half[i][half_column(i, column + (x & 2) * 4)];
#pragma unroll
    for (int n = 0; n < 8; n++) to[n * 8 * 64] = h[n * 4 + x];
  }
  sweep.release(&shared.split.full_half[sweep.group]);
}

template <class C>
DEVICE void StateWarps<C>::split_step(int c) {
  const int v_stage = c % C::v_stages;
  const uint32_t v = ptx::opaque(Sweep<C>::at(&shared.v[0][v_stage][0][0]));
  // All of them before the products: ptxas makes products around a wait follow each other.
  for (int p = 0; p < C::own_parts; p++) sweep.wait_q(c, first_part() + p);
  sweep.wait_record(c);
  if (sweep.a.lengths && sweep.valid(c) < CHUNK) {
    sweep.clear(v, sweep.valid(c));
    sweep.cleared();
  }
  const float* record = sweep.record_of(c);
  from_state(c, record[C::At::gamma]);
  uint32_t x[4][4];
  scaled_values(x, v, record);
  sweep.release(&shared.empty_v[0][v_stage]);
  for (int p = 0; p < C::own_parts; p++) sweep.wait_k(c, first_part() + p);
  ptx::mma_fence();
  update(x, c);
  give_half(c);
  ptx::mma_wait<0>();
#pragma unroll
  for (int p = 0; p < C::own_parts; p++) sweep.release_k(c, first_part() + p);
}

// Part after part; Q and K may be replaced as soon as they are multiplied.
template <class C>
DEVICE void ScoreWarps<C>::multiply_parts(float (&s)[COLUMNS], int c) const {
#pragma unroll
  for (int p = 0; p <= C::parts; p++) {
    if (p < C::parts) multiply(s, c, p);
    if (p == 0) continue;
    if (p < C::parts) {
      ptx::mma_wait<1>();
    } else {
      ptx::mma_wait<0>();
    }
    sweep.release_q(c, p - 1);
    sweep.release_k(c, p - 1);
  }
}

template <class C>
DEVICE void ScoreWarps<C>::round(Scores& scores, const float (&s)[COLUMNS]) {
#pragma unroll
  for (int i = 0; i < 8; i++) scores[i / 4][i % 4] = ptx::pack(s[2 * i], s[2 * i + 1]);
}

// As a tile of rows of 32 columns, as its reader wants it in shared memory: 16 bytes of row i
// stand at their place ^ (i / 2 % 4).
template <class C>
DEVICE void ScoreWarps<C>::keep_scores(const Scores& scores, int c) const {
  const SweepPlace w = sweep.where();
  if (w.column >= C::cluster) return;
  const uint32_t row = row_here();
  uint32_t* const tile = (uint32_t*)(sweep.scores_of(w, c) + first_token() * CHUNK);
#pragma unroll
  for (int e = 0; e < 2; e++) {
    const uint32_t i = row + 8 * e;
#pragma unroll
    for (int n = 0; n < 4; n++) {
      tile[i * 16 + ((n ^ (i >> 1 & 3)) << 2) + column_here() / 2] = scores[n / 2][n % 2 * 2 + e];
    }
  }
}

// To the same thread of the other block, which multiplies it with its own columns of V.
template <class C>
DEVICE void ScoreWarps<C>::give_scores(const Scores& scores, int c) const {
  const uint32_t thread = ptx::thread_index() % 128;
  ptx::barrier_wait(Sweep<C>::at(&shared.split.empty_peer), (c & 1) ^ 1);
#pragma unroll
  for (int step = 0; step < 2; step++) {
    ptx::store_remote(Sweep<C>::at(&shared.split.peer_scores[step][thread][0]),
                      Sweep<C>::at(&shared.split.full_peer), sweep.rank() ^ 1, scores[step]);
  }
}
template <class C>
DEVICE void ScoreWarps<C>::take_scores(Scores& scores, int c) const {
  const uint32_t thread = ptx::thread_index() % 128;
  ptx::barrier_wait(Sweep<C>::at(&shared.split.full_peer), c & 1);
#pragma unroll
  for (int step = 0; step < 2; step++) {
    ptx::load_words(scores[step], Sweep<C>::at(&shared.split.peer_scores[step][thread][0]));
  }
  __syncwarp();
  if (sweep.lane == 0) {
    ptx::barrier_arrive_remote(Sweep<C>::at(&shared.split.empty_peer), sweep.rank() ^ 1);
  }
}

// 32 columns of O from `first`: more would not fit. The scores are of tokens `token` on.
template <class C>
template <bool FIRST>
DEVICE void ScoreWarps<C>::add_values(
    float (&o)[16], const Scores& scores, uint32_t token, int first, int c) const {
  const uint32_t tile = Sweep<C>::at(&shared.v[0][c % C::v_stages][token][first]);
  const uint64_t v = ptx::descriptor(tile, 8192);
  ptx::mma_fence();
  ptx::mma32_transposed_b<FIRST>(o, scores[0], v);
  ptx::mma32_transposed_b<false>(o, scores[1], ptx::advance(v, 2048));
  ptx::mma_commit();
}

template <class C>
DEVICE void ScoreWarps<C>::add_halves(float (&o)[16], const float (&alpha)[2], int first) const {
  const uint32_t token = row_here(), column = column_here();
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const float(&from)[CHUNK][64] = shared.split.halves[half];
#pragma unroll
    for (int n = 0; n < 4; n++) {
#pragma unroll
      for (int e = 0; e < 2; e++) {
        const uint32_t i = token + 8 * e;
        const float2 x = *(const float2*)&from[i][half_column(i, first + n * 8 + column)];
        o[n * 4 + 2 * e] += alpha[e] * x.x;
        o[n * 4 + 2 * e + 1] += alpha[e] * x.y;
      }
    }
  }
}

// O, rounded, in the place of x; adds x·O, from f32, to `dot`.
template <class C>
DEVICE void ScoreWarps<C>::put(const float (&o)[16], float (&dot)[2], int first) const {
  const uint32_t tile = ptx::opaque(Sweep<C>::at(&shared.o[0][0][0]));
  const uint32_t thread = ptx::thread_index() % 128, i = thread / 32 * 16 + thread % 16;
#pragma unroll
  for (int n = 0; n < 4; n += 2) {
    const uint32_t j = first / 8 + n + thread / 16 % 2;
    const uint32_t place = tile + i * 128 + ((j ^ (i & 7)) << 4);
    uint32_t x[4], y[4];
    ptx::load_matrices(x, place);
#pragma unroll
    for (int p = 0; p < 4; p++) {
      const float low = o[n * 4 + 2 * p], high = o[n * 4 + 2 * p + 1];
      dot[p & 1] += low * ptx::low_half(x[p]) + high * ptx::high_half(x[p]);
      y[p] = ptx::pack(low, high);
    }
    ptx::store_matrices(place, y[0], y[1], y[2], y[3]);
  }
}

template <class C>
DEVICE void ScoreWarps<C>::put_dot(float (&dot)[2]) const {
#pragma unroll
  for (int e = 0; e < 2; e++) {
    dot[e] += __shfl_xor_sync(~0u, dot[e], 1);
    dot[e] += __shfl_xor_sync(~0u, dot[e], 2);
    if ((sweep.lane & 3) == 0) shared.dots[0][0][row_here() + 8 * e] = dot[e];
  }
}

template <class C>
DEVICE void ScoreWarps<C>::split_step(int c) const {
  if (sweep.a.lengths && sweep.valid(c) < CHUNK) clear(c);
  if (sweep.thread == 0) {
    ptx::barrier_expect(Sweep<C>::at(&shared.split.full_peer), sizeof(shared.split.peer_scores));
  }
  float s[COLUMNS];
  Scores own, other;
  multiply_parts(s, c);
  sweep.wait_record(c);
  const float* record = sweep.record_of(c);
  if (((const int*)record)[C::At::plain]) {
    // Rounded in each branch: S and its fragments would both live across the join.
    gate_plain(s, record);
    round(own, s);
  } else {
    gate(s, c);
    round(own, s);
  }
  give_scores(own, c);
  float o[16], dot[2] = {0, 0};
  add_values<true>(o, own, first_token(), 0, c);
  keep_scores(own, c);
  take_scores(other, c);
  add_values<false>(o, other, other_first_token(), 0, c);
  ptx::mma_wait<0>();
  float alpha[2];
  read_alpha(alpha, record);
  for (int half = 0; half < 2; half++) {
    ptx::barrier_wait(Sweep<C>::at(&shared.split.full_half[half]), c & 1);
  }
  ptx::barrier_wait(Sweep<C>::at(&shared.full_x[0]), c & 1);
  add_halves(o, alpha, 0);
  put(o, dot, 0);
  add_values<true>(o, own, first_token(), 32, c);
  add_values<false>(o, other, other_first_token(), 32, c);
  ptx::mma_wait<0>();
  sweep.release(&shared.empty_v[0][c % C::v_stages]);
  add_halves(o, alpha, 32);
  for (uint64_t& empty : shared.split.empty_half) sweep.release(&empty);
  put(o, dot, 32);
  put_dot(dot);
  ptx::fence_async();
  sweep.release(&shared.split.full_o);
}

template <class C>
DEVICE void Sweep<C>::finish_split() {
  ScoreWarps<C> warps(*this);
  for (int c = 0; c < chunks; c++) warps.split_step(c);
}

// A warp beside the producer: O and x·O to memory, then the next x into the tile.
template <class C>
DEVICE void Sweep<C>::move_outputs() const {
  const SweepPlace w = where();
  if (lane == 0) load_x(w, 0, 0);
  for (int c = 0; c < chunks; c++) {
    ptx::barrier_wait(at(&shared.split.full_o), c & 1);
    if (w.column * 64 < a.value_width) {
      float* const to =
          a.dots + (((size_t)w.column * a.units + w.unit) * a.chunks + place(c)) * CHUNK;
      float2 sum = ((const float2*)shared.dots[0][0])[lane];
      if constexpr (C::given) {  // of four warps
        const auto& dots = shared.dots[0];
        const float2 b = ((const float2*)dots[1])[lane], d = ((const float2*)dots[2])[lane];
        const float2 e = ((const float2*)dots[3])[lane];
        sum = {(sum.x + b.x) + (d.x + e.x), (sum.y + b.y) + (d.y + e.y)};
      }
      ((float2*)to)[lane] = sum;
      if (lane == 0) {
        ptx::tensor_store(&a.o, at(&shared.o[0]), box(w, a.v_columns, c, w.column));
        ptx::stores_read();
      }
    }
    __syncwarp();
    if (lane == 0) load_x(w, c + 1, 0);
  }
  if (lane == 0) ptx::stores_done();
}
