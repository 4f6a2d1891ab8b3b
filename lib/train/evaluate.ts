// Loss over a validation set: sums over all counted tokens, so that the mean is one over tokens and
// not over batches (training.md §3.3).

import type { MaskedBatch } from "../data/batches.ts";
import type { XLSTM } from "../nn/model.ts";
import { noGrad, scope } from "../tensor/index.ts";
import { type Microbatch, microbatchesOf } from "./microbatches.ts";
import { Parallel } from "./parallel.ts";
import { forwardSums } from "./pass.ts";

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
 * after each batch, so that signals arrive. On a mesh every rank calls it with the same batches,
 * takes its rows of each, and gets the result of all. RangeError when no token counts.
 */
export async function evaluate(
  model: XLSTM,
  batches: Iterable<MaskedBatch>,
  parallel = new Parallel(model),
): Promise<EvaluationResult> {
  let sums = [0, 0, 0];
  for (const batch of batches) {
    const own = shareOf(batch, parallel);
    const more = noGrad(() => scope(() => forwardSums(parallel, own)));
    sums = sums.map((sum, i) => sum + more[i]!);
    await new Promise(setImmediate);
  }
  const all = parallel.sumOverData(sums, "evaluation", { stages: true });
  const [loss, correct, tokens] = all as [number, number, number];
  parallel.shards.fsdp?.release();
  if (tokens === 0) throw new RangeError("evaluate(): no token of the set counts");
  const mean = loss / tokens;
  return { loss: mean, bits: mean / Math.LN2, accuracy: correct / tokens, tokens };
}

/** This rank's rows; ranks without a row of their own get one that does not count. */
function shareOf(batch: MaskedBatch, { dataRank: rank, dataSize: ranks }: Parallel): Microbatch {
  const rows = Math.ceil(batch.size / ranks) * ranks;
  const share = { rank, ranks, pieces: 1 };
  return microbatchesOf(rows === batch.size ? batch : padded(batch, rows), share)[0]!;
}

/** The batch with rows of zeros at the end, whose targets do not count. */
function padded(batch: MaskedBatch, rows: number): MaskedBatch {
  const shape = [rows, batch.length] as const;
  const size = rows * batch.length;
  const fill = <A extends Int32Array | Uint8Array>(into: A, from: A) => {
    into.set(from);
    return { data: into, shape };
  };
  return {
    ...batch,
    size: rows,
    tokens: fill(new Int32Array(size), batch.tokens.data),
    targets: fill(new Int32Array(size), batch.targets.data),
    mask: fill(new Uint8Array(size), batch.mask.data),
  };
}
