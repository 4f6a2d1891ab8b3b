// Data parallelism, unit by unit (mesh.md §7): weights that fsdp cuts are gathered when a pass
// needs them, and gradients are summed over the ranks as soon as a unit's backward pass ends, those
// of weights that lie whole on every rank as well.
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
import type { SumOrder } from "./accumulate.ts";
import type { FlatShard, Leaf, Unit } from "./flat_shard.ts";
import type { PendingTensor } from "./comm_pending.ts";
import type { Group } from "./group.ts";
import { RankSum, RankSums } from "./rank_sum.ts";
import { type Microbatch, UnitGradients } from "./unit_gradients.ts";
import { WholeUnit } from "./whole_unit.ts";

export type { Leaf, Unit } from "./flat_shard.ts";
export type { Microbatch } from "./unit_gradients.ts";

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

/** Groups of the data axes. */
interface DataGroups {
  readonly fsdp: Group;
  readonly dp: Group;
}

/** Gathers and frees the flat vectors of a model's units, and sums gradients over the data axes. */
export class Fsdp implements UnitHooks {
  readonly #gathered: readonly GatheredUnit[];
  readonly #whole: readonly WholeUnit[];
  /** What a unit reads: its own vector, and with tied weights another one's. */
  readonly #readBy: ReadonlyMap<string, readonly GatheredUnit[]>;
  readonly #wholeReadBy: ReadonlyMap<string, readonly WholeUnit[]>;
  readonly #running = new RankSums();
  #backward = false;
  #microbatch: Microbatch = { isLast: true };

