// Cross entropy on the GPU against the CPU in f64: rows that fit in shared memory and rows that do
// not, of whole packs and with a rest, ties with the target on both sides; and the fused head
// against its parts.

import { describe, expect, test } from "bun:test";
import { gpuFacts } from "../../lib/native/gpu.ts";
import {
  cast,
  crossEntropy,
  div,
  type DType,
  linear,
  linearCrossEntropy,
  type LossOptions,
  type LossSum,
  mul,
  requireGrad,
  scope,
  tensor,
  type Tensor,
} from "../../lib/tensor/index.ts";
import { onGpu } from "../helpers/gpu.ts";
import { roundToBf16 } from "../helpers/gradients.ts";
import { Random } from "../helpers/random.ts";

const shapes = [
  { rows: 7, vocab: 30 },
  { rows: 5, vocab: 1003 },
  { rows: 3, vocab: 50304 },
  { rows: 3, vocab: 60000 },
];
const options: Record<string, LossOptions> = {
  plain: {},
  cap: { softCap: 15 },
  smoothing: { labelSmoothing: 0.1 },
  "z-loss": { zLoss: 1e-3 },
  all: { softCap: 10, labelSmoothing: 0.05, zLoss: 1e-3 },
};
const bars = { f32: 5e-6, bf16: 5e-3 } as const;

/** Row 1 has an equal of its target above, row 2 one below; the last row is not valid. */
function drawRows(rows: number, vocab: number, random: Random) {
  const logits = random.normals(rows * vocab).map((x) => roundToBf16(8 * x));
  const targets = Int32Array.from({ length: rows }, () => random.below(vocab));
  targets.set([vocab - 1, 4, 11]);
  for (const [row, column] of [
    [1, 4],
    [1, 5],
    [2, 3],
    [2, 11],
  ] as const) {
    logits[row * vocab + column] = 64;
  }
  return { logits, targets, mask: Uint8Array.from(targets, (_, i) => (i < rows - 1 ? 1 : 0)) };
}

interface Facts {
  readonly loss: number;
  readonly count: number;
  readonly correct: number;
  readonly perToken: Float64Array;
}

function facts({ loss, count, correct, perToken }: LossSum): Facts {
  return {
    loss: loss.item(),
    count: count.item(),
    correct: correct.item(),
    perToken: numbers(perToken),
  };
}

function numbers(x: Tensor): Float64Array {
  return Float64Array.from((x.dtype === "bf16" ? cast(x, "f32") : x).dataSync());
}

/** Largest difference by the largest element. */
function distance(got: Float64Array, want: Float64Array): number {
  expect(got.length).toBe(want.length);
  expect(got.every(Number.isFinite)).toBe(true);
  const largest = want.reduce((top, x) => Math.max(top, Math.abs(x)), 0);
  return want.reduce((top, x, i) => Math.max(top, Math.abs(x - got[i]!)), 0) / (largest || 1);
}

