// Shuffled training batches as a pure function of (corpus, seed, batch number).
//
// An epoch cuts the training bytes into disjoint windows, at an offset of its own, and takes them
// in the order of a keyed permutation. Row r of a run is window r mod W of epoch r div W whatever
// the batch size is, so a resumed run, another batch size or another process reads the same rows.

import { keyOf } from "../tensor/random.ts";
import type { Corpus, Split } from "./corpus.ts";
import { DataError } from "./errors.ts";
import { permute } from "./permutation.ts";
import { philox } from "./philox.ts";

/** Numbers of a batch with their shape [B,S], row-major: what a model takes for tokens. */
export interface Matrix<A extends Int32Array | Uint8Array = Int32Array> {
  readonly data: A;
  readonly shape: readonly [number, number];
}

/** Rows of running text and the token after each of their tokens. */
export interface Batch {
  readonly size: number;
  readonly length: number;
  /** i32 [B,S] inputs. */
  readonly tokens: Matrix;
  /** i32 [B,S] the token after each input. */
  readonly targets: Matrix;
  /** Number of the batch in its stream, from 0. */
  readonly index: number;
  /** Number of the batch's first row in its stream: the global sample of dropout keys. */
  readonly row: number;
}

/** A batch in which some targets do not count. */
export interface MaskedBatch extends Batch {
  /** u8 [B,S] 1 where the target counts. */
  readonly mask: Matrix<Uint8Array>;
}

export interface BatchOptions {
  /** Rows of a batch, B. */
  size: number;
  /** Tokens of a row, S. */
  length: number;
  /** Chooses the order. Default 0. */
  seed?: number;
  split?: Split;
  /** Batches after which the stream ends. Default: it never does. */
  limit?: number;
}

/** Everything a stream needs to go on: small enough to store in a checkpoint as JSON. */
export interface DataState {
  readonly version: 1;
  readonly corpus: string;
  readonly fingerprint: string;
  readonly split: Split;
  readonly seed: number;
  readonly length: number;
  /** Rows and batches handed out so far. */
  readonly row: number;
  readonly batch: number;
}

/** An iterable of batches with a counter as its only state. */
export class BatchStream implements Iterable<Batch> {
  readonly size: number;
  readonly length: number;
  readonly seed: number;
  readonly split: Split;
  readonly limit: number;
  /** Disjoint windows in one epoch, W. */
  readonly rowsPerEpoch: number;
  readonly #corpus: Corpus;
  readonly #bytes: Uint8Array;
  #row = 0;
  #batch = 0;

  /** DataError when the split has fewer windows than one batch has rows. */
  constructor(source: Corpus, options: BatchOptions) {
    this.size = atLeastOne("size", options.size);
    this.length = atLeastOne("length", options.length);
    this.seed = options.seed ?? 0;
    this.split = options.split ?? "train";
    const limit = options.limit ?? Infinity;
    this.limit = limit === Infinity ? limit : atLeastOne("limit", limit);
    this.#corpus = source;
    this.#bytes = source[this.split];
    keyOf("", this.seed);
    // Any offset below S leaves room for W windows and the target after the last one.
    this.rowsPerEpoch = Math.floor(this.#bytes.length / this.length) - 1;
    if (this.rowsPerEpoch < this.size) throw tooShort(this, source, this.#bytes.length);
  }

  /** Batches handed out so far. */
  get index(): number {
    return this.#batch;
  }

  /** Passes over the split so far, as a fraction. */
  get epoch(): number {
    return this.#row / this.rowsPerEpoch;
  }

  /** The batch whose first row is `row`; the stream itself does not move. */
  at(row: number, index = row / this.size): Batch {
    const { size, length } = this;
    const tokens = new Int32Array(size * length);
    const targets = new Int32Array(size * length);
    for (let b = 0; b < size; b++) {
      const start = this.#start(row + b);
      const window = this.#bytes.subarray(start, start + length + 1);
      tokens.set(window.subarray(0, length), b * length);
      targets.set(window.subarray(1), b * length);
    }
    const shape = [size, length] as const;
    return {
      size,
      length,
      tokens: { data: tokens, shape },
      targets: { data: targets, shape },
      index,
      row,
    };
  }

  /** Hands out the next batch. */
  next(): Batch {
    const batch = this.at(this.#row, this.#batch);
    this.#row += this.size;
    this.#batch++;
    return batch;
  }

  *[Symbol.iterator](): Generator<Batch, void, undefined> {
    while (this.#batch < this.limit) yield this.next();
  }

  /** Where the stream stands, for a checkpoint. */
  state(): DataState {
    const { name: corpus, fingerprint } = this.#corpus;
    const { split, seed, length } = this;
    return {
      version: 1,
      corpus,
      fingerprint,
      split,
      seed,
      length,
      row: this.#row,
      batch: this.#batch,
    };
  }

  /**
   * Continues from a saved state, bit-equal to the run that saved it; returns the stream. The batch
   * size may differ. DataError names what does not fit: other bytes, split, seed or length.
   */
  from(state: DataState): this {
    const mine = this.state();
    for (const key of ["version", "fingerprint", "split", "seed", "length"] as const) {
      if (state[key] === mine[key]) continue;
      const what = key === "fingerprint" ? "other bytes" : `${key} ${state[key]}`;
      const own = key === "fingerprint" ? `${mine.corpus} as it is now` : `${mine[key]}`;
      throw new DataError(
        `the saved data state of "${state.corpus}" has ${what}, this run has ${own}: resume with ` +
          "the same data, seed and length, or start the data afresh",
      );
    }
    for (const key of ["row", "batch"] as const) {
      if (Number.isSafeInteger(state[key]) && state[key] >= 0) continue;
      throw new DataError(`the saved data state has ${key} ${state[key]}: expected a count`);
    }
    this.#row = state.row;
    this.#batch = state.batch;
    return this;
  }

  /** First byte of row `row` of the run (training.md §2.6, mesh.md §14). */
  #start(row: number): number {
    const epoch = Math.floor(row / this.rowsPerEpoch);
    const key = keyOf(`data/${this.#corpus.name}/${this.split}/${epoch}`, this.seed);
    const window = permute(row % this.rowsPerEpoch, this.rowsPerEpoch, key);
    const offset = Math.floor((philox([0, 0, 0, 1], key)[0] / 2 ** 32) * this.length);
    return offset + window * this.length;
  }
}

/** Throws a RangeError unless `value` is an integer of at least 1. */
export function atLeastOne(name: string, value: number): number {
  if (Number.isSafeInteger(value) && value >= 1) return value;
  throw new RangeError(`${name} is ${value}: expected an integer of at least 1`);
}

function tooShort(stream: BatchStream, source: Corpus, bytes: number): DataError {
  const { size, length, split } = stream;
  const longest = Math.floor(bytes / (size + 1));
  const way =
    longest >= 1
      ? `use a longer text, a length of at most ${longest}, or a smaller size`
      : "use a longer text";
  return new DataError(
    `the ${split} split of "${source.name}" has ${bytes} bytes, too short for one batch: size ` +
      `${size} x length ${length} needs ${(size + 1) * length}; ${way}`,
  );
}
