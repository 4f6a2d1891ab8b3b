// Models that are split over GPUs: two real ones talk through NCCL; emulated ones, of which there
// are as many as ranks, through shared memory.

import { test } from "bun:test";
import { existsSync } from "node:fs";
import { emulator } from "../helpers/gpu.ts";
import type { ParallelName } from "../helpers/parallel_cases.ts";
import { expectParity } from "../helpers/parallel_parity.ts";

const hasTwo = existsSync("/dev/nvidia1") && !process.env["XL_CUDA_DRIVER"];
const env: Record<string, string> = hasTwo
  ? {}
  : { XL_CUDA_DRIVER: process.env["XL_CUDA_DRIVER"] ?? emulator, XL_NCCL: "" };
const names: ParallelName[] = ["v1", "paper", "mixed", "tied embeddings", "dropout"];

test.each([
  ["f32", 1e-4],
  ["bf16", 0.15],
] as const)(
  "%s on two GPUs",
  async (dtype, bar) => {
    for (const options of [{}, { residual: "replicated", recompute: "block" }] as const) {
      await expectParity(2, { names, options, device: "cuda", dtype }, { bar, env });
    }
  },
  120_000,
);
