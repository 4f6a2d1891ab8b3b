// The sweeps of key widths up to 128: mlstm_sweep.cuh.
#ifndef XL_EMULATED
#include "mlstm_sweep.cuh"

#define SWEEP(key, norm, reverse, dot, name)                                       \
  HOPPER_KERNEL((SweepShape<key, norm, reverse, dot>::threads), name, MlstmSweep) { \
    mlstm_sweep<SweepShape<key, norm, reverse, dot>>(a);                           \
  }

SWEEP(64, true, false, false, mlstm_sweep_64_norm)
SWEEP(64, false, false, false, mlstm_sweep_64_plain)
SWEEP(128, true, false, false, mlstm_sweep_128_norm)
SWEEP(128, false, false, false, mlstm_sweep_128_plain)
SWEEP(256, true, false, false, mlstm_sweep_256_norm)
SWEEP(256, false, false, false, mlstm_sweep_256_plain)
#endif
