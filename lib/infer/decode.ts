// Decoding: one token into the state, which moves on where it lies, and the next one out of it.

import type { ModelState } from "../nn/context.ts";
import type { Tokens, XLSTM } from "../nn/model.ts";
import { keep, noGrad, scope, type Tensor } from "../tensor/index.ts";
import type { Position } from "./prefill.ts";
import type { Sampler } from "./sampling.ts";

/** Tokens one after the other, from a position on. */
export interface Decoder extends Disposable {
  /** At least one more token and at most `most`, in order. */
  next(most: number): Iterable<number>;
}

/** Token [1, 1] into `state`, in place; logits f32 [1, V] for the one after it. */
export function decode(model: XLSTM, token: Tokens, state: ModelState): Tensor {
  const { hidden } = model.hidden(token, { state, inPlace: true });
  return model.head(hidden.reshape([1, hidden.shape[2]!]));
}

/** The host draws, and waits for every token. */
export class HostDecoder implements Decoder {
  readonly #model: XLSTM;
  readonly #state: ModelState;
  readonly #sampler: Sampler;
  #logits: Tensor;
  #last: number | undefined;

  /** The position stays the caller's; its state moves on. */
  constructor(model: XLSTM, { state, logits }: Position, sampler: Sampler) {
    this.#model = model;
    this.#state = state;
    this.#logits = logits;
    this.#sampler = sampler;
  }

  next(_most: number): number[] {
    if (this.#last !== undefined) this.#advance(this.#last);
    this.#last = this.#sampler.next(this.#logits);
    return [this.#last];
  }

  #advance(id: number): void {
    const token = { data: Int32Array.of(id), shape: [1, 1] };
    const logits = noGrad(() => scope(() => keep(decode(this.#model, token, this.#state))));
    this.#forget();
    this.#logits = logits;
  }

  /** The first logits belong to the position. */
  #forget(): void {
    if (this.#sampler.position > 1) this.#logits.dispose();
  }

  [Symbol.dispose](): void {
    this.#forget();
  }
}
