// Sums of linear layers that ranks share (mesh.md §15): parts of a layer, added in the tree of a
// sum over ranks, have the bits of the whole layer.

import { describe, expect, test } from "bun:test";
import { check, native } from "../../lib/native/library.ts";
import { add, concat, linears, randn, slice, type Tensor } from "../../lib/tensor/index.ts";
import { partsOf } from "../../lib/tensor/shared_sums.ts";
import { putInts } from "../../lib/tensor/tensor.ts";
import { relativeError } from "../../lib/verify/report.ts";

const rows = 21;
const width = 40;

/** The part of each tensor that a rank has: an equal piece along `dim`. */
function shareOf(list: readonly Tensor[], dim: number, rank: number, ranks: number): Tensor[] {
  return list.map((x) => {
    const step = x.shape.at(dim)! / ranks;
    return slice(x, dim, rank * step, (rank + 1) * step);
  });
}

/** The sum over ranks, as groups make it. */
function total(parts: readonly Tensor[]): Tensor {
  if (parts.length === 1) return parts[0]!;
  const half = parts.length / 2;
  return add(total(parts.slice(0, half)), total(parts.slice(half)));
}

const ranksOf = (count: number) => Array.from({ length: count }, (_, rank) => rank);
const numbers = (x: Tensor) => [...(x.dataSync() as Float32Array | Float64Array)];

/** One layer whose input is made of several segments. */
function joinedLayer(xs: readonly Tensor[], ws: readonly Tensor[], ranks: number): Tensor {
  const shared = { inputs: partsOf(ranks), segments: xs.map((x) => x.shape.at(-1)!) };
  return linears(concat(xs, -1), [concat(ws, -1)], [], [], shared)[0]!;
}

/** The gradient of what several layers read, for gradients of their results. */
function inputGradient(
  x: Tensor,
  { weights, slopes }: Record<"weights" | "slopes", readonly Tensor[]>,
  outputs: number,
): Tensor {
  const input = x.detach().requireGrad();
  const ys = linears(input, weights, [], [], { outputs });
  const loss = ys.map((y, i) => y.mul(slopes[i]!).sum()).reduce((a, b) => a.add(b));
  return loss.backward().of(input);
}

describe.each(["f32", "f64"] as const)("%s", (dtype) => {
  const random = (...shape: number[]) => randn(shape, { dtype });
  const bar = { f32: 1e-6, f64: 1e-15 }[dtype];

  test.each([2, 4, 8])("results of %d ranks with a part of the inputs each", (ranks) => {
    const xs = [64, 16, 24].map((size) => random(3, rows / 3, size));
    const ws = [64, 16, 24].map((size) => random(width, size));
    const parts = ranksOf(ranks).map((rank) => {
      const [x, w] = [shareOf(xs, -1, rank, ranks), shareOf(ws, -1, rank, ranks)];
      return joinedLayer(x, w, ranks);
    });
    const whole = joinedLayer(xs, ws, 1);
    expect(numbers(total(parts))).toEqual(numbers(whole));
    const plain = linears(concat(xs, -1), [concat(ws, -1)])[0]!;
    expect(relativeError(numbers(whole), numbers(plain))).toBeLessThan(bar);
    expect(numbers(whole)).not.toEqual(numbers(plain));
  });

  test.each([2, 4, 8])("gradients of %d ranks with a part of the outputs each", (ranks) => {
    const x = random(rows, width);
    const weights = [64, 8, 32].map((size) => random(size, width));
    const slopes = weights.map((weight) => random(rows, weight.shape[0]!));
    const parts = ranksOf(ranks).map((rank) => {
      const own = {
        weights: shareOf(weights, 0, rank, ranks),
        slopes: shareOf(slopes, 1, rank, ranks),
      };
      return inputGradient(x, own, partsOf(ranks));
    });
    const whole = inputGradient(x, { weights, slopes }, partsOf(1));
    expect(numbers(total(parts))).toEqual(numbers(whole));
    const plain = inputGradient(x, { weights, slopes }, 0);
    expect(relativeError(numbers(whole), numbers(plain))).toBeLessThan(bar);
  });
});

test("ranks that do not divide the parts add as a lone process does", () => {
  expect([1, 2, 3, 4, 5, 6, 8, 16].map(partsOf)).toEqual([8, 4, 0, 2, 0, 0, 1, 0]);
});

test("parts and segments that cannot be are errors", () => {
  const [x, w] = [randn([5, 12]), randn([4, 12])];
  const call = (parts: number, segments: readonly number[]) => () => {
    const count = putInts(segments);
    check(native().xl_linear_in_parts(x.handle, w.handle, 0, parts, count), "linear");
  };
  expect(call(3, [12])).toThrow("3 parts, expected a power of two up to 8");
  expect(call(16, [12])).toThrow("16 parts");
  expect(call(8, [4, 4])).toThrow("segments of 8 columns together, x has 12");
  expect(call(8, [])).toThrow("0 segments, expected 1 to 12");
});
