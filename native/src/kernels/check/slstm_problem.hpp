// Tensors of one sLSTM problem on the device, and the launches of cuda/slstm_resident.zig and
// cuda/slstm.zig.
#pragma once

struct Shape {
  const char* name;
  int batch, length, heads, width;
  bool states = false, reset = false, ragged = false;
  float clip = 0, recurrent_clip = 0;
  bool cut = false, steep = false;

  size_t cells() const { return (size_t)batch * length * heads * width; }
  size_t units() const { return (size_t)batch * heads * width; }
  size_t weights() const { return (size_t)4 * heads * width * width; }
  bool fits() const { return (size_t)batch * length <= 4096; }
};

static float bound(float x) { return x > 0 ? x : INFINITY; }
static uint64_t blocks_of(uint64_t count, uint64_t size) { return (count + size - 1) / size; }

struct Problem {
  Shape s;
  std::vector<void*> all;
  uint16_t *wx, *dy, *y, *dwx, *past;
  float *r, *b, *initial = nullptr, *dlast = nullptr, *saved, *last, *dr, *db, *dinitial;
  float *dr_parts, *db_parts, *draw, *turned;
  uint8_t* borders = nullptr;
  int32_t* lengths = nullptr;

  explicit Problem(const Shape& shape) : s(shape) {
    wx = alloc<uint16_t>(4 * s.cells()), dy = alloc<uint16_t>(s.cells());
    y = alloc<uint16_t>(s.cells()), dwx = alloc<uint16_t>(4 * s.cells());
    past = alloc<uint16_t>(s.cells()), saved = alloc<float>(6 * s.cells());
    r = alloc<float>(s.weights()), b = alloc<float>(4 * s.heads * s.width);
    last = alloc<float>(4 * s.units()), dinitial = alloc<float>(4 * s.units());
    dr = alloc<float>(s.weights()), db = alloc<float>(4 * s.heads * s.width);
    dr_parts = alloc<float>(ranges() * s.weights());
    db_parts = alloc<float>(std::max(tiles(), simple_ranges()) * 4 * s.heads * s.width);
    draw = alloc<float>(4 * s.cells()), turned = alloc<float>(s.weights());
    if (s.states) initial = alloc<float>(4 * s.units()), dlast = alloc<float>(4 * s.units());
    if (s.reset) borders = alloc<uint8_t>((size_t)s.batch * s.length);
    if (s.ragged) lengths = alloc<int32_t>(s.batch);
  }
  ~Problem() {
    for (void* p : all) device_free(p);
  }
  template <typename T> T* alloc(size_t count) {
    T* p = (T*)device_alloc(count * sizeof(T) + 16);
    device_fill(p, 0xff, count * sizeof(T) + 16);
    all.push_back(p);
    return p;
  }

  uint64_t tiles() const { return blocks_of(s.batch, 4); }
  uint64_t tokens() const { return (uint64_t)s.batch * s.length; }
  uint64_t range() const {
    const uint64_t sides = blocks_of(s.width, 64), patches = s.heads * sides * sides;
    const uint64_t wanted = std::max<uint64_t>(1, 256 / patches);
    return blocks_of(std::max<uint64_t>(256, blocks_of(tokens(), wanted)), 32) * 32;
  }
  uint64_t ranges() const { return std::max(blocks_of(tokens(), range()), simple_ranges()); }
  uint64_t simple_range() const {
    const uint64_t sides = blocks_of(s.width, 64), patches = 4 * s.heads * sides * sides;
    return std::max<uint64_t>(256, blocks_of(tokens(), std::max<uint64_t>(1, 512 / patches)));
  }
  uint64_t simple_ranges() const { return blocks_of(tokens(), simple_range()); }

