// Fully sharded data parallelism (mesh.md §7): weights are gathered unit by unit when a pass needs
// them, and gradients are summed over the ranks as soon as a unit's backward pass ends.
//
// A parameter keeps its identity: while its unit is in use its handle is a view of the gathered
// vector, otherwise it has none. What the tape saved of it is the parameter itself, so a backward
// pass reads what is gathered then.

import {
  cast,
  type DType,
  gradEnabled,
  keep,
  noGrad,
  scope,
  type Tensor,
} from "../tensor/index.ts";
import { record } from "../tensor/tape.ts";
import { addUp, OrderedSum, type SumOrder } from "./accumulate.ts";
import type { FlatShard, Leaf, Unit } from "./flat_shard.ts";
import type { PendingTensor } from "./comm_pending.ts";
import type { Group } from "./group.ts";

export type { Leaf, Unit } from "./flat_shard.ts";

/** What a model calls around the work of a unit. */
export interface UnitHooks {
  /** Before the unit's parameters are read. */
  enter(unit: Unit): void;
  /** After its last operation; returns the outputs to go on with. */
  leave(unit: Unit, outputs: readonly Tensor[]): readonly Tensor[];
}

export interface FsdpOptions {
  /** Dtype in which weights are gathered and used; null = the parameter's. */
  readonly gatherDtype: DType | null;
  /** Dtype in which gradients are summed over the ranks; null = the parameter's. */
  readonly scatterDtype: DType | null;
  /** Whether a unit's weights are freed after its forward pass and gathered again for backward. */
  readonly reshardAfterForward: boolean;
  /** How gradients of microbatches are added. */
  readonly order: SumOrder;
  /** Whether operations take a parameter of that name in its own dtype alone. */
  readonly isWide: (name: string) => boolean;
}

/** Gathers, frees and reduces the flat vectors of a model's units. */
export class Fsdp implements UnitHooks {
  readonly #gathered: readonly GatheredUnit[];
  /** What a unit reads: its own vector, and with tied weights another one's. */
  readonly #readBy: ReadonlyMap<string, readonly GatheredUnit[]>;
  #backward = false;
  #microbatch: Microbatch = { isLast: true };

