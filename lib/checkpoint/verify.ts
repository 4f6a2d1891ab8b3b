// Is a committed checkpoint what its manifest says? Reads every byte that the manifest covers
// (reliability.md §2).

import { join } from "node:path";
import { CheckpointError } from "./errors.ts";
import { hashPieces } from "./hash.ts";
import { type Manifest, readManifest } from "./manifest.ts";
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
  checkTiling(directory, manifest);
  return manifest;
}

/** Every byte of every file belongs to the header or to one tensor: nothing escapes its hash. */
function checkTiling(directory: string, { files, tensors }: Manifest): void {
  const ends = new Map(files.map(({ name, headerBytes }) => [name, headerBytes]));
  for (const { name, file, offset, bytes } of tensors) {
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

/** As `verifyStructure`, and the hash of every header and tensor. */
export function verifyCheckpoint(directory: string): Manifest {
  const manifest = verifyStructure(directory);
  for (const file of manifest.files) {
    const path = join(directory, file.name);
    using opened = openPlainFile(path);
    const header = hashRange(opened, 0, file.headerBytes);
    if (header !== file.headerHash) throw new CheckpointError({ path }, mismatch("the header"));
    for (const tensor of manifest.tensors) {
      if (tensor.file !== file.name) continue;
      const found = hashRange(opened, tensor.offset, tensor.bytes);
      if (found === tensor.hash) continue;
      throw new CheckpointError({ path, tensor: tensor.name }, mismatch("the data"));
    }
  }
  return manifest;
}

export function mismatch(what: string): string {
  return `${what} does not have the hash that the manifest states; the file is damaged`;
}

function hashRange(file: OpenFile, offset: number, length: number): string {
  return hashPieces(length, (from, count) => file.read(offset + from, count));
}
