// Initialisation rules of parameters as data (models.md §7). Filling is native and depends only on
// (seed, parameter name, global element index); these rules say what the numbers look like.

import type { ModelConfig } from "./config.ts";

/** How a parameter is filled at the start. */
export type Initializer =
  | { readonly kind: "constant"; readonly value: number }
  /** N(0, std^2); truncated: std times the standard normal cut at +-2, not variance-corrected. */
  | { readonly kind: "normal" | "truncatedNormal"; readonly std: number }
  /** U(low, high). */
  | { readonly kind: "uniform"; readonly low: number; readonly high: number }
  /** Every element, row-major over the global shape. */
  | { readonly kind: "values"; readonly values: readonly number[] };

/** Index of the forget gate in the order i, f, z, o. */
const forgetGate = 1;

export const zeros: Initializer = { kind: "constant", value: 0 };

type Distribution = ModelConfig["initDistribution"];

/** Random values of a standard deviation; a uniform distribution spans +-sqrt(3) std. */
export function spread(distribution: Distribution, std: number): Initializer {
  if (std === 0) return zeros;
  if (distribution !== "uniform") return { kind: distribution, std };
  return symmetric(Math.sqrt(3) * std);
}

/** U(-limit, limit). */
export function symmetric(limit: number): Initializer {
  return { kind: "uniform", low: -limit, high: limit };
}

/** small(d): sqrt(2 / (5 d)). */
export function smallStd(dim: number): number {
  return Math.sqrt(2 / (5 * dim));
}

/** Standard deviation of a branch's output projection: wang(d) is 2 / (numBlocks sqrt(d)). */
export function outputStd(rule: ModelConfig["outputInit"], dim: number, blocks: number): number {
  switch (rule) {
    case "wang":
      return 2 / (blocks * Math.sqrt(dim));
    case "wang2":
      return 1 / (blocks * Math.sqrt(dim));
    case "small":
      return smallStd(dim);
    case "zeros":
      return 0;
  }
}

/** Bias [NH] of a gate: a number, a range [a, b] in equal steps over the heads, or N(0, 0.1^2). */
export function gateBias(
  setting: ModelConfig["mlstm"]["iGateBiasInit"],
  numHeads: number,
): Initializer {
  if (setting === "normal") return { kind: "normal", std: 0.1 };
  if (typeof setting === "number") return { kind: "constant", value: setting };
  const [first, last] = setting;
  const step = numHeads > 1 ? (last - first) / (numHeads - 1) : 0;
  return { kind: "values", values: Array.from({ length: numHeads }, (_, i) => first + step * i) };
}

/**
 * Bias [4, NH, DH] of an sLSTM cell: zero but for the forget gate, which is the same in every head
 * and, by default, falls from 5 to -7 over the head's cells, later in lower blocks.
 */
export function slstmBias(config: ModelConfig, blockIndex: number): Initializer {
  const heads = config.slstm.numHeads;
  const width = config.embeddingDim / heads;
  const place = (j: number) => (width > 1 ? j / (width - 1) : 0);
  const filled = (value: (j: number) => number): Initializer => ({
    kind: "values",
    values: Array.from({ length: 4 * heads * width }, (_, at) =>
      Math.floor(at / (heads * width)) === forgetGate ? value(at % width) : 0,
    ),
  });
  switch (config.slstm.biasInit) {
    case "zeros":
      return zeros;
    case "standard":
      return symmetric(1 / Math.sqrt(config.embeddingDim));
    case "smallInit":
      return filled((j) => 3 + 3 * place(j));
    case "powerlawBlockDependent": {
      const depth = config.numBlocks > 1 ? blockIndex / (config.numBlocks - 1) : 0;
      return filled((j) => 5 - 12 * place(j) ** (0.3 + 1.3 * depth));
    }
  }
}