describe.each(["f32", "bf16"] as const)("%s", (dtype) => {
  for (const { rows, vocab } of shapes) {
    test.each(Object.keys(options))(`${rows} x ${vocab}, %s`, (name) => {
      const drawn = drawRows(rows, vocab, new Random(vocab));
      const run = (of: DType) =>
        scope(() => {
          const logits = requireGrad(tensor(drawn.logits, { shape: [rows, vocab], dtype: of }));
          const mask = tensor(drawn.mask);
          const sum = crossEntropy(logits, tensor(drawn.targets), { ...options[name], mask });
          const gradient = numbers(sum.loss.backward().get(logits)!);
          return { ...facts(sum), gradient };
        });
      const want = run("f64");
      const got = onGpu(() => run(dtype));
      expect(got.count).toBe(rows - 1);
      expect(got.correct).toBe(want.correct);
      expect(Math.abs(got.loss / want.loss - 1)).toBeLessThan(1e-6);
      expect(distance(got.perToken, want.perToken)).toBeLessThan(1e-6);
      expect(distance(got.gradient, want.gradient)).toBeLessThan(bars[dtype]);
    });
  }

  test.each([
    [70, 24, 331],
    [2, 4, 60000],
  ])("the fused head equals its parts: %d x %d x %d", (rows, width, vocab) => {
    const random = new Random(5);
    const hidden = random.normals(rows * width).map(roundToBf16);
    const weight = random.normals(vocab * width).map(roundToBf16);
    const targets = Int32Array.from({ length: rows }, () => random.below(vocab));
    const mask = Uint8Array.from(targets, (_, i) => (i % 5 ? 1 : 0));
    const run = (isFused: boolean) =>
      onGpu(() =>
        scope(() => {
          const x = requireGrad(tensor(hidden, { shape: [rows, width], dtype }));
          const w = requireGrad(tensor(weight, { shape: [vocab, width], dtype: "f32" }));
          const labels = tensor(targets);
          const valid = { mask: tensor(mask) };
          const sum = isFused
            ? linearCrossEntropy(x, w, labels, valid)
            : crossEntropy(linear(x, w), labels, valid);
          const grads = sum.loss.backward();
          return { ...facts(sum), dx: numbers(grads.get(x)!), dw: numbers(grads.get(w)!) };
        }),
      );
    const [fused, parts] = [run(true), run(false)];
    expect(fused.correct).toBe(parts.correct);
    expect(distance(fused.perToken, parts.perToken)).toBeLessThan(1e-6);
    expect(distance(fused.dx, parts.dx)).toBeLessThan(bars[dtype]);
    expect(distance(fused.dw, parts.dw)).toBeLessThan(bars[dtype]);
  });

  test("gradients of the mean need no multiplication, others are right", () => {
    const [rows, width, vocab] = [70, 24, 331];
    const random = new Random(6);
    const hidden = random.normals(rows * width).map(roundToBf16);
    const weight = random.normals(vocab * width).map(roundToBf16);
    const targets = Int32Array.from({ length: rows }, () => random.below(vocab));
    const run = (of: DType, meanOf: (loss: Tensor) => Tensor, expectedGradient?: number) =>
      scope(() => {
        const x = requireGrad(tensor(hidden, { shape: [rows, width], dtype: of }));
        const stored = of === "bf16" ? "f32" : of;
        const w = requireGrad(tensor(weight, { shape: [vocab, width], dtype: stored }));
        const loss = meanOf(linearCrossEntropy(x, w, tensor(targets), { expectedGradient }).loss);
        const before = x.device === "cuda" ? gpuFacts().launches : 0;
        const grads = loss.backward();
        const launches = x.device === "cuda" ? gpuFacts().launches - before : 0;
        return { launches, dx: numbers(grads.get(x)!), dw: numbers(grads.get(w)!) };
      });
    const losses: Record<string, [(loss: Tensor) => Tensor, number, number?]> = {
      // The seed and its scaling.
      mean: [(loss) => div(loss, rows), 2],
      // Scaling by the rest of the factor, once for each gradient; bf16 rounds it first.
      sum: [(loss) => loss, dtype === "bf16" ? 5 : 4],
      third: [(loss) => mul(loss, 1 / 3), dtype === "bf16" ? 6 : 5],
      "twice the mean": [(loss) => div(loss.add(loss), rows), dtype === "bf16" ? 7 : 6],
      "a seventh, as expected": [(loss) => mul(loss, 1 / 7), 2, 1 / 7],
      "a sum, as expected": [(loss) => loss, 1, 1],
    };
    for (const [name, [meanOf, launches, expected]] of Object.entries(losses)) {
      const want = run("f64", meanOf);
      const got = onGpu(() => run(dtype, meanOf, expected));
      expect(got.launches, name).toBe(launches);
      // Logits are rounded to bf16, too.
      expect(distance(got.dx, want.dx), name).toBeLessThan(4 * bars[dtype]);
      expect(distance(got.dw, want.dw), name).toBeLessThan(4 * bars[dtype]);
    }
  });
});
