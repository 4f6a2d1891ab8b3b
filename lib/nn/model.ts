// The language model: embedding, a stack of blocks, output norm, head (models.md §2, §5).
//
//   const model = xlstm({ vocabSize: 256, embeddingDim: 128, numBlocks: 4, numHeads: 4 });
//   const loss = model.loss({ tokens, targets });
//
// On a mesh a model holds the parameters of its pipeline stage, and of those its part over tp;
// names and global shapes are those of one process.

import type { Unit } from "../mesh/flat_shard.ts";
import type { UnitHooks } from "../mesh/fsdp.ts";
import {
  cast,
  crossEntropy,
  currentDevice,
  type Device,
  div,
  type DType,
  embedding,
  type LossOptions,
  type LossSum,
  noGrad,
  type Tensor,
  tensor,
} from "../tensor/index.ts";
import { transient } from "../tensor/tape.ts";
import { Block, closed } from "./block.ts";
import { blockKinds, type ModelConfig, type ModelConfigInput, resolveConfig } from "./config.ts";
import type { DropoutKey, ForwardContext, ModelMesh, ModelState } from "./context.ts";
import { describe } from "./describe.ts";
import { Head } from "./head.ts";
import { applyDropout, type Stream } from "./layers.ts";
import { initialize, loadInto, type Parameter, ParameterStore } from "./parameter.ts";
import { isDense, parameterSpecs } from "./parameters.ts";
import { shareOf } from "./shares.ts";
import { type Recompute, Stack, type Stacked, within } from "./stack.ts";
import { expectWhole, isOnStage, type Stage, stageOf, wrongStage } from "./stages.ts";
import { type ResidualMode, TensorParallel } from "./tensor_parallel.ts";
import type { VocabularyPart } from "./vocabulary.ts";

/** Token ids as a tensor, or as an Int32Array with its shape. */
export type Tokens = Tensor | { readonly data: Int32Array; readonly shape: readonly number[] };

/** A batch of token sequences and what should follow each token. */
export interface Batch extends Targets {
  readonly tokens: Tokens;
  /** u8 [B, S]; 1 where a document starts. */
  readonly borders?: Tensor | undefined;
}

/** What should follow each token. */
export interface Targets {
  readonly targets: Tokens;
  /** u8 [B, S]; 0 where a target does not count. */
  readonly mask?: Tensor | undefined;
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
  /** The ranks that share the model: tp splits heads, columns and vocabulary, pp the blocks. */
  mesh?: ModelMesh | undefined;
  /** Where the residual stream lies on the ranks of tp. Default "sequence". */
  residual?: ResidualMode;
  /** Activations that the backward pass makes again. Default "none". */
  recompute?: Recompute;
  /** Blocks per stage of pp. Default: equal shares, one block fewer on the last stage. */
  stages?: readonly number[] | undefined;
}

/** A stage of the pipeline. A model on one rank has one. */
export interface ModelStage extends Stage {
  /**
   * The work of this stage on a batch: from its tokens, or from x of the stage before, taken over,
   * to Σ loss [] on the last stage and x for the next one on others.
   */
  run(batch: Batch, x: Tensor | undefined, options: ForwardOptions & LossOptions): Tensor;
}

/** Builds a model and fills its parameters from the seed. */
export function xlstm(
  config: ModelConfigInput,
  options: ModelOptions & { seed?: number } = {},
): XLSTM {
  const model = new XLSTM(resolveConfig(config), options);
  model.initialize(options.seed ?? 0);
  return model;
}

export class XLSTM implements Disposable {
  readonly config: ModelConfig;
  /** Dtype of activations. */
  readonly dtype: DType;
  /** Which part of the model this is, and what runs it. */
  readonly stage: ModelStage;
  /** The blocks of this stage. */
  readonly blocks: readonly Block[];
  /** Called around the work of each unit: sharded weights come and go there. */
  hooks: UnitHooks | undefined;
  readonly #parameters: Map<string, Parameter>;
  readonly #tp: TensorParallel;
  readonly #stack: Stack;
  readonly #table: Parameter | undefined;
  readonly #head: Head | undefined;
  readonly #part: VocabularyPart | undefined;

