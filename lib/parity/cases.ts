// What every mesh of the parity table trains: three kinds of models and one batch with all that is
// hard about averaging (mesh.md §6, §22).

import type { ModelConfigInput } from "../nn/config.ts";
import type { Initializer } from "../nn/init.ts";
import type { XLSTM } from "../nn/model.ts";
import { initialize } from "../nn/parameter.ts";
import { keyOf } from "../tensor/random.ts";
import type { AnyBatch } from "../train/microbatches.ts";

export const kinds = ["v1", "paper", "mixed"] as const;
export type Kind = (typeof kinds)[number];

export const precisions = ["f64", "f32"] as const;
export type Precision = (typeof precisions)[number];

/** Rows of the global batch and tokens of each. */
export const rows = 32;
export const tokens = 32;

/**
 * Where a query meets no key, the head norm divides by next to nothing, and gradients are mostly
 * rounding: with the usual 1e-6 an f64 gradient of 8 blocks has 10 digits, with this one 14.
 */
const headNormEps = 1e-1;

/** A model of `blocks` blocks. The vocabulary of the mixed kind does not divide over ranks. */
export function configOf(kind: Kind, blocks: number, dtype: Precision | "bf16"): ModelConfigInput {
  const backend = { name: "chunkwise", chunkSize: 16 } as const;
  const mlstm = { gradMode: "exact", backend, headNormEps } as const;
  const shared = { embeddingDim: 64, numBlocks: blocks, numHeads: 8, dtype, lmHeadDtype: dtype };
  switch (kind) {
    case "v1":
      return { ...shared, vocabSize: 64, mlstm: { ...mlstm, qkNorm: true } };
    case "paper":
      return { ...shared, vocabSize: 64, block: "paper", mlstm };
    case "mixed":
      return { ...shared, vocabSize: 61, mlstm, slstmAt: [1] };
  }
}

/** Vocabulary of a kind. */
function vocabularyOf(kind: Kind): number {
  return kind === "mixed" ? 61 : 64;
}

/**
 * Fills every parameter with random values: at their initial ones gates are closed, biases and
 * recurrent weights are zero, and most mistakes would not show. By global element, on any mesh.
 */
export function scramble(model: XLSTM): void {
  for (const parameter of model.parameters().values()) {
    initialize(parameter, initializerOf(parameter.name, model.config.numBlocks), 11);
  }
}

/** Branches of deep models are small: otherwise gradients explode, and rounding with them. */
function initializerOf(name: string, blocks: number): Initializer {
  if (name.endsWith("scale")) return { kind: "uniform", low: 0.7, high: 1.3 };
  if (name === "embedding.table") return { kind: "normal", std: 1 };
  const isBranch = /\.(out|down)\.weight$/.test(name);
  return { kind: "normal", std: isBranch ? 0.08 / Math.sqrt(blocks) : 0.08 };
}

/**
 * A batch of 32 rows: row 3 does not count at all, row 5 has a single valid target, the others end
 * after documents of several lengths, and the last eight are documents of two tokens each, so that
 * with dp 4 and more one rank has next to nothing to do.
 */
export function batchOf(kind: Kind, index: number): AnyBatch {
  const size = rows * tokens;
  const shape = [rows, tokens] as const;
  const vocabulary = vocabularyOf(kind);
  const ids = numbers(`parity/${kind}/${index}`, size, vocabulary);
  const next = numbers(`parity/${kind}/${index}/targets`, size, vocabulary);
  const mask = new Uint8Array(size);
  const borders = new Uint8Array(size);
  for (let row = 0; row < rows; row++) {
    const at = row * tokens;
    const length = row >= rows - 8 ? 2 : tokens - ((row * 7 + index) % 13);
    borders[at] = 1;
    if (row % 3 === 1) borders[at + 5 + (row % 11)] = 1;
    if (row === 3) continue;
    if (row === 5) mask[at + 17] = 1;
    else mask.fill(1, at, at + length);
  }
  return {
    size: rows,
    length: tokens,
    tokens: { data: ids, shape },
    targets: { data: next, shape },
    mask: { data: mask, shape },
    borders: { data: borders, shape },
    index,
    row: index * rows,
  };
}

/** Whole numbers below `limit`, by name: a linear congruential sequence from the name's key. */
function numbers(name: string, count: number, limit: number): Int32Array {
  let state = keyOf(name, 0).low >>> 0;
  return Int32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * limit);
  });
}
