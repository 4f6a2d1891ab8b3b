// NCCL: opened when a group of several GPUs is made, never before.

import { NativeError } from "./errors.ts";
import { putText, wheelLibraries } from "./gpu.ts";
import { lastError, native, options, scratch } from "./library.ts";
import { Status } from "./symbols.ts";

/** The NCCL library that was opened. */
export interface NcclLibrary {
  readonly path: string;
  /** `2.28.9`. */
  readonly version: string;
}

let opened: NcclLibrary | undefined;

/** Opens NCCL. NativeError, in the loader's words, when it is nowhere. */
export function openNccl(): NcclLibrary {
  if (opened) return opened;
  const tried: string[] = [];
  for (const path of ncclPaths()) {
    if (native().xl_comm_nccl_library(putText(path)) === 0) {
      opened = { path, version: versionText(scratch().numbers[0]!) };
      return opened;
    }
    tried.push(lastError());
  }
  throw new NativeError(
    Status.library_missing,
    "nccl",
    `several GPUs work together through NCCL, which is not found: ${tried.join("; ")}. Install ` +
      "it (pip install nvidia-nccl-cu13), or name libnccl.so.2 in XL_NCCL.",
  );
}

/** Whether somebody has named a library: then even an emulated GPU takes it. */
export function isNcclChosen(): boolean {
  return Boolean(options.nccl ?? process.env["XL_NCCL"]);
}

/** Where NCCL may lie, first found first. */
export function ncclPaths(): string[] {
  const chosen = options.nccl ?? process.env["XL_NCCL"];
  return chosen ? [chosen] : ["libnccl.so.2", ...wheelLibraries("nvidia/nccl/lib/libnccl.so.2")];
}

/** 22809 → `2.28.9`. */
function versionText(number: number): string {
  return [number / 10_000, (number / 100) % 100, number % 100].map(Math.floor).join(".");
}
