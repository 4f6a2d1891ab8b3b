// Gradients of the tape against central differences of the values, both in f64.

import { errorFloor, relativeError } from "../../lib/verify/report.ts";
import {
  add,
  cast,
  mul,
  noGrad,
  requireGrad,
  scope,
  sum,
  type Tensor,
  tensor,
} from "../../lib/tensor/index.ts";
import { Random, sizeOf } from "./random.ts";

/** An input of a function, outside of native memory so that it can be nudged. */
export interface Values {
  readonly shape: readonly number[];
  readonly data: Float64Array;
}

export type Outputs = Tensor | readonly (Tensor | undefined)[];
export type Function = (...inputs: Tensor[]) => Outputs;

/** Where inputs are drawn from. */
export type Domain =
  | "normal"
  /** U(0.5, 2): for logarithms, roots and denominators. */
  | "positive"
  /** Whole multiples of 1/16: sums of a few are exact in f32 and bf16. */
  | "dyadic";

export function draw(shape: readonly number[], domain: Domain, random: Random): Values {
  const one = {
    normal: () => random.normal(),
    positive: () => 0.5 + 1.5 * random.next(),
    dyadic: () => (random.below(64) - 32) / 16,
  }[domain];
  return { shape, data: Float64Array.from({ length: sizeOf(shape) }, one) };
}

/** To the nearest value, ties to even. */
export function roundToBf16(x: number): number {
  const bits = new Uint32Array(new Float32Array([x]).buffer);
  bits[0] = (bits[0]! + 0x7fff + ((bits[0]! >>> 16) & 1)) & 0xffff0000;
  return new Float32Array(bits.buffer)[0]!;
}

/**
 * Σ ⟨w, y⟩ over all outputs y, w fixed random numbers: one number that depends on every element.
 */
function objective(outputs: Outputs): Tensor {
  const list = Array.isArray(outputs) ? outputs : [outputs];
  const random = new Random(99);
  let total: Tensor | undefined;
  for (const output of list as (Tensor | undefined)[]) {
    if (!output) continue;
    const data = random.normals(output.size);
    // Values and states of one function may be bf16 and f32.
    const wide = output.dtype === "bf16" ? cast(output, "f32") : output;
    const weight = tensor(data, { shape: output.shape, dtype: wide.dtype });
    const part = sum(mul(wide, weight));
    total = total ? add(total, part) : part;
  }
  if (!total) throw new Error("the function returned no tensor");
  return total;
}

/** Gradients of the objective by every input, by the tape; zeros where none arrives. */
export function tapeGradients(
  f: Function,
  inputs: readonly Values[],
  dtype: "f64" | "f32" | "bf16" = "f64",
): Float64Array[] {
  return scope(() => {
    const leaves = inputs.map(({ data, shape }) => requireGrad(tensor(data, { shape, dtype })));
    const grads = objective(f(...leaves)).backward();
    return leaves.map((leaf) => {
      const grad = grads.get(leaf);
      if (!grad) return new Float64Array(leaf.size);
      // Gradients of what is summed over tokens (weights, scales) are f32 beside bf16.
      const isWide = leaf.dtype === "bf16" && grad.dtype === "f32";
      if (grad.shape.join() !== leaf.shape.join() || (grad.dtype !== leaf.dtype && !isWide)) {
        throw new Error(
          `a gradient is ${grad.dtype}[${grad.shape}], its leaf ${leaf.dtype}[${leaf.shape}]`,
        );
      }
      return Float64Array.from(grad.dataSync());
    });
  });
}

/** Values of every output. */
export function values(
  f: Function,
  inputs: readonly Values[],
  dtype: "f64" | "f32" | "bf16",
): Float64Array[] {
  return noGrad(() =>
    scope(() => {
      const outputs = f(...inputs.map(({ data, shape }) => tensor(data, { shape, dtype })));
      const list = (Array.isArray(outputs) ? outputs : [outputs]) as (Tensor | undefined)[];
      return list.flatMap((output) => (output ? [Float64Array.from(output.dataSync())] : []));
    }),
  );
}

/** The same by (L(x + step) − L(x − step)) / 2 step, one element at a time, without the tape. */
export function differences(f: Function, inputs: readonly Values[], step = 1e-5): Float64Array[] {
  const value = () =>
    noGrad(() =>
      scope(() => objective(f(...inputs.map(({ data, shape }) => tensor(data, { shape })))).item()),
    );
  return inputs.map(({ data }) =>
    data.map((x, i) => {
      data[i] = x + step;
      const above = value();
      data[i] = x - step;
      const below = value();
      data[i] = x;
      return (above - below) / (2 * step);
    }),
  );
}

/**
 * Relative error of each gradient; no denominator is below a thousandth of the norm of all wanted
 * gradients together, since a gradient that nearly cancels has only rounding in it.
 */
export function gradientErrors(
  got: readonly Float64Array[],
  want: readonly Float64Array[],
): number[] {
  const floor = errorFloor(new Map(want.map((gradient, i) => [String(i), gradient])));
  return got.map((gradient, i) => relativeError(gradient, want[i]!, floor));
}
