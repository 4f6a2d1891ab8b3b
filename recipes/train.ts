// Trains an xLSTM on text: the embedded novel, or any file.
//
//   bun run train                                 # Moby-Dick, about three minutes on two cores
//   bun run train data=notes.txt steps=500 model.embeddingDim=192
//   bun run train --resume                        # goes on where the newest run was stopped

import { basename, resolve } from "node:path";
import { z } from "zod";
import type { Json } from "../lib/checkpoint/protocol.ts";
import { defineRecipe, runMain } from "../lib/cli/command.ts";
import { ExitCode } from "../lib/cli/exit.ts";
import { type Corpus, corpus, corpusFromFile, embedded } from "../lib/data/corpus.ts";
import { byteTokenizer } from "../lib/data/tokenizer.ts";
import { generateText } from "../lib/infer/generate.ts";
import { modelSchema, resolveConfig } from "../lib/nn/config.ts";
import { xlstm } from "../lib/nn/model.ts";
import {
  optimizer as makeOptimizer,
  type OptimizerInput,
  optimizerSchema,
} from "../lib/optim/optimizer.ts";
import { scheduleSchema } from "../lib/optim/schedule.ts";
import { useDevice } from "../lib/tensor/index.ts";
import { Checkpoints } from "../lib/train/checkpoints.ts";
import { evaluate } from "../lib/train/evaluate.ts";
import { MetricsLog } from "../lib/train/metrics.ts";
import { Progress } from "../lib/train/progress.ts";
import { baselineBits, comparison, lossCurve, peakMemory } from "../lib/train/report.ts";
import { openRun } from "../lib/train/resume.ts";
import { Trainer } from "../lib/train/trainer.ts";

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
  accumulate: count.default(1).describe("pieces of a batch, to save memory"),
  device: z.enum(["auto", "cpu", "cuda"]).default("auto").describe("auto: a GPU if there is one"),
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
    const { run, settings } = openRun(schema, resolved(given), provenance, nameOf(given.data));
    const { steps, batchSize: size, length, seed, checkpointEvery: every } = settings;
    const device = useDevice(settings.device);
    const text = openCorpus(settings.data);
    const model = xlstm(settings.model, { seed });
    const optimizer = makeOptimizer(model.parameters(), optimizerOf(settings));
    const stream = text.batches({ size, length, seed });
    const parts = { model, optimizer, stream, seed };
    const { whenNotSaved } = settings;
    const recipe = settings as unknown as Json;
    const options = { every, recipe, keep: { newest: settings.keep }, whenNotSaved };
    const checkpoints = new Checkpoints(run.checkpoints, options);
    const restored = settings.resume ? checkpoints.restore(parts) : undefined;
    const start = restored?.step ?? 0;

    console.log(
      `${model}\n\n${text}, ${size} x ${length} bytes a step, ${steps} steps on ${device}`,
    );
    console.log(`run folder ${run.path}${restored ? `, going on from ${restored.path}` : ""}\n`);
    using metrics = new MetricsLog(run.path, restored ? { resumeAfter: start } : {});
    const progress = new Progress({ total: steps, start });
    const { validateEvery, validationWindows: windows, accumulate, logEvery } = settings;
    const look = text.evaluation({ size: 8, length: validationLength, windows });
    const validation = {
      every: validateEvery,
      evaluate: async () => (await evaluate(model, look)).loss,
    };
    const shown = { checkpoints, metrics, progress, validation, logEvery };
    const result = await new Trainer({ ...parts, ...shown, steps, start, accumulate }).run();
    if (result.status === "stopped") {
      console.log(`\nstopped by ${result.signal} after step ${result.step}`);
      console.log(
        `saved in ${result.checkpoint}; to go on: bun run train --resume run=${run.name}`,
      );
      return settings.preemptExitCode;
    }

    const { bits } = await evaluate(model, text.evaluation({ size: 8, length: validationLength }));
    metrics.log("final", steps, { bits });
    const baseline = baselineBits(text);
    console.log(`\n${lossCurve(run, baseline)}\n\n${comparison(bits, baseline)}\n`);
    const sampling = { maxTokens: settings.sample, temperature: 0.8, topP: 0.95, seed };
    for await (const piece of generateText(model, byteTokenizer, "\n", sampling)) {
      process.stdout.write(piece);
    }
    console.log(`\n\n${peakMemory()}\n${result.checkpoint}, ${run.path}/loss.svg, metrics.jsonl`);
    console.log(`to write more: bun run generate "Call me" run=${run.name}`);
    return ExitCode.finished;
  },
});

export default recipe;
if (import.meta.main) await runMain(recipe);

type Settings = z.output<typeof schema>;

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
