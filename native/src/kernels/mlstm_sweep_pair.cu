// The sweeps of 512 key columns, two blocks each: dQ and dK of 256/512. mlstm_sweep.cuh.
// Registers 128 at launch, 225,280 bytes of shared memory, no serialised products; spills, of both
// ranks together: dQ 52 bytes, dK 92, most of them where chunks are not plain (Record::plain).
#ifndef XL_EMULATED
#include "mlstm_sweep.cuh"

static_assert(sizeof(SweepShared<SweepShape<256, false, true, true, 0>>) == 225280);

#define SWEEP_PAIR(reverse, name)                                                         \
  HOPPER_KERNEL((SweepShape<256, false, reverse, true, 0>::threads), name, MlstmSweep) {  \
    if (blockIdx.x % 2 == 0) {                                                            \
      mlstm_sweep<SweepShape<256, false, reverse, true, 0>>(a);                           \
    } else {                                                                              \
      mlstm_sweep<SweepShape<256, false, reverse, true, 1>>(a);                           \
    }                                                                                     \
  }

SWEEP_PAIR(false, mlstm_sweep_512_dq)
SWEEP_PAIR(true, mlstm_sweep_512_dk)
#undef SWEEP_PAIR
#endif
