// The sweeps of 512 key columns: dQ and dK of 256/512. mlstm_sweep_split.cuh. Registers 128 at
// launch, 228,352 bytes of shared memory, no serialised products; spills: 4 bytes each.
#ifndef XL_EMULATED
#include "mlstm_sweep.cuh"

#define SWEEP_SPLIT(reverse, name)                                                     \
  static_assert(sizeof(SweepShared<SweepShape<512, false, reverse, true>>) == 228352); \
  HOPPER_KERNEL((SweepShape<512, false, reverse, true>::threads), name, MlstmSweep) {  \
    mlstm_sweep<SweepShape<512, false, reverse, true>>(a);                             \
  }

SWEEP_SPLIT(false, mlstm_sweep_512_dq)
SWEEP_SPLIT(true, mlstm_sweep_512_dk)
#undef SWEEP_SPLIT
#endif
