// Models for meshes: what every branch of a layer does when its heads, columns and vocabulary are
// split, on a batch that has everything a batch can have.

import { type ModelConfigInput, resolveConfig } from "../../lib/nn/config.ts";
import { type Batch, type ForwardOptions, type ModelOptions, XLSTM } from "../../lib/nn/model.ts";
import { keep, type LossOptions, type Tensor, tensor } from "../../lib/tensor/index.ts";
import { Random, sizeOf } from "./random.ts";

const sizes = { vocabSize: 61, embeddingDim: 16, numBlocks: 2, numHeads: 4, dtype: "f64" } as const;
const ffn = { hiddenDim: 12 };
const mlstm = {
  gradMode: "exact",
  backend: { name: "chunkwise", chunkSize: 4 },
  resetAtDocumentBoundaries: true,
} as const;
const narrow = { ...mlstm, roundMultiple: 4, qkvBlockSize: 4 };
const v1: ModelConfigInput = { ...sizes, ffn, mlstm };
const paper: ModelConfigInput = { ...sizes, block: "paper", mlstm: narrow };
const mixed: ModelConfigInput = { ...v1, slstmAt: [1], slstmFfn: ffn };

export const parallelConfigs = {
  v1,
  paper,
  mixed,
  "sLSTM first": { ...paper, slstmAt: [0], slstmFfn: ffn },
  "even vocabulary": { ...v1, vocabSize: 64 },
  "sigmoid, plain": {
    ...v1,
    mlstm: {
      ...mlstm,
      inputGate: "sigmoid",
      normalizeSigmoid: false,
      gradMode: "frozenDenominator",
    },
  },
  "paper, gates by head": { ...paper, mlstm: { ...narrow, gateHeadwise: true } },
  "paper, gates of the inner width": { ...paper, mlstm: { ...narrow, gateInput: "inner" } },
  "paper, gates of the convolution": { ...paper, mlstm: { ...narrow, gateInput: "convAct" } },
  "paper, narrow values": {
    ...paper,
    embeddingDim: 32,
    mlstm: { ...narrow, vDimFactor: 0.5, qkDimFactor: 0.5, convKernelSize: 0 },
  },
  "tied embeddings": { ...mixed, tieEmbeddings: true },
  "biases everywhere": { ...mixed, useBias: true, normBias: "all" },
  "paper with biases, layer norms": {
    ...paper,
    useBias: true,
    normBias: "all",
    normType: "layernorm",
  },
  "query and key norms": { ...v1, mlstm: { ...mlstm, qkNorm: true } },
  "norms behind branches": { ...mixed, postNorm: true, normType: "layernorm" },
  "plain feed-forward": { ...v1, ffn: { ...ffn, type: "plain", activation: "relu2" } },
  "no soft caps, no last norm": {
    ...v1,
    logitSoftCap: null,
    outNorm: false,
    mlstm: { ...mlstm, gateSoftCap: null },
  },
  "plain LSTM": {
    ...mixed,
    slstmAt: "all",
    mlstm: { resetAtDocumentBoundaries: true },
    ffn: {},
    slstm: { function: "lstm", headNorm: false, convKernelSize: 0 },
  },
  dropout: { ...mixed, dropout: 0.2, embeddingDropout: true },
} satisfies Record<string, ModelConfigInput>;

export type ParallelName = keyof typeof parallelConfigs;

export const parallelNames = Object.keys(parallelConfigs) as ParallelName[];

export type ParallelDType = "f32" | "f64" | "bf16";

/** A model of which this process has its part; every parameter is random and known everywhere. */
export function parallelModel(
  name: ParallelName,
  options: ModelOptions & { readonly dtype?: ParallelDType | undefined } = {},
): XLSTM {
  const { dtype = "f64" } = options;
  const config = resolveConfig({ ...(parallelConfigs[name] as ModelConfigInput), dtype });
  const model = new XLSTM(config, options);
  const values = new Map<string, Tensor>();
  for (const { name: own, placement } of model.parameters().values()) {
    const random = new Random(Number(Bun.hash.crc32(own)));
    const offset = own.endsWith("scale") ? 1 : 0;
    const data = random.normals(sizeOf(placement.globalShape)).map((x) => offset + 0.3 * x);
    values.set(own, tensor(data, { shape: placement.globalShape, dtype: "f32" }));
  }
  model.load(values);
  for (const value of values.values()) value.dispose();
  return model;
}

export const rows = 3;
export const length = 16;

/**
 * Three rows: nothing counts in the first, one target in the second; documents of different lengths
 * in the third.
 */
export function parallelBatch(vocabSize: number): Batch {
  const shape = [rows, length];
  const mask = Uint8Array.from({ length: rows * length }, (_, i) =>
    Number(i === length + 6 || (i >= 2 * length && i % 5 !== 1)),
  );
  const starts = new Set([0, length, length + 7, ...[0, 1, 6, 14].map((at) => 2 * length + at)]);
  const borders = Uint8Array.from({ length: rows * length }, (_, i) => Number(starts.has(i)));
  return {
    tokens: { data: new Random(3).ids(rows * length, vocabSize), shape },
    // Every id is the target of some token, on whichever rank it lies.
    targets: { data: new Random(4).ids(rows * length, vocabSize), shape },
    mask: keep(tensor(mask, { shape })),
    borders: keep(tensor(borders, { shape })),
  };
}

export const forwardOptions: ForwardOptions & LossOptions = {
  train: true,
  dropout: { seed: 7, step: 3, sample: 40 },
};
