// The sLSTM mixer: convolution, head-wise gate projections, recurrent cell, head norm; no output
// projection (models.md §4.3).

import {
  concat,
  headwiseLinear,
  reshape,
  silu,
  slstm,
  slstmStep,
  type Tensor,
  unsqueeze,
} from "../tensor/index.ts";
import type { ModelConfig } from "./config.ts";
import type { BlockState, ForwardContext, Mixed } from "./context.ts";
import { HeadNorm } from "./head_norm.ts";
import { applyDropout, convolve, oneToken } from "./layers.ts";
import type { Parameter, ParameterStore } from "./parameter.ts";
import type { TensorParallel } from "./tensor_parallel.ts";

export class SlstmMixer {
  readonly convWeight: Parameter | undefined;
  readonly convBias: Parameter | undefined;
  readonly iGate: Parameter;
  readonly fGate: Parameter;
  readonly zGate: Parameter;
  readonly oGate: Parameter;
  readonly recurrent: Parameter;
  readonly cellBias: Parameter;
  readonly headNorm: HeadNorm | undefined;
  readonly #config: ModelConfig;
  readonly #site: string;
  readonly #tp: TensorParallel;

  /** `config` has the heads of this rank. */
  constructor(store: ParameterStore, name: string, config: ModelConfig, tp: TensorParallel) {
    this.convWeight = store.maybe(`${name}.conv.weight`);
    this.convBias = store.maybe(`${name}.conv.bias`);
    this.iGate = store.take(`${name}.i_gate.weight`);
    this.fGate = store.take(`${name}.f_gate.weight`);
    this.zGate = store.take(`${name}.z_gate.weight`);
    this.oGate = store.take(`${name}.o_gate.weight`);
    this.recurrent = store.take(`${name}.recurrent`);
    this.cellBias = store.take(`${name}.cell_bias`);
    const center = config.mlstm.headNormType === "layernorm";
    this.headNorm = config.slstm.headNorm
      ? new HeadNorm(store, `${name}.head_norm`, config, center)
      : undefined;
    this.#config = config;
    this.#site = name;
    this.#tp = tp;
  }

  /** Residual layout: normalised input, taken over, and the branch that is returned. */
  forward(input: Tensor, context: ForwardContext, state?: BlockState): Mixed {
    const mixed = this.#ofHeads(this.#tp.toFeatures(input, this.#site), context, state);
    return { ...mixed, y: this.#tp.fromFeatures(mixed.y, this.#site) };
  }

  /** u and the result [B, S, D] hold the features of this rank's heads: all that they depend on. */
  #ofHeads(u: Tensor, context: ForwardContext, state?: BlockState): Mixed {
    const [B, S, D] = u.shape as [number, number, number];
    const { slstm: options } = this.#config;
    const heads = options.numHeads;
    const borders = this.#config.mlstm.resetAtDocumentBoundaries ? context.borders : undefined;
    const { activated, conv } = this.#convolve(u, context, borders, state);
    const gate = (x: Tensor, weight: Parameter) =>
      reshape(headwiseLinear(x, weight), [B, S, 1, heads, D / heads]);
    const gates = [
      gate(activated, this.iGate),
      gate(activated, this.fGate),
      gate(u, this.zGate),
      gate(u, this.oGate),
    ];
    const cell = this.#cell(concat(gates, 2), context, borders, state);
    const flat = reshape(cell.y, [B, S, D]);
    const feature = this.#tp.firstFeature(flat);
    const { dropout } = this.#config;
    const dropped = applyDropout(flat, dropout, this.#site, context, { feature });
    const y = this.headNorm ? this.headNorm.forward(reshape(dropped, cell.y.shape)) : dropped;
    return { y, state: context.returnState ? { slstm: cell.state, conv } : undefined };
  }

  #cell(
    wx: Tensor,
    context: ForwardContext,
    borders: Tensor | undefined,
    state: BlockState | undefined,
  ): { y: Tensor; state: Tensor | undefined } {
    const { slstm: options } = this.#config;
    if (context.inPlace) {
      const row = oneToken(wx);
      const y = slstmStep(row, this.recurrent, this.cellBias, state!.slstm!, options);
      return { y: unsqueeze(y, 1), state: undefined };
    }
    return slstm(wx, this.recurrent, this.cellBias, {
      state: state?.slstm,
      borders,
      lengths: context.lengths,
      function: options.function,
      forwardClip: options.forwardClip,
      gradRecurrentClip: options.gradRecurrentClip,
      gradRecurrentCut: options.gradRecurrentCut,
    });
  }

  #convolve(
    u: Tensor,
    context: ForwardContext,
    borders: Tensor | undefined,
    state: BlockState | undefined,
  ) {
    if (!this.convWeight) return { activated: u, conv: undefined };
    const { y, state: conv } = convolve(u, this.convWeight, this.convBias, context, {
      state: state?.conv,
      borders,
    });
    return { activated: silu(y), conv };
  }
}