  SlstmForwardPlan forward_plan(bool save) const {
    return {wx, r, b, initial, borders, lengths, y, save ? saved : nullptr, last,
            (uint64_t)s.batch, (uint64_t)s.length, (uint64_t)s.heads, (uint64_t)s.width, 0,
            bound(s.clip), 0};
  }
  SlstmResidentPlan backward_plan() const {
    return {dy, dlast, r, initial, borders, lengths, saved, dwx, past, db_parts, dinitial,
            (uint64_t)s.batch, (uint64_t)s.length, (uint64_t)s.heads, (uint64_t)s.width,
            bound(s.clip), bound(s.recurrent_clip), s.cut};
  }
  SlstmWeightsPlan weights_plan() const {
    const bool one = blocks_of(tokens(), range()) == 1;
    return {past, dwx, one ? dr : dr_parts, tokens(), (uint64_t)s.heads, (uint64_t)s.width,
            range()};
  }

#define PASS(pass, width, blocks, plan, shared)                                             \
  case width:                                                                               \
    return LAUNCH(slstm_resident_##pass##_##width, s.heads * tiles() * blocks, 1,           \
                  (slstm::Resident<width, blocks>::threads),                                \
                  (int)sizeof(slstm::shared<slstm::Resident<width, blocks>>), plan, blocks)
  void forward(bool save) const {
    switch (s.width) {
      PASS(forward, 32, 1, forward_plan(save), ForwardShared);
      PASS(forward, 64, 1, forward_plan(save), ForwardShared);
      PASS(forward, 96, 1, forward_plan(save), ForwardShared);
      PASS(forward, 128, 4, forward_plan(save), ForwardShared);
      PASS(forward, 192, 6, forward_plan(save), ForwardShared);
      PASS(forward, 256, 8, forward_plan(save), ForwardShared);
    }
  }
  void backward() const {
    switch (s.width) {
      PASS(backward, 32, 1, backward_plan(), BackwardShared);
      PASS(backward, 64, 1, backward_plan(), BackwardShared);
      PASS(backward, 96, 1, backward_plan(), BackwardShared);
      PASS(backward, 128, 4, backward_plan(), BackwardShared);
      PASS(backward, 192, 6, backward_plan(), BackwardShared);
      PASS(backward, 256, 8, backward_plan(), BackwardShared);
    }
  }
#undef PASS
  void weights() const {
    const uint64_t sides = blocks_of(s.width, 64), count = blocks_of(tokens(), range());
    LAUNCH(slstm_resident_weights, s.heads * sides * sides * count, 1, 256,
           (int)sizeof(slstm::WeightsShared), weights_plan());
    if (count > 1) add(dr_parts, dr, s.weights(), count);
    add(db_parts, db, 4 * s.heads * s.width, tiles());
  }
  void add(const float* parts, float* to, uint64_t count, uint64_t number) const {
#ifdef XL_HOPPER_HOST
    for (uint64_t e = 0; e < count; e++) {
      to[e] = 0;
      for (uint64_t p = 0; p < number; p++) to[e] += parts[p * count + e];
    }
#else
    LAUNCH(slstm_add_ranges, blocks_of(count, 256), 1, 256, 0,
           (SlstmSumPlan{parts, to, count, number}));
#endif
  }

#ifndef XL_HOPPER_HOST
  // What a pass does not write is NaN.
  void spoil() const {
    device_fill(y, 0xff, s.cells() * 2), device_fill(dwx, 0xff, s.cells() * 8);
    device_fill(last, 0xff, s.units() * 16), device_fill(dinitial, 0xff, s.units() * 16);
    device_fill(dr, 0xff, s.weights() * 4);
    device_fill(db, 0xff, (size_t)16 * s.heads * s.width);
  }
  struct Simple {
    int rows, threads, shared;
    bool staged;
  };
  Simple simple(int vectors) const {
    const int bytes = vectors * s.width * 4, matrix = 4 * s.width * s.width * 4;
    const int most = 227 << 10;
    const int rows = s.batch * s.heads <= 132 || 4 * bytes > most ? 1 : 4;
    const bool staged = rows * bytes + matrix <= most;
    return {rows, std::min(512, 4 * s.width), rows * bytes + (staged ? matrix : 0), staged};
  }
  void simple_forward(bool save) const {
    const Simple k = simple(8);
    SlstmForwardPlan plan = forward_plan(save);
    plan.staged = k.staged;
    const uint64_t grid = s.heads * blocks_of(s.batch, k.rows);
    if (k.rows == 1) LAUNCH(slstm_forward_one_bf16, grid, 1, k.threads, k.shared, plan);
    else LAUNCH(slstm_forward_four_bf16, grid, 1, k.threads, k.shared, plan);
  }
  void simple_backward() const {
    const Simple k = simple(11);
    const uint64_t count = simple_ranges();
    SlstmBackwardPlan plan = {dy, dlast, r, turned, initial, borders, lengths, saved, dwx, draw,
                              count > 1 ? dr_parts : dr, count > 1 ? db_parts : db, dinitial,
                              (uint64_t)s.batch, (uint64_t)s.length, (uint64_t)s.heads,
                              (uint64_t)s.width, simple_range(), 0, bound(s.clip),
                              bound(s.recurrent_clip), s.cut, k.staged};
    LAUNCH(slstm_turn, std::min<uint64_t>(2112, blocks_of(s.weights(), 256)), 1, 256, 0, plan);
    const uint64_t grid = s.heads * blocks_of(s.batch, k.rows);
    if (k.rows == 1) LAUNCH(slstm_backward_one_bf16, grid, 1, k.threads, k.shared, plan);
    else LAUNCH(slstm_backward_four_bf16, grid, 1, k.threads, k.shared, plan);
    const uint64_t sides = blocks_of(s.width, 64);
    LAUNCH(slstm_weights, 4 * s.heads * sides * sides * count, 1, 256, 2 * 32 * 68 * 4, plan);
    if (count == 1) return;
    add(dr_parts, dr, s.weights(), count);
    add(db_parts, db, 4 * s.heads * s.width, count);
  }
#endif
};
