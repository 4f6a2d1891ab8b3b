// Sets of safetensors files that belong together through `model.safetensors.index.json`
// (reliability.md §9.1): plain file names only, every tensor in exactly one file, and the index
// agrees with the headers.

import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import type { DType } from "../tensor/dtype.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { CheckpointError, messageOf } from "./errors.ts";
import { openSafetensors, type TensorEntry, type TensorFile } from "./safetensors.ts";

const indexName = "model.safetensors.index.json";
const maxIndexBytes = 100_000_000;

/**
 * Opens a `.safetensors` file, an index, or a directory with `model.safetensors.index.json`,
 * `model.safetensors` or exactly one other safetensors file.
 */
export function openCheckpointFiles(path: string): TensorFile {
  if (!existsSync(path)) throw new CheckpointError({ path }, "does not exist");
  if (statSync(path).isDirectory()) return openDirectory(path);
  return path.endsWith(".json") ? openIndex(path) : openSafetensors(path);
}

function openDirectory(directory: string): TensorFile {
  const names = readdirSync(directory);
  if (names.includes(indexName)) return openIndex(join(directory, indexName));
  if (names.includes("model.safetensors")) {
    return openSafetensors(join(directory, "model.safetensors"));
  }
  const found = names.filter((name) => name.endsWith(".safetensors"));
  if (found.length === 1) return openSafetensors(join(directory, found[0]!));
  const reason =
    found.length === 0
      ? "has no .safetensors file"
      : `has ${found.length} .safetensors files and no ${indexName}; name one of them`;
  throw new CheckpointError({ path: directory }, reason);
}

function openIndex(path: string): TensorFile {
  const byFile = Map.groupBy(readIndex(path), ([, file]) => file);
  const opened: TensorFile[] = [];
  try {
    for (const [file, members] of byFile) {
      const shard = openSafetensors(join(dirname(path), file));
      opened.push(shard);
      checkAgreement(path, file, shard, new Set(members.map(([name]) => name)));
    }
    return new ShardedFiles(path, opened);
  } catch (error) {
    for (const file of opened) file.close();
    throw error;
  }
}

/** Pairs of tensor name and file name. */
function readIndex(path: string): [string, string][] {
  const { size } = statSync(path);
  if (size > maxIndexBytes) {
    const sizes = `${size} bytes, at most ${maxIndexBytes} are allowed`;
    throw new CheckpointError({ path }, `the index has ${sizes}`);
  }
  let index: unknown;
  try {
    const bytes = readFileSync(path);
    index = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    throw new CheckpointError({ path }, `is not JSON: ${messageOf(error)}`, error);
  }
  const map = isObject(index) ? index.weight_map : undefined;
  if (!isObject(map)) throw new CheckpointError({ path }, "has no object weight_map");
  return Object.entries(map).map(([name, file]) => {
    if (typeof file === "string" && isPlainName(file)) return [name, file];
    const reason = `weight_map names the file ${JSON.stringify(file)}; expected a plain file name`;
    throw new CheckpointError({ path, tensor: name }, reason);
  });
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isPlainName(name: string): boolean {
  return /^[A-Za-z0-9._-]+$/.test(name) && name !== "." && name !== "..";
}

function checkAgreement(
  path: string,
  file: string,
  shard: TensorFile,
  expected: ReadonlySet<string>,
): void {
  for (const name of expected) {
    if (shard.has(name)) continue;
    throw new CheckpointError({ path, tensor: name }, `the index puts it into ${file}, not there`);
  }
  for (const name of shard.names) {
    if (expected.has(name)) continue;
    throw new CheckpointError({ path, tensor: name }, `${file} has it, the index does not say so`);
  }
}

class ShardedFiles implements TensorFile {
  readonly path: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly #files: readonly TensorFile[];
  readonly #owners = new Map<string, TensorFile>();

  constructor(path: string, files: readonly TensorFile[]) {
    this.path = path;
    this.#files = files;
    for (const file of files) for (const name of file.names) this.#owners.set(name, file);
    this.metadata = Object.fromEntries(files.flatMap((file) => Object.entries(file.metadata)));
  }

  get names(): readonly string[] {
    return [...this.#owners.keys()];
  }

  has(name: string): boolean {
    return this.#owners.has(name);
  }

  entry(name: string): TensorEntry {
    return this.#owner(name).entry(name);
  }

  load(name: string, dtype?: DType): Tensor {
    return this.#owner(name).load(name, dtype);
  }

  #owner(name: string): TensorFile {
    const owner = this.#owners.get(name);
    if (owner) return owner;
    const damage = { path: this.path, tensor: name };
    throw new CheckpointError(damage, `is in none of the ${this.#files.length} files`);
  }

  close(): void {
    for (const file of this.#files) file.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
