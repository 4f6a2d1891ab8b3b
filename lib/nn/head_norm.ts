// The norm of each head behind a cell (models.md §2.3).

import { headNorm, headNormGate, type Tensor } from "../tensor/index.ts";
import type { ModelConfig } from "./config.ts";
import { isRecomputed } from "./layers.ts";
import type { Parameter, ParameterStore } from "./parameter.ts";

/** A norm per head over the value width. */
export class HeadNorm {
  readonly scale: Parameter;
  readonly bias: Parameter | undefined;
  readonly #center: boolean;
  readonly #eps: number;
  readonly #offset: number;

  constructor(store: ParameterStore, name: string, config: ModelConfig, center: boolean) {
    this.scale = store.take(`${name}.scale`);
    this.bias = store.maybe(`${name}.bias`);
    this.#center = center;
    this.#eps = config.mlstm.headNormEps;
    this.#offset = config.normResidualScale ? 1 : 0;
  }

  get #options() {
    return { center: this.#center, eps: this.#eps, scaleOffset: this.#offset, bias: this.bias };
  }

  /** h [B, S, NH, DV] → [B, S, NH·DV]. */
  forward(h: Tensor): Tensor {
    return headNorm(h, this.scale, this.#options);
  }

  /** σ(o) ∘ norm(h) in one pass; o [B, S, NH·DV] before the sigmoid. */
  gated(h: Tensor, o: Tensor): Tensor {
    const options = { ...this.#options, recompute: isRecomputed("heads", h) };
    return headNormGate(h, o, this.scale, options);
  }
}
