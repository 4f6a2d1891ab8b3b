// Sweeps that differ from the product's in one decision, to be timed against them: sweep_times.hpp.
#pragma once

HOPPER_KERNEL(512, mlstm_sweep_256_norm_variant, MlstmSweep) {
  mlstm_sweep<SweepShape<256, true, false, false, -1, false>>(a);
}

#define SWEEP_PAIR_VARIANT(reverse, name)                                              \
  HOPPER_KERNEL(512, name, MlstmSweep) {                                               \
    if (blockIdx.x % 2 == 0) {                                                         \
      mlstm_sweep<SweepShape<256, false, reverse, true, 0, true>>(a);                  \
    } else {                                                                           \
      mlstm_sweep<SweepShape<256, false, reverse, true, 1, true>>(a);                  \
    }                                                                                  \
  }

SWEEP_PAIR_VARIANT(false, mlstm_sweep_512_dq_variant)
SWEEP_PAIR_VARIANT(true, mlstm_sweep_512_dk_variant)
#undef SWEEP_PAIR_VARIANT
