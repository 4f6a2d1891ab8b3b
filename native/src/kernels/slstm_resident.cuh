// What the passes of slstm_resident.cu share: who owns what, the operand of the product that every
// step waits for, and how a step's values get there.
//
// A block owns 4 rows of the batch and a slice of a head's units, a warp 8 units, a lane one unit
// of one row. The product of a step has one wide operand x [4 rows][K] and the weights, which stay
// in registers as fragments. mma.sync m16n8k16 has 8 columns; the 4 rows take them twice: column
// 2·row + half holds half of K. Of the 16 rows the first 8 are the warp's units over the first
// half of K, the others the same units over the second half. Then accumulators 0 and 3 of a lane
// are the two halves of its own unit and row: no exchange; 1 and 2 are of no use.
#pragma once
#include "async_copy.cuh"
#include "ptx.cuh"
#include "slstm_cell.cuh"
#include "slstm_ptx.cuh"

namespace slstm {

constexpr int tile_rows = 4, warp_units = 8;
/// Steps whose inputs are on their way, one more than that in shared memory.
constexpr int stages = 8;

/// One head of `width` units over `blocks` blocks, a cluster.
template <int WIDTH, int BLOCKS> struct Resident {
  static constexpr int width = WIDTH, blocks = BLOCKS, units = WIDTH / BLOCKS;
  static constexpr int warps = units / warp_units, threads = warps * warp_size;
};

/// What a lane owns. A row beyond the batch has no tokens and the addresses of the last row.
template <typename S> struct Lane {
  uint64_t head, tile, row;
  int limit;        // tokens of the row
  bool exists;
  bool plain;       // none of the tile's rows is short or missing, no document begins inside
  int rank;         // of the block in its cluster
  int lane, warp, g, q;  // unit of the warp, row of the tile
  int first, unit;  // of the warp, of the lane; in the head

  template <typename Plan> DEVICE explicit Lane(const Plan& a) {
    const uint64_t tiles = (a.batch + tile_rows - 1) / tile_rows;
    const uint64_t group = blockIdx.x / S::blocks;
    rank = (int)(blockIdx.x % S::blocks);
    head = group / tiles;
    tile = group % tiles;
    lane = threadIdx.x % warp_size;
    warp = threadIdx.x / warp_size;
    g = lane / tile_rows;
    q = lane % tile_rows;
    first = rank * S::units + warp * warp_units;
    unit = first + g;
    exists = tile * tile_rows + q < a.batch;
    row = row_of(a, q);
    limit = !exists ? 0 : a.lengths ? a.lengths[row] : (int)a.length;
    plain = !a.lengths && !a.borders && (tile + 1) * tile_rows <= a.batch;
  }
  template <typename Plan> DEVICE uint64_t row_of(const Plan& a, int index) const {
    const uint64_t wanted = tile * tile_rows + index;
    return wanted < a.batch ? wanted : a.batch - 1;
  }
};

/// x of two steps, in turns, and in a cluster the barriers that count its bytes.
template <typename S, int K> struct Operand {
  static constexpr int pitch = K + 16;  // bytes of half a row; rows start in different banks
  static constexpr int bytes = 8 * pitch, step_bytes = tile_rows * K * 2;
  uint64_t filled[2];
  alignas(16) unsigned char x[2][bytes];

  DEVICE static uint32_t place(int row, int k) {
    return (2 * row + (k >= K / 2)) * pitch + k % (K / 2) * 2;
  }
  DEVICE void init() {
    if constexpr (S::blocks > 1) {
      if (threadIdx.x != 0) return;
      for (int b = 0; b < 2; b++) {
        ptx::barrier_init(ptx::shared_address(&filled[b]), 1);
        ptx::barrier_expect(ptx::shared_address(&filled[b]), step_bytes);
      }
      ptx::barrier_init_fence();
    }
  }
  /// Before the first step: what every thread of the cluster has written is there.
  DEVICE void meet() const {
    __syncthreads();
    if (S::blocks > 1) ptx::cluster_barrier();
  }
  /// x of step 1, 2, … is there. Whoever sends x of the next step has read that of the last one
  /// from the same place: it needed this x from all of its peers, who sent it after reading.
  DEVICE void wait(int step) {
    if constexpr (S::blocks == 1) {
      __syncthreads();
    } else {
      const uint32_t barrier = ptx::shared_address(&filled[step % 2]);
      ptx::barrier_wait(barrier, (step - 1) / 2 % 2);
      if (threadIdx.x == 0) ptx::barrier_expect(barrier, step_bytes);
    }
  }
  /// Where a lane finds x of even steps; odd ones lie `bytes` behind. (The upper half of a warp
  /// gives addresses too where two matrices are left.)
  DEVICE uint32_t read(int lane) const {
    return ptx::shared_address(x[0]) + lane % 8 * pitch + lane / 8 * 16;
  }
  /// 16 bytes for a step into one block of the cluster.
  DEVICE void send(int step, int row, int k, int block, const uint32_t (&words)[4]) {
    ptx::store_remote(ptx::shared_address(x[step % 2]) + place(row, k),
                      ptx::shared_address(&filled[step % 2]), block, words);
  }
};

/// The lane's part of the products of one step. `chains` sums that do not wait for each other.
template <int K, int COLUMNS> struct Products {
  static constexpr int steps = K / 32;
  uint32_t weights[COLUMNS][steps][4];

  /// weight(column, k, next): of the lane's unit, for k + 2q + next; k is a multiple of 8.
  template <typename Weight> DEVICE void load(const Weight& weight) {
#pragma unroll
    for (int column = 0; column < COLUMNS; column++)
#pragma unroll
      for (int s = 0; s < steps; s++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const int k = i % 2 * (K / 2) + s * 16 + i / 2 * 8;
          weights[column][s][i] = ptx::pack(weight(column, k, 0), weight(column, k, 1));
        }
        if (s % 4 == 3) __syncthreads();  // all loads at once would take too many registers
      }
  }
  /// sums[column]; with one column, its sum in four parts. `from`: Operand::read.
  DEVICE void multiply(float (&sums)[4], uint32_t from) const {
    float d[4][4] = {};
#pragma unroll
    for (int s = 0; s + 1 < steps; s += 2) {
      uint32_t x[4];
      ptx::load_matrices(x, from + s * 32);
      product(d, s, x[0], x[1]);
      product(d, s + 1, x[2], x[3]);
    }
    if (steps % 2 == 1) {
      uint32_t x[2];
      ptx::load_two_matrices(x, from + (steps - 1) * 32);
      product(d, steps - 1, x[0], x[1]);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) sums[i] = d[i][0] + d[i][3];
  }
  DEVICE void product(float (&d)[4][4], int s, uint32_t low, uint32_t high) const {
    if (COLUMNS == 1) {
      ptx::multiply(d[s % 4], weights[0][s], low, high);
    } else {
#pragma unroll
      for (int column = 0; column < COLUMNS; column++)
        ptx::multiply(d[column], weights[column][s], low, high);
    }
  }
};

