// Which elements of a model's tensors this rank owns (mesh.md §7.1, §17): what its optimizer
// updates and what its checkpoints store. dp replicates everything; fsdp cuts the flat vectors of
// units.
//
//   const shards = new Shards(model, mesh, { minSize: 0 });
//   const optimizer = adamw(shards.parameters(), settings);

import type { DType } from "../tensor/index.ts";
import type { SumOrder } from "./accumulate.ts";
import { FlatShard, type Leaf, type OwnedPart, type Unit } from "./flat_shard.ts";
import { Fsdp, type UnitHooks } from "./fsdp.ts";
import type { Mesh } from "./mesh.ts";
import type { Axis } from "./topology.ts";

/** What sharding needs of a model: lib/nn's XLSTM. */
export interface ShardedModel {
  /** Parameters of this rank's stage by name, in order. */
  parameters(): ReadonlyMap<string, Leaf>;
  /** Parameters that are used together, in the order of their use. */
  units(): readonly Unit[];
  hooks: UnitHooks | undefined;
}

export interface ShardOptions {
  /** Parameters of at most so many elements stay whole on every rank of fsdp. Default 2^18. */
  readonly minSize?: number;
  /** Default null: the parameter's. */
  readonly gatherDtype?: DType | null;
  /** Default null: the parameter's. */
  readonly scatterDtype?: DType | null;
  /** Default true. */
  readonly reshardAfterForward?: boolean;
  /** Default: the fixed tree on the CPU, a running sum on a GPU. */
  readonly order?: SumOrder;
  /**
   * Whether operations take a parameter of that name in its own dtype alone: it is gathered so,
   * whatever `gatherDtype` says. Default: none.
   */
  readonly isWide?: (name: string) => boolean;
  /** Names of tensors that the first and the last stage of a pipeline both have: tied weights. */
  readonly tied?: readonly string[];
}

/** One tensor of the model, as far as this rank owns it. */
export interface Slice extends OwnedPart {
  readonly name: string;
  /** Whether it lies in a flat vector, of which other ranks of fsdp own other elements. */
  readonly isFlat: boolean;
  /** Whether several ranks of fsdp own elements of it. */
  readonly straddles: boolean;
  /**
   * Whether its elements count on this rank, of all ranks of fsdp, tp and pp that own the same
   * ones. Over dp all ranks own the same.
   */
  readonly counts: boolean;
  /** Whether another stage of the pipeline has it, too. */
  readonly isTied: boolean;
}

/** The default bound of `minSize`: small vectors cost more to gather than to keep. */
const defaultMinSize = 2 ** 18;

export class Shards {
  /** Every tensor of this rank's stage by name, in the model's order. */
  readonly slices: ReadonlyMap<string, Slice>;
  readonly order: SumOrder;
  /** Undefined when no other rank sees other rows: fsdp and dp are 1. */
  readonly fsdp: Fsdp | undefined;
  readonly #flats: readonly FlatShard[];
  readonly #model: ShardedModel;

  /** Moves what fsdp cuts out of the model's parameters and sets the model's hooks. */
  constructor(model: ShardedModel, mesh: Mesh, options: ShardOptions = {}) {
    this.#model = model;
    const leaves = [...model.parameters().values()];
    const onGpu = leaves[0]?.device === "cuda";
    this.order = options.order ?? (onGpu ? "running" : "tree");
    const { minSize = defaultMinSize, tied = [], gatherDtype = null } = options;
    const { isWide = () => false } = options;
    const hasOthers = mesh.size("fsdp") * mesh.size("dp") > 1;
    const units = hasOthers ? model.units() : [];
    this.#flats = cut(mesh.size("fsdp") > 1 ? units : [], mesh, {
      minSize,
      tied,
      isApart: gatherDtype === null ? () => false : isWide,
    });
    const owned = new Map<string, Owned>();
    for (const shard of this.#flats) {
      shard.parts.forEach((part, index) => {
        owned.set(part.leaf.name, { ...part, isFlat: true, straddles: shard.straddles(index) });
      });
    }
    const sliceOf = (leaf: Leaf): Slice => {
      const { name } = leaf;
      const isTied = tied.includes(name) && mesh.size("pp") > 1;
      const part = owned.get(name) ?? wholeOf(leaf);
      return { ...part, name, isTied, counts: doesCount(part, isTied, mesh) };
    };
    this.slices = new Map(leaves.map((leaf) => [leaf.name, sliceOf(leaf)]));
    if (!hasOthers) return;
    const groups = { fsdp: mesh.group("fsdp"), dp: mesh.group("dp") };
    const { scatterDtype = null, reshardAfterForward = true } = options;
    const { order } = this;
    const settings = { gatherDtype, scatterDtype, reshardAfterForward, order, isWide };
    this.fsdp = new Fsdp(units, this.#flats, groups, settings);
    model.hooks = this.fsdp;
  }

  /** What this rank's optimizer updates, by the names of the model's parameters, in their order. */
  parameters(): ReadonlyMap<string, OwnedPart["tensor"]> {
    return new Map([...this.slices].map(([name, { tensor }]) => [name, tensor]));
  }

  dispose(): void {
    this.fsdp?.dispose();
    if (this.fsdp && this.#model.hooks === this.fsdp) this.#model.hooks = undefined;
    for (const flat of this.#flats) flat.dispose();
  }
}

/** The parts of a tensor by fsdp. */
type Owned = Omit<Slice, "name" | "counts" | "isTied">;

interface CutOptions {
  readonly minSize: number;
  readonly tied: readonly string[];
  /**
   * Whether a parameter is gathered in another dtype than most, so that it needs its own vector.
   */
  readonly isApart: (name: string) => boolean;
}

function cut(
  units: readonly Unit[],
  mesh: Mesh,
  { minSize, tied, isApart }: CutOptions,
): FlatShard[] {
  const parts = mesh.size("fsdp");
  const place = { part: mesh.coordinate("fsdp"), parts, tp: mesh.size("tp") };
  const seen = new Set<Leaf>();
  return units.flatMap((unit) => {
    // The size without tp decides: whether a tensor is cut is a matter of the model.
    const large = unit.parameters.filter(
      (leaf) => sizeOf(leaf.placement.globalShape) > minSize && !seen.has(leaf),
    );
    for (const leaf of large) seen.add(leaf);
    // A tied tensor has a vector of its own, so that both of its stages cut it in the same places.
    const alone = large.filter(({ name }) => tied.includes(name)).map((leaf) => [leaf]);
    const others = large.filter(({ name }) => !tied.includes(name));
    const wide = others.filter(({ name }) => isApart(name));
    const narrow = others.filter(({ name }) => !isApart(name));
    return [...alone, wide, narrow]
      .filter((leaves) => leaves.length > 0)
      .map((leaves) => new FlatShard(unit, leaves, place));
  });
}

function wholeOf(leaf: Leaf): Owned {
  return { leaf, from: 0, to: leaf.size, tensor: leaf, isFlat: false, straddles: false };
}

function doesCount({ leaf, isFlat }: Owned, isTied: boolean, mesh: Mesh): boolean {
  const { globalShape, localShape } = leaf.placement;
  const isCutByTp = localShape.some((size, dim) => size !== globalShape[dim]);
  const isFirst = (axis: Axis) => mesh.coordinate(axis) === 0;
  return (isFlat || isFirst("fsdp")) && (isCutByTp || isFirst("tp")) && (!isTied || isFirst("pp"));
}

function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}
