// Every differentiable operation against central differences in f64, and its f32 gradients against
// the f64 ones. The tables in test/helpers hold the rows: an operation without one fails here.

import { describe, expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { Unary } from "../../lib/native/symbols.ts";
import * as tensors from "../../lib/tensor/index.ts";
import { add, grad, mul, randn, requireGrad, scope, type Tensor } from "../../lib/tensor/index.ts";
import { noGrad, tensor, valueAndGrad } from "../../lib/tensor/index.ts";
import { cellRows } from "../helpers/gradient_cells.ts";
import { type GradientRow, type Operations, plainRows } from "../helpers/gradient_rows.ts";
import { differences, draw, gradientErrors, tapeGradients } from "../helpers/gradients.ts";
import type { Values } from "../helpers/gradients.ts";
import { Random } from "../helpers/random.ts";

const rows = [...plainRows, ...cellRows];
const bar = 1e-6;
/** kernels.md §13.2 allows f32 gate gradients 5e-5. */
const f32Bar = 5e-5;

const nondifferentiable = {
  argmax: "an index",
  causalConvStep: "in place, for decoding",
  dimOf: "a number",
  drawTokens: "a draw",
  drawsOf: "numbers for a draw",
  eq: "a step function",
  ge: "a step function",
  gt: "a step function",
  le: "a step function",
  lt: "a step function",
  mlstmState: "zeros",
  mlstmStep: "in place, for decoding",
  sampleTokens: "a draw",
  settingsOf: "numbers for a draw",
  slstmStep: "in place, for decoding",
  sumTo: "part of backward passes: not recorded",
  write: "in place",
};

function inputsOf({ shapes, domains, operation, note }: GradientRow): Values[] {
  const random = new Random(Number(Bun.hash.xxHash32(`${operation} ${note}`)));
  return shapes.map((shape, i) => draw(shape, domains[Math.min(i, domains.length - 1)]!, random));
}

/** The operations of the library, noting in `used` which ones are taken. */
function watched(used: Set<string>): Operations {
  const get = (target: Operations, name: string) => {
    used.add(name);
    return target[name as keyof Operations];
  };
  return new Proxy(tensors, { get: get as ProxyHandler<Operations>["get"] & {} });
}

describe("gradients", () => {
  for (const row of rows) {
    test(`${row.operation}: ${row.note}`, () => {
      const used = new Set<string>();
      const t = watched(used);
      const inputs = inputsOf(row);
      const f = (...leaves: Tensor[]) => row.run(t, ...leaves);
      const got = tapeGradients(f, inputs);
      expect(used).toContain(row.operation);
      const errors = gradientErrors(got, differences(f, inputs, row.step));
      expect(Math.max(...errors), `errors by input: ${errors}`).toBeLessThan(bar);
      // The same numbers on both sides, so that only arithmetic differs.
      const rounded = inputs.map(({ shape, data }) => ({ shape, data: data.map(Math.fround) }));
      const narrow = tapeGradients(f, rounded, "f32");
      const narrowErrors = gradientErrors(narrow, tapeGradients(f, rounded));
      expect(Math.max(...narrowErrors), `f32 errors: ${narrowErrors}`).toBeLessThan(f32Bar);
    });
  }
});

test("every operation has a row or a reason for having none", async () => {
  const folder = new URL("../../lib/tensor/ops/", import.meta.url);
  const exported = new Set<string>();
  for (const file of readdirSync(folder)) {
    const module = await import(new URL(file, folder).pathname);
    for (const name of Object.keys(module)) exported.add(name);
  }
  const known = new Set<string>(rows.map(({ operation }) => operation));
  for (const name of Object.keys(nondifferentiable)) {
    expect(known, `${name} is said to have no gradient`).not.toContain(name);
    known.add(name);
  }
  expect([...exported].filter((name) => !known.has(name))).toEqual([]);
  const functional = ["checkpoint", "customGrad"];
  expect([...known].filter((name) => !exported.has(name))).toEqual(functional);
});

test("every function of the native table has a row", () => {
  const named = rows.filter(({ operation }) => operation === "unary").map(({ note }) => note);
  expect(named.toSorted()).toEqual(Object.keys(Unary).toSorted());
});

describe("the tape", () => {
  test("grad and valueAndGrad give the value and every argument's gradient", () => {
    using _ = scope();
    const x = tensor([1, 2], { dtype: "f64" });
    const y = tensor([3, 4], { dtype: "f64" });
    const f = (a: Tensor, b: Tensor) => a.square().mul(b).sum();
    const { value, grads } = valueAndGrad(f)(x, y);
    expect(value.item()).toBe(19);
    expect(grads.map((each) => each.tolist())).toEqual([
      [6, 16],
      [1, 4],
    ]);
    expect(grad(f)(x, y).map((each) => each.tolist())).toEqual(grads.map((each) => each.tolist()));
    expect([x.requiresGrad, value.requiresGrad]).toEqual([false, false]);
  });

  test("accumulation: a sum of gradients is the gradient of the sum", () => {
    using _ = scope();
    const x = requireGrad(randn([3, 4], { dtype: "f64" }));
    const only = requireGrad(randn([4], { dtype: "f64" }));
    const first = () => mul(x, only).sum();
    const second = () => x.square().sum();
    const both = add(first(), second()).backward();
    const sum = first().backward().plus(second().backward());
    for (const leaf of [x, only]) expect(sum.of(leaf).tolist()).toEqual(both.of(leaf).tolist());
    const other = second().backward().plus(first().backward());
    expect(other.of(only).tolist()).toEqual(both.of(only).tolist());
    const half = other.scaled(0.5);
    expect(half.of(x).tolist()).toEqual(both.of(x).mul(0.5).tolist());
  });

  test("a seed is the gradient of the result and stays the caller's", () => {
    using _ = scope();
    const x = requireGrad(tensor([1, 2, 3]));
    const seed = tensor([1, 10, 100]);
    expect(x.square().backward(seed).of(x).tolist()).toEqual([2, 40, 600]);
    expect(x.mul(1).backward(seed).of(x).tolist()).toEqual([1, 10, 100]);
    expect(seed.tolist()).toEqual([1, 10, 100]);
    expect(x.backward(seed).of(x).tolist()).toEqual([1, 10, 100]);
  });

  test("ties share the gradient of an extreme, or give it to the first", () => {
    using _ = scope();
    const x = requireGrad(tensor([2, 5, 5, 1]));
    expect(x.max().backward().of(x).tolist()).toEqual([0, 0.5, 0.5, 0]);
    const y = requireGrad(tensor([2, 4, 5, 3]));
    const grads = x.maximum(y).sum().backward();
    expect(grads.of(x).tolist()).toEqual([1, 1, 1, 0]);
    expect(grads.of(y).tolist()).toEqual([0, 0, 0, 1]);
  });

  test("a cast rounds the gradient to the dtype that it goes through", () => {
    using _ = scope();
    const x = requireGrad(tensor([1, 2]));
    const seed = tensor([1 + 2 ** -9, 1 + 2 ** -7]);
    const grad = x.cast("bf16").cast("f32").backward(seed).of(x);
    expect([grad.dtype, grad.tolist()]).toEqual(["f32", [1, 1 + 2 ** -7]]);
  });

  test("misuse is refused with the way out", () => {
    using _ = scope();
    const x = requireGrad(tensor([1, 2]));
    const y = x.square();
    expect(() => y.backward()).toThrow(/shape \[2\]; sum it to one element first/);
    expect(() => tensor([1]).backward()).toThrow(/does not depend on anything with gradients/);
    expect(() => noGrad(() => x.sum()).backward()).toThrow(/does not depend/);
    expect(() => y.requireGrad()).toThrow(/result of a recorded operation/);
    const loss = y.sum();
    const grads = loss.backward();
    expect(() => loss.backward()).toThrow(/tape of sum was used up/);
    expect(() => grads.of(requireGrad(tensor([1])))).toThrow(/no gradient for a tensor of shape/);
    const hidden = requireGrad(tensor([3, 4]));
    const recomputed = tensors.checkpoint((h) => h.mul(hidden), [x]);
    expect(() => recomputed.sum().backward()).toThrow(/parameters that `captured` does not list/);
  });
});
