// Configurations of other implementations turned into ours (models.md §1, §12, §13): Hugging
// Face and xlstm_large, the JAX system, the legacy PyTorch package.
//
//   const { config, notices } = configFromHuggingFace(JSON.parse(text))
//   const model = nn.xlstm(config)

import { ConfigError, show } from "../config/errors.ts";
import type { ModelConfigInput } from "./config.ts";

/** An imported configuration, and one sentence per setting that was not taken over. */
export interface ImportedConfig {
  readonly config: ModelConfigInput;
  readonly notices: readonly string[];
}

type Fields = Readonly<Record<string, unknown>>;
type Settings = Record<string, unknown>;

/** Reads fields by any of their names, and remembers which ones nobody asked for. */
class Reader {
  readonly #fields: Fields;
  readonly #what: string;
  readonly #read = new Set<string>();

  constructor(fields: Fields, what: string) {
    this.#fields = fields;
    this.#what = what;
  }

  /** The first of the names that is there; null is a value. */
  optional(...names: readonly string[]): unknown {
    for (const name of names) this.#read.add(name);
    const name = names.find((candidate) => this.#fields[candidate] !== undefined);
    return name === undefined ? undefined : this.#fields[name];
  }

  number(fallback: number | undefined, ...names: readonly string[]): number {
    const value = this.optional(...names) ?? fallback;
    if (typeof value === "number") return value;
    throw this.error(names, `expected a number, got ${show(value)}`);
  }

  flag(fallback: boolean, ...names: readonly string[]): boolean {
    const value = this.optional(...names) ?? fallback;
    if (typeof value === "boolean") return value;
    throw this.error(names, `expected true or false, got ${show(value)}`);
  }

  /** A soft cap: absent means `fallback`, null means off. */
  cap(fallback: number | null, ...names: readonly string[]): number | null {
    const value = this.optional(...names);
    if (value === undefined) return fallback;
    if (value === null || typeof value === "number") return value;
    throw this.error(names, `expected a number or null, got ${show(value)}`);
  }

  /** A word that must be one of the keys; gives what the key stands for. */
  word<T>(words: Readonly<Record<string, T>>, fallback: string, ...names: readonly string[]): T {
    const value = this.optional(...names) ?? fallback;
    if (typeof value === "string" && Object.hasOwn(words, value)) return words[value]!;
    throw this.error(names, `${show(value)} is not one of ${Object.keys(words).join(", ")}`);
  }

  error(names: readonly string[], message: string): ConfigError {
    return new ConfigError(`the ${this.#what} configuration cannot be imported`, [
      { path: names.join(" or "), message },
    ]);
  }

  /** Fields without influence on what the model computes. */
  ignore(...names: readonly string[]): void {
    for (const name of names) this.#read.add(name);
  }

  notices(): string[] {
    const left = Object.keys(this.#fields).filter((name) => !this.#read.has(name));
    return left.map((name) => `${name} = ${show(this.#fields[name])} is unknown and was ignored`);
  }
}

/** Settings of a checkpoint folder that change how it is run, stored or generated from. */
const runtimeFields = `
  architectures model_type head_dim norm_reduction_force_float32 mode
  mlstm_round_up_to_multiple_of add_post_blocks_norm add_forward_backend_padding
  chunkwise_kernel sequence_kernel step_kernel chunk_size return_last_states
  autocast_kernel_dtype inference_state_dtype weight_mode torch_dtype dtype use_cache
  bos_token_id eos_token_id pad_token_id force_bos_token_insert transformers_version
  max_inference_chunksize igate_bias_init_range add_embedding_dropout
`
  .trim()
  .split(/\s+/);

/**
 * From a `config.json` of the Hugging Face `xlstm` type (models.md §13.1). Unknown keys give a
 * notice. `tie_word_embeddings` is ignored, as there: both tables are in the checkpoint.
 */
export function configFromHuggingFace(json: Fields): ImportedConfig {
  if (json.model_type !== undefined && json.model_type !== "xlstm") {
    const message = `expected "xlstm", got ${show(json.model_type)}`;
    const what = "the Hugging Face configuration cannot be imported";
    throw new ConfigError(what, [{ path: "model_type", message }]);
  }
  const reader = new Reader(json, "Hugging Face");
  const notices: string[] = [];
  if (reader.flag(false, "tie_word_embeddings")) {
    notices.push("tie_word_embeddings was ignored: such checkpoints hold both tables");
  }
  reader.ignore("add_out_norm");
  const config = largeConfig(reader, { ffnFactor: 2.667, normBias: "blocks", outNorm: true });
  return { config, notices: [...notices, ...reader.notices()] };
}

/** From the fields of an xlstm_large `config.yaml`, with that class's defaults (§13.3). */
export function configFromXlstmLarge(fields: Fields): ImportedConfig {
  const reader = new Reader(fields, "xlstm_large");
  const outNorm = reader.flag(true, "add_out_norm");
  const config = largeConfig(reader, { ffnFactor: 2.6667, normBias: "all", outNorm });
  return { config, notices: reader.notices() };
}

function largeConfig(
  reader: Reader,
  kind: { ffnFactor: number; normBias: "blocks" | "all"; outNorm: boolean },
): ModelConfigInput {
  reader.ignore(...runtimeFields);
  const embeddingDim = reader.number(undefined, "embedding_dim", "hidden_size");
  const useBias = reader.flag(false, "use_bias");
  const normEps = reader.number(1e-6, "norm_eps");
  const factor = reader.number(kind.ffnFactor, "ffn_proj_factor");
  const multiple = reader.number(64, "ffn_round_up_to_multiple_of");
  reader.ignore("cell_norm_eps");
  return {
    vocabSize: reader.number(undefined, "vocab_size"),
    embeddingDim,
    numBlocks: reader.number(undefined, "num_blocks", "num_hidden_layers"),
    block: "v1",
    useBias,
    normBias: useBias ? kind.normBias : "none",
    normType: "rmsnorm",
    normEps,
    outNorm: kind.outNorm,
    postNorm: reader.flag(false, "add_post_norm"),
    logitSoftCap: reader.cap(30, "output_logit_soft_cap"),
    mlstm: {
      numHeads: reader.number(undefined, "num_heads"),
      qkDimFactor: reader.number(0.5, "qk_dim_factor"),
      vDimFactor: reader.number(1, "v_dim_factor"),
      gateSoftCap: reader.cap(15, "gate_soft_cap"),
      qkNorm: reader.flag(false, "add_qk_norm"),
      headNormType: "layernorm",
      // Both implementations run the head norm with norm_eps, whatever cell_norm_eps says.
      headNormEps: normEps,
      cellEps: reader.number(1e-6, "eps"),
    },
    ffn: {
      type: "gated",
      activation: "swish",
      projFactor: factor,
      // Rounded down after adding multiple - 1, which differs from our rule when the product is
      // not whole (768 x 2.667 gives 2048 there and 2112 here).
      hiddenDim: Math.floor((embeddingDim * factor + multiple - 1) / multiple) * multiple,
    },
  };
}

const activations = {
  gelu: "geluTanh",
  relu: "relu",
  "relu^2": "relu2",
  sigmoid: "sigmoid",
  swish: "swish",
  selu: "selu",
} as const;
const norms = { rmsnorm: "rmsnorm", layernorm: "layernorm" } as const;

/**
 * From the `model` metadata of a JAX run (reference README: op `train`). Document resets become
 * soft resets, which is what that system computes.
 */
export function configFromJax(model: Fields): ImportedConfig {
  const reader = new Reader(model, "JAX");
  const block = reader.word({ mlstm_v1: "v1", mlstm: "paper" } as const, "", "layer", "layer_type");
  const normType = reader.word(norms, "layernorm", "norm", "norm_type");
  const usualHeadNorm = block === "v1" ? "layernorm" : normType;
  const reset = reader.flag(false, "reset", "reset_at_document_boundaries");
  const resetForgetValue = reader.number(-25, "reset_fgate_value");
  const settings: Settings = {
    numHeads: reader.number(4, "num_heads"),
    qkDimFactor: reader.number(1, "qk_dim_factor"),
    vDimFactor: reader.number(1, "v_dim_factor"),
    gateSoftCap: reader.cap(null, "gate_soft_cap"),
    qkNorm: reader.flag(false, "qk_norm", "add_qk_norm"),
    iGateBiasInit: jaxBias(reader, "normal", "igate_bias", "igate_bias_init_range"),
    fGateBiasInit: jaxBias(reader, [3, 6], "fgate_bias", "fgate_bias_init_range"),
    headNormType: reader.word(norms, usualHeadNorm, "head_norm", "norm_type_v1"),
    resetAtDocumentBoundaries: reset,
    ...(reset ? { resetMode: "soft", resetForgetValue } : {}),
    ...(block === "paper" ? jaxPaper(reader) : {}),
  };
  const config: Settings = {
    vocabSize: reader.number(undefined, "vocab_size"),
    embeddingDim: reader.number(undefined, "embedding_dim"),
    numBlocks: reader.number(undefined, "num_blocks"),
    contextLength: reader.optional("context_length") ?? null,
    block,
    normType,
    normEps: reader.number(1e-6, "norm_eps"),
    postNorm: reader.flag(false, "post_norm", "add_post_norm"),
    useBias: reader.flag(false, "bias", "use_bias"),
    logitSoftCap: reader.cap(null, "logits_soft_cap"),
    mlstm: settings,
    ...(block === "v1" ? { ffn: jaxFfn(reader) } : {}),
  };
  return { config: config as ModelConfigInput, notices: reader.notices() };
}

function jaxFfn(reader: Reader): Settings {
  const types = { gated: "gated", ffn_gated: "gated", plain: "plain", ffn: "plain" };
  return {
    type: reader.word(types, "gated", "ffn", "ff_type"),
    projFactor: reader.number(1.3, "ffn_proj_factor", "proj_factor"),
    activation: reader.word(activations, "gelu", "act", "act_fn"),
  };
}

function jaxPaper(reader: Reader): Settings {
  const inputs = {
    qkv: "qkv",
    x_mlstm: "inner",
    x_mlstm_conv: "conv",
    x_mlstm_conv_act: "convAct",
  };
  return {
    projFactor: reader.number(2, "proj_factor"),
    convKernelSize: reader.number(4, "conv1d_kernel_size"),
    qkvBlockSize: reader.number(4, "qkv_proj_blocksize"),
    gateInput: reader.word(inputs, "qkv", "gate_input"),
    gateHeadwise: reader.flag(false, "gate_linear_headwise"),
  };
}

function jaxBias(reader: Reader, fallback: unknown, ...names: readonly string[]): unknown {
  const value = reader.optional(...names) ?? fallback;
  const isRange = Array.isArray(value) && value.length === 2 && value.every(Number.isFinite);
  if (typeof value === "number" || isRange) return value;
  if (typeof value === "string" && value.startsWith("normal")) return "normal";
  throw reader.error(names, `expected a number, a range or "normal", got ${show(value)}`);
}

/**
 * From the options of a legacy PyTorch language model: paper blocks and, at `slstm_at`, sLSTM
 * blocks; LayerNorm with scale 1 + w, no soft caps, exact gelu (models.md §12.3).
 */
export function configFromLegacy(fields: Fields): ImportedConfig {
  const reader = new Reader(fields, "legacy PyTorch");
  const numHeads = reader.number(4, "num_heads");
  const numBlocks = reader.number(undefined, "num_blocks");
  const slstmAt = reader.optional("slstm_at") ?? [];
  const all = slstmAt === "all";
  if (!all && !Array.isArray(slstmAt)) {
    throw reader.error(["slstm_at"], `expected a list of blocks or "all", got ${show(slstmAt)}`);
  }
  const hasSlstm = all || slstmAt.length > 0;
  const hasPaper = !all && new Set(slstmAt).size < numBlocks;
  const convolution = reader.number(4, "slstm_conv", "conv1d_kernel_size");
  const ffn = new Reader((reader.optional("ffn", "feedforward") ?? {}) as Fields, "legacy ffn");
  const slstmFfn = {
    type: "gated",
    projFactor: ffn.number(1.3, "proj_factor"),
    activation: ffn.word({ ...activations, gelu: "gelu" } as const, "gelu", "act", "act_fn"),
  };
  const gates = { numHeads, gateSoftCap: null, iGateBiasInit: "normal" };
  const config: Settings = {
    vocabSize: reader.number(undefined, "vocab_size"),
    embeddingDim: reader.number(undefined, "embedding_dim"),
    numBlocks,
    contextLength: reader.optional("context_length") ?? null,
    tieEmbeddings: reader.flag(false, "tie_weights"),
    block: "paper",
    slstmAt,
    normType: "layernorm",
    normEps: 1e-5,
    normResidualScale: true,
    logitSoftCap: null,
    mlstm: { headNormType: "layernorm", headNormEps: 1e-5, ...(hasPaper ? gates : {}) },
    ...(hasSlstm ? { slstm: { numHeads, convKernelSize: convolution }, slstmFfn } : {}),
  };
  return { config: config as ModelConfigInput, notices: [...reader.notices(), ...ffn.notices()] };
}
