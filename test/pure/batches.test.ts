import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import { type Batch, type DataState } from "../../lib/data/batches.ts";
import { Corpus } from "../../lib/data/corpus.ts";
import { DataError } from "../../lib/data/errors.ts";
import { permute } from "../../lib/data/permutation.ts";
import { philox } from "../../lib/data/philox.ts";

/** Text whose windows differ from each other: a sawtooth that shifts every 256 bytes. */
function counting(bytes: number, name = "counting"): Corpus {
  const text = Uint8Array.from({ length: bytes }, (_, k) => (k * 7 + (k >> 8) * 13) & 255);
  return new Corpus(name, text);
}

function take(batches: Iterable<Batch>, count: number): Batch[] {
  const taken: Batch[] = [];
  for (const batch of batches) {
    taken.push(batch);
    if (taken.length === count) break;
  }
  return taken;
}

test("Philox4x32-10 gives the known answers", () => {
  const hex = (words: readonly number[]) => words.map((word) => word.toString(16).padStart(8, "0"));
  const ones = 0xffffffff;
  expect(hex(philox([0, 0, 0, 0], { low: 0, high: 0 }))).toEqual([
    "6627e8d5",
    "e169c58d",
    "bc57ac4c",
    "9b00dbd8",
  ]);
  expect(hex(philox([ones, ones, ones, ones], { low: ones, high: ones }))).toEqual([
    "408f276d",
    "41c83b0e",
    "a20bc7c6",
    "6d5451fd",
  ]);
  const digitsOfPi = [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344] as const;
  expect(hex(philox(digitsOfPi, { low: 0xa4093822, high: 0x299f31d0 }))).toEqual([
    "d16cfe09",
    "94fdcceb",
    "5001e420",
    "24126ea1",
  ]);
});

test("permute is a permutation for every count and key", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 700 }), fc.nat(), fc.nat(), (count, low, high) => {
      const images = Array.from({ length: count }, (_, k) => permute(k, count, { low, high }));
      expect(new Set(images).size).toBe(count);
      expect(Math.min(...images)).toBe(0);
      expect(Math.max(...images)).toBe(count - 1);
    }),
    { verbose: 1 },
  );
  const far = permute(2 ** 40, 2 ** 41, { low: 1, high: 2 });
  expect(far >= 0 && far < 2 ** 41).toBe(true);
  expect(() => permute(5, 5, { low: 0, high: 0 })).toThrow(/index 5 is outside/);
});

describe("training batches", () => {
  const text = counting(4000);

  test("targets are the next tokens of the split", () => {
    const [batch] = take(text.batches({ size: 3, length: 16, seed: 1 }), 1);
    expect([batch!.size, batch!.length, batch!.tokens.data.length]).toEqual([3, 16, 48]);
    for (let b = 0; b < 3; b++) {
      const row = batch!.tokens.data.subarray(b * 16, (b + 1) * 16);
      const next = batch!.targets.data.subarray(b * 16, (b + 1) * 16);
      expect([...row.subarray(1)]).toEqual([...next.subarray(0, 15)]);
      const joined = Uint8Array.from([...row, next[15]!]);
      expect(Buffer.from(text.train).includes(joined)).toBe(true);
    }
  });

  test("an epoch uses every window once, and epochs differ in order and offset", () => {
    const data = new Corpus(
      "steps",
      Uint8Array.from({ length: 280 }, (_, k) => k & 255),
      {
        validationFraction: 0.1,
      },
    );
    // Tokens are their positions below 256, so starts can be read off the first token of a row.
    const stream = data.batches({ size: 1, length: 10, seed: 3 });
    expect(stream.rowsPerEpoch).toBe(24);
    const starts = take(stream, 72).map((batch) => batch.tokens.data[0]!);
    const epochs = [0, 1, 2].map((epoch) => starts.slice(epoch * 24, (epoch + 1) * 24));
    for (const epoch of epochs) {
      const sorted = epoch.toSorted((a, b) => a - b);
      expect(sorted).toEqual(sorted.map((_, k) => sorted[0]! + k * 10));
      expect(sorted[0]).toBeLessThan(10);
    }
    expect(epochs[0]).not.toEqual(epochs[1]);
    expect(new Set(epochs.map((epoch) => Math.min(...epoch))).size).toBeGreaterThan(1);
  });

  test("the seed and the name choose the order", () => {
    const first = (source: Corpus, seed: number) =>
      source.batches({ size: 4, length: 32, seed }).next().tokens.data;
    expect(first(text, 0)).toEqual(first(counting(4000), 0));
    expect(first(text, 0)).not.toEqual(first(text, 1));
    expect(first(text, 0)).not.toEqual(first(counting(4000, "other"), 0));
  });

  test("row r is the same for every batch size", () => {
    const rows = (size: number) =>
      take(text.batches({ size, length: 8, seed: 5 }), 24 / size).flatMap((batch) => [
        ...batch.tokens.data,
      ]);
    expect(rows(1)).toEqual(rows(4));
    expect(rows(3)).toEqual(rows(12));
    expect(rows(4)).toEqual(rows(12));
  });
});

