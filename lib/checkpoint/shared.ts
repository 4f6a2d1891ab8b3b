// The commit protocol for several ranks (reliability.md §1, mesh.md §17): every rank writes what it
// owns into a file of its own, and when all of those are on the disk, rank 0 commits. A rank that
// cannot write fails the save on all of them, and the checkpoints that were there stay.
//
//   const pieces = [{ name, tensor, placement, from: 0, to: 4096, isOwner: true }, …];
//   const path = saveShared("checkpoints", { step, pieces, mesh, recipe, data, rng }, ranks);

import { basename, join } from "node:path";
import { warnUser } from "../log/index.ts";
import type { DType } from "../tensor/dtype.ts";
import { type Agreement, agreed, onFirst, type Place, type Ranks, together } from "./agreement.ts";
import {
  type CheckpointFacts,
  commit,
  conclude,
  makeTemporary,
  newPath,
  plainFacts,
} from "./commit.ts";
import { CheckpointError, messageOf } from "./errors.ts";
import { type Files, quietly, systemFiles } from "./files.ts";
import { hashOf } from "./hash.ts";
import { pieceFormat, type WrittenManifest, type WrittenPiece } from "./manifest.ts";
import { type Box, elementsOf, isWhole, type Part } from "./pieces.ts";
import { saveCheckpoint, type SaveOptions } from "./protocol.ts";
import { saveSafetensors, type TensorBytes } from "./writer.ts";

/** What a rank has of a tensor. `tensor` holds elements [from, to) of the placement, row-major. */
export interface Piece extends Part {
  /** Of the tensor, the same on all ranks and meshes. */
  readonly name: string;
  readonly tensor: TensorBytes;
  /** Whether this rank writes the piece: one of those that have a copy of it does. */
  readonly isOwner: boolean;
}

export interface SharedContents extends CheckpointFacts {
  /** All that this rank has, owned or not. */
  readonly pieces: Iterable<Piece>;
  /** Sizes of the mesh's axes. */
  readonly mesh: Readonly<Record<string, number>>;
}

/** What rank 0 learns of a rank's file. */
interface Told {
  readonly file?: WrittenManifest["files"][number];
  readonly tensors: readonly ToldTensor[];
}

interface ToldTensor {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly piece?: WrittenPiece;
}

/**
 * Saves `directory/step-N` together with all other ranks, which must call it, too, and returns that
 * path; afterwards old ones go as `keep` says. Throws a CheckpointError on every rank when anything
 * fails on one of them before the commit. A single rank writes a plain checkpoint.
 */
export function saveShared(
  directory: string,
  contents: SharedContents,
  ranks: Ranks,
  options: SaveOptions = {},
): string {
  if (ranks.size > 1) return together(ranks, savingShared(directory, contents, ranks, options));
  const tensors = [...contents.pieces].map((piece) => [piece.name, wholeOf(piece)] as const);
  return saveCheckpoint(directory, { ...contents, tensors }, options);
}

/** `saveShared` as a task of several ranks. */
export function* savingShared(
  directory: string,
  contents: SharedContents,
  place: Place,
  { keep, files = systemFiles, warn = warnUser }: SaveOptions = {},
): Agreement<string> {
  const { step } = contents;
  const path = join(directory, `step-${step}`);
  let temporary: string | undefined;
  try {
    const facts = yield* sameFacts(place, contents);
    const name = yield* onFirst(place, () => {
      temporary = `${newPath(directory, step)}.tmp-${crypto.randomUUID()}`;
      makeTemporary(directory, temporary, files);
      return basename(temporary);
    });
    temporary = join(directory, name);
    const folder = temporary;
    const told = yield* agreed(place, () => writeOwned(folder, contents.pieces, place, files));
    yield* onFirst(place, () => {
      const tensors = joined(told);
      const list = told.flatMap(({ file }) => (file ? [file] : []));
      const mesh = { ...contents.mesh };
      commit(folder, path, { format: pieceFormat, mesh, files: list, tensors, ...facts }, files);
    });
  } catch (error) {
    if (place.rank === 0 && temporary !== undefined) quietly(() => files.remove(temporary!));
    throw new CheckpointError({ path }, `was not saved: ${messageOf(error)}`, error);
  }
  if (place.rank === 0) conclude(directory, path, step, { keep, files, warn });
  return path;
}

