// How the rows of a global batch go to the ranks (mesh.md §2, §11): microbatch m of data rank d is
// number j = d · M + m of the batch, whatever the mesh is.

import type { Batch, MaskedBatch, Matrix } from "../data/batches.ts";
import { tensor, type Tensor } from "../tensor/index.ts";

/** Rows that one pass of the model takes. */
export interface Microbatch {
  readonly tokens: Matrix;
  readonly targets: Matrix;
  /** u8 [B, S]; 0 where a target does not count. */
  readonly mask?: Matrix<Uint8Array> | undefined;
  /** u8 [B, S]; 1 where a document starts. */
  readonly borders?: Matrix<Uint8Array> | undefined;
  /** Number of the first row in the stream of data: the global sample of dropout keys. */
  readonly row: number;
}

/** Which part of the batch a rank takes, and in how many pieces. */
export interface Share {
  readonly rank: number;
  readonly ranks: number;
  readonly pieces: number;
}

/** A batch that may carry masks and document borders. */
export type AnyBatch = (Batch | MaskedBatch) & Pick<Microbatch, "mask" | "borders">;

/** RangeError unless the rows of a batch divide into equal pieces for all ranks. */
export function checkShare(rows: number, { ranks, pieces }: Share): void {
  if (Number.isSafeInteger(pieces) && pieces >= 1 && rows % (ranks * pieces) === 0) return;
  if (rows % ranks !== 0) {
    throw new RangeError(
      `a batch of ${rows} rows does not divide over the ${ranks} ranks of dp and fsdp: ` +
        `give a multiple of ${ranks} rows`,
    );
  }
  const of =
    ranks === 1 ? "" : `, of which each of ${ranks} ranks of dp and fsdp has an equal part`;
  throw new RangeError(
    `accumulate is ${pieces}: expected a divisor of ${rows / ranks}: ` +
      `the batch size is ${rows}${of}`,
  );
}

/** The microbatches of one rank, in order. Views of the batch. */
export function microbatchesOf(batch: AnyBatch, share: Share): Microbatch[] {
  checkShare(batch.size, share);
  const { rank, ranks, pieces } = share;
  const rows = batch.size / (ranks * pieces);
  return Array.from({ length: pieces }, (_, m) => {
    const first = (rank * pieces + m) * rows;
    const { tokens, targets, mask, borders } = batch;
    return {
      tokens: rowsOf(tokens, first, rows),
      targets: rowsOf(targets, first, rows),
      mask: mask && rowsOf(mask, first, rows),
      borders: borders && rowsOf(borders, first, rows),
      row: batch.row + first,
    };
  });
}

function rowsOf<A extends Int32Array | Uint8Array>(
  { data, shape: [, length] }: Matrix<A>,
  first: number,
  rows: number,
): Matrix<A> {
  const part = data.subarray(first * length, (first + rows) * length) as A;
  return { data: part, shape: [rows, length] };
}

/** Targets that count. */
export function countOf({ targets, mask }: Microbatch): number {
  if (!mask) return targets.data.length;
  return mask.data.reduce((sum, one) => sum + (one === 0 ? 0 : 1), 0);
}

/** A u8 matrix as a tensor; undefined for none. */
export function bytesOf(matrix: Matrix<Uint8Array> | undefined): Tensor | undefined {
  return matrix && tensor(matrix.data, { shape: matrix.shape });
}
