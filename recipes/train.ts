// Trains an xLSTM on text: the embedded novel, or any file.
//
//   bun run train                                 # Moby-Dick, about three minutes on two cores
//   bun run train data=notes.txt steps=500 model.embeddingDim=192
//   bun run train --resume                        # goes on where the newest run was stopped
//   bun run launch -n 4 train mesh.dp=2 mesh.tp=2 # on four ranks

import { basename, resolve } from "node:path";
import { z } from "zod";
import { ranksOf } from "../lib/checkpoint/group_ranks.ts";
import type { Json } from "../lib/checkpoint/protocol.ts";
import { defineRecipe, runMain } from "../lib/cli/command.ts";
import { ExitCode } from "../lib/cli/exit.ts";
import { type Corpus, corpus, corpusFromFile, embedded } from "../lib/data/corpus.ts";
import { byteTokenizer } from "../lib/data/tokenizer.ts";
import { generateText } from "../lib/infer/generate.ts";
import { loadModel } from "../lib/infer/load.ts";
import { plannedWorld } from "../lib/launch/dry_run.ts";
import { type Mesh, mesh as joinMesh } from "../lib/mesh/mesh.ts";
import { renderPlan } from "../lib/mesh/plan.ts";
import { modelSchema, resolveConfig } from "../lib/nn/config.ts";
import { xlstm } from "../lib/nn/model.ts";
import {
  optimizer as makeOptimizer,
  type OptimizerInput,
  optimizerSchema,
} from "../lib/optim/optimizer.ts";
import { scheduleSchema } from "../lib/optim/schedule.ts";
import { Checkpoints } from "../lib/train/checkpoints.ts";
import { evaluate } from "../lib/train/evaluate.ts";
import {
  meshSchema,
  modelOptionsOf,
  planOptionsOf,
  shardOptionsOf,
  sizesOf,
} from "../lib/train/mesh_settings.ts";
import { MetricsLog } from "../lib/train/metrics.ts";
import { Parallel } from "../lib/train/parallel.ts";
import { planTraining } from "../lib/train/plan.ts";
import { Progress } from "../lib/train/progress.ts";
import { baselineBits, comparison, lossCurve, peakMemory } from "../lib/train/report.ts";
import { openRun } from "../lib/train/resume.ts";
import type { RunFolder } from "../lib/train/run_folder.ts";
import { Trainer, type TrainingResult } from "../lib/train/trainer.ts";

const count = z.int().min(1);
/** Bytes of a window of the validation split. */
const validationLength = 256;

const schema = z.strictObject({
  data: z.string().default("moby-dick").describe("moby-dick, or the path of a text file"),
  run: z.string().optional().describe("name of the run; default: that of the data"),
  runs: z.string().default("runs").describe("folder of all runs"),
  resume: z.boolean().default(false).describe("go on with `run`, or with the newest run"),
  steps: count.default(1800).describe("optimiser updates"),
  batchSize: count.default(8).describe("rows of a batch"),
  length: count.default(128).describe("bytes of a row"),
  accumulate: count.default(1).describe("pieces of a rank's rows, to save memory"),
  device: z.enum(["auto", "cpu", "cuda"]).default("auto").describe("auto: a GPU if there is one"),
  mesh: meshSchema.describe("ranks, started by `bun run launch`"),
  seed: z.int().min(0).default(0).describe("of the initial weights, the order of data, dropout"),
  model: modelSchema
    .default({
      vocabSize: byteTokenizer.vocabSize,
      embeddingDim: 128,
      numBlocks: 4,
      numHeads: 4,
      block: "paper",
      slstmAt: [1],
      // Gates that forget sooner than those of large models: lines and words are short.
      mlstm: { fGateBiasInit: [1, 4] },
    })
    .describe("the model"),
  optimizer: z
    .strictObject({
      ...optimizerSchema.shape,
      lr: z.number().positive().default(4e-3).describe("highest learning rate"),
      schedule: scheduleSchema.shape.name.default("cosineDecay"),
      warmupSteps: z.int().min(0).optional().describe("default: steps / 20, at most 100"),
      cooldownSteps: scheduleSchema.shape.cooldownSteps,
      endLrFactor: z.number().min(0).default(0.05).describe("last rate as a part of lr"),
      beta2: optimizerSchema.shape.beta2.default(0.99),
      weightDecay: optimizerSchema.shape.weightDecay.default(0.03),
      gradClipNorm: optimizerSchema.shape.gradClipNorm.default(1),
    })
    .prefault({}),
  validateEvery: count.default(300).describe("steps between two looks at the validation split"),
  validationWindows: count.default(64).describe("windows of such a look"),
  checkpointEvery: z.int().min(0).default(500).describe("steps between two checkpoints, 0 = end"),
  keep: count.default(2).describe("checkpoints to keep"),
  whenNotSaved: z.enum(["continue", "stop"]).default("continue").describe("on a full disk"),
  logEvery: count.default(10).describe("steps between two lines of metrics.jsonl"),
  sample: z.int().min(0).default(300).describe("bytes of text to write at the end"),
  preemptExitCode: z.int().min(0).max(255).default(0).describe("after a signal stopped the run"),
});

