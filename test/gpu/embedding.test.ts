// Sums over equal ids on the GPU: lists of one position and of thousands, in one chunk and in many,
// ids that meet at the borders of blocks and of groups of rows, whole packs of columns and single
// ones. Results hold whatever was in memory before, in the order of the positions.

import { describe, expect, test } from "bun:test";
import {
  cast,
  embedding,
  full,
  indexSelect,
  requireGrad,
  scatterAdd,
  scope,
  type Tensor,
  tensor,
  zeros,
} from "../../lib/tensor/index.ts";
import { relativeError } from "../../lib/verify/report.ts";
import { onGpu } from "../helpers/gpu.ts";
import { Random } from "../helpers/random.ts";

type Storage = "f32" | "bf16";

/** Takes memory that the next tensors get, full of NaN. */
function spoil(count: number): void {
  scope(() => {
    for (let i = 0; i < 4; i++) full([count], Number.NaN);
  });
}

/** Gradient of the table for given gradients of the rows. */
function gradient(
  ids: Int32Array,
  dy: Float64Array,
  vocab: number,
  width: number,
  dtype: Storage = "f32",
): Float32Array {
  spoil(vocab * width);
  return scope(() => {
    const table = requireGrad(zeros([vocab, width], "f32"));
    const y = embedding(table, tensor(ids), dtype);
    const seed = tensor(dy, { shape: [ids.length, width], dtype });
    return numbers(y.backward(seed).get(table)!);
  });
}

function numbers(x: Tensor): Float32Array {
  return Float32Array.from(x.dataSync());
}

/** Every order of summation gives the same bits; whole numbers that bf16 has. */
function wholeNumbers(random: Random, count: number): Float64Array {
  return Float64Array.from({ length: count }, () => random.below(100) - 50);
}

const shapes = [
  { count: 2100, vocab: 3, width: 4 },
  { count: 2500, vocab: 40, width: 12 },
  { count: 2304, vocab: 2304, width: 3 },
  { count: 4000, vocab: 70_000, width: 8 },
  { count: 2050, vocab: 30, width: 1100 },
  { count: 2049, vocab: 1, width: 260 },
  { count: 2300, vocab: 1100, width: 66 },
  { count: 34_000, vocab: 700, width: 2 },
  { count: 300, vocab: 500, width: 20 },
];

describe.each(["f32", "bf16"] as const)("gradients in %s", (dtype) => {
  test.each(shapes)("$count ids of $vocab, rows of $width", ({ count, vocab, width }) => {
    const random = new Random(count);
    const ids = Int32Array.from({ length: count }, () => random.below(vocab));
    ids.fill(vocab - 1, 0, 33);
    const dy = wholeNumbers(random, count * width);
    const want = gradient(ids, dy, vocab, width, dtype);
    expect(onGpu(() => gradient(ids, dy, vocab, width, dtype))).toEqual(want);
  });
});

/** Ids with lists of 1, 2, 3 … positions, shuffled. */
function growing(random: Random, vocab: number): Int32Array {
  const ids = Array.from({ length: vocab }, (_, id) => Array.from({ length: id }, () => id)).flat();
  for (let i = ids.length - 1; i > 0; i--) {
    const other = random.below(i + 1);
    [ids[i], ids[other]] = [ids[other]!, ids[i]!];
  }
  return Int32Array.from(ids);
}

test("up to 128 equal ids are added in order, as on the CPU; more from parts, close to it", () => {
  const [vocab, width] = [300, 8];
  const random = new Random(5);
  const ids = growing(random, vocab);
  const dy = random.normals(ids.length * width);
  const want = gradient(ids, dy, vocab, width);
  const got = onGpu(() => gradient(ids, dy, vocab, width));
  const few = 129 * width;
  expect(got.subarray(0, few)).toEqual(want.subarray(0, few));
  expect(got.subarray(few)).not.toEqual(want.subarray(few));
  expect(relativeError(got.subarray(few), want.subarray(few))).toBeLessThan(1e-6);
  expect(onGpu(() => gradient(ids, dy, vocab, width))).toEqual(got);
});

test("sums of an id do not depend on the other ids and columns", () => {
  const [count, width] = [9000, 4];
  const random = new Random(6);
  const dy = random.normals(count * width);
  const alone = Int32Array.from({ length: count }, (_, i) => (i % 3 === 1 ? 7 : 0));
  const among = Int32Array.from(alone, (id) => (id === 7 ? 7 : 8 + random.below(4000)));
  const row = (ids: Int32Array, columns: number) => {
    const wide = new Float64Array(count * columns);
    for (let i = 0; i < count; i++) wide.set(dy.subarray(i * width, (i + 1) * width), i * columns);
    const at = 7 * columns;
    return onGpu(() => gradient(ids, wide, 5000, columns)).subarray(at, at + width);
  };
  const want = row(alone, width);
  expect(row(among, width)).toEqual(want);
  expect(row(among, 2 * width)).toEqual(want);
  expect(row(among, 3 * width - 1)).toEqual(want);
});

test.each([
  { shape: [2, 2500, 3], count: 900, dim: 1 },
  { shape: [3, 2100], count: 70, dim: 1 },
  { shape: [5, 2100, 4], count: 4000, dim: 1 },
  { shape: [2200, 40], count: 5, dim: 0 },
])("scatterAdd of $shape along $dim", ({ shape, count, dim }) => {
  const random = new Random(count);
  const size = shape.reduce((product, n) => product * n, 1);
  const ids = Int32Array.from({ length: shape[dim]! }, () => random.below(count));
  const values = wholeNumbers(random, size);
  const sums = () =>
    scope(() =>
      numbers(scatterAdd(tensor(values, { shape, dtype: "f32" }), tensor(ids), count, dim)),
    );
  const want = sums();
  spoil(want.length);
  expect(onGpu(sums)).toEqual(want);
});

test("the gradient of a select in bf16", () => {
  const random = new Random(8);
  const ids = Int32Array.from({ length: 2500 }, () => random.below(20));
  const values = random.normals(120);
  const slope = () =>
    scope(() => {
      const x = requireGrad(tensor(values, { shape: [20, 6], dtype: "bf16" }));
      return numbers(cast(indexSelect(x, tensor(ids)).sum().backward().get(x)!, "f32"));
    });
  expect(onGpu(slope)).toEqual(slope());
});

test("ids outside of the table are told, and add to no row", () => {
  onGpu(() =>
    scope(() => {
      const ids = Int32Array.from({ length: 4100 }, (_, i) => i % 50);
      ids[77] = 50;
      const table = requireGrad(zeros([50, 4], "f32"));
      const y = embedding(table, tensor(ids));
      const grad = y.backward(full([4100, 4], 1)).get(table)!;
      expect(() => grad.dataSync()).toThrow(/contain 50, expected 0 to 49/);
      const want = Array.from({ length: 50 }, (_, id) => (id === 27 ? 81 : 82));
      expect(Array.from(grad.slice(1, 0, 1).dataSync())).toEqual(want);
    }),
  );
});
