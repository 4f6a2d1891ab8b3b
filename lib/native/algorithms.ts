// Choices of cuBLASLt's algorithms on disk: one file for each kind of GPU and version of the
// library. Timing is done once; afterwards every run multiplies in the same way, bit for bit.
//
//   ~/.cache/xlstm/cublaslt-130101-NVIDIA_H100_80GB_HBM3.txt
//
// `XL_CACHE` names another folder, or none when empty; `XL_TUNE=0` takes the library's own first
// proposal for every shape. Lines are those of native/src/cuda/cublaslt_choice.zig.

import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { check, native, scratch } from "./library.ts";

/** Where the choices for a GPU lie; undefined without a cache. */
export function algorithmFile(gpu: string, version: number): string | undefined {
  const { XL_CACHE, XDG_CACHE_HOME } = process.env;
  const folder = XL_CACHE ?? join(XDG_CACHE_HOME || join(homedir(), ".cache"), "xlstm");
  if (!folder) return undefined;
  return join(folder, `cublaslt-${version}-${gpu.replace(/[^A-Za-z0-9.-]+/g, "_")}.txt`);
}

/** Starts with the choices of `path`, makes those that are missing, and keeps them at the end. */
export function keepAlgorithms(path: string | undefined): void {
  if (process.env["XL_TUNE"] === "0") return;
  importAlgorithms(path ? linesOf(path) : []);
  if (path) process.once("exit", () => saveAlgorithms(path));
}

/** Adds this process's choices to those of `path`. A cache that cannot be written is none. */
export function saveAlgorithms(path: string): void {
  const made = exportAlgorithms();
  if (made.length === 0) return;
  const lines = new Map([...linesOf(path), ...made].map((line) => [line.split("=")[0]!, line]));
  const temporary = `${path}.${process.pid}`;
  try {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(temporary, [...lines.values(), ""].join("\n"));
    // At once: another process may be reading.
    renameSync(temporary, path);
  } catch {
    return;
  }
}

function linesOf(path: string): string[] {
  try {
    return readFileSync(path, "utf8").split("\n").filter(Boolean);
  } catch {
    return [];
  }
}

/** Hands choices over, as many at a time as the scratch block takes, and turns timing on. */
export function importAlgorithms(lines: readonly string[]): void {
  const { text } = scratch();
  const encoder = new TextEncoder();
  let bytes = 0;
  const flush = () => {
    check(native().xl_import_algorithms(bytes, 1), "cuBLASLt");
    bytes = 0;
  };
  for (const line of lines) {
    const encoded = encoder.encode(`${line}\n`);
    if (encoded.length > text.length) continue;
    if (bytes + encoded.length > text.length) flush();
    text.set(encoded, bytes);
    bytes += encoded.length;
  }
  flush();
}

/** The choices that this process has made. */
export function exportAlgorithms(): string[] {
  const lines: string[] = [];
  for (;;) {
    check(native().xl_export_algorithms(lines.length), "cuBLASLt");
    const { numbers, text } = scratch();
    const [bytes, count] = numbers;
    if (count === 0) return lines;
    lines.push(...new TextDecoder().decode(text.slice(0, bytes)).split("\n").filter(Boolean));
  }
}