const recipe = defineRecipe({
  name: "train",
  description: "Trains an xLSTM language model on the bytes of a text.",
  schema,
  examples: [
    { command: "bun run train", what: "a small model on Moby-Dick" },
    { command: "bun run train data=notes.txt steps=500", what: "on a text of your own" },
    { command: "bun run train --resume", what: "goes on where the newest run was stopped" },
  ],
  async run(given, { provenance }) {
    const started = resolved(given);
    const world = plannedWorld();
    if (world !== undefined) return showPlan(started, world);
    const { device, mesh: meshed } = started;
    const order = { order: meshed.order };
    const mesh = await joinMesh(sizesOf(meshed), { device, recipe: started, ...order });
    const trained = await mesh.run(() => train(mesh, started, provenance));
    return mesh.rank === 0 ? report(trained) : codeOf(trained);
  },
});

export default recipe;
if (import.meta.main) await runMain(recipe);

type Settings = z.output<typeof schema>;

interface Trained {
  readonly run: RunFolder;
  readonly settings: Settings;
  readonly text: Corpus;
  readonly result: TrainingResult;
  /** Bits per byte of the whole validation split; undefined when a signal stopped the run. */
  readonly bits: number | undefined;
}

/** What every rank does. */
async function train(
  mesh: Mesh,
  started: Settings,
  provenance: ReadonlyMap<string, string>,
): Promise<Trained> {
  const name = nameOf(started.data);
  const { run, settings } = openRun(schema, started, provenance, name, ranksOf(mesh.world));
  const { steps, batchSize: size, length, seed, checkpointEvery: every } = settings;
  const text = openCorpus(settings.data);
  const model = xlstm(settings.model, { seed, mesh, ...modelOptionsOf(settings.mesh) });
  const parallel = new Parallel(model, mesh, shardOptionsOf(settings.mesh));
  const optimizer = makeOptimizer(parallel.parameters(), optimizerOf(settings), parallel);
  const stream = text.batches({ size, length, seed });
  const parts = { model, optimizer, stream, seed, parallel };
  const { whenNotSaved } = settings;
  const recipe = settings as unknown as Json;
  const options = { every, recipe, keep: { newest: settings.keep }, whenNotSaved };
  const checkpoints = new Checkpoints(run.checkpoints, options);
  const restored = settings.resume ? checkpoints.restore(parts) : undefined;
  const start = restored?.step ?? 0;

  const say = (line: string) => void (parallel.isFirst && console.log(line));
  const where = mesh.world.size === 1 ? mesh.device : `${mesh.world.size} ranks, ${mesh.device}`;
  say(`${model}\n\n${text}, ${size} x ${length} bytes a step, ${steps} steps on ${where}`);
  say(`run folder ${run.path}${restored ? `, going on from ${restored.path}` : ""}\n`);
  const log = restored ? { resumeAfter: start } : {};
  using metrics = parallel.isFirst ? new MetricsLog(run.path, log) : undefined;
  const progress = new Progress({ total: steps, start });
  const { validateEvery, validationWindows: windows, accumulate, logEvery } = settings;
  const look = text.evaluation({ size: 8, length: validationLength, windows });
  const validation = {
    every: validateEvery,
    evaluate: async () => (await evaluate(model, look, parallel)).loss,
  };
  const shown = { checkpoints, progress, validation, logEvery, ...(metrics && { metrics }) };
  const result = await new Trainer({ ...parts, ...shown, steps, start, accumulate }).run();
  if (result.status === "stopped") return { run, settings, text, result, bits: undefined };
  mesh.heartbeat(steps, "eval");
  const whole = text.evaluation({ size: 8, length: validationLength });
  const { bits } = await evaluate(model, whole, parallel);
  metrics?.log("final", steps, { bits });
  parallel.dispose();
  return { run, settings, text, result, bits };
}

