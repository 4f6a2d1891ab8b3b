// Checks of a complete model configuration before anything is allocated (models.md §1.6): sizes
// that must divide each other, and settings that would have no effect in this model.

import { type ConfigIssue, show } from "../config/errors.ts";
import type { BlockKind, ModelConfig, ParsedConfig } from "./config.ts";
import { blockKinds, mlstmWidths, resolveDefaults } from "./config_defaults.ts";

/** Everything wrong with a configuration; empty when it can be built. */
export function checkConfig(parsed: ParsedConfig, config: ModelConfig): ConfigIssue[] {
  return [...checkSizes(config), ...checkPositions(config), ...checkEffect(parsed, config)];
}

function checkSizes(config: ModelConfig): ConfigIssue[] {
  const kinds = new Set(blockKinds(config));
  const issues: ConfigIssue[] = [];
  if (config.vocabSize < 1) {
    const message = `${config.vocabSize} means "as large as the tokenizer's"; pass tokenizerSize`;
    issues.push({ path: "vocabSize", message: `${message}, or a size above 0` });
  }
  if (kinds.has("v1")) issues.push(...checkMlstm(config, "v1"));
  if (kinds.has("paper")) issues.push(...checkMlstm(config, "paper"), ...checkHeadwise(config));
  if (kinds.has("slstm")) {
    const numHeads = config.slstm.numHeads;
    issues.push(...divides("slstm.numHeads", numHeads, "embeddingDim", config.embeddingDim));
  }
  return issues;
}

function checkMlstm(config: ModelConfig, kind: "v1" | "paper"): ConfigIssue[] {
  const { inner, query, value } = mlstmWidths(config, kind);
  const { numHeads, qkDimFactor, vDimFactor } = config.mlstm;
  const base = kind === "paper" ? "the inner width" : "embeddingDim";
  return [
    ...divides("mlstm.numHeads", numHeads, base, inner),
    ...divides("mlstm.numHeads", numHeads, `the query width (qkDimFactor ${qkDimFactor})`, query),
    ...divides("mlstm.numHeads", numHeads, `the value width (vDimFactor ${vDimFactor})`, value),
  ];
}

function checkHeadwise(config: ModelConfig): ConfigIssue[] {
  const { inner } = mlstmWidths(config, "paper");
  const { numHeads, qkvBlockSize, qkDimFactor, vDimFactor } = config.mlstm;
  const issues: ConfigIssue[] = [];
  const unit = numHeads * qkvBlockSize;
  if (inner % unit !== 0) {
    const message = `numHeads ${numHeads} x qkvBlockSize ${qkvBlockSize} = ${unit} does not divide`;
    issues.push({ path: "mlstm.qkvBlockSize", message: `${message} the inner width ${inner}` });
  }
  for (const [name, factor] of Object.entries({ qkDimFactor, vDimFactor })) {
    const width = qkvBlockSize * factor;
    if (Number.isInteger(width)) continue;
    const product = `${factor} x qkvBlockSize ${qkvBlockSize} = ${width}`;
    const message = `${product} is not a whole block width`;
    issues.push({ path: `mlstm.${name}`, message });
  }
  return issues;
}

function divides(path: string, count: number, of: string, width: number): ConfigIssue[] {
  if (width >= count && width % count === 0) return [];
  const fitting = [1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32].filter((n) => width % n === 0);
  const message = `${count} does not divide ${of} ${width}; these do: ${fitting.join(", ")}`;
  return [{ path, message }];
}

function checkPositions(config: ModelConfig): ConfigIssue[] {
  const { slstmAt, numBlocks } = config;
  const outside = slstmAt.filter((index) => index >= numBlocks);
  const repeated = slstmAt.filter((index, place) => slstmAt.indexOf(index) !== place);
  const issues: ConfigIssue[] = [];
  if (outside.length > 0) {
    const range = `0..${numBlocks - 1} (numBlocks ${numBlocks})`;
    const message = `${outside.join(", ")} lies outside of ${range}`;
    issues.push({ path: "slstmAt", message });
  }
  if (repeated.length > 0) {
    issues.push({ path: "slstmAt", message: `${repeated.join(", ")} is listed twice` });
  }
  return issues;
}

/** A setting that has no effect unless `acts`; it may then only hold its default. */
interface Condition {
  readonly paths: readonly string[];
  readonly acts: (config: ModelConfig, kinds: ReadonlySet<BlockKind>) => boolean;
  readonly because: (config: ModelConfig) => string;
}

const paperOnly = [
  "projFactor",
  "convKernelSize",
  "qkvBlockSize",
  "gateInput",
  "gateHeadwise",
  "roundUp",
  "roundMultiple",
].map((key) => `mlstm.${key}`);

