// Cross entropy. The loss is a SUM over valid tokens and comes with their count, so that losses of
// microbatches and ranks add up and are divided once (training.md §3.1).

import { native } from "../../native/library.ts";
import { factorOf, scaled } from "../expected.ts";
import { gradientDtype } from "../joint.ts";
import { needsGrad, record, recorded } from "../tape.ts";
import { handleOf, putFloats, result, results, type Tensor } from "../tensor.ts";
import { cast } from "./view.ts";

export interface LossOptions {
  /** u8 of the targets' shape; 0 = not a valid token. Default: all valid. */
  mask?: Tensor | undefined;
  /** cap·tanh(logits/cap) first; null = off. */
  softCap?: number | null;
  labelSmoothing?: number;
  /** λ·Σ logsumexp². */
  zLoss?: number;
  /**
   * What the gradient of the loss will be, if it is known: `linearCrossEntropy` makes its gradients
   * for it, and need not multiply them by another one. Default: 1 / targets on a GPU (their mean),
   * else 1.
   */
  expectedGradient?: number | undefined;
}

export interface LossSum {
  /** Σ loss over valid tokens, []. */
  loss: Tensor;
  /** Valid tokens, i32 []. */
  count: Tensor;
  /** Valid tokens whose most likely class is the target, i32 []. */
  correct: Tensor;
  /** Loss of each token in the targets' shape; 0 where not valid. Without gradient. */
  perToken: Tensor;
}

/** `scale` multiplies the gradients of the fused head. */
function putOptions(options: LossOptions, scale = 1): void {
  const cap = options.softCap;
  if (cap !== null && cap !== undefined && !(cap > 0)) {
    throw new RangeError(`softCap: ${cap} is not positive; use null for off`);
  }
  putFloats([cap ?? 0, options.labelSmoothing ?? 0, options.zLoss ?? 0, scale]);
}

/** Of logits [.., V] and targets i32 [..]. */
export function crossEntropy(logits: Tensor, targets: Tensor, options: LossOptions = {}): LossSum {
  putOptions(options);
  const mask = handleOf(options.mask);
  const outputs = results(
    native().xl_cross_entropy(logits.handle, targets.handle, mask),
    "crossEntropy",
  );
  const [loss, count, correct, perToken, lse] = outputs as [Tensor, Tensor, Tensor, Tensor, Tensor];
  recorded("crossEntropy", [logits], loss, (dloss) => {
    putOptions(options);
    const status = native().xl_cross_entropy_backward(
      logits.handle,
      targets.handle,
      mask,
      lse.handle,
      dloss.handle,
      0,
    );
    return [result(status, "crossEntropy")];
  });
  return { loss, count, correct, perToken };
}

/**
 * Language-model head and loss in one operation: hidden [.., D], weight [V, D], targets i32 [..].
 * Never holds more than a chunk of logits; gradients are made in the forward pass, while the chunk
 * is there.
 */
export function linearCrossEntropy(
  hidden: Tensor,
  weight: Tensor,
  targets: Tensor,
  options: LossOptions = {},
): LossSum {
  const scale = options.expectedGradient ?? usualGradient(hidden, targets);
  if (!(scale > 0)) throw new RangeError(`expectedGradient: ${scale} is not positive`);
  putOptions(options, scale);
  const gradients = needsGrad(hidden, weight);
  const outputs = results(
    native().xl_linear_cross_entropy(
      hidden.handle,
      weight.handle,
      targets.handle,
      handleOf(options.mask),
      gradients ? 1 : 0,
    ),
    "linearCrossEntropy",
  );
  const [loss, count, correct, perToken] = outputs as [Tensor, Tensor, Tensor, Tensor];
  const [dhidden, dweight] = outputs.slice(4);
  record("linearCrossEntropy", [hidden, weight], [loss], ([dloss]) => {
    using dh = dhidden!;
    using dw = dweight!;
    const factor = factorOf(dloss!, scale);
    return [
      hidden.requiresGrad ? scaled(dh, factor) : null,
      weight.requiresGrad ? cast(scaled(dw, factor), gradientDtype(weight)) : null,
    ];
  });
  return { loss, count, correct, perToken };
}

/**
 * On a GPU multiplying the gradients costs a reading and writing of [V, D], and as much memory:
 * they are made for the mean, which is what training asks for.
 */
function usualGradient(hidden: Tensor, targets: Tensor): number {
  return hidden.device === "cuda" && targets.size > 0 ? 1 / targets.size : 1;
}
