// Measures this machine and this library: ceilings first, then everything as a part of them.
//
//   bun run bench cpu
//   bun run bench gpu --json > before.jsonl
//   bun run launch -n 2 bench comm
//   bun run launch -n 2 bench mesh mesh.fsdp=2

import { readFileSync } from "node:fs";
import { cpus } from "node:os";
import { z } from "zod";
import manifest from "../package.json" with { type: "json" };
import { commParts, type CommPart, type CommRow } from "../lib/bench/comm.ts";
import { benchOfRanks, launchedRanks } from "../lib/bench/comm_ranks.ts";
import { cells, products, type Row, trainingSteps } from "../lib/bench/cpu.ts";
import { clocks, gpuBench, type GpuPart, gpuParts, type PartRow } from "../lib/bench/gpu.ts";
import { ceilings, findBlas } from "../lib/bench/measure.ts";
import { meshBench, type MeshBenchRow } from "../lib/bench/mesh.ts";
import { defineRecipe, runMain } from "../lib/cli/command.ts";
import { ExitCode, ExitError, UsageError } from "../lib/cli/exit.ts";
import { mesh as joinMesh } from "../lib/mesh/mesh.ts";
import { NativeError } from "../lib/native/errors.ts";
import { blasPaths } from "../lib/native/library.ts";
import { preset } from "../lib/nn/presets.ts";
import { useDevice } from "../lib/tensor/index.ts";
import { meshSchema, sizesOf } from "../lib/train/mesh_settings.ts";

const cpuParts = ["gemm", "cells", "train"] as const;
type CpuPart = (typeof cpuParts)[number];
const partNames = [...new Set([...cpuParts, ...gpuParts, ...commParts])];
const parts = { cpu: cpuParts, gpu: gpuParts, comm: commParts, mesh: [] } as const;
const count = z.int().min(1);

/** Settings of `bench mesh`. */
const meshFields = {
  model: z.string().default("mLSTMv1_1.3B").describe("mesh: a preset"),
  mesh: meshSchema.describe("mesh: ranks per axis"),
  rows: count.default(8).describe("mesh: rows of a microbatch"),
  length: count.default(2048).describe("mesh: tokens of a row"),
  microbatches: count.default(1).describe("mesh: microbatches of a step on each rank"),
  steps: count.default(10).describe("mesh: steps that are timed"),
};

const recipe = defineRecipe({
  name: "bench",
  description: "Benchmarks as parts of the ceilings measured in the same run.",
  schema: z.strictObject({
    what: z
      .enum(["cpu", "gpu", "comm", "mesh"])
      .default("cpu")
      .describe(
        "cpu: products, cells, training; gpu: also operations, decoding; " +
          "of launched ranks, comm: collectives; mesh: a training step",
      ),
    only: z
      .enum(["all", ...partNames])
      .default("all")
      .describe("one part"),
    blas: z.string().optional().describe("CBLAS library to compare with; default: the first found"),
    json: z.boolean().default(false).describe("JSON lines"),
    quick: z.boolean().default(false).describe("smallest sizes: shows that it runs"),
    device: z.enum(["auto", "cpu", "cuda"]).default("auto").describe("where ranks are"),
    most: count.optional().describe("comm: largest tensor in MiB; GPUs 1024, CPU 64"),
    ...meshFields,
  }),
  positionals: ["what"],
  examples: [
    { command: "bun run bench cpu only=gemm", what: "products against the best BLAS" },
    { command: "bun run bench gpu only=cells --json", what: "the recurrent cells on the GPU" },
    { command: "bun run launch -n 2 bench comm", what: "collectives between two ranks" },
  ],
  run({ what, only, blas, json, quick, device, most, ...step }) {
    const known: readonly string[] = parts[what];
    if (only !== "all" && !known.includes(only)) {
      throw new UsageError(`only=${only} is no part of ${what}: there are ${known.join(", ")}`);
    }
    if (what === "cpu") return onCpu(only as CpuPart | "all", blas, json, quick);
    if (blas) throw new UsageError("blas=… is for `bench cpu`");
    if (what === "mesh") return onMesh(step, device, json);
    if (what === "comm") return onRanks(only as CommPart | "all", json, quick, device, most);
    return onGpu(only as GpuPart | "all", json, quick);
  },
});

function onCpu(only: CpuPart | "all", blas: string | undefined, json: boolean, quick: boolean) {
  const found = findBlas(blas ? [blas] : blasPaths());
  if (blas && !found.path) throw new Error(found.tried.join("; "));
  const ceiling = ceilings();
  printHeader(json, {
    blas: found.path ?? "none (bun run setup --blas installs one)",
    fmaGflops: ceiling.gflops,
    copyGBps: ceiling.copy,
  });
  const parts = {
    gemm: () => products(ceiling, found.path, quick),
    cells: () => cells(ceiling, quick),
    train: () => trainingSteps(ceiling, quick),
  };
  for (const [name, rows] of Object.entries(parts)) {
    if (only !== "all" && only !== name) continue;
    for (const row of rows()) console.log(json ? JSON.stringify(row) : line(row));
  }
}

/** A row that could not be measured makes the exit code 1; the other rows are still there. */
function onGpu(only: GpuPart | "all", json: boolean, quick: boolean): number {
  openGpuOrSay();
  const { header, rows } = gpuBench(only, quick);
  printHeader(json, header);
  let failures = 0;
  for (const row of rows) {
    if ("error" in row) failures++;
    console.log(json ? JSON.stringify(row) : gpuLine(row));
  }
  const footer = { clocks: clocks(), failures };
  console.log(json ? JSON.stringify({ footer }) : heading(footer));
  return failures > 0 ? 1 : 0;
}