  /** Parameters are zero until `initialize` or a checkpoint fills them. */
  constructor(config: ModelConfig, options: ModelOptions = {}) {
    const { inference = false, mesh, recompute = "none" } = options;
    this.config = config;
    const automatic = currentDevice() === "cuda" ? "bf16" : "f32";
    this.dtype = config.dtype === "auto" ? automatic : config.dtype;
    const stage = stageOf(config.numBlocks, mesh, options.stages);
    this.stage = { ...stage, run: (...given) => this.#run(...given) };
    const tp = TensorParallel.of(config, mesh, options.residual);
    this.#tp = tp;
    const store = this.#store(inference);
    this.#table = store.maybe("embedding.table");
    const { from, to, isLast } = this.stage;
    this.blocks = blockKinds(config)
      .slice(from, to)
      .map((kind, i) => new Block(store, config, { index: from + i, kind, tp }));
    const untied = isLast && !config.tieEmbeddings;
    const weight = untied ? store.take("lm_head.weight") : this.#table;
    this.#part = weight && tp.vocabularyPart(weight, this.dtype);
    const settings = { config, dtype: this.dtype, tp, part: this.#part };
    this.#head = isLast ? new Head(store, weight!, settings) : undefined;
    this.#parameters = store.finish();
    this.#stack = new Stack(this.blocks, this.#parameters, recompute);
  }

  /** The parameters that lie here. */
  #store(inference: boolean): ParameterStore {
    const { config, dtype, stage } = this;
    const tied = config.tieEmbeddings;
    const stored = dtype === "f64" ? "f64" : "f32";
    const narrow = inference && dtype === "bf16" && currentDevice() === "cuda";
    const specs = parameterSpecs(config).filter((spec) => isOnStage(stage, spec, tied));
    return new ParameterStore(
      specs,
      (spec) => (narrow && isDense(spec, config) ? "bf16" : stored),
      (spec) => shareOf(spec, config, this.#tp, stage),
    );
  }

  /** Parameters of this stage by dotted name, in a fixed order. A tied table appears once. */
  parameters(): ReadonlyMap<string, Parameter> {
    return this.#parameters;
  }

  /** Parameters that are used together, in the order of their use. A tied table is in two units. */
  units(): readonly Unit[] {
    const embedded = this.#table ? [this.#embedding()] : [];
    return [...embedded, ...this.#stack.units(), ...(this.#head ? [this.#head.unit] : [])];
  }

  #embedding(): Unit {
    return { name: "embedding", parameters: [this.#table!] };
  }

  /** Where the parameters lie: the default device of the time the model was made. */
  get device(): Device {
    const [first] = this.#parameters.values();
    return first!.device;
  }

  /** Number of elements of the parameters that lie here. */
  get size(): number {
    let total = 0;
    for (const parameter of this.#parameters.values()) total += parameter.size;
    return total;
  }

  /** Fills every parameter by its rule; the same seed gives the same bits on every mesh. */
  initialize(seed: number): void {
    for (const spec of parameterSpecs(this.config)) {
      const parameter = this.#parameters.get(spec.name);
      if (parameter) initialize(parameter, spec.init, seed);
    }
  }

  /** First stage: tokens i32 [B, S] → x before the blocks, [B, S, D] or this rank's piece of it. */
  embed(tokens: Tokens, options: ForwardOptions = {}): Tensor {
    return this.#embed(tokensOf(tokens).to(this.device), contextOf(options));
  }

  #embed(ids: Tensor, context: ForwardContext): Tensor {
    if (!this.stage.isFirst) throw wrongStage("embed", "first", this.stage);
    const table = this.#table!;
    this.#tp.checkLength(ids.shape[1]!);
    return within(this.hooks, this.#embedding(), () => {
      const x = this.#part
        ? this.#tp.collect(this.#part.embed(table, ids, this.dtype), "embedding")
        : embedding(table, ids, this.dtype);
      if (!this.config.embeddingDropout) return x;
      const position = this.#tp.firstPosition(x);
      return applyDropout(x, this.config.dropout, "embedding", context, { position });
    });
  }

  /** Shape of x between stages for `rows` sequences of `length` tokens. */
  streamShape(rows: number, length: number): readonly number[] {
    this.#tp.checkLength(length);
    const own = this.#tp.isSequence ? length / this.#tp.size : length;
    return [rows, own, this.config.embeddingDim];
  }

  #run(batch: Batch, x: Tensor | undefined, options: ForwardOptions & LossOptions): Tensor {
    const { isLast, count } = this.stage;
    if (count === 1) return this.lossSum(batch, options).loss;
    const given = { borders: batch.borders, ...options };
    const from = x ?? this.embed(batch.tokens, given);
    const y = this.advance(from, given);
    return isLast ? this.lossOf(y, batch, options).loss : y;
  }

  /** x of `embed`, or of the stage before, → x after the blocks of this stage. Takes x over. */
  advance(x: Tensor, options: ForwardOptions = {}): Tensor {
    const context = contextOf({ ...options, returnState: false });
    return transient(
      () => closed(this.#stack.run(x, context, { hooks: this.hooks }).stream),
      (y) => [y],
    );
  }

  /** Last stage: x after all blocks → the sums of `lossSum`. */
  lossOf(x: Tensor, batch: Targets, options: LossOptions = {}): LossSum {
    return this.#lossOf(() => ({ x, branch: undefined }), batch, options);
  }

  /** tokens i32 [B, S] → hidden activations before the head [B, S, D]. */
  hidden(tokens: Tokens, options: ForwardOptions = {}): { hidden: Tensor; state?: ModelState } {
    expectWhole("hidden", this.stage);
    const ids = tokensOf(tokens).to(this.device);
    const context = contextOf(options);
    if (context.inPlace && (!options.state || ids.shape[1] !== 1)) {
      throw new Error(`hidden(): inPlace takes a state and one token, not ${ids.shape[1]}`);
    }
    const x = this.#embed(ids, context);
    const head = this.#head!;
    const { hidden, states } = transient(
      () => {
        const { stream, states } = this.#blocks(x, context, options.state);
        const normed = within(this.hooks, head.unit, () => head.norm(stream));
        return { hidden: this.#tp.whole(normed, "hidden"), states };
      },
      (made) => [made.hidden, ...made.states.flatMap((state) => Object.values(state))],
    );
    if (context.inPlace) options.state!.position++;
    if (!context.returnState) return { hidden };
    const position = (options.state?.position ?? 0) + ids.shape[1]!;
    return { hidden, state: { blocks: states, position } };
  }

  #blocks(x: Tensor, context: ForwardContext, state?: ModelState): Stacked {
    return this.#stack.run(x, context, { states: state?.blocks, hooks: this.hooks });
  }

  /** Logits [.., V] in f32 of hidden activations, soft-capped. */
  head(hidden: Tensor): Tensor {
    const top = this.#head;
    if (!top) throw wrongStage("head", "last", this.stage);
    return within(this.hooks, top.unit, () => top.logits(hidden));
  }

  /** tokens i32 [B, S] → logits f32 [B, S, V]. */
  forward(tokens: Tokens, options: ForwardOptions = {}): { logits: Tensor; state?: ModelState } {
    const { hidden, state } = this.hidden(tokens, options);
    const logits = this.head(hidden);
    return state ? { logits, state } : { logits };
  }

  /** Σ cross entropy over valid targets, and their count. Never holds all logits at once. */
  lossSum(batch: Batch, options: ForwardOptions & LossOptions = {}): LossSum {
    expectWhole("lossSum", this.stage);
    const context = contextOf({ borders: batch.borders, ...options });
    const x = this.#embed(tokensOf(batch.tokens).to(this.device), context);
    return this.#lossOf(() => this.#blocks(x, context).stream, batch, options);
  }

  /** The losses of a stream after the blocks, which `run` makes. */
  #lossOf(run: () => Stream, batch: Targets, options: LossOptions): LossSum {
    const { hooks } = this;
    const head = this.#head;
    if (!head) throw wrongStage("lossOf", "last", this.stage);
    const hidden = transient(
      () => {
        const stream = run();
        hooks?.enter(head.unit);
        return head.input(stream);
      },
      (made) => [made],
    );
    const targets = tokensOf(batch.targets).to(this.device);
    const sums = head.lossSum(hidden, targets, { mask: batch.mask, ...options });
    const outputs = hooks?.leave(head.unit, [sums.loss]);
    return outputs ? { ...sums, loss: outputs[0]! } : sums;
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

  /** Overwrites parameters with tensors of the same names, of global or local shapes. */
  load(tensors: ReadonlyMap<string, Tensor>): void {
    noGrad(() => {
      for (const [name, parameter] of this.#parameters) {
        const source = tensors.get(name);
        if (!source) throw new Error(`load(): there is no tensor ${name}`);
        loadInto(parameter, source);
      }
    });
  }

  dispose(): void {
    for (const parameter of this.#parameters.values()) parameter.dispose();
    this.#part?.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** The tree of blocks with parameter counts. */
  toString(): string {
    return describe(this);
  }

  [Symbol.for("nodejs.util.inspect.custom")](): string {
    return describe(this);
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