  /** `units` in the order of their use; `shards` hold every parameter at most once. */
  constructor(
    units: readonly Unit[],
    shards: readonly FlatShard[],
    groups: { readonly fsdp: Group; readonly dp: Group },
    options: FsdpOptions,
  ) {
    const last = shards.at(-1);
    this.#gathered = shards.map((shard) => {
      // The last unit's backward pass follows its forward pass: freeing it in between is idle.
      const reshards = options.reshardAfterForward && shard !== last;
      const isWide = options.isWide(shard.leaves[0]!.name);
      const gatherDtype = isWide ? null : options.gatherDtype;
      return new GatheredUnit(shard, groups, { ...options, gatherDtype, reshards });
    });
    const reads = ({ parameters }: Unit, { shard }: GatheredUnit) =>
      shard.leaves.some((leaf) => parameters.includes(leaf));
    this.#readBy = new Map(
      units.map((unit) => [unit.name, this.#gathered.filter((gathered) => reads(unit, gathered))]),
    );
  }

  /** Tells which microbatch the next forward pass is of. */
  forward(microbatch: Microbatch): void {
    this.#microbatch = microbatch;
    this.#backward = false;
  }

  /** The same of a backward pass. Forward passes that run again in it do not free weights. */
  backward(microbatch: Microbatch): void {
    this.#microbatch = microbatch;
    this.#backward = true;
  }

  enter(unit: Unit): void {
    const all = this.#readBy.get(unit.name) ?? [];
    for (const gathered of all) {
      gathered.bind();
      if (gradEnabled()) gathered.record(this.#microbatch);
    }
    this.#fetchAfter(all, this.#backward ? -1 : 1);
  }

  /** Starts to gather what is used next. Ranks that share a CPU gain nothing by it. */
  #fetchAfter(all: readonly GatheredUnit[], direction: 1 | -1): void {
    const places = all.map((gathered) => this.#gathered.indexOf(gathered));
    const edge = direction > 0 ? Math.max(...places) : Math.min(...places);
    const name = this.#gathered[edge + direction]?.shard.unit.name;
    if (all.length === 0 || name === undefined) return;
    for (const gathered of this.#gathered) {
      if (gathered.shard.unit.name === name) gathered.fetch();
    }
  }

  leave(unit: Unit, outputs: readonly Tensor[]): readonly Tensor[] {
    const all = this.#readBy.get(unit.name) ?? [];
    for (const gathered of all) gathered.forgetEdges();
    const freed = this.#backward ? [] : all.filter(({ reshards }) => reshards);
    for (const gathered of freed) gathered.free();
    if (freed.length === 0 || !gradEnabled()) return outputs;
    return gatherAgain(freed, outputs, () => this.#fetchAfter(freed, -1));
  }

  /**
   * Gradients of the step by owned part (`OwnedPart.tensor`), summed over microbatches, fsdp and
   * dp; they live until `release`. Every rank calls it once per step.
   */
  gradients(): [Tensor, Tensor][] {
    return this.#gathered.flatMap((unit) => unit.gradients());
  }

  /** Frees gathered weights and gradients: weights are going to change, or have changed. */
  release(): void {
    this.#backward = false;
    for (const unit of this.#gathered) unit.release();
  }
}

/** The outputs, with a backward pass that first gathers the weights again. */
function gatherAgain(
  freed: readonly GatheredUnit[],
  outputs: readonly Tensor[],
  fetchNext: () => void,
): readonly Tensor[] {
  const again = outputs.map((output) => output.detach());
  record("weights again", [...outputs], again, (gradients) => {
    for (const gathered of freed) gathered.bind();
    fetchNext();
    return gradients;
  });
  return again;
}

/** One microbatch of a step; the object is its identity. */
export interface Microbatch {
  /** Whether gradients are complete after its backward pass. */
  readonly isLast: boolean;
}

/** Uses of a unit's weights in one microbatch: tied weights have two. */
interface Uses {
  recorded: number;
  done: number;
  readonly gradients: (Tensor | undefined)[];
}

class GatheredUnit {
  readonly shard: FlatShard;
  readonly reshards: boolean;
  readonly #groups: { readonly fsdp: Group; readonly dp: Group };
  readonly #options: FsdpOptions;
  readonly #sums: readonly OrderedSum<Tensor>[];
  readonly #uses = new Map<Microbatch, Uses>();
  #bound: Tensor[] | undefined;
  /** Weights that are on their way. */
  #coming: PendingTensor | undefined;
  /** This rank's run of the gradients, summed over fsdp: on its way. */
  #summed: PendingTensor | undefined;
  #gradient: Tensor | undefined;

  constructor(
    shard: FlatShard,
    groups: { readonly fsdp: Group; readonly dp: Group },
    options: FsdpOptions & { readonly reshards: boolean },
  ) {
    this.shard = shard;
    this.reshards = options.reshards;
    this.#groups = groups;
    this.#options = options;
    // Sums are made inside of backward passes, which let go of whatever else they make.
    const kept = (a: Tensor, b: Tensor) => keep(addUp(a, b));
    this.#sums = shard.leaves.map(() => new OrderedSum(kept, options.order));
  }

  /** Gathers the weights, unless they are here. */
  bind(): void {
    if (this.#bound) return;
    const { shard } = this;
    const { leaves } = shard;
    const made = noGrad(() =>
      scope(() => {
        const flat = (this.#coming ?? this.#gather()).join();
        return [flat, ...shard.viewsOf(flat)];
      }),
    );
    for (const tensor of made) keep(tensor);
    leaves.forEach((leaf, i) => rebind(leaf, made[i + 1]!));
    this.#bound = made;
    this.#coming = undefined;
  }

  /** Starts to gather the weights on a GPU, beside its other work. */
  fetch(): void {
    if (this.#bound || this.#coming || this.shard.values.device === "cpu") return;
    this.#coming = noGrad(() => scope(() => this.#gather().keep()));
  }

  #gather(): PendingTensor {
    const { values, unit } = this.shard;
    const source = cast(values, this.#options.gatherDtype ?? values.dtype);
    return this.#groups.fsdp.startAllGather(source, `weights of ${unit.name}`);
  }

  /** Takes the weights from the parameters and frees them. */
  free(): void {
    if (!this.#bound) return;
    for (const leaf of this.shard.leaves) unbind(leaf, this.shard.values.dtype);
    for (const tensor of this.#bound) tensor.dispose();
    this.#bound = undefined;
  }

  /** Makes the parameters results of the gather, whose backward pass takes their gradients. */
  record(microbatch: Microbatch): void {
    const { leaves, unit, values } = this.shard;
    let uses = this.#uses.get(microbatch);
    if (!uses) this.#uses.set(microbatch, (uses = { recorded: 0, done: 0, gradients: [] }));
    const entry = uses;
    entry.recorded++;
    record(`weights of ${unit.name}`, [values], [...leaves], (gradients) => {
      gradients.forEach((gradient, i) => this.#take(entry, i, gradient));
      entry.done++;
      if (this.reshards) this.free();
      if (entry.done === entry.recorded) this.#end(microbatch, entry);
      return [null];
    });
    // Parameters outlive the tape, also where it owns what it records.
    leaves[0]!.edge!.node.owned = undefined;
  }

  /** Later operations must not think that they were part of this microbatch. */
  forgetEdges(): void {
    for (const leaf of this.shard.leaves) leaf.edge = undefined;
  }

  #take(uses: Uses, index: number, gradient: Tensor | null | undefined): void {
    if (!gradient) return;
    const dtype = this.#options.scatterDtype ?? this.shard.values.dtype;
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
    if (microbatch.isLast) this.#reduce();
  }

  /** Sums over fsdp, of which this rank gets its run, and that over dp. */
  #reduce(): void {
    const { shard } = this;
    const { unit, values } = shard;
    const sums = this.#sums.map((sum) => sum.finish());
    this.#summed = noGrad(() =>
      scope(() => {
        const whole = shard.join(sums, this.#options.scatterDtype ?? values.dtype);
        for (const sum of sums) sum?.dispose();
        return this.#groups.fsdp.startReduceScatter(whole, `gradients of ${unit.name}`).keep();
      }),
    );
    // Alone over dp, the sum goes on beside the backward pass of the units below.
    if (this.#groups.dp.size > 1) this.#gradient = this.#overData();
  }

  gradients(): [Tensor, Tensor][] {
    if (!this.#summed && !this.#gradient) this.#reduce();
    this.#gradient ??= this.#overData();
    return noGrad(() => this.shard.partsOf(this.#gradient!));
  }

  #overData(): Tensor {
    const { dp } = this.#groups;
    const { unit, values } = this.shard;
    const site = `gradients of ${unit.name}`;
    const mine = this.#summed!.join();
    this.#summed = undefined;
    return keep(
      noGrad(() =>
        scope(() => {
          const all = dp.size > 1 ? dp.allReduce(mine, { site }) : mine;
          const gradient = cast(all, values.dtype);
          if (gradient !== mine) mine.dispose();
          return gradient;
        }),
      ),
    );
  }

  release(): void {
    this.free();
    for (const pending of [this.#coming, this.#summed]) pending?.join().dispose();
    this.#coming = undefined;
    this.#summed = undefined;
    this.#gradient?.dispose();
    this.#gradient = undefined;
    // Left by a pass that was given up half-way.
    for (const sum of this.#sums) sum.finish()?.dispose();
    for (const { gradients } of this.#uses.values()) for (const each of gradients) each?.dispose();
    this.#uses.clear();
  }
}

/** Gives a parameter the memory of a view. */
function rebind(leaf: Leaf, view: Tensor): void {
  Object.assign(leaf, { id: view.id, dtype: view.dtype });
}

function unbind(leaf: Leaf, dtype: DType): void {
  Object.assign(leaf, { id: 0, dtype });
  leaf.edge = undefined;
}
