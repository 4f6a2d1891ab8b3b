// Name maps over tensors.

import { concat, noGrad, permute, reshape, slice, type Tensor } from "../tensor/index.ts";
import type { TensorOps } from "./names_layout.ts";

/** What name maps need of a tensor; nothing here is recorded for gradients. */
export const tensorOps: TensorOps<Tensor> = {
  shape: (tensor) => tensor.shape,
  reshape: (tensor, shape) => noGrad(() => reshape(tensor, shape)),
  permute: (tensor, axes) => noGrad(() => permute(tensor, axes)),
  rows: (tensor, start, length) => noGrad(() => slice(tensor, 0, start, start + length)),
  concat: (tensors) => noGrad(() => concat(tensors, 0)),
  equal(a, b) {
    const x = a.dataSync();
    const y = b.dataSync();
    return x.length === y.length && x.every((value, i) => Object.is(value, y[i]));
  },
};
