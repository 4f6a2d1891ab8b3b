// Reading of a committed checkpoint: structure is checked at once, the hashes of a tensor when it
// is loaded. Whatever mesh has written it, a process reads the elements that it asks for.

import { join } from "node:path";
import { check, native } from "../native/library.ts";
import { empty } from "../tensor/create.ts";
import { type DType, dtypeBytes } from "../tensor/dtype.ts";
import { convert, type Tensor } from "../tensor/tensor.ts";
import { CheckpointError } from "./errors.ts";
import { hashPieces, pieceBytes } from "./hash.ts";
import { type Manifest, type ManifestTensor, plainFormat } from "./manifest.ts";
import { PartReader } from "./part_reader.ts";
import { elementsOf, isWhole, type Part, wholePart, wholePlacement } from "./pieces.ts";
import { openSafetensors, type TensorFile } from "./safetensors.ts";
import { mismatch, verifyStructure } from "./verify.ts";

/** An open checkpoint. Dispose of it when everything is loaded. */
export class Checkpoint implements Disposable {
  readonly path: string;
  readonly step: number;
  readonly manifest: Manifest;
  /** What the manifest says about every tensor, by name. */
  readonly tensors: ReadonlyMap<string, ManifestTensor>;
  /** Of a plain checkpoint, whose tensors are read natively. */
  readonly #files = new Map<string, TensorFile>();
  readonly #reader: PartReader;

  constructor(path: string) {
    this.path = path;
    this.manifest = verifyStructure(path);
    this.step = this.manifest.step;
    this.tensors = new Map(this.manifest.tensors.map((tensor) => [tensor.name, tensor]));
    this.#reader = new PartReader(path, this.manifest);
    if (this.manifest.format !== plainFormat) return;
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

  #checkEntry({ name, pieces, dtype, shape, bytes }: ManifestTensor): void {
    const { file } = pieces[0]!;
    const entry = this.#files.get(file)!.entry(name);
    const same = entry.dtype === dtype && entry.bytes === bytes && `${entry.shape}` === `${shape}`;
    if (same) return;
    const found = `${entry.type} [${entry.shape}]`;
    const damage = { path: join(this.path, file), tensor: name };
    throw new CheckpointError(damage, `is ${found}, the manifest says ${dtype} [${shape}]`);
  }

  #find(name: string): ManifestTensor {
    const stored = this.tensors.get(name);
    if (stored) return stored;
    const known = `it has ${this.tensors.size} tensors`;
    throw new CheckpointError({ path: this.path, tensor: name }, `is not there; ${known}`);
  }

  /** Reads a tensor, checks its hashes, and converts it to `dtype` when one is given. */
  load(name: string, dtype?: DType): Tensor {
    const stored = this.#find(name);
    const { hash } = stored;
    if (hash === undefined)
      return this.loadPart(name, wholePart(wholePlacement(stored.shape)), dtype);
    const { file } = stored.pieces[0]!;
    const tensor = this.#files.get(file)!.load(name);
    const found = hashPieces(stored.bytes, (from, count) => tensor.bytesSync(from, count));
    if (found !== hash) {
      tensor.dispose();
      const damage = { path: join(this.path, file), tensor: name };
      throw new CheckpointError(damage, mismatch("the data"));
    }
    return converted(tensor, dtype);
  }

  /**
   * Reads the elements of a tensor that a rank has, and no others: the bytes of a checkpoint are
   * the same whatever mesh has written it. The result has the placement's local shape when the part
   * is all of the placement, else [to - from]; it is converted to `dtype` when one is given.
   * CheckpointError when a file is damaged, or the placement is of another global shape.
   */
  loadPart(name: string, part: Part, dtype?: DType): Tensor {
    const stored = this.#find(name);
    const { placement, from, to } = part;
    const isAll = from === 0 && to === elementsOf(placement.localShape);
    const isPlain = stored.hash !== undefined && isWhole(placement);
    if (isPlain && isAll && `${placement.globalShape}` === `${stored.shape}`) {
      return this.load(name, dtype);
    }
    const tensor = empty(isAll ? placement.localShape : [to - from], stored.dtype);
    try {
      this.#fill(tensor, stored, part);
    } catch (error) {
      tensor.dispose();
      throw error;
    }
    return converted(tensor, dtype);
  }

  /** Through a window, so that a large tensor is not in JavaScript's memory as well. */
  #fill(tensor: Tensor, stored: ManifestTensor, part: Part): void {
    const width = dtypeBytes(stored.dtype);
    const size = part.to - part.from;
    const window = pieceBytes / width;
    let at = 0;
    do {
      const bytes = this.#reader.read(stored, part, at, Math.min(window, size - at));
      if (bytes.length === 0) return;
      check(native().xl_write_bytes(tensor.handle, bytes, at * width, bytes.length), "load");
      at += window;
    } while (at < size);
  }

  close(): void {
    for (const file of this.#files.values()) file.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

function converted(tensor: Tensor, dtype: DType | undefined): Tensor {
  if (dtype === undefined || dtype === tensor.dtype) return tensor;
  using raw = tensor;
  return convert(raw, dtype);
}

/**
 * Opens the checkpoint at `path` (as `latestCheckpoint` returns it). Throws a CheckpointError when
 * manifest, file sizes or headers are wrong; `load` throws one when a tensor's data is.
 */
export function loadCheckpoint(path: string): Checkpoint {
  return new Checkpoint(path);
}
