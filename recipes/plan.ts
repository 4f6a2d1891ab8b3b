// What a training step will do on a mesh: where parameters lie, bytes of a rank, what is sent.
//
//   bun run plan mLSTMv1_7B ranks=256 mesh.dp=32 mesh.fsdp=8 batch=512
//   bun run plan mLSTMv1_7B ranks=4096 mesh.pp=4 mesh.fsdp=8 mesh.tp=8 mesh.dp=-1 batch=1024 \
//     microbatches=8

import { z } from "zod";
import { defineRecipe, runMain } from "../lib/cli/command.ts";
import { residualModes } from "../lib/mesh/layout.ts";
import { renderPlan, type StepPlan } from "../lib/mesh/plan.ts";
import { recomputePolicies } from "../lib/mesh/plan_model.ts";
import { axes } from "../lib/mesh/topology.ts";
import { preset } from "../lib/nn/presets.ts";
import { planTraining } from "../lib/train/plan.ts";

const count = z.int().min(1);
const size = z.int().default(1);
const dtype = z.enum(["bf16", "f32"]);

const recipe = defineRecipe({
  name: "plan",
  description: "Plans a training step on a mesh, and checks it, without starting any rank.",
  schema: z.strictObject({
    model: z.string().describe("a preset: mLSTMv1_7B, mLSTM1.3B, ..."),
    ranks: count.default(1).describe("number of ranks"),
    mesh: z
      .strictObject({ pp: size, dp: size.default(-1), fsdp: size, cp: size, tp: size })
      .prefault({})
      .describe("ranks per axis; -1: what the others leave"),
    order: z
      .array(z.enum(axes))
      .default([...axes])
      .describe("axes, outermost first"),
    batch: count.default(512).describe("rows of a step on all ranks"),
    length: count.default(8192).describe("tokens of a row"),
    microbatches: count.default(1).describe("microbatches of a step on each rank"),
    stages: z.array(count).optional().describe("blocks per stage of pp; default: balanced"),
    recompute: z.enum(recomputePolicies).default("none").describe("activations made again"),
    residual: z.enum(residualModes).default("sequence").describe("residual stream over tp"),
    reshard: z.boolean().default(true).describe("free gathered weights after the forward pass"),
    minSize: z
      .int()
      .min(0)
      .default(2 ** 18)
      .describe("fsdp leaves smaller parameters whole"),
    gather: dtype.default("bf16").describe("dtype in which fsdp gathers weights"),
    scatter: dtype.default("f32").describe("dtype in which fsdp sums gradients"),
    device: z.enum(["cpu", "cuda"]).default("cuda").describe("what the ranks will compute on"),
    operations: z.int().min(0).optional().describe("list what this rank calls, call by call"),
    json: z.boolean().default(false).describe("one JSON object per stage"),
  }),
  positionals: ["model"],
  examples: [
    {
      command: "bun run plan mLSTMv1_7B ranks=256 mesh.dp=32 mesh.fsdp=8 recompute=half",
      what: "the published run",
    },
    {
      command: "bun run plan mLSTMv1_7B ranks=64 mesh.tp=8 mesh.pp=4 microbatches=8 operations=0",
      what: "the calls of rank 0",
    },
  ],
  run({ model, ranks, order, reshard, gather, scatter, operations, json, ...given }) {
    const plan = planTraining(preset(model), {
      ...given,
      world: ranks,
      axes: order,
      reshardAfterForward: reshard,
      gatherDtype: gather,
      scatterDtype: scatter,
    });
    if (operations !== undefined) console.log(plan.operations(operations).join("\n"));
    else if (json) printStages(plan);
    else console.log(renderPlan(plan));
  },
});

function printStages({ stages }: StepPlan): void {
  for (const stage of stages) console.log(JSON.stringify(stage));
}

export default recipe;
if (import.meta.main) await runMain(recipe);
