// n <- gamma n + Σ_j beta_j K_j, by the warpgroup of the scores: Kᵀ times a tile whose first rows
// are beta as bf16 high and low. n stays in shared memory, f32; of two blocks of a cluster, in the
// second one.
//
// Three warps beside the producer, on the cores: 16 K multiplications a chunk of 256 keys, which
// cost power (8 x 256/512, 400 launches with gates: 0.86 ms for 0.82). They by mma.sync, which
// waits for the state's long products: 0.76 to 1.02 for 0.70. Begun before the scores are weighed:
// the same time.
#pragma once

template <class C>
struct KeySums {
  Sweep<C>& sweep;
  SweepShared<C>& shared;

  DEVICE KeySums(Sweep<C>& s) : sweep(s), shared(s.shared) {}

  // Under the keys of a stage, as bf16 high and low: q·n comes out of the product that makes S.
  DEVICE void put(int stage, uint32_t key, float n) const {
    const uint32_t high = ptx::pack(n, 0.f), low = ptx::pack(n - ptx::low_half(high), 0.f);
    auto& tile = shared.k[stage][key / 64];
    tile[CHUNK][key % 64] = (uint16_t)high;
    tile[CHUNK + 1][key % 64 ^ 8] = (uint16_t)low;  // swizzled
  }
  DEVICE void seen() const {
    ptx::fence_async();
    ptx::named_barrier(4, 128);
  }
  DEVICE void read() const {
    const MlstmSweep& a = sweep.a;
    const float* const from = a.n_in ? a.n_in + (size_t)sweep.where().unit * a.key_width : nullptr;
    for (uint32_t key = sweep.thread; key < C::key; key += 128) {
      const float n = from && key < a.key_width ? from[key] : 0.f;
      shared.keys.n[key] = n;
      put(0, key, n);
    }
    seen();
  }
  DEVICE void write() const {
    const MlstmSweep& a = sweep.a;
    const SweepPlace w = sweep.where();
    if (!a.n_out || w.column != C::n_column) return;
    for (uint32_t key = sweep.thread; key < a.key_width; key += 128)
      a.n_out[(size_t)w.unit * a.key_width + key] = shared.keys.n[key];
  }

  // By one warp, two tokens a lane.
  DEVICE void write_betas(const float* record) const {
    if (sweep.warp != 0) return;
    const float2 pair = *(const float2*)&record[C::column + turned(2 * sweep.lane)];
    const float factor = record[C::column_factor], x = pair.x * factor, y = pair.y * factor;
    const uint32_t high = ptx::pack(x, y);
    const uint32_t low = ptx::pack(x - ptx::low_half(high), y - ptx::high_half(high));
    ((uint32_t*)shared.keys.betas[0])[sweep.lane] = high;
    ((uint32_t*)shared.keys.betas[1])[sweep.lane ^ 4] = low;  // swizzled
    ptx::fence_async();
  }
  // Step c, once its betas are written; gives the keys up.
  DEVICE void add(int c, float gamma) const {
    float sums[C::blocks][4];
    ptx::named_barrier(4, 128);
    multiply(sums, sweep.tile_k(c, 0));
    sweep.release_k(c, 0);
    if ((sweep.lane & 3) == 0) {
#pragma unroll
      for (int block = 0; block < C::blocks; block++) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
          const uint32_t key = block * 64 + sweep.warp * 16 + sweep.lane / 4 + 8 * e;
          const float added = sums[block][2 * e] + sums[block][2 * e + 1];
          const float n = shared.keys.n[key] * gamma + added;
          shared.keys.n[key] = n;
          put((c + 1) % C::k_stages, key, n);
        }
      }
    }
    seen();
  }
  DEVICE void multiply(float (&sums)[C::blocks][4], uint32_t k) const {
    const uint64_t betas = ptx::descriptor(Sweep<C>::at(&shared.keys.betas[0][0]), 16);
    ptx::mma_fence();
#pragma unroll
    for (int block = 0; block < C::blocks; block++) {
      const uint64_t keys = ptx::descriptor(k + block * C::k_pitch, 8192);
      ptx::mma8_transposed_a<true>(sums[block], keys, betas);
#pragma unroll
      for (int step = 1; step < 4; step++) {
        ptx::mma8_transposed_a<false>(sums[block], ptx::advance(keys, step * 2048),
                                      ptx::advance(betas, step * 32));
      }
    }
    ptx::mma_commit();
    ptx::mma_wait<0>();
  }
};
