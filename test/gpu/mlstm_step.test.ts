// One token of the mLSTM for so many rows that the GPU is full, and for a few of them alone: other
// blocks (cuda/mlstm.zig), the same bits; both against the CPU in f64.

import { expect, test } from "bun:test";
import { mlstmState, mlstmStep, onDevice, scope, tensor } from "../../lib/tensor/index.ts";
import { gpu } from "../helpers/gpu.ts";
import { Random } from "../helpers/random.ts";

const heads = 2;
const few = 2;
const many = 2 * gpu.multiprocessors + 3;
const tokens = 3;

interface Widths {
  readonly qk: number;
  readonly v: number;
}

/** Tokens of `many` rows: q, k, v, i, f. */
function drawn({ qk, v }: Widths): Float64Array[][] {
  const random = new Random(qk + v);
  const sizes = [qk, qk, v, 1, 1];
  return Array.from({ length: tokens }, () =>
    sizes.map((width) => random.normals(many * heads * width).map(Math.fround)),
  );
}

/** h of every token, and the last state, of the first `rows` rows. */
function run({ qk, v }: Widths, rows: number, device: "cpu" | "cuda"): Float64Array[] {
  const [dtype, Floats] =
    device === "cpu" ? ["f64" as const, Float64Array] : ["f32" as const, Float32Array];
  return onDevice(device, () =>
    scope(() => {
      const state = mlstmState({ batch: rows, heads, qk, v }, dtype);
      const widths = [qk, qk, v];
      const outputs = drawn({ qk, v }).map((token) => {
        const [q, k, values, i, f] = token.map((data, index) => {
          const width = widths[index];
          const shape = width ? [rows, heads, width] : [rows, heads];
          return tensor(Floats.from(data.subarray(0, rows * heads * (width ?? 1))), {
            shape,
            dtype,
          });
        });
        return mlstmStep({ q: q!, k: k!, v: values!, i: i!, f: f! }, state);
      });
      return [...outputs, state.c, state.n, state.m].map((x) => Float64Array.from(x.dataSync()));
    }),
  );
}

/** 130: a last part of two columns. 300: k and q in more than one part. */
test.each([
  { qk: 20, v: 130 },
  { qk: 300, v: 64 },
])("%o", (widths) => {
  const all = run(widths, many, "cuda");
  const exact = run(widths, many, "cpu");
  all.forEach((x, index) => {
    const largest = exact[index]!.reduce((most, y) => Math.max(most, Math.abs(y)), 0);
    const worst = x.reduce((most, y, at) => Math.max(most, Math.abs(y - exact[index]![at]!)), 0);
    expect(worst / largest, `result ${index}`).toBeLessThan(2e-5);
  });
  run(widths, few, "cuda").forEach((x, index) => {
    expect(x, `result ${index}`).toEqual(all[index]!.subarray(0, x.length));
  });
});
