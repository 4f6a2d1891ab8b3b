// The vectors that drive one chunk of a sweep: kernels.md §2.4.
#pragma once

constexpr int CHUNK = 64;

// Floats at these offsets. Exponents are of 2. u, w and low are `turned`: what a lane of the
// scores' warps needs of them, tokens 8n + 2q and the next for one q, lies side by side.
struct Record {
  static DEVICE int turned(int token) {
    return (token >> 1 & 3) * 16 + (token >> 3) * 2 + (token & 1);
  }
  static constexpr int u = 0;
  static constexpr int w = CHUNK;
  static constexpr int low = 2 * CHUNK;  // bf16 pairs: what u (high half) and w lost in f32
  static constexpr int alpha = 3 * CHUNK;
  static constexpr int beta = 4 * CHUNK;
  static constexpr int edge = 5 * CHUNK;   // i32: first token it sees + 64 · last that sees it
  static constexpr int gamma = 6 * CHUNK;
  // i32: without borders, and u and w so small that f32 holds their powers: 2^u and 2^w stand in
  // their places, with a factor moved between them; `low` and `edge` hold nothing.
  static constexpr int plain = gamma + 1;  // and 2 more to keep 16-byte alignment
  static constexpr int floor = 6 * CHUNK + 4;  // e^-m, only with the normaliser
  static constexpr int size = floor, size_norm = floor + CHUNK;
};