  /** `units` in the order of their use; `shards` hold every parameter at most once. */
  constructor(
    units: readonly Unit[],
    shards: readonly FlatShard[],
    groups: DataGroups,
    options: FsdpOptions,
  ) {
    const running = this.#running;
    const last = shards.at(-1);
    this.#gathered = shards.map((shard) => {
      // The last unit's backward pass follows its forward pass: freeing it in between is idle.
      const reshards = options.reshardAfterForward && shard !== last;
      const isWide = options.isWide(shard.leaves[0]!.name);
      const gatherDtype = isWide ? null : options.gatherDtype;
      return new GatheredUnit(shard, groups, { ...options, gatherDtype, reshards, running });
    });
    const { order } = options;
    const whole = { groups: [groups.fsdp, groups.dp], running, order };
    this.#whole = wholeLeaves(units, shards).map(
      ([unit, leaves]) => new WholeUnit(unit, leaves, whole),
    );
    this.#readBy = readersOf(units, this.#gathered);
    this.#wholeReadBy = readersOf(units, this.#whole);
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
    for (const gathered of all) gathered.bind();
    if (gradEnabled()) {
      for (const one of [...all, ...this.#wholesOf(unit)]) one.record(this.#microbatch, unit);
    }
    this.#fetchAfter(all, this.#backward ? -1 : 1);
  }

  #wholesOf({ name }: Unit): readonly WholeUnit[] {
    return this.#wholeReadBy.get(name) ?? [];
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
    for (const one of [...all, ...this.#wholesOf(unit)]) one.forgetEdges();
    const freed = this.#backward ? [] : all.filter(({ reshards }) => reshards);
    for (const gathered of freed) gathered.free();
    if (freed.length === 0 || !gradEnabled()) return outputs;
    return gatherAgain(freed, outputs, () => this.#fetchAfter(freed, -1));
  }

  /**
   * Gradients of the step by owned part (`OwnedPart.tensor`), summed over microbatches, fsdp and
   * dp; they live until `release`, and those of whole parameters in the scope of the caller. Every
   * rank calls it once per step.
   */
  gradients(): [Tensor, Tensor][] {
    const all = [...this.#gathered, ...this.#whole];
    for (const unit of all) unit.reduceRest();
    this.#running.finish();
    return all.flatMap((unit) => unit.gradients());
  }

  /** Frees gathered weights and gradients: weights are going to change, or have changed. */
  release(): void {
    this.#backward = false;
    this.#running.clear();
    for (const unit of [...this.#gathered, ...this.#whole]) unit.release();
  }

  /** Lets go of everything but the shards. */
  dispose(): void {
    this.release();
    for (const unit of this.#whole) unit.dispose();
  }
}

/** By unit, what is in no flat vector: tied weights are the first unit's that reads them. */
function wholeLeaves(units: readonly Unit[], shards: readonly FlatShard[]): [Unit, Leaf[]][] {
  const seen = new Set<Leaf>(shards.flatMap(({ leaves }) => leaves));
  return units.flatMap((unit) => {
    const leaves = unit.parameters.filter((leaf) => !seen.has(leaf));
    for (const leaf of leaves) seen.add(leaf);
    return leaves.length > 0 ? [[unit, leaves] as [Unit, Leaf[]]] : [];
  });
}

/** By the name of a unit, those whose leaves it reads. */
function readersOf<T extends { readonly leaves: readonly Leaf[] }>(
  units: readonly Unit[],
  all: readonly T[],
): ReadonlyMap<string, readonly T[]> {
  const readBy = ({ parameters }: Unit) =>
    all.filter(({ leaves }) => leaves.some((leaf) => parameters.includes(leaf)));
  return new Map(units.map((unit) => [unit.name, readBy(unit)]));
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

class GatheredUnit {
  readonly shard: FlatShard;
  readonly reshards: boolean;
  readonly #groups: DataGroups;
  readonly #options: FsdpOptions;
  readonly #gradients: UnitGradients;
  readonly #running: RankSums;
  #bound: Tensor[] | undefined;
  /** Weights that are on their way. */
  #coming: PendingTensor | undefined;
  /** This rank's run of the gradients, on its way to its sum. */
  #sum: RankSum | undefined;
  #gradient: Tensor | undefined;

  constructor(
    shard: FlatShard,
    groups: DataGroups,
    options: FsdpOptions & { readonly reshards: boolean; readonly running: RankSums },
  ) {
    this.shard = shard;
    this.reshards = options.reshards;
    this.#groups = groups;
    this.#options = options;
    this.#running = options.running;
    const { leaves, values: source } = shard;
    const dtype = options.scatterDtype ?? source.dtype;
    this.#gradients = new UnitGradients({ leaves, source, dtype, order: options.order });
  }

  get leaves(): readonly Leaf[] {
    return this.shard.leaves;
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

  /**
   * Makes the parameters results of the gather, whose backward pass takes their gradients; `reader`
   * is the unit that is going to use them.
   */
  record(microbatch: Microbatch, reader: Unit): void {
    this.#gradients.record(`weights of ${this.shard.unit.name}`, microbatch, {
      used: () => {
        if (this.reshards) this.free();
      },
      complete: () => {
        this.#running.leave(reader);
        this.#reduce();
      },
    });
  }

  forgetEdges(): void {
    this.#gradients.forgetEdges();
  }

  /** Starts the sum over fsdp, of which this rank gets its run; that over dp follows. */
  #reduce(): void {
    const { shard } = this;
    const { fsdp, dp } = this.#groups;
    const gradients = this.#gradients.finish();
    const dtype = this.#options.scatterDtype ?? shard.values.dtype;
    const whole = noGrad(() => scope(() => keep(shard.join(gradients, dtype))));
    for (const gradient of gradients) gradient?.dispose();
    const site = `gradients of ${shard.unit.name}`;
    const overData = (x: Tensor) => dp.startAllReduce(x, { site });
    this.#sum = new RankSum(whole, [
      (x) => fsdp.startReduceScatter(x, 0, site),
      ...(dp.size > 1 ? [overData] : []),
    ]);
    this.#running.add(this.#sum);
  }

  /** Starts what no backward pass has started. */
  reduceRest(): void {
    if (!this.#sum && !this.#gradient) this.#reduce();
  }

  gradients(): [Tensor, Tensor][] {
    return noGrad(() => this.shard.partsOf((this.#gradient ??= this.#complete())));
  }

  /** In the dtype of the values. */
  #complete(): Tensor {
    const total = this.#sum!.finish();
    this.#sum = undefined;
    const gradient = keep(noGrad(() => cast(total, this.shard.values.dtype)));
    if (gradient !== total) total.dispose();
    return gradient;
  }

  release(): void {
    this.free();
    this.#coming?.join().dispose();
    this.#coming = undefined;
    this.#sum?.dispose();
    this.#sum = undefined;
    this.#gradient?.dispose();
    this.#gradient = undefined;
    this.#gradients.release();
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
