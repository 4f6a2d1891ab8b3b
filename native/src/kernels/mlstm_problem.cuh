// What the mLSTM kernels for any size share: units, chunks, tiles of tokens. A unit is one head of
// one batch row: nothing crosses units. A chunk is 64 tokens, the side of a tile.
#pragma once
#include "tile.cuh"

namespace mlstm {

using namespace tile;

constexpr int chunk = side;

// Position that attains the running maximum: none is the floor m = 0 behind an exact reset, initial
// the state before the first token; others count tokens from 1.
constexpr int winner_none = -1, winner_initial = 0;

struct Unit {
  uint64_t index, row, head;
  int tokens, chunks;
};

DEVICE Unit unit_of(const MlstmProblem& a, uint64_t index) {
  Unit u;
  u.index = index;
  u.row = index / a.heads;
  u.head = index % a.heads;
  u.tokens = a.lengths ? a.lengths[u.row] : (int)a.length;
  u.chunks = (u.tokens + chunk - 1) / chunk;
  return u;
}

/// Token t of a unit in a tensor [B, S, NH].
DEVICE size_t token_of(const MlstmProblem& a, const Unit& u, int t) {
  return (u.row * a.length + t) * a.heads + u.head;
}

/// Element of scratch vectors [units, chunks of 64].
DEVICE size_t vector_at(const MlstmProblem& a, const Unit& u, int t) {
  return u.index * a.chunks * chunk + t;
}

DEVICE bool is_border(const MlstmProblem& a, const Unit& u, int t) {
  return a.borders && a.borders[u.row * a.length + t] != 0;
}

template <typename S>
DEVICE View<S> view_of(const void* base, const Strides& strides, const Unit& u, int first) {
  const size_t at = u.row * strides.batch + first * strides.step + u.head * strides.head;
  return {(const S*)base + at, strides.step};
}

/// Tokens of one unit in a contiguous tensor [B, S, NH, width].
template <typename S>
DEVICE View<S> view_of(const MlstmProblem& a, const void* base, uint64_t width, const Unit& u,
                       int first) {
  return {(const S*)base + token_of(a, u, first) * width, a.heads * width};
}

DEVICE size_t state_size(const MlstmProblem& a) { return a.width_qk * a.width_v + a.width_qk; }

/// C [DQK, DV], then n [DQK]: before chunk c, or after the last one.
DEVICE float* state_at(const MlstmProblem& a, float* states, const Unit& u, int c) {
  return states + ((u.index - a.first_unit) * (a.chunks + 1) + c) * state_size(a);
}

DEVICE bool has_initial(const MlstmProblem& a) { return a.c0 || a.n0; }
DEVICE bool has_final_gradient(const MlstmProblem& a) { return a.dc_last || a.dn_last; }

/// acc += aᵀ b for a tile a [64, 64] in shared memory and rows b of a unit's tokens.
template <typename S>
DEVICE void multiply_tokens(Accumulator& acc, const float* a, float* buffer, View<S> b, int tokens,
                            uint64_t columns, const float* scale = nullptr) {
  for (int first = 0; first < tokens; first += depth) {
    __syncthreads();
    load_straight(buffer, moved(b, first, 0), tokens - first, columns,
                  scale ? scale + first : nullptr);
    __syncthreads();
    multiply(acc, a + first * pitch, buffer, depth);
  }
}

/// Zeros for `room` tokens.
template <typename S> DEVICE void clear_rows(View<S> view, int room, uint64_t columns) {
  S* const to = const_cast<S*>(view.base);
  for (uint64_t n = threadIdx.x; n < room * columns; n += blockDim.x)
    to[n / columns * view.step + n % columns] = from_float<S>(0);
}

/// Gate vectors of one chunk.
struct Gates {
  const float *u_high, *u_low, *w_high, *w_low, *alpha, *beta, *floor;
  const int* start;
};

DEVICE Gates gates_of(const MlstmProblem& a, const Unit& u, int first) {
  const size_t at = vector_at(a, u, first);
  return {a.u_high + at, a.u_low + at, a.w_high + at, a.w_low + at,
          a.alpha + at,  a.beta + at,  a.floor + at,  a.start + at};
}

DEVICE bool sees(const Gates& g, int i, int j) { return j <= i && j >= g.start[i]; }

/// e^(u_i + w_j): the high parts are huge and nearly cancel where gates are large.
DEVICE float decay(const Gates& g, int i, int j) {
  return expf((g.u_high[i] + g.w_high[j]) + (g.u_low[i] + g.w_low[j]));
}

}  // namespace mlstm
