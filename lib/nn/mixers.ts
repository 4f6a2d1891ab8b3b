// The mLSTM mixers: the v1 layer of xLSTM-7B (models.md §4.2) and the paper layer with convolution,
// head-wise projections, skip and z gate (models.md §4.1).

import {
  add,
  arithmetic,
  cast,
  concat,
  headNorm,
  headwiseLinear,
  linears,
  mlstm,
  mlstmStep,
  mul,
  reshape,
  select,
  silu,
  softCap,
  type Tensor,
  unsqueeze,
} from "../tensor/index.ts";
import { release } from "../tensor/tape.ts";
import type { ModelConfig } from "./config.ts";
import type { BlockState, ForwardContext, Mixed } from "./context.ts";
import { HeadNorm } from "./head_norm.ts";
import { applyDropout, convolve, forwardAll, Linear, oneToken } from "./layers.ts";
import type { Parameter, ParameterStore } from "./parameter.ts";
import type { TensorParallel } from "./tensor_parallel.ts";

/** Runs the cell with the state and options of the configuration. */
function runCell(
  config: ModelConfig,
  inputs: { q: Tensor; k: Tensor; v: Tensor; i: Tensor; f: Tensor },
  context: ForwardContext,
  state: BlockState | undefined,
) {
  const { mlstm: options } = config;
  const cell = {
    inputGate: options.inputGate,
    normalize: options.inputGate === "exp" || options.normalizeSigmoid,
    eps: options.cellEps,
  };
  if (context.inPlace) {
    const { q, k, v, i, f } = inputs;
    const [q1, k1, v1, i1, f1] = [q, k, v, i, f].map(oneToken) as Tensor5;
    const h = mlstmStep({ q: q1, k: k1, v: v1, i: i1, f: f1 }, state!, cell);
    return { h: unsqueeze(h, 1), state: undefined };
  }
  return mlstm(inputs, {
    ...cell,
    gradMode: options.gradMode,
    reset: options.resetAtDocumentBoundaries ? options.resetMode : "none",
    resetForgetValue: options.resetForgetValue,
    form: options.backend.name,
    chunkSize: options.backend.chunkSize,
    borders: options.resetAtDocumentBoundaries ? context.borders : undefined,
    lengths: context.lengths,
    state,
    returnState: context.returnState,
  });
}

type Tensor5 = [Tensor, Tensor, Tensor, Tensor, Tensor];

/** Gate pre-activations in f32: linear, bias, soft cap. */
function capped(x: Tensor, config: ModelConfig): Tensor {
  return softCap(x, config.mlstm.gateSoftCap);
}

/** Optional norm of q and k over their head width, one scale for all heads. */
class QueryKeyNorm {
  readonly q: Parameter;
  readonly k: Parameter;
  readonly #options: { center: boolean; eps: number; scaleOffset: number };

