// Sums over equal ids on the GPU: sorted lists, runs shorter and longer than a warp, ids that meet
// at the borders of blocks, whole packs of columns and single ones; bit for bit the same each time.

import { expect, test } from "bun:test";
import { embedding, requireGrad, scope, tensor, zeros } from "../../lib/tensor/index.ts";
import { onGpu } from "../helpers/gpu.ts";
import { Random } from "../helpers/random.ts";

/** Gradient of the table for whole numbers dy: every order of summation gives the same bits. */
function gradient(ids: Int32Array, dy: Float64Array, vocab: number, width: number) {
  return scope(() => {
    const table = requireGrad(zeros([vocab, width], "f32"));
    const y = embedding(table, tensor(ids));
    const seed = tensor(dy, { shape: [ids.length, width], dtype: "f32" });
    return Float32Array.from(y.backward(seed).get(table)!.dataSync());
  });
}

test.each([
  { count: 2100, vocab: 3, width: 4 },
  { count: 2500, vocab: 40, width: 12 },
  { count: 2304, vocab: 2304, width: 3 },
  { count: 4000, vocab: 70000, width: 8 },
  { count: 2050, vocab: 30, width: 1100 },
])("$count ids of $vocab, rows of $width", ({ count, vocab, width }) => {
  const random = new Random(count);
  const ids = Int32Array.from({ length: count }, () => random.below(vocab));
  ids.fill(vocab - 1, 0, 33);
  const dy = Float64Array.from({ length: count * width }, () => random.below(100) - 50);
  const want = gradient(ids, dy, vocab, width);
  expect(onGpu(() => gradient(ids, dy, vocab, width))).toEqual(want);
});
