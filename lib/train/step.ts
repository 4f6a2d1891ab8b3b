// One training step on any mesh: gradients of all microbatches of all ranks, their norm, the
// update. Every rank takes the step together, and all of them get the same facts.

import { firstBad } from "../optim/norm.ts";
import type { NonFiniteError, Optimizer } from "../optim/optimizer.ts";
import { type Gradients, scope } from "../tensor/index.ts";
import type { Microbatch } from "./microbatches.ts";
import { firstNonFinite } from "./non_finite.ts";
import type { Parallel } from "./parallel.ts";
import { differentiate, type StepKey } from "./pass.ts";

/** Facts of one step, the same on every rank. */
export interface StepFacts {
  /** Mean loss in nats over all valid targets, before the update. */
  readonly loss: number;
  /** Global gradient norm before clipping. */
  readonly norm: number;
  readonly lr: number;
  /** Valid targets of the global batch. Without any, nothing is updated: loss and norm are 0. */
  readonly tokens: number;
}

/** A loss or a gradient was not finite; nothing was changed. The message says which. */
export class SpoiledStep extends Error {
  override readonly name = "SpoiledStep";
  readonly loss: number;

  constructor(message: string, loss: number, options?: ErrorOptions) {
    super(message, options);
    this.loss = loss;
  }
}

/** Sees the complete gradients of a step before the update, by `parallel.parameters()`. */
export type Watch = (gradients: Gradients) => void;

/**
 * Takes one step. SpoiledStep, on every rank alike, when the loss or a gradient is not finite: then
 * weights and moments are as they were.
 */
export function takeStep(
  parallel: Parallel,
  optimizer: Optimizer,
  microbatches: readonly Microbatch[],
  key: StepKey,
  watch?: Watch,
): StepFacts {
  try {
    return scope(() => step(parallel, optimizer, microbatches, key, watch));
  } finally {
    parallel.shards.fsdp?.release();
  }
}

function step(
  parallel: Parallel,
  optimizer: Optimizer,
  microbatches: readonly Microbatch[],
  key: StepKey,
  watch: Watch | undefined,
): StepFacts {
  const { mesh } = parallel;
  mesh.heartbeat(key.step + 1, "forward");
  const { loss, tokens, gradients } = differentiate(parallel, microbatches, key);
  if (!gradients) {
    const { lr } = optimizer;
    optimizer.skip();
    return { loss, norm: 0, lr, tokens };
  }
  mesh.heartbeat(key.step + 1, "optimizer");
  watch?.(gradients);
  if (!Number.isFinite(loss)) throw new SpoiledStep(whatIsBad(parallel, gradients), loss);
  try {
    const { norm, lr } = optimizer.step(gradients);
    return { loss, norm, lr, tokens };
  } catch (error) {
    if ((error as NonFiniteError).name !== "NonFiniteError") throw error;
    throw new SpoiledStep((error as NonFiniteError).message, loss, { cause: error });
  }
}

/** The first parameter, or else gradient, of the whole model that is not finite, as a sentence. */
function whatIsBad(parallel: Parallel, gradients: Gradients): string {
  const { mesh, norm } = parallel;
  const parameters = parallel.parameters();
  if (mesh.world.size === 1) return firstNonFinite(parameters, gradients);
  const parameter = firstBad(norm, parameters);
  if (parameter) return `parameter ${parameter.name} has ${parameter.count} ${notFinite}`;
  const own = [...parameters].flatMap(([name, tensor]) => {
    const gradient = gradients.get(tensor);
    return gradient ? [[name, gradient] as const] : [];
  });
  const gradient = firstBad(norm, new Map(own));
  if (gradient) return `the gradient of ${gradient.name} has ${gradient.count} ${notFinite}`;
  return "all parameters and gradients are finite, so an activation overflowed";
}

const notFinite = "values that are not finite";
