// Small layers shared by the blocks. Each takes its parameters from the store by dotted name.

import {
  add,
  cast,
  causalConv,
  causalConvStep,
  type ConvOptions,
  dropout,
  type DropoutPlace,
  type DType,
  type GateActivation,
  gatedActivation,
  layerNorm,
  linear,
  linears,
  residualNorm,
  rmsNorm,
  reshape,
  type Tensor,
  unaryActivation,
  unsqueeze,
} from "../tensor/index.ts";
import { keyOf } from "../tensor/random.ts";
import { release } from "../tensor/tape.ts";
import type { FeedForwardConfig, ModelConfig } from "./config.ts";
import type { ForwardContext } from "./context.ts";
import type { Parameter, ParameterStore } from "./parameter.ts";
import type { TensorParallel, TokenOrder } from "./tensor_parallel.ts";

/**
 * Inputs of linear layers that the backward pass makes again, by one cheap kernel each, instead of
 * keeping them. Bytes per token and block that each of them frees, for bf16 activations of width d.
 */
export const recompute = {
  /** Norms before a branch: 2 · 2 d. */
  norms: true,
  /** The gated head norm: 2 d. */
  heads: true,
  /** The product in a gated feed-forward network: 2 · 2.67 d. */
  activations: true,
  /** On a CPU memory is plenty and the kernels are not: a step of a small model took 6 % longer. */
  onCpu: false,
};

/** Whether an activation made from `x` is made again in the backward pass. */
export function isRecomputed(what: "norms" | "heads" | "activations", x: Tensor): boolean {
  return recompute[what] && (recompute.onCpu || x.device === "cuda");
}

/** y = W x (+ b), W [out, in]. */
export class Linear {
  readonly weight: Parameter;
  readonly bias: Parameter | undefined;

  constructor(store: ParameterStore, name: string) {
    this.weight = store.take(`${name}.weight`);
    this.bias = store.maybe(`${name}.bias`);
  }

  forward(x: Tensor): Tensor {
    return linear(x, this.weight, this.bias);
  }

  /**
   * Row-parallel: x and the weight hold this rank's columns; the products of all ranks are summed
   * into the residual layout. The bias is added once, after the sum.
   */
  collected(x: Tensor, tp: TensorParallel, site: string, order?: TokenOrder): Tensor {
    const shared = { inputs: tp.parts };
    if (tp.size === 1) return linears(x, [this.weight], [this.bias], [], shared)[0]!;
    const total = tp.collect(linears(x, [this.weight], [], [], shared)[0]!, site, order);
    return this.bias ? add(total, cast(this.bias, total.dtype)) : total;
  }
}

/**
 * Several layers on one input as one operation: the input is read once, its gradient summed once.
 * `dtypes` asks for other result dtypes than the input's (gates in f32). `tp`: whose ranks split
 * the outputs.
 */
export function forwardAll(
  x: Tensor,
  layers: readonly Linear[],
  dtypes: readonly (DType | undefined)[] = [],
  tp?: TensorParallel,
): Tensor[] {
  return linears(
    x,
    layers.map((layer) => layer.weight),
    layers.map((layer) => layer.bias),
    dtypes,
    { outputs: tp?.parts ?? 0 },
  );
}

/** [B, 1, ..] → [B, ..]: what operations on one token of each row take. */
export function oneToken(x: Tensor): Tensor {
  return reshape(x, [x.shape[0]!, ...x.shape.slice(2)]);
}

/** The causal convolution of x [B, S, C] with the state and masks of this pass. */
export function convolve(
  x: Tensor,
  weight: Parameter,
  bias: Parameter | undefined,
  context: ForwardContext,
  { state, borders }: Pick<ConvOptions, "state" | "borders">,
): { y: Tensor; state: Tensor | undefined } {
  if (context.inPlace) {
    return { y: unsqueeze(causalConvStep(oneToken(x), weight, bias, state!), 1), state };
  }
  const { lengths, returnState } = context;
  return causalConv(x, weight, bias, { state, borders, lengths, returnState });
}

