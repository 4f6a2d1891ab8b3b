// The one door to native code: loads the library at the first call, maps its scratch block and
// turns
// statuses into errors. Nothing else imports bun:ffi.
//
//   const y = native().xl_copy(x.id, -1)   // status; results lie in the scratch block

import { dlopen, type Pointer, toArrayBuffer } from "bun:ffi";
import { existsSync, readdirSync } from "node:fs";
import { availableParallelism } from "node:os";
import { LibraryError, NativeError } from "./errors.ts";
import { abiHash, symbols } from "./symbols.ts";
import { timed, traced, type Timings } from "./trace.ts";

type Argument = number | Pointer | NodeJS.TypedArray | null;
/** The exported functions; every one but the first few returns a status. */
export type Symbols = {
  readonly [K in keyof typeof symbols]: (...args: Argument[]) => number;
};

export interface NativeOptions {
  /** Threads including the caller; 0 = one per core. `XL_THREADS`. */
  threads?: number;
  /** Instruction-set level of the CPU kernels; default: the best there is. `XL_CPU_LEVEL`. */
  level?: "plain" | "avx2" | "avx512";
  /** Path of the library. `XL_LIBRARY`. */
  path?: string;
  /**
   * CBLAS library for plain f32 products: a path, or "auto" for the first one found. Default: none;
   * the in-tree product has the same bits for every number of threads. `XL_BLAS`.
   */
  blas?: string;
  /** Which GPU of this machine. `XL_GPU`. Default: 0. */
  gpu?: number;
  /** Path of the CUDA driver. `XL_CUDA_DRIVER`. Default: libcuda.so.1. */
  cudaDriver?: string;
  /** Path of cuBLASLt. `XL_CUBLASLT`. Default: searched for. */
  cublasLt?: string;
  /** Path of NCCL. `XL_NCCL`. Default: searched for. */
  nccl?: string;
}

const levels = ["plain", "avx2", "avx512"] as const;
export const options: NativeOptions = {};
let loaded: Symbols | undefined;
let views: Scratch | undefined;

/** Typed views of the scratch block (`native/src/abi/scratch.zig`). */
export interface Scratch {
  /** 16 records of 16 integers: handle, dtype, rank, device, shape[8]. */
  readonly outputs: Int32Array;
  readonly outputCount: Int32Array;
  readonly numbers: Float64Array;
  readonly ints: Int32Array;
  readonly floats: Float64Array;
  readonly text: Uint8Array;
}

/** Sets options before (or, for threads and level, after) the library is loaded. */
export function configure(changes: NativeOptions): void {
  Object.assign(options, changes);
  if (loaded) start(loaded);
}

/** The native functions; loads the library when it is not loaded yet. */
export function native(): Symbols {
  return loaded ?? load();
}

/** The scratch block; loads the library when it is not loaded yet. */
export function scratch(): Scratch {
  if (!views) load();
  return views!;
}

/** Where the library is looked for, in order. */
export function libraryPaths(): string[] {
  const root = new URL("../../", import.meta.url).pathname;
  const chosen = options.path ?? process.env.XL_LIBRARY;
  return chosen ? [chosen] : [`${root}native/zig-out/lib/libxl.so`, `${root}libxl.so`];
}

/** Runs `body` with every native call timed: where a step spends its time. */
export function withTimings<T>(body: () => T): { result: T; timings: Timings } {
  const table = native();
  const timings: Timings = new Map();
  loaded = timed(table, timings);
  try {
    return { result: body(), timings };
  } finally {
    loaded = table;
  }
}

/** Throws the recorded error of a failed call. */
export function check(status: number, operation: string): void {
  if (status !== 0) throw new NativeError(status, operation, lastError());
}

/** Wraps a native address in an ArrayBuffer whose collection runs the deallocator. */
export function claim(address: number, bytes: number): ArrayBuffer {
  deallocator ??= native().xl_deallocator() as unknown as Pointer;
  const wrap = toArrayBuffer as (...args: [Pointer, number, number, Pointer]) => ArrayBuffer;
  return wrap(address as Pointer, 0, Math.min(Math.max(bytes, 1), 2 ** 32), deallocator);
}

