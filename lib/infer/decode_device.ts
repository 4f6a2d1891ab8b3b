// Decoding without a host that waits for every token: the drawn token stays on the device and goes
// straight into the embedding; the host reads tokens back in blocks.
//
// A step reads and writes the same tensors every time (token, state, draw) and depends on no number
// of the host, so it is recorded once as a graph. What changes, the position that a random number
// belongs to, comes from a table of draws made for many positions at once.

import type { ModelState } from "../nn/context.ts";
import type { XLSTM } from "../nn/model.ts";
import { capture, keep, noGrad, onDevice, scope, type Tensor, zeros } from "../tensor/index.ts";
import { drawsOf, drawTokens, settingsOf } from "../tensor/ops/sample.ts";
import { type Decoder, decode } from "./decode.ts";
import type { Position } from "./prefill.ts";
import type { Sampler } from "./sampling.ts";

/** Tokens read back at once; a stop among them discards the rest. */
const blockSize = 16;
/** Positions whose draws are sent to the device at once: whole blocks. */
const tableSize = 4 * blockSize;

export class DeviceDecoder implements Decoder {
  readonly #model: XLSTM;
  readonly #sampler: Sampler;
  readonly #state: ModelState;
  readonly #prompt: Tensor;
  readonly #settings: Tensor;
  /** i32 [1, 1]: the newest token, fed back. */
  readonly #token: Tensor;
  /** i32 [blockSize]: tokens of the block that the host has not read yet. */
  readonly #drawn: Tensor;
  readonly #step = capture((draw: Tensor) => this.#advance(draw));
  #table: Tensor | undefined;
  #position = 0;

  /** The position stays the caller's; its state moves on. */
  constructor(model: XLSTM, { state, logits }: Position, sampler: Sampler) {
    this.#model = model;
    this.#sampler = sampler;
    this.#state = state;
    this.#prompt = logits;
    const make = (body: () => Tensor) => keep(onDevice(model.device, body));
    this.#settings = make(() => settingsOf([sampler.row(0)]));
    this.#token = make(() => zeros([1, 1], "i32"));
    this.#drawn = make(() => zeros([blockSize], "i32"));
  }

  /** The first token alone: somebody may be waiting for it. Later ones up to whole blocks. */
  next(most: number): Iterable<number> {
    const left = this.#position === 0 ? 1 : blockSize - (this.#position % blockSize);
    const count = Math.min(left, most);
    return noGrad(() => {
      for (let i = 0; i < count; i++) scope(() => this.#draw(i));
      return scope(() => this.#drawn.slice(0, 0, count).dataSync());
    });
  }

  /** Draws the token at the next position. */
  #draw(place: number): void {
    const row = this.#position % tableSize;
    if (row === 0) this.#refill();
    const draw = this.#table!.slice(0, row, row + 1);
    if (this.#position === 0) this.#choose(this.#prompt, draw);
    else this.#step(draw);
    this.#drawn.slice(0, place, place + 1).write_(this.#token.reshape([1]));
    this.#position++;
  }

  #advance(draw: Tensor): Record<string, never> {
    this.#choose(decode(this.#model, this.#token, this.#state), draw);
    return {};
  }

  #choose(logits: Tensor, draw: Tensor): void {
    this.#token.write_(drawTokens(logits, this.#settings, draw).reshape([1, 1]));
  }

  /** The device is idle here: blocks end where tables do. */
  #refill(): void {
    const rows = Array.from({ length: tableSize }, (_, i) => this.#sampler.row(this.#position + i));
    this.#table?.dispose();
    this.#table = keep(onDevice(this.#model.device, () => drawsOf(rows)));
  }

  [Symbol.dispose](): void {
    this.#step.dispose();
    for (const tensor of [this.#settings, this.#token, this.#drawn, this.#table]) tensor?.dispose();
  }
}
