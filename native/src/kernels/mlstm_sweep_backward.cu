// The gradient sweeps: dV, dQ, dK. mlstm_sweep.cuh.
// Registers 128 at launch (with a producer: SweepShape) or 168; no serialised products, no spills.
// Shared memory: last column below.
#ifndef XL_EMULATED
#include "mlstm_sweep.cuh"

#define SWEEP(key, norm, reverse, dot, name, bytes)                                 \
  static_assert(sizeof(SweepShared<SweepShape<key, norm, reverse, dot>>) == bytes); \
  HOPPER_KERNEL((SweepShape<key, norm, reverse, dot>::threads), name, MlstmSweep) { \
    mlstm_sweep<SweepShape<key, norm, reverse, dot>>(a);                            \
  }

SWEEP(64, false, true, false, mlstm_sweep_64_dv, 137216)
SWEEP(128, false, true, false, mlstm_sweep_128_dv, 135168)
SWEEP(128, false, false, true, mlstm_sweep_128_dq, 188416)
SWEEP(128, false, true, true, mlstm_sweep_128_dk, 188416)
SWEEP(192, false, false, true, mlstm_sweep_192_dq, 188416)
SWEEP(192, false, true, true, mlstm_sweep_192_dk, 188416)
SWEEP(256, false, true, false, mlstm_sweep_256_dv, 227328)
SWEEP(256, false, false, true, mlstm_sweep_256_dq, 229376)
SWEEP(256, false, true, true, mlstm_sweep_256_dk, 229376)
#undef SWEEP
#endif
