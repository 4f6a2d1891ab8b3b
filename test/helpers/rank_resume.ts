// A rank of test/multi/checkpoint_resume.test.ts: trains a small model up to the last step, once in
// every folder, going on from the checkpoint that is there.
//
//   arguments: master, and { "sizes": {"tp": 2}, "directories": [], "steps": 20, "every": 10 }

import { Corpus } from "../../lib/data/corpus.ts";
import { type Mesh, mesh } from "../../lib/mesh/mesh.ts";
import type { MeshSizes } from "../../lib/mesh/topology.ts";
import type { ModelConfigInput } from "../../lib/nn/config.ts";
import { xlstm } from "../../lib/nn/model.ts";
import { optimizer as makeOptimizer } from "../../lib/optim/optimizer.ts";
import { Checkpoints } from "../../lib/train/checkpoints.ts";
import { Parallel } from "../../lib/train/parallel.ts";
import { Trainer } from "../../lib/train/trainer.ts";
import { runRank } from "./ranks.ts";

export interface ResumeJob {
  readonly sizes: MeshSizes;
  readonly directories: readonly string[];
  readonly steps: number;
  /** Steps between two checkpoints. */
  readonly every: number;
  readonly tied?: boolean;
}

const words = "the whale rose and the sea fell and the men looked on the whale again. ";
const text = new Corpus("words", new TextEncoder().encode(words.repeat(60)));

const config: ModelConfigInput = {
  vocabSize: 127,
  embeddingDim: 16,
  numBlocks: 3,
  numHeads: 2,
  block: "paper",
  slstmAt: [1],
  dropout: 0.1,
  dtype: "f64",
};

async function train(ranks: Mesh, directory: string, job: ResumeJob) {
  const model = xlstm({ ...config, tieEmbeddings: job.tied ?? false }, { seed: 3, mesh: ranks });
  const parallel = new Parallel(model, ranks, { minSize: 600 });
  // The bias of an exponential input gate has no gradient but rounding (its factor is in cell and
  // normaliser alike), and Adam moves it by lr / eps times that.
  const settings = { name: "adamw", lr: 2e-3, weightDecay: 0.1, gradClipNorm: 1 } as const;
  const optimizer = makeOptimizer(parallel.parameters(), settings, parallel);
  const stream = text.batches({ size: 4, length: 12, seed: 5 });
  const parts = { model, optimizer, stream, seed: 7, parallel };
  const recipe = { model: config as never };
  const options = { every: job.every, recipe, keep: { newest: 9 } };
  const checkpoints = new Checkpoints(directory, options);
  const start = checkpoints.restore(parts)?.step ?? 0;
  const rows: number[] = [];
  const losses: number[] = [];
  // Microbatches have two rows on every mesh: then the bits do not depend on it.
  const accumulate = 2 / parallel.dataSize;
  await new Trainer({
    ...parts,
    checkpoints,
    steps: job.steps,
    start,
    accumulate,
    onStep: ({ loss }) => {
      losses.push(loss);
      rows.push(stream.state().row);
    },
  }).run();
  optimizer.dispose();
  parallel.dispose();
  model.dispose();
  return { start, rows, losses };
}

await runRank(async ({ rank, size }, [master, json]) => {
  const job = JSON.parse(json!) as ResumeJob;
  const flags = { rank, world: size, localRank: rank, master };
  const ranks = await mesh(job.sizes, { device: "cpu", flags: size > 1 ? flags : {} });
  return ranks.run(async () => {
    const reports = [];
    for (const directory of job.directories) reports.push(await train(ranks, directory, job));
    return reports;
  });
});
