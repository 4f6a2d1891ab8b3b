// Is a committed checkpoint what its manifest says? Reads every byte that the manifest covers
// (reliability.md §2).

import { join } from "node:path";
import { dtypeBytes } from "../tensor/dtype.ts";
import { alone, type Place } from "./agreement.ts";
import { CheckpointError } from "./errors.ts";
import { blockBytes, hashOf, hashPieces } from "./hash.ts";
import { type Manifest, type ManifestTensor, readManifest, type StoredPiece } from "./manifest.ts";
import { boxFault, elementsOf, placementOf, tilingFault } from "./pieces.ts";
import { type OpenFile, openPlainFile } from "./reading.ts";

/** Manifest and file sizes; throws a CheckpointError that names what is wrong. Reads no data. */
export function verifyStructure(directory: string): Manifest {
  const manifest = readManifest(directory);
  for (const { name, bytes } of manifest.files) {
    const path = join(directory, name);
    using file = openPlainFile(path);
    if (file.bytes === bytes) continue;
    throw new CheckpointError({ path }, `has ${file.bytes} bytes, expected ${bytes}`);
  }
  for (const tensor of manifest.tensors) {
    for (const piece of tensor.pieces) checkPiece(directory, tensor, piece);
    const fault = tilingFault(tensor.shape, tensor.pieces);
    if (!fault) continue;
    const path = fault.file === undefined ? directory : join(directory, fault.file);
    throw new CheckpointError({ path, tensor: tensor.name }, fault.reason);
  }
  checkTiling(directory, manifest);
  return manifest;
}

/** A piece is a part of its tensor, and has as many bytes and hashes as it must. */
function checkPiece(directory: string, tensor: ManifestTensor, piece: StoredPiece): void {
  const { file, box, from, to, bytes, hash } = piece;
  const fail = (reason: string): never => {
    throw new CheckpointError({ path: join(directory, file), tensor: tensor.name }, reason);
  };
  const fault = box && boxFault(tensor.shape, box);
  if (fault) fail(fault);
  const size = elementsOf(placementOf(tensor.shape, box).localShape);
  const isPlain = typeof hash === "string";
  if (to > size || (isPlain ? from > to : from >= to)) {
    fail(`its piece is elements ${from} to ${to} of ${size}`);
  }
  const expected = (to - from) * dtypeBytes(tensor.dtype);
  if (bytes !== expected) fail(`its piece has ${bytes} bytes, expected ${expected}`);
  const blocks = Math.ceil(bytes / blockBytes);
  if (!isPlain && hash.length !== blocks) {
    fail(`its piece has ${hash.length} hashes, expected ${blocks}`);
  }
}

/** Every byte of every file belongs to the header or to one piece: nothing escapes its hash. */
function checkTiling(directory: string, { files, tensors }: Manifest): void {
  const ends = new Map(files.map(({ name, headerBytes }) => [name, headerBytes]));
  const all = tensors.flatMap(({ name, pieces }) => pieces.map((piece) => ({ name, ...piece })));
  // Of files of several ranks the manifest lists a tensor's pieces one after the other.
  for (const { name, file, offset, bytes } of all.sort((x, y) => x.offset - y.offset)) {
    const end = ends.get(file);
    const damage = { path: directory, tensor: name };
    if (end === undefined) {
      throw new CheckpointError(damage, `lies in ${file}, which the manifest does not list`);
    }
    if (offset !== end) {
      throw new CheckpointError(damage, `begins at byte ${offset} of ${file}, expected ${end}`);
    }
    ends.set(file, end + bytes);
  }
  for (const { name, bytes } of files) {
    if (ends.get(name) === bytes) continue;
    const path = join(directory, name);
    const end = ends.get(name);
    throw new CheckpointError({ path }, `has ${bytes} bytes, its tensors end at byte ${end}`);
  }
}

/**
 * As `verifyStructure`, and the hash of every header and tensor. Several ranks share the work: each
 * looks into every `size`-th file.
 */
export function verifyCheckpoint(directory: string, { rank, size }: Place = alone): Manifest {
  const manifest = verifyStructure(directory);
  const all = manifest.tensors.flatMap(({ name, pieces }) =>
    pieces.map((piece) => ({ name, ...piece })),
  );
  const inFile = Map.groupBy(all, ({ file }) => file);
  for (const [index, file] of manifest.files.entries()) {
    if (index % size !== rank) continue;
    const path = join(directory, file.name);
    using opened = openPlainFile(path);
    checkHeader(opened, path, file);
    for (const { name, ...piece } of inFile.get(file.name) ?? []) {
      if (isIntact(opened, piece)) continue;
      throw new CheckpointError({ path, tensor: name }, mismatch("the data"));
    }
  }
  return manifest;
}

/** Throws a CheckpointError when the bytes before the data are not as they were written. */
export function checkHeader(file: OpenFile, path: string, stored: Manifest["files"][number]): void {
  if (hashRange(file, 0, stored.headerBytes) === stored.headerHash) return;
  throw new CheckpointError({ path }, mismatch("the header"));
}

/** Whether all bytes of a piece have the hashes that the manifest states. */
export function isIntact(file: OpenFile, { offset, bytes, hash }: StoredPiece): boolean {
  if (typeof hash === "string") return hashRange(file, offset, bytes) === hash;
  return hash.every((expected, k) => {
    const start = k * blockBytes;
    const block = file.read(offset + start, Math.min(blockBytes, bytes - start));
    return hashOf(block) === expected;
  });
}

export function mismatch(what: string): string {
  return `${what} does not have the hash that the manifest states; the file is damaged`;
}

function hashRange(file: OpenFile, offset: number, length: number): string {
  return hashPieces(length, (from, count) => file.read(offset + from, count));
}
