// The sLSTM with everything that a step needs on chip (kernels.md §7):
//
//   raw_g = wx_g + R_g·y + b_g   g = i, f, z, o      i' = e^(raw_i - m'), f' = e^(log f + m - m')
//   m' = max(log f + m, raw_i)   log f = -softplus(-raw_f)
//   c' = f' c + i' tanh(raw_z)   n' = f' n + i'      y' = σ(raw_o)·c'/n'
//
// bf16 tensors, f32 states and gates, R as bf16 fragments in registers for all tokens. A block owns
// 4 rows of the batch, a warp 8 units of a head with their four gates, a lane one unit of one row.
// Heads of 128 units and more lie over a cluster of blocks, which send each other y (16 bytes at a
// time, counted by an mbarrier); narrower ones need one barrier a step. Inputs come 7 steps ahead,
// outputs leave under the next product. dR is one product over all tokens afterwards, its parts
// added in order; db is summed on the way.
//
// Registers: R takes half as many a thread as a head has units, 16 to 128, also over a cluster,
// whose blocks divide the warps; with the rest 80 to 255 forward, 98 to 255 backward, no spill.
// Floor: wx and y once, in training 16 bytes a unit more; but what bounds it is the step: product,
// barrier or exchange, gates, 0.2 to 0.6 us forward, 0.26 to 1.2 backward.
// H100, B 16 x S 1024, ms (simple kernels: forward, both):
//
//   heads x width  forward  in training  backward  dR     both   simple
//   24 x 32        0.208    0.244        0.265     0.072  0.58   3.3, 7.0
//   12 x 64        0.303    0.351        0.500     0.071  0.91   4.4, 8.4
//   8 x 96         0.401    0.476        0.819     0.096  1.39   2.8, 7.5
//   6 x 128        0.487    0.508        0.628     0.082  1.21   7.1, 13.9
//   4 x 192        0.568    0.587        0.806     0.099  1.49   19.7, 35.4
//   4 x 256        0.609    0.634        1.199     0.150  1.97   25.8, 47.1
//
// Tried: 64 on 2 blocks 0.98 both ways, 128 on one 1.81, 192 on 4 1.53, 256 on 4 2.05. A forward
// step at 12 x 64 (0.30 us) is shorter by 0.09 us without its product, 0.09 without gates, 0.08
// without stores, 0.06 without loads, 0.05 without the barrier (not parts that add up).
//
// Equals: cpu/slstm_forward.zig, cpu/slstm_backward.zig; slstm.cu on the GPU.
#include "slstm_resident_backward.cuh"
#include "slstm_resident_forward.cuh"
#include "slstm_resident_weights.cuh"

#define RESIDENT(width, blocks, fit)                                                            \
  RESIDENT_KERNEL((slstm::Resident<width, blocks>::threads), fit,                               \
                  slstm_resident_forward_##width, SlstmForwardPlan) {                           \
    slstm::resident_forward<slstm::Resident<width, blocks>>(a);                                 \
  }                                                                                             \
  RESIDENT_KERNEL((slstm::Resident<width, blocks>::threads), fit,                               \
                  slstm_resident_backward_##width, SlstmResidentPlan) {                         \
    slstm::resident_backward<slstm::Resident<width, blocks>>(a);                                \
  }

RESIDENT(32, 1, 4)
RESIDENT(64, 1, 2)
RESIDENT(96, 1, 1)
RESIDENT(128, 4, 2)
RESIDENT(192, 6, 2)
RESIDENT(256, 8, 2)
#undef RESIDENT

// cuda/slstm_resident.zig
static_assert(sizeof(slstm::ForwardShared<slstm::Resident<32, 1>>) == 8976);
static_assert(sizeof(slstm::BackwardShared<slstm::Resident<32, 1>>) == 20752);
static_assert(sizeof(slstm::ForwardShared<slstm::Resident<64, 1>>) == 17680);
static_assert(sizeof(slstm::BackwardShared<slstm::Resident<64, 1>>) == 41232);
static_assert(sizeof(slstm::ForwardShared<slstm::Resident<96, 1>>) == 26384);
static_assert(sizeof(slstm::BackwardShared<slstm::Resident<96, 1>>) == 61712);
static_assert(sizeof(slstm::ForwardShared<slstm::Resident<128, 4>>) == 10512);
static_assert(sizeof(slstm::BackwardShared<slstm::Resident<128, 4>>) == 26896);
static_assert(sizeof(slstm::ForwardShared<slstm::Resident<192, 6>>) == 11536);
static_assert(sizeof(slstm::BackwardShared<slstm::Resident<192, 6>>) == 30992);
static_assert(sizeof(slstm::ForwardShared<slstm::Resident<256, 8>>) == 12560);
static_assert(sizeof(slstm::BackwardShared<slstm::Resident<256, 8>>) == 35088);
static_assert(sizeof(slstm::WeightsShared) == 86016);

KERNEL(256, slstm_resident_weights, SlstmWeightsPlan) { slstm::resident_weights(a); }
