// A keyed permutation of [0, count) that is never materialised: position i of an epoch's order is
// computed on its own, so any batch of any epoch can be read without the ones before it.

import type { Key } from "../tensor/random.ts";
import { philox } from "./philox.ts";

const rounds = 6;

/**
 * Where `index` lands in the permutation of [0, count) that `key` selects. A balanced Feistel
 * network over the smallest even number of bits that holds `count`; values past the end walk
 * on along their cycle until they fall inside (training.md §2.6). `count` is at most 2^52.
 */
export function permute(index: number, count: number, key: Key): number {
  if (!Number.isSafeInteger(count) || count < 1 || count > 2 ** 52) {
    throw new RangeError(`cannot permute ${count} items: expected an integer from 1 to 2^52`);
  }
  if (!Number.isSafeInteger(index) || index < 0 || index >= count) {
    throw new RangeError(`index ${index} is outside of the permutation of 0..${count - 1}`);
  }
  const halfBits = Math.max(1, Math.ceil(Math.log2(count) / 2));
  const half = 2 ** halfBits;
  let value = index;
  do {
    let left = Math.floor(value / half);
    let right = value % half;
    for (let round = 0; round < rounds; round++) {
      const word = philox([right, round, halfBits, 0], key)[0];
      [left, right] = [right, (left ^ (word % half)) >>> 0];
    }
    value = left * half + right;
  } while (value >= count);
  return value;
}
