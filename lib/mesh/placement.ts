// Where the local part of a parameter lies in the global tensor (mesh.md §8): tensor parallelism
// cuts one dim, segment by segment where a matrix is several that were put together.

import { native } from "../native/library.ts";
import { int32 } from "../tensor/tensor.ts";
import { giveList, takeRows } from "./lists.ts";

export interface Split {
  readonly dim: number;
  /**
   * Consecutive segments of the dim, each of which is cut into equal parts: part k of every segment
   * belongs to tp coordinate k. Default: one segment, the whole dim.
   */
  readonly segments?: readonly number[];
}

export interface Placement {
  readonly globalShape: readonly number[];
  /** What lies here. */
  readonly localShape: readonly number[];
  /** Per dim the [start, length] runs of the global dim that lie here, in order. */
  readonly runs: readonly (readonly (readonly [number, number])[])[];
}

/**
 * Part `part` of `parts` of a tensor of `shape`; all of it without a split. A length that `parts`
 * does not divide is cut into parts of ceil(length / parts), the last of which are shorter or
 * empty.
 */
export function place(
  shape: readonly number[],
  split: Split | undefined,
  part: number,
  parts: number,
): Placement {
  const runs = shape.map((size, dim) => {
    if (dim !== split?.dim) return [[0, size] as const];
    return runsOf(split.segments ?? [size], part, parts);
  });
  if (split) checkSplit(shape, split);
  const localShape = runs.map((list) => list.reduce((sum, [, length]) => sum + length, 0));
  return { globalShape: shape, localShape, runs };
}

/**
 * Maximal contiguous runs [start, length] (row-major element numbers of the global tensor) of the
 * local elements [from, to) of a placement, in local order.
 */
export function elementRuns(
  { globalShape, runs }: Placement,
  from: number,
  to: number,
): readonly (readonly [number, number])[] {
  const box = globalShape.flatMap((size, dim) => [size, runs[dim]!.length, ...runs[dim]!.flat()]);
  giveList(box, "elementRuns");
  const status = native().xl_mesh_element_runs(globalShape.length, from, to);
  return takeRows(status, "elementRuns", 2) as unknown as (readonly [number, number])[];
}

function runsOf(segments: readonly number[], part: number, parts: number) {
  giveList(segments, "place");
  const status = native().xl_mesh_place(int32(part, "a part"), int32(parts, "a number of parts"));
  return takeRows(status, "place", 2) as unknown as (readonly [number, number])[];
}

function checkSplit(shape: readonly number[], { dim, segments }: Split): void {
  const size = shape[dim];
  if (size === undefined) {
    throw new RangeError(`place: dim ${dim} is split, the shape [${shape.join(", ")}] has none`);
  }
  const total = segments?.reduce((sum, length) => sum + length, 0) ?? size;
  if (total === size) return;
  throw new RangeError(
    `place: segments ${segments!.join(" + ")} = ${total} of dim ${dim}, which has ${size} elements`,
  );
}
