// Drawing tokens from logits: the native kernel of serving.md §7, steps 2 to 7.

import { native } from "../../native/library.ts";
import { tensor } from "../create.ts";
import { onDevice } from "../device.ts";
import type { Key } from "../random.ts";
import { result, type Tensor } from "../tensor.ts";

/** How the token of one row is drawn. */
export interface SampleRow {
  /** 0 takes the most likely token, the lowest id among equals. */
  readonly temperature: number;
  /** Keep the k most likely tokens; 0 = all. */
  readonly topK: number;
  /** Keep the shortest prefix of the most likely tokens that holds this probability; 1 = all. */
  readonly topP: number;
  /** Keep tokens that are at least this much as likely as the most likely one; 0 = all. */
  readonly minP: number;
  /** `keyOf("sample", seed)`. */
  readonly key: Key;
  /** Number of the generated token in its sequence, from 0. */
  readonly position: number;
  /** Number of the sequence among several for one prompt. */
  readonly choice: number;
  /** Row of the prompt in its request. */
  readonly prompt: number;
}

/**
 * One token per row: logits [rows, V] → i32 [rows]. A token depends on its row's logits, settings
 * and counter only, never on the other rows.
 */
export function sampleTokens(logits: Tensor, rows: readonly SampleRow[]): Tensor {
  return onDevice(logits.device, () => {
    using settings = settingsOf(rows);
    using draws = drawsOf(rows);
    return drawTokens(logits, settings, draws);
  });
}

/** `sampleTokens` from tensors: f64 [rows, 4] of `settingsOf`, i32 [rows, 6] of `drawsOf`. */
export function drawTokens(logits: Tensor, settings: Tensor, draws: Tensor): Tensor {
  return result(native().xl_sample(logits.handle, settings.handle, draws.handle), "sample");
}

/** What is kept of each row's distribution. */
export function settingsOf(rows: readonly SampleRow[]): Tensor {
  rows.forEach(checkRow);
  const values = rows.flatMap(({ temperature, topP, minP, topK }) => {
    return [temperature, topP, minP, topK];
  });
  return tensor(Float64Array.from(values), { shape: [rows.length, 4] });
}

/** Where each row's random number comes from. */
export function drawsOf(rows: readonly SampleRow[]): Tensor {
  const values = rows.flatMap(({ key, position, choice, prompt }) => {
    return [key.low, key.high, position, choice, prompt, 0];
  });
  return tensor(Int32Array.from(values), { shape: [rows.length, 6] });
}

function checkRow(row: SampleRow, at: number): void {
  const expect = (name: "temperature" | "topK" | "topP" | "minP", ok: boolean, what: string) => {
    if (!ok) throw new RangeError(`sample: ${name} of row ${at} is ${row[name]}; expected ${what}`);
  };
  const { temperature, topK, topP, minP } = row;
  expect("temperature", temperature >= 0 && Number.isFinite(temperature), "0 or more");
  expect("topK", Number.isInteger(topK) && topK >= 0, "a whole number, 0 for all tokens");
  expect("topP", topP > 0 && topP <= 1, "above 0 and at most 1, 1 for all tokens");
  expect("minP", minP >= 0 && minP <= 1, "from 0 to 1, 0 for all tokens");
}