/** A failed check on any rank makes the exit code 1. */
async function onRanks(
  only: CommPart | "all",
  json: boolean,
  quick: boolean,
  device: "auto" | "cpu" | "cuda",
  most: number | undefined,
): Promise<number> {
  if (launchedRanks() === 1) {
    throw new UsageError("one rank has nobody to talk to: bun run launch -n 2 bench comm");
  }
  const row = (one: CommRow) => console.log(json ? JSON.stringify(one) : commLine(one));
  const header = (facts: Facts) => printHeader(json, facts);
  const failures = await benchOfRanks({ only, quick, device, most, header, row });
  return failures > 0 ? 1 : 0;
}

type MeshFields = z.output<z.ZodObject<typeof meshFields>>;

/** The same step on the mesh and on every rank alone. */
async function onMesh(
  { model, mesh: settings, ...step }: MeshFields,
  device: "auto" | "cpu" | "cuda",
  json: boolean,
): Promise<void> {
  const mesh = await joinMesh(sizesOf(settings), { device, order: settings.order });
  await mesh.run(() => {
    const config = preset(model);
    const isFirst = mesh.rank === 0;
    if (isFirst) printHeader(json, { device: mesh.device, ranks: mesh.world.size });
    for (const row of meshBench(mesh, { config, mesh: settings, ...step })) {
      if (isFirst) console.log(json ? JSON.stringify(row) : meshLine(row));
    }
  });
}

function meshLine({ name, milliseconds, tokensPerSecond, peakBytes }: MeshBenchRow): string {
  const rate = `${Math.round(tokensPerSecond)} tokens/s`;
  const peak = `peak ${(peakBytes / 1e9).toFixed(1)} GB a rank`;
  return `${name.padEnd(34)} ${milliseconds.toFixed(2).padStart(9)} ms  ${rate}  ${peak}`;
}

/** A machine without a usable GPU is the user's to solve: one line, no stack. */
function openGpuOrSay(): void {
  try {
    useDevice("cuda");
  } catch (error) {
    if (!(error instanceof NativeError)) throw error;
    throw new ExitError(ExitCode.usage, error.message);
  }
}

type Facts = Readonly<Record<string, string | number | boolean>>;

function printHeader(json: boolean, facts: Facts) {
  const header = {
    date: new Date().toISOString(),
    processor: cpus()[0]?.model ?? "unknown",
    threads: cpus().length,
    bun: Bun.version,
    xlstm: manifest.version,
    revision: revision(),
    ...facts,
  };
  console.log(json ? JSON.stringify({ header }) : heading(header));
}

/** Of the checkout, or of the packed tree (bench/gpu-run). */
function revision(): string {
  const folder = new URL("..", import.meta.url).pathname;
  try {
    return readFileSync(`${folder}REVISION`, "utf8").trim();
  } catch {
    if (!Bun.which("git")) return "unknown";
    const asked = ["git", "-C", folder, "rev-parse", "--short", "HEAD"];
    return Bun.spawnSync(asked).stdout.toString().trim() || "unknown";
  }
}

function heading(header: Facts): string {
  const shown = (value: string | number | boolean) =>
    typeof value === "number" && !Number.isInteger(value) ? value.toFixed(1) : value;
  return Object.entries(header)
    .map(([key, value]) => `${key.padEnd(15)} ${shown(value)}`)
    .join("\n");
}

function line({ name, milliseconds, gflops, ofCeiling, extra }: Row): string {
  const rate = `${gflops.toFixed(1).padStart(7)} GFLOP/s ${(100 * ofCeiling).toFixed(0)} %`;
  const time = milliseconds.toFixed(2).padStart(9);
  return `${name.padEnd(34)} ${time} ms ${rate}  ${pairs(extra)}`;
}

function commLine(row: CommRow): string {
  if (row.part === "check") return `${row.name.padEnd(34)} ${row.error ?? "ok"}`;
  const size = `${(row.bytes / 2 ** 20).toFixed(0)} MiB`;
  const time = row.milliseconds.toFixed(3).padStart(10);
  const title = `${row.name} ${size}`.padEnd(34);
  return `${title} ${time} ms ${row.busGBps.toFixed(2).padStart(8)} GB/s`;
}

function gpuLine(row: PartRow): string {
  const title = row.name.padEnd(54);
  if ("error" in row) return `${title} FAILED: ${row.error}`;
  const spread = `(${row.p20.toFixed(3)}-${row.p80.toFixed(3)})${row.unsteady ? " UNSTEADY" : ""}`;
  const time = `${row.milliseconds.toFixed(3).padStart(9)} ms ${spread}`;
  const floor = `${row.overFloor.toFixed(2)}x of ${row.floor.toFixed(3)}`;
  const rates = `${row.gbps.toPrecision(3)} GB/s  ${row.tflops.toPrecision(3)} TFLOP/s`;
  const eager = row.mode === "graph" ? "" : `  (${row.mode})`;
  const host = `host ${row.hostMilliseconds.toFixed(3)}${eager}`;
  const first = `${title} ${time}  ${floor}  ${rates}  ${host}  ${pairs(row.extra)}`.trimEnd();
  return row.breakdown ? `${first}\n    by call, ms: ${pairs(row.breakdown)}` : first;
}

function pairs(values: Readonly<Record<string, number | string>>): string {
  return Object.entries(values)
    .map(([key, value]) => `${key} ${typeof value === "number" ? value.toPrecision(4) : value}`)
    .join("  ");
}

export default recipe;
if (import.meta.main) await runMain(recipe);
