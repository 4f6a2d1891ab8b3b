// The configuration of an xLSTM model (models.md §1): what one may write, and what it becomes.
//
//   const config = resolveConfig({ vocabSize: 256, embeddingDim: 128, numBlocks: 4, numHeads: 4 })
//   config.ffn.hiddenDim   // 384: every default is filled in, derived widths included
//
// Resolving a resolved configuration changes nothing, so checkpoints store the resolved one.

import { z } from "zod";
import { ConfigError, type KeyHints, parseConfig } from "../config/errors.ts";
import { checkConfig } from "./config_checks.ts";
import { resolveDefaults } from "./config_defaults.ts";

export { blockKinds, type MlstmWidths, mlstmWidths } from "./config_defaults.ts";

const positive = z.int().min(1);
const factor = z.number().positive();
const epsilon = z.number().positive();
const probability = z.number().min(0).lt(1);
const softCap = z
  .number()
  .positive({ error: "a soft cap is above 0; use null to turn it off" })
  .nullable();
const gateBias = z.union([z.number(), z.tuple([z.number(), z.number()]), z.literal("normal")]);
const normType = z.enum(["rmsnorm", "layernorm"]);
const distribution = z.enum(["normal", "truncatedNormal", "uniform"]);

const dtypeAliases: Record<string, string> = {
  float32: "f32",
  float64: "f64",
  bfloat16: "bf16",
};
const dtypeName = <T extends z.ZodType>(schema: T) =>
  z.preprocess((name) => (typeof name === "string" ? (dtypeAliases[name] ?? name) : name), schema);
const dtype = dtypeName(z.enum(["auto", "f32", "bf16", "f64"]));
const onlyF32 = dtypeName(
  z.literal("f32", {
    error: 'only "f32": gates, biases and states are kept in float32 (float64 in a float64 model)',
  }),
);

const mlstm = z
  .strictObject({
    numHeads: positive,
    qkDimFactor: factor,
    vDimFactor: factor,
    inputGate: z.enum(["exp", "sigmoid"]),
    normalizeSigmoid: z.boolean(),
    gateDtype: onlyF32,
    gateSoftCap: softCap,
    iGateBiasInit: gateBias,
    fGateBiasInit: gateBias,
    qkNorm: z.boolean(),
    headNormType: normType,
    headNormEps: epsilon,
    cellEps: z.number().min(0),
    resetAtDocumentBoundaries: z.boolean(),
    resetMode: z.enum(["exact", "soft"]),
    resetForgetValue: z.number().lt(0),
    backend: z
      .strictObject({
        name: z.enum(["auto", "parallel", "chunkwise", "recurrent"]),
        chunkSize: z.union([positive, z.literal("auto")]),
      })
      .partial(),
    gradMode: z.enum(["frozenDenominator", "exact"]),
    projFactor: factor,
    convKernelSize: z.int().min(0),
    qkvBlockSize: positive,
    gateInput: z.enum(["qkv", "inner", "conv", "convAct"]),
    gateHeadwise: z.boolean(),
    roundUp: z.boolean(),
    roundMultiple: positive,
  })
  .partial();

const ffn = z
  .strictObject({
    type: z.enum(["gated", "plain"]).nullable(),
    projFactor: factor,
    hiddenDim: positive.nullable(),
    roundMultiple: positive,
    roundUp: z.boolean(),
    activation: z.enum(["swish", "gelu", "geluTanh", "relu", "relu2", "sigmoid", "selu"]),
    dropout: probability.nullable(),
    useBias: z.boolean().nullable(),
  })
  .partial();

const slstm = z
  .strictObject({
    numHeads: positive,
    convKernelSize: z.int().min(0),
    headNorm: z.boolean(),
    biasInit: z.enum(["powerlawBlockDependent", "smallInit", "standard", "zeros"]),
    recurrentInit: z.enum(["zeros", "standard"]),
    function: z.enum(["slstm", "lstm"]),
    forwardClip: z.number().positive().nullable(),
    gradRecurrentClip: z.number().positive().nullable(),
    gradRecurrentCut: z.boolean(),
    biasDtype: onlyF32,
    stateDtype: onlyF32,
    gateNames: z.literal("function", {
      error: 'only "function": our gates are named after what they feed; the name map crosses them',
    }),
  })
  .partial();

