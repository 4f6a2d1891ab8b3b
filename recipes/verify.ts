// Runs reference cases (inputs and outputs of the public implementations) against this library.
//
//   bun run verify DIR dtype=f32

import { existsSync, statSync } from "node:fs";
import { z } from "zod";
import { defineRecipe, runMain } from "../lib/cli/command.ts";
import { UsageError } from "../lib/cli/exit.ts";
import { type Device, useDevice } from "../lib/tensor/index.ts";
import type { Precision } from "../lib/verify/report.ts";
import { type CaseResult, runFolder } from "../lib/verify/run.ts";

const recipe = defineRecipe({
  name: "verify",
  description: "Runs every reference case of a folder and prints the error of every tensor.",
  schema: z.strictObject({
    dir: z.string().describe("folder with case files (*.safetensors)"),
    dtype: z
      .enum(["f64", "f32", "bf16", "all"])
      .default("all")
      .describe("all: f64 and f32; on a GPU f32 and bf16"),
    device: z.enum(["cpu", "cuda"]).default("cpu").describe("where to compute"),
    json: z.boolean().default(false).describe("one JSON line per case"),
    verbose: z.boolean().default(false).describe("every tensor, not only the worst of a case"),
  }),
  positionals: ["dir"],
  examples: [{ command: "bun run verify ../shared/reference dtype=f32", what: "all cases in f32" }],
  run({ dir, dtype, device, json, verbose }) {
    if (!existsSync(dir) || !statSync(dir).isDirectory()) {
      throw new UsageError(`${dir} is not a folder: give one that holds *.safetensors case files`);
    }
    const precisions = precisionsOf(dtype, useDevice(device));
    const counts = { passed: 0, failed: 0, skipped: 0 };
    for (const precision of precisions) {
      for (const result of runFolder(dir, precision)) {
        counts[result.outcome]++;
        if (json) console.log(JSON.stringify({ dtype: precision, ...result }));
        else print(result, precision, verbose);
      }
    }
    if (counts.passed + counts.failed + counts.skipped === 0) {
      throw new UsageError(`${dir} holds no *.safetensors files`);
    }
    const skipped = counts.skipped > 0 ? `, ${counts.skipped} skipped` : "";
    console.log(`${counts.passed} passed, ${counts.failed} failed${skipped}`);
    return counts.failed > 0 ? 1 : 0;
  },
});

function precisionsOf(dtype: Precision | "all", device: Device): readonly Precision[] {
  if (dtype === "all") return device === "cuda" ? ["f32", "bf16"] : ["f64", "f32"];
  if (device === "cuda" && dtype === "f64") {
    throw new UsageError("f64 is for the CPU: use dtype=f32, dtype=bf16 or device=cpu");
  }
  return [dtype];
}

function print(result: CaseResult, precision: string, verbose: boolean): void {
  const { name, operation, outcome, rows, reason } = result;
  const mark = { passed: "ok  ", failed: "FAIL", skipped: "skip" }[outcome];
  const title = `${mark} ${name} (${operation}, ${precision})`;
  if (reason) return console.log(`${title}: ${reason}`);
  const bad = rows.filter(({ error, bar }) => !(error <= bar));
  const worst = rows.reduce((a, b) => (b.error / b.bar > a.error / a.bar ? b : a));
  const summary = `${rows.length} tensors, worst ${worst.tensor} ${worst.error.toExponential(1)}`;
  console.log(`${title}: ${summary} of ${worst.bar}`);
  for (const { tensor, error, bar } of verbose ? rows : bad) {
    const line = `${error.toExponential(2)} of ${bar}`;
    console.log(`       ${error <= bar ? "  " : "! "}${tensor.padEnd(24)} ${line}`);
  }
}

export default recipe;
if (import.meta.main) await runMain(recipe);