/// What a token leaves for the backward pass, 16 bytes per unit: c, n; bf16 of the lesser gate (a
/// minus sign: the input gate) and of σ(−raw_f) (a minus sign: y was clamped); tanh(raw_z) and
/// σ(raw_o) in fixed point, errors 2^-15 and 2^-16.
struct alignas(16) Kept {
  float c, n;
  uint32_t gates, values;
};
constexpr float whole = 12582912.f;  // 1.5·2^23: its last bits count ones
constexpr uint32_t whole_bits = 0x4b400000u;

DEVICE uint32_t keep_values(float z, float o) {
  const uint32_t low = __float_as_uint(fmaf(z, 16384.f, whole + 16384.f));
  const uint32_t high = __float_as_uint(fmaf(o, 32768.f, whole));
  return (low & 0xffffu) | high << 16;
}
// Exact: the quotients of `whole` are small integers.
DEVICE float kept_z(uint32_t values) {
  const float x = __uint_as_float((values & 0xffffu) | whole_bits);
  return fmaf(x, 1 / 16384.f, -(whole / 16384.f + 1));
}
DEVICE float kept_o(uint32_t values) {
  return fmaf(__uint_as_float(values >> 16 | whole_bits), 1 / 32768.f, -whole / 32768.f);
}
/// As clamped() of slstm_cell.cuh, in two instructions.
DEVICE float within(float x, float bound) {
  return ptx::greatest(ptx::least(x, bound), -bound);
}

}  // namespace slstm
