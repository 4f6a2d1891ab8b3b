// The operator behind the mLSTM's forward pass and all its gradients, chunk by chunk:
//
//   O_i = alpha_i (Q_i·C) + Σ_{j visible to i} 2^(u_i + w_j) (Q_i·K_j) V_j
//   C  <- gamma C + Σ_j beta_j K_jᵀ V_j          C: width(Q) x width(V), on chip in f32
//
//   pass      Q  K  V  u  w  alpha beta  order     pass  Q  K  V  u  w  alpha beta  order
//   forward   q  k  v  u  w  alpha beta  forward   dV    k  q  dh w  u' beta  alpha' reverse
//   dQ        dh v  k  u' w  alpha' beta forward   dK    v  dh q  w  u' beta  alpha' reverse
//
// NORM: h = O/(max(|sigma|, floor) + eps),
//   sigma_i = alpha_i (q_i·n) + Σ_{j visible to i} 2^(u_i + w_j) (q_i·k_j).
//
// A block: one (batch row, head) and 128 columns of V. Warpgroups 0 and 1 keep C^T for 64 of them
// in accumulators; the same registers are the A operand of C^T Q^T. Warpgroup 2 makes the gated
// scores S (bf16, through shared memory) and n. Q, K, V, S and the vectors of a chunk (Record)
// travel through rings. dV and dK read the records of dQ with their vectors exchanged.
//
// Floor, per token and head: 2·(2·KEY + 2·VALUE) bytes (dQ, dK + 2·VALUE for x), 4·KEY·VALUE +
// 128·(KEY + VALUE) FLOP. H100 80GB HBM3, 65,536 tokens, medians of 100 launches in ms, and times
// the floor at the 3.0 TB/s of a copy (docs/experiments.md, also for what was tried and dropped):
//
//   shape        forward sig   forward exp   dV           dQ, dK
//   8 x 256/512  0.60  1.12    0.67  1.25    0.63  1.17   0.90, 0.81  1.44, 1.29
//   16 x 128/256 0.555 1.03    0.564 1.05    0.565 1.05   0.640  1.02
//   32 x 64/128                0.603 1.12    0.587 1.09   0.718  1.14
//
// Power bounds 8 x 256/512: it draws the GPU's 700 W, and clocks fall from 1.98 to 1.5-1.6 GHz.
// After a second of nothing else, forward 0.63 sig and 0.78 exp, dV 0.69, dQ 0.97, dK 0.84.
//
// Equals: cpu/mlstm_forward.zig, cpu/mlstm_backward.zig; reference/mlstm.zig.
#pragma once
#include "mlstm_sweep_shape.cuh"

template <class C>
struct Sweep {
  using Shared = SweepShared<C>;
  static constexpr int SCORES = C::given ? -1 : 2, PRODUCER = C::given ? 2 : 3;
  const MlstmSweep& a;
  Shared& shared;
  int group, thread, warp, lane, chunks;
  int plain_next;  // of the thread that loads them: is the record after the last one plain?

  DEVICE Sweep(const MlstmSweep& args, Shared& memory) : a(args), shared(memory) {
    group = threadIdx.x >> 7;
    thread = threadIdx.x & 127;
    warp = thread >> 5;
    lane = thread & 31;
    const int unit = unit_here(), batch = unit / a.heads;
    const int tokens = a.lengths ? a.lengths[batch] : (int)a.length;
    chunks = (tokens + CHUNK - 1) / CHUNK;
    if (threadIdx.x == 0) {
      const int slice = blockIdx.x % a.slices, head = unit - batch * a.heads;
      shared.where.place = {unit, slice * C::value_tiles, head, batch, tokens};
      shared.where.sigma =
          a.sigma && slice == 0 ? a.sigma + batch * a.length * a.heads + head : nullptr;
      shared.where.kept =
          a.kept && slice == 0 ? a.kept + (size_t)unit * a.chunks * Record<false>::pitch : nullptr;
    }
  }

