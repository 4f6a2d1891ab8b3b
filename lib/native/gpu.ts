// The GPU: opened at the first call that wants it, through the driver that is installed.

import { existsSync, readdirSync } from "node:fs";
import { algorithmFile, keepAlgorithms } from "./algorithms.ts";
import { NativeError } from "./errors.ts";
import { check, lastError, native, options, scratch } from "./library.ts";
import { Status } from "./symbols.ts";

/** What the opened GPU is and holds. */
export interface GpuFacts {
  readonly name: string;
  /** 13.0 for a driver of CUDA 13.0. */
  readonly driver: string;
  /** 90 for compute capability 9.0. */
  readonly capability: number;
  readonly multiprocessors: number;
  readonly totalBytes: number;
  readonly freeBytes: number;
  /** Device memory of live tensors, and the most there has been. */
  readonly liveBytes: number;
  readonly peakBytes: number;
  readonly cachedBytes: number;
  /** Kernels launched so far. */
  readonly launches: number;
  /** Whether this is the emulator of the tests. */
  readonly emulated: boolean;
  /** cuBLASLt's version number, 0 without it. */
  readonly cublasLt: number;
}

/** A GPU was asked for and none can be used. `message` says why, and the way out. */
export class GpuError extends NativeError {
  override readonly name = "GpuError";
  /** A wrong setting, for recipes. */
  readonly exitCode = 64;

  constructor(status: number, reason: string) {
    const text = reason.replace(/^CUDA: /, "no GPU can be used: ");
    super(status, "device", text.includes("device=cpu") ? text : `${text}; use device=cpu`);
  }
}

let opened = false;

/** Opens the GPU. GpuError, in the driver's words, when there is none that can be used. */
export function openGpu(): void {
  if (opened) return;
  const driver = options.cudaDriver ?? process.env["XL_CUDA_DRIVER"] ?? "libcuda.so.1";
  const synchronous = process.env["XL_SYNC"] === "1" ? 1 : 0;
  const status = native().xl_open_device(putText(driver), ordinalOf(), synchronous);
  if (status !== 0) throw new GpuError(status, lastError());
  opened = true;
  if (!gpuFacts().emulated) openCublasLt();
}

function ordinalOf(): number {
  const given = options.gpu ?? process.env["XL_GPU"] ?? 0;
  const ordinal = Number(given);
  if (Number.isInteger(ordinal) && ordinal >= 0 && ordinal < 2 ** 31) return ordinal;
  const reason = `the GPU is "${given}": expected a number from 0 (gpu, XL_GPU)`;
  throw new GpuError(Status.invalid_argument, reason);
}

/**
 * Whether a GPU can be used here; opens it if so. Where the machine has one that cannot be used, a
 * warning says why.
 */
export function hasGpu(): boolean {
  try {
    openGpu();
    return true;
  } catch (error) {
    if (existsSync("/dev/nvidia0")) warnOnce(`the GPU is not used: ${error}`);
    return false;
  }
}

const warned = new Set<string>();

function warnOnce(text: string): void {
  if (!warned.has(text)) process.emitWarning(text);
  warned.add(text);
}

/** Facts and memory of the GPU; opens it. */
export function gpuFacts(): GpuFacts {
  openGpu();
  check(native().xl_device_facts(), "device");
  const { numbers, text } = scratch();
  const version = numbers[1]!;
  return {
    name: new TextDecoder().decode(text.slice(0, numbers[0]!)),
    driver: `${Math.floor(version / 1000)}.${Math.floor((version % 1000) / 10)}`,
    capability: numbers[2]!,
    multiprocessors: numbers[3]!,
    totalBytes: numbers[4]!,
    freeBytes: numbers[5]!,
    liveBytes: numbers[6]!,
    peakBytes: numbers[7]!,
    cachedBytes: numbers[8]!,
    launches: numbers[9]!,
    emulated: numbers[10] === 1,
    cublasLt: numbers[11]!,
  };
}

/** Without the library our own matrix product works, many times slower: say so. */
function openCublasLt(): void {
  const tried: string[] = [];
  for (const path of cublasLtPaths()) {
    if (native().xl_use_cublaslt(putText(path)) === 0) {
      const { name, cublasLt } = gpuFacts();
      return keepAlgorithms(algorithmFile(name, cublasLt));
    }
    tried.push(lastError());
  }
  process.emitWarning(
    `cuBLASLt is not found: ${tried.join("; ")}. Matrix products will be slow; install CUDA 13's ` +
      "libcublasLt (pip install nvidia-cublas), or name it in XL_CUBLASLT.",
  );
}

/** Where cuBLASLt may lie, first found first. */
export function cublasLtPaths(): string[] {
  const chosen = options.cublasLt ?? process.env["XL_CUBLASLT"];
  if (chosen) return [chosen];
  const inWheels = wheelLibraries("nvidia/cu13/lib/libcublasLt.so.13");
  return ["libcublasLt.so.13", "/usr/local/cuda/lib64/libcublasLt.so.13", ...inWheels];
}

/** Libraries of this name in Python packages, which NVIDIA publishes them in. */
export function wheelLibraries(name: string): string[] {
  const prefixes = ["/usr/local/lib", "/usr/lib", process.env["VIRTUAL_ENV"] ?? ""];
  return prefixes
    .filter(Boolean)
    .flatMap((prefix) => sitePackages(prefix))
    .map((folder) => `${folder}/${name}`)
    .filter((path) => existsSync(path));
}

function sitePackages(prefix: string): string[] {
  const lib = prefix.endsWith("/lib") ? prefix : `${prefix}/lib`;
  const pythons = existsSync(lib) ? readdirSync(lib).filter((name) => /^python3/.test(name)) : [];
  return pythons.flatMap((name) => [
    `${lib}/${name}/site-packages`,
    `${lib}/${name}/dist-packages`,
  ]);
}

/** Writes a text into the scratch block; returns its bytes. */
export function putText(text: string): number {
  const bytes = new TextEncoder().encode(text);
  scratch().text.set(bytes);
  return bytes.length;
}
