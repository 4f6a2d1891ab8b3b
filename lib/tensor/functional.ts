// Gradients of functions, and recomputation instead of storing activations.

import { Gradients } from "./gradients.ts";
import { GradientError } from "./errors.ts";
import { backward, needsGrad, noGrad, record, withGrad } from "./tape.ts";
import { Tensor } from "./tensor.ts";

/** A function's value and its gradients by each tensor argument. */
export function valueAndGrad<A extends Tensor[]>(
  f: (...args: A) => Tensor,
): (...args: A) => { value: Tensor; grads: Tensor[] } {
  return (...args) => {
    const leaves = args.map((arg) => arg.detach());
    for (const leaf of leaves) leaf.requiresGrad = true;
    const value = withGrad(true, () => f(...(leaves as A)));
    const grads = new Gradients(backward([value]));
    return { value: value.detach(), grads: leaves.map((leaf) => grads.of(leaf)) };
  };
}

/** The gradients of a scalar function by each tensor argument. */
export function grad<A extends Tensor[]>(f: (...args: A) => Tensor): (...args: A) => Tensor[] {
  return (...args) => {
    const { value, grads } = valueAndGrad(f)(...args);
    value.dispose();
    return grads;
  };
}

/** A function with its own backward pass: `f` returns the value and the gradients' function. */
export function customGrad<A extends Tensor[]>(
  f: (...args: A) => { value: Tensor; backward: (dy: Tensor) => (Tensor | null)[] },
): (...args: A) => Tensor {
  return (...args) => {
    const { value, backward: pull } = noGrad(() => f(...args));
    record("customGrad", args, [value], ([dy]) => pull(dy!));
    return value;
  };
}

/**
 * Runs `body` on `inputs` without keeping its activations and runs it again in the backward pass.
 * Tensors that `body` reaches otherwise (parameters) get their gradients too, when they are listed
 * in `captured`. Random masks repeat by themselves: they depend on keys, not on a stream.
 */
export function checkpoint(
  body: (...inputs: Tensor[]) => Tensor,
  inputs: readonly Tensor[],
  captured: readonly Tensor[] = [],
): Tensor {
  if (!needsGrad(...inputs, ...captured)) return body(...inputs);
  const value = noGrad(() => body(...inputs));
  record("checkpoint", [...inputs, ...captured], [value], ([dy]) => {
    const leaves = inputs.map((input) => {
      const leaf = input.detach();
      leaf.requiresGrad = input.requiresGrad;
      return leaf;
    });
    const again = withGrad(true, () => body(...leaves));
    const grads = backward([again], [dy!]);
    const unknown = [...grads.keys()].filter(
      (leaf) => !leaves.includes(leaf) && !captured.includes(leaf),
    );
    if (unknown.length > 0) {
      throw new GradientError(
        "checkpoint(): the body uses parameters that `captured` does not list",
      );
    }
    return [...leaves, ...captured].map((leaf) => grads.get(leaf) ?? null);
  });
  return value;
}
