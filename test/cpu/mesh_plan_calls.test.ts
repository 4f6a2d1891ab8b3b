// Plans say what ranks call: the calls of a training step on every kind of mesh, one by one,
// against the op list of its plan (mesh.md C6).

import { expect, test } from "bun:test";
import { type MeshSizes, Topology } from "../../lib/mesh/topology.ts";
import { type ModelConfigInput, resolveConfig } from "../../lib/nn/config.ts";
import { XLSTM } from "../../lib/nn/model.ts";
import { adamw } from "../../lib/optim/index.ts";
import { microbatchesOf } from "../../lib/train/microbatches.ts";
import { Parallel } from "../../lib/train/parallel.ts";
import { planTraining, type TrainingToPlan } from "../../lib/train/plan.ts";
import { takeStep } from "../../lib/train/step.ts";
import { asCalls, FakeMesh } from "../helpers/fake_mesh.ts";
import { parallelConfigs } from "../helpers/parallel_cases.ts";

type Options = Pick<
  TrainingToPlan,
  "recompute" | "reshardAfterForward" | "minSize" | "microbatches"
> & { readonly residual?: "sequence" | "replicated" };

const length = 8;

/** Ranks at both ends, and one between. */
function someRanks(world: number): number[] {
  return [...new Set([0, Math.floor(world / 2), world - 1])];
}

function expectPlanned(input: ModelConfigInput, sizes: MeshSizes, options: Options): void {
  const config = resolveConfig(input);
  const world = Object.values(sizes).reduce((product, size) => product * size, 1);
  const topology = new Topology(sizes, { world });
  const { microbatches = 2, recompute = "none", residual = "sequence" } = options;
  const dataRanks = topology.size("dp") * topology.size("fsdp");
  const batch = dataRanks * microbatches;
  const training = { ...options, microbatches, world, mesh: sizes, batch, length };
  const plan = planTraining(config, { ...training, device: "cpu" });
  for (const rank of someRanks(world)) {
    using fake = new FakeMesh(topology, rank);
    const { mesh } = fake;
    const model = new XLSTM(config, { mesh, recompute, residual });
    model.initialize(3);
    const parallel = new Parallel(model, mesh, options);
    const optimizer = adamw(parallel.parameters(), { lr: 1e-3 }, parallel);
    const rows = { data: new Int32Array(batch * length).fill(1), shape: [batch, length] as const };
    const share = { rank: parallel.dataRank, ranks: dataRanks, pieces: microbatches };
    const given = { tokens: rows, targets: rows, size: batch, length, row: 0 };
    takeStep(parallel, optimizer, microbatchesOf(given as never, share), { seed: 1, step: 0 });
    const planned = plan
      .operations(rank)
      .flatMap(asCalls)
      .filter((line) => line !== "");
    expect(fake.calls()).toEqual(planned);
    parallel.dispose();
  }
}

const meshes: MeshSizes[] = [
  { dp: 2 },
  { fsdp: 2 },
  { tp: 2 },
  { pp: 2 },
  { tp: 4, dp: 2 },
  { dp: 2, fsdp: 3 },
  { fsdp: 2, tp: 2 },
  { pp: 4, fsdp: 2 },
  { pp: 2, dp: 2, fsdp: 2, tp: 2 },
];

interface Variant extends Options {
  readonly tied?: boolean;
}

const variants: Variant[] = [
  { minSize: 0 },
  { minSize: 0, recompute: "block", microbatches: 4, tied: true },
  { minSize: 0, recompute: "half", reshardAfterForward: false },
  { minSize: 300, residual: "replicated", microbatches: 1 },
  { minSize: 0, recompute: "half", residual: "replicated", microbatches: 3, tied: true },
  { recompute: "block", microbatches: 1 },
];

for (const sizes of meshes) {
  for (const { tied: tieEmbeddings = false, ...options } of variants) {
    const how = JSON.stringify(options).replaceAll('"', "");
    test(`a step on ${JSON.stringify(sizes)}, ${how}${tieEmbeddings ? ", tied" : ""}`, () => {
      expectPlanned({ ...parallelConfigs.mixed, numBlocks: 4, tieEmbeddings }, sizes, options);
    });
  }
}

for (const [name, config] of Object.entries(parallelConfigs)) {
  test(`the layers of: ${name}`, () => {
    for (const residual of ["sequence", "replicated"] as const) {
      for (const sizes of [{ tp: 2 }, { pp: 2, fsdp: 2, tp: 2 }]) {
        expectPlanned(config, sizes, { minSize: 0, residual });
      }
    }
  });
}
