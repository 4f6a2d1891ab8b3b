// What comparing a case gives: one row per tensor, with its error and the bar it must stay under.

import type { Tensor } from "../tensor/index.ts";

export interface Row {
  readonly tensor: string;
  /** ‖x − ref‖ / ‖ref‖; 0 or Infinity for things that must be equal. */
  readonly error: number;
  readonly bar: number;
}

export type Precision = "f64" | "f32" | "bf16";

/** Relative error over all elements; `floor` is the least denominator. NaN and Inf never pass. */
export function relativeError(got: ArrayLike<number>, want: ArrayLike<number>, floor = 0): number {
  if (got.length !== want.length) return Infinity;
  let difference = 0;
  let size = 0;
  for (let i = 0; i < want.length; i++) {
    const x = got[i]!;
    const y = want[i]!;
    if (!Number.isFinite(x) || !Number.isFinite(y)) return Infinity;
    difference += (x - y) ** 2;
    size += y * y;
  }
  const denominator = Math.max(Math.sqrt(size), floor);
  if (denominator === 0) return difference === 0 ? 0 : Infinity;
  return Math.sqrt(difference) / denominator;
}

/**
 * What errors of a model's gradients are at least divided by: 1e-3 of the norm of all of them
 * together, since some nearly cancel.
 */
export function errorFloor(gradients: ReadonlyMap<string, ArrayLike<number>>): number {
  let squares = 0;
  for (const values of gradients.values()) {
    for (let i = 0; i < values.length; i++) squares += values[i]! ** 2;
  }
  return 1e-3 * Math.sqrt(squares);
}

/** Collects the rows of a case. */
export class Comparison {
  readonly rows: Row[] = [];

  /** A tensor against its reference. */
  add(tensor: string, got: Tensor | ArrayLike<number>, want: ArrayLike<number>, bar: number): void {
    const values = "dataSync" in got ? got.dataSync() : got;
    this.rows.push({ tensor, error: relativeError(values, want), bar });
  }

  /** Gradients of a whole model; `bars`: of all, or of each. */
  addGradients(
    prefix: string,
    got: ReadonlyMap<string, Tensor>,
    want: ReadonlyMap<string, ArrayLike<number>>,
    bars: number | ReadonlyMap<string, number>,
  ): void {
    const floor = errorFloor(want);
    for (const [name, reference] of want) {
      const tensor = got.get(name);
      const error = tensor ? relativeError(tensor.dataSync(), reference, floor) : Infinity;
      const bar = typeof bars === "number" ? bars : bars.get(name)!;
      this.rows.push({ tensor: prefix + name, error, bar });
    }
  }

  /** Integers that must be the same. */
  addEqual(tensor: string, got: ArrayLike<number>, want: ArrayLike<number>): void {
    let same = got.length === want.length;
    for (let i = 0; i < want.length && same; i++) same = got[i] === want[i];
    this.rows.push({ tensor, error: same ? 0 : Infinity, bar: 0 });
  }
}

export function passed(rows: readonly Row[]): boolean {
  return rows.length > 0 && rows.every(({ error, bar }) => error <= bar);
}
