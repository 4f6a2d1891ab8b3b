// Plans of training steps: a model's configuration on a mesh, before anything runs
// (lib/mesh/plan.ts).
//
//   const mesh = { dp: 32, fsdp: 8 };
//   const plan = planTraining(preset("mLSTMv1_7B"), { world: 256, mesh, batch: 512 });
//   console.log(renderPlan(plan));

import { ConfigError } from "../config/errors.ts";
import type { PlannedResidual } from "../mesh/layout.ts";
import { type PlannedModel, planStep, type StepPlan } from "../mesh/plan.ts";
import type { ShardOptions } from "../mesh/shards.ts";
import { type Axis, type MeshSizes, Topology } from "../mesh/topology.ts";
import { blockKinds, type ModelConfig } from "../nn/config.ts";
import { parameterSpecs } from "../nn/parameters.ts";
import type { Recompute } from "../nn/stack.ts";
import { gateSegments } from "../nn/shares.ts";
import { stageOf } from "../nn/stages.ts";
import { NativeError } from "../native/errors.ts";
import type { Device } from "../tensor/index.ts";

export interface TrainingToPlan extends ShardOptions {
  /** Number of ranks. */
  readonly world: number;
  readonly mesh: MeshSizes;
  /** Axes, outermost first. */
  readonly axes?: readonly Axis[];
  /** Rows of a step on all ranks. */
  readonly batch: number;
  /** Tokens of a row. Default: the model's contextLength, or 8192. */
  readonly length?: number;
  /** Microbatches of a step on each rank. Default 1. */
  readonly microbatches?: number;
  /** Default "cuda". */
  readonly device?: Device;
  /** Default "none". */
  readonly recompute?: Recompute;
  /** Default "sequence". */
  readonly residual?: PlannedResidual;
  /** Blocks per stage of pp. Default: as the model divides them. */
  readonly stages?: readonly number[] | undefined;
}

/**
 * Plans a step of a model; throws as `planStep` does, and a ConfigError for sizes that do not fit.
 */
export function planTraining(config: ModelConfig, training: TrainingToPlan): StepPlan {
  const { world, mesh, axes, batch, microbatches = 1, device = "cuda" } = training;
  const topology = fitted(mesh, world, axes);
  const automatic = device === "cuda" ? "bf16" : "f32";
  const activation = config.dtype === "auto" ? automatic : config.dtype;
  const parameter = activation === "f64" ? "f64" : "f32";
  return planStep(plannedModel(config), topology, {
    batch,
    length: training.length ?? config.contextLength ?? 8192,
    microbatches,
    stages: training.stages ?? stagesOf(config, topology.size("pp")),
    activation,
    parameter,
    head: config.lmHeadDtype === "auto" ? activation : config.lmHeadDtype,
    gather: training.gatherDtype ?? parameter,
    scatter: training.scatterDtype ?? parameter,
    reshardAfterForward: training.reshardAfterForward ?? true,
    minSize: training.minSize ?? 2 ** 18,
    recompute: training.recompute ?? "none",
    residual: training.residual ?? "sequence",
    device,
    order: training.order ?? (device === "cuda" ? "running" : "tree"),
  });
}

function fitted(sizes: MeshSizes, world: number, order: readonly Axis[] | undefined): Topology {
  try {
    return new Topology(sizes, order ? { world, order } : { world });
  } catch (error) {
    const isGiven = error instanceof RangeError || error instanceof NativeError;
    if (!isGiven) throw error;
    const message = error.message.replace(/^mesh: /, "");
    throw new ConfigError("the mesh does not fit the ranks", [{ path: "mesh", message }]);
  }
}

/** What a plan needs of a configuration. */
export function plannedModel(config: ModelConfig): PlannedModel {
  const kinds = blockKinds(config);
  const isUsed = (kind: (typeof kinds)[number]) => kinds.includes(kind);
  return {
    name: config.name,
    parameters: parameterSpecs(config),
    kinds,
    gateSegments: gateSegments(config),
    embeddingDim: config.embeddingDim,
    vocabSize: config.vocabSize,
    tied: config.tieEmbeddings,
    mlstmHeads: isUsed("v1") || isUsed("paper") ? config.mlstm.numHeads : 0,
    slstmHeads: isUsed("slstm") ? config.slstm.numHeads : 0,
    blockSize: isUsed("paper") ? config.mlstm.qkvBlockSize : 0,
  };
}

/** Blocks per stage; with too few blocks, what there is: the plan says so with all else. */
function stagesOf({ numBlocks }: ModelConfig, count: number): number[] {
  if (numBlocks < count) return [numBlocks];
  return Array.from({ length: count }, (_, stage) => {
    const mesh = { size: () => count, coordinate: () => stage };
    const { from, to } = stageOf(numBlocks, mesh as unknown as Parameters<typeof stageOf>[1]);
    return to - from;
  });
}
