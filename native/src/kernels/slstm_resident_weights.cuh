// dR after slstm_resident_backward.cuh: dR_g = Σ over tokens of y_{t−1}ᵀ·d raw_g, both bf16, sums
// in f32. A block sums a range of tokens for 64 inputs and 64 outputs of all four gates; the parts
// of the ranges are added in order (slstm_add_ranges). Warp w has gate w/2, outputs 32·(w%2).
#pragma once
#include "slstm_resident.cuh"

namespace slstm {

struct WeightsShared {
  static constexpr int tokens = 32, depth = 4, side = 64;
  alignas(16) uint16_t past[depth][tokens][side + 8];     // rows start in different banks
  alignas(16) uint16_t draw[depth][tokens][4 * side + 8];
};

struct WeightsPatch {
  static constexpr int tokens = WeightsShared::tokens, side = WeightsShared::side;
  const SlstmWeightsPlan& a;
  WeightsShared& shared;
  uint64_t range, head, first, end;
  int in, out;  // first of the patch

  DEVICE WeightsPatch(const SlstmWeightsPlan& plan, WeightsShared& memory)
      : a(plan), shared(memory) {
    const uint64_t sides = (a.width + side - 1) / side;
    uint64_t index = blockIdx.x;
    out = (int)(index % sides) * side;
    index /= sides;
    in = (int)(index % sides) * side;
    index /= sides;
    head = index % a.heads;
    range = index / a.heads;
    first = range * a.range;
    end = first + a.range < a.tokens ? first + a.range : a.tokens;
  }
  /// 8 elements of row n/8 of a 32 x 64 piece of a [tokens, …] tensor, or zeros.
  DEVICE void request_piece(const uint16_t* from, uint64_t token, size_t pitch, uint64_t column,
                            uint16_t* to) const {
    const bool exists = token < end && column < a.width;
    ptx::copy_or_zero(ptx::shared_address(to), exists ? from + token * pitch + column : from,
                      exists);
  }
  DEVICE void request(uint64_t from) const {
    if (from < end) {
      const int slot = (int)((from - first) / tokens) % WeightsShared::depth;
      const int t = threadIdx.x / 8, c = threadIdx.x % 8 * 8;
      const size_t across = a.heads * a.width;
      const uint16_t* past = (const uint16_t*)a.past + head * a.width;
      request_piece(past, from + t, across, in + c, &shared.past[slot][t][c]);
#pragma unroll
      for (int gate = 0; gate < 4; gate++)
        request_piece((const uint16_t*)a.dwx + (gate * a.heads + head) * a.width, from + t,
                      4 * across, out + c, &shared.draw[slot][t][gate * side + c]);
    }
    commit_copies();
  }
  /// sums[i][j]: inputs 16·i, outputs 8·j of the warp.
  DEVICE void multiply(float (&sums)[4][4][4], int slot) const {
    const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
#pragma unroll
    for (int k = 0; k < tokens; k += 16) {
      uint32_t y[4][4], x[2][4];
      const auto* past = &shared.past[slot][k + lane % 8 + lane / 16 * 8][lane / 8 % 2 * 8];
      const auto* draw = &shared.draw[slot][k + lane % 16][warp * 32 + lane / 16 * 8];
#pragma unroll
      for (int i = 0; i < 4; i++)
        ptx::load_transposed(y[i], ptx::shared_address(&past[i * 16]));
#pragma unroll
      for (int j = 0; j < 2; j++)
        ptx::load_transposed(x[j], ptx::shared_address(&draw[j * 16]));
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
          ptx::multiply(sums[i][j], y[i], x[j / 2][j % 2 * 2], x[j / 2][j % 2 * 2 + 1]);
    }
  }
  DEVICE void store(const float (&sums)[4][4][4]) const {
    const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
    float* const to = a.dr + ((range * 4 + warp / 2) * a.heads + head) * a.width * a.width;
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int j = 0; j < 4; j++)
#pragma unroll
        for (int e = 0; e < 4; e += 2) {
          const int row = in + i * 16 + lane / 4 + e * 4;
          const int column = out + warp % 2 * 32 + j * 8 + lane % 4 * 2;
          if (row < (int)a.width && column < (int)a.width)
            *(float2*)(to + row * a.width + column) = {sums[i][j][e], sums[i][j][e + 1]};
        }
  }
};

DEVICE void resident_weights(const SlstmWeightsPlan& a) {
  constexpr int tokens = WeightsShared::tokens, depth = WeightsShared::depth;
  const WeightsPatch patch(a, *(WeightsShared*)ptx::dynamic_shared());
  float sums[4][4][4] = {};
  for (int s = 0; s + 1 < depth; s++) patch.request(patch.first + s * tokens);
  int slot = 0;
  for (uint64_t from = patch.first; from < patch.end; from += tokens) {
    wait_copies<depth - 2>();
    __syncthreads();
    patch.request(from + (depth - 1) * tokens);
    patch.multiply(sums, slot);
    slot = (slot + 1) % depth;
  }
  patch.store(sums);
}

}  // namespace slstm
