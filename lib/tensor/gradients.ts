// Gradients of leaves, as a value: accumulation adds two of them, an optimiser takes one.

import { GradientError } from "./errors.ts";
import { add, mul } from "./ops/elementwise.ts";
import { contents } from "./scope.ts";
import { noGrad } from "./tape.ts";
import type { Tensor } from "./tensor.ts";

/** What `loss.backward()` returns: a gradient per leaf tensor (parameter). */
export class Gradients implements Disposable {
  readonly #map: Map<Tensor, Tensor>;

  constructor(map: Map<Tensor, Tensor>) {
    this.#map = map;
  }

  /** The gradient of a leaf; an error when it has none. */
  of(leaf: Tensor): Tensor {
    const grad = this.#map.get(leaf);
    if (!grad) {
      const name = "name" in leaf ? String(leaf.name) : `a tensor of shape [${leaf.shape}]`;
      throw new GradientError(`there is no gradient for ${name}: the loss does not depend on it`);
    }
    return grad;
  }

  get(leaf: Tensor): Tensor | undefined {
    return this.#map.get(leaf);
  }

  get size(): number {
    return this.#map.size;
  }

  [Symbol.iterator](): Iterator<[Tensor, Tensor]> {
    return this.#map.entries();
  }

  leaves(): Tensor[] {
    return [...this.#map.keys()];
  }

  tensors(): Tensor[] {
    return [...this.#map.values()];
  }

  /** The sum of both, leaf by leaf; both are used up. Gradient accumulation is a chain of these. */
  plus(other: Gradients): Gradients {
    return noGrad(() => {
      const sum = new Map<Tensor, Tensor>();
      for (const [leaf, grad] of this) {
        const more = other.get(leaf);
        sum.set(leaf, more ? add(grad, more) : grad);
        if (more) {
          grad.dispose();
          more.dispose();
        }
      }
      for (const [leaf, grad] of other) if (!this.#map.has(leaf)) sum.set(leaf, grad);
      return new Gradients(sum);
    });
  }

  /** Every gradient times a factor; the original is used up. */
  scaled(factor: number): Gradients {
    return noGrad(() => {
      const scaled = new Map<Tensor, Tensor>();
      for (const [leaf, grad] of this) {
        scaled.set(leaf, mul(grad, factor));
        grad.dispose();
      }
      return new Gradients(scaled);
    });
  }

  /** A scope that returns gradients hands them to the scope around it. */
  [contents](): Iterable<Tensor> {
    return this.#map.values();
  }

  dispose(): void {
    for (const grad of this.#map.values()) grad.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
