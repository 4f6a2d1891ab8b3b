// The gradients of a unit's parameters when its backward pass ends: over its uses in a microbatch
// (tied weights have two), and over the microbatches of a step.

import { cast, type DType, keep, type Tensor } from "../tensor/index.ts";
import { record } from "../tensor/tape.ts";
import { addUp, OrderedSum, type SumOrder } from "./accumulate.ts";
import type { Leaf } from "./flat_shard.ts";

/** One microbatch of a step; the object is its identity. */
export interface Microbatch {
  /** Whether gradients are complete after its backward pass. */
  readonly isLast: boolean;
}

export interface UnitGradientsOptions {
  readonly leaves: readonly Leaf[];
  /** What stands for them on the tape: a tensor with gradients, which gets none. */
  readonly source: Tensor;
  /** Dtype of the sums; null = the gradients'. */
  readonly dtype: DType | null;
  readonly order: SumOrder;
}

/** What to do in a backward pass. */
export interface Ends {
  /** After each use. */
  used?(): void;
  /** After the last use in the last microbatch of a step. */
  complete(): void;
}

interface Uses {
  recorded: number;
  done: number;
  readonly gradients: (Tensor | undefined)[];
}

export class UnitGradients {
  readonly #options: UnitGradientsOptions;
  readonly #sums: readonly OrderedSum<Tensor>[];
  readonly #uses = new Map<Microbatch, Uses>();

  constructor(options: UnitGradientsOptions) {
    this.#options = options;
    // Sums are made inside of backward passes, which let go of whatever else they make.
    const kept = (a: Tensor, b: Tensor) => keep(addUp(a, b));
    this.#sums = options.leaves.map(() => new OrderedSum(kept, options.order));
  }

  /** Makes the parameters results of an operation whose backward pass takes their gradients. */
  record(name: string, microbatch: Microbatch, ends: Ends): void {
    const { leaves, source } = this.#options;
    let uses = this.#uses.get(microbatch);
    if (!uses) this.#uses.set(microbatch, (uses = { recorded: 0, done: 0, gradients: [] }));
    const entry = uses;
    entry.recorded++;
    record(name, [source], [...leaves], (gradients) => {
      gradients.forEach((gradient, i) => this.#take(entry, i, gradient));
      entry.done++;
      ends.used?.();
      if (entry.done < entry.recorded) return [null];
      this.#end(microbatch, entry);
      if (microbatch.isLast) ends.complete();
      return [null];
    });
    // Parameters outlive the tape, also where it owns what it records.
    leaves[0]!.edge!.node.owned = undefined;
  }

  /** Later operations must not think that they were part of this microbatch. */
  forgetEdges(): void {
    for (const leaf of this.#options.leaves) leaf.edge = undefined;
  }

  /** The sums over the step by leaf, which are the caller's; none of those without a gradient. */
  finish(): (Tensor | undefined)[] {
    return this.#sums.map((sum) => sum.finish());
  }

  /** Frees what a pass has left that was given up half-way. */
  release(): void {
    for (const sum of this.finish()) sum?.dispose();
    for (const { gradients } of this.#uses.values()) for (const each of gradients) each?.dispose();
    this.#uses.clear();
  }

  #take(uses: Uses, index: number, gradient: Tensor | null | undefined): void {
    if (!gradient) return;
    const dtype = this.#options.dtype ?? gradient.dtype;
    const held = keep(gradient.dtype === dtype ? gradient.detach() : cast(gradient, dtype));
    const before = uses.gradients[index];
    uses.gradients[index] = before ? keep(addUp(before, held)) : held;
  }

  /** The backward pass of a microbatch has left the unit. */
  #end(microbatch: Microbatch, uses: Uses): void {
    this.#uses.delete(microbatch);
    uses.gradients.forEach((gradient, i) => {
      if (gradient) this.#sums[i]!.push(gradient);
    });
  }
}
