// Streaming writer of safetensors files (reliability.md §9.1): the bytes of one piece of one tensor
// are in memory at a time, and a file appears under its name complete or not at all.

import { dirname } from "node:path";
import { type DType, dtypeBytes } from "../tensor/dtype.ts";
import { CheckpointError, messageOf } from "./errors.ts";
import { type Files, quietly, systemFiles, writeDurably } from "./files.ts";
import { blockHashes, hashPieces, PieceHash, pieces } from "./hash.ts";

/** What the writer needs of a tensor; `Tensor` fits. */
export interface TensorBytes {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly byteLength: number;
  bytesSync(offset: number, length: number): Uint8Array;
}

/** Where a tensor lies in a written file. */
export interface StoredTensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** Position of the first byte in the file. */
  readonly offset: number;
  readonly bytes: number;
  /** XXH3-64 of the bytes, chained over pieces of 64 MiB. */
  readonly hash: string;
  /** XXH3-64 of every block of 1 MiB. */
  readonly blocks: readonly string[];
}

/** What was written. */
export interface StoredFile {
  readonly bytes: number;
  /** Length and hash of everything before the data. */
  readonly headerBytes: number;
  readonly headerHash: string;
  readonly tensors: ReadonlyMap<string, StoredTensor>;
}

export const typeNames: Record<DType, string> = {
  f32: "F32",
  bf16: "BF16",
  f16: "F16",
  f64: "F64",
  i32: "I32",
  u8: "U8",
};

/** The format's limit on headers; readers refuse larger ones. */
const maxHeaderBytes = 100_000_000;

/**
 * Writes tensors to `path` in the order (element width descending, name). The bytes go to a
 * temporary file in the same folder first; on any error that file is removed, an old file of the
 * name stays as it was, and a CheckpointError is thrown.
 */
export function saveSafetensors(
  path: string,
  tensors: Iterable<readonly [string, TensorBytes]>,
  metadata: Readonly<Record<string, string>> = {},
  files: Files = systemFiles,
): StoredFile {
  const sorted = sortedTensors(path, tensors);
  const header = encodeHeader(path, sorted, metadata);
  const temporary = `${path}.tmp-${crypto.randomUUID()}`;
  let renamed = false;
  try {
    const stored = new Map<string, StoredTensor>();
    let offset = header.length;
    writeDurably(files, temporary, (write) => {
      write(header);
      for (const [name, tensor] of sorted) {
        const { dtype, shape, byteLength: bytes } = tensor;
        const hashes = writeData(tensor, write);
        stored.set(name, { dtype, shape: [...shape], offset, bytes, ...hashes });
        offset += bytes;
      }
    });
    files.rename(temporary, path);
    renamed = true;
    files.syncDirectory(dirname(path));
    const headerHash = hashPieces(header.length, (from, n) => header.subarray(from, from + n));
    return { bytes: offset, headerBytes: header.length, headerHash, tensors: stored };
  } catch (error) {
    if (!renamed) quietly(() => files.remove(temporary));
    throw new CheckpointError({ path }, `could not be written: ${messageOf(error)}`, error);
  }
}

/** The bytes of a tensor, piece by piece; returns their hashes. */
function writeData(tensor: TensorBytes, write: (bytes: Uint8Array) => void) {
  const hash = new PieceHash();
  const blocks: string[] = [];
  const read = (from: number, length: number) => tensor.bytesSync(from, length);
  for (const piece of pieces(tensor.byteLength, read)) {
    hash.update(piece);
    blocks.push(...blockHashes(piece));
    write(piece);
  }
  return { hash: hash.digest(), blocks };
}

function sortedTensors(path: string, tensors: Iterable<readonly [string, TensorBytes]>) {
  const sorted = [...tensors];
  const names = new Set<string>();
  for (const [name, tensor] of sorted) {
    const damage = { path, tensor: name };
    const fault = nameFault(name) ?? (names.has(name) ? "the name is there twice" : undefined);
    if (fault) throw new CheckpointError(damage, fault);
    names.add(name);
    const elements = tensor.shape.reduce((product, size) => product * size, 1);
    const expected = elements * dtypeBytes(tensor.dtype);
    if (tensor.byteLength !== expected) {
      const text = `has ${tensor.byteLength} bytes, expected ${expected} for its shape and dtype`;
      throw new CheckpointError(damage, text);
    }
  }
  return sorted.sort(([a, x], [b, y]) => {
    const width = dtypeBytes(y.dtype) - dtypeBytes(x.dtype);
    return width !== 0 ? width : a < b ? -1 : 1;
  });
}

/** Why readers would refuse this name; undefined for a good one. */
function nameFault(name: string): string | undefined {
  const bytes = new TextEncoder().encode(name).length;
  if (bytes < 1 || bytes > 1024) return `the name has ${bytes} bytes, expected 1 to 1024`;
  if (!name.isWellFormed()) return "the name has a lone surrogate";
  if (/\p{Cc}/u.test(name)) return "the name has a control character";
  if (name === "__proto__" || name === "__metadata__") return "the name is reserved";
  return undefined;
}

function encodeHeader(
  path: string,
  tensors: readonly (readonly [string, TensorBytes])[],
  metadata: Readonly<Record<string, string>>,
): Uint8Array {
  // Put together by hand: an object would reorder names that look like numbers.
  const members: string[] = [];
  for (const [key, value] of Object.entries(metadata)) {
    if (typeof value === "string" && value.isWellFormed() && key.isWellFormed()) continue;
    throw new CheckpointError({ path }, `metadata ${JSON.stringify(key)} is not a proper string`);
  }
  if (Object.keys(metadata).length > 0) members.push(`"__metadata__":${JSON.stringify(metadata)}`);
  let begin = 0;
  for (const [name, { dtype, shape, byteLength }] of tensors) {
    const end = begin + byteLength;
    const entry = { dtype: typeNames[dtype], shape, data_offsets: [begin, end] };
    members.push(`${JSON.stringify(name)}:${JSON.stringify(entry)}`);
    begin = end;
  }
  const text = new TextEncoder().encode(`{${members.join(",")}}`);
  const length = Math.ceil(text.length / 8) * 8;
  if (length > maxHeaderBytes) {
    const sizes = `${length} bytes, at most ${maxHeaderBytes} are allowed`;
    throw new CheckpointError({ path }, `the header would have ${sizes}; use several files`);
  }
  const header = new Uint8Array(8 + length).fill(0x20);
  new DataView(header.buffer).setBigUint64(0, BigInt(length), true);
  header.set(text, 8);
  return header;
}
