// The sweep's arguments, the vectors that drive it, and what a variant keeps on chip.
#pragma once
#include "mlstm_record.cuh"
#include "ptx_wgmma.cuh"

// How a tensor's blocks of 64 columns are found: by the block dim of the map, or, when the width
// is no multiple of 64, by the column dim, which then clips and fills with zeros.
struct Columns {
  uint32_t column, block;
};

struct MlstmSweep {
  TensorMap q, k, v, o, x;  // x: what `dots` multiplies O with
  const float* records;     // [units][chunks][Record::size], unit = batch row · heads + head
  const int32_t* lengths;   // [batch] or null
  const float* state_in;    // [units] of key_width · value_width; zeros when null
  float* state_out;         // or null
  const float* n_in;        // [units][key_width], with the normaliser; zeros when null
  float* n_out;             // or null
  float* sigma;             // [batch][length][heads] or null, with the normaliser
  float* dots;              // [parts][units][64 · chunks]: x·O summed over a part of 64 columns
  uint64_t units, length;
  uint32_t heads, chunks, slices;  // slices of value columns per unit; blocks = units · slices
  uint32_t key_width, value_width, key_stride, value_stride;  // strides of the state
  Columns q_columns, v_columns;  // q, k; v, o, x
  float eps;
};
static_assert(sizeof(MlstmSweep) == 768, "MlstmSweep");

// KEY: width of Q and K, padded to 64. NORM: h is divided by the denominator. REVERSE: from the
// last chunk to the first. DOT: x·O is wanted. With KEY ≥ 192 a warp of its own feeds the copy
// engine; below, where memory is the limit, blocks that run ahead lose locality and S's warpgroup
// does it.
//
// RANK 0 or 1: a pair of blocks of a cluster shares 2·KEY key columns. Each keeps C^T for its half
// of them and finishes 32 of the chunk's 64 tokens: of S and H^T, which both halves of the columns
// add to, it receives what the other block has for its tokens.
//
// VARIANT: off or on in the product, the other in check/sweep_variants.cuh: NORM: n is kept apart
// from the scores. Pair: what is needed soonest after it can be loaded comes into L2 before.
template <int KEY, bool NORM, bool REVERSE, bool DOT, int RANK = -1, bool VARIANT = NORM>
struct SweepShape {
  static constexpr int key = KEY;
  static constexpr bool norm = NORM, reverse = REVERSE, dot = DOT;
  static constexpr bool producer = KEY >= 192;
  static constexpr bool pair = RANK >= 0;
  static constexpr int rank = pair ? RANK : 0, peer = 1 - rank;
  static constexpr int own = pair ? CHUNK / 2 : CHUNK, first = own * rank;  // tokens it finishes
  static constexpr int threads = producer ? 512 : 384;
  static constexpr int q_stages = producer ? 2 : 3, k_stages = 3, s_stages = producer ? 1 : 2;
  static constexpr int v_stages = producer ? (NORM || pair ? 1 : 2) : 3;
  static constexpr int blocks = KEY / 64;
  // Tiles of 256 columns come in one instruction, others by block. n sits below each block of K.
  static constexpr int q_box = KEY == 256 ? 4 : 1, k_box = KEY == 256 && !NORM ? 4 : 1;
  static constexpr int k_rows = CHUNK + (NORM ? 8 : 0);
  // n is kept by three warps of the producer's group, else by the scores' warpgroup: there 256/KEY
  // groups of threads sum 64·KEY/256 tokens each.
  static constexpr bool n_apart = NORM && producer && VARIANT;
  static constexpr bool prefetch = RANK >= 0 && VARIANT;
  static constexpr int n_parts = !NORM ? 1 : n_apart ? 3 : 256 / KEY;
  static constexpr int key_readers = 12 + (n_apart ? n_parts : 0);  // warps
  // From the last chunk to the first, the rows and columns of a chunk's weights change places.
  static constexpr int u = REVERSE ? Record::w : Record::u, w = REVERSE ? Record::u : Record::w;
  static constexpr int alpha = REVERSE ? Record::beta : Record::alpha;
  static constexpr int beta = REVERSE ? Record::alpha : Record::beta;
  static constexpr int q_pitch = CHUNK * 128, k_pitch = k_rows * 128;  // bytes of a block
  static constexpr int tile_bytes = CHUNK * KEY * 2, value_bytes = CHUNK * 128;
  static constexpr int output_bytes = own * 128, peer_bytes = CHUNK * own * 4;
  static constexpr int record = NORM ? Record::size_norm : Record::size;
  static constexpr int score_columns = NORM ? 36 : 32;  // accumulators of S
  // Σ over warps of these is what the launch gives: 4·128 or 3·168 per four warps.
  static constexpr int consumer_registers = producer ? 208 : 200;
  static constexpr int score_registers = !producer ? 104 : n_apart ? 64 : 72;
  static constexpr int producer_registers = n_apart ? 32 : 24;
};

struct SweepPlace {
  int unit, slice, head, batch, tokens;
};
struct SweepPlaces {
  SweepPlace place;
  float* sigma;  // of the batch row's first token, where this block writes it; else null
};

template <class C>
struct alignas(1024) SweepShared {
  uint16_t q[C::q_stages][C::blocks][CHUNK][64];
  uint16_t k[C::k_stages][C::blocks][C::k_rows][64];  // rows 64..: n as bf16 high and low, zeros
  uint16_t v[2][C::v_stages][CHUNK][64];
  uint16_t s[C::s_stages][C::own][64];
  uint16_t h[2][C::own][64];
  float4 peer_s[C::pair ? 8 * 64 : 1], peer_h[2][C::pair ? 4 * 128 : 1];
  float record[C::k_stages][C::record];
  float factor[2][CHUNK];  // alpha over the denominator, of this and the last chunk
  float dots[2][4][C::dot ? CHUNK : 1];
  float n_sums[C::n_parts][C::norm ? C::key : 1];
  uint64_t full_q[C::q_stages], empty_q[C::q_stages];
  uint64_t full_k[C::k_stages], empty_k[C::k_stages], full_n[C::k_stages];
  uint64_t full_v[2][C::v_stages], empty_v[2][C::v_stages];
  uint64_t full_s[C::s_stages], empty_s[C::s_stages];
  uint64_t full_x[2], empty_x[2];
  uint64_t full_peer_s, empty_peer_s, full_peer_h[2], empty_peer_h[2];
  SweepPlaces where;
};

// Accumulators of C^T, element i: column group i/4, as one product of 128 columns each, or 64.
template <int KEY>
struct SweepState {
  static constexpr int wide_tiles = KEY / 128;
  static constexpr bool narrow = KEY % 128 != 0;
  float wide[wide_tiles ? wide_tiles : 1][64];
  float rest[32];
  DEVICE float& operator[](int i) {
    return i < wide_tiles * 64 ? wide[i / 64][i % 64] : rest[i - wide_tiles * 64];
  }
};
