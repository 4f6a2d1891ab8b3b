// Sums over microbatches: the fixed tree that makes accumulation, dp and fsdp give the same bits.

import { expect, test } from "bun:test";
import { OrderedSum } from "../../lib/mesh/accumulate.ts";

function sumOf(names: readonly string[], order: "tree" | "running"): string | undefined {
  const sum = new OrderedSum<string>((a, b) => `(${a}${b})`, order);
  for (const name of names) sum.push(name);
  return sum.finish();
}

/** Left subtree = largest power of two below n. */
function tree(names: readonly string[]): string {
  if (names.length === 1) return names[0]!;
  const left = 2 ** Math.floor(Math.log2(names.length - 1));
  return `(${tree(names.slice(0, left))}${tree(names.slice(left))})`;
}

const letters = [..."abcdefghijklmnopqrstuvw"];

test("every count adds up in the balanced tree", () => {
  for (let n = 1; n <= letters.length; n++) {
    expect(sumOf(letters.slice(0, n), "tree")).toBe(tree(letters.slice(0, n)));
  }
  expect(sumOf([..."abcdefg"], "tree")).toBe("(((ab)(cd))((ef)g))");
});

test("a running sum adds from the left", () => {
  expect(sumOf([..."abcd"], "running")).toBe("(((ab)c)d)");
});

test("ranks that own aligned runs and add them in a tree give the sum of one process", () => {
  const values = Float64Array.from({ length: 32 }, (_, i) => 1 / (i + 3));
  const add = (list: readonly number[]) => {
    const sum = new OrderedSum<number>((a, b) => a + b);
    for (const value of list) sum.push(value);
    return sum.finish()!;
  };
  const whole = add([...values]);
  for (const ranks of [2, 4, 8, 16, 32]) {
    const run = 32 / ranks;
    const parts = Array.from({ length: ranks }, (_, r) =>
      add([...values.subarray(r * run, (r + 1) * run)]),
    );
    expect(add(parts)).toBe(whole);
  }
  expect([...values].reduce((a, b) => a + b)).not.toBe(whole);
});

test("a sum is empty after it was taken", () => {
  const sum = new OrderedSum<number>((a, b) => a + b);
  expect(sum.finish()).toBeUndefined();
  sum.push(3);
  expect(sum.finish()).toBe(3);
  expect(sum.finish()).toBeUndefined();
});
