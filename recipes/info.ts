// What this installation consists of, for bug reports.
//
//   bun run info

import { existsSync, statSync } from "node:fs";
import { availableParallelism, cpus, release, totalmem } from "node:os";
import manifest from "../package.json" with { type: "json" };
import { gpuFacts } from "../lib/native/gpu.ts";
import { libraryPaths, nativeFacts } from "../lib/native/library.ts";
import { openNccl } from "../lib/native/nccl.ts";

const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
const path = libraryPaths().find((candidate) => existsSync(candidate));

const facts: Record<string, string> = {
  xlstm: manifest.version,
  bun: `${Bun.version} (pinned ${manifest.devDependencies.bun})`,
  system: `Linux ${release()}, ${gib(totalmem())} of memory`,
  processor: `${cpus()[0]?.model ?? "unknown"}, ${availableParallelism()} threads`,
  library: path
    ? `${path} (${(statSync(path).size / 1e6).toFixed(1)} MB)`
    : `not built; looked for ${libraryPaths().join(", ")}; run \`bun run build:native\``,
  ...(path ? nativeLines() : {}),
  ...(path ? { gpu: gpuLine() } : {}),
  ...(path ? { nccl: ncclLine() } : {}),
};

const width = Math.max(...Object.keys(facts).map((name) => name.length));
for (const [name, value] of Object.entries(facts)) console.log(`${name.padEnd(width)}  ${value}`);

/** The GPU, or why there is none that can be used. */
function gpuLine(): string {
  try {
    const gpu = gpuFacts();
    const version = gpu.cublasLt > 0 ? `cuBLASLt ${gpu.cublasLt}` : "no cuBLASLt";
    const memory = `${gib(gpu.freeBytes)} of ${gib(gpu.totalBytes)} free`;
    return `${gpu.name}, sm_${gpu.capability}, ${memory}, driver CUDA ${gpu.driver}, ${version}`;
  } catch (error) {
    return `none: ${error instanceof Error ? error.message : String(error)}`;
  }
}

/** NCCL, which groups of several GPUs need, or where it was looked for. */
function ncclLine(): string {
  try {
    const { path, version } = openNccl();
    return `${version} (${path})`;
  } catch (error) {
    return `none: ${error instanceof Error ? error.message : String(error)}`;
  }
}

function nativeLines(): Record<string, string> {
  try {
    const { level, lanes, threads, mode, cuda, abi } = nativeFacts();
    return {
      kernels: `${level} (${lanes} lanes of f32), ${threads} threads, built ${mode}`,
      cuda: cuda ? "built with CUDA kernels" : "built without CUDA kernels",
      abi: String(abi),
    };
  } catch (error) {
    return { kernels: `unusable: ${error instanceof Error ? error.message : String(error)}` };
  }
}
