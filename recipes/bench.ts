// Measures this machine and this library: ceilings first, then everything as a part of them.
//
//   bun run bench cpu
//   bun run bench cpu --json > before.jsonl

import { cpus } from "node:os";
import { z } from "zod";
import manifest from "../package.json" with { type: "json" };
import { cells, products, type Row, trainingSteps } from "../lib/bench/cpu.ts";
import { ceilings, findBlas } from "../lib/bench/measure.ts";
import { blasPaths } from "../lib/native/library.ts";
import { defineRecipe, runMain } from "../lib/cli/command.ts";

const recipe = defineRecipe({
  name: "bench",
  description: "Benchmarks as parts of the ceilings measured in the same run.",
  schema: z.strictObject({
    what: z.enum(["cpu"]).default("cpu").describe("cpu: products, cells, training steps"),
    only: z.enum(["all", "gemm", "cells", "train"]).default("all").describe("one part"),
    blas: z.string().optional().describe("CBLAS library to compare with; default: the first found"),
    json: z.boolean().default(false).describe("JSON lines"),
    quick: z.boolean().default(false).describe("smallest sizes: shows that it runs"),
  }),
  positionals: ["what"],
  examples: [{ command: "bun run bench cpu only=gemm", what: "products against the best BLAS" }],
  run({ only, blas, json, quick }) {
    const found = findBlas(blas ? [blas] : blasPaths());
    if (blas && !found.path) throw new Error(found.tried.join("; "));
    const ceiling = ceilings();
    const header = {
      date: new Date().toISOString(),
      processor: cpus()[0]?.model ?? "unknown",
      threads: cpus().length,
      bun: Bun.version,
      xlstm: manifest.version,
      revision: Bun.spawnSync(["git", "rev-parse", "--short", "HEAD"]).stdout.toString().trim(),
      blas: found.path ?? "none (bun run setup --blas installs one)",
      fmaGflops: ceiling.gflops,
      copyGBps: ceiling.copy,
    };
    console.log(json ? JSON.stringify({ header }) : heading(header));
    const parts = {
      gemm: () => products(ceiling, found.path, quick),
      cells: () => cells(ceiling, quick),
      train: () => trainingSteps(ceiling, quick),
    };
    for (const [name, rows] of Object.entries(parts)) {
      if (only !== "all" && only !== name) continue;
      for (const row of rows()) console.log(json ? JSON.stringify(row) : line(row));
    }
  },
});

function heading(header: Record<string, string | number>): string {
  const shown = (value: string | number) => (typeof value === "number" ? value.toFixed(1) : value);
  return Object.entries(header)
    .map(([key, value]) => `${key.padEnd(12)} ${shown(value)}`)
    .join("\n");
}

function line({ name, milliseconds, gflops, ofCeiling, extra }: Row): string {
  const rest = Object.entries(extra).map(
    ([key, value]) => `${key} ${typeof value === "number" ? value.toPrecision(4) : value}`,
  );
  const rate = `${gflops.toFixed(1).padStart(7)} GFLOP/s ${(100 * ofCeiling).toFixed(0)} %`;
  return `${name.padEnd(34)} ${milliseconds.toFixed(2).padStart(9)} ms ${rate}  ${rest.join("  ")}`;
}

export default recipe;
if (import.meta.main) await runMain(recipe);
