// Bytes of a plan against the peak of the allocator, on one rank and on ranks of several axes.

import { afterAll, expect, test } from "bun:test";
import { type MeshSizes, Topology } from "../../lib/mesh/topology.ts";
import { type ModelConfigInput, resolveConfig } from "../../lib/nn/config.ts";
import { XLSTM } from "../../lib/nn/model.ts";
import { adamw } from "../../lib/optim/index.ts";
import { memory, resetPeakMemory } from "../../lib/tensor/index.ts";
import { microbatchesOf } from "../../lib/train/microbatches.ts";
import { Parallel } from "../../lib/train/parallel.ts";
import { planTraining, type TrainingToPlan } from "../../lib/train/plan.ts";
import { takeStep } from "../../lib/train/step.ts";
import { FakeMesh } from "../helpers/fake_mesh.ts";
import { settle } from "../helpers/settle.ts";

const base = { vocabSize: 2048, embeddingDim: 128, numBlocks: 4, numHeads: 4 } as const;
const length = 256;

interface Case {
  readonly name: string;
  readonly model?: Partial<ModelConfigInput>;
  readonly mesh?: MeshSizes;
  readonly options?: Pick<TrainingToPlan, "recompute" | "microbatches" | "minSize">;
}

const cases: Case[] = [
  { name: "v1" },
  { name: "v1, blocks made again", options: { recompute: "block" } },
  { name: "v1, halves made again", options: { recompute: "half" } },
  { name: "v1, four microbatches", options: { microbatches: 4 } },
  { name: "paper", model: { block: "paper" } },
  { name: "sLSTM", model: { slstmAt: "all" } },
  { name: "v1 on tp 4", mesh: { tp: 4 } },
  { name: "v1 on pp 2", mesh: { pp: 2 }, options: { microbatches: 4 } },
  { name: "v1 on fsdp 4", mesh: { fsdp: 4 }, options: { minSize: 0 } },
];

afterAll(settle);

test.each(cases)("$name", async ({ model: changes, mesh = {}, options = {} }) => {
  await settle();
  const config = resolveConfig({ ...base, ...changes });
  const world = Object.values(mesh).reduce((product, size) => product * size, 1);
  const topology = new Topology(mesh, { world });
  const { microbatches = 1, recompute = "none" } = options;
  const ranks = topology.size("dp") * topology.size("fsdp");
  const batch = 8 * microbatches * ranks;
  const training = { ...options, world, mesh, batch, length, device: "cpu" } as const;
  const predicted = planTraining(config, training).stages[0]!.totalBytes;

  using fake = new FakeMesh(topology, 0);
  const before = memory().bytes;
  const model = new XLSTM(config, { mesh: fake.mesh, recompute });
  model.initialize(1);
  const parallel = new Parallel(model, fake.mesh, options);
  const optimizer = adamw(parallel.parameters(), { lr: 1e-3 }, parallel);
  const rows = { data: new Int32Array(batch * length).fill(1), shape: [batch, length] as const };
  const given = { tokens: rows, targets: rows, size: batch, length, row: 0 };
  const share = { rank: 0, ranks, pieces: microbatches };
  // The first step makes the moments.
  for (const step of [0, 1]) {
    resetPeakMemory();
    takeStep(parallel, optimizer, microbatchesOf(given as never, share), { seed: 1, step });
  }
  const measured = memory().peakBytes - before;
  parallel.dispose();
  for (const parameter of model.parameters().values()) parameter.dispose();
  expect(Math.abs(predicted / measured - 1)).toBeLessThan(0.12);
});
