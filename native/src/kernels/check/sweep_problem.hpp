// One mLSTM problem on the device, and its launches in the order of cuda/mlstm_sweep.zig.
#pragma once
#include <math.h>

struct Shape {
  const char* name;
  int batch, length, heads, qk, v;
  bool sigmoid, normalize, states, fused;
  int reset;    // reset_none, reset_exact, reset_soft
  bool ragged;  // lengths
  bool steep;   // gates far from what soft caps allow
};

enum Pass { forward_pass, dv_pass, dq_pass, dk_pass };

// Launches of its scope may begin while the one before them ends.
struct Following {
#ifdef XL_HOPPER_HOST
  explicit Following(bool) {}
#else
  explicit Following(bool may) { following = may; }
  ~Following() { following = 0; }
#endif
};

struct Problem {
  Shape s;
  int units, chunks, padded;
  uint64_t tokens;
  double scale;
  uint16_t *q, *k, *v, *h, *dh, *dq, *dk, *dv;
  uint64_t qk_step, v_step;
  float *i, *f, *c0 = nullptr, *n0 = nullptr, *m0 = nullptr, *dc = nullptr;
  uint8_t* borders = nullptr;
  int32_t* lengths = nullptr;
  float *sigma, *m, *c_last, *n_last, *m_last, *dc0, *di, *df;
  float *records, *rows, *columns, *c_scratch;
  double *summaries, *tiles, *tails;
  uint16_t* scores;
  std::vector<void*> owned;

  template <typename T>
  T* alloc(size_t count) {
    T* p = (T*)device_alloc(count * sizeof(T));
    device_fill(p, 0xff, count * sizeof(T));
    owned.push_back(p);
    return p;
  }
  explicit Problem(const Shape& shape) : s(shape) {
    units = s.batch * s.heads;
    chunks = (s.length + 63) / 64;
    padded = chunks * 64;
    tokens = (uint64_t)s.batch * s.length;
    scale = 1 / sqrt((double)s.qk);
    const uint64_t qk = (uint64_t)s.heads * s.qk, wide = (uint64_t)s.heads * s.v;
    qk_step = v_step = 0;
    if (s.fused) {
      q = alloc<uint16_t>(tokens * (2 * qk + wide));
      k = q + qk, v = k + qk;
      qk_step = v_step = 2 * qk + wide;
    } else {
      q = alloc<uint16_t>(tokens * qk), k = alloc<uint16_t>(tokens * qk);
      v = alloc<uint16_t>(tokens * wide);
      qk_step = qk, v_step = wide;
    }
    h = alloc<uint16_t>(tokens * wide), dh = alloc<uint16_t>(tokens * wide);
    dv = alloc<uint16_t>(tokens * wide);
    dq = alloc<uint16_t>(tokens * qk), dk = alloc<uint16_t>(tokens * qk);
    float** gates[] = {&i, &f, &sigma, &m, &di, &df};
    for (float** g : gates) *g = alloc<float>(tokens * s.heads);
    const size_t state = (size_t)units * s.qk * s.v;
    if (s.states) {
      c0 = alloc<float>(state), n0 = s.normalize ? alloc<float>(units * s.qk) : nullptr;
      m0 = s.sigmoid ? nullptr : alloc<float>(units), dc = alloc<float>(state);
    }
    if (s.reset) borders = alloc<uint8_t>(tokens);
    if (s.ragged) lengths = alloc<int32_t>(s.batch);
    c_last = alloc<float>(state), n_last = alloc<float>(units * s.qk);
    dc0 = alloc<float>(state), c_scratch = alloc<float>(s.states ? state : 1);
    m_last = alloc<float>(units);
    const size_t record = (size_t)units * chunks;
    records = alloc<float>(record * RecordArrays::floats(s.normalize));
    rows = alloc<float>((size_t)(s.qk + 63) / 64 * units * padded);
    columns = alloc<float>((size_t)(s.qk + 63) / 64 * units * padded);
    summaries = alloc<double>(record * 2);
    tiles = alloc<double>(record * 2);
    tails = alloc<double>(units);
    scores = alloc<uint16_t>(s.v == 512 ? record * CHUNK * CHUNK : 1);
  }
  ~Problem() {
    for (void* p : owned) device_free(p);
  }

