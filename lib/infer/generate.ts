// Generation: the prompt goes through the model in chunks, then token by token with the recurrent
// state carried along, so the cost of a token does not depend on how many came before.
//
//   for await (const text of generateText(model, byteTokenizer, "Call me", { maxTokens: 300 })) {
//     process.stdout.write(text);
//   }

import type { Tokenizer } from "../data/tokenizer.ts";
import type { XLSTM } from "../nn/model.ts";
import { HostDecoder } from "./decode.ts";
import { DeviceDecoder } from "./decode_device.ts";
import { prefill, type Position, release } from "./prefill.ts";
import { Sampler, type SamplingOptions } from "./sampling.ts";

export interface GenerateOptions extends SamplingOptions {
  /** Tokens after which generation ends. Default: it never does. */
  maxTokens?: number;
  /** Tokens that end generation; the one that did is yielded last. */
  stopTokens?: readonly number[];
  /** Longest piece of the prompt that goes through the model at once. Default 512. */
  prefillTokens?: number;
}

/**
 * Yields the tokens that follow `prompt`, drawn as serving.md §7 says. The same weights, prompt and
 * options give the same tokens. All native memory is freed when the iteration ends, early or not.
 * RangeError for an empty prompt, ids outside of the vocabulary and options out of range.
 */
export async function* generate(
  model: XLSTM,
  prompt: Iterable<number>,
  options: GenerateOptions = {},
): AsyncGenerator<number, void, undefined> {
  const ids = checkedPrompt(prompt, model.config.vocabSize);
  const { maxTokens = Infinity, stopTokens = [], prefillTokens = 512 } = options;
  if (!(maxTokens >= 0)) throw new RangeError(`maxTokens is ${maxTokens}: expected a count`);
  if (!Number.isSafeInteger(prefillTokens) || prefillTokens < 1) {
    throw new RangeError(`prefillTokens is ${prefillTokens}: expected a whole number from 1`);
  }
  const sampler = new Sampler(options, ids);
  let position: Position | undefined;
  try {
    for (let start = 0; start < ids.length; start += prefillTokens) {
      position = prefill(model, ids.subarray(start, start + prefillTokens), position);
    }
    // Penalties need the tokens on the host before the next one is drawn.
    const waits = model.device === "cpu" || sampler.penalises;
    using decoder = new (waits ? HostDecoder : DeviceDecoder)(model, position!, sampler);
    for (let count = 0; count < maxTokens;) {
      for (const id of decoder.next(maxTokens - count)) {
        yield id;
        count++;
        if (stopTokens.includes(id)) return;
      }
    }
  } finally {
    if (position) release(position);
  }
}

/** `generate` for text: yields pieces of whole characters. */
export async function* generateText(
  model: XLSTM,
  tokenizer: Tokenizer,
  prompt: string,
  options: GenerateOptions = {},
): AsyncGenerator<string, void, undefined> {
  const decoder = tokenizer.decoder();
  for await (const id of generate(model, tokenizer.encode(prompt), options)) {
    const text = decoder.push(id);
    if (text !== "") yield text;
  }
  const rest = decoder.end();
  if (rest !== "") yield rest;
}

function checkedPrompt(prompt: Iterable<number>, vocabSize: number): Int32Array {
  const ids = [...prompt];
  if (ids.length === 0) {
    throw new RangeError("the prompt has no tokens: give at least one to start from");
  }
  for (const [at, id] of ids.entries()) {
    if (Number.isInteger(id) && id >= 0 && id < vocabSize) continue;
    throw new RangeError(
      `token ${at} of the prompt is ${id}: expected an id from 0 to ${vocabSize - 1}`,
    );
  }
  return Int32Array.from(ids);
}
