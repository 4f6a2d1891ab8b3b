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
// scores S (bf16, through shared memory). n is its work too, or that of the idle warps beside the
// one that feeds the copy engine. Q, K, V, S travel through rings. dV and dK read the records of
// dQ with their vectors exchanged.
//
// Floor, per token and head: 2·(2·KEY + 2·VALUE) bytes, 4·KEY·VALUE + 128·(KEY + VALUE) FLOP.
// Equals: cpu/mlstm_forward.zig, cpu/mlstm_backward.zig; reference/mlstm.zig.
#pragma once
#include "mlstm_sweep_shape.cuh"

template <class C>
struct Sweep {
  using Shared = SweepShared<C>;
  static constexpr int SCORES = 2, PRODUCER = 3;
  const MlstmSweep& a;
  Shared& shared;
  int group, thread, warp, lane, chunks;

  DEVICE Sweep(const MlstmSweep& args, Shared& memory) : a(args), shared(memory) {
    group = threadIdx.x >> 7;
    thread = threadIdx.x & 127;
    warp = thread >> 5;
    lane = thread & 31;
    const int block = C::pair ? blockIdx.x / 2 : blockIdx.x;
    const int unit = block / a.slices, batch = unit / a.heads;
    const int tokens = a.lengths ? a.lengths[batch] : (int)a.length;
    chunks = (tokens + CHUNK - 1) / CHUNK;
    if (threadIdx.x == 0) {
      const int slice = block - unit * a.slices, head = unit - batch * a.heads;
      shared.where.place = {unit, slice, head, batch, tokens};
      shared.where.sigma =
          a.sigma && slice == 0 ? a.sigma + batch * a.length * a.heads + head : nullptr;
    }
  }

  // Read where it is needed: the state's warpgroups have no registers to keep it in.
  DEVICE SweepPlace where() const {
    const volatile SweepPlace& w = shared.where.place;
    return {w.unit, w.slice, w.head, w.batch, w.tokens};
  }
  static DEVICE uint32_t at(const void* p) {
    return ptx::shared_address(p);
  }
  DEVICE int place(int c) const {
    return C::reverse ? chunks - 1 - c : c;
  }
  // Of step c, with a ring of `stages`: the parity of the phase in which its data arrive.
  static DEVICE int parity(int c, int stages) {
    return (c / stages) & 1;
  }
  DEVICE void release(uint64_t* barrier) const {
    __syncwarp();
    if (lane == 0) ptx::barrier_arrive(at(barrier));
  }

  DEVICE void run() {
    prepare();
    if (C::producer && group == PRODUCER) {
      ptx::registers_less<C::producer_registers>();
      produce();
    } else if (group == SCORES) {
      ptx::registers_less<C::score_registers>();
      score();
    } else {
      ptx::registers_more<C::consumer_registers>();
      consume();
    }
    if constexpr (C::pair) {  // not before the other block has sent its last
      __syncwarp();
      ptx::cluster_barrier();
    }
  }

  DEVICE void prepare() {
    if (threadIdx.x == 0) {
      ring(shared.full_q, shared.empty_q, C::q_stages, 1, 12);
      ring(shared.full_k, shared.empty_k, C::k_stages, 1, C::key_readers);
      for (uint64_t& n : shared.full_n) ptx::barrier_init(at(&n), C::n_parts);
      ring(shared.full_v[0], shared.empty_v[0], 2 * C::v_stages, 1, 4);
      ring(shared.full_s, shared.empty_s, C::s_stages, C::own / 16, 8);
      ring(shared.full_x, shared.empty_x, 2, 1, 1);
      ring(&shared.full_peer_s, &shared.empty_peer_s, 1, 1, 2);
      ring(shared.full_peer_h, shared.empty_peer_h, 2, 1, 4);
      ptx::barrier_init_fence();
    }
    if constexpr (C::norm) {
      constexpr int words = C::blocks * 256;  // 8 rows of 64 columns under each block
      for (int i = threadIdx.x; i < C::k_stages * words; i += C::threads) {
        uint16_t* row = &shared.k[i / words][i / 256 % C::blocks][CHUNK][0];
        ((uint32_t*)row)[i % 256] = 0;
      }
    }
    ptx::fence_async();
    __syncthreads();
    if constexpr (C::pair) ptx::cluster_barrier();
  }
  static DEVICE void ring(uint64_t* full, uint64_t* empty, int stages, int fill, int drain) {
    for (int i = 0; i < stages; i++) {
      ptx::barrier_init(at(full + i), fill);
      ptx::barrier_init(at(empty + i), drain);
    }
  }

