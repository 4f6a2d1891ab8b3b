// n <- gamma n + Σ_j beta_j K_j beside everything else, where there are warps to spare: three,
// each with the sum over its share of the tokens; KEY/32 keys per lane. Not on the tensor cores:
// mma.sync waits for the state's long products (8 x 256/512: 0.76 to 1.02 ms for 0.70).
#pragma once

template <class C>
struct KeyWarps {
  static constexpr int keys = C::key / 32, words = keys / 2, lanes = 64 / keys;  // per block
  Sweep<C>& sweep;
  SweepShared<C>& shared;
  int part;
  float n[keys];

  DEVICE KeyWarps(Sweep<C>& s) : sweep(s), shared(s.shared), part(s.warp - 1) {
#pragma unroll
    for (int i = 0; i < keys; i++) n[i] = 0;
  }

  // This lane's keys in row 8·group of a tile; other rows: + 128·r, ^ 16·r.
  DEVICE uint32_t place(int stage, int group) const {
    const uint32_t tile = Sweep<C>::at(&shared.k[stage][0][0][0]);
    const uint32_t inside = (sweep.lane % lanes) * keys * 2;
    return tile + (sweep.lane / lanes) * C::k_pitch + group * 1024 + inside;
  }

  DEVICE void add(int stage) {
    const float* record = shared.record[stage];
    const float gamma = record[C::At::gamma], factor = record[C::column_factor];
#pragma unroll
    for (int i = 0; i < keys; i++) n[i] *= gamma;
#pragma unroll 1
    for (int group = part; group < 8; group += C::n_parts) {
      const uint32_t from = place(stage, group);
      const float* const columns = &record[C::column + turned(group * 8)];
#pragma unroll
      for (int r = 0; r < 8; r += 2) {
        uint32_t x[2][words];
        ptx::load_words(x[0], (from ^ (r << 4)) + r * 128);
        ptx::load_words(x[1], (from ^ ((r + 1) << 4)) + (r + 1) * 128);
        const float2 pair = *(const float2*)&columns[turned(r)];
        add_row(x[0], pair.x * factor);
        add_row(x[1], pair.y * factor);
      }
    }
  }
  DEVICE void add_row(const uint32_t (&x)[words], float beta) {
#pragma unroll
    for (int i = 0; i < words; i++) {
      n[2 * i] += beta * ptx::low_half(x[i]);
      n[2 * i + 1] += beta * ptx::high_half(x[i]);
    }
  }

  // As two rows of bf16 under the keys of step c: q·n comes out of the product that makes S.
  DEVICE void append(int c) const {
    const int stage = c % C::k_stages;
    ptx::barrier_wait(Sweep<C>::at(&shared.empty_k[stage]), Sweep<C>::parity(c, C::k_stages) ^ 1);
    uint32_t high[words], rest[words];
#pragma unroll
    for (int i = 0; i < words; i++) {
      high[i] = ptx::pack(n[2 * i], n[2 * i + 1]);
      const float low = ptx::low_half(high[i]), odd = ptx::high_half(high[i]);
      rest[i] = ptx::pack(n[2 * i] - low, n[2 * i + 1] - odd);
    }
    const uint32_t to = place(stage, CHUNK / 8);
    ptx::store_words((to ^ (2 * part << 4)) + 2 * part * 128, high);
    ptx::store_words((to ^ ((2 * part + 1) << 4)) + (2 * part + 1) * 128, rest);
    ptx::fence_async();
    sweep.release(&shared.full_n[stage]);
  }

  DEVICE void read() {
    const MlstmSweep& a = sweep.a;
    if (!a.n_in || part != 0) return;
    const size_t unit = (size_t)sweep.where().unit * a.key_width;
    for (int i = 0; i < keys; i++) {
      const uint32_t d = sweep.lane * keys + i;
      if (d < a.key_width) n[i] = a.n_in[unit + d];
    }
  }
  DEVICE void write() const {
    const MlstmSweep& a = sweep.a;
    for (int i = 0; i < keys; i++) shared.n_sums[part][sweep.lane * keys + i] = n[i];
    ptx::named_barrier(4, 32 * C::n_parts);
    const SweepPlace w = sweep.where();
    if (!a.n_out || w.column != C::n_column) return;
    for (uint32_t d = part * 32 + sweep.lane; d < a.key_width; d += 32 * C::n_parts) {
      float sum = 0;
#pragma unroll
      for (int p = 0; p < C::n_parts; p++) sum += shared.n_sums[p][d];
      a.n_out[(size_t)w.unit * a.key_width + d] = sum;
    }
  }
};

template <class C>
DEVICE void Sweep<C>::keep_n() {
  KeyWarps<C> warps(*this);
  if (has_n()) {
    warps.read();
    warps.append(0);
  }
  for (int c = 0; c < chunks; c++) {
    const int stage = c % C::k_stages;
    ptx::barrier_wait(at(&shared.full_k[stage]), parity(c, C::k_stages));
    if (a.lengths && valid(c) < CHUNK) cleared();
    if (has_n()) warps.add(stage);
    release_k(c, 0);
    if (has_n() && c + 1 < chunks) warps.append(c + 1);
  }
  if (has_n()) warps.write();
}
