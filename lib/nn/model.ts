// The language model: embedding, a stack of blocks, output norm, head (models.md §2, §5).
//
//   const model = xlstm({ vocabSize: 256, embeddingDim: 128, numBlocks: 4, numHeads: 4 });
//   const loss = model.loss({ tokens, targets });

import {
  cast,
  crossEntropy,
  currentDevice,
  type Device,
  div,
  type DType,
  embedding,
  linear,
  linearCrossEntropy,
  type LossOptions,
  type LossSum,
  noGrad,
  softCap,
  type Tensor,
  tensor,
} from "../tensor/index.ts";
import { transient } from "../tensor/tape.ts";
import { Block, closed } from "./block.ts";
import { blockKinds, type ModelConfig, type ModelConfigInput, resolveConfig } from "./config.ts";
import type { DropoutKey, ForwardContext, ModelState } from "./context.ts";
import { applyDropout, Norm, type Stream } from "./layers.ts";
import { initialize, type Parameter, ParameterStore } from "./parameter.ts";
import { isDense, parameterSpecs } from "./parameters.ts";

/** Token ids as a tensor, or as an Int32Array with its shape. */
export type Tokens = Tensor | { readonly data: Int32Array; readonly shape: readonly number[] };

/** A batch of token sequences and what should follow each token. */
export interface Batch {
  readonly tokens: Tokens;
  readonly targets: Tokens;
  /** u8 [B, S]; 0 where a target does not count. */
  readonly mask?: Tensor | undefined;
  /** u8 [B, S]; 1 where a document starts. */
  readonly borders?: Tensor | undefined;
}

export interface ForwardOptions {
  /** Dropout on. Default false. */
  train?: boolean;
  dropout?: DropoutKey;
  borders?: Tensor | undefined;
  lengths?: Tensor | undefined;
  /** Continue from this state. */
  state?: ModelState | undefined;
  /** Also return the state after the last token. */
  returnState?: boolean;
  /** Decoding: one token per row moves `state` on in place. Nothing is recorded for gradients. */
  inPlace?: boolean;
}

export interface ModelOptions {
  /**
   * Never trained: a bf16 model on a GPU holds its dense matrices in bf16, half the bytes that
   * decoding reads per token. Norm scales, biases, convolutions and cells stay f32.
   */
  inference?: boolean;
}

/** Builds a model and fills its parameters from the seed. */
export function xlstm(config: ModelConfigInput, options: { seed?: number } = {}): XLSTM {
  const model = new XLSTM(resolveConfig(config));
  model.initialize(options.seed ?? 0);
  return model;
}

export class XLSTM {
  readonly config: ModelConfig;
  /** Dtype of activations. */
  readonly dtype: DType;
  readonly blocks: readonly Block[];
  readonly #parameters: Map<string, Parameter>;
  readonly #table: Parameter;
  readonly #head: Parameter;
  readonly #outNorm: Norm | undefined;

  /** Parameters are zero until `initialize` or a checkpoint fills them. */
  constructor(config: ModelConfig, { inference = false }: ModelOptions = {}) {
    this.config = config;
    const automatic = currentDevice() === "cuda" ? "bf16" : "f32";
    this.dtype = config.dtype === "auto" ? automatic : config.dtype;
    const stored = this.dtype === "f64" ? "f64" : "f32";
    const narrow = inference && this.dtype === "bf16" && currentDevice() === "cuda";
    const store = new ParameterStore(parameterSpecs(config), (spec) =>
      narrow && isDense(spec, config) ? "bf16" : stored,
    );
    this.#table = store.take("embedding.table");
    this.blocks = blockKinds(config).map(
      (kind, i) => new Block(store, `blocks.${i}`, config, kind),
    );
    this.#outNorm = config.outNorm ? new Norm(store, "out_norm", config) : undefined;
    this.#head = config.tieEmbeddings ? this.#table : store.take("lm_head.weight");
    this.#parameters = store.finish();
  }

  /** Parameters by dotted name, in a fixed order. A tied table appears once. */
  parameters(): ReadonlyMap<string, Parameter> {
    return this.#parameters;
  }

  /** Where the parameters lie: the default device of the time the model was made. */
  get device(): Device {
    return this.#table.device;
  }

