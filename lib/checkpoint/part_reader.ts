// Reading of parts of stored tensors, whatever pieces they are stored in: the ranges that the part
// and the pieces have in common, block by block, each block with its hash.

import { join } from "node:path";
import { dtypeBytes } from "../tensor/dtype.ts";
import { CheckpointError } from "./errors.ts";
import { blockBytes, hashOf } from "./hash.ts";
import type { Manifest, ManifestTensor, StoredPiece } from "./manifest.ts";
import { common, type Common, elementsOf, type Part, placementOf } from "./pieces.ts";
import { type OpenFile, openPlainFile } from "./reading.ts";
import { checkHeader, isIntact, mismatch } from "./verify.ts";

/** Reads from the files of one checkpoint. Keeps no file open. */
export class PartReader {
  readonly #directory: string;
  readonly #files: ReadonlyMap<string, Manifest["files"][number]>;
  /** Files whose headers, and pieces with one hash whose bytes, have been verified. */
  readonly #verified = new Set<string | StoredPiece>();

  constructor(directory: string, manifest: Manifest) {
    this.#directory = directory;
    this.#files = new Map(manifest.files.map((file) => [file.name, file]));
  }

  /**
   * The bytes of `count` elements of a part of a tensor, from its element `start` on; by default
   * all. CheckpointError when a file is damaged or the tensor has another shape than the part's.
   */
  read(
    tensor: ManifestTensor,
    part: Part,
    start = 0,
    count = part.to - part.from - start,
  ): Uint8Array {
    this.#checkPart(tensor, part, start, count);
    const bytes = new Uint8Array(count * dtypeBytes(tensor.dtype));
    const from = part.from + start;
    const wanted = { placement: part.placement, from, to: from + count };
    let found = 0;
    for (const piece of tensor.pieces) {
      const { box, from, to } = piece;
      const held = { placement: placementOf(tensor.shape, box), from, to };
      const runs = [...common(wanted, held)];
      if (runs.length === 0) continue;
      this.#copy(tensor, piece, runs, bytes);
      for (const { length } of runs) found += length;
    }
    if (found === count) return bytes;
    const damage = { path: this.#directory, tensor: tensor.name };
    throw new CheckpointError(damage, `has ${found} of ${count} elements of a part`);
  }

  #checkPart(tensor: ManifestTensor, part: Part, start: number, count: number): void {
    const { placement, from, to } = part;
    const damage = { path: this.#directory, tensor: tensor.name };
    if (placement.globalShape.join() !== tensor.shape.join()) {
      const shapes = `[${tensor.shape}], the model's has shape [${placement.globalShape}]`;
      throw new CheckpointError(damage, `has shape ${shapes}`);
    }
    const size = elementsOf(placement.localShape);
    const inside =
      from >= 0 && to <= size && start >= 0 && count >= 0 && start + count <= to - from;
    if (inside) return;
    const asked = `elements ${from + start} to ${from + start + count}`;
    throw new RangeError(`${tensor.name}: ${asked} of a part with ${from} to ${to} of ${size}`);
  }

  /** Copies runs of a piece (`b`) to where they lie in the part (`a`). */
  #copy(
    tensor: ManifestTensor,
    piece: StoredPiece,
    runs: readonly Common[],
    target: Uint8Array,
  ): void {
    using file = openPlainFile(join(this.#directory, piece.file));
    this.#checkFile(file, tensor.name, piece);
    const width = dtypeBytes(tensor.dtype);
    let index = -1;
    let block: Uint8Array = new Uint8Array();
    for (const { a, b, length } of runs) {
      const [begin, end] = [b * width, (b + length) * width];
      for (let at = begin; at < end;) {
        const k = Math.floor(at / blockBytes);
        if (k !== index) block = this.#block(file, tensor.name, piece, k);
        index = k;
        const within = at - k * blockBytes;
        const part = block.subarray(within, within + end - at);
        target.set(part, a * width + at - begin);
        at += part.length;
      }
    }
  }

  /** Its header is as it was written, and a piece with one hash as well. */
  #checkFile(file: OpenFile, name: string, piece: StoredPiece): void {
    const stored = this.#files.get(piece.file)!;
    const path = join(this.#directory, piece.file);
    if (!this.#verified.has(piece.file)) {
      checkHeader(file, path, stored);
      this.#verified.add(piece.file);
    }
    if (typeof piece.hash !== "string" || this.#verified.has(piece)) return;
    if (!isIntact(file, piece)) throw this.#damaged(name, piece);
    this.#verified.add(piece);
  }

  #block(file: OpenFile, name: string, piece: StoredPiece, k: number): Uint8Array {
    const { offset, bytes, hash } = piece;
    const start = k * blockBytes;
    const block = file.read(offset + start, Math.min(blockBytes, bytes - start));
    if (typeof hash === "string" || hashOf(block) === hash[k]) return block;
    throw this.#damaged(name, piece);
  }

  #damaged(tensor: string, { file }: StoredPiece): CheckpointError {
    return new CheckpointError({ path: join(this.#directory, file), tensor }, mismatch("the data"));
  }
}
