// The parameters of a unit that lie whole on every rank of the data axes: their gradients are
// summed over these as soon as the unit's backward pass ends, as those of flat vectors are.

import {
  keep,
  noGrad,
  onDevice,
  reshape,
  scope,
  slice,
  type Tensor,
  zeros,
} from "../tensor/index.ts";
import type { SumOrder } from "./accumulate.ts";
import type { Leaf, Unit } from "./flat_shard.ts";
import type { Group } from "./group.ts";
import { RankSum, type RankSums } from "./rank_sum.ts";
import { bucketsOf, joined } from "./reduce.ts";
import { type Microbatch, UnitGradients } from "./unit_gradients.ts";

/** Leaves whose gradients are summed together. */
interface Bucket {
  readonly leaves: readonly Leaf[];
  readonly sum: RankSum;
}

export class WholeUnit {
  readonly unit: Unit;
  readonly leaves: readonly Leaf[];
  readonly #groups: readonly Group[];
  readonly #running: RankSums;
  readonly #source: Tensor;
  readonly #gradients: UnitGradients;
  #buckets: Bucket[] | undefined;

  /** `groups` in the order in which gradients are summed over them, which `running` runs. */
  constructor(
    unit: Unit,
    leaves: readonly Leaf[],
    options: { groups: readonly Group[]; running: RankSums; order: SumOrder },
  ) {
    this.unit = unit;
    this.leaves = leaves;
    this.#groups = options.groups.filter(({ size }) => size > 1);
    this.#running = options.running;
    const { device, dtype } = leaves[0]!;
    this.#source = keep(onDevice(device, () => zeros([1], dtype)));
    this.#source.requiresGrad = true;
    const { order } = options;
    this.#gradients = new UnitGradients({ leaves, source: this.#source, dtype: null, order });
  }

  /** `reader` is the unit that is going to use them. */
  record(microbatch: Microbatch, reader: Unit): void {
    this.#gradients.record(`whole weights of ${this.unit.name}`, microbatch, {
      complete: () => {
        this.#running.leave(reader);
        this.#reduce();
      },
    });
  }

  forgetEdges(): void {
    this.#gradients.forgetEdges();
  }

  /** Starts what no backward pass has started. */
  reduceRest(): void {
    if (!this.#buckets) this.#reduce();
  }

  /** The gradients of the step by leaf, complete over the data; in the caller's scope. */
  gradients(): [Tensor, Tensor][] {
    const buckets = this.#buckets ?? [];
    this.#buckets = undefined;
    return buckets.flatMap(({ leaves, sum }) => {
      using total = sum.finish();
      if (leaves.length === 1) return [[leaves[0]!, total.detach()] as [Tensor, Tensor]];
      return noGrad(() => partsOf(total, leaves));
    });
  }

  release(): void {
    for (const { sum } of this.#buckets ?? []) sum.dispose();
    this.#buckets = undefined;
    this.#gradients.release();
  }

  dispose(): void {
    this.release();
    this.#source.dispose();
  }

  #reduce(): void {
    const leaves = new Map<Tensor, Leaf>();
    this.#gradients.finish().forEach((sum, i) => sum && leaves.set(sum, this.leaves[i]!));
    this.#buckets = bucketsOf([...leaves.keys()]).map((bucket) => {
      const sum = new RankSum(together(bucket), this.#sums());
      this.#running.add(sum);
      return { leaves: bucket.map((gradient) => leaves.get(gradient)!), sum };
    });
  }

  #sums() {
    const site = `gradients of ${this.unit.name}`;
    return this.#groups.map((group) => (x: Tensor) => group.startAllReduce(x, { site }));
  }
}

/** One tensor of all, which are used up. One alone is not copied. */
function together(bucket: readonly Tensor[]): Tensor {
  if (bucket.length === 1) return bucket[0]!;
  const all = noGrad(() => scope(() => keep(joined(bucket))));
  for (const tensor of bucket) tensor.dispose();
  return all;
}

/** Views of the leaves' gradients. */
function partsOf(total: Tensor, leaves: readonly Leaf[]): [Tensor, Tensor][] {
  let start = 0;
  return leaves.map((leaf) => {
    using run = slice(total, 0, start, start + leaf.size);
    start += leaf.size;
    return [leaf, reshape(run, leaf.shape)];
  });
}
