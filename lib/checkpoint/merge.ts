// Checkpoints in pieces as files that other tools read: one safetensors file with whole tensors.
//
//   mergeCheckpoint("runs/novel/checkpoints/step-1000", "merged");        // merged/step-1000
//   exportWeights("runs/novel/checkpoints/step-1000", "model.safetensors");
//
// Both read piece by piece: no tensor has to fit into memory, and no native code is needed.

import { dtypeBytes } from "../tensor/dtype.ts";
import type { Manifest, ManifestTensor } from "./manifest.ts";
import { PartReader } from "./part_reader.ts";
import { elementsOf, wholePart, wholePlacement } from "./pieces.ts";
import { saveCheckpoint } from "./protocol.ts";
import { verifyStructure } from "./verify.ts";
import { saveSafetensors, type TensorBytes } from "./writer.ts";

/** Names of the optimiser's moments begin so; everything else is a weight. */
export const momentPrefix = "optimizer.";

/**
 * Saves the checkpoint at `path` once more as `directory/step-N`, in the plain form that a single
 * process writes, and returns that path. Throws a CheckpointError when a piece is damaged, or when
 * `directory` has the step already.
 */
export function mergeCheckpoint(path: string, directory: string): string {
  const manifest = verifyStructure(path);
  const { step, recipe, data, rng } = manifest;
  // What was not finite is null in a manifest, and becomes null again.
  const numbers = Object.entries(manifest.metrics).map(([name, value]) => [name, value ?? NaN]);
  const metrics = Object.fromEntries(numbers) as Record<string, number>;
  const tensors = tensorsOf(path, manifest);
  return saveCheckpoint(directory, { step, tensors, recipe, data, rng, metrics });
}

/** Writes the weights of the checkpoint at `path`, whole and without moments, to one file. */
export function exportWeights(path: string, file: string): void {
  const tensors = tensorsOf(path, verifyStructure(path));
  const weights = tensors.filter(([name]) => !name.startsWith(momentPrefix));
  saveSafetensors(file, weights, { format: "pt" });
}

function tensorsOf(path: string, manifest: Manifest): (readonly [string, TensorBytes])[] {
  const reader = new PartReader(path, manifest);
  return manifest.tensors.map((tensor) => [tensor.name, lazily(reader, tensor)] as const);
}

/** A tensor that is read when it is written. */
function lazily(reader: PartReader, stored: ManifestTensor): TensorBytes {
  const { dtype, shape } = stored;
  const width = dtypeBytes(dtype);
  const part = wholePart(wholePlacement(shape));
  return {
    dtype,
    shape,
    byteLength: elementsOf(shape) * width,
    bytesSync: (offset, length) => reader.read(stored, part, offset / width, length / width),
  };
}