/** The facts, which must be those of all ranks: steps and data positions are global. */
function* sameFacts(place: Place, contents: SharedContents) {
  let facts: ReturnType<typeof plainFacts> | undefined;
  const all = yield* agreed(place, () => {
    facts = plainFacts(contents);
    const { step, data, rng } = facts;
    return { step, hash: hashOf(new TextEncoder().encode(JSON.stringify({ data, rng }))) };
  });
  const first = all[0]!;
  for (const [rank, { step, hash }] of all.entries()) {
    if (step !== first.step) {
      throw new Error(`rank ${rank} is at step ${step}, rank 0 at step ${first.step}`);
    }
    if (hash !== first.hash) {
      throw new Error(
        `rank ${rank} has another position in the data, or another seed, than rank 0`,
      );
    }
  }
  return facts!;
}

/** Writes this rank's file, if it owns anything; returns what the manifest will say of it. */
function writeOwned(folder: string, pieces: Iterable<Piece>, place: Place, files: Files): Told {
  const name = `rank-${place.rank}.safetensors`;
  const all = [...pieces];
  for (const piece of all) checkPiece(piece);
  const owned = all.filter(({ isOwner, from, to }) => isOwner && from < to);
  const told = all.map((piece) => {
    const { name, tensor, placement } = piece;
    return { name, dtype: tensor.dtype, shape: placement.globalShape };
  });
  if (owned.length === 0) return { tensors: told };
  const tensors = owned.map((piece) => [piece.name, shaped(piece)] as const);
  const stored = saveSafetensors(join(folder, name), tensors, {}, files);
  const written = new Map(owned.map((piece) => [piece.name, piece]));
  const { bytes, headerBytes, headerHash } = stored;
  return {
    file: { name, bytes, headerBytes, headerHash },
    tensors: told.map((tensor) => {
      const piece = written.get(tensor.name);
      if (!piece) return tensor;
      const { offset, bytes, blocks } = stored.tensors.get(tensor.name)!;
      const { placement, from, to } = piece;
      const box = isWhole(placement) ? {} : { box: mutable(placement.runs) };
      const hashes = [...blocks];
      return { ...tensor, piece: { file: name, offset, bytes, ...box, from, to, hashes } };
    }),
  };
}

function checkPiece({ name, tensor, placement, from, to }: Piece): void {
  const size = elementsOf(placement.localShape);
  if (!(from >= 0 && from <= to && to <= size)) {
    throw new RangeError(`piece of ${name}: elements ${from} to ${to} of ${size}`);
  }
  const elements = elementsOf(tensor.shape);
  if (elements === to - from) return;
  throw new RangeError(`piece of ${name}: [${tensor.shape}] is not elements ${from} to ${to}`);
}

/** A piece that is all of its box keeps the box's shape, for whoever looks into the file. */
function shaped({ tensor, placement, from, to }: Piece): TensorBytes {
  const isAll = from === 0 && to === elementsOf(placement.localShape);
  return {
    dtype: tensor.dtype,
    shape: isAll ? placement.localShape : [to - from],
    byteLength: tensor.byteLength,
    bytesSync: (offset, length) => tensor.bytesSync(offset, length),
  };
}

function wholeOf(piece: Piece): TensorBytes {
  const { name, placement, from, to } = piece;
  checkPiece(piece);
  if (isWhole(placement) && to - from === elementsOf(placement.globalShape)) return shaped(piece);
  throw new RangeError(`${name}: a single rank has elements ${from} to ${to}, not all of them`);
}

/** The pieces of every tensor, rank by rank. */
function joined(told: readonly Told[]): Extract<WrittenManifest, { mesh: unknown }>["tensors"] {
  const tensors = new Map<string, { rank: number; tensor: ToldTensor; pieces: WrittenPiece[] }>();
  for (const [rank, { tensors: some }] of told.entries()) {
    for (const tensor of some) {
      const { name, dtype, shape, piece } = tensor;
      const known = tensors.get(name) ?? { rank, tensor, pieces: [] };
      tensors.set(name, known);
      if (known.tensor.dtype !== dtype || known.tensor.shape.join() !== shape.join()) {
        const other = `rank ${known.rank} ${known.tensor.dtype} [${known.tensor.shape}]`;
        throw new Error(`${name} is ${dtype} [${shape}] on rank ${rank}, on ${other}`);
      }
      if (piece) known.pieces.push(piece);
    }
  }
  return [...tensors.values()].map(({ tensor: { name, dtype, shape }, pieces }) => {
    return { name, dtype, shape: [...shape], pieces };
  });
}

function mutable(box: Box): [number, number][][] {
  return box.map((runs) => runs.map(([start, length]) => [start, length]));
}
