// The sweeps of 512 key columns: dQ and dK of 256/512. mlstm_sweep.cuh.
#ifndef XL_EMULATED
#include "mlstm_sweep.cuh"

static_assert(EXPERIMENT || sizeof(SweepShared<SweepShape<512, false, true, true>>) == 227328);

#define SWEEP_SPLIT(reverse, name)                                                      \
  HOPPER_KERNEL((SweepShape<512, false, reverse, true>::threads), name, MlstmSweep) {   \
    mlstm_sweep<SweepShape<512, false, reverse, true>>(a);                              \
  }

SWEEP_SPLIT(false, mlstm_sweep_512_dq)
SWEEP_SPLIT(true, mlstm_sweep_512_dk)
#undef SWEEP_SPLIT
#endif
