// 1/x, 2^x and log2 x by the processor's own functions: to 2 units in the last place, without a
// branch; what is too small for a float is 0. Includers have defined DEVICE.
#pragma once
#include <math.h>

#ifdef XL_EMULATED
DEVICE float quick_inverse(float x) { return 1 / x; }
DEVICE float quick_power(float x) { return exp2f(x); }
DEVICE float quick_logarithm(float x) { return log2f(x); }
#else
DEVICE float quick_inverse(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
DEVICE float quick_power(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
DEVICE float quick_logarithm(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
#endif
