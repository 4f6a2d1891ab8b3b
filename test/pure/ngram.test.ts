import { expect, test } from "bun:test";
import * as fc from "fast-check";
import { corpus } from "../../lib/data/corpus.ts";
import { longestOrder, NgramModel } from "../../lib/data/ngram.ts";

/** The definition, straight from counting strings: slow and obvious. */
function reference(text: string, order: number, context: string, next: string): number {
  let probability = 1 / 256;
  for (let length = 0; length <= Math.min(order - 1, context.length); length++) {
    const before = context.slice(context.length - length);
    const followers: string[] = [];
    for (let at = length; at < text.length; at++) {
      if (text.slice(at - length, at) === before) followers.push(text[at]!);
    }
    if (followers.length === 0) return probability;
    const types = new Set(followers).size;
    const count = followers.filter((follower) => follower === next).length;
    probability = (count + types * probability) / (followers.length + types);
  }
  return probability;
}

const bytes = (text: string) => new TextEncoder().encode(text);

test("probabilities are those of the definition", () => {
  const word = fc.string({ unit: fc.constantFrom("a", "b", "c"), minLength: 1, maxLength: 40 });
  fc.assert(
    fc.property(word, word, fc.integer({ min: 1, max: longestOrder }), (text, context, order) => {
      const model = NgramModel.train(bytes(text), { order });
      for (const next of ["a", "c", "z"]) {
        const expected = reference(text, order, context, next);
        const got = model.probability(bytes(context), next.charCodeAt(0));
        expect(Math.abs(got - expected)).toBeLessThan(1e-12);
      }
    }),
    { verbose: 1 },
  );
});

test("probabilities over all bytes sum to one, seen context or not", () => {
  const model = NgramModel.train(bytes("to be or not to be, that is the question"), { order: 4 });
  for (const context of ["", "t", "to b", "zzz", "to be\xff"]) {
    let sum = 0;
    for (let next = 0; next < 256; next++) sum += model.probability(bytes(context), next);
    expect(Math.abs(sum - 1)).toBeLessThan(1e-12);
  }
});

test("bits per byte is the mean over the bytes, with the history as context", () => {
  const model = NgramModel.train(bytes("abracadabra abracadabra"), { order: 3 });
  const text = bytes("cadabra");
  const history = bytes("xxabra");
  let bits = 0;
  for (let at = 0; at < text.length; at++) {
    const context = Uint8Array.from([...history, ...text.subarray(0, at)]);
    bits -= Math.log2(model.probability(context, text[at]!));
  }
  expect(model.bitsPerByte(text, history)).toBeCloseTo(bits / text.length, 12);
  expect(model.bitsPerByte(text)).not.toBe(model.bitsPerByte(text, history));
});

test("Moby-Dick, order 5: 2.184 bits per byte", () => {
  const text = corpus("moby-dick");
  const started = performance.now();
  const model = NgramModel.train(text.train, { order: 5 });
  expect(model.bitsPerByte(text.validation, text.train)).toBeCloseTo(2.1841, 3);
  // Half a second alone; the bar leaves room for a busy machine and still catches a quadratic step.
  expect(performance.now() - started).toBeLessThan(3000);
  expect(model.size).toBe(218_345);
});

test("all 256 byte values and six of them in a row keep apart", () => {
  const low = Uint8Array.from([0, 0, 0, 0, 0, 1, 255, 255, 255, 255, 255, 254]);
  const model = NgramModel.train(low, { order: 6 });
  expect(model.probability(low.subarray(0, 5), 1)).toBeGreaterThan(0.5);
  expect(model.probability(low.subarray(6, 11), 254)).toBeGreaterThan(0.5);
  expect(model.probability(low.subarray(6, 11), 1)).toBeLessThan(0.1);
});

test("impossible orders and no data are named", () => {
  expect(() => NgramModel.train(bytes("a"), { order: 7 })).toThrow(/order is 7: .* 1 to 6/);
  expect(() => NgramModel.train(new Uint8Array(0), { order: 2 })).toThrow(/needs bytes to count/);
  const model = NgramModel.train(bytes("a"), { order: 2 });
  expect(() => model.bitsPerByte(new Uint8Array(0))).toThrow(/no bytes: the split is empty/);
});