  // ---- Loads: of step c, once everybody is past what its place in the ring held before.

  DEVICE ptx::Box box(
      const SweepPlace& w, Columns columns, int c, int block, int from = 0) const {
    return {(int)columns.column * block, place(c) * CHUNK + from, (int)columns.block * block,
            w.head, w.batch};
  }
  DEVICE ptx::Box key_box(const SweepPlace& w, int c, int block) const {
    return box(w, a.q_columns, c, C::rank * C::blocks + block);
  }
  DEVICE void load_q(const SweepPlace& w, int c) const {
    if (c >= chunks) return;
    const int stage = c % C::q_stages;
    ptx::barrier_wait(at(&shared.empty_q[stage]), parity(c, C::q_stages) ^ 1);
    const uint32_t barrier = at(&shared.full_q[stage]);
    ptx::barrier_expect(barrier, C::tile_bytes);
#pragma unroll
    for (int i = 0; i < C::blocks; i += C::q_box) {
      ptx::tensor_load(at(&shared.q[stage][i]), &a.q, barrier, key_box(w, c, i));
    }
  }
  DEVICE void load_k(const SweepPlace& w, int c) const {
    if (c >= chunks) return;
    const int stage = c % C::k_stages;
    ptx::barrier_wait(at(&shared.empty_k[stage]), parity(c, C::k_stages) ^ 1);
    const uint32_t barrier = at(&shared.full_k[stage]);
    ptx::barrier_expect(barrier, C::tile_bytes + C::record * 4);
#pragma unroll
    for (int i = 0; i < C::blocks; i += C::k_box) {
      ptx::tensor_load(at(&shared.k[stage][i]), &a.k, barrier, key_box(w, c, i));
    }
    const float* record = a.records + ((size_t)w.unit * a.chunks + place(c)) * C::record;
    ptx::bulk_load(at(shared.record[stage]), record, C::record * 4, barrier);
  }
  DEVICE void load_v(const SweepPlace& w, int c, int half) const {
    if (c >= chunks) return;
    const int stage = c % C::v_stages;
    const uint32_t barrier = at(&shared.full_v[half][stage]);
    ptx::barrier_expect(barrier, C::value_bytes);
    ptx::tensor_load(at(&shared.v[half][stage]), &a.v, barrier,
            box(w, a.v_columns, c, w.slice * 2 + half));
  }
  // x lands where O will be written: every warp reads the elements that it replaces.
  DEVICE void load_x(const SweepPlace& w, int c, int half) const {
    const uint32_t barrier = at(&shared.full_x[half]);
    ptx::barrier_expect(barrier, C::output_bytes);
    ptx::tensor_load(at(&shared.h[half]), &a.x, barrier,
                     box(w, a.v_columns, c, w.slice * 2 + half, C::first));
  }

  DEVICE void produce() {
    const SweepPlace w = where();
    if (warp == 0 && lane == 0) {
      load_k(w, 0);
      for (int c = 0; c < chunks; c++) {
        load_q(w, c);
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const uint32_t empty = at(&shared.empty_v[half][c % C::v_stages]);
          ptx::barrier_wait(empty, parity(c, C::v_stages) ^ 1);
          load_v(w, c, half);
          if (C::prefetch && c + 1 < chunks) {
            const int block = w.slice * 2 + half;
            ptx::tensor_prefetch(&a.v, box(w, a.v_columns, c + 1, block));
            ptx::tensor_prefetch(&a.x, box(w, a.v_columns, c + 1, block, C::first));
          }
        }
        load_k(w, c + 1);
      }
    }
    if constexpr (C::n_apart) {
      if (warp > 0) keep_n();
    }
    if (C::dot && warp == 1 && lane == 0) {
      for (int c = 0; c < chunks; c++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
          ptx::barrier_wait(at(&shared.empty_x[half]), c & 1);
          load_x(w, c, half);
        }
      }
    }
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
    ptx::named_barrier(5, C::key_readers * 32);
  }

  DEVICE void score();
  DEVICE void keep_n();
  DEVICE void consume();
};

#include "mlstm_sweep_keys.cuh"
#include "mlstm_sweep_scores.cuh"
#include "mlstm_sweep_state.cuh"

template <class C>
DEVICE void mlstm_sweep(const MlstmSweep& a) {
  Sweep<C> sweep(a, *(SweepShared<C>*)ptx::dynamic_shared());
  sweep.run();
}