  MlstmGateSizes gate_sizes() const {
    return {(uint64_t)s.batch, (uint64_t)s.length, (uint64_t)s.heads, (uint32_t)chunks,
            (uint32_t)s.sigmoid, (uint32_t)s.normalize, (uint32_t)s.reset};
  }
  // As cuda/mlstm_sweep_launch.zig chooses.
  bool plain_gates() const { return !borders && !lengths && s.length % 64 == 0; }
  uint64_t plain_blocks(int warps) const {
    return (uint64_t)s.batch * ((chunks + warps - 1) / warps) * ((s.heads + 7) / 8);
  }
  uint64_t gate_blocks() const { return (uint64_t)s.batch * chunks * ((s.heads + 7) / 8); }
  void gates() const {
    MlstmGates a = {};
    a.i = i, a.f = f, a.m0 = m0, a.borders = borders, a.lengths = lengths;
    a.summaries = summaries, a.records = records;
    a.scale = scale, a.reset_value = -25;
    a.sizes = gate_sizes();
    a.m = m, a.m_last = m_last, a.sigma_out = sigma;
    if (plain_gates()) {
      if (!s.sigmoid) LAUNCH(mlstm_gates_summaries_plain, plain_blocks(8), 1, 256, 0, a);
      Following second(!s.sigmoid);
      if (s.sigmoid) LAUNCH(mlstm_gates_records_plain_sig, plain_blocks(8), 1, 256, 0, a);
      else LAUNCH(mlstm_gates_records_plain_exp, plain_blocks(8), 1, 256, 0, a);
      return;
    }
    LAUNCH(mlstm_gates_summaries, gate_blocks(), 1, 256, 0, a);
    LAUNCH(mlstm_gates_records, gate_blocks(), 1, 256, 0, a);
  }

  // Width of the keys of a pass as its kernel has it.
  int key(Pass pass) const {
    const int width = pass == forward_pass || pass == dv_pass ? s.qk : s.v;
    return (width + 63) / 64 * 64;
  }
  TensorMap map(const void* base, int width, uint64_t step, int blocks) const {
    const MapShape shape = {width, (uint64_t)s.batch, (uint64_t)s.length, (uint64_t)s.heads,
                            step * s.length, step, (uint64_t)width};
    return encode(base, MapLayout(shape, blocks));
  }
  TensorMap map_qk(const void* p, int blocks) const {
    return map(p, s.qk, p == q || p == k ? qk_step : (uint64_t)s.heads * s.qk, blocks);
  }
  TensorMap map_v(const void* p, int blocks) const {
    return map(p, s.v, p == v ? v_step : (uint64_t)s.heads * s.v, blocks);
  }
  static Columns columns_of(int width) {
    return width % 64 == 0 ? Columns{0, 1} : Columns{64, 0};
  }

