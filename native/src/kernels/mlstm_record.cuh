// The vectors that drive one chunk of a sweep: kernels.md §2.4.
#pragma once

constexpr int CHUNK = 64;

// A chunk in memory, in floats: without a normaliser what both passes read, `common` and `rows`.
// With one, rows and floor of the forward pass, `common`, and rows of the backward pass, which the
// forward sweep makes: u - log(N + eps) and alpha/(N + eps).
//
// Exponents are of 2. u, w and low are `turned`: what a lane of the scores' warps needs of them,
// tokens 8n + 2q and the next for one q, lies side by side.
//
// The state may be kept times a power of 2 that several chunks share: beta brings it in, alpha
// takes it out, and gamma, 1 inside such a group, ends it. So the state is hardly ever scaled.
struct Record {
  static DEVICE int turned(int token) {
    return (token >> 1 & 3) * 16 + (token >> 3) * 2 + (token & 1);
  }
  // Rows.
  static constexpr int u = 0;
  static constexpr int alpha = CHUNK;
  static constexpr int low = 2 * CHUNK;    // bf16 pairs: what u (high half) and w lost in f32
  static constexpr int floor = 3 * CHUNK;  // e^-m, only with the normaliser
  static constexpr int rows = 3 * CHUNK, rows_norm = 4 * CHUNK;
  // Common.
  static constexpr int w = 0;
  static constexpr int beta = CHUNK;
  static constexpr int edge = 2 * CHUNK;  // i32: first token it sees + 64 · last that sees it
  static constexpr int gamma = 3 * CHUNK;
  // i32: without borders, and u and w so small that f32 holds their powers: 2^u and 2^w stand in
  // their places, with a factor moved between them; `low` and `edge` hold nothing.
  static constexpr int plain = gamma + 1;
  static constexpr int common = gamma + 4;  // 16-byte alignment

  static constexpr int size = common + rows, size_norm = rows_norm + common + rows;
};

// Where a pass that loads its part of a record finds them: the forward one with a normaliser, or
// any other.
template <bool NORM>
struct RecordPlaces {
  static constexpr int rows = NORM ? 0 : Record::common, common = NORM ? Record::rows_norm : 0;
  static constexpr int u = rows + Record::u, alpha = rows + Record::alpha;
  static constexpr int low = rows + Record::low, floor = rows + Record::floor;
  static constexpr int w = common + Record::w, beta = common + Record::beta;
  static constexpr int edge = common + Record::edge, gamma = common + Record::gamma;
  static constexpr int plain = common + Record::plain;
  static constexpr int size = Record::common + (NORM ? Record::rows_norm : Record::rows);
};
