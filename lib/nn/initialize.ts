// Initial values of parameters (models.md §7, mesh.md §14). Element e of a parameter depends on
// (seed, name, e) alone, e counted over the global tensor: any part of it is drawn where it lies,
// with the bits that one process would draw.

import { check, native } from "../native/library.ts";
import {
  full,
  noGrad,
  onDevice,
  reshape,
  scope,
  slice,
  type Tensor,
  tensor,
  write,
} from "../tensor/index.ts";
import { type Key, keyOf } from "../tensor/random.ts";
import { putFloats } from "../tensor/tensor.ts";
import type { Initializer } from "./init.ts";

/** Element numbers of a global tensor, [first, length] each. */
export type Runs = readonly (readonly [number, number])[];

/** The parameter that is filled, and which of its global elements lie in the target, in order. */
export interface Filling {
  readonly name: string;
  readonly init: Initializer;
  readonly seed: number;
  readonly runs: Runs;
}

/** Fills a contiguous tensor with elements of a parameter, in place. */
export function fill(target: Tensor, { name, init, seed, runs }: Filling): void {
  const key = keyOf(name, seed);
  noGrad(() =>
    scope(() => {
      switch (init.kind) {
        case "normal":
          return draw(target, { kind: 1, key, scale: init.std, offset: 0, runs });
        case "truncatedNormal":
          return draw(target, { kind: 2, key, scale: init.std, offset: 0, runs });
        case "uniform":
          return draw(target, {
            kind: 0,
            key,
            scale: init.high - init.low,
            offset: init.low,
            runs,
          });
        case "constant":
          write(
            target,
            onDevice(target.device, () => full([], init.value, target.dtype)),
          );
          return;
        case "values": {
          const { values } = init;
          const own = runs.flatMap(([first, length]) => values.slice(first, first + length));
          const data = Float64Array.from(own);
          write(
            target,
            onDevice(target.device, () => tensor(data, { shape: target.shape })),
          );
          return;
        }
      }
    }),
  );
}

interface Distribution {
  /** Native number of the distribution. */
  readonly kind: number;
  readonly key: Key;
  readonly scale: number;
  readonly offset: number;
  readonly runs: Runs;
}

function draw(target: Tensor, { kind, key, scale, offset, runs }: Distribution): void {
  const into = (part: Tensor, first: number) => {
    putFloats([scale, offset]);
    const status = native().xl_random_into(kind, part.handle, key.low, key.high, first);
    check(status, "initialize");
  };
  if (runs.length === 1) return into(target, runs[0]![0]);
  const flat = reshape(target, [target.size]);
  let at = 0;
  for (const [first, length] of runs) {
    using part = slice(flat, 0, at, at + length);
    into(part, first);
    at += length;
  }
}
