// The vectors that drive one chunk of a sweep: kernels.md §2.4.
#pragma once

constexpr int CHUNK = 64;

// Floats at these offsets. Exponents are of 2.
struct Record {
  static constexpr int u = 0;
  static constexpr int w = CHUNK;
  static constexpr int low = 2 * CHUNK;  // bf16 pairs: what u (high half) and w lost in f32
  static constexpr int alpha = 3 * CHUNK;
  static constexpr int beta = 4 * CHUNK;
  static constexpr int edge = 5 * CHUNK;   // i32: first (forward) or last (reverse) visible token
  static constexpr int gamma = 6 * CHUNK;  // 1, and 3 to keep 16-byte alignment
  static constexpr int floor = 6 * CHUNK + 4;  // e^-m, only with the normaliser
  static constexpr int size = floor, size_norm = floor + CHUNK;
};
