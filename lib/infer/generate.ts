// Generation: the prompt goes through the model in chunks, then token by token with the recurrent
// state carried along, so the cost of a token does not depend on how many came before.
//
//   for await (const text of generateText(model, byteTokenizer, "Call me", { maxTokens: 300 })) {
//     process.stdout.write(text);
//   }

import type { Tokenizer } from "../data/tokenizer.ts";
import type { ModelState } from "../nn/context.ts";
import type { XLSTM } from "../nn/model.ts";
import { keep, noGrad, scope, type Tensor } from "../tensor/index.ts";
import { Sampler, type SamplingOptions } from "./sampling.ts";

export interface GenerateOptions extends SamplingOptions {
  /** Tokens after which generation ends. Default: it never does. */
  maxTokens?: number;
  /** Tokens that end generation; the one that did is yielded last. */
  stopTokens?: readonly number[];
  /** Longest piece of the prompt that goes through the model at once. Default 512. */
  prefillTokens?: number;
}

/** A state and the logits f32 [1, V] for the token after it. */
interface Position {
  state: ModelState;
  logits: Tensor;
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
      position = advance(model, ids.subarray(start, start + prefillTokens), position);
    }
    for (let count = 0; count < maxTokens; count++) {
      const id = sampler.next(position!.logits);
      yield id;
      if (stopTokens.includes(id) || count + 1 >= maxTokens) return;
      position = advance(model, Int32Array.of(id), position);
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

/** Takes tokens into the state; the position before is given up. */
function advance(model: XLSTM, ids: Int32Array, before: Position | undefined): Position {
  const after = noGrad(() =>
    scope(() => {
      const tokens = { data: ids, shape: [1, ids.length] };
      const { hidden, state } = model.hidden(tokens, { state: before?.state, returnState: true });
      const last = hidden.slice(1, ids.length - 1, ids.length);
      const logits = model.head(last.reshape([1, hidden.shape[2]!]));
      // Between two tokens the caller's scopes come and go: the state belongs to none of them.
      for (const tensor of tensorsOf({ state: state!, logits })) keep(tensor);
      return { state: state!, logits };
    }),
  );
  if (before) release(before);
  return after;
}

function release(position: Position): void {
  for (const tensor of tensorsOf(position)) tensor.dispose();
}

function tensorsOf({ state, logits }: Position): Tensor[] {
  const all = state.blocks.flatMap(({ c, n, m, slstm, conv }) => [c, n, m, slstm, conv]);
  return [...all, logits].filter((tensor) => tensor !== undefined);
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
