// One pass over a split in order: consecutive windows, every token the target exactly once.

import { atLeastOne, type MaskedBatch } from "./batches.ts";
import type { Corpus, Split } from "./corpus.ts";
import { DataError } from "./errors.ts";

export interface EvaluationOptions {
  /** Rows of a batch, B. */
  size: number;
  /** Tokens of a row, S. */
  length: number;
  /** Default "validation". */
  split?: Split;
  /** Take only this many windows, spread evenly: a quick look in the middle of a run. */
  windows?: number;
}

/** What the first token of a text follows when nothing is before it: a line break. */
const lineBreak = 10;

/**
 * A finite iterable that starts afresh each time. Window k holds the targets [k·S, (k+1)·S) of the
 * split, and its first input is the byte before them (for the validation split that is the last
 * training byte). The last window and the rows missing in the last batch are masked, never counted.
 */
export class Evaluation implements Iterable<MaskedBatch> {
  readonly size: number;
  readonly length: number;
  /** Windows in one pass. */
  readonly windows: number;
  /** Targets that count in one pass. */
  readonly tokens: number;
  readonly #bytes: Uint8Array;
  readonly #first: number;
  readonly #all: number;

  /** DataError when the split is empty. */
  constructor(source: Corpus, options: EvaluationOptions) {
    this.size = atLeastOne("size", options.size);
    this.length = atLeastOne("length", options.length);
    const split = options.split ?? "validation";
    this.#bytes = source[split];
    if (this.#bytes.length === 0) {
      throw new DataError(
        `the ${split} split of "${source.name}" is empty: use a longer text or another ` +
          "validationFraction",
      );
    }
    this.#first = split === "validation" ? (source.train.at(-1) ?? lineBreak) : lineBreak;
    this.#all = Math.ceil(this.#bytes.length / this.length);
    const wanted = options.windows ?? this.#all;
    this.windows = Math.min(this.#all, atLeastOne("windows", wanted));
    let tokens = 0;
    for (let k = 0; k < this.windows; k++) tokens += this.#span(k).length;
    this.tokens = tokens;
  }

  *[Symbol.iterator](): Generator<MaskedBatch, void, undefined> {
    const { size, length } = this;
    for (let index = 0; index * size < this.windows; index++) {
      const tokens = new Int32Array(size * length);
      const targets = new Int32Array(size * length);
      const mask = new Uint8Array(size * length);
      for (let b = 0; b < size && index * size + b < this.windows; b++) {
        const span = this.#span(index * size + b);
        const at = b * length;
        targets.set(span, at);
        tokens.set(span.subarray(0, -1), at + 1);
        tokens[at] = this.#before(span);
        mask.fill(1, at, at + span.length);
      }
      yield this.#batch(index, tokens, targets, mask);
    }
  }

  #batch(index: number, tokens: Int32Array, targets: Int32Array, mask: Uint8Array): MaskedBatch {
    const { size, length } = this;
    const shape = [size, length] as const;
    return {
      size,
      length,
      tokens: { data: tokens, shape },
      targets: { data: targets, shape },
      mask: { data: mask, shape },
      index,
      row: index * size,
    };
  }

  /** The targets of the k-th window that is taken. */
  #span(k: number): Uint8Array {
    const window = Math.floor((k * this.#all) / this.windows);
    return this.#bytes.subarray(window * this.length, (window + 1) * this.length);
  }

  #before(span: Uint8Array): number {
    const at = span.byteOffset - this.#bytes.byteOffset;
    return at === 0 ? this.#first : this.#bytes[at - 1]!;
  }
}