const conditions: readonly Condition[] = [
  {
    paths: ["mlstm"],
    acts: (_, kinds) => kinds.has("v1") || kinds.has("paper"),
    because: () => "the model has only sLSTM blocks",
  },
  {
    paths: ["slstm", "slstmFfn"],
    acts: (_, kinds) => kinds.has("slstm"),
    because: () => "the model has no sLSTM block; list some in slstmAt",
  },
  {
    paths: ["ffn"],
    acts: (_, kinds) => kinds.has("v1"),
    because: () => 'only "v1" blocks have this FFN (sLSTM blocks have slstmFfn)',
  },
  {
    paths: paperOnly,
    acts: (_, kinds) => kinds.has("paper"),
    because: (config) => `it belongs to block "paper" and block is "${config.block}"`,
  },
  {
    paths: ["mlstm.normalizeSigmoid"],
    acts: (config) => config.mlstm.inputGate === "sigmoid",
    because: () => 'inputGate is "exp", which always normalises',
  },
  {
    paths: ["mlstm.cellEps", "mlstm.gradMode"],
    acts: ({ mlstm }) => mlstm.inputGate === "exp" || mlstm.normalizeSigmoid,
    because: () => "normalizeSigmoid is false, so there is no denominator",
  },
  {
    paths: ["mlstm.resetMode"],
    acts: (config) => config.mlstm.resetAtDocumentBoundaries,
    because: () => "resetAtDocumentBoundaries is false",
  },
  {
    paths: ["mlstm.resetForgetValue"],
    acts: ({ mlstm }) => mlstm.resetAtDocumentBoundaries && mlstm.resetMode === "soft",
    because: () => 'only resetMode "soft" with resetAtDocumentBoundaries uses it',
  },
  {
    paths: ["mlstm.backend.chunkSize"],
    acts: ({ mlstm }) => ["auto", "chunkwise"].includes(mlstm.backend.name),
    because: (config) => `backend "${config.mlstm.backend.name}" has no chunks`,
  },
  {
    paths: ["slstm.gradRecurrentClip"],
    acts: (config) => !config.slstm.gradRecurrentCut,
    because: () => "gradRecurrentCut already removes the recurrent gradient",
  },
  {
    paths: ["embeddingDropout"],
    acts: (config) => config.dropout > 0,
    because: () => "dropout is 0",
  },
  {
    paths: ["initDistributionOut"],
    acts: (config) => !config.tieEmbeddings,
    because: () => "the head is the embedding table (tieEmbeddings)",
  },
];

function checkEffect(parsed: ParsedConfig, config: ModelConfig): ConfigIssue[] {
  const kinds = new Set(blockKinds(config));
  const { vocabSize, embeddingDim, numBlocks, block, normType, slstmAt } = config;
  const { dropout, useBias } = config;
  const causes = { vocabSize, embeddingDim, numBlocks, block, normType, slstmAt, dropout, useBias };
  const defaults = resolveDefaults(causes);
  const issues: ConfigIssue[] = [];
  const idle = conditions.filter((condition) => !condition.acts(config, kinds));
  for (const condition of idle) {
    for (const path of condition.paths) {
      for (const [leaf, value] of leaves(path, at(parsed, path))) {
        if (actsInSlstm(leaf, config, kinds)) continue;
        if (isDefault(leaf, value, at(defaults, leaf))) continue;
        const message = `${show(value)} has no effect: ${condition.because(config)}`;
        issues.push({ path: leaf, message: `${message}. Remove it` });
      }
    }
  }
  if (config.block === "slstm" && config.slstmAt.length > 0 && config.slstmAt.length < numBlocks) {
    const message = 'has no effect: block is "slstm", so every block is one. Remove it';
    issues.push({ path: "slstmAt", message });
  }
  return unique(issues);
}

/**
 * The head norm of an sLSTM block shares its kind and epsilon with the mLSTM's, and documents reset
 * both kinds of cells.
 */
function actsInSlstm(path: string, config: ModelConfig, kinds: ReadonlySet<BlockKind>): boolean {
  if (!kinds.has("slstm")) return false;
  if (path === "mlstm.resetAtDocumentBoundaries") return true;
  const isHeadNorm = path === "mlstm.headNormEps" || path === "mlstm.headNormType";
  return isHeadNorm && config.slstm.headNorm;
}

function isDefault(path: string, value: unknown, usual: unknown): boolean {
  const inherits = value === null && /\.(hiddenDim|dropout|useBias)$/.test(path);
  return inherits || JSON.stringify(value) === JSON.stringify(usual);
}

/** The values below a path that the user set, with their full paths. */
function leaves(path: string, value: unknown): [string, unknown][] {
  if (value === undefined || value === null) return value === null ? [[path, null]] : [];
  if (typeof value !== "object" || Array.isArray(value)) return [[path, value]];
  return Object.entries(value).flatMap(([key, inner]) => leaves(`${path}.${key}`, inner));
}

function at(config: object, path: string): unknown {
  let value: unknown = config;
  for (const key of path.split(".")) value = (value as Record<string, unknown> | undefined)?.[key];
  return value;
}

function unique(issues: readonly ConfigIssue[]): ConfigIssue[] {
  const seen = new Set<string>();
  return issues.filter(({ path }) => !seen.has(path) && seen.add(path));
}
