// The parameters of a configuration: names, shapes, initial values and weight decay of each, in a
// fixed order (models.md §7, §11). Models, checkpoints, name maps and counts all read this list.

import { blockKinds, type FeedForwardConfig, type ModelConfig, mlstmWidths } from "./config.ts";
import {
  gateBias,
  type Initializer,
  outputStd,
  slstmBias,
  smallStd,
  spread,
  symmetric,
  zeros,
} from "./init.ts";

export type { Initializer } from "./init.ts";

/** One parameter. */
export interface ParameterSpec {
  /** Dotted name, e.g. `blocks.3.mixer.q.weight`. */
  readonly name: string;
  /** Shape; dense weights are [out, in]. */
  readonly shape: readonly number[];
  readonly init: Initializer;
  /** Weight decay acts on it by default: dense, head-wise, gate, convolution and head weights. */
  readonly decay: boolean;
}

/** Every parameter of the model, bottom to top (models.md §11). */
export function parameterSpecs(config: ModelConfig): ParameterSpec[] {
  const { vocabSize, embeddingDim } = config;
  const list = new List(config);
  const table = spread(config.initDistributionEmbed, smallStd(embeddingDim));
  list.add("embedding.table", [vocabSize, embeddingDim], table);
  for (const [index, kind] of blockKinds(config).entries()) {
    const block = list.within(`blocks.${index}`);
    block.norm("mixer_norm", embeddingDim, config.normBias !== "none");
    const mixer = block.within("mixer");
    if (kind === "paper") addPaperMixer(mixer, config);
    else if (kind === "v1") addV1Mixer(mixer, config);
    else addSlstmMixer(mixer, config, index);
    if (config.postNorm) block.norm("mixer_post_norm", embeddingDim, config.normBias !== "none");
    if (kind !== "paper") addFfn(block, config, kind === "v1" ? config.ffn : config.slstmFfn);
  }
  if (config.outNorm) list.norm("out_norm", embeddingDim, config.normBias === "all");
  if (!config.tieEmbeddings) {
    const head = spread(config.initDistributionOut, smallStd(embeddingDim));
    list.add("lm_head.weight", [vocabSize, embeddingDim], head);
  }
  return list.specs;
}

/** Number of parameters of the model; a tied table counts once. */
export function countParameters(config: ModelConfig): number {
  return parameterSpecs(config).reduce((total, { shape }) => total + elements(shape), 0);
}

/** Number of elements of a shape. */
export function elements(shape: readonly number[]): number {
  return shape.reduce((product, length) => product * length, 1);
}

/** Whether weight decay acts on a parameter by default (training.md §5.6). */
export function decays(name: string): boolean {
  return name.endsWith(".weight");
}

/**
 * Whether only matrix products and the embedding read it: those take weights of any dtype, and the
 * other operations take f32 alone. A head that computes in f32 stays f32.
 */
export function isDense({ name, shape }: ParameterSpec, config: ModelConfig): boolean {
  const head = config.tieEmbeddings ? "embedding.table" : "lm_head.weight";
  if (name === head && config.lmHeadDtype === "f32") return false;
  return shape.length === 2 && !name.endsWith("conv.weight") && !name.endsWith(".bias");
}

function addV1Mixer(mixer: List, config: ModelConfig): void {
  const { embeddingDim, mlstm } = config;
  const { query, value } = mlstmWidths(config, "v1");
  mixer.linear("q", query, embeddingDim, mixer.small);
  mixer.linear("k", query, embeddingDim, mixer.small);
  mixer.linear("v", value, embeddingDim, mixer.small);
  mixer.linear("o", value, embeddingDim, zeros);
  addGates(mixer, config, [mlstm.numHeads, embeddingDim]);
  addHeadNorms(mixer, config, "v1");
  mixer.linear("out", embeddingDim, value, mixer.output);
}

function addPaperMixer(mixer: List, config: ModelConfig): void {
  const { embeddingDim, mlstm } = config;
  const { inner, query, value } = mlstmWidths(config, "paper");
  mixer.linear("up", inner, embeddingDim, mixer.small);
  mixer.linear("z", value, embeddingDim, mixer.small);
  addConvolution(mixer, inner, mlstm.convKernelSize);
  mixer.headwise("q", inner, query, mlstm.qkvBlockSize);
  mixer.headwise("k", inner, query, mlstm.qkvBlockSize);
  mixer.headwise("v", inner, value, mlstm.qkvBlockSize);
  const gateInput = mlstm.gateInput === "qkv" ? 2 * query + value : inner;
  const heads = mlstm.numHeads;
  const ofEachHead = mlstm.gateHeadwise ? [heads, 1, gateInput / heads] : [heads, gateInput];
  addGates(mixer, config, ofEachHead);
  addHeadNorms(mixer, config, "paper");
  mixer.add("skip", [value], { kind: "constant", value: 1 });
  if (value !== inner) mixer.headwise("skip_proj", inner, value, mlstm.qkvBlockSize);
  mixer.linear("out", embeddingDim, value, mixer.output);
}

