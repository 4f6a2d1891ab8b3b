// Generation: token by token equals the whole sequence at once, the same seed writes the same text,
// and nothing is left behind.

import { afterEach, expect, test } from "bun:test";
import { byteTokenizer } from "../../lib/data/tokenizer.ts";
import { generate, generateText, type GenerateOptions } from "../../lib/infer/generate.ts";
import { Sampler } from "../../lib/infer/sampling.ts";
import type { ModelConfigInput } from "../../lib/nn/config.ts";
import { xlstm, type XLSTM } from "../../lib/nn/model.ts";
import { memory, noGrad, scope, tensor } from "../../lib/tensor/index.ts";
import { settle } from "../helpers/settle.ts";

const sizes = { vocabSize: 48, embeddingDim: 32, numBlocks: 2, numHeads: 2 };
const kinds: Record<string, ModelConfigInput> = {
  v1: sizes,
  paper: { ...sizes, block: "paper" },
  slstm: { ...sizes, slstmAt: "all" },
  mixed: { ...sizes, block: "paper", slstmAt: [1] },
};
const models: XLSTM[] = [];

function modelOf(config: ModelConfigInput, seed: number): XLSTM {
  models.push(xlstm(config, { seed }));
  return models.at(-1)!;
}

afterEach(() => {
  // What a test leaves to the garbage collector would disturb the counts of another.
  for (const model of models.splice(0)) model.dispose();
});

const prompt = Array.from({ length: 70 }, (_, i) => (i * 17 + 5) % 48);

async function tokensOf(model: XLSTM, options: GenerateOptions, from: readonly number[] = prompt) {
  const ids: number[] = [];
  for await (const id of generate(model, from, options)) ids.push(id);
  return ids;
}

/** The most likely next token, from the whole sequence without any state. */
function greedy(model: XLSTM, ids: readonly number[]): number {
  return noGrad(() =>
    scope(() => {
      const { logits } = model.forward({ data: Int32Array.from(ids), shape: [1, ids.length] });
      const last = logits.slice(1, -1).dataSync();
      return last.indexOf(Math.max(...last));
    }),
  );
}

test.each(Object.keys(kinds))("%s: decoding equals the full forward pass", async (kind) => {
  const model = modelOf(kinds[kind]!, 1);
  const ids = await tokensOf(model, { temperature: 0, maxTokens: 20 });
  const expected = [...prompt];
  while (expected.length < prompt.length + 20) expected.push(greedy(model, expected));
  expect(ids).toEqual(expected.slice(prompt.length));
});

test.each(Object.keys(kinds))("%s: pieces of the prompt change nothing", async (kind) => {
  const model = modelOf(kinds[kind]!, 2);
  const options = { maxTokens: 12, seed: 9, temperature: 0.7 };
  const whole = await tokensOf(model, options);
  for (const prefillTokens of [1, 13, 64]) {
    expect(await tokensOf(model, { ...options, prefillTokens })).toEqual(whole);
  }
});

test("the seed decides the text, and nothing else does", async () => {
  const model = modelOf(sizes, 4);
  const options = { maxTokens: 30, temperature: 1 };
  const first = await tokensOf(model, { ...options, seed: 11 });
  expect(await tokensOf(model, { ...options, seed: 11 })).toEqual(first);
  expect(await tokensOf(model, { ...options, seed: 12 })).not.toEqual(first);
  expect(await tokensOf(model, { ...options, seed: 11, choice: 1 })).not.toEqual(first);
  // Two at once, in turns: neither sees the other.
  const both = await Promise.all([11, 12].map((seed) => tokensOf(model, { ...options, seed })));
  expect(both[0]).toEqual(first);
});

/** Parts of 4000 draws from fixed logits. */
function frequencies(probabilities: readonly number[], options: object): number[] {
  using logits = tensor(probabilities.map((p) => Math.log(p)));
  const sampler = new Sampler({ seed: 6, ...options });
  const counts = probabilities.map(() => 0);
  for (let i = 0; i < 4000; i++) counts[sampler.next(logits)]! += 1 / 4000;
  return counts;
}

