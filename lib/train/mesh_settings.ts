// Settings of recipes that train on a mesh: `mesh.dp=2 mesh.tp=2`, and what follows from them.

import { z } from "zod";
import { recomputePolicies } from "../mesh/plan_model.ts";
import type { ShardOptions } from "../mesh/shards.ts";
import { axes, type MeshSizes } from "../mesh/topology.ts";
import type { ModelOptions } from "../nn/model.ts";
import type { ResidualMode } from "../nn/tensor_parallel.ts";
import type { TrainingToPlan } from "./plan.ts";

const size = z.int().default(1);
const residualModes = ["sequence", "replicated"] as const satisfies ResidualMode[];
const dtype = z.enum(["bf16", "f32"]).nullable().default(null);

export const meshSchema = z
  .strictObject({
    dp: size.default(-1).describe("ranks with other rows; -1: what the others leave"),
    fsdp: size.describe("the same, and weights are cut among them"),
    tp: size.describe("ranks that share heads, columns, vocabulary"),
    pp: size.describe("stages of blocks"),
    order: z
      .array(z.enum(axes))
      .default([...axes])
      .describe("axes, outermost first"),
    residual: z.enum(residualModes).default("sequence").describe("residual stream over tp"),
    recompute: z.enum(recomputePolicies).default("none").describe("activations made again"),
    stages: z.array(z.int().min(1)).optional().describe("blocks per stage; default: balanced"),
    reshard: z.boolean().default(true).describe("fsdp: free weights after the forward pass"),
    minSize: z
      .int()
      .min(0)
      .default(2 ** 18)
      .describe("fsdp: smaller parameters stay whole"),
    gather: dtype.describe("fsdp: dtype of gathered weights; null: the parameter's"),
    scatter: dtype.describe("fsdp: dtype of summed gradients; null: the parameter's"),
  })
  .prefault({});

export type MeshSettings = z.output<typeof meshSchema>;

/** Ranks per axis. */
export function sizesOf({ dp, fsdp, tp, pp }: MeshSettings): MeshSizes {
  return { dp, fsdp, tp, pp };
}

/** How the model is divided. */
export function modelOptionsOf(settings: MeshSettings): ModelOptions {
  const { residual, recompute, stages } = settings;
  return { residual, recompute, stages };
}

/** How weights and gradients are cut and summed. */
export function shardOptionsOf(settings: MeshSettings): ShardOptions {
  const { minSize, gather, scatter, reshard } = settings;
  return {
    minSize,
    gatherDtype: gather,
    scatterDtype: scatter,
    reshardAfterForward: reshard,
  };
}

/** The part of a plan that the mesh decides. */
export function planOptionsOf(
  settings: MeshSettings,
): Pick<TrainingToPlan, "mesh" | "axes" | "recompute" | "residual" | "stages"> & ShardOptions {
  const { order, residual, recompute, stages } = settings;
  const shards = shardOptionsOf(settings);
  return { mesh: sizesOf(settings), axes: order, residual, recompute, stages, ...shards };
}