/** What rank 0 says at the end. */
async function report(trained: Trained): Promise<number> {
  const { run, settings, text, result, bits } = trained;
  if (bits === undefined) {
    console.log(`\nstopped by ${result.signal} after step ${result.step}`);
    console.log(`saved in ${result.checkpoint}; to go on: bun run train --resume run=${run.name}`);
    return codeOf(trained);
  }
  const baseline = baselineBits(text);
  console.log(`\n${lossCurve(run, baseline)}\n\n${comparison(bits, baseline)}\n`);
  const { model } = loadModel(result.checkpoint!);
  const sampling = { maxTokens: settings.sample, temperature: 0.8, topP: 0.95 };
  const { seed } = settings;
  for await (const piece of generateText(model, byteTokenizer, "\n", { ...sampling, seed })) {
    process.stdout.write(piece);
  }
  console.log(`\n\n${peakMemory()}\n${result.checkpoint}, ${run.path}/loss.svg, metrics.jsonl`);
  console.log(`to write more: bun run generate "Call me" run=${run.name}`);
  return codeOf(trained);
}

function codeOf({ settings, bits }: Trained): number {
  return bits === undefined ? settings.preemptExitCode : ExitCode.finished;
}

/** `bun run launch -n 64 --dry-run train ...`: what the ranks would do. */
function showPlan(settings: Settings, world: number): number {
  const { model, batchSize: batch, length, accumulate: microbatches, device } = settings;
  const step = { world, batch, length, microbatches, ...planOptionsOf(settings.mesh) };
  const on = device === "auto" ? {} : { device };
  console.log(renderPlan(planTraining(resolveConfig(model), { ...step, ...on })));
  return ExitCode.finished;
}

/** Settings as they are stored: every default of the model filled in, no relative path. */
function resolved(settings: Settings): Settings {
  const isEmbedded = (embedded as readonly string[]).includes(settings.data);
  const data = isEmbedded ? settings.data : resolve(settings.data);
  return { ...settings, data, model: resolveConfig(settings.model) };
}

function openCorpus(data: string): Corpus {
  const name = embedded.find((known) => known === data);
  return name ? corpus(name) : corpusFromFile(data);
}

/** `notes` of `texts/notes.txt`. */
function nameOf(data: string): string {
  return (
    basename(data)
      .replace(/\.\w+$/, "")
      .replaceAll(/[^\w.-]+/g, "-") || "run"
  );
}

function optimizerOf({ optimizer, steps }: Settings): OptimizerInput {
  const { lr, schedule, warmupSteps, cooldownSteps, endLrFactor, ...rule } = optimizer;
  const warmup = warmupSteps ?? Math.min(100, Math.floor(steps / 20));
  const decay = { decaySteps: steps, warmupSteps: warmup, cooldownSteps, endLrFactor };
  return { ...rule, lr: { name: schedule, lr, ...decay } };
}
