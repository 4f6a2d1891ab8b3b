// Runs every reference case of a folder.

import { readdirSync } from "node:fs";
import { basename, join } from "node:path";
import { openSafetensors, type TensorFile } from "../checkpoint/safetensors.ts";
import { scope } from "../tensor/index.ts";
import { verifyMlstm, verifyOptim, verifySlstm } from "./cells.ts";
import { verifyHuggingFace, verifyLarge, verifyLegacy, verifyTrain } from "./models.ts";
import { passed, type Precision, type Row } from "./report.ts";

const operations: Record<string, (file: TensorFile, precision: Precision) => Row[]> = {
  mlstm: verifyMlstm,
  slstm: verifySlstm,
  optim: verifyOptim,
  xlstm_large: verifyLarge,
  hf_xlstm: verifyHuggingFace,
  xlstm_v1_lm: verifyLegacy,
  train: verifyTrain,
};

export interface CaseResult {
  readonly name: string;
  readonly operation: string;
  readonly outcome: "passed" | "failed" | "skipped";
  readonly rows: readonly Row[];
  /** Why it was skipped, or what went wrong. */
  readonly reason?: string;
}

/** Names of the case files of a folder, in order. */
export function casesOf(folder: string): string[] {
  return readdirSync(folder)
    .filter((name) => name.endsWith(".safetensors"))
    .sort();
}

/** One case. Whatever goes wrong is a failure with a reason, never an exception. */
export function runCase(path: string, precision: Precision): CaseResult {
  const name = basename(path, ".safetensors");
  let operation = "unknown";
  try {
    return scope(() => {
      using file = openSafetensors(path);
      const given = file.metadata.op;
      if (given === undefined) return skip(name, operation, "the file names no op");
      operation = String(JSON.parse(given));
      const run = operations[operation];
      if (!run) return skip(name, operation, `no such op is known: ${operation}`);
      if (precision === "bf16" && operation === "optim") {
        return skip(name, operation, "optimisers keep their state in f32: there is no bf16 bar");
      }
      const rows = run(file, precision);
      return { name, operation, outcome: passed(rows) ? "passed" : "failed", rows } as const;
    });
  } catch (error) {
    const reason = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
    return { name, operation, outcome: "failed", rows: [], reason };
  }
}

function skip(name: string, operation: string, reason: string): CaseResult {
  return { name, operation, outcome: "skipped", rows: [], reason };
}

/** Every case of a folder. */
export function* runFolder(folder: string, precision: Precision): Generator<CaseResult> {
  for (const name of casesOf(folder)) yield runCase(join(folder, name), precision);
}
