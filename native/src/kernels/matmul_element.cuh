// Elements of matrix products: operands of either type, and what happens to a finished sum.
#pragma once
#include "common.cuh"

DEVICE float load_as(const void* p, int32_t dtype, uint64_t at) {
  return dtype == DType_bf16 ? to_float(static_cast<const bf16*>(p)[at])
                             : static_cast<const float*>(p)[at];
}

DEVICE void store_as(void* p, int32_t dtype, uint64_t at, float x) {
  if (dtype == DType_bf16) static_cast<bf16*>(p)[at] = from_float<bf16>(x);
  else static_cast<float*>(p)[at] = x;
}

/// C = alpha·sum (+ C) (+ bias) (+ residual) for one element.
DEVICE void epilogue(const Matmul& a, uint64_t batch, uint64_t row, uint64_t column, float sum) {
  const uint64_t at = batch * a.c_batch_stride + row * a.c_row_stride + column;
  float x = (float)a.alpha * sum;
  if (a.accumulate) x += load_as(a.c, a.c_dtype, at);
  if (a.bias) x += static_cast<const float*>(a.bias)[column];
  if (a.residual) x += load_as(a.residual, a.c_dtype, at);
  store_as(a.c, a.c_dtype, at, x);
}
