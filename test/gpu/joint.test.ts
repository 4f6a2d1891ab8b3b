// Linear layers on one input as one product: gates forward, all layers backward.

import { afterEach, describe, expect, test } from "bun:test";
import { joint } from "../../lib/tensor/joint.ts";
import {
  linears,
  memory,
  noGrad,
  randn,
  requireGrad,
  scope,
  sum,
  type Tensor,
} from "../../lib/tensor/index.ts";
import { relativeError } from "../../lib/verify/report.ts";
import { gpu, onGpu } from "../helpers/gpu.ts";

const on = { ...joint };
const off = { gates: false, gradients: false };
afterEach(() => void Object.assign(joint, on));

/** Widths as in a block: query, key, value, output gate, and the two gates in f32. */
const sizes = [8, 8, 16, 16, 2, 2];
const outputs = [undefined, undefined, undefined, undefined, "f32", "f32"] as const;
const seeds = { seed: 5 };

function layers(dtype: "f32" | "bf16", rows: number) {
  const x = requireGrad(randn([rows, 3, 16], { dtype, ...seeds, name: "x" }));
  const weights = sizes.map((n, i) =>
    requireGrad(randn([n, 16], { ...seeds, name: `weight ${i}` })),
  );
  const biases = sizes.map((n, i) =>
    n === 2 ? requireGrad(randn([n], { ...seeds, name: `bias ${i}` })) : undefined,
  );
  return { x, weights, biases };
}

const floats = (x: Tensor) => [...x.dataSync()];

/** Values, and gradients of a weighted sum of those results that are listed. */
function run(dtype: "f32" | "bf16", used: readonly number[], rows = 5) {
  return onGpu(() =>
    scope(() => {
      const { x, weights, biases } = layers(dtype, rows);
      const ys = linears(x, weights, biases, outputs);
      const parts = used.map((i) => {
        const wide = ys[i]!.cast("f32");
        return sum(wide.mul(randn(wide.shape, { ...seeds, name: `slope ${i}` })));
      });
      const grads = parts.reduce((total, part) => total.add(part)).backward();
      const leaves = [x, ...weights, ...biases].filter((leaf) => leaf !== undefined);
      return {
        values: ys.map(floats),
        shapes: ys.map(({ shape, dtype: kind }) => `${kind} ${shape}`),
        gradients: leaves.map((leaf) => grads.get(leaf)).map((grad) => grad && floats(grad)),
        kinds: leaves.map((leaf) => grads.get(leaf)?.dtype),
      };
    }),
  );
}

/** Our own product adds in one order whatever the shape; cuBLASLt does not, then bf16 rounds. */
const bars = { f32: 1e-6, bf16: gpu.cublasLt > 0 ? 8e-3 : 1e-6 };

const cases = { all: [0, 1, 2, 3, 4, 5], "without the last gate": [0, 1, 2, 3, 4], one: [2] };

describe.each(["f32", "bf16"] as const)("%s", (dtype) => {
  test.each(Object.entries(cases))("%s: values and gradients are those of layers apart", (_, i) => {
    const together = run(dtype, i);
    Object.assign(joint, off);
    const apart = run(dtype, i);
    expect(together.shapes).toEqual(apart.shapes);
    expect(together.kinds).toEqual(apart.kinds);
    const valueBar = bars[dtype];
    together.values.forEach((y, k) => {
      expect(relativeError(y, apart.values[k]!), `result ${k}`).toBeLessThan(valueBar);
    });
    apart.gradients.forEach((want, k) => {
      const got = together.gradients[k];
      expect(Boolean(got), `gradient ${k}`).toBe(Boolean(want));
      if (!want || !got) return;
      expect(relativeError(got, want), `gradient ${k}`).toBeLessThan(dtype === "f32" ? 1e-6 : 8e-3);
    });
  });
});

test("few rows keep their layers apart: decoding would read the weights twice", () => {
  const calls = (rows: number) =>
    onGpu(() =>
      scope(() => {
        const { x, weights, biases } = layers("bf16", rows);
        const before = memory().kernelCalls;
        noGrad(() => linears(x, weights, biases, outputs));
        return memory().kernelCalls - before;
      }),
    );
  expect(calls(1)).toBe(sizes.length);
});

test("every gradient is a tensor of its own, and nothing is left over", () => {
  onGpu(() => {
    const { x, weights, biases } = layers("bf16", 5);
    const before = memory().tensors;
    const grads = scope(() => {
      const ys = linears(x, weights, biases, outputs);
      const wide = ys.map((y) => sum(y.cast("f32").square()));
      return wide.reduce((total, part) => total.add(part)).backward();
    });
    expect(memory().tensors).toBe(before + grads.size);
    grads.of(weights[0]!).dispose();
    expect(floats(grads.of(weights[1]!)).every(Number.isFinite)).toBe(true);
    grads.dispose();
    for (const leaf of [x, ...weights, ...biases]) leaf?.dispose();
  });
});
