// Reading of a committed checkpoint: structure is checked at once, the hash of a tensor when it is
// loaded.

import { join } from "node:path";
import type { DType } from "../tensor/dtype.ts";
import { convert, type Tensor } from "../tensor/tensor.ts";
import { CheckpointError } from "./errors.ts";
import { hashPieces } from "./hash.ts";
import type { Manifest, ManifestTensor } from "./manifest.ts";
import { openSafetensors, type TensorFile } from "./safetensors.ts";
import { mismatch, verifyStructure } from "./verify.ts";

/** An open checkpoint. Dispose of it when everything is loaded. */
export class Checkpoint implements Disposable {
  readonly path: string;
  readonly step: number;
  readonly manifest: Manifest;
  /** What the manifest says about every tensor, by name. */
  readonly tensors: ReadonlyMap<string, ManifestTensor>;
  readonly #files = new Map<string, TensorFile>();

  constructor(path: string) {
    this.path = path;
    this.manifest = verifyStructure(path);
    this.step = this.manifest.step;
    this.tensors = new Map(this.manifest.tensors.map((tensor) => [tensor.name, tensor]));
    try {
      for (const { name } of this.manifest.files) {
        this.#files.set(name, openSafetensors(join(path, name)));
      }
      for (const tensor of this.tensors.values()) this.#checkEntry(tensor);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  #checkEntry({ name, file, dtype, shape, bytes }: ManifestTensor): void {
    const entry = this.#files.get(file)!.entry(name);
    const same = entry.dtype === dtype && entry.bytes === bytes && `${entry.shape}` === `${shape}`;
    if (same) return;
    const found = `${entry.type} [${entry.shape}]`;
    const damage = { path: join(this.path, file), tensor: name };
    throw new CheckpointError(damage, `is ${found}, the manifest says ${dtype} [${shape}]`);
  }

  /** Reads a tensor, checks its hash, and converts it to `dtype` when one is given. */
  load(name: string, dtype?: DType): Tensor {
    const stored = this.tensors.get(name);
    if (!stored) {
      const known = `it has ${this.tensors.size} tensors`;
      throw new CheckpointError({ path: this.path, tensor: name }, `is not there; ${known}`);
    }
    const tensor = this.#files.get(stored.file)!.load(name);
    const found = hashPieces(stored.bytes, (from, count) => tensor.bytesSync(from, count));
    if (found !== stored.hash) {
      tensor.dispose();
      const damage = { path: join(this.path, stored.file), tensor: name };
      throw new CheckpointError(damage, mismatch("the data"));
    }
    if (dtype === undefined || dtype === tensor.dtype) return tensor;
    const converted = convert(tensor, dtype);
    tensor.dispose();
    return converted;
  }

  close(): void {
    for (const file of this.#files.values()) file.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/**
 * Opens the checkpoint at `path` (as `latestCheckpoint` returns it). Throws a CheckpointError when
 * manifest, file sizes or headers are wrong; `load` throws one when a tensor's data is.
 */
export function loadCheckpoint(path: string): Checkpoint {
  return new Checkpoint(path);
}