function addSlstmMixer(mixer: List, config: ModelConfig, blockIndex: number): void {
  const { embeddingDim, slstm } = config;
  const heads = slstm.numHeads;
  const width = embeddingDim / heads;
  addConvolution(mixer, embeddingDim, slstm.convKernelSize);
  for (const gate of ["i", "f", "z", "o"]) {
    mixer.add(`${gate}_gate.weight`, [heads, width, width], mixer.small);
  }
  const standard = slstm.recurrentInit === "standard";
  const recurrent = standard ? symmetric(1 / Math.sqrt(embeddingDim)) : zeros;
  mixer.add("recurrent", [4, heads, width, width], recurrent);
  mixer.add("cell_bias", [4, heads, width], slstmBias(config, blockIndex));
  if (slstm.headNorm) mixer.norm("head_norm", embeddingDim, config.normBias !== "none");
}

function addConvolution(mixer: List, channels: number, kernelSize: number): void {
  if (kernelSize === 0) return;
  const init = symmetric(1 / Math.sqrt(kernelSize));
  mixer.add("conv.weight", [channels, kernelSize], init);
  mixer.add("conv.bias", [channels], init);
}

function addGates(mixer: List, config: ModelConfig, shape: readonly number[]): void {
  const { numHeads, iGateBiasInit, fGateBiasInit } = config.mlstm;
  mixer.add("i_gate.weight", shape, zeros);
  mixer.add("i_gate.bias", [numHeads], gateBias(iGateBiasInit, numHeads));
  mixer.add("f_gate.weight", shape, zeros);
  mixer.add("f_gate.bias", [numHeads], gateBias(fGateBiasInit, numHeads));
}

function addHeadNorms(mixer: List, config: ModelConfig, kind: "v1" | "paper"): void {
  const { headQuery, value } = mlstmWidths(config, kind);
  if (config.mlstm.qkNorm) {
    mixer.norm("q_norm", headQuery, false);
    mixer.norm("k_norm", headQuery, false);
  }
  mixer.norm("head_norm", value, config.normBias !== "none");
}

function addFfn(block: List, config: ModelConfig, ffn: FeedForwardConfig): void {
  if (ffn.type === null) return;
  const { embeddingDim, normBias, postNorm } = config;
  block.norm("ffn_norm", embeddingDim, normBias !== "none");
  const inside = block.within("ffn");
  const linear = (name: string, out: number, from: number, init: Initializer) =>
    inside.linear(name, out, from, init, ffn.useBias);
  if (ffn.type === "gated") linear("gate", ffn.hiddenDim, embeddingDim, inside.small);
  linear("up", ffn.hiddenDim, embeddingDim, inside.small);
  linear("down", embeddingDim, ffn.hiddenDim, inside.output);
  if (postNorm) block.norm("ffn_post_norm", embeddingDim, normBias !== "none");
}

/** Collects specs under a name prefix, with the rules that several layers share. */
class List {
  readonly specs: ParameterSpec[];
  readonly small: Initializer;
  readonly output: Initializer;
  readonly #config: ModelConfig;
  readonly #prefix: string;

  constructor(config: ModelConfig, prefix = "", specs: ParameterSpec[] = []) {
    const { embeddingDim, numBlocks, initDistribution, outputInit } = config;
    this.small = spread(initDistribution, smallStd(embeddingDim));
    this.output = spread(initDistribution, outputStd(outputInit, embeddingDim, numBlocks));
    this.specs = specs;
    this.#config = config;
    this.#prefix = prefix;
  }

  within(name: string): List {
    return new List(this.#config, `${this.#prefix}${name}.`, this.specs);
  }

  add(name: string, shape: readonly number[], init: Initializer): void {
    const full = this.#prefix + name;
    this.specs.push({ name: full, shape, init, decay: decays(full) });
  }

  linear(
    name: string,
    out: number,
    from: number,
    init: Initializer,
    bias = this.#config.useBias,
  ): void {
    this.add(`${name}.weight`, [out, from], init);
    if (bias) this.add(`${name}.bias`, [out], zeros);
  }

  /** Block-diagonal linear: [blocks, out of a block, in of a block] (models.md §2.4). */
  headwise(name: string, from: number, out: number, blockSize: number): void {
    const blocks = from / blockSize;
    this.add(`${name}.weight`, [blocks, out / blocks, blockSize], this.small);
    if (this.#config.useBias) this.add(`${name}.bias`, [out], zeros);
  }

  norm(name: string, width: number, bias: boolean): void {
    const one = this.#config.normResidualScale ? 0 : 1;
    this.add(`${name}.scale`, [width], { kind: "constant", value: one });
    if (bias) this.add(`${name}.bias`, [width], zeros);
  }
}