describe("the state of a stream", () => {
  const text = counting(4000);

  test("a resumed stream is bit-equal, across epochs, through JSON", () => {
    fc.assert(
      fc.property(fc.nat(300), fc.nat(9), (before, seed) => {
        const whole = text.batches({ size: 5, length: 24, seed });
        for (let k = 0; k < before; k++) whole.next();
        const state = JSON.parse(JSON.stringify(whole.state())) as DataState;
        const resumed = text.batches({ size: 5, length: 24, seed }).from(state);
        expect(take(resumed, 40)).toEqual(take(whole, 40));
      }),
      { numRuns: 20, verbose: 1 },
    );
  });

  test("limit counts the batches of the whole run", () => {
    const stream = text.batches({ size: 2, length: 8, limit: 5 });
    const state = text.batches({ size: 2, length: 8 });
    state.next();
    state.next();
    expect([...stream].map((batch) => batch.index)).toEqual([0, 1, 2, 3, 4]);
    const resumed = text.batches({ size: 2, length: 8, limit: 5 }).from(state.state());
    expect([...resumed].map((batch) => [batch.index, batch.row])).toEqual([
      [2, 4],
      [3, 6],
      [4, 8],
    ]);
  });

  test("a state of other data, seed or length is refused", () => {
    const state = text.batches({ size: 2, length: 8, seed: 1 }).state();
    const resume = (source: Corpus, seed: number, length: number) => () =>
      source.batches({ size: 2, length, seed }).from(state);
    expect(resume(counting(4001), 1, 8)).toThrow(/has other bytes/);
    expect(resume(text, 2, 8)).toThrow(/has seed 1, this run has 2/);
    expect(resume(text, 1, 9)).toThrow(/has length 8, this run has 9/);
    const broken = { ...state, row: -1 };
    expect(() => text.batches({ size: 2, length: 8, seed: 1 }).from(broken)).toThrow(/row -1/);
    expect(resume(text, 1, 8)).not.toThrow();
  });
});

describe("sizes", () => {
  const text = counting(4000);

  test("too short for one batch: the sizes and the way out", () => {
    expect(() => text.batches({ size: 100, length: 256 })).toThrow(DataError);
    expect(() => text.batches({ size: 100, length: 256 })).toThrow(
      /3600 bytes, too short for one batch: size 100 x length 256 needs 25856; .*at most 35/,
    );
    expect(() => text.batches({ size: 100, length: 35 }).next()).not.toThrow();
    expect(() => text.batches({ size: 0, length: 8 })).toThrow(/size is 0: expected an integer/);
    expect(() => text.batches({ size: 1, length: 2.5 })).toThrow(/length is 2.5/);
    expect(() => text.batches({ size: 1, length: 8, seed: -1 })).toThrow(/seed -1/);
  });
});

describe("evaluation", () => {
  test("every token of the split is the target exactly once", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 20, max: 900 }),
        fc.integer({ min: 1, max: 6 }),
        fc.integer({ min: 1, max: 40 }),
        (bytes, size, length) => {
          const text = counting(bytes);
          const evaluation = text.evaluation({ size, length });
          const targets: number[] = [];
          const inputs: number[] = [];
          for (const batch of evaluation) {
            expect(batch.tokens.data.length).toBe(size * length);
            batch.mask.data.forEach((counts, at) => {
              if (counts === 0) return;
              targets.push(batch.targets.data[at]!);
              inputs.push(batch.tokens.data[at]!);
            });
          }
          expect(targets).toEqual([...text.validation]);
          expect(inputs).toEqual([text.train.at(-1)!, ...text.validation.subarray(0, -1)]);
          expect(evaluation.tokens).toBe(targets.length);
        },
      ),
      { verbose: 1 },
    );
  });

  test("starts afresh each time, and reads a training split from a line break", () => {
    const evaluation = counting(500).evaluation({ size: 2, length: 16, split: "train" });
    const first = [...evaluation];
    expect([...evaluation]).toEqual(first);
    expect(first[0]!.tokens.data[0]).toBe(10);
    expect(evaluation.tokens).toBe(450);
  });

  test("a quick look takes windows from everywhere", () => {
    const text = counting(10_000);
    const quick = text.evaluation({ size: 4, length: 10, windows: 5 });
    const [first, second] = [...quick];
    expect(quick.tokens).toBe(50);
    expect([...first!.targets.data.subarray(10, 20)]).toEqual([
      ...text.validation.subarray(200, 210),
    ]);
    expect([...second!.targets.data.subarray(0, 10)]).toEqual([
      ...text.validation.subarray(800, 810),
    ]);
    expect(second!.mask.data.reduce((sum, counts) => sum + counts, 0)).toBe(10);
  });

  test("an empty split is an error", () => {
    const text = new Corpus("whole", new Uint8Array(100), { validationFraction: 0 });
    expect(() => text.evaluation({ size: 1, length: 8 })).toThrow(/validation split .* is empty/);
  });
});
