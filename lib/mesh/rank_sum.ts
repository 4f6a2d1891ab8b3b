// Sums of gradients over ranks that run beside the backward pass (mesh.md §7.2, §7.3). What a unit
// has is summed over one axis after the other. When the next unit's backward pass has ended, the
// sums before it go on by an axis: by then they have had a unit's time, and memory that they read
// is held no longer than that. All ranks do it at the same places, so their calls are in order.

import { noGrad, scope, type Tensor } from "../tensor/index.ts";
import type { PendingTensor } from "./comm_pending.ts";
import type { Unit } from "./flat_shard.ts";

/** Starts one of the sums that make a tensor complete. */
export type StartSum = (x: Tensor) => PendingTensor;

/** A tensor that is summed over some axes, of which one runs at a time. */
export class RankSum {
  readonly #left: StartSum[];
  /** What is there while nothing runs. */
  #tensor: Tensor | undefined;
  #running: PendingTensor | undefined;

  /** Takes x over, which outlives scopes; the first sum starts at once. */
  constructor(x: Tensor, sums: readonly StartSum[]) {
    this.#tensor = x;
    this.#left = [...sums];
    this.#start();
  }

  /** Joins the sum that runs and starts the next one. Returns whether none is left. */
  advance(): boolean {
    if (this.#running) {
      this.#tensor = this.#running.join();
      this.#running = undefined;
      this.#start();
    }
    return this.#running === undefined;
  }

  /** The complete tensor, which is the caller's. */
  finish(): Tensor {
    while (!this.advance());
    const tensor = this.#tensor!;
    this.#tensor = undefined;
    return tensor;
  }

  /** Lets go of a sum that nobody wants any more; does not start what is left. */
  dispose(): void {
    this.#left.length = 0;
    this.#running?.join().dispose();
    this.#running = undefined;
    this.#tensor?.dispose();
    this.#tensor = undefined;
  }

  #start(): void {
    const start = this.#left.shift();
    if (!start) return;
    const x = this.#tensor!;
    this.#running = noGrad(() => scope(() => start(x).keep()));
    this.#tensor = undefined;
    x.dispose();
  }
}

/** The sums of a backward pass, in the order in which they began. */
export class RankSums {
  #open: RankSum[] = [];
  #unit: Unit | undefined;

  /** The backward pass of a unit has ended: those before it go on. */
  leave(unit: Unit): void {
    if (unit === this.#unit) return;
    this.#unit = unit;
    this.#advance();
  }

  add(sum: RankSum): void {
    this.#open.push(sum);
  }

  /** Brings all to their end. */
  finish(): void {
    this.#unit = undefined;
    while (this.#open.length > 0) this.#advance();
  }

  /** Forgets them: whoever began them lets go of them. */
  clear(): void {
    this.#unit = undefined;
    this.#open = [];
  }

  #advance(): void {
    this.#open = this.#open.filter((sum) => !sum.advance());
  }
}
