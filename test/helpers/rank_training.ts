// A rank of test/multi/{fsdp,pipeline,trainer}.test.ts: runs one scenario on a mesh, and on one
// process beside it where there is something to compare with.
//
//   arguments: master, and { "scenario": "cases", "sizes": {"fsdp": 2}, "options": … }

import { listCheckpoints } from "../../lib/checkpoint/protocol.ts";
import { Corpus } from "../../lib/data/corpus.ts";
import { type Mesh, mesh, Mesh as Single } from "../../lib/mesh/mesh.ts";
import type { Slice } from "../../lib/mesh/shards.ts";
import type { MeshSizes } from "../../lib/mesh/topology.ts";
import type { ModelConfigInput } from "../../lib/nn/config.ts";
import { xlstm } from "../../lib/nn/model.ts";
import { adamw, optimizer as makeOptimizer } from "../../lib/optim/optimizer.ts";
import { barsOf, compare, exact } from "../../lib/parity/compare.ts";
import { type Case, hashOf, type Outcome, runCase } from "../../lib/parity/run.ts";
import { memory, noGrad, resetPeakMemory } from "../../lib/tensor/index.ts";
import { Checkpoints } from "../../lib/train/checkpoints.ts";
import { evaluate } from "../../lib/train/evaluate.ts";
import { microbatchesOf } from "../../lib/train/microbatches.ts";
import { Parallel } from "../../lib/train/parallel.ts";
import { takeStep } from "../../lib/train/step.ts";
import { Trainer, type TrainerOptions } from "../../lib/train/trainer.ts";
import { runRank } from "./ranks.ts";

export interface TrainingJob {
  readonly scenario: keyof typeof scenarios;
  readonly sizes: MeshSizes;
  readonly options?: Record<string, unknown>;
}

/** Cases on the mesh against one process: what differs, by case. */
export interface CasesOptions {
  readonly cases: Record<string, Partial<Case>>;
  /** "rounding": what a sum in another order may make. Default: the same bits. */
  readonly bar?: "rounding" | number;
}

const plain: Case = {
  kind: "mixed",
  blocks: 2,
  dtype: "f64",
  microbatchRows: 4,
  recompute: "none",
  residual: "sequence",
};

function cases(ranks: Mesh, { cases, bar }: CasesOptions): Record<string, string[]> {
  const references = new Map<string, Outcome>();
  const missed = Object.entries(cases).map(([name, settings]) => {
    const one: Case = { ...plain, ...settings };
    const { kind, blocks, dtype, microbatchRows, tied } = one;
    const key = JSON.stringify({ kind, blocks, dtype, microbatchRows, tied });
    let want = references.get(key);
    if (!want) {
      const alone = { ...plain, kind, blocks, dtype, microbatchRows, tied: tied ?? false };
      references.set(key, (want = runCase(Single.single("cpu"), alone)));
    }
    const rounding = barsOf(one, "cpu");
    const bars = bar === undefined ? exact : bar === "rounding" ? rounding : { bar, part: 1e-3 };
    const { misses } = compare(runCase(ranks, one), want, bars);
    return [name, misses.map(({ what, error }) => `${what}: ${error}`)] as const;
  });
  return Object.fromEntries(missed);
}

/** A hash of gradients and weights of every case. */
function prints(ranks: Mesh, { cases }: CasesOptions): Record<string, string> {
  const printed = Object.entries(cases).map(([name, settings]) => {
    const { gradients, weights } = runCase(ranks, { ...plain, ...settings });
    return [name, hashOf(gradients) + hashOf(weights)] as const;
  });
  return Object.fromEntries(printed);
}

const words = "the whale rose and the sea fell and the men looked on the whale again. ";
const text = new Corpus("words", new TextEncoder().encode(words.repeat(60)));
const config: ModelConfigInput = {
  vocabSize: 256,
  embeddingDim: 32,
  numBlocks: 2,
  numHeads: 2,
  slstmAt: [1],
  dtype: "f64",
};

