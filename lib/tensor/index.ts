// Tensors: creation, operations, automatic differentiation, memory.
//
//   using x = randn([2, 3]).requireGrad();
//   const grads = x.square().sum().backward();
//   console.log(grads.of(x));

import "./methods.ts";

export { capture, type Captured, type CaptureOptions, isCapturing } from "./capture.ts";
export * from "./create.ts";
export * from "./device.ts";
export type { Device, DType, TypedArray } from "./dtype.ts";
export { arithmetic } from "./dtype.ts";
export * from "./errors.ts";
export * from "./functional.ts";
export * from "./gradients.ts";
export * from "./ops/activation.ts";
export * from "./ops/conv.ts";
export * from "./ops/elementwise.ts";
export * from "./ops/index.ts";
export * from "./ops/loss.ts";
export * from "./ops/matmul.ts";
export * from "./ops/mlstm.ts";
export * from "./ops/norm.ts";
export * from "./ops/reduce.ts";
export * from "./ops/slstm.ts";
export * from "./ops/view.ts";
export { keyOf, manualSeed } from "./random.ts";
export { keep, memory, resetPeakMemory, scope, scopeAsync, Scope } from "./scope.ts";
export { gradEnabled, noGrad, requireGrad } from "./tape.ts";
export { type Nested, Tensor } from "./tensor.ts";
