// A byte n-gram model with interpolated Witten-Bell smoothing: the baseline a model of bytes has to
// beat. With h' the context h without its first byte, c counts and T(h) different successors,
//
//   p(w | h) = (c(h w) + T(h) · p(w | h')) / (c(h) + T(h)),   p(w) = 1 / 256 before any count
//
// Witten & Bell 1991, method C, interpolated as in Chen & Goodman 1999 §2.3.

import { DataError } from "./errors.ts";
import { GramTable } from "./gram_table.ts";

/** Longest n-gram: its bytes must fit exactly into the integers that a double holds. */
export const longestOrder = 6;

/** Counts of all byte strings of up to `order` bytes. */
export class NgramModel {
  /** Bytes of the longest string: `order - 1` bytes of context and the byte that is predicted. */
  readonly order: number;
  /** Statistics by length of the string, from 0. */
  readonly #tables: readonly GramTable[];

  private constructor(order: number, tables: readonly GramTable[]) {
    this.order = order;
    this.#tables = tables;
  }

  /** Counts `bytes`. RangeError for an order outside of 1..6, DataError for no bytes. */
  static train(bytes: Uint8Array, options: { order: number }): NgramModel {
    const { order } = options;
    if (!Number.isInteger(order) || order < 1 || order > longestOrder) {
      throw new RangeError(`order is ${order}: expected an integer from 1 to ${longestOrder}`);
    }
    if (bytes.length === 0) throw new DataError("an n-gram model needs bytes to count, got none");
    const tables = Array.from({ length: order + 1 }, () => new GramTable());
    for (let length = 0; length < order; length++) {
      countSuccessors(bytes, length, tables[length]!, tables[length + 1]!);
    }
    return new NgramModel(order, tables);
  }

  /** Different strings that were counted, of all lengths from 1. */
  get size(): number {
    return this.#tables.slice(1).reduce((sum, table) => sum + table.size, 0);
  }

  /** Probability of the byte `next` after `context`, of which the last order - 1 bytes count. */
  probability(context: Uint8Array, next: number): number {
    const used = context.subarray(Math.max(0, context.length - (this.order - 1)));
    const key = used.reduce((sum, byte) => sum * 256 + byte, 0);
    return this.#probability(key, used.length, next);
  }

  /**
   * Mean negative log2 probability of the bytes. `history` is what precedes them: the first bytes
   * see it as context, without being counted in the mean.
   */
  bitsPerByte(bytes: Uint8Array, history: Uint8Array = new Uint8Array(0)): number {
    if (bytes.length === 0) throw new DataError("bits per byte of no bytes: the split is empty");
    const longest = this.order - 1;
    const recent = longest === 0 ? new Uint8Array(0) : history.subarray(-longest);
    const span = 256 ** longest;
    let key = recent.reduce((sum, byte) => sum * 256 + byte, 0);
    let known = recent.length;
    let bits = 0;
    for (const next of bytes) {
      bits -= Math.log2(this.#probability(key, known, next));
      key = (key * 256 + next) % span;
      known = Math.min(longest, known + 1);
    }
    return bits / bytes.length;
  }

  /** `key` packs the last `known` bytes; shorter contexts are its remainders. */
  #probability(key: number, known: number, next: number): number {
    let probability = 1 / 256;
    let span = 1;
    for (let length = 0; length <= known; length++) {
      const context = key % span;
      const contexts = this.#tables[length]!;
      const slot = contexts.find(context);
      if (slot < 0 || contexts.types[slot] === 0) break;
      const grams = this.#tables[length + 1]!;
      const gram = grams.find(context * 256 + next);
      const count = gram < 0 ? 0 : grams.count[gram]!;
      const types = contexts.types[slot]!;
      probability = (count + types * probability) / (contexts.total[slot]! + types);
      span *= 256;
    }
    return probability;
  }
}

function countSuccessors(
  bytes: Uint8Array,
  length: number,
  contexts: GramTable,
  grams: GramTable,
): void {
  const span = 256 ** length;
  let context = 0;
  for (let at = 0; at < bytes.length; at++) {
    const next = bytes[at]!;
    if (at >= length) {
      const slot = contexts.add(context);
      const gram = grams.add(context * 256 + next);
      contexts.total[slot]!++;
      if (grams.count[gram] === 0) contexts.types[slot]!++;
      grams.count[gram]!++;
    }
    context = (context * 256 + next) % span;
  }
}
