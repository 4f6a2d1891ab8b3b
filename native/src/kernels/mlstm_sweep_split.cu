// The sweeps of 512 key columns, dQ and dK of 256/512: mlstm_sweep_split.cuh,
// mlstm_sweep_given.cuh. Registers at launch: dQ 128, dK 168; no serialised products, no spills.
#ifndef XL_EMULATED
#include "mlstm_sweep.cuh"

#define SWEEP_SPLIT(reverse, bytes, name)                                              \
  static_assert(sizeof(SweepShared<SweepShape<512, false, reverse, true>>) == bytes);  \
  HOPPER_KERNEL((SweepShape<512, false, reverse, true>::threads), name, MlstmSweep) {  \
    mlstm_sweep<SweepShape<512, false, reverse, true>>(a);                             \
  }

SWEEP_SPLIT(false, 230400, mlstm_sweep_512_dq)
SWEEP_SPLIT(true, 226304, mlstm_sweep_512_dk)
#undef SWEEP_SPLIT
#endif
