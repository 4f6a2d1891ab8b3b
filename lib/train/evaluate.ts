// Loss over a validation set: sums over all counted tokens, so that the mean is one over tokens and
// not over batches (training.md §3.3).

import type { MaskedBatch } from "../data/batches.ts";
import type { XLSTM } from "../nn/model.ts";
import { noGrad, scope, tensor } from "../tensor/index.ts";

export interface EvaluationResult {
  /** Mean cross entropy in nats per token. */
  readonly loss: number;
  /** The same in bits; with the byte tokenizer, bits per byte. */
  readonly bits: number;
  /** Part of the tokens whose most likely successor was right. */
  readonly accuracy: number;
  /** Tokens that counted. */
  readonly tokens: number;
}

/**
 * Mean loss of `model` over the batches, without dropout and gradients. Yields to the event loop
 * after each batch, so that signals arrive. RangeError when no token counts.
 */
export async function evaluate(
  model: XLSTM,
  batches: Iterable<MaskedBatch>,
): Promise<EvaluationResult> {
  let loss = 0;
  let correct = 0;
  let tokens = 0;
  for (const batch of batches) {
    const sums = noGrad(() => scope(() => sumsOf(model, batch)));
    loss += sums.loss;
    correct += sums.correct;
    tokens += sums.tokens;
    await new Promise(setImmediate);
  }
  if (tokens === 0) throw new RangeError("evaluate(): no token of the set counts");
  const mean = loss / tokens;
  return { loss: mean, bits: mean / Math.LN2, accuracy: correct / tokens, tokens };
}

function sumsOf(model: XLSTM, batch: MaskedBatch) {
  const mask = tensor(batch.mask.data, { shape: batch.mask.shape });
  const { tokens, targets } = batch;
  const { loss, correct, count } = model.lossSum({ tokens, targets, mask });
  return { loss: loss.item(), correct: correct.item(), tokens: count.item() };
}
