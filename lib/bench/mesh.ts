// A training step on a mesh, beside the same rank's step on its own: what communication adds. Runs
// on all ranks alike; the caller prints on rank 0.

import { Mesh } from "../mesh/mesh.ts";
import { reduceNumbers } from "../mesh/reduce.ts";
import { NativeError } from "../native/errors.ts";
import { gpuFacts } from "../native/gpu.ts";
import type { ModelConfig } from "../nn/config.ts";
import { XLSTM } from "../nn/model.ts";
import { countParameters } from "../nn/parameters.ts";
import { adamw } from "../optim/optimizer.ts";
import { memory, synchronize } from "../tensor/index.ts";
import { type MeshSettings, modelOptionsOf, shardOptionsOf } from "../train/mesh_settings.ts";
import type { Microbatch } from "../train/microbatches.ts";
import { Parallel } from "../train/parallel.ts";
import { takeStep } from "../train/step.ts";

export interface MeshBenchOptions {
  readonly config: ModelConfig;
  readonly mesh: MeshSettings;
  /** Rows of a microbatch, and tokens of a row. */
  readonly rows: number;
  readonly length: number;
  /** Microbatches of a step on each rank. */
  readonly microbatches: number;
  /** Steps to time, after two that are not. */
  readonly steps: number;
}

export interface MeshBenchRow {
  readonly part: "mesh";
  readonly name: string;
  readonly ranks: number;
  readonly parameters: number;
  /** Median time of a step, on the slowest rank. */
  readonly milliseconds: number;
  readonly tokensPerSecond: number;
  readonly peakBytes: number;
}

/**
 * The step on the whole mesh; the same with nobody on the other side, which takes what is left
 * without communication; and on each rank alone, where one can hold the model.
 */
export function* meshBench(mesh: Mesh, options: MeshBenchOptions): Generator<MeshBenchRow> {
  const { topology } = mesh;
  const used = topology.order.filter((axis) => topology.size(axis) > 1);
  const name = used.map((axis) => `${axis} ${topology.size(axis)}`).join(" × ") || "one rank";
  // First, for its peak of memory.
  yield measured(mesh, mesh, options, name);
  // A stage whose neighbours do not exist has no bubble either: that would be no measure.
  if (topology.size("pp") === 1) {
    using fake = Mesh.fake(topology, mesh.rank, mesh.device);
    yield measured(fake, mesh, options, `${name}, nothing sent`);
  }
  try {
    yield measured(Mesh.single(mesh.device), mesh, options, "each rank alone");
  } catch (error) {
    // What fsdp is for. Ranks hold the same, so none of them gets further.
    if (!(error instanceof NativeError && error.code === "out_of_memory")) throw error;
  }
}

function measured(mesh: Mesh, world: Mesh, options: MeshBenchOptions, name: string): MeshBenchRow {
  const { config, rows, length, steps, microbatches: count } = options;
  const model = new XLSTM(config, { mesh, ...modelOptionsOf(options.mesh) });
  model.initialize(0);
  const parallel = new Parallel(model, mesh, shardOptionsOf(options.mesh));
  const settings = { lr: 1e-4, weightDecay: 0.1, gradClipNorm: 0.5 };
  const optimizer = adamw(parallel.parameters(), settings, parallel);
  const shape = { rows, length, vocabSize: config.vocabSize };
  const batch = Array.from({ length: count }, (_, m) =>
    randomMicrobatch(shape, parallel.dataRank * count + m),
  );
  const times: number[] = [];
  for (let step = 0; step < steps + 2; step++) {
    world.world.barrier("before a step");
    const start = performance.now();
    takeStep(parallel, optimizer, batch, { seed: 0, step });
    synchronize();
    const spent = [performance.now() - start];
    const [slowest] = reduceNumbers(spent, world.world, { op: "max", site: "time of a step" });
    if (step >= 2) times.push(slowest!);
  }
  const milliseconds = times.toSorted((a, b) => a - b)[times.length >> 1]!;
  const data = mesh.size("dp") * mesh.size("fsdp");
  const tokens = rows * length * count * data;
  const peakBytes = mesh.device === "cuda" ? gpuFacts().peakBytes : memory().peakBytes;
  optimizer.dispose();
  parallel.dispose();
  model.dispose();
  const ranks = mesh.world.size;
  const tokensPerSecond = (1000 * tokens) / milliseconds;
  const parameters = countParameters(config);
  return { part: "mesh", name, ranks, parameters, milliseconds, tokensPerSecond, peakBytes };
}

function randomMicrobatch(
  { rows, length, vocabSize }: { rows: number; length: number; vocabSize: number },
  index: number,
): Microbatch {
  const shape = [rows, length] as const;
  const ids = (salt: number) => ({
    data: Int32Array.from({ length: rows * length }, (_, i) =>
      Math.floor(vocabSize * fraction(i + 1 + 7919 * (2 * index + salt))),
    ),
    shape,
  });
  return { tokens: ids(0), targets: ids(1), row: index * rows };
}

/** A spread-out number in [0, 1) for each n. */
function fraction(n: number): number {
  return (n * 0.618_033_988_749_895) % 1;
}