  // Sweeps that go back begin with the last unit: what a pass ends with, the next one, which goes
  // the other way, finds in the second-level cache.
  DEVICE int unit_here() const {
    const int place = blockIdx.x / a.slices;
    return C::reverse ? (int)a.units - 1 - place : place;
  }
  // Read where it is needed: the state's warpgroups have no registers to keep it in.
  DEVICE SweepPlace where() const {
    const volatile SweepPlace& w = shared.where.place;
    return {w.unit, w.column, w.head, w.batch, w.tokens};
  }
  // Of this block in its cluster.
  static DEVICE int rank() { return blockIdx.x % C::cluster; }
  static DEVICE bool has_n() { return !C::shares_scores || rank() == 1; }
  static DEVICE uint32_t at(const void* p) {
    return ptx::shared_address(p);
  }
  DEVICE int place(int c) const {
    return C::reverse ? chunks - 1 - c : c;
  }
  // Of step c, among the chunks of all units.
  DEVICE size_t chunk_of(const SweepPlace& w, int c) const {
    return (uint32_t)(w.unit * a.chunks + place(c));
  }
  // Of the n-th tile in a ring of `stages`: the parity of the phase in which it arrives.
  static DEVICE int parity(uint32_t n, uint32_t stages) {
    return (n / stages) & 1;
  }
  // Of Q and K, part p of step c.
  static DEVICE uint32_t part(int c, int p) {
    return (uint32_t)c * C::parts + p;
  }
  DEVICE void wait_q(int c, int p) const {
    const uint32_t n = part(c, p);
    ptx::barrier_wait(at(&shared.full_q[n % C::q_stages]), parity(n, C::q_stages));
  }
  DEVICE void wait_k(int c, int p) const {
    const uint32_t n = part(c, p);
    ptx::barrier_wait(at(&shared.full_k[n % C::k_stages]), parity(n, C::k_stages));
  }
  DEVICE uint32_t tile_q(int c, int p) const {
    return at(&shared.q[part(c, p) % C::q_stages][0][0][0]);
  }
  DEVICE uint32_t tile_k(int c, int p) const {
    return at(&shared.k[part(c, p) % C::k_stages][0][0][0]);
  }
  DEVICE const float* record_of(int c) const {
    return shared.record[c % C::record_stages];
  }
  DEVICE const float* exponents_of(int c) const {
    return shared.exponents[c % C::record_stages];
  }
  DEVICE void wait_record(int c) const {
    if constexpr (C::split) {
      ptx::barrier_wait(at(&shared.full_v[0][c % C::v_stages]), parity(c, C::v_stages));
    }
  }
  DEVICE void release(uint64_t* barrier) const {
    __syncwarp();
    if (lane == 0) ptx::barrier_arrive(at(barrier));
  }
  DEVICE void release_q(int c, int p) const {
    release_part(&shared.empty_q[part(c, p) % C::q_stages]);
  }
  DEVICE void release_k(int c, int p) const {
    release_part(&shared.empty_k[part(c, p) % C::k_stages]);
  }
  // To whoever loads a part: both blocks of a cluster.
  DEVICE void release_part(uint64_t* barrier) const {
    if constexpr (C::split) {
      release_both(barrier);
    } else {
      release(barrier);
    }
  }
  DEVICE void release_both(uint64_t* barrier) const {
    __syncwarp();
    if (lane < C::cluster) ptx::barrier_arrive_remote(at(barrier), lane);
  }

  DEVICE void run() {
    prepare();
    if (C::producer && group == PRODUCER) {
      ptx::registers_less<C::producer_registers>();
      produce();
    } else if (group == SCORES) {
      ptx::registers_less<C::score_registers>();
      if constexpr (C::gives) {
        finish_split();
      } else if constexpr (!C::given) {
        score();
      }
    } else {
      ptx::registers_more<C::consumer_registers>();
      consume();
    }
    if constexpr (C::paired) {  // not before the other block has received its last
      __syncwarp();
      ptx::cluster_barrier();
    }
  }

  DEVICE void prepare() {
    if (threadIdx.x == 0) {
      ring(shared.full_q, shared.empty_q, C::q_stages, 1, C::q_readers);
      ring(shared.full_k, shared.empty_k, C::k_stages, 1, C::k_readers);
      ring(shared.full_v[0], shared.empty_v[0], C::value_tiles * C::v_stages, 1,
           C::v_readers);
      ring(shared.full_s, shared.empty_s, C::s_stages, C::s_fill, C::s_readers);
      ring(shared.full_x, shared.empty_x, 2, 1, 1);
      for (uint64_t& sums : shared.full_sums) ptx::barrier_init(at(&sums), 1);
      if constexpr (C::split) {
        ring(shared.split.full_half, shared.split.empty_half, 2, 4, 4);
        ptx::barrier_init(at(&shared.split.full_o), C::given ? 8 : 4);
      }
      if constexpr (C::gives) {
        ring(&shared.split.full_peer, &shared.split.empty_peer, 1, 1, 4);
      }
      ptx::barrier_init_fence();
    }
    if constexpr (C::norm) {
      constexpr int words = C::blocks * 256;  // 8 rows of 64 columns under each block
      for (int i = threadIdx.x; i < C::k_stages * words; i += C::threads) {
        uint16_t* row = &shared.k[i / words][i / 256 % C::blocks][CHUNK][0];
        ((uint32_t*)row)[i % 256] = 0;
      }
      for (int i = threadIdx.x; i < 256; i += C::threads) ((uint32_t*)shared.keys.betas)[i] = 0;
    }
    ptx::fence_async();
    __syncthreads();
    if constexpr (C::paired) ptx::cluster_barrier();
  }
  static DEVICE void ring(uint64_t* full, uint64_t* empty, int stages, int fill, int drain) {
    for (int i = 0; i < stages; i++) {
      ptx::barrier_init(at(full + i), fill);
      ptx::barrier_init(at(empty + i), drain);
    }
  }

