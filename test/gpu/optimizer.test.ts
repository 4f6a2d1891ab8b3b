// One update of many tensors in few launches: the bits of an update of each tensor alone, the
// numbers of the CPU, and gradients that are views at odd addresses.

import { afterEach, describe, expect, test } from "bun:test";
import { gpuFacts } from "../../lib/native/gpu.ts";
import { native } from "../../lib/native/library.ts";
import { optimizer as makeOptimizer, type OptimizerInput } from "../../lib/optim/optimizer.ts";
import {
  type Device,
  full,
  Gradients,
  noGrad,
  onDevice,
  randn,
  scope,
  type Tensor,
} from "../../lib/tensor/index.ts";
import { putInts, result } from "../../lib/tensor/tensor.ts";
import { onGpu } from "../helpers/gpu.ts";

const live: { dispose(): void }[] = [];
afterEach(() => {
  for (const item of live.splice(0)) item.dispose();
});

/** More than a launch takes (48), or a native call (100); with and without rests. */
const sizes = Array.from({ length: 130 }, (_, i) => {
  return i % 40 === 5 ? 5001 : i % 40 === 6 ? 4096 : [1, 19, 24, 128][i % 4]! + (i >> 4);
});
const rules = {
  sgd: { name: "sgd", beta1: null },
  momentum: { name: "sgd" },
  nesterov: { name: "sgd", nesterov: true },
  adamw: { name: "adamw" },
  nadam: { name: "nadam" },
  adamax: { name: "adamax" },
  radam: { name: "radam" },
  lamb: { name: "lamb" },
  ademamix: { name: "ademamix" },
} satisfies Record<string, Omit<OptimizerInput, "lr">>;
const settings = { lr: 3e-2, weightDecay: 0.2, beta2: 0.95, eps: 1e-6, gradClipValue: 1.5 };

interface Problem {
  readonly device: Device;
  readonly rule: keyof typeof rules;
  readonly dtype?: "f32" | "bf16";
  /** Gradients lie side by side in one tensor, so that most are not aligned. */
  readonly beside?: boolean;
  /** An optimiser for each tensor. */
  readonly apart?: boolean;
}

/** Parameters and moments after two updates. */
function run({ device, rule, dtype = "f32", beside, apart }: Problem) {
  return onDevice(device, () =>
    scope(() => {
      const named = sizes.map((size, i): [string, Tensor] => {
        const name = i % 3 === 0 ? `${i}.bias` : `${i}.weight`;
        return [name, randn([size], { seed: 1, name })];
      });
      const groups = apart ? named.map((one) => [one]) : [named];
      const optimizers = groups.map((group) =>
        makeOptimizer(new Map(group), { ...settings, ...rules[rule] }),
      );
      live.push(...optimizers);
      for (let step = 0; step < 2; step++) {
        const grads = gradients(step, dtype, beside ?? false);
        const of = new Map(named.map(([, parameter], i) => [parameter, grads[i]!]));
        for (const each of optimizers) each.step(new Gradients(of));
      }
      const moments = optimizers.flatMap((each) => [...each.state().tensors.values()]);
      const values = (list: Tensor[]) => Float32Array.from(list.flatMap((x) => [...x.dataSync()]));
      return { parameters: values(named.map(([, x]) => x)), moments: values(moments) };
    }),
  );
}

const bytes = (x: Float32Array) => Buffer.from(x.buffer);

function gradients(step: number, dtype: "f32" | "bf16", beside: boolean): Tensor[] {
  const total = sizes.reduce((sum, size) => sum + size, 0);
  const all = randn([total], { seed: 2, name: `gradients ${step}`, dtype });
  let start = 0;
  return sizes.map((size) => {
    start += size;
    const view = all.slice(0, start - size, start);
    return beside ? view : view.clone();
  });
}

describe.each(Object.keys(rules) as (keyof typeof rules)[])("%s", (rule) => {
  test.each(["f32", "bf16"] as const)("together as apart, %s gradients, bit for bit", (dtype) => {
    const want = run({ device: "cuda", rule, dtype, apart: true });
    for (const beside of [false, true]) {
      const got = run({ device: "cuda", rule, dtype, beside });
      expect(Buffer.compare(bytes(got.parameters), bytes(want.parameters))).toBe(0);
      expect(Buffer.compare(bytes(got.moments), bytes(want.moments))).toBe(0);
    }
  });

  test("as on the CPU", () => {
    const want = run({ device: "cpu", rule });
    const got = run({ device: "cuda", rule });
    for (const kind of ["parameters", "moments"] as const) {
      expect(got[kind]).toHaveLength(want[kind].length);
      const apart = want[kind].map((x, i) => Math.abs(got[kind][i]! - x) / (1e-3 + Math.abs(x)));
      expect(apart.every((distance) => distance < 2e-4)).toBe(true);
    }
  });
});

test("launches grow with 48 tensors, not with one", () => {
  onGpu(() =>
    scope(() => {
      const named = sizes.map((size, i): [string, Tensor] => [`${i}`, full([size], 1)]);
      const optimizer = makeOptimizer(new Map(named), { name: "adamw", lr: 1e-3 });
      live.push(optimizer);
      const grads = new Gradients(new Map(named.map(([, x]) => [x, full(x.shape, 1)])));
      optimizer.step(grads);
      const before = gpuFacts().launches;
      optimizer.step(grads);
      // Squares: two for 120 tensors each, and one for the total. Factor: 1. Update: 2 for 96
      // tensors and 1 for 34.
      expect(gpuFacts().launches - before).toBe(5 + 1 + 3);
    }),
  );
});

test("nothing is changed where a gradient has a wrong shape or dtype", () => {
  onGpu(() =>
    scope(() => {
      const [a, b] = [full([3], 1), full([4], 1)];
      const optimizer = makeOptimizer(new Map(Object.entries({ a, b })), { name: "sgd", lr: 1 });
      live.push(optimizer);
      const step = (x: Tensor, y: Tensor) => () =>
        optimizer.step(
          new Gradients(
            new Map([
              [a, x],
              [b, y],
            ]),
          ),
        );
      expect(step(full([3], 1), full([3], 1))).toThrow("gradient has shape [3], expected [4]");
      expect(step(full([3], 1), full([4], 1, "bf16"))).toThrow("bf16");
      expect([...a.dataSync(), ...b.dataSync()]).toEqual(Array.from({ length: 7 }, () => 1));
    }),
  );
});

test("sums of squares of more parts than a block has threads miss none", () => {
  onGpu(() =>
    scope(() => {
      // 32 parts of 4096 elements a thread, 256 threads, and a rest.
      const count = 32 * 4096 * 256 + 4096 * 33 + 5;
      const x = full([count], 1);
      const y = full([7], 2);
      const handles = [x, y].map(({ handle }) => handle);
      const status = noGrad(() => {
        putInts(handles);
        return native().xl_global_sum_squares(handles.length);
      });
      const rows = [...result(status, "squares").dataSync()];
      expect(rows).toEqual([count, 0, 28, 0, count + 28, 0]);
    }),
  );
});
