// Writes text with a trained model, character by character.
//
//   bun run generate "Call me"
//   bun run generate "Call me" run=moby-dick tokens=300 temperature=0.8 topK=40 topP=0.95 seed=1

import { z } from "zod";
import { latestCheckpoint } from "../lib/checkpoint/protocol.ts";
import { defineRecipe, runMain } from "../lib/cli/command.ts";
import { byteTokenizer } from "../lib/data/tokenizer.ts";
import { generateText } from "../lib/infer/generate.ts";
import { loadModel } from "../lib/infer/load.ts";
import { useDevice } from "../lib/tensor/index.ts";
import { duration } from "../lib/train/progress.ts";
import { findRun, NoRunError } from "../lib/train/run_folder.ts";

const schema = z.strictObject({
  prompt: z.string().default("\n").describe("text to go on with; default: a new line"),
  run: z.string().optional().describe("name of the run; default: the one that was saved last"),
  runs: z.string().default("runs").describe("folder of all runs"),
  tokens: z.int().min(0).default(300).describe("bytes to write"),
  temperature: z.number().min(0).default(0.8).describe("0 always takes the most likely byte"),
  topK: z.int().min(0).default(0).describe("of the k most likely bytes only; 0 = all"),
  topP: z.number().gt(0).max(1).default(0.95).describe("of the most likely ones up to this sum"),
  minP: z.number().min(0).max(1).default(0).describe("at least this likely next to the first"),
  repetitionPenalty: z.number().positive().default(1).describe("above 1: fewer repeated bytes"),
  device: z.enum(["auto", "cpu", "cuda"]).default("auto").describe("auto: a GPU if there is one"),
  seed: z
    .int()
    .min(0)
    .optional()
    .describe("the same seed writes the same text; default: by chance"),
});

const recipe = defineRecipe({
  name: "generate",
  description: "Writes text with a trained model.",
  schema,
  positionals: ["prompt"],
  examples: [
    { command: 'bun run generate "Call me"', what: "goes on with the newest run's model" },
    { command: 'bun run generate "Call me" temperature=0', what: "the most likely text" },
  ],
  async run({ prompt, run: name, runs, tokens, seed, device, ...sampling }) {
    const run = findRun(runs, name);
    const path = latestCheckpoint(run.checkpoints);
    if (path === undefined) {
      throw new NoRunError(
        `no checkpoint in ${run.checkpoints} is sound: train again, or name run=`,
      );
    }
    useDevice(device);
    const { model } = loadModel(path);
    const used = seed ?? Math.floor(Math.random() * 1e6);
    const start = performance.now();
    const options = { ...sampling, seed: used, maxTokens: tokens };
    const text = prompt === "" ? "\n" : prompt;
    process.stdout.write(text);
    for await (const piece of generateText(model, byteTokenizer, text, options)) {
      process.stdout.write(piece);
    }
    const time = performance.now() - start;
    process.stdout.write("\n");
    const speed = Math.round((1000 * tokens) / time);
    console.error(`${path}, seed=${used}: ${tokens} bytes in ${duration(time)}, ${speed} bytes/s`);
  },
});

export default recipe;
if (import.meta.main) await runMain(recipe);