function partsOn(ranks: Mesh) {
  const model = xlstm(config, { seed: 3, mesh: ranks });
  const parallel = new Parallel(model, ranks, { minSize: 0 });
  const settings = { lr: 5e-3, weightDecay: 0.1, gradClipNorm: 1 };
  const optimizer = adamw(parallel.parameters(), settings, parallel);
  const stream = text.batches({ size: 4, length: 24, seed: 5 });
  return { model, optimizer, stream, parallel, seed: 7 };
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Memory of parameters between uses, and of what the optimizer holds. */
function memoryOf(ranks: Mesh) {
  const { model, parallel, optimizer, stream } = partsOn(ranks);
  const owned = () => [...parallel.parameters().values()].reduce((sum, { size }) => sum + size, 0);
  const moments = [...optimizer.state().tensors.values()].reduce((sum, { size }) => sum + size, 0);
  const share = { rank: parallel.dataRank, ranks: parallel.dataSize, pieces: 2 };
  const seen: number[] = [];
  const live: boolean[] = [];
  for (let step = 0; step < 4; step++) {
    takeStep(parallel, optimizer, microbatchesOf(stream.next(), share), { seed: 1, step });
    seen.push(memory().tensors);
    live.push([...model.parameters().values()].some(({ disposed }) => !disposed));
  }
  return { elements: model.size, owned: owned(), moments, seen, live };
}

/** Most bytes that a step of a deep model needs beyond what lives on, freeing weights or not. */
function peaks(ranks: Mesh) {
  const deep = { ...config, slstmAt: [], embeddingDim: 64, numBlocks: 8 };
  const bytesWith = (reshardAfterForward: boolean) => {
    const model = xlstm(deep, { seed: 3, mesh: ranks });
    const parallel = new Parallel(model, ranks, { minSize: 0, reshardAfterForward });
    const optimizer = adamw(parallel.parameters(), { lr: 1e-3 }, parallel);
    const share = { rank: parallel.dataRank, ranks: parallel.dataSize, pieces: 1 };
    const batch = text.batches({ size: parallel.dataSize, length: 4 }).next();
    const before = memory().bytes;
    resetPeakMemory();
    takeStep(parallel, optimizer, microbatchesOf(batch, share), { seed: 1, step: 0 });
    const peak = memory().peakBytes - before;
    const weights = 8 * model.size;
    for (const item of [optimizer, parallel, model]) item.dispose();
    return { peak, weights };
  };
  const [freed, kept] = [bytesWith(true), bytesWith(false)];
  return { freed: freed.peak, kept: kept.peak, weights: kept.weights };
}

/** Weights gathered in a dtype that the model does not compute in. */
function narrow(ranks: Mesh) {
  const model = xlstm(config, { seed: 3, mesh: ranks });
  try {
    return new Parallel(model, ranks, { minSize: 0, gatherDtype: "bf16" }).dataSize;
  } catch (error) {
    return textOf(error);
  }
}

/** Whether an optimizer that needs whole tensors can be made. */
function lamb(ranks: Mesh) {
  const model = xlstm(config, { seed: 3, mesh: ranks });
  const parallel = new Parallel(model, ranks, { minSize: 0 });
  try {
    makeOptimizer(parallel.parameters(), { name: "lamb", lr: 1e-3 }, parallel).dispose();
    return "made";
  } catch (error) {
    return textOf(error);
  }
}

/** A step whose targets are all masked. */
function nothingValid(ranks: Mesh) {
  const { parallel, optimizer, stream } = partsOn(ranks);
  const share = { rank: parallel.dataRank, ranks: parallel.dataSize, pieces: 2 };
  const batch = stream.next();
  const bytes = () =>
    [...parallel.parameters().values()].map((tensor) => Bun.hash(tensor.bytesSync()).toString());
  const masked = (mask: Uint8Array) =>
    microbatchesOf({ ...batch, mask: { data: mask, shape: batch.tokens.shape } }, share);
  const before = bytes();
  const size = batch.size * batch.length;
  const skipped = takeStep(parallel, optimizer, masked(new Uint8Array(size)), { seed: 1, step: 0 });
  const isSame = JSON.stringify(bytes()) === JSON.stringify(before);
  const updates = optimizer.updates;
  // Now one target counts, on the last rank alone.
  const one = new Uint8Array(size);
  one[size - 1] = 1;
  const taken = takeStep(parallel, optimizer, masked(one), { seed: 1, step: 1 });
  return { skipped, isSame, updates, taken };
}

/** Parameters that claim to leave partial sums over an axis that nobody sums over. */
function unsummed(ranks: Mesh) {
  const { parallel, optimizer, stream } = partsOn(ranks);
  const slices = parallel.shards.slices as Map<string, Slice>;
  for (const [name, slice] of [...slices].filter(([name]) => name.endsWith("mixer_norm.scale"))) {
    const leaf = Object.create(slice.leaf, { partial: { value: ["pp"] } });
    slices.set(name, { ...slice, leaf });
  }
  const share = { rank: parallel.dataRank, ranks: parallel.dataSize, pieces: 2 };
  try {
    return takeStep(parallel, optimizer, microbatchesOf(stream.next(), share), {
      seed: 1,
      step: 0,
    });
  } catch (error) {
    return { error: textOf(error), updates: optimizer.updates };
  }
}

/** What happens after step 2. */
export interface TrainedOptions {
  /** Folder of checkpoints. */
  readonly directory?: string;
  /** Reaches rank 1 alone. */
  readonly signal?: "SIGTERM" | "SIGUSR2";
  /** Becomes NaN wherever it lies. */
  readonly poison?: string;
}

async function trained(ranks: Mesh, { directory, signal, poison }: TrainedOptions) {
  const parts = partsOn(ranks);
  const onStep: TrainerOptions["onStep"] = ({ step }) => {
    if (step !== 2) return;
    if (signal && ranks.rank === 1) process.emit(signal, signal);
    const parameter = poison && parts.parallel.parameters().get(poison);
    if (parameter) noGrad(() => parameter.write_(parameter.mul(Number.NaN)));
  };
  const every = { every: 0, recipe: {}, keep: { newest: 9 }, warn: () => {} };
  const more = directory ? { checkpoints: new Checkpoints(directory, every) } : {};
  const all = { ...parts, ...more, steps: 5, accumulate: 2, onStep };
  try {
    const { status, step, signal: by } = await new Trainer(all).run();
    const saved = directory ? listCheckpoints(directory).map(({ step }) => step) : [];
    return { status, step, by, saved };
  } catch (error) {
    return { error: textOf(error), updates: parts.optimizer.updates };
  }
}

/** The loss of a set whose batches do not divide over the ranks, here and on one process. */
async function evaluated(ranks: Mesh) {
  const look = text.evaluation({ size: 3, length: 24, windows: 7 });
  const { model, parallel } = partsOn(ranks);
  const alone = xlstm(config, { seed: 3 });
  return { mesh: await evaluate(model, look, parallel), alone: await evaluate(alone, look) };
}

/** A trainer whose optimizer was made without the mesh. */
function forgotten(ranks: Mesh) {
  const { model, parallel, stream } = partsOn(ranks);
  const optimizer = adamw(parallel.parameters(), { lr: 1e-3 });
  try {
    return new Trainer({ model, optimizer, stream, parallel, steps: 1 }).step;
  } catch (error) {
    return textOf(error);
  }
}

const scenarios = {
  cases: (ranks: Mesh, options: unknown) => cases(ranks, options as CasesOptions),
  prints: (ranks: Mesh, options: unknown) => prints(ranks, options as CasesOptions),
  memoryOf,
  peaks,
  lamb,
  narrow,
  nothingValid,
  unsummed,
  trained: (ranks: Mesh, options: unknown) => trained(ranks, options as TrainedOptions),
  evaluated,
  forgotten,
};

await runRank(async ({ rank, size }, [master, json]) => {
  const { scenario, sizes, options = {} } = JSON.parse(json!) as TrainingJob;
  const flags = { rank, world: size, localRank: rank, master };
  const ranks = await mesh(sizes, { device: "cpu", flags: size > 1 ? flags : {} });
  return ranks.run(async () => scenarios[scenario](ranks, options));
});
