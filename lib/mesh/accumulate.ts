// Sums over microbatches in an order that no mesh changes (mesh.md §15): a balanced binary tree
// over the microbatch index. Ranks own aligned subtrees of it, and the collectives add those up in
// the same tree, so that accumulation, dp and fsdp give the same bits.

import { add, type Gradients, noGrad, type Tensor } from "../tensor/index.ts";

/** Where the terms of a sum go: the fixed tree, or one running total, which needs less memory. */
export type SumOrder = "tree" | "running";

/**
 * Σ of values that arrive one after the other, as a binary counter: level k holds the sum of 2^k of
 * them, so there are at most log2 n + 1 partial sums. `combine` adds the later value to the earlier
 * one.
 */
export class OrderedSum<T> {
  readonly #levels: (T | undefined)[] = [];
  readonly #combine: (earlier: T, later: T) => T;
  readonly #order: SumOrder;

  constructor(combine: (earlier: T, later: T) => T, order: SumOrder = "tree") {
    this.#combine = combine;
    this.#order = order;
  }

  /** Adds the next value, which is taken over. */
  push(value: T): void {
    const levels = this.#levels;
    if (this.#order === "running") {
      levels[0] = levels[0] === undefined ? value : this.#combine(levels[0], value);
      return;
    }
    let carried = value;
    let level = 0;
    for (; levels[level] !== undefined; level++) {
      carried = this.#combine(levels[level]!, carried);
      levels[level] = undefined;
    }
    levels[level] = carried;
  }

  /**
   * The sum, and the counter is empty again; undefined without values. Incomplete levels are joined
   * from the newest on, which is the tree whose left half is the largest power of two below n.
   */
  finish(): T | undefined {
    let total: T | undefined;
    for (const value of this.#levels) {
      if (value === undefined) continue;
      total = total === undefined ? value : this.#combine(value, total);
    }
    this.#levels.length = 0;
    return total;
  }
}

/** a + b as a new tensor, not recorded; both are used up. */
export function addUp(a: Tensor, b: Tensor): Tensor {
  const total = noGrad(() => add(a, b));
  a.dispose();
  b.dispose();
  return total;
}

/** Gradients of the microbatches of a step, leaf by leaf. */
export class GradientSum {
  readonly #sums = new Map<Tensor, OrderedSum<Tensor>>();
  readonly #order: SumOrder;

  constructor(order: SumOrder = "tree") {
    this.#order = order;
  }

  /** Adds the gradients of the next microbatch, which are used up. */
  push(gradients: Gradients): void {
    for (const [leaf, gradient] of gradients) {
      let sum = this.#sums.get(leaf);
      if (!sum) this.#sums.set(leaf, (sum = new OrderedSum(addUp, this.#order)));
      sum.push(gradient);
    }
  }

  /** The sums by leaf; the counters are empty again. */
  finish(): Map<Tensor, Tensor> {
    const totals = new Map<Tensor, Tensor>();
    for (const [leaf, sum] of this.#sums) totals.set(leaf, sum.finish()!);
    this.#sums.clear();
    return totals;
  }
}
