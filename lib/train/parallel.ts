// A model on a mesh: who owns which elements, and how the ranks sum what they have. On one rank
// everything is here, and nothing is summed.
//
//   const parallel = new Parallel(model, mesh, { minSize: 0 });
//   const optimizer = adamw(parallel.parameters(), settings, parallel);
//   await new Trainer({ model, optimizer, stream, parallel, steps: 100 }).run();

import { ConfigError } from "../config/errors.ts";
import { Mesh } from "../mesh/mesh.ts";
import { reduceNumbers } from "../mesh/reduce.ts";
import { type ShardOptions, Shards } from "../mesh/shards.ts";
import type { XLSTM } from "../nn/model.ts";
import { isDense, parameterSpecs } from "../nn/parameters.ts";
import { type GradientNorm, LocalNorm, MeshNorm } from "../optim/norm.ts";
import type { OptimizerRanks } from "../optim/optimizer.ts";

/** The tensor that tied embeddings share with the head. */
const tiedTable = "embedding.table";

export class Parallel implements OptimizerRanks {
  readonly model: XLSTM;
  readonly mesh: Mesh;
  readonly shards: Shards;
  readonly norm: GradientNorm;

  /**
   * Moves what fsdp cuts out of the model's parameters: they have values only while in use.
   * ConfigError for weights that would be gathered in a dtype the model does not compute in.
   */
  constructor(model: XLSTM, mesh: Mesh = Mesh.single(), options: ShardOptions = {}) {
    this.model = model;
    this.mesh = mesh;
    const { config } = model;
    checkGather(model, options.gatherDtype);
    const tied = config.tieEmbeddings ? [tiedTable] : [];
    const specs = parameterSpecs(config).filter((spec) => !isDense(spec, config));
    const wide = new Set(specs.map(({ name }) => name));
    const isWide = (name: string) => wide.has(name);
    this.shards = new Shards(model, mesh, { ...options, tied, isWide });
    this.norm = mesh.world.size === 1 ? new LocalNorm() : this.#meshNorm();
  }

  /** What this rank's optimizer updates, by name. */
  parameters(): ReturnType<Shards["parameters"]> {
    return this.shards.parameters();
  }

  /** Which axis cuts a parameter, so that here is only a part of it. */
  readonly cut = (name: string): string | undefined => {
    const slice = this.shards.slices.get(name)!;
    if (slice.isFlat) return `fsdp ${this.mesh.size("fsdp")}`;
    const { globalShape, localShape } = slice.leaf.placement;
    const isWhole = globalShape.every((size, dim) => size === localShape[dim]);
    return isWhole ? undefined : `tp ${this.mesh.size("tp")}`;
  };

  /** Ranks that see different rows: dp times fsdp. */
  get dataSize(): number {
    return this.mesh.size("dp") * this.mesh.size("fsdp");
  }

  /** Which of them this one is: rows of a batch go to them in this order. */
  get dataRank(): number {
    const { mesh } = this;
    return mesh.coordinate("dp") * mesh.size("fsdp") + mesh.coordinate("fsdp");
  }

  /** Whether this rank speaks for all: logs, progress, metrics. */
  get isFirst(): boolean {
    return this.mesh.rank === 0;
  }

  /**
   * Sums of numbers over the ranks that see different rows, in the fixed tree of fsdp and then dp.
   * Ranks of one pipeline and of tp must give the same numbers, or, with `stages`, all but one of
   * the pipeline 0.
   */
  sumOverData(
    values: readonly number[],
    site: string,
    options: { stages?: boolean } = {},
  ): number[] {
    const { mesh } = this;
    const axes = options.stages ? (["fsdp", "dp", "pp"] as const) : (["fsdp", "dp"] as const);
    return axes.reduce(
      (sums, axis) => reduceNumbers(sums, mesh.group(axis), { site }),
      [...values],
    );
  }

  /** The largest of the numbers of all ranks. */
  maxOverAll(values: readonly number[], site: string): number[] {
    return reduceNumbers(values, this.mesh.world, { op: "max", site });
  }

  #meshNorm(): MeshNorm {
    const { mesh, shards, model } = this;
    const parts = [...shards.slices.values()].map((slice) => ({ ...slice, size: slice.leaf.size }));
    return new MeshNorm(parts, {
      fsdp: mesh.group("fsdp"),
      stages: mesh.group("pp", "tp"),
      names: parameterSpecs(model.config).map(({ name }) => name),
      device: model.device,
    });
  }

  dispose(): void {
    this.shards.dispose();
  }
}

/** Products take bf16 weights beside bf16 activations only. */
function checkGather({ dtype }: XLSTM, gathered: ShardOptions["gatherDtype"]): void {
  if (gathered !== "bf16" || dtype === "bf16") return;
  const message =
    `weights are gathered in bf16, and the model computes in ${dtype}: use model.dtype=bf16, or ` +
    "no gather dtype";
  throw new ConfigError("the model does not fit the mesh", [{ path: "mesh.gather", message }]);
}