/** RMSNorm or LayerNorm over the last dim (models.md §2.2). */
export class Norm {
  readonly scale: Parameter;
  readonly bias: Parameter | undefined;
  readonly #layernorm: boolean;
  readonly #eps: number;
  readonly #offset: number;
  readonly #joins: boolean;

  /** `joins`: what comes in is a residual sum, whose gradient joins the norm's in one pass. */
  constructor(store: ParameterStore, name: string, config: ModelConfig, { joins = false } = {}) {
    this.scale = store.take(`${name}.scale`);
    this.bias = store.maybe(`${name}.bias`);
    this.#layernorm = config.normType === "layernorm";
    this.#eps = config.normEps;
    this.#offset = config.normResidualScale ? 1 : 0;
    this.#joins = joins;
  }

  forward(x: Tensor): Tensor {
    const norm = this.#layernorm ? layerNorm : rmsNorm;
    return norm(x, this.scale, this.#options(x));
  }

  /** Adds the stream's branch, which ends there: the sum, and its norm. */
  residual({ x, branch }: Stream): { sum: Tensor; y: Tensor } {
    if (!branch && !this.#joins) return { sum: x, y: this.forward(x) };
    const options = { ...this.#options(x), center: this.#layernorm };
    const both = residualNorm(x, branch, this.scale, options);
    branch?.dispose();
    return both;
  }

  #options(x: Tensor) {
    return {
      eps: this.#eps,
      scaleOffset: this.#offset,
      bias: this.bias,
      recompute: isRecomputed("norms", x),
    };
  }
}

/** The residual stream between two operations: what is summed up, and what is to be added next. */
export interface Stream {
  readonly x: Tensor;
  readonly branch: Tensor | undefined;
}

/** Gated or plain feed-forward network (models.md §2.7). */
export class FeedForward {
  readonly gate: Linear | undefined;
  readonly up: Linear;
  readonly down: Linear;
  readonly #activation: GateActivation;
  readonly #dropout: number;
  readonly #site: string;
  readonly #tp: TensorParallel;

  constructor(store: ParameterStore, name: string, config: FeedForwardConfig, tp: TensorParallel) {
    this.gate = config.type === "gated" ? new Linear(store, `${name}.gate`) : undefined;
    this.up = new Linear(store, `${name}.up`);
    this.down = new Linear(store, `${name}.down`);
    this.#activation = config.activation;
    this.#dropout = config.dropout;
    this.#site = name;
    this.#tp = tp;
  }

  /** Takes x over. */
  forward(x: Tensor, context: ForwardContext): Tensor {
    const hidden = this.#hidden(this.#tp.spread(x, this.#site, "any"));
    const y = this.down.collected(hidden, this.#tp, this.#site, "any");
    release(hidden);
    const position = this.#tp.firstPosition(y);
    return applyDropout(y, this.#dropout, this.#site, context, { position });
  }

  #hidden(x: Tensor): Tensor {
    const options = { recompute: isRecomputed("activations", x) };
    const layers = this.gate ? [this.gate, this.up] : [this.up];
    const [first, up] = forwardAll(x, layers, [], this.#tp);
    release(x);
    if (!up) return unaryActivation(first!, this.#activation);
    return gatedActivation(first!, up, this.#activation, options);
  }
}

/**
 * Dropout of [B, S, D] activations: the mask depends on (seed, step, site) and on (global sample,
 * position, feature), so it is the same on every mesh and when activations are recomputed. `first`
 * says where a part of the activations begins.
 */
export function applyDropout(
  x: Tensor,
  rate: number,
  site: string,
  context: ForwardContext,
  first: Omit<DropoutPlace, "sample"> = {},
): Tensor {
  if (!context.train || rate === 0) return x;
  const { seed, step, sample } = context.dropout;
  return dropout(x, rate, keyOf(`dropout/${site}/${step}`, seed), { ...first, sample });
}
