// One unit's parameters as one vector of which every rank of fsdp owns an equal run (mesh.md §7.1).

import {
  concat,
  type DType,
  keep,
  noGrad,
  onDevice,
  reshape,
  slice,
  type Tensor,
  write,
  zeros,
} from "../tensor/index.ts";
import type { Placement } from "./placement.ts";
import type { Axis } from "./topology.ts";
import { type FlatUnit, flatUnit, ownedRange } from "./units.ts";

/** A tensor of a model that has gradients. */
export interface Leaf extends Tensor {
  readonly name: string;
  /** Whether weight decay acts on it by default. */
  readonly decay: boolean;
  /** The part of the global tensor that lies on this coordinate of tp. */
  readonly placement: Placement;
  /**
   * Axes over which its gradient is a partial sum when backward ends, besides those of the data.
   */
  readonly partial: readonly Axis[];
}

/** Parameters that are used together: the embedding, a block, the head. */
export interface Unit {
  readonly name: string;
  readonly parameters: readonly Leaf[];
}

/** Elements [from, to) of a leaf, with their values in the shard; a tensor an optimizer updates. */
export interface OwnedPart {
  readonly leaf: Leaf;
  readonly from: number;
  readonly to: number;
  readonly tensor: Tensor & { readonly name: string; readonly decay: boolean };
}

/** This rank's coordinate `part` of the `parts` of fsdp, and the number of ranks of tp. */
export interface FlatPlace {
  readonly part: number;
  readonly parts: number;
  readonly tp: number;
}

/** The flat vector of a unit: its layout, and the run of it that this rank owns. */
export class FlatShard {
  readonly unit: Unit;
  readonly leaves: readonly Leaf[];
  readonly layout: FlatUnit;
  /** The owned run [chunk] with the values of training; padding is 0. */
  readonly values: Tensor;
  readonly parts: readonly OwnedPart[];
  readonly #part: number;

  /** Takes the values of `leaves` over: from then on they have no memory of their own. */
  constructor(unit: Unit, leaves: readonly Leaf[], { part, parts, tp }: FlatPlace) {
    this.unit = unit;
    this.leaves = leaves;
    this.#part = part;
    this.layout = flatUnit(
      leaves.map(({ placement }) => reserved(placement, tp)),
      parts,
    );
    const { device, dtype } = leaves[0]!;
    const values = onDevice(device, () => zeros([this.layout.chunk], dtype));
    this.values = keep(values);
    this.values.requiresGrad = true;
    this.parts = leaves.map((leaf, index) => {
      const { from, to } = ownedRange(this.layout, index, leaf.size, part);
      const tensor = keep(noGrad(() => this.#own(this.values, index, from, to)));
      if (to > from) noGrad(() => write(tensor, slice(reshape(leaf, [-1]), 0, from, to)));
      const { name, decay } = leaf;
      return { leaf, from, to, tensor: Object.assign(tensor, { name, decay }) };
    });
  }

  /** This rank's elements of leaf `index` in a vector [chunk], as a view. */
  #own(vector: Tensor, index: number, from: number, to: number): Tensor {
    if (from === to) return slice(vector, 0, 0, 0);
    const start = this.layout.starts[index]! - this.#part * this.layout.chunk;
    return slice(vector, 0, start + from, start + to);
  }

  /** The owned parts of another vector [chunk], a gradient say, by the tensor of the part. */
  partsOf(vector: Tensor): [Tensor, Tensor][] {
    return this.parts.flatMap(({ tensor, from, to }, index) =>
      to > from ? [[tensor, this.#own(vector, index, from, to)] as [Tensor, Tensor]] : [],
    );
  }

  /** Whether the elements of leaf `index` lie on more than one rank. */
  straddles(index: number): boolean {
    const { starts, chunk } = this.layout;
    const start = starts[index]!;
    const { size } = this.leaves[index]!;
    return size > 0 && Math.floor(start / chunk) !== Math.floor((start + size - 1) / chunk);
  }

  /** Views of the whole vector [total] in the shapes of the leaves. */
  viewsOf(vector: Tensor): Tensor[] {
    return this.leaves.map(({ shape, size }, index) => {
      const start = this.layout.starts[index]!;
      using run = slice(vector, 0, start, start + size);
      return reshape(run, shape);
    });
  }

  /** The whole vector [total] of tensors in the leaves' shapes; undefined ones are zeros. */
  join(tensors: readonly (Tensor | undefined)[], dtype: DType): Tensor {
    const { total, starts } = this.layout;
    const { device } = this.values;
    const parts: Tensor[] = [];
    let filled = 0;
    const pad = (to: number) => {
      if (to > filled) parts.push(onDevice(device, () => zeros([to - filled], dtype)));
      filled = Math.max(filled, to);
    };
    this.leaves.forEach(({ size }, index) => {
      pad(starts[index]!);
      const tensor = tensors[index];
      if (!tensor) return;
      parts.push(reshape(tensor, [-1]).cast(dtype));
      filled += size;
    });
    pad(total);
    return concat(parts);
  }

  dispose(): void {
    for (const { tensor } of this.parts) tensor.dispose();
    this.values.dispose();
  }
}

/**
 * Elements that a leaf has room for: those of the largest part of any rank of tp, so that a vector
 * has the same layout on all of them.
 */
function reserved({ globalShape, localShape }: Placement, tp: number): number {
  return localShape.reduce((product, size, dim) => {
    const whole = globalShape[dim]!;
    return product * (size === whole ? size : Math.ceil(whole / tp));
  }, 1);
}
