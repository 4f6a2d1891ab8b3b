// The published model sizes (models.md §9) and the sizes that the speed goals are stated for.
//
//   const config = preset("mLSTMv1_7B", { contextLength: 8192 })

import { ConfigError } from "../config/errors.ts";
import { suggestion } from "../config/suggest.ts";
import { type ModelConfig, type ModelConfigInput, resolveConfig } from "./config.ts";

interface Size {
  readonly dim: number;
  readonly blocks: number;
  readonly heads: number;
  readonly vocabSize?: number;
}

/** mLSTM block with up-projection and convolution: query width = value width = inner width. */
function paper(size: Size): Omit<ModelConfigInput, "name"> {
  return { ...sizes(size), block: "paper", mlstm: { qkDimFactor: 1, iGateBiasInit: 0 } };
}

/** The block of xLSTM-7B: dense projections, a gated FFN, input gates that start almost closed. */
function v1(size: Size): Omit<ModelConfigInput, "name"> {
  return {
    ...sizes(size),
    block: "v1",
    mlstm: { qkDimFactor: 0.5, iGateBiasInit: -10 },
    ffn: { projFactor: 2.667, activation: "swish" },
  };
}

function sizes({ dim, blocks, heads, vocabSize = 50304 }: Size) {
  return { vocabSize, embeddingDim: dim, numBlocks: blocks, numHeads: heads };
}

const table = {
  mLSTM120M: paper({ dim: 768, blocks: 12, heads: 4 }),
  mLSTM165M: paper({ dim: 768, blocks: 24, heads: 4 }),
  "mLSTM1.3B": paper({ dim: 2048, blocks: 48, heads: 4 }),
  mLSTM7B: paper({ dim: 4096, blocks: 64, heads: 8 }),
  mLSTMv1_165M: v1({ dim: 768, blocks: 12, heads: 4 }),
  "mLSTMv1_1.3B": v1({ dim: 2048, blocks: 24, heads: 4 }),
  "mLSTMv1_2.7B": v1({ dim: 2560, blocks: 32, heads: 5 }),
  mLSTMv1_7B: v1({ dim: 4096, blocks: 32, heads: 8 }),
  "bench0.92M": v1({ dim: 128, blocks: 4, heads: 4, vocabSize: 256 }),
  "bench6.9M": v1({ dim: 256, blocks: 6, heads: 4, vocabSize: 4096 }),
} satisfies Record<string, Omit<ModelConfigInput, "name">>;

export type PresetName = keyof typeof table;

/** Names of all presets, smallest to largest within a family. */
export const presetNames = Object.keys(table) as readonly PresetName[];

/**
 * The resolved configuration of a preset. Top-level entries of `overrides` replace the preset's;
 * the sub-objects (`mlstm`, `ffn`, `slstm`, `slstmFfn`) are merged into it.
 * Throws a ConfigError with the nearest name when there is no such preset.
 */
export function preset(name: string, overrides: Partial<ModelConfigInput> = {}): ModelConfig {
  if (!Object.hasOwn(table, name)) {
    const message = `"${name}" is no preset${suggestion(name, presetNames)}`;
    throw new ConfigError("the model configuration is wrong", [{ path: "preset", message }]);
  }
  const base: ModelConfigInput = { name, ...table[name as PresetName] };
  return resolveConfig({
    ...base,
    ...overrides,
    ...merged("mlstm", base, overrides),
    ...merged("ffn", base, overrides),
  });
}

function merged(
  key: "mlstm" | "ffn",
  base: ModelConfigInput,
  overrides: Partial<ModelConfigInput>,
) {
  const value = { ...base[key], ...overrides[key] };
  return Object.keys(value).length > 0 ? { [key]: value } : {};
}