  // ---- Loads: of step c, once everybody is past what its place in the ring held before.

  DEVICE ptx::Box box(const SweepPlace& w, Columns columns, int c, int block) const {
    return {(int)columns.column * block, place(c) * CHUNK, (int)columns.block * block, w.head,
            w.batch};
  }
  // The blocks of a part, BOX at once; split, this block's half of them, to both blocks.
  template <int BOX>
  DEVICE void load_part(const SweepPlace& w, const TensorMap* map, uint32_t tile, uint32_t pitch,
                        uint32_t barrier, int c, int p) const {
    if constexpr (C::split) {
      const int i = rank();
      ptx::tensor_load_both(tile + i * pitch, map, barrier,
                            box(w, a.q_columns, c, p * C::part_blocks + i));
    } else {
#pragma unroll
      for (int i = 0; i < C::blocks; i += BOX) {
        ptx::tensor_load(tile + i * pitch, map, barrier, box(w, a.q_columns, c, i));
      }
    }
  }
  DEVICE void load_q(const SweepPlace& w, int c, int p = 0) const {
    if (c >= chunks) return;
    const uint32_t n = part(c, p), stage = n % C::q_stages;
    ptx::barrier_wait(at(&shared.empty_q[stage]), parity(n, C::q_stages) ^ 1);
    const uint32_t barrier = at(&shared.full_q[stage]);
    ptx::barrier_expect(barrier, C::part_bytes);
    load_part<C::q_box>(w, &a.q, tile_q(c, p), C::q_pitch, barrier, c, p);
  }
  DEVICE void load_k(const SweepPlace& w, int c, int p = 0) {
    if (c >= chunks) return;
    const uint32_t n = part(c, p), stage = n % C::k_stages;
    ptx::barrier_wait(at(&shared.empty_k[stage]), parity(n, C::k_stages) ^ 1);
    const uint32_t barrier = at(&shared.full_k[stage]);
    if constexpr (C::split) {
      ptx::barrier_expect(barrier, C::part_bytes);
    } else {
      load_record(w, c, barrier, C::part_bytes);
    }
    load_part<C::k_box>(w, &a.k, tile_k(c, p), C::k_pitch, barrier, c, p);
  }
  // Its flag has come with the record before, so that nothing waits for it. The barrier waits for
  // `bytes` more.
  DEVICE void load_record(const SweepPlace& w, int c, uint32_t barrier, uint32_t bytes) {
    using At = typename C::At;
    const size_t chunk = chunk_of(w, c);
    const bool is_plain = plain_next;
    read_plain(w, c + 1);
    constexpr uint32_t record = At::size * 4, exponents = sizeof(shared.exponents[0]);
    ptx::barrier_expect(barrier, bytes + record + (is_plain ? 0 : exponents));
    ptx::bulk_load(at(record_of(c)), a.records + chunk * At::pitch, record, barrier);
    if (is_plain) return;
    const float* const from = a.exponents + chunk * a.exponent_pitch;
    ptx::bulk_load(at(exponents_of(c)), from, exponents, barrier);
  }
  DEVICE void read_plain(const SweepPlace& w, int c) {
    if (c >= chunks) return;
    plain_next = ((const int*)a.records)[chunk_of(w, c) * C::At::pitch + C::At::plain];
  }
  DEVICE void load_v(const SweepPlace& w, int c, int half) {
    if (c >= chunks) return;
    const int stage = c % C::v_stages;
    const uint32_t barrier = at(&shared.full_v[half][stage]);
    if constexpr (C::split) {
      load_record(w, c, barrier, C::value_bytes);
    } else {
      ptx::barrier_expect(barrier, C::value_bytes);
    }
    ptx::tensor_load(at(&shared.v[half][stage]), &a.v, barrier,
                     box(w, a.v_columns, c, w.column + half));
  }
  DEVICE uint16_t* scores_of(const SweepPlace& w, int c) const {
    return a.scores + ((size_t)w.unit * a.chunks + place(c)) * (CHUNK * CHUNK);
  }
  DEVICE void load_scores(const SweepPlace& w, int c) const {
    const int stage = c % C::s_stages;
    const uint32_t barrier = at(&shared.full_s[stage]);
    ptx::barrier_wait(at(&shared.empty_s[stage]), parity(c, C::s_stages) ^ 1);
    ptx::barrier_expect(barrier, CHUNK * CHUNK * 2);
    ptx::bulk_load(at(&shared.s[stage][0][0]), scores_of(w, c), CHUNK * CHUNK * 2, barrier);
  }
  // x lands where O will be written: every warp reads the elements that it replaces.
  DEVICE void load_x(const SweepPlace& w, int c, int half) const {
    if (c >= chunks) return;
    const uint32_t barrier = at(&shared.full_x[half]);
    ptx::barrier_expect(barrier, C::value_bytes);
    ptx::tensor_load(at(&shared.o[half]), &a.x, barrier,
                     box(w, a.v_columns, c, w.column + half));
  }

