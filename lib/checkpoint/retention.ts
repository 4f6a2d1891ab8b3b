// Which checkpoints stay when a new one has been committed.

import { readManifest } from "./manifest.ts";

export interface Keep {
  /** The newest so many stay; at least 1, for the newest is the last good one. */
  readonly newest: number;
  /** The `count` best by a metric of the manifest stay, too. */
  readonly best?: {
    readonly count: number;
    readonly metric: string;
    readonly mode: "min" | "max";
  };
  /** Steps that are multiples of this stay for ever. */
  readonly every?: number;
}

interface Kept {
  readonly step: number;
  readonly path: string;
}

/** The checkpoints that may go; `checkpoints` are sorted newest first. */
export function removable<T extends Kept>(checkpoints: readonly T[], keep: Keep): T[] {
  for (const [name, value] of [
    ["newest", keep.newest],
    ["every", keep.every ?? 1],
    ["best.count", keep.best?.count ?? 1],
  ] as const) {
    if (Number.isSafeInteger(value) && value >= 1) continue;
    throw new RangeError(`keep.${name} is ${value}, expected an integer from 1 on`);
  }
  const kept = new Set(checkpoints.slice(0, keep.newest));
  for (const checkpoint of best(checkpoints, keep.best)) kept.add(checkpoint);
  return checkpoints.filter((checkpoint) => {
    const periodic = keep.every !== undefined && checkpoint.step % keep.every === 0;
    return !kept.has(checkpoint) && !periodic;
  });
}

/**
 * The best by metric, newer ones first among equals; those without the metric do not compete. One
 * whose manifest cannot be read stays: it may be the best.
 */
function best<T extends Kept>(checkpoints: readonly T[], by: Keep["best"]): T[] {
  if (!by) return [];
  const sign = by.mode === "min" ? 1 : -1;
  const unreadable: T[] = [];
  const rated: { checkpoint: T; value: number }[] = [];
  for (const checkpoint of checkpoints) {
    try {
      const value = readManifest(checkpoint.path).metrics[by.metric];
      if (typeof value === "number") rated.push({ checkpoint, value: sign * value });
    } catch {
      unreadable.push(checkpoint);
    }
  }
  rated.sort((a, b) => a.value - b.value || b.checkpoint.step - a.checkpoint.step);
  return [...unreadable, ...rated.slice(0, by.count).map(({ checkpoint }) => checkpoint)];
}
