// The forward sweeps: with the denominator (norm) and without (plain). mlstm_sweep.cuh.
// Registers 128 at launch (KEY >= 128) or 168; no serialised products, no spills. Shared memory:
// last column below.
#ifndef XL_EMULATED
#include "mlstm_sweep.cuh"

#define SWEEP(key, norm, reverse, dot, name, bytes)                                 \
  static_assert(sizeof(SweepShared<SweepShape<key, norm, reverse, dot>>) == bytes); \
  HOPPER_KERNEL((SweepShape<key, norm, reverse, dot>::threads), name, MlstmSweep) { \
    mlstm_sweep<SweepShape<key, norm, reverse, dot>>(a);                            \
  }

SWEEP(64, true, false, false, mlstm_sweep_64_norm, 143360)
SWEEP(64, false, false, false, mlstm_sweep_64_plain, 137216)
SWEEP(128, true, false, false, mlstm_sweep_128_norm, 142336)
SWEEP(128, false, false, false, mlstm_sweep_128_plain, 135168)
SWEEP(256, true, false, false, mlstm_sweep_256_norm, 227328)
SWEEP(256, false, false, false, mlstm_sweep_256_plain, 227328)
#undef SWEEP
#endif