  constructor(store: ParameterStore, name: string, config: ModelConfig) {
    this.q = store.take(`${name}.q_norm.scale`);
    this.k = store.take(`${name}.k_norm.scale`);
    this.#options = {
      center: config.normType === "layernorm",
      eps: config.mlstm.headNormEps,
      scaleOffset: config.normResidualScale ? 1 : 0,
    };
  }

  forward(q: Tensor, k: Tensor): [Tensor, Tensor] {
    const each = (x: Tensor, scale: Parameter) =>
      reshape(headNorm(reshape(x, [-1, 1, 1, x.shape.at(-1)!]), scale, this.#options), x.shape);
    return [each(q, this.q), each(k, this.k)];
  }
}

/** Dense q, k, v, o and gates from one normalised input; sigmoid output gate. */
export class V1Mixer {
  readonly q: Linear;
  readonly k: Linear;
  readonly v: Linear;
  readonly o: Linear;
  readonly iGate: Linear;
  readonly fGate: Linear;
  readonly qkNorm: QueryKeyNorm | undefined;
  readonly headNorm: HeadNorm;
  readonly out: Linear;
  readonly #config: ModelConfig;
  readonly #site: string;
  readonly #tp: TensorParallel;

  /** `config` has the heads of this rank. */
  constructor(store: ParameterStore, name: string, config: ModelConfig, tp: TensorParallel) {
    this.q = new Linear(store, `${name}.q`);
    this.k = new Linear(store, `${name}.k`);
    this.v = new Linear(store, `${name}.v`);
    this.o = new Linear(store, `${name}.o`);
    this.iGate = new Linear(store, `${name}.i_gate`);
    this.fGate = new Linear(store, `${name}.f_gate`);
    this.qkNorm = config.mlstm.qkNorm ? new QueryKeyNorm(store, name, config) : undefined;
    const center = config.mlstm.headNormType === "layernorm";
    this.headNorm = new HeadNorm(store, `${name}.head_norm`, config, center);
    this.out = new Linear(store, `${name}.out`);
    this.#config = config;
    this.#site = name;
    this.#tp = tp;
  }

  /** Residual layout: normalised input, taken over, and the branch that is returned. */
  forward(input: Tensor, context: ForwardContext, state?: BlockState): Mixed {
    const u = this.#tp.spread(input, this.#site);
    const [B, S] = u.shape as [number, number, number];
    const heads = this.#config.mlstm.numHeads;
    const split = (x: Tensor) => reshape(x, [B, S, heads, -1]);
    const layers = [this.q, this.k, this.v, this.o, this.iGate, this.fGate];
    const gate = arithmetic(u.dtype);
    const dtypes = [undefined, undefined, undefined, undefined, gate, gate];
    const [q0, k0, v, o, i, f] = forwardAll(u, layers, dtypes, this.#tp) as Tensor6;
    release(u);
    const heads4 = { q: split(q0), k: split(k0) };
    const [q, k] = this.qkNorm ? this.qkNorm.forward(heads4.q, heads4.k) : [heads4.q, heads4.k];
    const gates = { i: capped(i, this.#config), f: capped(f, this.#config) };
    const cell = runCell(this.#config, { q, k, v: split(v), ...gates }, context, state);
    const gated = this.headNorm.gated(cell.h, o);
    const branch = this.out.collected(gated, this.#tp, this.#site);
    release(gated);
    const first = { position: this.#tp.firstPosition(branch) };
    const y = applyDropout(branch, this.#config.dropout, this.#site, context, first);
    return { y, state: cell.state };
  }
}

type Tensor6 = [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor];
type Pair = [Tensor, Tensor];

/** Up-projection, causal convolution, head-wise q, k, v, learnable skip, z gate. */
export class PaperMixer {
  readonly up: Linear;
  readonly z: Linear;
  readonly convWeight: Parameter | undefined;
  readonly convBias: Parameter | undefined;
  readonly q: Linear;
  readonly k: Linear;
  readonly v: Linear;
  readonly iGate: Linear;
  readonly fGate: Linear;
  readonly qkNorm: QueryKeyNorm | undefined;
  readonly headNorm: HeadNorm;
  readonly skip: Parameter;
  readonly skipProjection: Linear | undefined;
  readonly out: Linear;
  readonly #config: ModelConfig;
  readonly #site: string;
  readonly #tp: TensorParallel;

  /** `config` has the heads of this rank. */
  constructor(store: ParameterStore, name: string, config: ModelConfig, tp: TensorParallel) {
    this.up = new Linear(store, `${name}.up`);
    this.z = new Linear(store, `${name}.z`);
    this.convWeight = store.maybe(`${name}.conv.weight`);
    this.convBias = store.maybe(`${name}.conv.bias`);
    this.q = new Linear(store, `${name}.q`);
    this.k = new Linear(store, `${name}.k`);
    this.v = new Linear(store, `${name}.v`);
    this.iGate = new Linear(store, `${name}.i_gate`);
    this.fGate = new Linear(store, `${name}.f_gate`);
    this.qkNorm = config.mlstm.qkNorm ? new QueryKeyNorm(store, name, config) : undefined;
    const center = config.mlstm.headNormType === "layernorm";
    this.headNorm = new HeadNorm(store, `${name}.head_norm`, config, center);
    this.skip = store.take(`${name}.skip`);
    const projected = store.maybe(`${name}.skip_proj.weight`) !== undefined;
    this.skipProjection = projected ? new Linear(store, `${name}.skip_proj`) : undefined;
    this.out = new Linear(store, `${name}.out`);
    this.#config = config;
    this.#site = name;
    this.#tp = tp;
  }

  /** Residual layout: normalised input, taken over, and the branch that is returned. */
  forward(input: Tensor, context: ForwardContext, state?: BlockState): Mixed {
    const u = this.#tp.spread(input, this.#site);
    const [inner, z] = forwardAll(u, [this.up, this.z], [], this.#tp) as [Tensor, Tensor];
    release(u);
    const conv = this.#convolve(inner, context, state);
    const q = headwiseLinear(conv.activated, this.q.weight, this.q.bias);
    const k = headwiseLinear(conv.activated, this.k.weight, this.k.bias);
    const v = headwiseLinear(inner, this.v.weight, this.v.bias);
    const [i, f] = this.#gates({ q, k, v, inner, ...conv });
    const [B, S] = u.shape as [number, number, number];
    const split = (x: Tensor) => reshape(x, [B, S, this.#config.mlstm.numHeads, -1]);
    const [qh, kh] = this.qkNorm ? this.qkNorm.forward(split(q), split(k)) : [split(q), split(k)];
    const cell = runCell(this.#config, { q: qh, k: kh, v: split(v), i, f }, context, state);
    const normed = this.headNorm.forward(cell.h);
    const skipped = this.skipProjection
      ? headwiseLinear(conv.activated, this.skipProjection.weight, this.skipProjection.bias)
      : conv.activated;
    const skip = cast(this.skip, skipped.dtype);
    const gated = mul(add(normed, mul(skipped, skip)), silu(z));
    const branch = this.out.collected(gated, this.#tp, this.#site);
    const first = { position: this.#tp.firstPosition(branch) };
    const y = applyDropout(branch, this.#config.dropout, this.#site, context, first);
    return { y, state: cell.state && { ...cell.state, conv: conv.state } };
  }

  #convolve(inner: Tensor, context: ForwardContext, state?: BlockState) {
    if (!this.convWeight) return { plain: inner, activated: silu(inner), state: undefined };
    const reset = this.#config.mlstm.resetAtDocumentBoundaries;
    const exact = reset && this.#config.mlstm.resetMode === "exact";
    const { y, state: last } = convolve(inner, this.convWeight, this.convBias, context, {
      state: state?.conv,
      borders: exact ? context.borders : undefined,
    });
    return { plain: y, activated: silu(y), state: last };
  }

  #gates(x: Record<"q" | "k" | "v" | "inner" | "plain" | "activated", Tensor>): [Tensor, Tensor] {
    const [i, f] = this.#config.mlstm.gateHeadwise ? this.#headwiseGates(x) : this.#denseGates(x);
    return [capped(i, this.#config), capped(f, this.#config)];
  }

  /** Each head's gates see the channels of all heads. */
  #denseGates(x: Record<"q" | "k" | "v" | "inner" | "plain" | "activated", Tensor>): Pair {
    const parts = {
      qkv: () => [x.q, x.k, x.v],
      inner: () => [x.inner],
      conv: () => [x.plain],
      convAct: () => [x.activated],
    }[this.#config.mlstm.gateInput]();
    const source = parts.length > 1 ? concat(parts, -1) : parts[0]!;
    const gate = arithmetic(x.q.dtype);
    const layers = [this.iGate, this.fGate];
    const weights = layers.map(({ weight }) => weight);
    const segments = parts.map((part) => part.shape.at(-1)!);
    const shared = { inputs: this.#tp.parts, segments };
    if (this.#tp.size === 1) {
      const biases = layers.map(({ bias }) => bias);
      return linears(source, weights, biases, [gate, gate], shared) as Pair;
    }
    const partial = linears(source, weights, [], [gate, gate], shared);
    const [B, S, heads] = partial[0]!.shape as [number, number, number];
    const both = reshape(concat(partial, -1), [B, S, 2, heads]);
    const own = this.#tp.ownHeads(both, `${this.#site}.gates`);
    return [this.iGate, this.fGate].map(({ bias }, at) =>
      add(select(own, 2, at), cast(bias!, gate)),
    ) as Pair;
  }

  /** Each head's gates see the q, k, v of that head only. */
  #headwiseGates(x: Record<"q" | "k" | "v", Tensor>): Pair {
    const [B, S] = x.q.shape as [number, number, number];
    const heads = this.#config.mlstm.numHeads;
    const split = (t: Tensor) => reshape(t, [B, S, heads, -1]);
    const joined = concat([split(x.q), split(x.k), split(x.v)], -1);
    const flat = cast(reshape(joined, [B, S, -1]), arithmetic(x.q.dtype));
    const gate = (layer: Linear) => add(headwiseLinear(flat, layer.weight, undefined), layer.bias!);
    return [gate(this.iGate), gate(this.fGate)];
  }
}
