// Benchmarks of the GPU backend: which parts there are, and what they were measured on.

import { gpuFacts } from "../native/gpu.ts";
import { cellCases } from "./gpu_cells.ts";
import {
  type FailedRow,
  fullPace,
  type GpuCeilings,
  gpuCeilings,
  type GpuRow,
  quickPace,
  rowOf,
  timeCase,
} from "./gpu_measure.ts";
import { decodeRows, trainingRows } from "./gpu_models.ts";
import { fullSizes, operationCases, quickSizes } from "./gpu_ops.ts";

export type { FailedRow, GpuRow } from "./gpu_measure.ts";

export const gpuParts = ["ceilings", "ops", "cells", "train", "decode"] as const;
export type GpuPart = (typeof gpuParts)[number];
/** A row and the part of the run that it belongs to. */
export type PartRow = (GpuRow | FailedRow) & { readonly part: GpuPart };

export interface GpuBench {
  readonly header: Readonly<Record<string, string | number | boolean>>;
  /** Measures as it is walked, part by part. */
  readonly rows: Iterable<PartRow>;
}

/** Measures the ceilings now; everything else when `rows` is walked. Uses the default device. */
export function gpuBench(only: GpuPart | "all", quick: boolean): GpuBench {
  const pace = quick ? quickPace : fullPace;
  const before = clocks();
  const shared = bytesOfOthers() > 2e9;
  const ceilings = gpuCeilings(pace, quick);
  const { name, driver, capability, multiprocessors, cublasLt, emulated } = gpuFacts();
  const header = {
    gpu: name,
    driver,
    capability,
    multiprocessors,
    cublasLt: cublasLt || "none: products are slow",
    emulated,
    shared,
    clocks: before,
    quick,
    matmulTflops: ceilings.tflops,
    copyGBps: ceilings.gbps,
  };
  const parts: Record<GpuPart, () => Iterable<GpuRow | FailedRow>> = {
    ceilings: () => ceilingRows(ceilings, quick),
    ops: () => casesOf(operationCases(quick ? quickSizes : fullSizes)),
    cells: () => casesOf(cellCases(quick)),
    train: () => trainingRows(ceilings, pace, quick),
    decode: () => decodeRows(ceilings, pace, quick),
  };
  function* casesOf(cases: ReturnType<typeof operationCases>) {
    for (const one of cases) yield timeCase(one, ceilings, pace);
  }
  function* rows(): Generator<PartRow> {
    for (const part of gpuParts) {
      if (only !== "all" && only !== part) continue;
      for (const row of parts[part]()) yield { part, ...row };
    }
  }
  return { header, rows: { [Symbol.iterator]: rows } };
}

function* ceilingRows(ceilings: GpuCeilings, quick: boolean): Generator<GpuRow> {
  const size = quick ? 64 : 8192;
  const product = { bytes: 6 * size ** 2, flops: 2 * size ** 3 };
  yield rowOf(`matmul bf16 ${size}^3`, product, ceilings.matmul, ceilings);
  const bytes = ceilings.gbps * ceilings.copy.milliseconds * 1e6;
  yield rowOf(`copy, read + written`, { bytes, flops: 0 }, ceilings.copy, ceilings);
}

/** Device memory that is neither ours nor free: another process, and the driver's own. */
function bytesOfOthers(): number {
  const { totalBytes, freeBytes, liveBytes, cachedBytes } = gpuFacts();
  return totalBytes - freeBytes - liveBytes - cachedBytes;
}

/** Clocks, temperature and power limit now, where the driver's own tool can say. */
export function clocks(): string {
  const fields = "clocks.sm,clocks.mem,temperature.gpu,power.limit,driver_version";
  const gpu = process.env["XL_GPU"] ?? "0";
  try {
    const { stdout, exitCode } = Bun.spawnSync([
      "nvidia-smi",
      `--id=${gpu}`,
      `--query-gpu=${fields}`,
      "--format=csv,noheader",
    ]);
    return exitCode === 0 ? stdout.toString().trim() : "unknown";
  } catch {
    return "unknown: nvidia-smi is not there";
  }
}
