// The GPU of the tests: a real one where there is one, else the emulator, which runs the same
// kernels on the host. `XL_CUDA_DRIVER` names another driver.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { gpuFacts } from "../../lib/native/gpu.ts";
import { configure } from "../../lib/native/library.ts";
import { onDevice } from "../../lib/tensor/index.ts";

export const emulator = join(import.meta.dir, "../../native/zig-out/lib/libxl_emulator.so");

/** Whether this machine has an NVIDIA GPU. */
export const isReal = existsSync("/dev/nvidia0") && !process.env["XL_CUDA_DRIVER"];

if (!isReal && !process.env["XL_CUDA_DRIVER"]) configure({ cudaDriver: emulator });

/** Facts of the GPU; opens it. */
export const gpu = gpuFacts();

/** Runs `body` with tensors made on the GPU. */
export function onGpu<T>(body: () => T): T {
  return onDevice("cuda", body);
}
