// What is left to be summed of the gradients of a step, and the all_reduces that do it (mesh.md §4,
// §6). A gradient may reach the optimizer only when no axis is left: a sum that was forgotten gives
// a model that trains wrongly, not one that stops.

import {
  concat,
  noGrad,
  onDevice,
  reshape,
  scope,
  slice,
  type Tensor,
  tensor,
} from "../tensor/index.ts";
import type { Group, Reduction } from "./group.ts";
import type { Axis } from "./topology.ts";

/** A gradient would have reached the optimizer as a partial sum. */
export class LayoutError extends Error {
  override readonly name = "LayoutError";
}

/** What a gradient's leaf says of itself. */
export interface PartialLeaf {
  readonly name: string;
  /**
   * Axes over which the gradient is a partial sum when backward ends, besides those of the data.
   */
  readonly partial?: readonly Axis[];
}

/** The axes that every gradient of a step is still partial over. */
export class PartialSums {
  readonly #open = new Map<string, Set<Axis>>();

  /** `data` are the axes whose ranks saw other rows: every gradient is partial over them. */
  constructor(leaves: Iterable<PartialLeaf>, data: readonly Axis[]) {
    for (const { name, partial = [] } of leaves) {
      this.#open.set(name, new Set([...data, ...partial]));
    }
  }

  /** Whether the gradient must still be summed over `axis`. */
  has(name: string, axis: Axis): boolean {
    return this.#open.get(name)?.has(axis) ?? false;
  }

  /** Notes a sum over `axis`. LayoutError when it was made before, or never needed one. */
  reduced(name: string, axis: Axis): void {
    if (this.#open.get(name)?.delete(axis)) return;
    throw new LayoutError(
      `layout: ${name}: the gradient was summed over ${axis}, over which it was complete: it ` +
        "would count once per rank",
    );
  }

  /** LayoutError for the first gradient with an axis left. */
  expectNone(): void {
    for (const [name, axes] of this.#open) {
      const [axis] = axes;
      if (axis === undefined) continue;
      throw new LayoutError(
        `layout: ${name}: gradient is partial over ${[...axes].join(", ")}; ` +
          `reduce it over ${axis} before the optimizer`,
      );
    }
  }
}

/**
 * Elements of one fused all_reduce; larger lists go in several. Tensors of so many have the wire's
 * bandwidth on their own, and need not be copied together.
 */
const bucketElements = 1 << 22;

/**
 * Sums tensors of one dtype over a group with as few all_reduces as possible. Takes the tensors
 * over and returns new ones of the same shapes, in order; a group of one rank returns them as they
 * are. The bits are those of one all_reduce per tensor: the order of a sum depends on ranks alone.
 */
export function allReduceTogether(
  tensors: readonly Tensor[],
  group: Group,
  site: string,
): Tensor[] {
  if (group.size === 1) return [...tensors];
  return bucketsOf(tensors).flatMap((bucket) =>
    noGrad(() => scope(() => sumOf(bucket, group, site))),
  );
}

function sumOf(bucket: readonly Tensor[], group: Group, site: string): Tensor[] {
  const total = group.allReduce(joined(bucket), { site });
  for (const tensor of bucket) tensor.dispose();
  let start = 0;
  return bucket.map(({ shape, size }) => {
    start += size;
    return reshape(slice(total, 0, start - size, start), shape);
  });
}

/** All elements in one vector. */
export function joined(tensors: readonly Tensor[]): Tensor {
  return concat(tensors.map((tensor) => reshape(tensor, [-1])));
}

/** Neighbours that are summed together, of one dtype. */
export function bucketsOf(tensors: readonly Tensor[]): Tensor[][] {
  const buckets: Tensor[][] = [];
  let filled = Infinity;
  for (const tensor of tensors) {
    const last = buckets.at(-1);
    const fits = filled + tensor.size <= bucketElements && last!.length < mostTensors;
    if (fits && last![0]!.dtype === tensor.dtype) last!.push(tensor);
    else {
      buckets.push([tensor]);
      filled = 0;
    }
    filled += tensor.size;
  }
  return buckets;
}

/** What one concat takes. */
const mostTensors = 256;

/** Numbers of the host, summed (or `op`) in f64 over the ranks, all of which call it. */
export function reduceNumbers(
  values: readonly number[],
  group: Group,
  options: { readonly op?: Reduction; readonly site: string },
): number[] {
  if (group.size === 1) return [...values];
  using mine = onDevice(group.device, () => tensor(Float64Array.from(values)));
  using all = group.allReduce(mine, options);
  return [...all.dataSync()];
}
