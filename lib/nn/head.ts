// The top of a model: the last norm, the head, and the loss (models.md §2.8, mesh.md §9).

import type { Unit } from "../mesh/flat_shard.ts";
import { enter } from "../mesh/redistribute.ts";
import {
  cast,
  type DType,
  linear,
  linearCrossEntropy,
  type LossOptions,
  type LossSum,
  softCap,
  type Tensor,
} from "../tensor/index.ts";
import { closed } from "./block.ts";
import type { ModelConfig } from "./config.ts";
import { Norm, type Stream } from "./layers.ts";
import type { Parameter, ParameterStore } from "./parameter.ts";
import type { TensorParallel } from "./tensor_parallel.ts";
import type { VocabularyPart } from "./vocabulary.ts";
import { splitCrossEntropy } from "./vocabulary_loss.ts";

/** How a head works, besides its parameters. */
export interface HeadSettings {
  readonly config: ModelConfig;
  /** Dtype of activations. */
  readonly dtype: DType;
  readonly tp: TensorParallel;
  /** The ids of this rank, when the vocabulary is split. */
  readonly part: VocabularyPart | undefined;
}

/** Norm, head and loss; the results are the same on all ranks of tp. */
export class Head {
  readonly #norm: Norm | undefined;
  readonly #weight: Parameter;
  readonly #config: ModelConfig;
  readonly #dtype: DType;
  readonly #tp: TensorParallel;
  readonly #part: VocabularyPart | undefined;
  /** What the head reads, a tied table included. */
  readonly unit: Unit;

  /** `weight` is the head's own, or the table of the embedding. */
  constructor(store: ParameterStore, weight: Parameter, settings: HeadSettings) {
    const { config, dtype, tp, part } = settings;
    this.#norm = config.outNorm ? new Norm(store, "out_norm", config) : undefined;
    this.#weight = weight;
    this.#config = config;
    this.#dtype = config.lmHeadDtype === "auto" ? dtype : config.lmHeadDtype;
    this.#tp = tp;
    this.#part = part;
    const { scale, bias } = this.#norm ?? {};
    const parameters = [scale, bias, weight].filter((parameter) => parameter !== undefined);
    this.unit = { name: "head", parameters };
  }

  /** The stream after the blocks → hidden activations in the residual layout. */
  norm(stream: Stream): Tensor {
    return this.#norm ? this.#norm.residual(stream).y : closed(stream);
  }

  /** Logits [.., V] in f32, soft-capped, of hidden activations [.., D] that every rank has (I). */
  logits(hidden: Tensor): Tensor {
    const { group } = this.#tp;
    const x = cast(group ? enter(hidden, group, "lm_head.in") : hidden, this.#dtype);
    const raw = linear(x, this.#weight);
    const capped = softCap(cast(raw, this.#dtype === "f64" ? "f64" : "f32"), this.#cap);
    return this.#part ? this.#part.assemble(capped, "logits") : capped;
  }

  /** The stream after the blocks → hidden activations [B, S, D] for `lossSum`. */
  input(stream: Stream): Tensor {
    return this.#tp.spread(this.norm(stream), "lm_head");
  }

  /** Losses of hidden activations that every rank does its part of the vocabulary with (R). */
  lossSum(hidden: Tensor, targets: Tensor, options: LossOptions): LossSum {
    const x = cast(hidden, this.#dtype);
    const settings = { softCap: this.#cap, ...options };
    return this.#part
      ? splitCrossEntropy(x, this.#weight, targets, settings, this.#part)
      : linearCrossEntropy(x, this.#weight, targets, settings);
  }

  get #cap(): number | null {
    return this.#config.logitSoftCap;
  }
}
