// Philox4x32-10 (mesh.md §14): four random words from a 128-bit counter under a 64-bit key. Data
// order comes from it because a word depends on nothing but its counter and key.

import type { Key } from "../tensor/random.ts";

export type Words = readonly [number, number, number, number];

/** The four unsigned 32-bit words of `counter` under `key`. */
export function philox(counter: Words, key: Key): Words {
  let [a, b, c, d] = counter;
  let low = key.low | 0;
  let high = key.high | 0;
  for (let round = 0; round < 10; round++) {
    const nextA = highWord(0xcd9e8d57, c) ^ b ^ low;
    const nextC = highWord(0xd2511f53, a) ^ d ^ high;
    b = Math.imul(0xcd9e8d57, c);
    d = Math.imul(0xd2511f53, a);
    a = nextA;
    c = nextC;
    low = (low + 0x9e3779b9) | 0;
    high = (high + 0xbb67ae85) | 0;
  }
  return [a >>> 0, b >>> 0, c >>> 0, d >>> 0];
}

/** High half of the 64-bit product of two unsigned words; a double alone would round it away. */
function highWord(x: number, y: number): number {
  const xHigh = x >>> 16;
  const xLow = x & 0xffff;
  const yHigh = y >>> 16;
  const yLow = y & 0xffff;
  const middle = xHigh * yLow + ((xLow * yLow) >>> 16);
  const carry = (middle % 0x10000) + xLow * yHigh;
  return (xHigh * yHigh + Math.floor(middle / 0x10000) + Math.floor(carry / 0x10000)) | 0;
}
