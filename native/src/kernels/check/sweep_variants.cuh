// Sweeps that differ from the product's in one decision, to be timed against them: sweep_times.hpp.
#pragma once

#define SWEEP_VARIANTS 

#define SWEEP_VARIANT(key, norm, reverse, dot, pass, name)                             \
  HOPPER_KERNEL((SweepShape<key, norm, reverse, dot, true>::threads), name, MlstmSweep) { \
    mlstm_sweep<SweepShape<key, norm, reverse, dot, true>>(a);                         \
  }
SWEEP_VARIANTS
#undef SWEEP_VARIANT