  MlstmSweep arguments(Pass pass) const {
    const bool narrow = pass == forward_pass || pass == dv_pass;  // the keys have width qk
    const bool norm = pass == forward_pass && s.normalize;
    const int q_box = key(pass) == 256 ? 4 : 1, k_box = norm ? 1 : q_box;
    MlstmSweep a = {};
    const void* operands[4][4] = {{q, k, v, h}, {k, q, dh, dv}, {dh, v, k, dq}, {v, dh, q, dk}};
    const void* const* o = operands[pass];
    a.q = narrow ? map_qk(o[0], q_box) : map_v(o[0], q_box);
    a.k = narrow ? map_qk(o[1], k_box) : map_v(o[1], k_box);
    a.v = narrow ? map_v(o[2], 1) : map_qk(o[2], 1);
    a.o = narrow ? map_v(o[3], 1) : map_qk(o[3], 1);
    a.x = pass == dq_pass ? map_qk(q, 1)
          : pass == dk_pass ? map_qk(k, 1)
                            : a.v;
    const bool behind = s.normalize && !norm;  // what only the forward pass reads
    const RecordArrays all(records, (uint64_t)units * chunks, s.normalize);
    a.records = norm ? all.forward : all.backward;
    a.exponents = all.exponents + (behind ? Exponents<true>::columns : 0);
    a.exponent_pitch = all.exponent_pitch;
    a.kept = norm ? all.backward : nullptr;
    a.kept_exponents = norm ? all.exponents + Exponents<true>::columns : nullptr;
    a.lengths = lengths;
    a.units = units, a.length = s.length, a.heads = s.heads, a.chunks = chunks;
    a.key_width = narrow ? s.qk : s.v, a.value_width = narrow ? s.v : s.qk;
    a.key_stride = narrow ? s.v : 1, a.value_stride = narrow ? 1 : s.v;
    // Blocks of 128 columns, or, in whole clusters, of 64.
    a.slices = (a.value_width + 127) / 128 * (key(pass) == 512 ? 2 : 1);
    if (key(pass) == 256 && narrow) a.slices = (a.slices + 1) / 2 * 2;
    a.q_columns = columns_of(a.key_width), a.v_columns = columns_of(a.value_width);
    a.eps = 1e-6f;
    a.state_in = pass == forward_pass || pass == dq_pass ? c0 : dc;
    if (pass == forward_pass) {
      a.state_out = c_last, a.n_in = n0, a.n_out = n_last, a.sigma = norm ? sigma : nullptr;
    }
    if (pass == dv_pass) a.state_out = dc0;
    if (pass == dq_pass) a.state_out = s.states ? c_scratch : nullptr, a.dots = rows;
    if (pass == dk_pass) a.dots = columns;
    a.scores = scores;
    return a;
  }

#define SWEEP_CASE(width, norm_, reverse, dot, kernel)                                  \
  if (key(pass) == width && norm == norm_) {                                            \
    using C = SweepShape<width, norm_, reverse, dot>;                                   \
    LAUNCH(kernel, (uint64_t)units * a.slices, 1, C::threads, (int)sizeof(SweepShared<C>), \
           a, C::cluster);                                                              \
    return;                                                                             \
  }
  void sweep(Pass pass, const MlstmSweep& a) const {
    const bool norm = pass == forward_pass && s.normalize;
    if (pass == forward_pass) {
      SWEEP_CASE(64, true, false, false, mlstm_sweep_64_norm)
      SWEEP_CASE(64, false, false, false, mlstm_sweep_64_plain)
      SWEEP_CASE(128, true, false, false, mlstm_sweep_128_norm)
      SWEEP_CASE(128, false, false, false, mlstm_sweep_128_plain)
      SWEEP_CASE(256, true, false, false, mlstm_sweep_256_norm)
      SWEEP_CASE(256, false, false, false, mlstm_sweep_256_plain)
    } else if (pass == dv_pass) {
      SWEEP_CASE(64, false, true, false, mlstm_sweep_64_dv)
      SWEEP_CASE(128, false, true, false, mlstm_sweep_128_dv)
      SWEEP_CASE(256, false, true, false, mlstm_sweep_256_dv)
    } else if (pass == dq_pass) {
      SWEEP_CASE(128, false, false, true, mlstm_sweep_128_dq)
      SWEEP_CASE(192, false, false, true, mlstm_sweep_192_dq)
      SWEEP_CASE(256, false, false, true, mlstm_sweep_256_dq)
      SWEEP_CASE(512, false, false, true, mlstm_sweep_512_dq)
    } else {
      SWEEP_CASE(128, false, true, true, mlstm_sweep_128_dk)
      SWEEP_CASE(192, false, true, true, mlstm_sweep_192_dk)
      SWEEP_CASE(256, false, true, true, mlstm_sweep_256_dk)
      SWEEP_CASE(512, false, true, true, mlstm_sweep_512_dk)
    }
    printf("no sweep of width %d for pass %d\n", key(pass), pass);
  }
  void sweep(Pass pass) const { sweep(pass, arguments(pass)); }

  void clear(uint16_t* to, int width) const {
    const MlstmClearRows a = {to, lengths, (uint64_t)s.batch, (uint64_t)s.length,
                              (uint64_t)s.heads * width};
    if (lengths) LAUNCH(mlstm_clear_rows, 64, s.batch, 256, 0, a);
  }
  void forward() const {
    gates();
    sweep(forward_pass);
    clear(h, s.v);
  }
  void gate_gradients() const {
    if (dc) {
      const MlstmTails a = {c_scratch, dc, tails, (uint64_t)s.qk * s.v};
      LAUNCH(mlstm_gate_tails, units, 1, 256, 0, a);
    }
    MlstmGateGradient a = {};
    a.i = i, a.f = f, a.borders = borders, a.lengths = lengths;
    a.rows = rows, a.columns = columns, a.tiles = tiles, a.tails = dc ? tails : nullptr;
    a.di = di, a.df = df, a.sizes = gate_sizes();
    a.row_parts = a.column_parts = (s.qk + 63) / 64;
    if (plain_gates()) {
      LAUNCH(mlstm_gate_sums_plain, plain_blocks(4), 1, 128, 0, a);
      Following second(true);
      if (s.sigmoid) LAUNCH(mlstm_gate_gradients_plain_sig, plain_blocks(4), 1, 128, 0, a);
      else LAUNCH(mlstm_gate_gradients_plain_exp, plain_blocks(4), 1, 128, 0, a);
      return;
    }
    LAUNCH(mlstm_gate_sums, gate_blocks(), 1, 256, 0, a);
    LAUNCH(mlstm_gate_gradients, gate_blocks(), 1, 256, 0, a);
  }
  // In the order of cuda/mlstm_sweep.zig.
  void sweep_back(const MlstmSweep (&a)[4]) const {
    for (Pass pass : {dv_pass, dq_pass, dk_pass}) sweep(pass, a[pass]);
  }
  void backward() const {
    const MlstmSweep a[4] = {arguments(forward_pass), arguments(dv_pass), arguments(dq_pass),
                             arguments(dk_pass)};
    sweep_back(a);
    gate_gradients();
    clear(dq, s.qk), clear(dk, s.qk), clear(dv, s.v);
  }
};