test("draws follow the distribution after temperature, top-k, top-p and min-p", () => {
  const p = [0.1, 0.4, 0.2, 0.3];
  const cases: [object, number[]][] = [
    [{}, p],
    [{ temperature: 0 }, [0, 1, 0, 0]],
    [{ topK: 1 }, [0, 1, 0, 0]],
    [{ topK: 2 }, [0, 4 / 7, 0, 3 / 7]],
    [{ topP: 0.85 }, [0, 4 / 9, 2 / 9, 3 / 9]],
    [{ minP: 0.6 }, [0, 4 / 7, 0, 3 / 7]],
    [{ temperature: 0.5 }, [1, 16, 4, 9].map((square) => square / 30)],
  ];
  for (const [options, expected] of cases) {
    // Four standard deviations of a mean of 4000 draws.
    frequencies(p, options).forEach((part, i) => {
      const spread = Math.sqrt((expected[i]! * (1 - expected[i]!)) / 4000);
      expect(Math.abs(part - expected[i]!)).toBeLessThanOrEqual(4 * spread + 1e-9);
    });
  }
});

test("the repetition penalty divides positive and multiplies negative logits", () => {
  using logits = tensor([2, 1.5, -1, -1.2]);
  expect(new Sampler({ temperature: 0 }, [0]).next(logits)).toBe(0);
  const sampler = new Sampler({ temperature: 0, repetitionPenalty: 2 }, [0]);
  expect(sampler.next(logits)).toBe(1);
  // Both are seen now: 1, 0.75, and then the negative ones.
  expect(sampler.next(logits)).toBe(0);
  using negative = tensor([-1, -1.5]);
  expect(new Sampler({ temperature: 0, repetitionPenalty: 2 }, [0]).next(negative)).toBe(1);
});

test("stop tokens and maxTokens end it", async () => {
  const model = modelOf(sizes, 1);
  const options = { maxTokens: 20, seed: 3 };
  const ids = await tokensOf(model, options);
  const cut = await tokensOf(model, { ...options, stopTokens: [ids[4]!] });
  expect(cut).toEqual(ids.slice(0, ids.indexOf(ids[4]!) + 1));
  expect(await tokensOf(model, { ...options, maxTokens: 0 })).toEqual([]);
});

test("memory is flat while tokens come, and back where it was at the end", async () => {
  const model = modelOf(kinds["mixed"]!, 1);
  await tokensOf(model, { maxTokens: 3 });
  await settle();
  const before = memory();
  const seen: number[] = [];
  for await (const _ of generate(model, prompt, { maxTokens: 200, repetitionPenalty: 1.1 })) {
    seen.push(memory().bytes);
  }
  expect(new Set(seen.slice(2)).size).toBe(1);
  expect(memory().tensors).toBe(before.tensors);
  // Left early, inside of a scope of the caller.
  {
    using _ = scope();
    for await (const id of generate(model, prompt)) if (id >= 0) break;
  }
  expect(memory().tensors).toBe(before.tensors);
  expect(memory().bytes).toBe(before.bytes);
});

test("text comes in whole characters", async () => {
  const model = modelOf({ ...sizes, vocabSize: 256 }, 1);
  const options = { maxTokens: 60, seed: 1 };
  let streamed = "";
  for await (const piece of generateText(model, byteTokenizer, "Käse", options)) streamed += piece;
  const ids = await tokensOf(model, options, [...byteTokenizer.encode("Käse")]);
  expect(streamed).toBe(byteTokenizer.decode(ids));
});

test("errors name the value and what was expected", async () => {
  const model = modelOf(sizes, 1);
  const cases: [readonly number[], GenerateOptions, RegExp][] = [
    [[], {}, /no tokens/],
    [[1, 48], {}, /token 1 of the prompt is 48: expected an id from 0 to 47/],
    [[1], { temperature: -1 }, /temperature is -1/],
    [[1], { topP: 0 }, /topP is 0: expected a number above 0/],
    [[1], { topK: 1.5 }, /topK is 1.5/],
    [[1], { minP: 2 }, /minP is 2/],
    [[1], { repetitionPenalty: 0 }, /repetitionPenalty is 0/],
    [[1], { maxTokens: Number.NaN }, /maxTokens is NaN/],
    [[1], { prefillTokens: 0 }, /prefillTokens is 0/],
  ];
  for (const [from, options, message] of cases) {
    await expect(tokensOf(model, options, from)).rejects.toThrow(message);
  }
});
