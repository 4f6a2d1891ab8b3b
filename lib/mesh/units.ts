// The flat vector of a unit of parameters, of which every rank of fsdp owns an equal run (mesh.md
// §7.1).

import { check, native, scratch } from "../native/library.ts";
import { int32 } from "../tensor/tensor.ts";
import { giveList, takeList } from "./lists.ts";

/**
 * Each parameter starts at a multiple of 4096 elements, and the total is a multiple of 4096 times
 * the number of shards: blocks of the norm's sum never lie on two ranks. Rank k owns elements [k *
 * chunk, (k + 1) * chunk).
 */
export interface FlatUnit {
  /** Elements of one rank. */
  readonly chunk: number;
  /** Elements of all ranks, padding included. */
  readonly total: number;
  /** Where each parameter begins. */
  readonly starts: readonly number[];
}

/** Lays out parameters of `sizes` elements for `shards` ranks. */
export function flatUnit(sizes: readonly number[], shards: number): FlatUnit {
  giveList(sizes, "flatUnit");
  const status = native().xl_mesh_flat_unit(int32(shards, "a number of shards"));
  const [chunk, total, ...starts] = takeList(status, "flatUnit");
  return { chunk: chunk!, total: total!, starts };
}

/**
 * Elements [from, to) of parameter `index` (of `size`) that rank `part` owns; from = to for none.
 */
export function ownedRange(
  unit: FlatUnit,
  index: number,
  size: number,
  part: number,
): { from: number; to: number } {
  const start = unit.starts[index];
  if (start === undefined) {
    throw new RangeError(`ownedRange: parameter ${index} of a unit of ${unit.starts.length}`);
  }
  check(native().xl_mesh_owned(unit.chunk, start, size, int32(part, "a shard")), "ownedRange");
  const [from, to] = scratch().numbers;
  return { from: from!, to: to! };
}
