// Is a committed checkpoint what its manifest says? Reads every byte that the manifest covers
// (reliability.md §2).

import { closeSync, openSync, readSync, statSync } from "node:fs";
import { join } from "node:path";
import { CheckpointError, messageOf } from "./errors.ts";
import { hashPieces } from "./hash.ts";
import { type Manifest, readManifest } from "./manifest.ts";

/** Manifest and file sizes; throws a CheckpointError that names what is wrong. Reads no data. */
export function verifyStructure(directory: string): Manifest {
  const manifest = readManifest(directory);
  for (const { name, bytes } of manifest.files) {
    const path = join(directory, name);
    const size = statSync(path, { throwIfNoEntry: false })?.size;
    if (size === undefined) throw new CheckpointError({ path }, "is missing");
    if (size !== bytes) throw new CheckpointError({ path }, `has ${size} bytes, expected ${bytes}`);
  }
  const names = new Set(manifest.files.map(({ name }) => name));
  for (const { name, file } of manifest.tensors) {
    if (names.has(file)) continue;
    const damage = { path: directory, tensor: name };
    throw new CheckpointError(damage, `lies in ${file}, which the manifest does not list`);
  }
  return manifest;
}

/** As `verifyStructure`, and the hash of every header and tensor. */
export function verifyCheckpoint(directory: string): Manifest {
  const manifest = verifyStructure(directory);
  for (const file of manifest.files) {
    const path = join(directory, file.name);
    const descriptor = openSync(path, "r");
    try {
      const header = hashRange(descriptor, path, 0, file.headerBytes);
      if (header !== file.headerHash) throw new CheckpointError({ path }, mismatch("the header"));
      for (const tensor of manifest.tensors) {
        if (tensor.file !== file.name) continue;
        const found = hashRange(descriptor, path, tensor.offset, tensor.bytes);
        if (found === tensor.hash) continue;
        throw new CheckpointError({ path, tensor: tensor.name }, mismatch("the data"));
      }
    } finally {
      closeSync(descriptor);
    }
  }
  return manifest;
}

export function mismatch(what: string): string {
  return `${what} does not have the hash that the manifest states; the file is damaged`;
}

function hashRange(descriptor: number, path: string, offset: number, length: number): string {
  return hashPieces(length, (from, count) => {
    const piece = new Uint8Array(count);
    let done = 0;
    while (done < count) {
      const read = readPart(descriptor, path, piece, done, offset + from + done);
      if (read === 0) throw new CheckpointError({ path }, "became shorter while it was read");
      done += read;
    }
    return piece;
  });
}

function readPart(
  descriptor: number,
  path: string,
  piece: Uint8Array,
  done: number,
  position: number,
): number {
  try {
    return readSync(descriptor, piece, done, piece.length - done, position);
  } catch (error) {
    throw new CheckpointError({ path }, `cannot be read: ${messageOf(error)}`, error);
  }
}