let deallocator: Pointer | undefined;

/** The text of the last failure on this thread. */
export function lastError(): string {
  return String(native().xl_last_error());
}

function load(): Symbols {
  const paths = libraryPaths();
  const path = paths.find((candidate) => existsSync(candidate));
  if (!path) {
    throw new LibraryError(
      `the native library is not built; looked for ${paths.join(", ")}. ` +
        "Run `bun run build:native`.",
    );
  }
  const table = open(path);
  const hash = table.xl_abi_hash();
  if (hash !== abiHash) {
    throw new LibraryError(
      `${path} has ABI ${hash}, these sources expect ${abiHash}. Run \`bun run build:native\`.`,
    );
  }
  const address = table.xl_scratch() as unknown as Pointer;
  const block = toArrayBuffer(address, 0, 8192);
  views = {
    outputs: new Int32Array(block, 0, 256),
    numbers: new Float64Array(block, 1024, 64),
    outputCount: new Int32Array(block, 1536, 1),
    ints: new Int32Array(block, 2048, 512),
    floats: new Float64Array(block, 4096, 128),
    text: new Uint8Array(block, 5120, 3072),
  };
  loaded = table;
  start(table);
  return table;
}

function open(path: string): Symbols {
  try {
    return traced(dlopen(path, symbols).symbols as unknown as Symbols);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new LibraryError(`cannot load ${path}: ${reason}. Run \`bun run build:native\`.`);
  }
}

function start(table: Symbols): void {
  const threads = options.threads ?? Number(process.env.XL_THREADS ?? 0);
  const wanted = options.level ?? process.env.XL_CPU_LEVEL;
  const level = wanted ? levels.indexOf(wanted as (typeof levels)[number]) : -1;
  if (wanted && level < 0) {
    throw new LibraryError(`XL_CPU_LEVEL: ${wanted} is not one of ${levels.join(", ")}`);
  }
  const count = threads === 0 ? availableParallelism() : threads;
  const status = table.xl_start(count, level);
  if (status !== 0) throw new NativeError(status, "start", String(table.xl_last_error()));
  const blas = options.blas ?? process.env.XL_BLAS;
  if (blas) chooseBlas(blas === "auto" ? blasPaths() : [blas]);
}

/** Where a CBLAS library may lie, first found first. */
export function blasPaths(): string[] {
  const tools = new URL("../../.tools/", import.meta.url).pathname;
  const wheels = existsSync(tools)
    ? readdirSync(tools).filter((name) => /openblas/.test(name))
    : [];
  const own = wheels
    .map((name) => `${tools}${name}/scipy_openblas32/lib/libscipy_openblas.so`)
    .filter((path) => existsSync(path));
  return [...own, "libopenblas.so.0", "libblis.so.4", "libmkl_rt.so.2"];
}

/**
 * Makes the first library that opens and passes the self-check multiply plain f32 matrices; an
 * empty list goes back to the in-tree product. Without any the in-tree product stays, with a
 * warning.
 */
export function chooseBlas(paths: readonly string[]): string | undefined {
  const tried: string[] = [];
  for (const path of paths.length > 0 ? paths : [""]) {
    const bytes = new TextEncoder().encode(path);
    scratch().text.set(bytes);
    if (native().xl_use_blas(bytes.length) === 0) return path || undefined;
    tried.push(lastError());
  }
  process.emitWarning(`no BLAS is used: ${tried.join("; ")}. The in-tree product stays.`);
  return undefined;
}

/** What the loaded library is and runs with. */
export interface NativeFacts {
  readonly level: "plain" | "avx2" | "avx512";
  /** f32 lanes of a vector register at that level. */
  readonly lanes: number;
  readonly threads: number;
  readonly mode: string;
  readonly cuda: boolean;
  readonly abi: number;
}

export function nativeFacts(): NativeFacts {
  check(native().xl_memory(), "info");
  const numbers = scratch().numbers;
  return {
    level: levels[numbers[6]!]!,
    lanes: numbers[7]!,
    threads: numbers[5]!,
    mode: ["debug", "safe", "fast", "small"][numbers[8]!] ?? "unknown",
    cuda: numbers[9] === 1,
    abi: abiHash,
  };
}
