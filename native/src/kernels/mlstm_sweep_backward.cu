// The sweeps of key widths up to 128: mlstm_sweep.cuh.
#ifndef XL_EMULATED
#include "mlstm_sweep.cuh"

#define SWEEP(key, norm, reverse, dot, name)                                       \
  HOPPER_KERNEL((SweepShape<key, norm, reverse, dot>::threads), name, MlstmSweep) { \
    mlstm_sweep<SweepShape<key, norm, reverse, dot>>(a);                           \
  }

SWEEP(64, false, true, false, mlstm_sweep_64_dv)
SWEEP(128, false, true, false, mlstm_sweep_128_dv)
SWEEP(128, false, false, true, mlstm_sweep_128_dq)
SWEEP(128, false, true, true, mlstm_sweep_128_dk)
SWEEP(192, false, false, true, mlstm_sweep_192_dq)
SWEEP(192, false, true, true, mlstm_sweep_192_dk)
SWEEP(256, false, true, false, mlstm_sweep_256_dv)
SWEEP(256, false, false, true, mlstm_sweep_256_dq)
SWEEP(256, false, true, true, mlstm_sweep_256_dk)
#endif
