// Gradients whose value the host knows: the seed of a backward pass, and what scaling by a number
// makes of it. An operation that has made its gradients for this very value has nothing to do.

import type { Tensor } from "./tensor.ts";

const values = new WeakMap<Tensor, number>();

/** Notes that every element of a new tensor is `value`. Returns the tensor. */
export function withValue(tensor: Tensor, value: number): Tensor {
  values.set(tensor, value);
  return tensor;
}

/** The value of every element, where it is known. */
export function knownValue(tensor: Tensor): number | undefined {
  return values.get(tensor);
}

/** Notes that `product` is `x` times a number, if x is known; rounded as the kernel rounds. */
export function withProduct(product: Tensor, x: Tensor, factor: number): Tensor {
  const value = values.get(x);
  if (value === undefined || product.dtype === "bf16") return product;
  const round = product.dtype === "f64" ? (number: number) => number : Math.fround;
  return withValue(product, round(value * round(factor)));
}
