// Defaults and derived widths of a model configuration (models.md §1, §2.7, §4).

import type {
  BlockKind,
  FeedForwardConfig,
  MlstmConfig,
  ModelConfig,
  ParsedConfig,
  SlstmConfig,
} from "./config.ts";

/** Fills in every default. The result is complete, but not checked. */
export function resolveDefaults(parsed: ParsedConfig, tokenizerSize?: number): ModelConfig {
  const { numHeads, mlstm, ffn, slstm, slstmFfn, slstmAt, vocabSize, ...rest } = parsed;
  const top = {
    name: "xlstm",
    family: "xlstm" as const,
    contextLength: null,
    tieEmbeddings: false,
    useBias: false,
    normBias: "none" as const,
    dropout: 0,
    embeddingDropout: false,
    normType: "rmsnorm" as const,
    normEps: 1e-6,
    normResidualScale: false,
    postNorm: false,
    outNorm: true,
    logitSoftCap: 30,
    dtype: "auto" as const,
    lmHeadDtype: "auto" as const,
    initDistribution: "normal" as const,
    initDistributionEmbed: "normal" as const,
    initDistributionOut: "normal" as const,
    outputInit: "wang" as const,
    block: "v1" as const,
    stackedLayers: false as const,
    ...given(rest),
  };
  const positions = sLstmPositions(slstmAt, top.numBlocks);
  const kinds = new Set(blockKinds({ ...top, slstmAt: positions }));
  const heads = (kind: boolean) => (numHeads !== undefined && kind ? { numHeads } : {});
  const mlstmHeads = heads(kinds.has("v1") || kinds.has("paper"));
  const ffnContext = { embeddingDim: top.embeddingDim, dropout: top.dropout, bias: top.useBias };
  return {
    ...top,
    vocabSize: roundedVocabulary(vocabSize, tokenizerSize),
    slstmAt: positions,
    mlstm: { ...mlstmDefaults(top), ...mlstmHeads, ...given(mlstm), backend: backendOf(mlstm) },
    ffn: completeFfn({ projFactor: 2.667, activation: "swish" }, ffn, ffnContext),
    slstm: { ...slstmDefaults(), ...heads(kinds.has("slstm")), ...given(slstm) },
    slstmFfn: completeFfn({ projFactor: 1.3, activation: "gelu" }, slstmFfn, ffnContext),
  };
}

function mlstmDefaults(top: Pick<ModelConfig, "block" | "normType">): MlstmConfig {
  const paper = top.block === "paper";
  return {
    numHeads: 4,
    qkDimFactor: paper ? 1 : 0.5,
    vDimFactor: 1,
    inputGate: "exp",
    normalizeSigmoid: true,
    gateDtype: "f32",
    gateSoftCap: 15,
    iGateBiasInit: paper ? 0 : -10,
    fGateBiasInit: [3, 6],
    qkNorm: false,
    headNormType: paper ? top.normType : "layernorm",
    headNormEps: 1e-6,
    cellEps: 1e-6,
    resetAtDocumentBoundaries: false,
    resetMode: "exact",
    resetForgetValue: -25,
    backend: backendOf(undefined),
    gradMode: "frozenDenominator",
    projFactor: 2,
    convKernelSize: 4,
    qkvBlockSize: 4,
    gateInput: "qkv",
    gateHeadwise: false,
    roundUp: true,
    roundMultiple: 64,
  };
}

function backendOf(mlstm: ParsedConfig["mlstm"]): MlstmConfig["backend"] {
  return { name: "auto", chunkSize: "auto", ...given(mlstm?.backend) };
}

function slstmDefaults(): SlstmConfig {
  return {
    numHeads: 4,
    convKernelSize: 4,
    headNorm: true,
    biasInit: "powerlawBlockDependent",
    recurrentInit: "zeros",
    function: "slstm",
    forwardClip: null,
    gradRecurrentClip: null,
    gradRecurrentCut: false,
    biasDtype: "f32",
    stateDtype: "f32",
    gateNames: "function",
  };
}

function completeFfn(
  defaults: Pick<FeedForwardConfig, "projFactor" | "activation">,
  input: ParsedConfig["ffn"],
  inherited: { embeddingDim: number; dropout: number; bias: boolean },
): FeedForwardConfig {
  const ffn = {
    type: "gated" as const,
    roundMultiple: 64,
    roundUp: true,
    ...defaults,
    ...given(input),
  };
  return {
    ...ffn,
    hiddenDim: input?.hiddenDim ?? roundedWidth(inherited.embeddingDim, ffn),
    dropout: input?.dropout ?? inherited.dropout,
    useBias: input?.useBias ?? inherited.bias,
  };
}

/** The kind of every block, bottom to top (models.md §5). */
export function blockKinds(
  config: Pick<ModelConfig, "numBlocks" | "slstmAt" | "block">,
): BlockKind[] {
  const slstmAt = new Set(config.slstmAt);
  return Array.from({ length: config.numBlocks }, (_, index) =>
    slstmAt.has(index) ? "slstm" : config.block,
  );
}

/** `dim * projFactor` rounded up (or down) to the multiple, at least one multiple (§2.7). */
export function roundedWidth(
  dim: number,
  rule: { projFactor: number; roundMultiple: number; roundUp: boolean },
): number {
  const multiples = (dim * rule.projFactor) / rule.roundMultiple;
  const whole = rule.roundUp ? Math.ceil(multiples) : Math.floor(multiples);
  return Math.max(1, whole) * rule.roundMultiple;
}

/** Widths of the mLSTM of a v1 or paper block (§4.1, §4.2). */
export interface MlstmWidths {
  /** Width the projections work on: I of a paper block, D of a v1 block. */
  readonly inner: number;
  /** Query and key width of all heads together, Qd. */
  readonly query: number;
  /** Value width of all heads together, Vd. */
  readonly value: number;
  /** DQK. */
  readonly headQuery: number;
  /** DHV. */
  readonly headValue: number;
}

/** The widths that a configuration gives the mLSTM of a block of this kind. */
export function mlstmWidths(
  config: Pick<ModelConfig, "embeddingDim" | "mlstm">,
  kind: "v1" | "paper",
): MlstmWidths {
  const { mlstm, embeddingDim } = config;
  const inner = kind === "paper" ? roundedWidth(embeddingDim, mlstm) : embeddingDim;
  const round = kind === "paper" ? Math.round : Math.floor;
  const query = round(inner * mlstm.qkDimFactor);
  const value = round(inner * mlstm.vDimFactor);
  return {
    inner,
    query,
    value,
    headQuery: query / mlstm.numHeads,
    headValue: value / mlstm.numHeads,
  };
}

function sLstmPositions(slstmAt: ParsedConfig["slstmAt"], numBlocks: number): number[] {
  if (slstmAt === "all") return Array.from({ length: numBlocks }, (_, index) => index);
  return [...(slstmAt ?? [])].toSorted((a, b) => a - b);
}

function roundedVocabulary(vocabSize: number, tokenizerSize: number | undefined): number {
  if (vocabSize > 0 || tokenizerSize === undefined) return vocabSize;
  return Math.ceil(tokenizerSize / 64) * 64;
}

type Given<T> = { [K in keyof T]: Exclude<T[K], undefined> };

/** The entries that are set: an explicit `undefined` must not overwrite a default. */
function given<T extends object>(input: T | undefined): Given<T> {
  const entries = Object.entries(input ?? {}).filter(([, value]) => value !== undefined);
  return Object.fromEntries(entries) as Given<T>;
}
