// Arguments of the kernels around the sweeps; the same structs are in cuda/mlstm_sweep.zig.
#pragma once
#include <stdint.h>

// Unit: batch row · heads + head. Chunks have 64 tokens.
struct MlstmGateSizes {
  uint64_t batch, length, heads;
  uint32_t chunks;
  uint32_t sigmoid, normalize, reset;  // as in MlstmForward
};

struct MlstmGates {
  const float* i;          // [batch][length][heads], as f, sigma_out, m
  const float* f;
  const float* m0;         // [units] or null
  const uint8_t* borders;  // [batch][length] or null
  const int32_t* lengths;  // [batch] or null
  double* summaries;       // [units][chunks][2]
  float* records;          // RecordArrays
  float* m;                // or null
  float* m_last;           // [units] or null
  float* sigma_out;        // or null; zeros where the sweep writes none
  double scale, reset_value;
  MlstmGateSizes sizes;
};

struct MlstmGateGradient {
  const float* i;
  const float* f;
  const uint8_t* borders;
  const int32_t* lengths;
  const float* rows;     // q·dq: [row_parts][units][64 · chunks]
  const float* columns;  // k·dk: [column_parts][units][64 · chunks]
  double* tiles;         // [units][chunks][2]
  const double* tails;   // [units] <C_S, dC_S> or null
  float* di;             // [batch][length][heads]
  float* df;
  MlstmGateSizes sizes;
  uint32_t row_parts, column_parts;
};

struct MlstmTails {
  const float* state;     // [units][count]
  const float* gradient;  // [units][count]
  double* tails;          // [units]
  uint64_t count;
};

// Rows of `width` elements of 2 bytes from lengths[b] on become zeros.
struct MlstmClearRows {
  uint16_t* rows;  // [batch][length][width]
  const int32_t* lengths;
  uint64_t batch, length, width;
};

static_assert(sizeof(MlstmGateSizes) == 40, "MlstmGateSizes");
static_assert(sizeof(MlstmGates) == 136, "MlstmGates");
static_assert(sizeof(MlstmGateGradient) == 128, "MlstmGateGradient");
