// The end of a run whose loss or gradients are Inf or NaN (reliability.md §4, policy `stop`).

import type { Gradients, Tensor } from "../tensor/index.ts";

export interface NonFiniteFacts {
  /** The step whose update was not made. */
  readonly step: number;
  readonly loss: number;
  /** First and last global data row of its batch. */
  readonly rows: readonly [number, number];
  /** Which parameter or gradient is not finite, as a sentence. */
  readonly where: string;
  /** The last good checkpoint. */
  readonly checkpoint: string | undefined;
}

/** Exit code 76. The weights and the last checkpoint are as they were before the step. */
export class NonFiniteStop extends Error {
  override readonly name = "NonFiniteStop";
  readonly exitCode = 76;
  readonly facts: NonFiniteFacts;

  constructor(facts: NonFiniteFacts, cause?: unknown) {
    const { step, loss, rows, where, checkpoint } = facts;
    const good = checkpoint
      ? `The last good checkpoint is ${checkpoint}.`
      : "Nothing was saved before.";
    const way = "Lower optimizer.lr, set optimizer.gradClipNorm, or lengthen the warm-up.";
    super(
      `step ${step}: the loss is ${loss}: ${where} (data rows ${rows[0]} to ${rows[1]}). ` +
        `The update was not made. ${good} ${way}`,
      cause === undefined ? undefined : { cause },
    );
    this.facts = facts;
  }
}

/** The first parameter, or else the first gradient, with a value that is not finite. */
export function firstNonFinite(
  parameters: ReadonlyMap<string, Tensor>,
  gradients: Gradients,
): string {
  const parameter = firstNonFiniteParameter(parameters);
  if (parameter) return parameter;
  for (const [name, parameter] of parameters) {
    const gradient = gradients.get(parameter);
    const count = gradient ? countNonFinite(gradient) : 0;
    if (count > 0) return `the gradient of ${name} has ${count} values that are not finite`;
  }
  return "all parameters and gradients are finite, so an activation overflowed";
}

/** The first parameter with a value that is not finite, as a sentence. */
export function firstNonFiniteParameter(
  parameters: ReadonlyMap<string, Tensor>,
): string | undefined {
  for (const [name, parameter] of parameters) {
    const count = countNonFinite(parameter);
    if (count > 0) return `parameter ${name} has ${count} values that are not finite`;
  }
  return undefined;
}

function countNonFinite(tensor: Tensor): number {
  let count = 0;
  for (const value of tensor.dataSync()) if (!Number.isFinite(value)) count++;
  return count;
}
