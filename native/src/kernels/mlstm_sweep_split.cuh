// 512 keys. C^T of 64 value columns fills the accumulators of two warpgroups, half of the keys
// each; neither sees the scores. They leave Q·C over their half in shared memory, f32, in the
// shadow of the state's update. The third warpgroup makes S, multiplies it with V straight from
// registers, adds both halves and rounds O; a warp beside the producer moves O, x and x·O:
//
//   O_i = S_i V + alpha_i (half_0 + half_1)_i       tokens in rows here, not H^T
//
// So the recurrence waits for nothing but its tiles and the place of the last halves. A block and
// chunk: 3,200 cycles of the tensor cores (S 1,024, C^T Q^T 1,024, S V 128, update 1,024), 500 KB
// of shared memory or 3,900 cycles, 82 KB of L2 (Q and K come once for two blocks). The warpgroup
// of the scores bounds it: its 32 products take turns with those of two others (2,700 cycles).
//
// H100, 8 x 256/512: dQ 0.92-0.99 ms, dK 0.91-0.95, 1.5 times the floor (docs/experiments.md).
#pragma once

// The halves' columns of V, shuffled by token in eights: no bank is met twice when the state's
// warps write (8 columns of 4 tokens at once) nor when the others read (4 pairs of 4 tokens).
static DEVICE uint32_t half_column(uint32_t token, uint32_t column) {
  return column ^ (((token ^ token >> 2) & 1) | (token & 2)) << 3;
}

template <class C>
DEVICE void StateWarps<C>::give_half(int c) {
  ptx::barrier_wait(Sweep<C>::at(&shared.empty_half[sweep.group]), (c & 1) ^ 1);
  const uint32_t token = (sweep.lane & 3) * 2, column = sweep.warp * 16 + (sweep.lane >> 2);
  float(&half)[CHUNK][64] = *(float(*)[CHUNK][64])&shared.halves[sweep.group][0][0];
#pragma unroll
  for (int x = 0; x < 4; x++) {
    const uint32_t i = token + (x & 1);
    float* const to = &half[i][half_column(i, column + (x & 2) * 4)];
#pragma unroll
    for (int n = 0; n < 8; n++) to[n * 8 * 64] = h[n * 4 + x];
  }
  sweep.release(&shared.full_half[sweep.group]);
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
  from_state(c, record[Record::gamma]);
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

template <class C>
DEVICE void ScoreWarps<C>::round(uint32_t (&fragment)[4][4], const float (&s)[COLUMNS]) {
#pragma unroll
  for (int i = 0; i < 16; i++) fragment[i / 4][i % 4] = ptx::pack(s[2 * i], s[2 * i + 1]);
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

// 32 columns of O from `first`: more would not fit beside S.
template <class C>
DEVICE void ScoreWarps<C>::add_values(
    float (&o)[16], const uint32_t (&fragment)[4][4], int first, int c) const {
  const uint32_t tile = Sweep<C>::at(&shared.v[0][c % C::v_stages][0][first]);
  const uint64_t v = ptx::descriptor(tile, 8192);
  ptx::mma_fence();
#pragma unroll
  for (int step = 0; step < 4; step++) {
    if (step == 0) {
      ptx::mma32_transposed_b<true>(o, fragment[step], v);
    } else {
      ptx::mma32_transposed_b<false>(o, fragment[step], ptx::advance(v, step * 2048));
    }
  }
  ptx::mma_commit();
  ptx::mma_wait<0>();
}

template <class C>
DEVICE void ScoreWarps<C>::add_halves(float (&o)[16], const float (&alpha)[2], int first) const {
  const uint32_t token = row_here(), column = column_here();
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float(&from)[CHUNK][64] = *(float(*)[CHUNK][64])&shared.halves[half][0][0];
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
  float s[COLUMNS];
  uint32_t fragment[4][4];
  multiply_parts(s, c);
  sweep.wait_record(c);
  const float* record = sweep.record_of(c);
  if (((const int*)record)[Record::plain]) {
    // Rounded in each branch: S and its fragments would both live across the join.
    gate_plain(s, record);
    round(fragment, s);
  } else {
    gate(s, record);
    round(fragment, s);
  }
  float o[16], dot[2] = {0, 0};
  add_values(o, fragment, 0, c);
  const uint32_t row = row_here();
  const float alpha[2] = {record[C::alpha + row], record[C::alpha + row + 8]};
  for (int half = 0; half < 2; half++) {
    ptx::barrier_wait(Sweep<C>::at(&shared.full_half[half]), c & 1);
  }
  ptx::barrier_wait(Sweep<C>::at(&shared.full_x[0]), c & 1);
  add_halves(o, alpha, 0);
  put(o, dot, 0);
  add_values(o, fragment, 32, c);
  sweep.release(&shared.empty_v[0][c % C::v_stages]);
  add_halves(o, alpha, 32);
  for (uint64_t& empty : shared.empty_half) sweep.release(&empty);
  put(o, dot, 32);
  put_dot(dot);
  ptx::fence_async();
  sweep.release(&shared.full_o);
}

template <class C>
DEVICE void Sweep<C>::finish_split() {
  ScoreWarps<C> warps(*this);
  for (int c = 0; c < chunks; c++) warps.split_step(c);
}

// A warp beside the producer: O and x·O to memory, then the next x into the tile.
template <class C>
DEVICE void Sweep<C>::move_outputs() {
  const SweepPlace w = where();
  if (lane == 0) load_x(w, 0, 0);
  for (int c = 0; c < chunks; c++) {
    ptx::barrier_wait(at(&shared.full_o), c & 1);
    if (w.column * 64 < a.value_width) {
      float* const to =
          a.dots + (((size_t)w.column * a.units + w.unit) * a.chunks + place(c)) * CHUNK;
      ((float2*)to)[lane] = ((const float2*)shared.dots[0][0])[lane];
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