  /** Number of parameters. */
  get size(): number {
    let total = 0;
    for (const parameter of this.#parameters.values()) total += parameter.size;
    return total;
  }

  /** Fills every parameter by its rule; the same seed gives the same bits everywhere. */
  initialize(seed: number): void {
    for (const spec of parameterSpecs(this.config)) {
      initialize(this.#parameters.get(spec.name)!, spec.init, seed);
    }
  }

  /** tokens i32 [B, S] → hidden activations before the head [B, S, D]. */
  hidden(tokens: Tokens, options: ForwardOptions = {}): { hidden: Tensor; state?: ModelState } {
    const ids = tokensOf(tokens).to(this.device);
    const context = contextOf(options);
    if (context.inPlace && (!options.state || ids.shape[1] !== 1)) {
      throw new Error(`hidden(): inPlace takes a state and one token, not ${ids.shape[1]}`);
    }
    let x = embedding(this.#table, ids, this.dtype);
    if (this.config.embeddingDropout) {
      x = applyDropout(x, this.config.dropout, "embedding", context);
    }
    const { hidden, states } = transient(
      () => this.#stack(x, context, options.state),
      (made) => [made.hidden, ...made.states.flatMap((state) => Object.values(state))],
    );
    if (context.inPlace) options.state!.position++;
    if (!context.returnState) return { hidden };
    const position = (options.state?.position ?? 0) + ids.shape[1]!;
    return { hidden, state: { blocks: states, position } };
  }

  /** All blocks, each of which leaves its last sum to the norm that follows. */
  #stack(
    x: Tensor,
    context: ForwardContext,
    state: ModelState | undefined,
  ): { hidden: Tensor; states: ModelState["blocks"] } {
    const states: ModelState["blocks"] = [];
    let stream: Stream = { x, branch: undefined };
    this.blocks.forEach((block, i) => {
      const result = block.advance(stream, context, state?.blocks[i]);
      stream = result.stream;
      if (result.state) states.push(result.state);
    });
    const hidden = this.#outNorm ? this.#outNorm.residual(stream).y : closed(stream);
    return { hidden, states };
  }

  /** Logits [.., V] in f32 of hidden activations, soft-capped. */
  head(hidden: Tensor): Tensor {
    const dtype = this.#headDtype();
    const raw = linear(cast(hidden, dtype), this.#head);
    return softCap(cast(raw, dtype === "f64" ? "f64" : "f32"), this.config.logitSoftCap);
  }

  /** tokens i32 [B, S] → logits f32 [B, S, V]. */
  forward(tokens: Tokens, options: ForwardOptions = {}): { logits: Tensor; state?: ModelState } {
    const { hidden, state } = this.hidden(tokens, options);
    const logits = this.head(hidden);
    return state ? { logits, state } : { logits };
  }

  /** Σ cross entropy over valid targets, and their count. Never holds all logits at once. */
  lossSum(batch: Batch, options: ForwardOptions & LossOptions = {}): LossSum {
    const { hidden } = this.hidden(batch.tokens, { borders: batch.borders, ...options });
    return linearCrossEntropy(
      cast(hidden, this.#headDtype()),
      this.#head,
      tokensOf(batch.targets).to(this.device),
      {
        mask: batch.mask,
        softCap: this.config.logitSoftCap,
        ...options,
      },
    );
  }

  /** Mean cross entropy in nats over the batch's valid targets, []. */
  loss(batch: Batch, options: ForwardOptions & LossOptions = {}): Tensor {
    const { loss, count } = this.lossSum(batch, { train: true, ...options });
    return div(loss, cast(count, loss.dtype));
  }

  /** Mean cross entropy of logits that are there already. */
  static lossOf(logits: Tensor, targets: Tensor): Tensor {
    const { loss, count } = crossEntropy(logits, targets);
    return div(loss, cast(count, loss.dtype));
  }

  /** Overwrites parameters with tensors of the same names and shapes. */
  load(tensors: ReadonlyMap<string, Tensor>): void {
    noGrad(() => {
      for (const [name, parameter] of this.#parameters) {
        const source = tensors.get(name);
        if (!source) throw new Error(`load(): there is no tensor ${name}`);
        if (source.shape.join() !== parameter.shape.join()) {
          throw new Error(
            `load(): ${name} has shape [${source.shape}], expected [${parameter.shape}]`,
          );
        }
        parameter.write_(source);
      }
    });
  }

  dispose(): void {
    for (const parameter of this.#parameters.values()) parameter.dispose();
  }

  /** The tree of blocks with parameter counts. */
  toString(): string {
    return describe(this);
  }

  [Symbol.for("nodejs.util.inspect.custom")](): string {
    return describe(this);
  }

  #headDtype(): DType {
    const { lmHeadDtype } = this.config;
    return lmHeadDtype === "auto" ? this.dtype : lmHeadDtype;
  }
}

function contextOf(options: ForwardOptions): ForwardContext {
  return {
    train: options.train ?? false,
    dropout: options.dropout ?? { seed: 0, step: 0, sample: 0 },
    borders: options.borders,
    lengths: options.lengths,
    returnState: options.inPlace ? false : (options.returnState ?? false),
    inPlace: options.inPlace ?? false,
  };
}

/** Token ids as an i32 tensor. */
export function tokensOf(tokens: Tokens): Tensor {
  if ("data" in tokens && tokens.data instanceof Int32Array) {
    return tensor(tokens.data, { shape: tokens.shape });
  }
  return tokens as Tensor;
}

function describe(model: XLSTM): string {
  const groups = new Map<string, { count: number; shapes: string[] }>();
  for (const [name, parameter] of model.parameters()) {
    const key = /^blocks\.\d+\.\w+/.exec(name)?.[0] ?? name.replace(/\.\w+$/, "");
    const group = groups.get(key) ?? { count: 0, shapes: [] };
    group.count += parameter.size;
    group.shapes.push(`${name.slice(key.length + 1)}[${parameter.shape.join(", ")}]`);
    groups.set(key, group);
  }
  const { name, embeddingDim, numBlocks, vocabSize } = model.config;
  const lines = [
    `XLSTM ${name ?? ""} ${model.size.toLocaleString("en")} parameters, ${model.dtype}: ` +
      `${numBlocks} blocks, width ${embeddingDim}, vocabulary ${vocabSize}`,
  ];
  for (const [key, { count, shapes }] of groups) {
    const kind = /^blocks\.(\d+)\.mixer$/.exec(key);
    const label = kind ? `${key} (${model.blocks[Number(kind[1])]!.kind})` : key;
    const list = shapes.join(" ");
    const shown = list.length > 60 ? `${list.slice(0, 57)}…` : list;
    lines.push(`  ${label.padEnd(28)} ${count.toLocaleString("en").padStart(12)}  ${shown}`);
  }
  return lines.join("\n");
}
