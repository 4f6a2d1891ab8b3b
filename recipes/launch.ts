// Starts a recipe as several ranks of this host, one process per accelerator.
//
//   bun run launch -n 4 train steps=20 mesh.dp=2 mesh.tp=2
//   bun run launch -n 8 nodes=2 slurm.partition=compute --batch train | sbatch

import { existsSync, readdirSync } from "node:fs";
import { join, relative, resolve } from "node:path";
import { z } from "zod";
import { defineRecipe, runMain } from "../lib/cli/command.ts";
import { UsageError } from "../lib/cli/exit.ts";
import { suggestion } from "../lib/config/suggest.ts";
import { dryRun } from "../lib/launch/dry_run.ts";
import { detectEnvironment } from "../lib/launch/environment.ts";
import { launch, type LaunchOptions } from "../lib/launch/launcher.ts";
import { networkNames } from "../lib/launch/network.ts";
import { renderBatch } from "../lib/launch/slurm.ts";
import { showAddress } from "../lib/launch/variables.ts";
import { splitWords } from "../lib/launch/words.ts";

const count = z.int().min(1);
const root = join(import.meta.dir, "..");
const signals = join(root, "setup", "signals.mjs");
const word = z.string().min(1);

const schema = z.strictObject({
  recipe: word.describe("name of a recipe, or path of a .ts file"),
  arguments: z.array(z.string()).default([]).describe("the recipe's own words, as they stand"),
  ranks: count.describe("processes on each host; also -n or --nproc"),
  nodes: count
    .optional()
    .describe("hosts that run a launcher each; default: what Slurm says, or 1"),
  node: z.int().min(0).optional().describe("which of them this one is"),
  master: word.optional().describe("host:port of rank 0; default: a free port of this host"),
  allOutput: z
    .boolean()
    .default(false)
    .describe("show the output of all ranks, not of rank 0 alone"),
  logs: word.optional().describe("folder that gets the output of every rank"),
  network: z.enum(networkNames).optional().describe("published variables for a kind of network"),
  grace: z.number().min(0).default(4).describe("seconds from the first failure to the end of all"),
  dryRun: z.boolean().default(false).describe("print what the ranks would do; start none"),
  batch: z.boolean().default(false).describe("print a Slurm batch file and start nothing"),
  slurm: z
    .strictObject({
      jobName: word.default("xlstm"),
      time: word.default("7-00:00:00").describe("days-hours:minutes:seconds"),
      partition: word.optional(),
      account: word.optional(),
      gpus: z.int().min(0).optional().describe("per host; default: one per rank"),
      cpusPerTask: count.default(28).describe("cores of a rank"),
      gpuBind: word.default("none").describe("none: every rank sees all GPUs of its host"),
      exclusive: z.boolean().default(true).describe("hosts are not shared with other jobs"),
      warnSeconds: count.default(300).describe("before the end, ranks save and stop"),
    })
    .prefault({})
    .describe("the batch file"),
});

type Settings = z.output<typeof schema>;

const definition = defineRecipe({
  name: "launch",
  description: "Starts a recipe as several ranks: settings, the recipe, then its own settings.",
  schema,
  examples: [
    { command: "bun run launch -n 2 train mesh.dp=2", what: "two ranks share every batch" },
    {
      command: "bun run launch -n 4 --all-output train mesh.dp=2 mesh.tp=2",
      what: "four, all shown",
    },
    {
      command: "bun run launch -n 8 nodes=512 --dry-run train mesh.fsdp=8",
      what: "what 4096 ranks would do",
    },
    { command: "bun run launch -n 8 nodes=2 --batch train", what: "a batch file for Slurm" },
  ],
  async run(settings) {
    const file = recipeFile(settings.recipe);
    if (settings.batch) {
      process.stdout.write(batchOf(settings, file));
      return 0;
    }
    const command = [process.execPath, "--preload", signals, file, ...settings.arguments];
    if (settings.dryRun) return dryRun(command, planned(settings));
    return launch({ ...optionsOf(settings), command });
  },
});

const recipe = {
  ...definition,
  /** Everything behind the recipe's name belongs to the recipe. */
  main(argv: readonly string[]): Promise<number> {
    let words: string[];
    try {
      const { own, recipe: name, rest } = splitWords(argv);
      const named = name === undefined ? [] : [`recipe=${name}`];
      words = [...own, ...named, ...(rest.length > 0 ? [`arguments=${JSON.stringify(rest)}`] : [])];
    } catch (error) {
      if (!(error instanceof Error)) throw error;
      console.error(`launch: ${error.message}`);
      return Promise.resolve(64);
    }
    return definition.main(words);
  },
};

export default recipe;
if (import.meta.main) await runMain(recipe);

/** Under a scheduler that starts one launcher per host, hosts and master are its own. */
function optionsOf(settings: Settings): Omit<LaunchOptions, "command"> {
  const { ranks, allOutput, logs, network, grace: graceSeconds } = settings;
  const shared = { ranks, allOutput, logs, network, graceSeconds };
  const { nodes, node, master } = settings;
  if (nodes !== undefined || node !== undefined) return { ...shared, nodes, node, master };
  const outside = detectEnvironment();
  if (outside.world === 1 || outside.source === "XL_RANK") return { ...shared, master };
  const first = outside.rank * ranks;
  const place = `host ${outside.rank + 1} of ${outside.world} (${outside.source})`;
  console.error(`launch: ${place}: ranks ${first} to ${first + ranks - 1}`);
  const derived = outside.master && showAddress(outside.master);
  return { ...shared, nodes: outside.world, node: outside.rank, master: master ?? derived };
}

/** Ranks of a dry run. Recipes of one's own read `plannedWorld` (lib/launch/dry_run.ts). */
function planned({ recipe: name, ranks, nodes = 1 }: Settings): number {
  if (name === "train" || name.endsWith(".ts")) return ranks * nodes;
  throw new UsageError(`--dry-run: ${name} has no plan to show; expected train`);
}

function recipeFile(name: string): string {
  if (name.endsWith(".ts")) {
    if (!existsSync(name)) throw new UsageError(`recipe ${name}: there is no such file`);
    return resolve(name);
  }
  const files = readdirSync(import.meta.dir).filter((file) => file.endsWith(".ts"));
  const names = files.map((file) => file.slice(0, -3)).filter((known) => known !== "launch");
  if (names.includes(name)) return join(import.meta.dir, `${name}.ts`);
  throw new UsageError(`"${name}" is no recipe${suggestion(name, names)}`);
}

function batchOf(settings: Settings, file: string): string {
  const { slurm, ranks, nodes = 1, network } = settings;
  const here = (target: string) => `./${relative(root, target)}`;
  const words = ["--preload", here(signals), here(file)];
  const command = ["node_modules/.bin/bun", ...words, ...settings.arguments];
  return renderBatch({ ...slurm, gpus: slurm.gpus ?? ranks, nodes, ranks, network, command });
}
