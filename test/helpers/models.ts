// Tiny models of every kind, and what tests do with them.

import type { ModelConfigInput } from "../../lib/nn/config.ts";
import type { ForwardOptions, ModelOptions } from "../../lib/nn/model.ts";
import { xlstm, type XLSTM } from "../../lib/nn/model.ts";
import { noGrad, scope, tensor } from "../../lib/tensor/index.ts";
import { Random } from "./random.ts";

const sizes = { vocabSize: 11, embeddingDim: 8, numBlocks: 2, numHeads: 2 };
const ffn = { hiddenDim: 12 };
const mlstm = { gradMode: "exact", backend: { name: "chunkwise", chunkSize: 4 } } as const;
const narrow = { ...mlstm, roundMultiple: 4, qkvBlockSize: 4 };
const v1: ModelConfigInput = { ...sizes, ffn, mlstm };
const paper: ModelConfigInput = { ...sizes, block: "paper", mlstm: narrow };
const slstm: ModelConfigInput = { ...sizes, slstmAt: "all", slstmFfn: ffn };
const mixed: ModelConfigInput = { ...v1, slstmAt: [1], slstmFfn: ffn };

/** One configuration for every branch that a forward pass can take. */
export const configs = {
  v1,
  paper,
  slstm,
  mixed,
  "mixed paper": { ...paper, slstmAt: [0], slstmFfn: ffn },
  "sigmoid, normalised": { ...v1, mlstm: { ...mlstm, inputGate: "sigmoid" } },
  "sigmoid, plain": {
    ...v1,
    mlstm: { inputGate: "sigmoid", normalizeSigmoid: false, backend: mlstm.backend },
  },
  "paper, gates by head": { ...paper, mlstm: { ...narrow, gateHeadwise: true } },
  "paper, gates of the inner width": { ...paper, mlstm: { ...narrow, gateInput: "inner" } },
  "paper, gates of the convolution": { ...paper, mlstm: { ...narrow, gateInput: "conv" } },
  "paper, gates of its activation": { ...paper, mlstm: { ...narrow, gateInput: "convAct" } },
  "paper, wide values, no convolution": {
    ...paper,
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
  "paper with query and key norms": { ...paper, mlstm: { ...narrow, qkNorm: true } },
  "norms behind branches": { ...mixed, postNorm: true, normType: "layernorm" },
  "norm scales around one": { ...mixed, normResidualScale: true },
  "plain feed-forward": { ...v1, ffn: { ...ffn, type: "plain", activation: "relu2" } },
  "no feed-forward": { ...v1, ffn: { type: null } },
  "no soft caps, no last norm": {
    ...v1,
    logitSoftCap: null,
    outNorm: false,
    mlstm: { ...mlstm, gateSoftCap: null },
  },
  "plain LSTM": { ...slstm, slstm: { function: "lstm", headNorm: false, convKernelSize: 0 } },
  dropout: { ...mixed, dropout: 0.2, embeddingDropout: true },
} satisfies Record<string, ModelConfigInput>;

export type ConfigName = keyof typeof configs;

/** The kinds that tests of states and of causality go through. */
export const stateful: readonly ConfigName[] = [
  "v1",
  "paper",
  "slstm",
  "mixed",
  "mixed paper",
  "sigmoid, normalised",
  "sigmoid, plain",
];

/**
 * A model whose parameters are all random: at their initial values gates are closed, biases and
 * recurrent weights are zero, and most mistakes would not show.
 */
export function scrambled(config: ModelConfigInput, seed = 1, options: ModelOptions = {}): XLSTM {
  const model = xlstm(config, { ...options, seed });
  const random = new Random(seed);
  for (const parameter of model.parameters().values()) {
    const offset = parameter.name.endsWith("scale") && !config.normResidualScale ? 1 : 0;
    const data = random.normals(parameter.size).map((x) => offset + 0.4 * x);
    using values = tensor(data, { shape: parameter.shape });
    parameter.write_(values);
  }
  return model;
}

export interface Ids {
  readonly data: Int32Array;
  readonly shape: readonly [number, number];
}

export function tokens(rows: number, length: number, seed = 3): Ids {
  return { data: new Random(seed).ids(rows * length, sizes.vocabSize), shape: [rows, length] };
}

/** Columns [from, to) of every row. */
export function columns({ data, shape: [rows, length] }: Ids, from: number, to: number): Ids {
  const parts = Array.from({ length: rows }, (_, r) => [
    ...data.subarray(r * length + from, r * length + to),
  ]);
  return { data: Int32Array.from(parts.flat()), shape: [rows, to - from] };
}

/** Logits [rows, length, V] as plain numbers, without recording. */
export function logits(model: XLSTM, ids: Ids, options: ForwardOptions = {}): number[][][] {
  return noGrad(() =>
    scope(() => model.forward(ids, options).logits.tolist() as unknown as number[][][]),
  );
}

/** The same, cut into pieces of the given sizes that hand their state on. */
export function logitsInPieces(model: XLSTM, ids: Ids, pieces: readonly number[]): number[][][] {
  return noGrad(() =>
    scope(() => {
      let state: ForwardOptions["state"];
      let from = 0;
      const rows: number[][][] = Array.from({ length: ids.shape[0] }, () => []);
      for (const size of pieces) {
        const piece = columns(ids, from, from + size);
        const result = model.forward(piece, { state, returnState: true });
        state = result.state;
        from += size;
        const list = result.logits.tolist() as unknown as number[][][];
        list.forEach((row, r) => rows[r]!.push(...row));
      }
      return rows;
    }),
  );
}
