// What decides the next token of a sequence (serving.md §7): penalties on the host, then one native
// draw whose random number depends on the seed and the token's position only.

import { keyOf, scope, type Tensor, tensor } from "../tensor/index.ts";
import { type SampleRow, sampleTokens } from "../tensor/ops/sample.ts";

export interface SamplingOptions {
  /** 0 = greedy. Default 1. */
  temperature?: number;
  /** Keep the k most likely tokens; 0 = all (default). */
  topK?: number;
  /** Keep the most likely tokens up to this probability; 1 = all (default). */
  topP?: number;
  /** Keep tokens at least this much as likely as the most likely one; 0 = all (default). */
  minP?: number;
  /** Divides positive, multiplies negative logits of tokens seen before; 1 = off (default). */
  repetitionPenalty?: number;
  /** Default 0. The same seed gives the same tokens, whatever else is generated beside them. */
  seed?: number;
  /** Number of this sequence among several for one prompt. Default 0. */
  choice?: number;
  /** Row of this prompt in its request. Default 0. */
  prompt?: number;
}

type Complete = Required<SamplingOptions>;

const defaults: Complete = {
  temperature: 1,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  seed: 0,
  choice: 0,
  prompt: 0,
};

const rules: { readonly [K in keyof Complete]: readonly [(x: number) => boolean, string] } = {
  temperature: [(x) => x >= 0 && Number.isFinite(x), "a number from 0 (greedy)"],
  topK: [isCount, "a whole number, 0 for all tokens"],
  topP: [(x) => x > 0 && x <= 1, "a number above 0 and up to 1 (all tokens)"],
  minP: [(x) => x >= 0 && x <= 1, "a number from 0 (all tokens) to 1"],
  repetitionPenalty: [(x) => x > 0 && Number.isFinite(x), "a number above 0, 1 for none"],
  seed: [isCount, "a whole number"],
  choice: [isCount, "a whole number"],
  prompt: [isCount, "a whole number"],
};

function isCount(x: number): boolean {
  return Number.isSafeInteger(x) && x >= 0;
}

/** Draws the tokens of one sequence, one after the other. */
export class Sampler {
  readonly options: Complete;
  readonly #seen = new Set<number>();
  readonly #key: { low: number; high: number };
  #position = 0;

  /** RangeError for an option outside of its range. `seen` is the prompt. */
  constructor(options: SamplingOptions = {}, seen: Iterable<number> = []) {
    this.options = { ...defaults };
    for (const [name, [isGood, expected]] of Object.entries(rules)) {
      const key = name as keyof Complete;
      const value = options[key] ?? defaults[key];
      if (!isGood(value)) throw new RangeError(`${name} is ${value}: expected ${expected}`);
      this.options[key] = value;
    }
    this.#key = keyOf("sample", this.options.seed);
    for (const id of seen) this.#seen.add(id);
  }

  /** Tokens drawn so far. */
  get position(): number {
    return this.#position;
  }

  /** Whether a token depends on the tokens before it by more than its logits. */
  get penalises(): boolean {
    return this.options.repetitionPenalty !== 1;
  }

  /** How the token at a position is drawn. */
  row(position: number): SampleRow {
    return { ...this.options, key: this.#key, position };
  }

  /** The next token for the logits [V] or [1, V] behind the last one. */
  next(logits: Tensor): number {
    const vocab = logits.shape.at(-1)!;
    const row = this.row(this.#position);
    const id = scope(() => sampleTokens(this.#penalised(logits).reshape([1, vocab]), [row]).item());
    this.#position++;
    this.#seen.add(id);
    return id;
  }

  #penalised(logits: Tensor): Tensor {
    const { repetitionPenalty: penalty } = this.options;
    if (penalty === 1) return logits;
    const values = logits.dataSync();
    for (const id of this.#seen) {
      const value = values[id]!;
      values[id] = value > 0 ? value / penalty : value * penalty;
    }
    return tensor(values, { shape: logits.shape }).to(logits.device);
  }
}
