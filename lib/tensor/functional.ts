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
 * Leaves that `body` reaches otherwise (parameters) get their gradients too, when `captured` lists
 * them; "all" is for bodies whose leaves are known only once they run again. Random masks repeat by
 * themselves: they depend on keys, not on a stream.
 */
export function checkpoint(
  body: (...inputs: Tensor[]) => Tensor,
  inputs: readonly Tensor[],
  captured: readonly Tensor[] | "all" = [],
): Tensor {
  const listed = captured === "all" ? [] : captured;
  if (!needsGrad(...inputs, ...listed)) return body(...inputs);
  const value = noGrad(() => withAliases(body, inputs));
  const node = record("checkpoint", [...inputs, ...listed], [value], ([dy]) => {
    const leaves = inputs.map((input) => {
      const leaf = input.detach();
      leaf.requiresGrad = input.requiresGrad;
      return leaf;
    });
    const again = withGrad(true, () => body(...leaves));
    const grads = backward([again], [dy!]);
    const known = new Set([...leaves, ...listed]);
    const others = [...grads.keys()].filter((leaf) => !known.has(leaf));
    if (others.length > 0 && captured !== "all") {
      throw new GradientError(
        "checkpoint(): the body uses parameters that `captured` does not list",
      );
    }
    node!.edges.push(...others);
    return [...leaves, ...listed, ...others].map((leaf) => grads.get(leaf) ?? null);
  });
  return value;
}

/** The body may take its inputs over: the second run still needs them. */
function withAliases(body: (...inputs: Tensor[]) => Tensor, inputs: readonly Tensor[]): Tensor {
  const aliases = inputs.map((input) => input.detach());
  const value = body(...aliases);
  for (const alias of aliases) if (alias !== value) alias.dispose();
  return value;
}
