// The sweep's arguments, the vectors that drive it, and what a variant keeps on chip.
#pragma once
#include "ptx_wgmma.cuh"
// Needs DEVICE.
#include "mlstm_record.cuh"

// How a tensor's blocks of 64 columns are found: by the block dim of the map, or, when the width
// is no multiple of 64, by the column dim, which then clips and fills with zeros.
struct Columns {
  uint32_t column, block;
};

struct MlstmSweep {
  TensorMap q, k, v, o, x;  // x: what `dots` multiplies O with
  const float* records;     // [units][chunks][Record], unit = batch row · heads + head
  const float* exponents;   // [units][chunks][exponent_pitch], from the first that are read on
  const int32_t* lengths;   // [batch] or null
  const float* state_in;    // [units] of key_width · value_width; zeros when null
  float* state_out;         // or null
  const float* n_in;        // [units][key_width], with the normaliser; zeros when null
  float* n_out;             // or null
  float* sigma;             // [batch][length][heads] or null, with the normaliser
  float* kept;              // records of the backward pass, if there will be one; or null
  float* kept_exponents;    // its exponents
  uint16_t* scores;         // [units][chunks][2][64][32]: S, from dQ to dK of 512 keys
  float* dots;              // [parts][units][64 · chunks]: x·O summed over a part of 64 columns
  uint64_t units, length;
  uint32_t heads, chunks, slices;  // blocks per unit: of 64·value_tiles columns, whole clusters
  uint32_t key_width, value_width, key_stride, value_stride;  // strides of the state
  Columns q_columns, v_columns;  // q, k; v, o, x
  float eps;
  uint32_t exponent_pitch;
};
static_assert(sizeof(MlstmSweep) == 832, "MlstmSweep");

// KEY: width of Q and K, padded to 64. NORM: h is divided by the denominator. REVERSE: from the
// last chunk to the first. DOT: x·O is wanted.
//
// With KEY >= 192 a warp of its own feeds the copy engine. With 128, where memory is the limit, it
// feeds Q and K alone, two stages deep (three: blocks drift apart and lose locality, 0.60 ms for
// 0.565); with DOT, and with 64, the scores' warpgroup does it (a warp: 0.747 ms for 0.716).
//
// KEY = 512 is `split`: a block has 64 columns of V, and each of its two warpgroups of the state
// keeps C^T for half of the keys (mlstm_sweep_split.cuh). Two blocks of a cluster, neighbours in V,
// share Q and K: both receive what either loads, in parts of 128 keys. dQ leaves S for dK, which
// has no scores' warpgroup (mlstm_sweep_given.cuh).
//
// With 256 keys or more two such blocks make half of the columns of S each, for both (of dQ, dK of
// 256 keys there is one block): less work for the tensor cores, whose power is the limit. After
// seconds of work the forward pass takes 0.65 for 0.69 ms, with the normaliser, whose sums of rows
// they exchange too, 0.81 for 0.87.
template <int KEY, bool NORM, bool REVERSE, bool DOT>
struct SweepShape {
  static constexpr int key = KEY;
  static constexpr bool norm = NORM, reverse = REVERSE, dot = DOT;
  static constexpr bool split = KEY == 512, given = split && REVERSE, gives = split && !REVERSE;
  static constexpr bool producer = KEY >= 192 || (KEY == 128 && !DOT);
  static constexpr bool feeds_values = KEY >= 192;  // else each warpgroup loads its own
  static constexpr int cluster = split || (KEY == 256 && !DOT) ? 2 : 1;
  static constexpr bool paired = cluster == 2, shares_scores = paired && !given;
  static constexpr int threads = producer && !given ? 512 : 384;
  static constexpr int blocks = KEY / 64;
  static constexpr int parts = split ? 4 : 1, part_blocks = blocks / parts;
  // Of one warpgroup of the state: keys, and parts of a chunk's keys.
  static constexpr int own_keys = split ? KEY / 2 : KEY, own_parts = split ? 2 : 1;
  // Rings: of Q and K in parts, of V in tiles of 64 columns, `value_tiles` for a chunk.
  static constexpr int near = producer ? 2 : 3;
  static constexpr int q_stages = split ? 4 : near;
  static constexpr int k_stages = split ? 6 : feeds_values ? 3 : near;
  static constexpr int value_tiles = split ? 1 : 2;
  // O takes the place of the V that it came from: room for two of V beside n.
  static constexpr bool in_place = feeds_values && NORM;
  static constexpr int v_stages = near;
  static constexpr int s_stages = feeds_values && !given ? 1 : 2;
  // Records travel with K, or, where that comes in parts, with V.
  static constexpr int record_stages = split ? v_stages : k_stages;
  // Tiles of 256 columns come in one instruction, others by block. n sits below each block of K.
  static constexpr int q_box = KEY == 256 ? 4 : 1, k_box = KEY == 256 && !NORM ? 4 : 1;
  static constexpr int k_rows = CHUNK + (NORM ? 8 : 0);
  // Of two blocks that share scores, the second one's columns end in n; the first does not have it.
  static constexpr int n_column = shares_scores ? value_tiles : 0;  // of the first block with it
  // Warps that read a part of Q or K: split, of both blocks.
  static constexpr int q_readers = given ? 8 : split ? 16 : 12;
  static constexpr int k_readers = given ? 8 : split ? 16 : 12;
  static constexpr int v_readers = given ? 8 : split ? 12 : in_place ? 1 : 4;
  static constexpr int s_fill = paired ? 1 : 4, s_readers = shares_scores ? 16 : 8;
  static constexpr int clearing_warps = given ? 8 : 12;
  // From the last chunk to the first, the rows and columns of a chunk's weights change places.
  using At = Record<NORM>;
  static constexpr int row = REVERSE ? At::column : At::row;
  static constexpr int column = REVERSE ? At::row : At::column;
  static constexpr int row_factor = REVERSE ? At::column_factor : At::row_factor;
  static constexpr int column_factor = REVERSE ? At::row_factor : At::column_factor;
  static constexpr int q_pitch = CHUNK * 128, k_pitch = k_rows * 128;  // bytes of a block
  static constexpr int part_bytes = CHUNK * 128 * part_blocks, value_bytes = CHUNK * 128;
  // Of S: the columns that this block makes, and accumulators.
  static constexpr int score_tokens = shares_scores ? CHUNK / 2 : CHUNK;
  static constexpr int score_columns = score_tokens / 2 + (NORM ? 4 : 0);
  // Σ over warps of these is what the launch gives: 4·128 or 3·168 per four warps.
  static constexpr int consumer_registers = given ? 232 : feeds_values ? 208 : producer ? 168 : 200;
  static constexpr int score_registers = feeds_values ? 72 : 104;
  static constexpr int producer_registers = given ? 40 : feeds_values ? 24 : 72;
};

