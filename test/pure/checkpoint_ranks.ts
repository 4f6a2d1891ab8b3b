// Ranks that save and load together, all of them in this process and one after the other: whatever
// they tell each other passes through here.

import type { Agreement, Place } from "../../lib/checkpoint/agreement.ts";
import { type Files, systemFiles } from "../../lib/checkpoint/files.ts";
import { elementsOf, placementOf, wholePlacement } from "../../lib/checkpoint/pieces.ts";
import type { Piece } from "../../lib/checkpoint/shared.ts";
import type { TensorBytes } from "../../lib/checkpoint/writer.ts";
import type { Placement } from "../../lib/mesh/placement.ts";
import { type DType, dtypeBytes } from "../../lib/tensor/dtype.ts";

/** How a task ended on a rank. */
export interface Outcome<T> {
  readonly value?: T;
  readonly error?: Error;
  /** The process is gone. */
  readonly isDead?: boolean;
}

/** Thrown by the operation during which a simulated process dies. */
export class Killed extends Error {}

/**
 * Runs a task on simulated ranks in lockstep. A rank for which `isDead` says so after its turn
 * tells nothing any more, and the others get the error of a lost peer in place of an answer.
 */
export function onRanks<T>(
  size: number,
  task: (place: Place) => Agreement<T>,
  isDead: (rank: number) => boolean = () => false,
): Outcome<T>[] {
  const outcomes: Outcome<T>[] = Array.from({ length: size }, () => ({}));
  const running = Array.from({ length: size }, (_, rank) => task({ rank, size }));
  const ended = new Set<number>();
  let told: readonly string[] | undefined;
  let isLost = false;
  while (ended.size < size) {
    const texts: string[] = [];
    const before = ended.size;
    for (const [rank, agreement] of running.entries()) {
      if (ended.has(rank)) continue;
      try {
        const next = isLost
          ? agreement.throw(new Error("a peer is lost"))
          : told
            ? agreement.next(told)
            : agreement.next();
        if (next.done) outcomes[rank] = { value: next.value };
        else texts[rank] = next.value;
        if (next.done) ended.add(rank);
      } catch (error) {
        outcomes[rank] = { error: error as Error };
        ended.add(rank);
      }
      if (isDead(rank)) {
        outcomes[rank] = { isDead: true };
        ended.add(rank);
        isLost = true;
      }
    }
    if (isLost) continue;
    if (ended.size !== before && ended.size < size) throw new Error("ranks went separate ways");
    told = texts;
  }
  return outcomes;
}

/** The value of every rank; throws the first error. */
export function valuesOf<T>(outcomes: readonly Outcome<T>[]): T[] {
  return outcomes.map(({ value, error }) => {
    if (error) throw error;
    return value as T;
  });
}

/** Operations that wait for no disk: for tests that save often, and pull no plug. */
export const unsynced: Files = { ...systemFiles, sync() {}, syncDirectory() {} };

/** File operations of one rank that call `before(count, name)` first; `count` starts at 1. */
export function watchedFiles(
  before: (count: number, name: keyof Files, args: readonly unknown[]) => void,
  files: Files = unsynced,
): Files {
  let count = 0;
  const wrapped = Object.entries(files).map(([name, operation]) => [
    name,
    (...args: never[]) => {
      before(++count, name as keyof Files, args);
      return (operation as (...args: never[]) => unknown)(...args);
    },
  ]);
  return Object.fromEntries(wrapped) as Files;
}

/** A tensor of the whole model; `bytes` are its elements, row-major. */
export interface GlobalTensor {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

/** A tensor with bytes that depend on the name, on `seed` and on the position. */
export function globalTensor(
  name: string,
  dtype: DType,
  shape: readonly number[],
  seed = 0,
): GlobalTensor {
  const length = elementsOf(shape) * dtypeBytes(dtype);
  let state = Number(Bun.hash.xxHash32(`${name} ${seed}`));
  const bytes = Uint8Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state >>> 24;
  });
  return { name, dtype, shape, bytes };
}

/** Bytes of elements [from, to) of a placement, taken one by one out of the whole tensor. */
export function localBytes(
  { bytes, dtype, shape }: GlobalTensor,
  { runs }: Placement,
  from: number,
  to: number,
): Uint8Array {
  const width = dtypeBytes(dtype);
  const indices = runs.map((list) =>
    list.flatMap(([start, length]) => Array.from({ length }, (_, i) => start + i)),
  );
  const local = new Uint8Array((to - from) * width);
  for (let element = from; element < to; element++) {
    let rest = element;
    let global = 0;
    let stride = 1;
    for (let dim = shape.length - 1; dim >= 0; dim--) {
      const here = indices[dim]!;
      global += here[rest % here.length]! * stride;
      stride *= shape[dim]!;
      rest = Math.floor(rest / here.length);
    }
    for (let k = 0; k < width; k++)
      local[(element - from) * width + k] = bytes[global * width + k]!;
  }
  return local;
}

/** The bytes as the writer takes them. */
export function bytesOf(dtype: DType, shape: readonly number[], bytes: Uint8Array): TensorBytes {
  return {
    dtype,
    shape,
    byteLength: bytes.length,
    bytesSync: (offset, length) => bytes.subarray(offset, offset + length),
  };
}

/** Equal runs of columns of a matrix. */
export function columnsOf([rows, columns]: readonly number[], part: number, parts: number) {
  const width = columns! / parts;
  return placementOf([rows!, columns!], [[[0, rows!]], [[part * width, width]]]);
}

interface PieceOptions {
  readonly placement?: Placement;
  readonly from?: number;
  readonly to?: number;
  readonly isOwner?: boolean;
}

/** A rank's piece: elements [from, to) of a placement, all of the tensor by default. */
export function pieceOf(
  tensor: GlobalTensor,
  { placement = wholePlacement(tensor.shape), from = 0, to, isOwner = true }: PieceOptions = {},
): Piece {
  const end = to ?? elementsOf(placement.localShape);
  const { name, dtype } = tensor;
  const held = bytesOf(dtype, [end - from], localBytes(tensor, placement, from, end));
  return { name, tensor: held, placement, from, to: end, isOwner };
}

/** Tensors of three ranks: a matrix to be cut into columns, a vector into runs, a bias, nothing. */
export function threeTensors(seed: number) {
  return {
    columns: globalTensor("columns", "f32", [5, 6], seed),
    runs: globalTensor("runs", "bf16", [31], seed),
    copied: globalTensor("copied", "f32", [3], seed),
    empty: globalTensor("empty", "f32", [0, 4], seed),
  };
}

/** What rank `rank` of three has of them. The last rank owns the bias, the second one no run. */
export function threePieces(seed: number, rank: number): Piece[] {
  const { columns, runs, copied, empty } = threeTensors(seed);
  const bounds = [0, 9, 9, 31];
  return [
    pieceOf(columns, { placement: columnsOf([5, 6], rank, 3) }),
    pieceOf(runs, { from: bounds[rank]!, to: bounds[rank + 1]! }),
    pieceOf(copied, { isOwner: rank === 2 }),
    pieceOf(empty, { isOwner: rank === 0 }),
  ];
}
