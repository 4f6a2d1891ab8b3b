// The vectors that drive one chunk of a sweep: kernels.md §2.4.
#pragma once

constexpr int CHUNK = 64;

// What a sweep reads of every chunk, in floats; NORM: the forward pass with a normaliser. In a
// plain chunk, without borders and with u and w so small that f32 holds their powers, moved by a
// factor between them:
//
//   row_i = 2^u_i   column_j = 2^w_j   alpha = row · row_factor   beta = column · column_factor
//
// In another one row is alpha, column is beta, both factors are 1, and Exponents has u and w.
//
// row and column are `turned`: of 16 tokens, what a lane needs, 8n + 2q and the next for one q,
// lies side by side.
//
// The state may be kept times a power of 2 that several chunks share: beta brings it in, alpha
// takes it out, and gamma, 1 inside such a group, ends it. So the state is hardly ever scaled.
template <bool NORM>
struct Record {
  static constexpr int row = 0;
  static constexpr int floor = CHUNK;  // e^-m, not turned; only with the normaliser
  static constexpr int column = NORM ? 2 * CHUNK : CHUNK;
  static constexpr int row_factor = column + CHUNK, column_factor = row_factor + 1;
  static constexpr int gamma = row_factor + 2, plain = row_factor + 3;  // plain: i32
  static constexpr int size = row_factor + 4, pitch = size + 4;         // of whole sectors
};
DEVICE int turned(int token) {
  return (token & ~15) | (token >> 1 & 3) * 4 | (token >> 3 & 1) * 2 | (token & 1);
}

// Of a chunk that is not plain, exponents of 2: the weight of a score is 2^(u_i + w_j), where both
// are wide, and 0 where a border lies between them.
template <bool NORM>
struct Exponents {
  static constexpr int rows = NORM ? 0 : 2 * CHUNK, columns = NORM ? 2 * CHUNK : 0;
  static constexpr int u = rows;            // turned, as w and low
  static constexpr int low = rows + CHUNK;  // bf16 pairs: what u (high half) and w lost in f32
  static constexpr int w = columns;
  static constexpr int edge = columns + CHUNK;  // i32: first token it sees + 64 · last that sees it
  static constexpr int size = 4 * CHUNK;
};

// In memory: these arrays one after the other, of all chunks of all units. With a normaliser the
// backward pass has records of its own, whose rows, over the denominator, the forward sweep makes;
// exponents are then rows of the forward pass, columns, rows of the backward one.
struct RecordArrays {
  float *forward, *backward, *exponents;
  int pitch, exponent_pitch;

  __host__ DEVICE RecordArrays(float* from, uint64_t chunks, bool norm) {
    pitch = norm ? Record<true>::pitch : Record<false>::pitch;
    exponent_pitch = norm ? 6 * CHUNK : 4 * CHUNK;
    forward = from;
    backward = norm ? forward + chunks * pitch : forward;
    exponents = backward + chunks * Record<false>::pitch;
  }
  static constexpr int floats(bool norm) {
    return Record<false>::pitch + (norm ? Record<true>::pitch + 6 * CHUNK : 4 * CHUNK);
  }
};