/** What a user may write. Everything but the three sizes has a default. */
export const modelSchema = z.strictObject({
  name: z.string().min(1).optional(),
  family: z.literal("xlstm", { error: 'only "xlstm": no other model family is built' }).optional(),
  vocabSize: z.int().min(-1),
  embeddingDim: positive,
  numBlocks: positive,
  contextLength: positive.nullable().optional(),
  tieEmbeddings: z.boolean().optional(),
  useBias: z.boolean().optional(),
  normBias: z.enum(["none", "blocks", "all"]).optional(),
  dropout: probability.optional(),
  embeddingDropout: z.boolean().optional(),
  normType: normType.optional(),
  normEps: epsilon.optional(),
  normResidualScale: z.boolean().optional(),
  postNorm: z.boolean().optional(),
  outNorm: z.boolean().optional(),
  logitSoftCap: softCap.optional(),
  dtype: dtype.optional(),
  lmHeadDtype: dtype.optional(),
  initDistribution: distribution.optional(),
  initDistributionEmbed: distribution.optional(),
  initDistributionOut: distribution.optional(),
  outputInit: z.enum(["wang", "wang2", "small", "zeros"]).optional(),
  slstmAt: z.union([z.array(z.int().min(0)), z.literal("all")]).optional(),
  block: z.enum(["v1", "paper", "slstm"]).optional(),
  stackedLayers: z
    .literal(false, { error: "layers are stored one by one, in memory and in checkpoints" })
    .optional(),
  /** Flat spelling: the number of heads of every kind of block the model has. */
  numHeads: positive.optional(),
  mlstm: mlstm.optional(),
  ffn: ffn.optional(),
  slstm: slstm.optional(),
  slstmFfn: ffn.optional(),
});

/** A model configuration as a user writes it. */
export type ModelConfigInput = z.input<typeof modelSchema>;
/** The same after parsing: aliases are replaced, defaults are not filled in yet. */
export type ParsedConfig = z.output<typeof modelSchema>;

type Complete<T> = { [K in keyof T]-?: Exclude<T[K], undefined> };

/** mLSTM settings; the ones from `projFactor` on act in paper blocks only. */
export type MlstmConfig = Omit<Complete<z.output<typeof mlstm>>, "backend"> & {
  backend: Complete<NonNullable<z.output<typeof mlstm>["backend"]>>;
};
/** FFN settings with the resolved width; `type` null means that there is no FFN. */
export type FeedForwardConfig = Omit<
  Complete<z.output<typeof ffn>>,
  "hiddenDim" | "dropout" | "useBias"
> & { hiddenDim: number; dropout: number; useBias: boolean };
export type SlstmConfig = Complete<z.output<typeof slstm>>;
export type BlockKind = "v1" | "paper" | "slstm";

/** A complete configuration: every default is filled in, `slstmAt` is a sorted list. */
export type ModelConfig = Omit<
  Complete<ParsedConfig>,
  "numHeads" | "slstmAt" | "mlstm" | "ffn" | "slstm" | "slstmFfn"
> & {
  slstmAt: number[];
  mlstm: MlstmConfig;
  ffn: FeedForwardConfig;
  slstm: SlstmConfig;
  slstmFfn: FeedForwardConfig;
};

const what = "the model configuration is wrong";

const hints: KeyHints = {
  weightDecayOnEmbedding: 'it is a setting of the optimiser: decay also "embedding\\.table"',
  ...Object.fromEntries(
    Object.keys(mlstm.shape)
      .filter((key) => !(key in modelSchema.shape) && !(key in ffn.shape))
      .map((key) => [key, `it belongs into mlstm: { ${key} }`]),
  ),
  ...Object.fromEntries(
    ["biasInit", "recurrentInit", "forwardClip", "headNorm"].map((key) => [
      key,
      `it belongs into slstm: { ${key} }`,
    ]),
  ),
  hiddenDim: "it belongs into ffn: { hiddenDim } or slstmFfn: { hiddenDim }",
  activation: "it belongs into ffn: { activation } or slstmFfn: { activation }",
};

/**
 * Fills in every default and checks the whole (models.md §1.6); nothing is allocated yet.
 * `tokenizerSize` resolves a `vocabSize` of 0 or -1: rounded up to a multiple of 64.
 * Throws a ConfigError listing everything that is wrong, unknown, or without any effect.
 */
export function resolveConfig(
  input: ModelConfigInput,
  options: { tokenizerSize?: number } = {},
): ModelConfig {
  const parsed = parseConfig(modelSchema, input, what, hints);
  const resolved = resolveDefaults(parsed, options.tokenizerSize);
  const issues = checkConfig(parsed, resolved);
  if (issues.length > 0) throw new ConfigError(what, issues);
  return resolved;
}