struct SweepPlace {
  int unit, column, head, batch, tokens;  // column: the block's first, in blocks of 64 of V
};
struct SweepPlaces {
  SweepPlace place;
  // Where this block writes them, else null: sigma of the batch row's first token; rows that the
  // backward pass reads, of the unit's first chunk.
  float *sigma, *kept;
};

// What 512 keys need besides. Halves: Q·C over half of the keys.
template <bool GIVES, bool GIVEN>
struct alignas(16) SplitShared {};
template <>
struct alignas(16) SplitShared<true, false> {
  float halves[2][CHUNK][64];
  uint32_t peer_scores[2][128][4];  // the other block's half of S
  uint64_t full_half[2], empty_half[2], full_o, full_peer, empty_peer;
};
template <>
struct alignas(16) SplitShared<false, true> {
  float4 halves[2][4][128];  // of 32 tokens, by thread of the reader
  uint64_t full_half[2], empty_half[2], full_o;
};

// What n needs: mlstm_sweep_keys.cuh.
template <int KEY>
struct alignas(1024) KeyShared {
  uint16_t betas[8][64];  // of a chunk's tokens: bf16 high and low, zeros; swizzled
  float n[KEY];
};
template <>
struct KeyShared<0> {};

template <class C>
struct alignas(1024) SweepShared {
  uint16_t q[C::q_stages][C::part_blocks][CHUNK][64];
  // Rows 64..: n as bf16 high and low, zeros.
  uint16_t k[C::k_stages][C::part_blocks][C::k_rows][64];
  uint16_t v[C::value_tiles][C::v_stages][CHUNK][64];
  uint16_t o[C::value_tiles][C::in_place ? 1 : CHUNK][64];
  // Given: two tiles of 32 columns.
  alignas(1024) uint16_t s[C::s_stages][C::gives ? 1 : CHUNK][64];
  KeyShared<C::norm ? C::key : 0> keys;
  SplitShared<C::gives, C::given> split;
  float record[C::record_stages][C::At::size];
  float exponents[C::record_stages][Exponents<C::norm>::size];
  float row_sums[2][C::norm && C::shares_scores ? CHUNK : 1];  // the other block's part of sigma
  float factor[2][CHUNK];  // alpha over the denominator, of this and the last chunk
  float dots[C::split ? 1 : 2][C::gives ? 1 : 4][C::dot ? CHUNK : 1];
  uint64_t full_q[C::q_stages], empty_q[C::q_stages];
  uint64_t full_k[C::k_stages], empty_k[C::k_stages];
  uint64_t full_v[C::value_tiles][C::v_stages], empty_v[C::value_tiles][C::v_stages];
  uint64_t full_s[C::s_stages], empty_s[C::s_stages];
  uint64_t full_x[2], empty_x[2], full_sums[2];
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