  DEVICE void produce() {
    const SweepPlace w = where();
    if (warp == 0 && lane == 0) {
      read_plain(w, 0);
      if constexpr (C::split) {
        feed_parts(w);
      } else if constexpr (C::feeds_values) {
        feed(w);
      } else {
        feed_keys(w);
      }
    }
    if constexpr (C::split) {
      if (warp == 1) move_outputs();
    }
    if (C::dot && !C::split && warp == 1 && lane == 0) {
      for (int c = 0; c < chunks; c++) {
#pragma unroll
        for (int tile = 0; tile < C::value_tiles; tile++) {
          ptx::barrier_wait(at(&shared.empty_x[tile]), c & 1);
          load_x(w, c, tile);
        }
      }
    }
  }
  DEVICE void feed_values(const SweepPlace& w, int c) {
#pragma unroll
    for (int tile = 0; tile < C::value_tiles; tile++) {
      const uint32_t empty = at(&shared.empty_v[tile][c % C::v_stages]);
      ptx::barrier_wait(empty, parity(c, C::v_stages) ^ 1);
      load_v(w, c, tile);
    }
  }
  DEVICE void feed(const SweepPlace& w) {
    load_k(w, 0);
    for (int c = 0; c < chunks; c++) {
      load_q(w, c);
      feed_values(w, c);
      load_k(w, c + 1);
    }
  }
  // In the order in which the places become free: the last parts of K wait for the update before.
  DEVICE void feed_parts(const SweepPlace& w) {
    constexpr int spare = C::k_stages - C::parts;
    for (int c = 0; c < chunks; c++) {
      feed_values(w, c);
      if constexpr (C::given) load_scores(w, c);
#pragma unroll
      for (int p = 0; p < spare; p++) load_k(w, c, p);
#pragma unroll
      for (int p = 0; p < C::parts; p++) load_q(w, c, p);
#pragma unroll
      for (int p = spare; p < C::parts; p++) load_k(w, c, p);
    }
  }
  DEVICE void feed_keys(const SweepPlace& w) {
    for (int c = 0; c < chunks; c++) {
      load_q(w, c);
      load_k(w, c);
    }
  }
  // By the scores' warpgroup, where there is no producer.
  DEVICE void load_first(const SweepPlace& w) {
    read_plain(w, 0);
#pragma unroll
    for (int c = 0; c < C::q_stages - 1; c++) load_q(w, c);
#pragma unroll
    for (int c = 0; c < C::k_stages - 1; c++) load_k(w, c);
  }
  DEVICE void load_ahead(const SweepPlace& w, int c) {
    load_q(w, c + C::q_stages - 1);
    load_k(w, c + C::k_stages - 1);
  }

  // ---- Rows behind the end of a batch row hold anything, NaN too: they become zeros. (Behind
  // the tensor's last token the copy engine has written zeros.) Once per batch row.

  DEVICE int valid(int c) const {
    const int left = where().tokens - place(c) * CHUNK;
    return left < CHUNK ? left : CHUNK;
  }
  DEVICE void clear(uint32_t tile, int rows) const {
    for (int i = rows * 32 + thread; i < CHUNK * 32; i += 128) ptx::store_word(tile + i * 4, 0);
  }
  DEVICE void cleared() const {
    ptx::fence_async();
    ptx::named_barrier(5, C::clearing_warps * 32);
  }

  DEVICE void score();
  DEVICE void finish_split();
  DEVICE void move_outputs() const;
  DEVICE void consume();
};

#include "mlstm_sweep_keys.cuh"
#include "mlstm_sweep_scores.cuh"
#include "mlstm_sweep_state.cuh"
#include "mlstm_sweep_split.cuh"
#include "mlstm_sweep_given.cuh"

template <class C>
DEVICE void mlstm_sweep(const MlstmSweep& a) {
  Sweep<C> sweep(a, *(SweepShared<C>*)ptx::dynamic_shared());
  sweep.run();
}
