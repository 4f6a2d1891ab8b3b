// A run on a mesh against the same run on one process. Without tp every bit must be the same: the
// order of all sums is. With tp products are cut differently, and only rounding may differ.

import type { Device } from "../tensor/index.ts";
import { relativeError } from "../verify/report.ts";
import type { Case, Outcome } from "./run.ts";

/** Something that differs by more than it may. */
export interface Miss {
  /** A parameter's gradient or weights, a loss, a norm. */
  readonly what: string;
  readonly error: number;
  readonly bar: number;
}

export interface Comparison {
  /** Largest relative error of a gradient. */
  readonly gradientError: number;
  readonly misses: readonly Miss[];
}

/**
 * Relative errors that rounding may make where sums are ordered differently. In f32 those of
 * tensors whose gradient nearly cancels are relative to a part of the norm of all gradients.
 */
const bars = {
  f64: { bar: 1e-12, part: 0 },
  f32: { bar: 2e-6, part: 1e-3 },
  bf16: { bar: 3e-2, part: 1e-2 },
};
/** Products of GPUs add in an order of their own for every shape. */
const gpuBars: Bars = { bar: 1e-5, part: 1e-3 };

export interface Bars {
  /** Largest relative error. */
  readonly bar: number;
  /** Errors are at least relative to this part of the norm of all gradients. */
  readonly part: number;
}

/** Equal bits. */
export const exact: Bars = { bar: 0, part: 0 };

/** What rounding may make of a case. */
export function barsOf({ dtype }: Pick<Case, "dtype">, device: Device): Bars {
  return device === "cuda" ? gpuBars : bars[dtype];
}

/** Compares everything a run gives. */
export function compare(got: Outcome, want: Outcome, { bar, part }: Bars): Comparison {
  const floor = part * Math.hypot(...[...want.gradients.values()].map(norm));
  const misses: Miss[] = [];
  const check = (what: string, error: number) => {
    if (!(error <= bar)) misses.push({ what, error, bar });
  };
  if (got.initial !== want.initial) {
    misses.push({
      what: `initial weights (${got.initial}, not ${want.initial})`,
      error: 1,
      bar: 0,
    });
  }
  let gradientError = 0;
  for (const [name, reference] of want.gradients) {
    const error = relativeError(got.gradients.get(name) ?? [], reference, floor);
    gradientError = Math.max(gradientError, error);
    check(`gradient of ${name}`, error);
  }
  for (const [name, reference] of want.weights) {
    check(`${name} after the last step`, relativeError(got.weights.get(name) ?? [], reference));
  }
  want.losses.forEach((loss, step) => {
    check(`loss of step ${step + 1}`, relativeError([got.losses[step]!], [loss]));
    check(
      `gradient norm of step ${step + 1}`,
      relativeError([got.norms[step]!], [want.norms[step]!]),
    );
  });
  return { gradientError, misses };
}

function norm(values: Float64Array): number {
  return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
}
