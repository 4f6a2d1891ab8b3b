// Gradients that are made in the forward pass, for an expected gradient of their result.

import { knownValue } from "./known.ts";
import { mul, unary } from "./ops/elementwise.ts";
import { cast } from "./ops/view.ts";
import type { Tensor } from "./tensor.ts";

/** What gradients that were made for `scale` lack; undefined where that is the gradient. */
export function factorOf(dloss: Tensor, scale: number): Tensor | undefined {
  const made = dloss.dtype === "f64" ? scale : Math.fround(scale);
  if (knownValue(dloss) === made) return undefined;
  return scale === 1 ? dloss : unary("scale", dloss, 1 / scale);
}

/** A new tensor, which may share the memory of the gradient. */
export function scaled(gradient: Tensor, factor: Tensor | undefined): Tensor {
  return factor ? mul(gradient, cast(factor, gradient.dtype)) : gradient.detach();
}
